//! The best codes along the trellis of T3 (`mote_runtime::image::tensors`): Viterbi's algorithm around a ring of 16 rows.
//!
//! A row's state is the lowest bits of the two codes before. There are four sets of levels, and the state and the lowest bit of a row's
//! code pick one: 2 * the bit of the row before + (the own bit ^ that of two rows before). The code's other bits say which level of the
//! set. Of each set of four only the nearest level matters. Trellis-coded quantization is Marcellin and Fischer's (1990), its code of
//! four states Ungerboeck's (1982); QTIP (arXiv 2406.11235) brought it to language models. Rings ("tail-biting") lose nothing at the
//! ends; all four states are tried to begin with.

use super::book::{PLACES, place, table};
use mote_runtime::image::tensors::BLOCK;

const STATES: usize = 4;

/// Levels of a set.
const LEVELS: usize = 4;

/// Levels by sets, and the nearest of each set.
#[derive(Clone, Debug)]
pub(super) struct Trellis {
    book: [i8; 16],
    sets: [[f32; LEVELS]; 4],
    /// At each place of a table.
    nearest: Box<[[u8; 4]; PLACES]>,
}

impl Trellis {
    /// Codes with this book, set by set.
    pub(super) fn new(book: [i8; 16]) -> Self {
        let sets = [0, 1, 2, 3].map(|set| core::array::from_fn(|pick| f32::from(book[LEVELS * set + pick])));
        let tables = sets.map(|set: [f32; LEVELS]| table(&set));
        let mut nearest = Box::new([[0; 4]; PLACES]);
        nearest.iter_mut().enumerate().for_each(|(at, sets)| *sets = [0, 1, 2, 3].map(|set: usize| tables[set][at]));
        Self { book, sets, nearest }
    }

    /// As the image stores it.
    pub(super) fn book(&self) -> [i8; 16] {
        self.book
    }

    /// See `Codebook::column`.
    pub(super) fn column(&self, targets: &[f32; BLOCK], weights: &[f32; BLOCK]) -> ([u8; BLOCK], [f32; BLOCK]) {
        let level = |set: usize, pick: u8| self.sets[set][usize::from(pick) % LEVELS];
        // Of each row and set: which level, and what it costs.
        let places = targets.map(place);
        let mut picks = [[0u8; 4]; BLOCK];
        let mut costs = [[0f32; 4]; BLOCK];
        for row in 0..BLOCK {
            picks[row] = self.nearest[places[row] % PLACES];
            for set in 0..4 {
                let lost = targets[row] - level(set, picks[row][set]);
                costs[row][set] = weights[row] * (lost * lost);
            }
        }
        // What it costs to be in each state (2 * the bit before that + the bit before), by the state that it began with. The ways into
        // `state` are from `state / 2`, and, the older bit being set, from that and 2.
        let mut reached = [[[f32::INFINITY; STATES]; STATES]; BLOCK + 1];
        (0..STATES).for_each(|s| reached[0][s][s] = 0.0);
        for row in 0..BLOCK {
            let [zero, one, two, three] = reached[row];
            let cost = costs[row];
            reached[row + 1] = [
                lesser(plus(two, cost[1]), plus(zero, cost[0])),
                lesser(plus(two, cost[0]), plus(zero, cost[1])),
                lesser(plus(three, cost[3]), plus(one, cost[2])),
                lesser(plus(three, cost[2]), plus(one, cost[3])),
            ];
        }
        let all = &reached[BLOCK];
        let began = (0..STATES).min_by(|a, b| all[*a][*a].total_cmp(&all[*b][*b])).unwrap_or(0);
        // A bit for each state: whether the better way into it is from the one with the older bit set.
        let mut from = [0u8; BLOCK];
        for row in 0..BLOCK {
            for state in 0..STATES {
                let (bit, before) = (state & 1, state >> 1);
                let way =
                    |older: usize| reached[row][2 * older + before][began] + costs[row][2 * before + (bit ^ older)];
                from[row] |= u8::from(way(1) < way(0)) << state;
            }
        }
        let mut states = [began; BLOCK + 1];
        for row in (0..BLOCK).rev() {
            let state = states[row + 1];
            states[row] = 2 * usize::from(from[row] >> state & 1) + (state >> 1);
        }
        let (mut codes, mut levels) = ([0; BLOCK], [0.0; BLOCK]);
        for row in 0..BLOCK {
            let (bit, before, older) = (states[row + 1] & 1, states[row + 1] >> 1, states[row] >> 1);
            let set = 2 * before + (bit ^ older);
            codes[row] = 2 * picks[row][set] + bit as u8;
            levels[row] = level(set, picks[row][set]);
        }
        (codes, levels)
    }

    /// For each code of a column of a block, which of the book it stands for.
    pub(super) fn levels_of(&self, codes: &[u8; BLOCK]) -> [usize; BLOCK] {
        let bit = |row: usize, before: usize| usize::from(codes[(row + BLOCK - before) % BLOCK] & 1);
        let set = |row: usize| 2 * bit(row, 1) + (bit(row, 0) ^ bit(row, 2));
        core::array::from_fn(|row| LEVELS * set(row) + usize::from(codes[row] >> 1))
    }
}

/// What is reached from a state, by the state that the ring began with: four numbers are a vector on every machine.
type Reached = [f32; STATES];

#[inline(always)]
fn plus(reached: Reached, cost: f32) -> Reached {
    [reached[0] + cost, reached[1] + cost, reached[2] + cost, reached[3] + cost]
}

#[inline(always)]
fn lesser(a: Reached, b: Reached) -> Reached {
    let of = |at: usize| if a[at] < b[at] { a[at] } else { b[at] };
    [of(0), of(1), of(2), of(3)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_other_codes_are_nearer() {
        let book = [-125, -37, 6, 53, -70, -16, 27, 93, -93, -27, 16, 70, -53, -6, 37, 126];
        // Sets of levels by the bit of the row before and by whether the own bit and that of two rows before differ.
        let sets = [0, 1].map(|bit| [0, 1].map(|parity| book.map(f32::from)[8 * bit + 4 * parity..][..4].to_vec()));
        let trellis = Trellis::new(book);
        let mut seed = 5u64;
        let mut uniform = |span: f32| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((seed >> 40) as f32 / (1u64 << 23) as f32 - 1.0) * span
        };
        for _ in 0..12 {
            let targets: [f32; BLOCK] = core::array::from_fn(|_| uniform(130.0));
            let weights: [f32; BLOCK] = core::array::from_fn(|row| if row == 3 { 0.0 } else { 0.2 + uniform(0.1) });
            let (codes, found) = trellis.column(&targets, &weights);
            assert!(codes.iter().all(|code| *code < 8));
            assert_eq!(found, trellis.levels_of(&codes).map(|k| f32::from(book[k])));
            let nearest = |x: f32, set: &[f32]| {
                set.iter().copied().min_by(|a, b| (a - x).abs().total_cmp(&(b - x).abs())).unwrap_or(0.0)
            };
            let cost = |levels: &[f32; BLOCK]| -> f32 {
                targets.iter().zip(levels).zip(&weights).map(|((x, l), w)| w * (x - l).powi(2)).sum()
            };
            let best_of = targets.map(|x| [0, 1].map(|bit| [0, 1].map(|parity| nearest(x, &sets[bit][parity]))));
            // The lowest bits of all codes decide which set each level is of: 2^16 ways, the best level of each set.
            let best = (0..1u32 << BLOCK).map(|ways| {
                let bit = |row: usize, before: usize| (ways >> ((row + BLOCK - before) % BLOCK) & 1) as usize;
                cost(&core::array::from_fn(|row| best_of[row][bit(row, 1)][bit(row, 0) ^ bit(row, 2)]))
            });
            let best = best.fold(f32::INFINITY, f32::min);
            // The table of the nearest is in steps of 1/8: halfway between two levels it may take the other.
            assert!(cost(&found) <= best * 1.001, "{} and {best}", cost(&found));
        }
    }
}

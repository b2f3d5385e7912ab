//! The best codes along the trellis of T3 and T4 (`mote_runtime::image::tensors`): Viterbi's algorithm around a ring of 16 rows.
//!
//! A row's state is the lowest bits of the two codes before. There are four sets of levels, and the state and the lowest bit of a row's
//! code pick one: 2 * the bit of the row before + (the own bit ^ that of two rows before). The code's other bits say which level of the
//! set. T3 has four sets of four levels, T4 four of eight: every other one of its book, or the same negated. Of each set only the
//! nearest level matters. Trellis-coded quantization is Marcellin and Fischer's (1990), its code of
//! four states Ungerboeck's (1982); QTIP (arXiv 2406.11235) brought it to language models. Rings ("tail-biting") lose nothing at the
//! ends; all four states are tried to begin with.

use super::book::{place, table};
use mote_runtime::image::tensors::BLOCK;

const STATES: usize = 4;

/// Levels by sets, and the nearest of each set.
#[derive(Clone, Debug)]
pub(super) struct Trellis {
    book: [i8; 16],
    sets: [Vec<f32>; 4],
    nearest: [Vec<u8>; 4],
    bits: u8,
}

/// Where code `2 * pick`, or the next, of set `set` has its level in the book of codes of so many bits, and whether negated.
fn level_at(bits: u8, set: usize, pick: usize) -> (usize, bool) {
    if bits == 3 { (4 * set + pick, false) } else { (2 * pick + set % 2, set / 2 == 1) }
}

impl Trellis {
    /// Codes of 3 or 4 bits with this book.
    pub(super) fn new(book: [i8; 16], bits: u8) -> Self {
        let level = |set: usize, pick: usize| {
            let (at, negative) = level_at(bits, set, pick);
            f32::from(book[at]) * if negative { -1.0 } else { 1.0 }
        };
        let sets = [0, 1, 2, 3].map(|set| (0..1 << (bits - 1)).map(|pick| level(set, pick)).collect::<Vec<f32>>());
        let nearest = [0, 1, 2, 3].map(|set: usize| table(&sets[set]));
        Self { book, sets, nearest, bits }
    }

    /// As the image stores it.
    pub(super) fn book(&self) -> [i8; 16] {
        self.book
    }

    /// See `Codebook::column`.
    pub(super) fn column(&self, targets: &[f32; BLOCK], weights: &[f32; BLOCK]) -> ([u8; BLOCK], [f32; BLOCK]) {
        // Of each row and set: which level, and what it costs.
        let mut picks = [[0u8; 4]; BLOCK];
        let mut costs = [[0f32; 4]; BLOCK];
        for ((x, weight), (picks, costs)) in targets.iter().zip(weights).zip(picks.iter_mut().zip(&mut costs)) {
            let at = place(*x);
            for (set, (pick, cost)) in picks.iter_mut().zip(costs).enumerate() {
                *pick = self.nearest[set][at];
                *cost = weight * (x - self.sets[set][usize::from(*pick)]).powi(2);
            }
        }
        // By state (2 * the bit before that + the bit before) and by the state that it began with.
        let mut reached = [[f32::INFINITY; STATES]; STATES];
        (0..STATES).for_each(|s| reached[s][s] = 0.0);
        // Whether the better way into a state is from the one with the older bit set.
        let mut from = [[[false; STATES]; STATES]; BLOCK];
        for (costs, from) in costs.iter().zip(&mut from) {
            let mut next = [[0f32; STATES]; STATES];
            for state in 0..STATES {
                let (bit, before) = (state & 1, state >> 1);
                for began in 0..STATES {
                    let way = |older: usize| reached[2 * older + before][began] + costs[2 * before + (bit ^ older)];
                    let (low, high) = (way(0), way(1));
                    from[state][began] = high < low;
                    next[state][began] = low.min(high);
                }
            }
            reached = next;
        }
        let began = (0..STATES).min_by(|a, b| reached[*a][*a].total_cmp(&reached[*b][*b])).unwrap_or(0);
        let (mut codes, mut levels) = ([0; BLOCK], [0.0; BLOCK]);
        let mut state = began;
        for row in (0..BLOCK).rev() {
            let (bit, before, older) = (state & 1, state >> 1, usize::from(from[row][state][began]));
            let set = 2 * before + (bit ^ older);
            let pick = picks[row][set];
            codes[row] = 2 * pick + bit as u8;
            levels[row] = self.sets[set][usize::from(pick)];
            state = 2 * older + before;
        }
        (codes, levels)
    }

    /// For each code of a column of a block, which of the book it stands for, and whether negated.
    pub(super) fn levels_of(&self, codes: &[u8; BLOCK]) -> [(usize, bool); BLOCK] {
        let bit = |row: usize, before: usize| usize::from(codes[(row + BLOCK - before) % BLOCK] & 1);
        let set = |row: usize| 2 * bit(row, 1) + (bit(row, 0) ^ bit(row, 2));
        core::array::from_fn(|row| level_at(self.bits, set(row), usize::from(codes[row] >> 1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_other_codes_are_nearer() {
        let four = [-127, -91, -69, -53, -40, -28, -17, -7, 3, 13, 24, 35, 48, 62, 81, 115];
        let three = [-125, -37, 6, 53, -70, -16, 27, 93, -93, -27, 16, 70, -53, -6, 37, 126];
        // Sets of levels by the bit of the row before and by whether the own bit and that of two rows before differ.
        let set_of_four = |bit: usize, parity: usize| -> Vec<f32> {
            let level = |k: usize| f32::from(four[k]) * [1.0, -1.0][bit];
            (0..16).filter(|k| k % 2 == parity).map(level).collect()
        };
        let set_of_three = |bit: usize, parity: usize| -> Vec<f32> {
            three[8 * bit + 4 * parity..][..4].iter().map(|l| f32::from(*l)).collect()
        };
        let sets = |of: &dyn Fn(usize, usize) -> Vec<f32>| [0, 1].map(|bit| [0, 1].map(|parity| of(bit, parity)));
        for (bits, book, sets) in [(4, four, sets(&set_of_four)), (3, three, sets(&set_of_three))] {
            let trellis = Trellis::new(book, bits);
            let mut seed = 5u64;
            let mut uniform = |span: f32| {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                ((seed >> 40) as f32 / (1u64 << 23) as f32 - 1.0) * span
            };
            for _ in 0..12 {
                let targets: [f32; BLOCK] = core::array::from_fn(|_| uniform(130.0));
                let weights: [f32; BLOCK] = core::array::from_fn(|row| if row == 3 { 0.0 } else { 0.2 + uniform(0.1) });
                let (codes, found) = trellis.column(&targets, &weights);
                assert!(codes.iter().all(|code| *code < 1 << bits));
                let signed = |(k, negative): (usize, bool)| f32::from(book[k]) * if negative { -1.0 } else { 1.0 };
                assert_eq!(found, trellis.levels_of(&codes).map(signed));
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
                assert!(cost(&found) <= best * 1.001, "{bits} bits: {} and {best}", cost(&found));
            }
        }
    }
}

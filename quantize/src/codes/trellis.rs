//! The best codes along T4's trellis (`mote_runtime::image::tensors`): Viterbi's algorithm around a ring of 16 rows.
//!
//! A row's state is the lowest bits of the two codes before: the nearer one's negates, the other one's turns the lowest bit of which
//! level the code stands for. So a row has four sets of eight levels, by sign and parity, of which its state and the lowest bit of its
//! code pick one; of each set only the nearest level matters. Trellis-coded quantization is Marcellin and Fischer's (1990), its code of
//! four states Ungerboeck's (1982); QTIP (arXiv 2406.11235) brought it to language models. Rings ("tail-biting") lose nothing at the
//! ends; all four states are tried to begin with.

use super::book::{place, table};
use mote_runtime::image::tensors::BLOCK;

const STATES: usize = 4;

/// Levels, and the nearest of each set.
#[derive(Clone, Debug)]
pub(super) struct Trellis {
    levels: [i8; 16],
    /// By sign and parity: which of the levels.
    nearest: [[Vec<u8>; 2]; 2],
}

impl Trellis {
    pub(super) fn new(levels: [i8; 16]) -> Self {
        let set = |sign: f32, parity: u8| table(&levels.map(|l| sign * f32::from(l)), |k| k & 1 == parity);
        Self { levels, nearest: [1.0, -1.0].map(|sign| [0, 1].map(|parity| set(sign, parity))) }
    }

    pub(super) fn levels(&self) -> [i8; 16] {
        self.levels
    }

    /// See `Codebook::column`.
    pub(super) fn column(&self, targets: &[f32; BLOCK], weights: &[f32; BLOCK]) -> ([u8; BLOCK], [f32; BLOCK]) {
        // Of each row and set, by 2 * sign + parity: which level, and what it costs.
        let mut picks = [[0u8; 4]; BLOCK];
        let mut costs = [[0f32; 4]; BLOCK];
        for ((x, weight), (picks, costs)) in targets.iter().zip(weights).zip(picks.iter_mut().zip(&mut costs)) {
            let at = place(*x);
            for (set, (pick, cost)) in picks.iter_mut().zip(costs).enumerate() {
                *pick = self.nearest[set / 2][set % 2][at];
                *cost = weight * (x - self.level(set / 2, *pick)).powi(2);
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
                    // From (older, before) by `bit`: the set of sign `before` and parity `bit ^ older`.
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
            let pick = picks[row][2 * before + (bit ^ older)];
            codes[row] = pick ^ older as u8;
            levels[row] = self.level(before, pick);
            state = 2 * older + before;
        }
        (codes, levels)
    }

    fn level(&self, sign: usize, pick: u8) -> f32 {
        let level = f32::from(self.levels[usize::from(pick)]);
        if sign == 1 { -level } else { level }
    }
}

/// For each code of a column of a block, which level it stands for, and whether negated.
pub(super) fn levels_of(codes: &[u8; BLOCK]) -> [(usize, bool); BLOCK] {
    let before = |row: usize, rows: usize| codes[(row + BLOCK - rows) % BLOCK] & 1;
    core::array::from_fn(|row| (usize::from(codes[row] ^ before(row, 2)), before(row, 1) == 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_other_codes_are_nearer() {
        let levels = [-127, -91, -69, -53, -40, -28, -17, -7, 3, 13, 24, 35, 48, 62, 81, 115];
        let trellis = Trellis::new(levels);
        let mut seed = 5u64;
        let mut uniform = |span: f32| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((seed >> 40) as f32 / (1u64 << 23) as f32 - 1.0) * span
        };
        for _ in 0..20 {
            let targets: [f32; BLOCK] = core::array::from_fn(|_| uniform(130.0));
            let weights: [f32; BLOCK] = core::array::from_fn(|row| if row == 3 { 0.0 } else { 0.2 + uniform(0.1) });
            let (codes, found) = trellis.column(&targets, &weights);
            let expected =
                levels_of(&codes).map(|(k, negative)| f32::from(levels[k]) * if negative { -1.0 } else { 1.0 });
            assert_eq!(found, expected);
            let cost = |levels: &[f32; BLOCK]| -> f32 {
                targets.iter().zip(levels).zip(&weights).map(|((x, l), w)| w * (x - l).powi(2)).sum()
            };
            // The lowest bits of all codes decide which set each level is of: 2^16 ways, the best level of each set.
            let best = (0..1u32 << BLOCK).map(|bits| {
                let bit = |row: usize, before: usize| (bits >> ((row + BLOCK - before) % BLOCK) & 1) as usize;
                let of_set = |row: usize| {
                    let set = levels.iter().enumerate().filter(|(k, _)| k & 1 == bit(row, 0) ^ bit(row, 2));
                    let signed = set.map(|(_, l)| f32::from(*l) * if bit(row, 1) == 1 { -1.0 } else { 1.0 });
                    signed.min_by(|a, b| (a - targets[row]).abs().total_cmp(&(b - targets[row]).abs())).unwrap_or(0.0)
                };
                cost(&core::array::from_fn(of_set))
            });
            let best = best.fold(f32::INFINITY, f32::min);
            // The table of the nearest is in steps of 1/8: halfway between two levels it may take the other.
            assert!(cost(&found) <= best * 1.001, "{} and {best}", cost(&found));
        }
    }
}

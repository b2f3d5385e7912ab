//! Choosing the next token: integer arithmetic and a fixed generator, so that a seed gives the same text everywhere.
//!
//! ```text
//! penalty      logits of recent tokens: positive ones / penalty, negative ones * penalty, each token once
//! temperature  e[i] = 2^((logit[i] - max) * log2(e) / temperature), Q30
//! top-k        the k largest logits stay
//! top-p        of those, the fewest that hold p of their mass stay
//! min-p        of those, the ones with e[i] >= p * 2^30 stay
//! draw         a number below the mass that stays, walked off in the order of ids
//! ```
//!
//! The order is Hugging Face's. Among equal logits the lower id comes first. No buffer and no sorting: a cut is a
//! logit, found by bisection with a counting pass over the vocabulary a bit.

use crate::fixed::exp::exp2_neg_q16;
use crate::fixed::prng::Pcg32;
use crate::fixed::{saturate, shift_round};

/// How to choose. Fractions are in Q16 (65536 is 1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Params {
    /// Temperature in Q16; 0 is greedy.
    pub temperature: u32,
    /// Keep this many of the most likely tokens; 0 keeps all.
    pub top_k: u32,
    /// Keep the fewest tokens that hold this share of the mass; 65536 keeps all.
    pub top_p: u32,
    /// Keep tokens at least this likely relative to the most likely one; 0 keeps all.
    pub min_p: u32,
    /// Divides the logits of recent tokens; 65536 leaves them.
    pub repeat_penalty: u32,
    /// How many tokens are recent.
    pub repeat_last: u32,
}

/// One in Q16.
pub const ONE: u32 = 1 << 16;

impl Params {
    /// The most likely token, always.
    pub const GREEDY: Self =
        Self { temperature: 0, top_k: 0, top_p: ONE, min_p: 0, repeat_penalty: ONE, repeat_last: 64 };
}

/// log2(e) in Q30.
const LOG2_E: u64 = 1_549_082_005;

/// Chooses tokens.
#[derive(Clone, Debug)]
pub struct Sampler {
    params: Params,
    rng: Pcg32,
}

/// Logits above `level` stay, and of those equal to it the first `ties`.
#[derive(Clone, Copy)]
struct Cut {
    level: i32,
    ties: u64,
}

impl Sampler {
    /// A sampler that draws from this seed.
    #[must_use]
    pub fn new(params: Params, seed: u64) -> Self {
        Self { params, rng: Pcg32::new(seed) }
    }

    /// Chooses a token. `logits` are fixed point with `frac_bits` fraction bits and are changed by the penalty;
    /// `history` are the tokens so far, of which the last few count as recent. Returns 0 for no logits.
    pub fn sample(&mut self, logits: &mut [i32], frac_bits: u32, history: &[u32]) -> u32 {
        self.penalize(logits, history);
        let top = logits.iter().copied().max().unwrap_or(0);
        if self.params.temperature == 0 {
            return logits.iter().position(|l| *l == top).unwrap_or(0) as u32;
        }
        // (top - logit) * log2(e) / temperature, to Q16: the factor is log2(e) / temperature in Q24, which holds
        // temperatures down to 2^-16.
        let factor = (LOG2_E << 10).checked_div(u64::from(self.params.temperature)).unwrap_or(0);
        let weight = |logit: i32| {
            let below = u64::from(top.wrapping_sub(logit) as u32);
            let product = u128::from(below) * u128::from(factor);
            let d = product.checked_shr(frac_bits.saturating_add(8)).unwrap_or(0);
            u64::from(exp2_neg_q16(u32::try_from(d).unwrap_or(u32::MAX)))
        };
        let mut cut = Cut { level: i32::MIN, ties: u64::MAX };
        if self.params.top_k > 0 {
            cut = find_cut(logits, cut, u64::from(self.params.top_k), |_| 1);
        }
        if self.params.top_p < ONE {
            let mass = total(logits, cut, weight);
            let target = ((u128::from(mass) * u128::from(self.params.top_p)) >> 16) as u64;
            cut = find_cut(logits, cut, target.max(1), weight);
        }
        let floor = u64::from(self.params.min_p.min(ONE)) << 14;
        let kept = |logit: i32| Some(weight(logit)).filter(|w| *w >= floor).unwrap_or(0);
        let mass = total(logits, cut, kept);
        let mut left = self.rng.below(mass.max(1));
        let mut ties = cut.ties;
        for (logit, id) in logits.iter().zip(0u32..) {
            if !stays(*logit, cut, &mut ties) {
                continue;
            }
            let w = kept(*logit);
            if left < w {
                return id;
            }
            left -= w;
        }
        0
    }

    fn penalize(&self, logits: &mut [i32], history: &[u32]) {
        let penalty = i64::from(self.params.repeat_penalty.max(1));
        if penalty == i64::from(ONE) {
            return;
        }
        let before = history.len().saturating_sub(self.params.repeat_last as usize);
        let history = history.get(before..).unwrap_or(&[]);
        for (i, id) in history.iter().enumerate() {
            if history.iter().take(i).any(|earlier| earlier == id) {
                continue;
            }
            if let Some(logit) = logits.get_mut(*id as usize) {
                let l = i64::from(*logit);
                let changed =
                    if l > 0 { (l << 16).checked_div(penalty).unwrap_or(l) } else { shift_round(l * penalty, 16) };
                *logit = saturate(changed);
            }
        }
    }
}

fn stays(logit: i32, cut: Cut, ties: &mut u64) -> bool {
    if logit != cut.level {
        return logit > cut.level;
    }
    let stays = *ties > 0;
    *ties = ties.saturating_sub(1);
    stays
}

fn total(logits: &[i32], cut: Cut, weight: impl Fn(i32) -> u64) -> u64 {
    let mut ties = cut.ties;
    logits.iter().filter(|l| stays(**l, cut, &mut ties)).map(|l| weight(*l)).sum()
}

/// The smallest cut within `outer` whose weights sum to at least `target`; `outer` if they never do.
fn find_cut(logits: &[i32], outer: Cut, target: u64, weight: impl Fn(i32) -> u64) -> Cut {
    let from = |level: i32| {
        total(logits, Cut { level, ties: if level == outer.level { outer.ties } else { u64::MAX } }, &weight)
    };
    if from(outer.level) < target {
        return outer;
    }
    // Largest level whose tail still reaches the target.
    let (mut low, mut high) = (i64::from(outer.level), i64::from(i32::MAX));
    while low < high {
        let middle = low + (high - low + 1) / 2;
        if from(middle as i32) >= target { low = middle } else { high = middle - 1 }
    }
    let level = low as i32;
    let above = total(logits, Cut { level, ties: 0 }, &weight);
    let ties = target.saturating_sub(above).div_ceil(weight(level).max(1));
    Cut { level, ties: if level == outer.level { ties.min(outer.ties) } else { ties } }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAC: u32 = 16;

    fn logits() -> Vec<i32> {
        (0..50).map(|i: i32| ((f64::from(i) * 0.7).sin() * 3.0 * 65536.0) as i32).collect()
    }

    fn probabilities(temperature: f64, keep: impl Fn(&[f64], usize) -> bool) -> Vec<f64> {
        let e: Vec<f64> = logits().iter().map(|l| (f64::from(*l) / 65536.0 / temperature).exp()).collect();
        let kept: Vec<f64> = (0..e.len()).map(|i| if keep(&e, i) { e[i] } else { 0.0 }).collect();
        let sum: f64 = kept.iter().sum();
        kept.iter().map(|k| k / sum).collect()
    }

    /// Draws against the exact distribution: chi-square over 200 000 draws, one part in 10^6 to fail by chance.
    fn check(params: Params, expected: &[f64]) {
        let mut sampler = Sampler::new(params, 5);
        let mut counts = vec![0f64; expected.len()];
        let draws = 200_000;
        for _ in 0..draws {
            counts[sampler.sample(&mut logits(), FRAC, &[]) as usize] += 1.0;
        }
        let (mut chi, mut freedom) = (0.0, -1.0);
        for (count, p) in counts.iter().zip(expected) {
            if *p == 0.0 {
                assert_eq!(*count, 0.0);
                continue;
            }
            let mean = p * f64::from(draws);
            chi += (count - mean).powi(2) / mean;
            freedom += 1.0;
        }
        assert!(chi < freedom + 7.0 * (2.0f64 * freedom).sqrt() + 10.0, "chi {chi}, {freedom} degrees");
    }

    fn q16(x: f64) -> u32 {
        (x * 65536.0).round() as u32
    }

    fn rank(e: &[f64], i: usize) -> usize {
        (0..e.len()).filter(|j| e[*j] > e[i] || e[*j] == e[i] && *j < i).count()
    }

    #[test]
    fn distributions() {
        let base = Params { temperature: ONE, ..Params::GREEDY };
        check(base, &probabilities(1.0, |_, _| true));
        check(Params { temperature: q16(0.5), ..base }, &probabilities(0.5, |_, _| true));
        check(Params { top_k: 7, ..base }, &probabilities(1.0, |e, i| rank(e, i) < 7));
        let held = |e: &[f64], i: usize, share: f64| {
            let before: f64 = (0..e.len()).filter(|j| rank(e, *j) < rank(e, i)).map(|j| e[j]).sum();
            before < share * e.iter().sum::<f64>()
        };
        check(Params { top_p: q16(0.6), ..base }, &probabilities(1.0, |e, i| held(e, i, 0.6)));
        let top = |e: &[f64]| e.iter().copied().fold(0.0, f64::max);
        check(Params { min_p: q16(0.2), ..base }, &probabilities(1.0, |e, i| e[i] >= 0.2 * top(e)));
    }

    #[test]
    fn greedy_ties_and_one_of_k() {
        let mut sampler = Sampler::new(Params::GREEDY, 0);
        assert_eq!(sampler.sample(&mut [1, 5, 5, 2], FRAC, &[]), 1);
        assert_eq!(sampler.sample(&mut [], FRAC, &[]), 0);
        let mut one = Sampler::new(Params { temperature: 3 * ONE, top_k: 1, ..Params::GREEDY }, 1);
        for _ in 0..100 {
            assert_eq!(one.sample(&mut [7, 7, 7, 3], FRAC, &[]), 0);
        }
        let mut two = Sampler::new(Params { temperature: ONE, top_k: 2, ..Params::GREEDY }, 1);
        let drawn: Vec<u32> = (0..200).map(|_| two.sample(&mut [7, 7, 7, 3], FRAC, &[])).collect();
        assert!(drawn.contains(&0) && drawn.contains(&1) && !drawn.contains(&2) && !drawn.contains(&3));
    }

    #[test]
    fn penalty_applies_once() {
        let mut sampler = Sampler::new(Params { repeat_penalty: 2 * ONE, ..Params::GREEDY }, 0);
        let mut logits = [1000, 900, -300];
        assert_eq!(sampler.sample(&mut logits, FRAC, &[0, 0, 2, 99]), 1);
        assert_eq!(logits, [500, 900, -600]);
    }

    #[test]
    fn extremes_do_not_hang_or_leave_the_range() {
        for temperature in [1, ONE, u32::MAX] {
            for (top_k, top_p, min_p) in [(0, 0, 0), (u32::MAX, 1, ONE), (3, ONE, u32::MAX)] {
                let params = Params { temperature, top_k, top_p, min_p, repeat_penalty: 0, ..Params::GREEDY };
                let mut sampler = Sampler::new(params, u64::MAX);
                let mut logits = [i32::MAX, i32::MIN, 0, i32::MAX];
                assert!(sampler.sample(&mut logits, 28, &[1, 2]) < 4);
            }
        }
    }
}

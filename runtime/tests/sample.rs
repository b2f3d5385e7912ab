//! The sampler against NUMERICS.md, section 11, done the plain way: sort, cut, add up. Every draw is the same.

mod support;

use mote_runtime::fixed::exp::exp2_neg_q16;
use mote_runtime::fixed::prng::Pcg32;
use mote_runtime::sample::{ONE, Params, Sampler};
use support::Random;

fn page(params: Params, rng: &mut Pcg32, logits: &mut [i32], frac: u32, history: &[u32]) -> u32 {
    let sat = |v: i128| v.clamp(i128::from(i32::MIN), i128::from(i32::MAX)) as i32;
    let penalty = i128::from(params.repeat_penalty.max(1));
    let recent = history.iter().rev().take(params.repeat_last as usize);
    let distinct: std::collections::BTreeSet<u32> = recent.copied().collect();
    for id in distinct {
        let Some(l) = logits.get_mut(id as usize) else { continue };
        let wide = i128::from(*l);
        *l = if wide > 0 { sat((wide << 16) / penalty) } else { sat((wide * penalty + (1 << 15)) >> 16) };
    }
    let top = i128::from(*logits.iter().max().unwrap());
    if params.temperature == 0 {
        return logits.iter().position(|l| i128::from(*l) == top).unwrap() as u32;
    }
    let factor = (1_549_082_005i128 << 10) / i128::from(params.temperature);
    let weight = |l: i32| {
        let d = ((top - i128::from(l)) * factor) >> (frac + 8);
        i128::from(exp2_neg_q16(d.min(i128::from(u32::MAX)) as u32))
    };
    // Falling, lower ids first.
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by_key(|i| (std::cmp::Reverse(logits[*i]), *i));
    if params.top_k > 0 {
        order.truncate(params.top_k as usize);
    }
    if params.top_p < ONE {
        let mass: i128 = order.iter().map(|i| weight(logits[*i])).sum();
        let target = ((mass * i128::from(params.top_p)) >> 16).max(1);
        let mut held = 0;
        let enough = order.iter().position(|i| {
            held += weight(logits[*i]);
            held >= target
        });
        order.truncate(enough.unwrap() + 1);
    }
    order.retain(|i| weight(logits[*i]) >= i128::from(params.min_p.min(ONE)) << 14);
    let mass: i128 = order.iter().map(|i| weight(logits[*i])).sum();
    let mut left = i128::from(rng.below(mass.max(1) as u64));
    order.sort_unstable();
    for i in order {
        left -= weight(logits[i]);
        if left < 0 {
            return i as u32;
        }
    }
    0
}

#[test]
fn every_draw_is_the_page_s() {
    let r = &mut Random::new(1);
    for round in 0..20_000 {
        let some = |r: &mut Random, nothing: u32, high: i64| {
            if r.range(0, 2) == 0 { nothing } else { r.range(0, high) as u32 }
        };
        let params = Params {
            temperature: some(r, ONE, 200_000),
            top_k: some(r, 0, 12),
            top_p: some(r, ONE, 65_535),
            min_p: some(r, 0, 70_000),
            repeat_penalty: some(r, ONE, 150_000),
            repeat_last: r.range(0, 8) as u32,
        };
        // Few different values, so that there are ties at every cut; now and then the whole range.
        let (frac, spread) = (r.range(0, 24) as u32, r.range(1, 30));
        let step = if round % 10 == 0 { (1 << 31) / spread } else { 1 << r.range(0, 20) };
        let logits: Vec<i32> = (0..r.range(1, 40)).map(|_| (r.range(-spread, spread - 1) * step) as i32).collect();
        let history: Vec<u32> = (0..r.range(0, 6)).map(|_| r.range(0, 45) as u32).collect();
        let (mut sampler, mut rng) = (Sampler::new(params, round), Pcg32::new(round));
        for _ in 0..3 {
            let (mut a, mut b) = (logits.clone(), logits.clone());
            let expected = page(params, &mut rng, &mut b, frac, &history);
            assert_eq!(sampler.sample(&mut a, frac, &history), expected, "{params:?} {logits:?} {history:?}");
            assert_eq!(a, b);
        }
    }
}

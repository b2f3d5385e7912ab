//! The memory planner: where each slot lies in the arena, for all batch sizes, contexts and thread numbers at a time.
//!
//! ```text
//! lifetimes   slot -> stretches of ops during which its contents matter
//! conflicts   two slots that are alive at one op may not overlap
//! packing     place slots one by one at the lowest offset that conflicts with none placed before; the best of three orders
//! ```
//!
//! Sizes and offsets are vectors over `[1, batch, context, context * threads]` (`mote_runtime::image::plan`), so one slot
//! lies below another only if it does in *every* coefficient: then it does for all limits, and one plan serves all.
//! Programs without tokens have plain numbers, and slots that may overlap: [`net`].

pub mod net;
pub mod units;

use mote_runtime::image::{Limits, plan::affine};

/// What an op does with its slots.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// Slots whose contents it needs.
    pub reads: Vec<usize>,
    /// Slots it fills, whatever they held.
    pub writes: Vec<usize>,
}

/// A run of ops with a name; sessions may run any of them, any number of times, in the order of the table.
#[derive(Clone, Copy, Debug)]
pub struct Stretch {
    /// First op.
    pub first: usize,
    /// One past the last op.
    pub end: usize,
}

/// A slot's stretches of ops, first and last inclusive.
pub type Lifetime = Vec<(usize, usize)>;

/// When each slot's contents matter.
///
/// Within an entry point a slot lives from a write to the last read before the next write. What an entry point reads
/// without having written it comes from an earlier run: it lives from that write to the end of this entry point, since the
/// entry point may run again. What nobody reads afterwards is for the caller, and lives to the end of its entry point; or,
/// where the caller's reads are among the ops (`told`), it is scratch and lives for its op. Slots in `kept` (caches) always
/// live.
#[must_use]
pub fn lifetimes(slots: usize, ops: &[Access], entries: &[Stretch], kept: &[usize], told: bool) -> Vec<Lifetime> {
    let last_op = ops.len().saturating_sub(1);
    (0..slots)
        .map(|slot| {
            if kept.contains(&slot) {
                return vec![(0, last_op)];
            }
            let mut life: Lifetime = Vec::new();
            for entry in entries {
                let mut written = false;
                for (at, op) in ops.iter().enumerate().take(entry.end).skip(entry.first) {
                    if op.reads.contains(&slot) {
                        match life.last_mut() {
                            Some(stretch) if written => stretch.1 = at,
                            Some(stretch) => stretch.1 = entry.end - 1,
                            None => life.push((0, entry.end - 1)),
                        }
                    }
                    if op.writes.contains(&slot) && !op.reads.contains(&slot) {
                        life.push((at, at));
                        written = true;
                    }
                }
                let read_later = |at: usize| ops.iter().skip(at + 1).any(|op| op.reads.contains(&slot));
                if let Some(stretch) = life.last_mut().filter(|s| !told && written && s.0 == s.1 && !read_later(s.1)) {
                    stretch.1 = entry.end - 1;
                }
            }
            life
        })
        .collect()
}

/// Whether two slots are ever alive at one op.
#[must_use]
pub fn conflict(a: &[(usize, usize)], b: &[(usize, usize)]) -> bool {
    a.iter().any(|a| b.iter().any(|b| a.0 <= b.1 && b.0 <= a.1))
}

fn join(a: [u64; 4], b: [u64; 4]) -> [u64; 4] {
    std::array::from_fn(|i| a[i].max(b[i]))
}

fn end(offset: [u64; 4], size: [u64; 4]) -> [u64; 4] {
    std::array::from_fn(|i| offset[i] + size[i])
}

fn below(end: [u64; 4], offset: [u64; 4]) -> bool {
    (0..4).all(|i| end[i] <= offset[i])
}

/// Packs slots of these sizes and lifetimes. Which of the valid packings is best depends on the limits; `nominal` are
/// those that count.
#[must_use]
pub fn pack(sizes: &[[u64; 4]], lifetimes: &[Lifetime], nominal: Limits) -> Vec<[u64; 4]> {
    let bytes = |k: [u64; 4]| affine(k, nominal).unwrap_or(u64::MAX);
    let span = |i: usize| lifetimes[i].iter().map(|(a, b)| b - a + 1).sum::<usize>();
    let mut orders: [Vec<usize>; 3] = std::array::from_fn(|_| (0..sizes.len()).collect());
    // Largest first; longest-lived first; in program order.
    orders[0].sort_by_key(|i| std::cmp::Reverse(bytes(sizes[*i])));
    orders[1].sort_by_key(|i| std::cmp::Reverse((span(*i), bytes(sizes[*i]))));
    orders[2]
        .sort_by_key(|i| (lifetimes[*i].first().copied().unwrap_or_default(), std::cmp::Reverse(bytes(sizes[*i]))));
    let packings = orders.iter().map(|order| pack_in(order, sizes, lifetimes, &bytes));
    packings.min_by_key(|(_, arena)| *arena).map(|(offsets, _)| offsets).unwrap_or_default()
}

/// Places the slots in this order; returns the offsets and the arena's bytes.
fn pack_in(
    order: &[usize],
    sizes: &[[u64; 4]],
    lifetimes: &[Lifetime],
    bytes: &dyn Fn([u64; 4]) -> u64,
) -> (Vec<[u64; 4]>, u64) {
    let mut offsets = vec![[0u64; 4]; sizes.len()];
    let mut placed: Vec<usize> = Vec::new();
    let mut arena = 0;
    for &slot in order {
        let against: Vec<usize> =
            placed.iter().copied().filter(|p| conflict(&lifetimes[slot], &lifetimes[*p])).collect();
        let ends: Vec<[u64; 4]> = against.iter().map(|p| end(offsets[*p], sizes[*p])).collect();
        // At the bottom, just above one placed slot or two, or above all: the last is always free.
        let above_all = ends.iter().copied().fold([0; 4], join);
        let mut candidates = vec![[0; 4], above_all];
        candidates.extend(&ends);
        candidates.extend(ends.iter().flat_map(|a| ends.iter().map(|b| join(*a, *b))));
        let free = |at: &[u64; 4]| {
            against.iter().zip(&ends).all(|(p, e)| below(*e, *at) || below(end(*at, sizes[slot]), offsets[*p]))
        };
        // Of the places that make the arena grow least, the lowest.
        let cost = |at: &[u64; 4]| (bytes(end(*at, sizes[slot])).max(arena), bytes(*at));
        offsets[slot] = candidates.into_iter().filter(free).min_by_key(cost).unwrap_or(above_all);
        arena = arena.max(bytes(end(offsets[slot], sizes[slot])));
        placed.push(slot);
    }
    (offsets, arena)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn op(reads: &[usize], writes: &[usize]) -> Access {
        Access { reads: reads.to_vec(), writes: writes.to_vec() }
    }

    #[test]
    fn lifetimes_by_hand() {
        // Entry 0: write 0; 0 -> 1; 1 -> 2; 2 + 0 -> 0. Entry 1: 0 -> 3; 3 -> 4 (for the caller).
        let ops = [op(&[], &[0]), op(&[0], &[1]), op(&[1], &[2]), op(&[2, 0], &[0]), op(&[0], &[3]), op(&[3], &[4])];
        let entries = [Stretch { first: 0, end: 4 }, Stretch { first: 4, end: 6 }];
        let lives = lifetimes(6, &ops, &entries, &[5], false);
        assert_eq!(lives[0], [(0, 5)], "read by the second entry, which may run again");
        assert_eq!(lives[1], [(1, 2)]);
        assert_eq!(lives[2], [(2, 3)]);
        assert_eq!(lives[3], [(4, 5)]);
        assert_eq!(lives[4], [(5, 5)]);
        assert_eq!(lives[5], [(0, 5)], "kept");
    }

    #[test]
    fn a_slot_written_twice_is_free_in_between() {
        let ops = [op(&[], &[0]), op(&[0], &[1]), op(&[1], &[2]), op(&[2], &[0]), op(&[0], &[3])];
        let lives = lifetimes(4, &ops, &[Stretch { first: 0, end: 5 }], &[], false);
        assert_eq!(lives[0], [(0, 1), (3, 4)]);
        assert!(!conflict(&lives[0], &[(2, 2)]));
    }

    #[test]
    fn results_nobody_reads_live_to_the_end_of_their_entry() {
        let ops = [op(&[], &[0]), op(&[], &[1]), op(&[1], &[2])];
        let lives = lifetimes(3, &ops, &[Stretch { first: 0, end: 3 }], &[], false);
        assert_eq!(lives[0], [(0, 2)]);
        let told = lifetimes(3, &ops, &[Stretch { first: 0, end: 3 }], &[], true);
        assert_eq!(told[0], [(0, 0)], "scratch");
    }

    /// Random lifetimes and sizes: at random limits no two slots that live at once overlap.
    #[test]
    fn packings_never_overlap() {
        let mut state = 1u64;
        let mut random = move |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) % below
        };
        for _ in 0..300 {
            let n = 2 + random(12) as usize;
            let sizes: Vec<[u64; 4]> = (0..n)
                .map(|_| std::array::from_fn(|i| if random(3) == 0 || i == 0 { 16 * random(50) } else { 0 }))
                .collect();
            let lives: Vec<Lifetime> = (0..n)
                .map(|_| {
                    let start = random(20) as usize;
                    vec![(start, start + random(8) as usize)]
                })
                .collect();
            let offsets = pack(&sizes, &lives, Limits { batch: 4, context: 64, threads: 2 });
            for _ in 0..20 {
                let (batch, context) = (1 + random(9) as u32, 1 + random(300) as u32);
                let limits = Limits { batch, context, threads: 1 + random(4) as u32 };
                let at = |k| affine(k, limits).unwrap();
                for a in 0..n {
                    let (start, size) = (at(offsets[a]), at(sizes[a]));
                    for b in 0..a {
                        let (other, bytes) = (at(offsets[b]), at(sizes[b]));
                        let apart = start + size <= other || other + bytes <= start;
                        assert!(apart || !conflict(&lives[a], &lives[b]), "{a} and {b}");
                    }
                }
            }
        }
    }
}

//! Packing for nets without tokens: their sizes are plain numbers, slots may overlap while an op turns one into the other,
//! and there is time to search.
//!
//! ```text
//! neighbours   of a slot: those alive at one op with it, and the gap if that is the one op which turns one into the other
//! placing      slot by slot in some order, each at the lowest offset that suits the neighbours placed before
//! direction    of an op: open until two of its slots overlap in one way only
//! search       four orders, then changed a little at random, again and again, as long as the arena grows no larger;
//!              the same upside down, from the top of the arena, since forward and backward gaps differ
//! ```

use super::{Lifetime, conflict};
use mote_runtime::image::plan::SLOT_ALIGN;

/// Two slots that may overlap while op `op` runs, in bytes as [`super::units::Gap`] has them.
#[derive(Clone, Copy, Debug)]
pub struct Gap {
    /// The op, as lifetimes count.
    pub op: usize,
    /// The slot read.
    pub input: usize,
    /// The slot written.
    pub output: usize,
    /// How far below the input the output begins, at least, if the op works forward.
    pub forward: i64,
    /// How far above if it works backward.
    pub backward: i64,
}

/// What is to be packed.
#[derive(Clone, Copy, Debug)]
pub struct Slots<'a> {
    /// Bytes of each.
    pub sizes: &'a [u64],
    /// Stretches of ops in which its contents matter.
    pub lifetimes: &'a [Lifetime],
    /// Which may overlap.
    pub gaps: &'a [Gap],
}

/// Where the slots lie.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Packing {
    /// Offset of each slot.
    pub offsets: Vec<u64>,
    /// The direction of those ops to which it matters; true is backward.
    pub directions: Vec<(usize, bool)>,
    /// Bytes up to the end of the highest slot.
    pub arena: u64,
}

/// Slots beyond which no more than the first orders are tried.
const SEARCHED: usize = 300;

/// How many changes of order are tried where the arena counts.
pub const CHANGES: usize = 4000;

/// Packs the slots, trying so many changes of their order. The same slots give the same packing.
#[must_use]
pub fn pack(slots: &Slots<'_>, changes: usize) -> Packing {
    let upright = search(slots, changes);
    if upright.arena <= slots.least() {
        return upright;
    }
    let size = |slot: usize| slots.sizes[slot] as i64;
    let turn = |g: &Gap| {
        let longer = size(g.input) - size(g.output);
        Gap { forward: g.backward - longer, backward: g.forward + longer, ..*g }
    };
    let gaps: Vec<Gap> = slots.gaps.iter().map(turn).collect();
    let turned = search(&Slots { gaps: &gaps, ..*slots }, changes);
    if upright.arena <= turned.arena {
        return upright;
    }
    let offsets = turned.offsets.iter().zip(slots.sizes).map(|(at, size)| turned.arena - at - size).collect();
    let directions = turned.directions.into_iter().map(|(op, backward)| (op, !backward)).collect();
    Packing { offsets, directions, arena: turned.arena }
}

/// The best packing found with the offsets as low as they go.
fn search(slots: &Slots<'_>, changes: usize) -> Packing {
    let count = slots.sizes.len();
    let neighbours: Vec<Vec<(usize, Option<Gap>)>> = (0..count).map(|slot| slots.neighbours(slot)).collect();
    let span = |slot: usize| slots.lifetimes[slot].iter().map(|(a, b)| b - a + 1).sum::<usize>();
    let born = |slot: usize| slots.lifetimes[slot].first().copied().unwrap_or_default();
    let largest = |slot: usize| std::cmp::Reverse(slots.sizes[slot]);
    let mut orders: [Vec<usize>; 4] = std::array::from_fn(|_| (0..count).collect());
    orders[0].sort_by_key(|s| (largest(*s), born(*s)));
    orders[1].sort_by_key(|s| (std::cmp::Reverse(span(*s)), largest(*s)));
    orders[2].sort_by_key(|s| (born(*s), largest(*s)));
    orders[3].sort_by_key(|s| (std::cmp::Reverse(born(*s)), largest(*s)));
    let tried = orders.into_iter().map(|order| (place(slots, &neighbours, &order), order));
    let Some((mut best, mut order)) = tried.min_by_key(|(packing, _)| packing.arena) else {
        return Packing::default();
    };
    let least = slots.least();
    let mut state = 1u64;
    let mut random = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) as usize) % below
    };
    let changes = if count > SEARCHED { 0 } else { changes };
    for _ in 0..changes {
        if best.arena <= least {
            break;
        }
        let mut other = order.clone();
        let (from, to) = (random(count), random(count));
        if random(2) == 0 {
            other.swap(from, to);
        } else {
            let slot = other.remove(from);
            other.insert(to, slot);
        }
        let packing = place(slots, &neighbours, &other);
        if packing.arena <= best.arena {
            (best, order) = (packing, other);
        }
    }
    best
}

impl Slots<'_> {
    /// The slots that `slot` may not overlap, or only with a gap.
    fn neighbours(&self, slot: usize) -> Vec<(usize, Option<Gap>)> {
        let alive = |other: &usize| *other != slot && conflict(&self.lifetimes[slot], &self.lifetimes[*other]);
        (0..self.sizes.len()).filter(alive).map(|other| (other, self.gap(slot, other))).collect()
    }

    /// The gap between two slots that one op turns one into the other, if that is the only time they meet.
    fn gap(&self, a: usize, b: usize) -> Option<Gap> {
        let mut gaps = self.gaps.iter().filter(|g| (g.input, g.output) == (a, b) || (g.input, g.output) == (b, a));
        let gap = gaps.next()?;
        let before = &self.lifetimes[gap.input];
        let after = &self.lifetimes[gap.output];
        let dies = before.iter().any(|(_, last)| *last == gap.op);
        let begins = after.iter().any(|(first, _)| *first == gap.op);
        let meetings = before.iter().map(|a| after.iter().filter(|b| a.0 <= b.1 && b.0 <= a.1).count()).sum::<usize>();
        (gaps.next().is_none() && dies && begins && meetings == 1).then_some(*gap)
    }

    /// No packing is smaller: what lives on both sides of an op's beginning or end lies apart.
    fn least(&self) -> u64 {
        let ops = self.lifetimes.iter().flatten().map(|(_, last)| last + 1).max().unwrap_or(0);
        let living = |alive: &dyn Fn(usize, usize) -> bool| -> u64 {
            let alive = |slot: &usize| self.lifetimes[*slot].iter().any(|(first, last)| alive(*first, *last));
            (0..self.sizes.len()).filter(alive).map(|slot| self.sizes[slot]).sum()
        };
        let before = |op: usize| living(&|first, last| first < op && op <= last);
        let after = |op: usize| living(&|first, last| first <= op && op < last);
        (0..ops).map(|op| before(op).max(after(op))).max().unwrap_or(0)
    }
}

fn place(slots: &Slots<'_>, neighbours: &[Vec<(usize, Option<Gap>)>], order: &[usize]) -> Packing {
    let size = |slot: usize| slots.sizes[slot] as i64;
    let mut offsets: Vec<Option<i64>> = vec![None; slots.sizes.len()];
    let mut directions: Vec<(usize, bool)> = Vec::new();
    let mut arena = 0;
    for &slot in order {
        let placed: Vec<(usize, i64, Option<Gap>)> =
            neighbours[slot].iter().filter_map(|(other, gap)| Some((*other, offsets[*other]?, *gap))).collect();
        let mut candidates = vec![0];
        for (other, at, gap) in &placed {
            candidates.push(at + size(*other));
            candidates.extend(gap.map(|g| at + if g.output == slot { g.backward } else { g.forward }));
        }
        candidates.iter_mut().for_each(|at| *at = up(*at));
        candidates.sort_unstable();
        candidates.dedup();
        // The last is above all.
        for at in candidates.into_iter().filter(|at| *at >= 0) {
            if let Some(settled) = fits(slot, at, &placed, &directions, &size) {
                offsets[slot] = Some(at);
                directions.extend(settled);
                arena = arena.max(at + size(slot));
                break;
            }
        }
    }
    let offsets = offsets.into_iter().map(|at| at.unwrap_or_default() as u64).collect();
    Packing { offsets, directions, arena: arena as u64 }
}

/// The next multiple of a slot's alignment.
fn up(at: i64) -> i64 {
    let align = SLOT_ALIGN as i64;
    -(-at).div_euclid(align) * align
}

/// Whether `slot` can lie at `at`; if so, the directions of ops that this settles.
fn fits(
    slot: usize,
    at: i64,
    placed: &[(usize, i64, Option<Gap>)],
    directions: &[(usize, bool)],
    size: &dyn Fn(usize) -> i64,
) -> Option<Vec<(usize, bool)>> {
    let mut settled: Vec<(usize, bool)> = Vec::new();
    for (other, other_at, gap) in placed {
        if at + size(slot) <= *other_at || other_at + size(*other) <= at {
            continue;
        }
        let g = gap.as_ref()?;
        let below = if g.output == slot { other_at - at } else { at - other_at };
        let direction = match (below >= g.forward, -below >= g.backward) {
            (true, true) => continue,
            (true, false) => false,
            (false, true) => true,
            (false, false) => return None,
        };
        match directions.iter().chain(&settled).find(|(op, _)| *op == g.op) {
            Some((_, known)) if *known != direction => return None,
            Some(_) => {}
            None => settled.push((g.op, direction)),
        }
    }
    Some(settled)
}

/// Checks a packing once more, from the ops' side: whatever lives while an op runs lies apart, or is its input and its
/// output with the gap that its direction asks for.
///
/// # Errors
/// The op and the two slots.
pub fn verify(slots: &Slots<'_>, packing: &Packing) -> Result<(), String> {
    let ops = slots.lifetimes.iter().flatten().map(|(_, last)| last + 1).max().unwrap_or(0);
    let range = |slot: usize| packing.offsets[slot]..packing.offsets[slot] + slots.sizes[slot];
    for op in 0..ops {
        let stretch = |slot: usize| slots.lifetimes[slot].iter().find(|(first, last)| (*first..=*last).contains(&op));
        let alive: Vec<usize> = (0..slots.sizes.len()).filter(|slot| stretch(*slot).is_some()).collect();
        for (a, b) in alive.iter().flat_map(|a| alive.iter().filter(move |b| a < *b).map(move |b| (*a, *b))) {
            let (ra, rb) = (range(a), range(b));
            if ra.end <= rb.start || rb.end <= ra.start {
                continue;
            }
            let turned = |g: &&Gap| {
                let ends = stretch(g.input).is_some_and(|(_, last)| *last == op);
                let begins = stretch(g.output).is_some_and(|(first, _)| *first == op);
                let below = packing.offsets[g.input] as i64 - packing.offsets[g.output] as i64;
                let far =
                    if packing.directions.contains(&(op, true)) { -below >= g.backward } else { below >= g.forward };
                g.op == op && [(a, b), (b, a)].contains(&(g.input, g.output)) && ends && begins && far
            };
            if !slots.gaps.iter().any(|g| turned(&g)) {
                return Err(format!("op {op}: slots {a} at {ra:?} and {b} at {rb:?} overlap"));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A chain of slots of `sizes`, each turned into the next by an op; the host writes the first and reads the last.
    fn chain(sizes: &[u64], forward: i64, backward: i64) -> (Vec<Lifetime>, Vec<Gap>) {
        let lifetimes = (0..sizes.len()).map(|slot| vec![(slot, slot + 1)]).collect();
        let gap = |op: usize| Gap { op, input: op - 1, output: op, forward, backward };
        (lifetimes, (1..sizes.len()).map(gap).collect())
    }

    fn packed(sizes: &[u64], lifetimes: &[Lifetime], gaps: &[Gap]) -> Packing {
        let slots = Slots { sizes, lifetimes, gaps };
        let packing = pack(&slots, CHANGES);
        verify(&slots, &packing).unwrap();
        assert_eq!(packing, pack(&slots, CHANGES), "the same slots, the same packing");
        packing
    }

    #[test]
    fn a_chain_goes_up_and_down() {
        let sizes = [8000; 6];
        let (lifetimes, gaps) = chain(&sizes, 576, 640);
        assert_eq!(packed(&sizes, &lifetimes, &gaps).arena, 8640);
        assert_eq!(packed(&sizes, &lifetimes, &[]).arena, 16_000);
        // In place throughout.
        let (lifetimes, gaps) = chain(&sizes, 0, 0);
        assert_eq!(packed(&sizes, &lifetimes, &gaps), Packing { offsets: vec![0; 6], directions: vec![], arena: 8000 });
        // Only forward: each below the one before.
        let (lifetimes, gaps) = chain(&sizes, 16, i64::MAX >> 1);
        assert_eq!(packed(&sizes, &lifetimes, &gaps).offsets, [80, 64, 48, 32, 16, 0]);
        let (lifetimes, gaps) = chain(&sizes, i64::MAX >> 1, 16);
        assert_eq!(packed(&sizes, &lifetimes, &gaps).offsets, [0, 16, 32, 48, 64, 80]);
    }

    #[test]
    fn what_is_needed_later_is_not_overwritten() {
        // 0 becomes 1, then 1 and 0 become 2: op 1 may not write over 0, op 2 may.
        let lifetimes = [vec![(0, 2)], vec![(1, 2)], vec![(2, 3)]];
        let gap = |op, input, output| Gap { op, input, output, forward: 0, backward: 0 };
        let gaps = [gap(1, 0, 1), gap(2, 0, 2), gap(2, 1, 2)];
        assert_eq!(packed(&[64; 3], &lifetimes, &gaps).arena, 128);
    }

    #[test]
    fn an_op_has_one_direction() {
        // The output overlaps two inputs, one above and one below: with these gaps no direction suits both.
        let lifetimes = [vec![(0, 1)], vec![(0, 1)], vec![(1, 2)]];
        let gap = |input| Gap { op: 1, input, output: 2, forward: 16, backward: 16 };
        let slots = Slots { sizes: &[64, 64, 64], lifetimes: &lifetimes, gaps: &[gap(0), gap(1)] };
        for direction in [false, true] {
            let packing = Packing { offsets: vec![0, 64, 32], directions: vec![(1, direction)], arena: 128 };
            assert!(verify(&slots, &packing).is_err());
        }
        assert_eq!(packed(slots.sizes, &lifetimes, slots.gaps).arena, 144);
    }

    /// Random graphs: whatever is found is valid, and never larger than with all slots apart.
    #[test]
    fn random_packings_hold() {
        let mut state = 1u64;
        let mut random = move |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) % below
        };
        for _ in 0..60 {
            let count = 2 + random(8) as usize;
            let sizes: Vec<u64> = (0..count).map(|_| 16 + 16 * random(40)).collect();
            let last: Vec<usize> = (0..count).map(|slot| slot + 1 + random(3) as usize).collect();
            let lifetimes: Vec<Lifetime> = (0..count).map(|slot| vec![(slot, last[slot])]).collect();
            let mut gaps = Vec::new();
            for (input, &output) in last.iter().enumerate() {
                let (forward, backward) = (random(300) as i64 - 50, random(300) as i64 - 50);
                if output < count && random(4) > 0 {
                    gaps.push(Gap { op: output, input, output, forward, backward });
                }
            }
            let with = packed(&sizes, &lifetimes, &gaps).arena;
            assert!(with <= packed(&sizes, &lifetimes, &[]).arena);
        }
    }
}

//! Byte-pair merging of one word, in scratch that the caller gives: O(n log n).
//!
//! Symbols are a linked list over the positions of the word. A tree holds, for each stretch of positions, the one whose
//! pair has the lowest rank (leftmost if equal); merging a pair changes three positions, each a walk to the root.

/// u32 words of scratch for a word of `n` initial symbols.
pub(super) fn scratch_words(n: usize) -> usize {
    n.saturating_mul(FIELDS).saturating_add(n.next_power_of_two().saturating_mul(2))
}

const FIELDS: usize = 6;
const NIL: u32 = u32::MAX;

/// A merge: rank (lower is earlier) and the id of the result.
#[derive(Clone, Copy)]
pub(super) struct Pair {
    pub rank: u32,
    pub id: u32,
}

/// A symbol: id, and its bytes' end in the word.
#[derive(Clone, Copy)]
pub(super) struct Symbol {
    pub id: u32,
    pub end: u32,
}

/// The word while it is merged.
pub(super) struct Word<'s> {
    id: &'s mut [u32],
    end: &'s mut [u32],
    next: &'s mut [u32],
    prev: &'s mut [u32],
    rank: &'s mut [u32],
    merged: &'s mut [u32],
    tree: &'s mut [u32],
}

fn at(field: &[u32], i: u32) -> u32 {
    field.get(i as usize).copied().unwrap_or(NIL)
}

fn set(field: &mut [u32], i: u32, value: u32) {
    if let Some(slot) = field.get_mut(i as usize) {
        *slot = value;
    }
}

impl<'s> Word<'s> {
    /// Room for `n` symbols; `None` if the scratch is too small.
    pub(super) fn new(scratch: &'s mut [u32], n: usize) -> Option<Self> {
        let scratch = scratch.get_mut(..scratch_words(n))?;
        let (id, rest) = scratch.split_at_mut_checked(n)?;
        let (end, rest) = rest.split_at_mut_checked(n)?;
        let (next, rest) = rest.split_at_mut_checked(n)?;
        let (prev, rest) = rest.split_at_mut_checked(n)?;
        let (rank, rest) = rest.split_at_mut_checked(n)?;
        let (merged, tree) = rest.split_at_mut_checked(n)?;
        tree.fill(NIL);
        Some(Self { id, end, next, prev, rank, merged, tree })
    }

    /// Sets symbol `i` of the `n` there are.
    pub(super) fn put(&mut self, i: usize, symbol: Symbol) {
        let i = i as u32;
        set(self.id, i, symbol.id);
        set(self.end, i, symbol.end);
        set(self.next, i, if (i as usize) + 1 < self.id.len() { i + 1 } else { NIL });
        set(self.prev, i, i.wrapping_sub(1));
        set(self.rank, i, NIL);
    }

    fn start(&self, i: u32) -> u32 {
        match at(self.prev, i) {
            NIL => 0,
            prev => at(self.end, prev),
        }
    }

    /// Looks up the pair that begins at `i` and carries its rank up the tree.
    fn refresh(&mut self, i: u32, pair: &impl Fn(u32, u32, u32, u32) -> Option<Pair>) {
        let next = at(self.next, i);
        let found =
            if next == NIL { None } else { pair(at(self.id, i), at(self.id, next), self.start(i), at(self.end, next)) };
        set(self.rank, i, found.map_or(NIL, |p| p.rank));
        set(self.merged, i, found.map_or(NIL, |p| p.id));
        let leaves = (self.tree.len() / 2) as u32;
        let mut node = leaves + i;
        set(self.tree, node, if found.is_some() { i } else { NIL });
        while node > 1 {
            node /= 2;
            let (a, b) = (at(self.tree, 2 * node), at(self.tree, 2 * node + 1));
            // Positions rise from left to right, so `<=` keeps the leftmost of equals.
            let best = if b == NIL || a != NIL && at(self.rank, a) <= at(self.rank, b) { a } else { b };
            set(self.tree, node, best);
        }
    }

    /// Merges until no pair is left. `pair(left id, right id, start, end)` gives a merge of the bytes start..end.
    pub(super) fn merge(&mut self, pair: impl Fn(u32, u32, u32, u32) -> Option<Pair>) {
        for i in 0..self.id.len() as u32 {
            self.refresh(i, &pair);
        }
        // Each merge removes a symbol, so there are fewer than n.
        for _ in 0..self.id.len() {
            let i = at(self.tree, 1);
            if i == NIL {
                return;
            }
            let gone = at(self.next, i);
            set(self.id, i, at(self.merged, i));
            set(self.end, i, at(self.end, gone));
            let after = at(self.next, gone);
            set(self.next, i, after);
            if after != NIL {
                set(self.prev, after, i);
            }
            set(self.id, gone, NIL);
            set(self.end, gone, NIL);
            set(self.next, gone, NIL);
            self.refresh(gone, &pair);
            self.refresh(i, &pair);
            let before = at(self.prev, i);
            if before != NIL {
                self.refresh(before, &pair);
            }
        }
    }

    /// The symbols from left to right: id, start and end of each.
    pub(super) fn symbols(&self) -> impl Iterator<Item = (u32, u32, u32)> + '_ {
        let mut i = if self.id.is_empty() { NIL } else { 0 };
        core::iter::from_fn(move || {
            if i == NIL {
                return None;
            }
            let found = (at(self.id, i), self.start(i), at(self.end, i));
            i = at(self.next, i);
            Some(found)
        })
    }
}

//! What ops cost, and the units that they may be cut into: for sessions that work step by step (`session/work.rs`).
//!
//! An op falls into units that are done one after the other, each leaving the arena as the whole op would have it: 16 columns
//! of a matmul, a row of a convolution's output, a head of attention, a token's row of what works on rows. A piece of work is
//! some of one op's. Ops that are short beside those are one unit.
//!
//! Cost is counted in multiply-accumulates; what is none counts as so many as take as long on a Cortex-M3. It bounds time only
//! roughly: kernels differ, and a piece has some cost of its own. `cargo xtask test steps` measures it.

use core::ops::Range;

/// Which units of an op are to be done.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    #[cfg(feature = "steps")]
    first: usize,
    #[cfg(feature = "steps")]
    end: usize,
}

impl Part {
    /// All of them.
    pub const WHOLE: Self = Self {
        #[cfg(feature = "steps")]
        first: 0,
        #[cfg(feature = "steps")]
        end: usize::MAX,
    };

    /// Which of `count` units. Without the feature `steps` all, which the compiler sees.
    #[inline(always)]
    pub(crate) fn of(self, count: usize) -> Range<usize> {
        #[cfg(feature = "steps")]
        return self.first.min(count)..self.end.min(count);
        #[cfg(not(feature = "steps"))]
        return 0..count;
    }

    /// Whether these are all.
    pub(crate) fn is_whole(self) -> bool {
        #[cfg(feature = "steps")]
        return self.first == 0 && self.end == usize::MAX;
        #[cfg(not(feature = "steps"))]
        return true;
    }
}

#[cfg(feature = "steps")]
pub use steps::{Units, units};

#[cfg(feature = "steps")]
mod steps {
    use super::Part;
    use crate::image::plan::{Kind, Rows};
    use crate::image::{Op, Slot};
    use crate::ops::{self, Run, any_slot};

    /// The units of an op.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Units {
        /// How many there are, at least 1.
        pub count: usize,
        /// What each costs, at least 1.
        pub cost: u64,
    }

    impl Units {
        /// `count` units, each the product of `cost`.
        pub(crate) fn new(count: usize, cost: &[usize]) -> Self {
            let cost = cost.iter().fold(1u64, |product, n| product.saturating_mul(*n as u64));
            Self { count: count.max(1), cost: cost.max(1) }
        }

        /// As many units from `first` on as `budget` pays for, but one at least.
        #[must_use]
        pub fn part(self, first: usize, budget: u64) -> Part {
            let most = usize::try_from(budget.checked_div(self.cost).unwrap_or(1)).unwrap_or(usize::MAX);
            Part { first, end: first.saturating_add(most.max(1)).min(self.count).max(first) }
        }
    }

    impl Part {
        /// All from `first` on.
        #[must_use]
        pub fn from(first: usize) -> Self {
            Self { first, end: usize::MAX }
        }

        /// How many units these are.
        #[must_use]
        pub fn count(self) -> usize {
            self.end - self.first
        }
    }

    /// What an op costs and how it may be cut, under the sizes of this step. `None` for ops that [`ops::check`] has not passed.
    #[must_use]
    pub fn units(r: &Run<'_>, op: &Op) -> Option<Units> {
        if let Some((_, units)) = CUT.iter().find(|(code, _)| *code == op.code) {
            return units(r, op);
        }
        match ROWS.iter().find(|(code, _)| *code == op.code) {
            Some((_, each)) => {
                let slot = &any_slot(r.image, op, 0);
                let slot = slot.as_ref()?;
                Some(Units::new(r.rows_of(slot), &[slot.cols as usize, *each]))
            }
            None => whole(r, op),
        }
    }

    /// The ops whose units are the rows of their first slot, and what an element costs.
    static ROWS: &[(u16, usize)] = &[
        (ops::quantize::OP.code, 20),
        (ops::rms_norm::OP.code, 8),
        (ops::layer_norm::OP.code, 8),
        (ops::glu::OP.code, 24),
        (ops::activation::OP.code, 24),
    ];

    type UnitsFn = fn(&Run<'_>, &Op) -> Option<Units>;

    /// The ops that are cut.
    static CUT: &[(u16, UnitsFn)] = &[
        #[cfg(feature = "decoder")]
        (ops::matmul::OP.code, ops::matmul::units),
        #[cfg(feature = "decoder")]
        (ops::attention::OP.code, ops::attention::units),
        #[cfg(feature = "convnet")]
        (ops::conv2d::OP.code, |r, op| ops::layer::units(r, op, ops::window::window)),
        #[cfg(feature = "convnet")]
        (ops::depthwise_conv2d::OP.code, |r, op| ops::layer::units(r, op, ops::window::window)),
        #[cfg(feature = "convnet")]
        (ops::fully_connected::OP.code, |r, op| ops::layer::units(r, op, ops::window::rows)),
        #[cfg(feature = "convnet")]
        (ops::average_pool2d::OP.code, ops::cut::pool_units),
        #[cfg(feature = "convnet")]
        (ops::max_pool2d::OP.code, ops::cut::pool_units),
        #[cfg(feature = "convnet")]
        (ops::batch_matmul::OP.code, ops::batch_matmul::units),
        #[cfg(feature = "convnet")]
        (ops::transpose_conv2d::OP.code, ops::transpose_conv2d::units),
        #[cfg(feature = "coded")]
        (ops::conv2d_coded::OP.code, ops::conv2d_coded::units),
        #[cfg(feature = "coded")]
        (ops::lstm::OP.code, ops::lstm::units),
        #[cfg(feature = "coded")]
        (ops::gru::OP.code, ops::gru::units),
    ];

    /// An op that is one unit: so much for each element of its slots.
    fn whole(r: &Run<'_>, op: &Op) -> Option<Units> {
        let mut elements = 0usize;
        for which in r.image.op(op.code)?.slots {
            let slot = &any_slot(r.image, op, *which);
            let slot = slot.as_ref()?;
            elements = elements.saturating_add(touched(r, slot));
        }
        Some(Units::new(1, &[elements, ELEMENT]))
    }

    /// Multiply-accumulates that an element of an op without a better figure counts as.
    const ELEMENT: usize = 8;

    /// Elements of a slot that an op touches at most.
    fn touched(r: &Run<'_>, slot: &Slot) -> usize {
        let cols = slot.cols as usize;
        match (slot.kind, slot.rows) {
            // What is appended for the rows of a step.
            (kind, _) if kind.is_cache() => r.rows as usize * slot.head_dim as usize * slot.heads as usize,
            (_, Rows::Batch) => r.rows as usize * cols,
            (Kind::I32, Rows::Context) => r.source as usize * cols,
            _ => cols,
        }
    }
}

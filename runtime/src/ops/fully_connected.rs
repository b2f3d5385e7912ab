//! Fully connected layer of int8 or int16, TensorFlow Lite's `FULLY_CONNECTED`: a convolution whose pixels are the rows.
//!
//! Arguments: in slot, out slot (both I8 or both I16: rows of in features, as many rows of out features), weights (I8 `[out
//! features, in features]`), channels, numbers (`ops/window.rs`), the weights' zero point. Flag 1: single rounding; 2: backward;
//! 4: narrow sums of int16. NUMERICS.md, "fully_connected".

use core::num::NonZeroUsize;

#[cfg(feature = "steps")]
use super::cost::Units;
use super::cut::{Cut, Piece};
use super::window::{self, NARROW, SINGLE_ROUNDING, Sums};
use super::{BACKWARD, OpDef, Overlap, Run, arg, ensure};
use crate::image::plan::{Kind, Slot};
use crate::image::{Dtype, Image, Op};
use crate::kernels::scalar::int8::{self, ConvFn, Quantized, Window};
use crate::view::as_i8;

/// The op.
pub static OP: OpDef = OpDef {
    code: 12,
    name: "fully_connected",
    args: 6,
    flags: SINGLE_ROUNDING | BACKWARD | NARROW,
    slots: &[0, 1],
    overlap: Overlap::Units(&[(0, 1)]),
    check,
    run,
};

/// The window and what becomes of the sums: everything checked.
fn parts(image: &Image<'_>, op: &Op, [input, output]: &[Slot; 2]) -> Option<(Window, Sums)> {
    let [out_features, in_features, a, b] = window::weights(image, op, 2)?.dims;
    let g = window::rows(op, in_features, input)?;
    ensure(a == 1 && b == 1)?;
    window::ensure_output(&g, out_features as usize, output)?;
    Some((g, Sums::new(image, op, input.kind, 4, (out_features, in_features.into()))?))
}

fn check(image: &Image<'_>, op: &Op) -> Option<()> {
    let slots = window::slots(image, op)?;
    parts(image, op, &slots).map(|_| ())
}

fn run(r: &mut Run<'_>, op: &Op) -> Option<()> {
    let slots = window::slots(r.image, op)?;
    match slots[0].kind {
        Kind::I16 if cfg!(feature = "int16") => run_of::<i16>(r, op, &slots, int8::conv2d),
        _ => {
            let conv = r.kernels.int8().conv2d;
            run_of::<i8>(r, op, &slots, conv)
        }
    }
}

fn run_of<T: Quantized>(r: &mut Run<'_>, op: &Op, slots: &[Slot; 2], conv: ConvFn<T>) -> Option<()> {
    let (g, sums) = parts(r.image, op, slots)?;
    let (weights, channels) = (as_i8(r.image.raw(arg(op, 2)?, Dtype::I8)?), window::channels(r.image, op)?);
    let (cut, part) = (Cut::new(r, &g, slots, Some(g.channels)), r.part);
    let [from, to] = r.cells::<T, 2>(slots.each_ref())?;
    let p = cut.piece(part, Piece { g, from, to, weights, channels })?;
    let (x, w) = ((p.from, sums.zero_in), (p.weights, sums.zero_weights));
    conv(&p.g, NonZeroUsize::MIN, x, w, p.channels, &sums.output, p.to)
}

/// The units: channels of one row, or rows.
#[cfg(feature = "steps")]
pub(crate) fn units(r: &Run<'_>, op: &Op) -> Option<Units> {
    let slots = window::slots(r.image, op)?;
    let (g, _) = parts(r.image, op, &slots)?;
    let channels = window::weights(r.image, op, 2)?.dims[0] as usize;
    Some(Cut::new(r, &g, &slots, Some(g.channels)).units(&g, channels, g.channels))
}

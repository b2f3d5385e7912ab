//! Transposed 2D convolution of int8 or int16, TensorFlow Lite's `TRANSPOSE_CONV`.
//!
//! Arguments and flags as `conv2d`'s, without groups and dilations: each input pixel adds its window of products to the output
//! around `(y * stride - padding, x * stride - padding)`. NUMERICS.md, "transpose_conv2d".

#[cfg(feature = "steps")]
use super::cost::Units;
use super::tensor::Plain;
use super::window::{self, NARROW, SINGLE_ROUNDING, Sums};
use super::{BACKWARD, OpDef, Overlap, Run, arg, ensure};
use crate::image::header::products;
use crate::image::plan::Kind;
use crate::image::{Dtype, Image, Op};
use crate::kernels::scalar::int8::{self, Quantized, Window};
use crate::view::as_i8;

/// The op.
pub static OP: OpDef = OpDef {
    code: 35,
    name: "transpose_conv2d",
    args: 10,
    flags: SINGLE_ROUNDING | BACKWARD | NARROW,
    slots: &[0, 1],
    overlap: Overlap::Units(&[(0, 1)]),
    check,
    run,
};

/// The window and what becomes of the sums: everything checked.
fn parts(image: &Image<'_>, op: &Op, [input, output]: &[Plain; 2]) -> Option<(Window, Sums)> {
    let [out_channels, kh, kw, depth] = window::weights(image, op, 2)?.dims;
    let g = window::transposed_window(op, 4, [kh as usize, kw as usize], input.cols)?;
    ensure(g.channels == depth as usize)?;
    window::ensure_output(&g, out_channels, output.cols)?;
    let products = products(&[kh, kw, depth])?;
    Some((g, Sums::new(image, op, input.kind, 8, (out_channels, Some(products)))?))
}

fn check(image: &Image<'_>, op: &Op) -> Option<()> {
    let slots = window::slots(image, op)?;
    parts(image, op, &slots).map(|_| ())
}

fn run(r: &mut Run<'_>, op: &Op) -> Option<()> {
    let slots = window::slots(r.image, op)?;
    match slots[0].kind {
        Kind::I16 if cfg!(feature = "int16") => run_of::<i16>(r, op, &slots),
        _ => run_of::<i8>(r, op, &slots),
    }
}

fn run_of<T: Quantized>(r: &mut Run<'_>, op: &Op, slots: &[Plain; 2]) -> Option<()> {
    let (g, sums) = parts(r.image, op, slots)?;
    let (weights, channels) = (as_i8(r.image.raw(arg(op, 2)?, Dtype::I8)?), window::channels(r.image, op)?);
    let [from, to] = r.cells::<T, 2>(slots.each_ref())?;
    int8::transpose_conv2d(&g, (from, sums.zero_in), (weights, sums.zero_weights), channels, &sums.output, to)
}

/// One unit.
#[cfg(feature = "steps")]
pub(crate) fn units(r: &Run<'_>, op: &Op) -> Option<Units> {
    let g = parts(r.image, op, &window::slots(r.image, op)?)?.0;
    let channels = window::weights(r.image, op, 2)?.dims[0] as usize;
    // Each input meets each weight at most once.
    Some(Units::new(1, &[g.y.input, g.x.input, g.channels, g.y.kernel, g.x.kernel, channels]))
}

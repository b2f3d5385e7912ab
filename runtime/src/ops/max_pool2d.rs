//! Max pooling of int8, TensorFlow Lite's `MAX_POOL_2D`. Input and output have the same scale and zero point.
//!
//! Arguments: in slot (I8), out slot (I8), input size, output size, steps (dilations 1), padding above | left << 16, window
//! size, numbers with zero points 0 (`ops/window.rs`). NUMERICS.md, "pools".

use super::{OpDef, Run, arg, bytes_arg, ensure, i8_arg, i8_cols, window};
use crate::image::{Image, Op};
use crate::kernels::scalar::int8;

/// The op.
pub static OP: OpDef = OpDef { code: 14, name: "max_pool2d", args: 8, flags: 0, slots: &[0, 1], check, run };

fn parts(image: &Image<'_>, op: &Op) -> Option<int8::Window> {
    let size = arg(op, 6)?;
    window::window(op, 2, [(size & 0xFFFF) as usize, (size >> 16) as usize], &i8_arg(image, op, 0)?)
}

fn check(image: &Image<'_>, op: &Op) -> Option<()> {
    let g = parts(image, op)?;
    window::ensure_output(&g, g.channels, &i8_arg(image, op, 1)?)?;
    let [_, _, down, across] = bytes_arg(op, 4)?;
    let (zero_in, o) = window::numbers(op, 7)?;
    ensure(down == 1 && across == 1 && zero_in == 0 && o.zero_point == 0)
}

fn run(r: &mut Run<'_>, op: &Op) -> Option<()> {
    let g = parts(r.image, op)?;
    let (input, output) = (i8_arg(r.image, op, 0)?, i8_arg(r.image, op, 1)?);
    let (_, o) = window::numbers(op, 7)?;
    let [from, to] = r.slots([&input, &output])?;
    let largest = |largest: i32, _| Some(o.clamp(largest));
    int8::pool2d(&g, i8_cols(&input, from)?, (i32::from(i8::MIN), i32::max), largest, i8_cols(&output, to)?)
}

//! Sum or difference of two tensors of one shape, TensorFlow Lite's `ADD` and `SUB`, int8 or int16.
//!
//! Arguments: first slot, second slot, out slot (all I8 or all I16), multipliers of first, second and sum, their shifts (a byte
//! each), zero points of first and second (a byte each; 0 for int16), numbers without an input's zero point
//! (`ops/window.rs`). Flag 1: single rounding; 2: backward; 4: the second is subtracted. NUMERICS.md, "add".

use super::tensor::Plain;
use super::window::{self, SINGLE_ROUNDING};
use super::{BACKWARD, OpDef, Overlap, Run, arg, bytes_arg, cut, ensure};
use crate::image::plan::Kind;
use crate::image::{Image, Op};
use crate::kernels::scalar::int8::{self, AddFn, Quantized, Sum, Term};

/// Flag: the second is subtracted.
pub const SUBTRACT: u16 = 4;

/// The op.
pub static OP: OpDef = OpDef {
    code: 15,
    name: "add",
    args: 9,
    flags: SINGLE_ROUNDING | BACKWARD | SUBTRACT,
    slots: &[0, 1, 2],
    overlap: Overlap::Elements(&[(0, 1), (0, 2), (1, 2)]),
    check,
    run,
};

/// Bits that both terms are moved up by before they are brought to one scale: of int8, and of int16.
const HEAD_ROOM: [u32; 2] = [20, 15];

/// Products that take as long as an element.
const EACH: usize = 25;

fn slots(image: &Image<'_>, op: &Op) -> Option<[Plain; 3]> {
    Some([Plain::arg(image, op, 0)?, Plain::arg(image, op, 1)?, Plain::arg(image, op, 2)?])
}

fn check(image: &Image<'_>, op: &Op) -> Option<()> {
    let slots = &slots(image, op);
    let [a, b, out] = slots.as_ref()?;
    let ([za, zb, c, d], [.., e]) = (bytes_arg(op, 7)?, bytes_arg(op, 6)?);
    let numbers = &window::numbers(op, 8, out.kind);
    let (zero_in, _) = *numbers.as_ref()?;
    ensure(a.kind == out.kind && b.kind == out.kind && a.cols == out.cols && b.cols == out.cols)?;
    ensure(zero_in == 0 && [c, d, e] == [0; 3] && (out.kind == Kind::I8 || [za, zb] == [0; 2]))
}

fn run(r: &mut Run<'_>, op: &Op) -> Option<()> {
    let slots = &slots(r.image, op);
    let slots = slots.as_ref()?;
    match slots[0].kind {
        Kind::I16 if cfg!(feature = "int16") => run_of::<i16>(r, op, slots, int8::add),
        _ => {
            let add = r.kernels.int8().add;
            run_of::<i8>(r, op, slots, add)
        }
    }
}

fn run_of<T: Quantized>(r: &mut Run<'_>, op: &Op, slots: &[Plain; 3], add: AddFn<T>) -> Option<()> {
    let [sa, sb, so, _] = bytes_arg(op, 6)?.map(|b| i32::from(b as i8));
    let [za, zb, ..] = bytes_arg(op, 7)?.map(|b| i32::from(b as i8));
    let up = HEAD_ROOM[usize::from(slots[0].kind == Kind::I16)];
    let term = |which, zero, up, shift| Some(Term { zero, up, multiplier: arg(op, which)? as i32, shift });
    let terms = [term(3, za, up, sa)?, term(4, zb, up, sb)?, term(5, 0, 0, so)?];
    let sum = Sum { terms, subtract: op.flags & SUBTRACT != 0, backward: op.flags & BACKWARD != 0 };
    let numbers = &window::numbers(op, 8, slots[0].kind);
    let (_, o) = numbers.as_ref()?;
    cut::run_elements::<T, 3>(r, slots.each_ref(), EACH, |[x, y, to]| add(x, y, to, &sum, o))
}

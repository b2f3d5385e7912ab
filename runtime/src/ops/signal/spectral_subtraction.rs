//! Spectral subtraction: what a slow estimate of the noise leaves of a signal, TFLM's `SignalFilterBankSpectralSubtraction`.
//!
//! Arguments: in slot, slot of the noise before, out slot, slot of the noise after (I32, as many elements, uint32 bits), smoothing
//! and one minus it of even channels, the same of odd channels, least signal that remains, bits that the noise has more
//! than the signal, bits of the fractions (both 0 to 31). Flag 2: backward; 4: the noise is never above the signal.
//! NUMERICS.md, "spectral_subtraction".

use super::super::tensor::{Elements, i32_arg};
use super::super::{BACKWARD, OpDef, Overlap, Run, arg, ensure, turned};
use crate::image::{Image, Op};

/// Flag: the noise is never above the signal.
pub const CLAMPING: u16 = 4;

/// The op.
pub static OP: OpDef = OpDef {
    code: 56,
    name: "spectral_subtraction",
    args: 11,
    flags: BACKWARD | CLAMPING,
    slots: &[0, 1, 2, 3],
    overlap: Overlap::Elements(&[(0, 2), (1, 3)]),
    check,
    run,
};

fn check(image: &Image<'_>, op: &Op) -> Option<()> {
    let input = i32_arg(image, op, 0)?;
    for which in 1..4 {
        ensure(i32_arg(image, op, which)?.cols == input.cols)?;
    }
    ensure(arg(op, 9)? <= 31 && arg(op, 10)? <= 31)
}

fn run(r: &mut Run<'_>, op: &Op) -> Option<()> {
    let image = r.image;
    let (input, before) = (i32_arg(image, op, 0)?, i32_arg(image, op, 1)?);
    let (output, after) = (i32_arg(image, op, 2)?, i32_arg(image, op, 3)?);
    let (even, odd) = ([arg(op, 4)?, arg(op, 5)?], [arg(op, 6)?, arg(op, 7)?]);
    let (least, up, bits) = (arg(op, 8)?, arg(op, 9)?, arg(op, 10)?);
    let fraction = |a: u64| a.wrapping_shr(bits) as u32;
    let product = |a: u32, b: u32| u64::from(a).wrapping_mul(b.into());
    let [x, noise, to, left] = Elements::of(r, [&input, &before, &output, &after])?;
    let mut done = Some(());
    turned(op, 0..output.cols as usize, |at| {
        let values = x.get(at).zip(noise.get(at)).map(|(x, n)| {
            let (x, n) = (x as u32, n as u32);
            let [new, old] = if at % 2 == 0 { even } else { odd };
            let signal = x.wrapping_shl(up);
            let n = fraction(product(signal, new).wrapping_add(product(n, old)));
            let taken = n.min(signal);
            let y = (signal - taken).wrapping_shr(up).max(fraction(product(x, least)));
            (y, if op.flags & CLAMPING != 0 { taken } else { n })
        });
        let put = values.and_then(|(y, n)| to.put(at, y as i32).and(left.put(at, n as i32)));
        done = done.and(put);
    });
    done
}

//! Resizes an image, bilinear or nearest: TensorFlow Lite's `RESIZE_BILINEAR` and `RESIZE_NEAREST_NEIGHBOR`, ONNX's `Resize`.
//!
//! Arguments: in slot (I8 `[height, width, channels]`), out slot (I8), input height | width << 16, places of the output's rows
//! in the input (I32 `[out height]`), of its columns (I32 `[out width]`), in 1/1024 of a pixel, 0 to the last pixel. How
//! corners and centres are aligned is in the places; those of whole pixels are the nearest. Flag 1: single rounding.
//! NUMERICS.md, "resize".

use super::tensor::{rounding, words};
use super::window::SINGLE_ROUNDING;
use super::{OpDef, Overlap, Run, arg, ensure, i8_arg, i8_cols};
use crate::fixed::tflite::{Rounding, divide_by_pot};
use crate::image::{Image, Op};

/// The op.
pub static OP: OpDef = OpDef {
    code: 27,
    name: "resize",
    args: 5,
    flags: SINGLE_ROUNDING,
    slots: &[0, 1],
    overlap: Overlap::Apart,
    check,
    run,
};

/// Fraction bits of a place.
const BITS: u32 = 10;

/// Height, width and channels of the input.
fn shape(image: &Image<'_>, op: &Op) -> Option<[usize; 3]> {
    let size = arg(op, 2)?;
    let (height, width) = (size & 0xFFFF, size >> 16);
    let pixels = height.checked_mul(width)?;
    let cols = i8_arg(image, op, 0)?.cols;
    let channels = cols.checked_div(pixels)?;
    (channels.checked_mul(pixels)? == cols).then_some([height as usize, width as usize, channels as usize])
}

fn check(image: &Image<'_>, op: &Op) -> Option<()> {
    let [height, width, channels] = shape(image, op)?;
    let (rows, cols) = (words(image, op, 3)?, words(image, op, 4)?);
    ensure(rows.len().checked_mul(cols.len())?.checked_mul(channels)? == i8_arg(image, op, 1)?.cols as usize)?;
    let inside = |places: &[[u8; 4]], size: usize| {
        let last = ((size - 1) << BITS) as i32;
        ensure(places.iter().all(|place| (0..=last).contains(&i32::from_le_bytes(*place))))
    };
    ensure(height > 0 && width > 0)?;
    inside(rows, height)?;
    inside(cols, width)
}

/// The pixel at a place, the one after it if that counts, and how much, in 1/1024.
fn neighbours(place: [u8; 4]) -> [(usize, i32); 2] {
    let place = u32::from_le_bytes(place);
    let (first, fraction) = ((place >> BITS) as usize, (place & ((1 << BITS) - 1)) as i32);
    [(first, (1 << BITS) - fraction), (first + usize::from(fraction != 0), fraction)]
}

fn run(r: &mut Run<'_>, op: &Op) -> Option<()> {
    let (input, output) = (i8_arg(r.image, op, 0)?, i8_arg(r.image, op, 1)?);
    let [_, width, channels] = shape(r.image, op)?;
    let (rows, cols, rounding) = (words(r.image, op, 3)?, words(r.image, op, 4)?, rounding(op));
    let [from, to] = r.slots([&input, &output])?;
    let (from, to) = (&*i8_cols(&input, from)?, i8_cols(&output, to)?);
    let mut to = to.iter_mut();
    for (row, col) in rows.iter().flat_map(|row| cols.iter().map(move |col| (row, col))) {
        let (row, col) = (neighbours(*row), neighbours(*col));
        for c in 0..channels {
            let mut sum = 0;
            for ((y, wy), (x, wx)) in row.iter().flat_map(|y| col.iter().map(move |x| (y, x))) {
                sum += i32::from(*from.get((y * width + x) * channels + c)?) * wy * wx;
            }
            *to.next()? = match rounding {
                Rounding::Double => divide_by_pot(sum, 2 * BITS),
                Rounding::Single => (sum + (1 << (2 * BITS - 1))) >> (2 * BITS),
            } as i8;
        }
    }
    Some(())
}

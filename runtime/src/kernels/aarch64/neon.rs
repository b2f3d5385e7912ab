//! NEON alone: products of bytes are 16 bits wide.

use core::arch::aarch64::*;

use super::quads::*;
use crate::kernels::vector::matmul::word;

/// Pixels side by side where a block is alone.
const ALONE: usize = TILE * PAIR;

/// Sums of 4 rows: two of each, of even and of odd pairs of columns.
type Wide = [V; 2];

quad_tiles! { "neon" }
one_by_one! { "neon" }
features! { "neon";
    /// Four products for each sum, of any int8.
    fn dots4(sum: V, x: V, w: V) -> V {
        let [low, high] = products(x, w).map(|v| vpaddlq_s16(v));
        vaddq_s32(sum, vpaddq_s32(low, high))
    }

    /// The products of the first and of the last 8 bytes.
    fn products(a: V, b: V) -> [int16x8_t; 2] {
        [vmull_s8(vget_low_s8(as_signed(a)), vget_low_s8(as_signed(b))), high_products(a, b)]
    }

    /// `vmull_high_s8`, for which the compiler would take `b` apart, whose halves it knows to be the same.
    fn high_products(a: V, b: V) -> int16x8_t {
        let products;
        // SAFETY: reads and writes these registers alone.
        unsafe {
            core::arch::asm!(
                "smull2 {products:v}.8h, {a:v}.16b, {b:v}.16b",
                products = out(vreg) products, a = in(vreg) a, b = in(vreg) b,
                options(pure, nomem, nostack, preserves_flags)
            );
        }
        products
    }

    /// Those added to others.
    fn more_products(sums: [int16x8_t; 2], a: V, b: V) -> [int16x8_t; 2] {
        let [low, mut high] = sums;
        // SAFETY: as above.
        unsafe {
            core::arch::asm!(
                "smlal2 {high:v}.8h, {a:v}.16b, {b:v}.16b",
                high = inout(vreg) high, a = in(vreg) a, b = in(vreg) b,
                options(pure, nomem, nostack, preserves_flags)
            );
        }
        [vmlal_s8(low, vget_low_s8(as_signed(a)), vget_low_s8(as_signed(b))), high]
    }

    /// Any bytes: 16 bits hold one product of -128 with itself.
    fn add_line(sum: Wide, line: V, x: V) -> Wide {
        let [low, high] = products(line, x);
        [vpadalq_s16(sum[0], low), vpadalq_s16(sum[1], high)]
    }

    /// Each channel's, or each row's.
    fn narrowed(sum: Wide) -> V {
        vpaddq_s32(sum[0], sum[1])
    }

    /// Adds each channel's weights.
    fn add_weights(lines: &mut [Line], all: &mut [i32; BLOCK]) {
        for (span, all) in all.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
            let mut sum = [splat(0); 2];
            for line in lines.iter() {
                sum = add_line(sum, load(&line.0.as_chunks().0[span]), splat(0x0101_0101));
            }
            add_to(narrowed(sum), all);
        }
    }
}

/// Adds two lines. Levels but N8's are never -128 (`TensorDesc`), so 16 bits hold two products.
#[inline]
#[target_feature(enable = "neon")]
fn add_lines<const KIND: u8>(sum: Wide, lines: [V; 2], x: [V; 2]) -> Wide {
    if KIND == N8 {
        return add_line(add_line(sum, lines[0], x[0]), lines[1], x[1]);
    }
    let [low, high] = more_products(products(lines[0], x[0]), lines[1], x[1]);
    [vpadalq_s16(sum[0], low), vpadalq_s16(sum[1], high)]
}

/// Adds the sums of a group.
#[inline]
#[target_feature(enable = "neon")]
fn group_dot<const KIND: u8>(sum: V, levels: [V; LINES], codes: &[i8; GROUP]) -> V {
    let mut wide = [splat(0); 2];
    for (at, lines) in levels.as_chunks::<2>().0.iter().enumerate() {
        let x = [splat(word(codes, 2 * at)), splat(word(codes, 2 * at + 1))];
        wide = add_lines::<KIND>(wide, *lines, x);
    }
    plus(sum, narrowed(wide))
}

/// The sums of a group, of rows `4 span..` of each block.
#[inline]
#[target_feature(enable = "neon")]
fn group_dots<const KIND: u8, const ROWS: usize>(
    levels: [&[Line; LINES]; PAIR],
    codes: [&[i8; GROUP]; ROWS],
    span: usize,
) -> [[V; PAIR]; ROWS] {
    let mut wide = [[[splat(0); 2]; PAIR]; ROWS];
    add_two::<0, KIND, _>(&mut wide, levels, codes, span);
    add_two::<1, KIND, _>(&mut wide, levels, codes, span);
    add_two::<2, KIND, _>(&mut wide, levels, codes, span);
    add_two::<3, KIND, _>(&mut wide, levels, codes, span);
    let mut dots = [[splat(0); PAIR]; ROWS];
    for (dots, wide) in dots.iter_mut().zip(wide) {
        dots.iter_mut().zip(wide).for_each(|(dot, wide)| *dot = narrowed(wide));
    }
    dots
}

/// Adds those of lines `2 * AT` and the next.
#[inline]
#[target_feature(enable = "neon")]
fn add_two<const AT: usize, const KIND: u8, const ROWS: usize>(
    wide: &mut [[Wide; PAIR]; ROWS],
    levels: [&[Line; LINES]; PAIR],
    codes: [&[i8; GROUP]; ROWS],
    span: usize,
) {
    let mut lines = [[splat(0); 2]; PAIR];
    for (lines, levels) in lines.iter_mut().zip(levels) {
        for (line, levels) in lines.iter_mut().zip(&levels.as_chunks::<2>().0[AT]) {
            *line = load(&levels.0.as_chunks().0[span]);
        }
    }
    for (wide, codes) in wide.iter_mut().zip(codes) {
        let x = [splat(word(codes, 2 * AT)), splat(word(codes, 2 * AT + 1))];
        wide.iter_mut().zip(lines).for_each(|(wide, lines)| *wide = add_lines::<KIND>(*wide, lines, x));
    }
}

/// Adds to `PIXELS` pixels' sums their products with `count` lines of each block; `x` has the first one's inputs, the next's are
/// `apart` bytes on. Returns `PIXELS`.
#[inline]
#[target_feature(enable = "neon")]
fn some_pixels<const PIXELS: usize, const BLOCKS: usize>(
    lines: &Lines,
    count: usize,
    (x, apart): (&[i8], usize),
    mut sums: [&mut [[i32; BLOCK]]; PAIR],
) -> usize {
    let mut inputs = [&[][..]; PIXELS];
    for (at, inputs) in inputs.iter_mut().enumerate() {
        let some = x.get(at * apart..).and_then(|x| x.as_chunks::<4>().0.get(..count));
        let Some(some) = some else { return PIXELS };
        *inputs = some;
    }
    for span in 0..SPANS {
        let mut dots = [[[splat(0); 2]; BLOCKS]; PIXELS];
        for at in 0..count.min(PANEL_LINES) {
            let mut vectors = [splat(0); BLOCKS];
            for (vector, lines) in vectors.iter_mut().zip(lines) {
                // SAFETY: so many lines of each block have been written, each byte of them.
                let line = unsafe { lines.get_unchecked(at).assume_init_ref() };
                *vector = load(&line.0.as_chunks().0[span]);
            }
            for (dots, inputs) in dots.iter_mut().zip(inputs) {
                // SAFETY: all have `count`.
                let x = splat(i32::from_le_bytes(unsafe { *inputs.get_unchecked(at) }.map(|x| x as u8)));
                dots.iter_mut().zip(vectors).for_each(|(dot, vector)| *dot = add_line(*dot, vector, x));
            }
        }
        for (pixel, dots) in dots.into_iter().enumerate() {
            for (dot, sums) in dots.into_iter().zip(sums.iter_mut()) {
                add_to(narrowed(dot), &mut sums[pixel].as_chunks_mut().0[span]);
            }
        }
    }
    PIXELS
}

matmul_kernels! { "neon"; KERNELS = "aarch64-i8-neon", Portable }

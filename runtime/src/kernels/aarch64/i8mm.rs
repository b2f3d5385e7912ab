//! `SMMLA` (Armv8.6's i8mm): two rows of 8 codes times two rows of 8 levels. Until they are added to those in memory, a tile's sums are
//! such products, `[x0 w0, x0 w1, x1 w0, x1 w1]` of rows of codes `x` and rows of weights `w`; even elements of an array of them have the
//! first two of four rows of weights, odd ones the others. One row of codes is `SDOT`'s, which every core with this has, too.

use super::quads::*;

/// Rows of codes go by two.
const IN_PAIRS: bool = true;
/// Pixels side by side where a block is alone.
const ALONE: usize = TILE;

sdot! { "neon,dotprod,i8mm" }
quad_tiles! { "neon,dotprod,i8mm" }
features! { "neon,dotprod,i8mm";
    fn smmla(sum: V, x: V, levels: V) -> V {
        let mut sum = sum;
        // SAFETY: reads and writes these registers alone.
        unsafe {
            core::arch::asm!(
                "smmla {sum:v}.4s, {x:v}.16b, {levels:v}.16b",
                sum = inout(vreg) sum, x = in(vreg) x, levels = in(vreg) levels,
                options(pure, nomem, nostack, preserves_flags)
            );
        }
        sum
    }

    /// Of lines side by side: 8 columns of the first two of each four rows, then of the others.
    fn laid(levels: [V; LINES]) -> [V; LINES] {
        let mut all = levels;
        all.as_chunks_mut().0.iter_mut().for_each(|two: &mut [V; 2]| *two = zipped(two[0], two[1]));
        all
    }

    /// Those of even elements of a tile and of odd ones.
    fn tile_scales(all: &[u8; BLOCK], span: usize) -> [V; 2] {
        scales_by_two(all, span)
    }

    /// Adds each channel's weights, and lays the lines as [`laid`].
    fn add_weights(lines: &mut [Line], all: &mut [i32; BLOCK]) {
        sum_weights(lines, all);
        for [even, odd] in lines.as_chunks_mut().0 {
            for (even, odd) in even.0.as_chunks_mut().0.iter_mut().zip(odd.0.as_chunks_mut().0) {
                let [first, second] = zipped(load(even), load(odd));
                (*even, *odd) = (stored(first), stored(second));
            }
        }
    }
}

/// The sums of a group, of rows `4 span..` of each block.
#[inline]
#[target_feature(enable = "neon,dotprod,i8mm")]
fn group_dots<const _KIND: u8, const ROWS: usize>(
    levels: [&[Line; LINES]; PAIR],
    codes: [&[i8; GROUP]; ROWS],
    span: usize,
) -> [[V; PAIR]; ROWS] {
    let mut dots = [[splat(0); PAIR]; ROWS];
    half_dots::<0, _>(&mut dots, levels, codes, span);
    half_dots::<1, _>(&mut dots, levels, codes, span);
    dots
}

/// Adds those of half a group.
#[inline]
#[target_feature(enable = "neon,dotprod,i8mm")]
fn half_dots<const HALF: usize, const ROWS: usize>(
    dots: &mut [[V; PAIR]; ROWS],
    levels: [&[Line; LINES]; PAIR],
    codes: [&[i8; GROUP]; ROWS],
    span: usize,
) {
    let mut lines = [[splat(0); PAIR]; 4];
    for (at, lines) in lines.iter_mut().enumerate() {
        for (line, levels) in lines.iter_mut().zip(levels) {
            *line = load(&levels[4 * HALF + at].0.as_chunks().0[span]);
        }
    }
    for (dots, codes) in dots.as_chunks_mut::<2>().0.iter_mut().zip(codes.as_chunks().0) {
        let [x0, x1] = codes.map(|codes| load_codes(&codes.as_chunks().0[HALF]));
        let [low, high] = zipped_halves(x0, x1);
        for block in 0..PAIR {
            for of in 0..2 {
                dots[of][block] = smmla(dots[of][block], low, lines[of][block]);
                dots[of][block] = smmla(dots[of][block], high, lines[2 + of][block]);
            }
        }
    }
}

/// Each row's sums, four side by side.
#[inline]
#[target_feature(enable = "neon,dotprod,i8mm")]
fn by_row<const VECTORS: usize, const ROWS: usize>(sums: &mut [[V; VECTORS]; ROWS]) {
    for [even, odd] in sums.as_chunks_mut().0 {
        for (even, odd) in even.iter_mut().zip(odd) {
            [*even, *odd] = zipped_halves(*even, *odd);
        }
    }
}

/// Adds to `PIXELS` pixels' sums their products with `count` lines of each block; `x` has the first one's inputs, the next's are `apart`
/// bytes on. Returns `PIXELS`.
#[inline]
#[target_feature(enable = "neon,dotprod,i8mm")]
fn some_pixels<const PIXELS: usize, const BLOCKS: usize>(
    lines: &Lines,
    count: usize,
    x: (&[i8], usize),
    sums: [&mut [[i32; BLOCK]]; PAIR],
) -> usize {
    if PIXELS == 1 {
        pixels_of::<2, BLOCKS>(lines, 1, count, x, sums)
    } else {
        pixels_of::<PIXELS, BLOCKS>(lines, PIXELS, count, x, sums)
    }
    PIXELS
}

/// The first `pixels` of `PIXELS`; what is left are the last one again, whose sums nobody gets.
#[inline]
#[target_feature(enable = "neon,dotprod,i8mm")]
fn pixels_of<const PIXELS: usize, const BLOCKS: usize>(
    lines: &Lines,
    pixels: usize,
    count: usize,
    (x, apart): (&[i8], usize),
    sums: [&mut [[i32; BLOCK]]; PAIR],
) {
    let count = count.min(PANEL_LINES);
    let mut inputs = [&[][..]; PIXELS];
    for (at, inputs) in inputs.iter_mut().enumerate() {
        let some = x.get(at.min(pixels - 1) * apart..).and_then(|x| x.get(..4 * count));
        let Some(some) = some else { return };
        *inputs = some;
    }
    for (lines, sums) in lines.iter().zip(sums).take(BLOCKS) {
        // SAFETY: so many lines of each block have been written, each byte of them.
        let lines = unsafe { lines[..count].assume_init_ref() };
        let mut dots = [[splat(0); SPANS]; PIXELS];
        let (fours, rest) = lines.as_chunks::<4>();
        for (at, lines) in fours.iter().enumerate() {
            let mut x = [splat(0); PIXELS];
            for (x, inputs) in x.iter_mut().zip(inputs) {
                // SAFETY: all have 4 bytes a line.
                *x = load_codes(unsafe { inputs.as_chunks().0.get_unchecked(at) });
            }
            x.as_chunks_mut().0.iter_mut().for_each(|two: &mut [V; 2]| *two = zipped_halves(two[0], two[1]));
            add_lines::<0, PIXELS>(&mut dots, &lines[0], &lines[1], x);
            add_lines::<1, PIXELS>(&mut dots, &lines[2], &lines[3], x);
        }
        // Two lines or one, which nothing is beside.
        let (twos, last) = rest.as_chunks::<2>();
        for [even, odd] in twos {
            add_lines::<0, PIXELS>(&mut dots, even, odd, few(inputs, 4 * fours.len(), 2));
        }
        for line in last {
            let (mut even, mut odd) = (*line, *line);
            for (line, (even, odd)) in
                line.0.as_chunks().0.iter().zip(even.0.as_chunks_mut().0.iter_mut().zip(odd.0.as_chunks_mut().0))
            {
                let [first, second] = zipped(load(line), splat(0));
                (*even, *odd) = (stored(first), stored(second));
            }
            add_lines::<0, PIXELS>(&mut dots, &even, &odd, few(inputs, count - 1, 1));
        }
        by_row(&mut dots);
        for (dots, sums) in dots.into_iter().zip(sums).take(pixels) {
            dots.into_iter().zip(sums.as_chunks_mut().0).for_each(|(dot, sums)| add_to(dot, sums));
        }
    }
}

/// The inputs of `count` lines from line `at` on, 1 or 2, of two pixels side by side.
#[inline]
#[target_feature(enable = "neon,dotprod,i8mm")]
fn few<const PIXELS: usize>(inputs: [&[i8]; PIXELS], at: usize, count: usize) -> [V; PIXELS] {
    let mut x = [splat(0); PIXELS];
    for (x, inputs) in x.iter_mut().zip(inputs) {
        let mut codes = [0; 16];
        codes.iter_mut().zip(inputs.get(4 * at..).unwrap_or(&[])).take(4 * count).for_each(|(to, x)| *to = *x);
        *x = load_codes(&codes);
    }
    x.as_chunks_mut().0.iter_mut().for_each(|two: &mut [V; 2]| *two = zipped_halves(two[0], two[1]));
    x
}

/// Each two pixels' first 8 inputs (`EIGHT` 0), or the next, times two lines.
#[inline]
#[target_feature(enable = "neon,dotprod,i8mm")]
fn add_lines<const EIGHT: usize, const PIXELS: usize>(
    dots: &mut [[V; SPANS]; PIXELS],
    even: &Line,
    odd: &Line,
    x: [V; PIXELS],
) {
    let lines = [whole(even), whole(odd)];
    for (dots, x) in dots.as_chunks_mut::<2>().0.iter_mut().zip(x.as_chunks::<2>().0) {
        for (dots, line) in dots.iter_mut().zip(lines) {
            dots.iter_mut().zip(line).for_each(|(dot, levels)| *dot = smmla(*dot, x[EIGHT], levels));
        }
    }
}

matmul_kernels! { "neon,dotprod,i8mm"; KERNELS = "aarch64-i8-i8mm", Portable }

//! Tiles of backends whose instructions multiply a vector with four codes of one row, broadcast: x86-64's and WebAssembly's.

/// Adds the sums of a group with one row of codes. A function would change how the compiler takes the loops around it.
macro_rules! add_group {
    ($sum:ident, $kind:ident, $levels:expr, $codes:ident) => {
        for (line, levels) in $levels.into_iter().enumerate() {
            let x = splat(word($codes, line));
            *$sum = if $kind == N8 { dot8(*$sum, levels, x) } else { dot4(*$sum, levels, x) };
        }
    };
}

/// A tile of rows times a panel, where an instruction multiplies a vector of levels with four codes of one row.
macro_rules! tiles_of_rows {
    ($features:literal) => {
        use crate::kernels::vector::matmul::word;

        /// Levels stay as they were made.
        #[inline]
        #[target_feature(enable = $features)]
        fn laid(levels: [V; LINES]) -> [V; LINES] {
            levels
        }

        /// Adds the sums of a panel, which int32 holds, with `ROWS` rows to theirs; returns `ROWS`.
        #[inline]
        #[target_feature(enable = $features)]
        fn tile<const KIND: u8, const ROWS: usize>(
            (panel, x, (first, row), bases, (start, end, all)): Tile<'_>,
            sums: [&mut [[i64; BLOCK]]; PAIR],
        ) -> usize {
            let groups = end - start;
            let (mut codes, mut base) = ([&[][..]; ROWS], [&[][..]; ROWS]);
            for (at, (codes, base)) in codes.iter_mut().zip(&mut base).enumerate() {
                let sums_of = all * (row + at);
                let bases_of = if raised(KIND) == 0 { 0..0 } else { sums_of + start..sums_of + end };
                let slices = (row_groups(x, first + row + at).get(start..end), bases.get(bases_of));
                let (Some(some), Some(sums)) = slices else { return ROWS };
                (*codes, *base) = (some, sums);
            }
            if panel.iter().any(|(levels, scales)| levels.len() != groups || scales.len() != groups) {
                return ROWS;
            }
            for span in 0..BLOCK / LANES {
                let mut part = [[splat(0); PAIR]; ROWS];
                for at in 0..groups {
                    // SAFETY: all slices are `groups` long.
                    let levels = |block: usize| unsafe { panel[block].0.get_unchecked(at) };
                    let scale = |block: usize| unsafe { panel[block].1.get_unchecked(at) };
                    let codes = |row: usize| unsafe { codes[row].get_unchecked(at) };
                    let base = |row: usize| if raised(KIND) == 0 { 0 } else { unsafe { *base[row].get_unchecked(at) } };
                    let mut dots = [[splat(0); PAIR]; ROWS];
                    for row in 0..ROWS {
                        dots[row] = [splat(base(row)); PAIR];
                    }
                    for line in 0..LINES {
                        let mut vectors = [splat(0); PAIR];
                        for block in 0..PAIR {
                            vectors[block] = load(&levels(block)[line].0.as_chunks().0[span]);
                        }
                        for (row, dots) in dots.iter_mut().enumerate() {
                            let x = splat(word(codes(row), line));
                            for (dot, levels) in dots.iter_mut().zip(vectors) {
                                *dot = if KIND == N8 { dot8(*dot, levels, x) } else { dot4(*dot, levels, x) };
                            }
                        }
                    }
                    for block in 0..PAIR {
                        let scale = scales(scale(block), span);
                        for row in 0..ROWS {
                            part[row][block] = add_scaled(part[row][block], dots[row][block], scale);
                        }
                    }
                }
                for row in 0..ROWS {
                    for block in 0..PAIR {
                        flush(part[row][block], &mut sums[block][row].as_chunks_mut().0[span]);
                    }
                }
            }
            ROWS
        }
    };
}

/// A tile of pixels times lines of weights, where an instruction multiplies a line with four inputs of one pixel.
macro_rules! tiles_of_pixels {
    ($features:literal) => {
        /// Pixels side by side where a block is alone.
        const ALONE: usize = TILE * PAIR;

        /// Four products for each sum, of any int8, the first ones raised.
        #[inline]
        #[target_feature(enable = $features)]
        fn dots4(sum: V, x: V, w: V) -> V {
            dot8(sum, x, w)
        }

        /// Adds each channel's weights.
        #[inline]
        #[target_feature(enable = $features)]
        fn add_weights(lines: &mut [Line], all: &mut [i32; BLOCK]) {
            for (span, all) in all.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
                let mut sum = splat(0);
                for line in lines.iter() {
                    sum = dot8(sum, splat(0x0101_0101), load(&line.0.as_chunks().0[span]));
                }
                add_to(sum, all);
            }
        }

        /// Adds to `PIXELS` pixels' sums their products with `count` lines of each block; `x` has the first one's inputs, the
        /// next's are `apart` bytes on. Returns `PIXELS`.
        #[inline]
        #[target_feature(enable = $features)]
        fn some_pixels<const PIXELS: usize, const BLOCKS: usize>(
            lines: &Lines,
            count: usize,
            (x, apart): (&[i8], usize),
            sums: [&mut [[i32; BLOCK]]; PAIR],
        ) -> usize {
            let mut inputs = [&[][..]; PIXELS];
            for (at, inputs) in inputs.iter_mut().enumerate() {
                let some = x.get(at * apart..).and_then(|x| x.as_chunks::<4>().0.get(..count));
                let Some(some) = some else { return PIXELS };
                *inputs = some;
            }
            for span in 0..BLOCK / LANES {
                let mut dots = [[splat(0); BLOCKS]; PIXELS];
                for at in 0..count.min(PANEL_LINES) {
                    let mut vectors = [splat(0); BLOCKS];
                    for (vector, lines) in vectors.iter_mut().zip(lines) {
                        // SAFETY: so many lines of each block have been written, each byte of them.
                        let line = unsafe { lines.get_unchecked(at).assume_init_ref() };
                        *vector = load(&line.0.as_chunks().0[span]);
                    }
                    for (pixel, dots) in dots.iter_mut().enumerate() {
                        // SAFETY: all have `count`.
                        let x = splat(i32::from_le_bytes(unsafe { *inputs[pixel].get_unchecked(at) }.map(|x| x as u8)));
                        for (dot, vector) in dots.iter_mut().zip(vectors) {
                            *dot = dot8(*dot, x, vector);
                        }
                    }
                }
                for pixel in 0..PIXELS {
                    for block in 0..BLOCKS {
                        add_to(dots[pixel][block], &mut sums[block][pixel].as_chunks_mut().0[span]);
                    }
                }
            }
            PIXELS
        }
    };
}

//! `SDOT`, which multiplies a vector of levels with four codes out of sixteen. Its intrinsics are not stable yet.

macro_rules! sdot {
    ($features:literal) => {
        /// Adds the sums of a group.
        #[inline]
        #[target_feature(enable = $features)]
        fn group_dot<const _KIND: u8>(sum: V, levels: [V; LINES], codes: &[i8; GROUP]) -> V {
            let [low, high] = [0, 1].map(|half| load_codes(&codes.as_chunks().0[half]));
            let [a, b, c, d, e, f, g, h] = levels;
            let sum = sdot::<1>(sdot::<0>(sum, a, low), b, low);
            let sum = sdot::<3>(sdot::<2>(sum, c, low), d, low);
            let sum = sdot::<1>(sdot::<0>(sum, e, high), f, high);
            sdot::<3>(sdot::<2>(sum, g, high), h, high)
        }

        /// Four products for each sum, of any int8.
        #[inline]
        #[target_feature(enable = $features)]
        fn dots4(sum: V, x: V, w: V) -> V {
            let mut sum = sum;
            // SAFETY: reads and writes these registers alone.
            unsafe {
                core::arch::asm!(
                    "sdot {sum:v}.4s, {x:v}.16b, {w:v}.16b",
                    sum = inout(vreg) sum, x = in(vreg) x, w = in(vreg) w,
                    options(pure, nomem, nostack, preserves_flags)
                );
            }
            sum
        }

        #[inline]
        #[target_feature(enable = $features)]
        fn sdot<const FOUR: u32>(sum: V, levels: V, x: V) -> V {
            let mut sum = sum;
            // SAFETY: reads and writes these registers alone.
            unsafe {
                core::arch::asm!(
                    "sdot {sum:v}.4s, {levels:v}.16b, {x:v}.4b[{four}]",
                    sum = inout(vreg) sum, levels = in(vreg) levels, x = in(vreg) x, four = const FOUR,
                    options(pure, nomem, nostack, preserves_flags)
                );
            }
            sum
        }

        /// Adds each channel's weights.
        #[inline]
        #[target_feature(enable = $features)]
        fn sum_weights(lines: &[Line], all: &mut [i32; BLOCK]) {
            for (span, all) in all.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
                let mut sum = splat(0);
                for line in lines.iter() {
                    sum = sdot::<0>(sum, load(&line.0.as_chunks().0[span]), splat(0x0101_0101));
                }
                add_to(sum, all);
            }
        }
    };
}

/// What tiles are made of.
macro_rules! sdot_tiles {
    ($features:literal) => {
        /// Pixels side by side where a block is alone.
        const ALONE: usize = TILE;

        quad_tiles! { $features }
        one_by_one! { $features }

        /// The sums of a group, of rows `4 span..` of each block.
        #[inline]
        #[target_feature(enable = $features)]
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
        #[target_feature(enable = $features)]
        fn half_dots<const HALF: usize, const ROWS: usize>(
            dots: &mut [[V; PAIR]; ROWS],
            levels: [&[Line; LINES]; PAIR],
            codes: [&[i8; GROUP]; ROWS],
            span: usize,
        ) {
            let mut x = [splat(0); ROWS];
            for (x, codes) in x.iter_mut().zip(codes) {
                *x = load_codes(&codes.as_chunks().0[HALF]);
            }
            let mut lines = [[splat(0); PAIR]; 4];
            for (at, lines) in lines.iter_mut().enumerate() {
                for (line, levels) in lines.iter_mut().zip(levels) {
                    *line = load(&levels[4 * HALF + at].0.as_chunks().0[span]);
                }
            }
            add_line::<0, _, _>(dots, lines[0], x);
            add_line::<1, _, _>(dots, lines[1], x);
            add_line::<2, _, _>(dots, lines[2], x);
            add_line::<3, _, _>(dots, lines[3], x);
        }

        /// Each row's four codes times each vector of a line.
        #[inline]
        #[target_feature(enable = $features)]
        fn add_line<const FOUR: u32, const VECTORS: usize, const ROWS: usize>(
            dots: &mut [[V; VECTORS]; ROWS],
            line: [V; VECTORS],
            x: [V; ROWS],
        ) {
            for (dots, x) in dots.iter_mut().zip(x) {
                for (dot, line) in dots.iter_mut().zip(line) {
                    *dot = sdot::<FOUR>(*dot, line, x);
                }
            }
        }

        /// Adds each channel's weights.
        #[inline]
        #[target_feature(enable = $features)]
        fn add_weights(lines: &mut [Line], all: &mut [i32; BLOCK]) {
            sum_weights(lines, all);
        }

        /// Adds to `PIXELS` pixels' sums their products with `count` lines of each block; `x` has the first one's inputs, the next's are
        /// `apart` bytes on. Returns `PIXELS`. Sixteen inputs of a pixel are loaded together, for all channels of a block.
        #[inline]
        #[target_feature(enable = $features)]
        fn some_pixels<const PIXELS: usize, const BLOCKS: usize>(
            lines: &Lines,
            count: usize,
            (x, apart): (&[i8], usize),
            sums: [&mut [[i32; BLOCK]]; PAIR],
        ) -> usize {
            let count = count.min(PANEL_LINES);
            let mut inputs = [&[][..]; PIXELS];
            for (at, inputs) in inputs.iter_mut().enumerate() {
                let some = x.get(at * apart..).and_then(|x| x.get(..4 * count));
                let Some(some) = some else { return PIXELS };
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
                    add_line::<0, _, _>(&mut dots, whole(&lines[0]), x);
                    add_line::<1, _, _>(&mut dots, whole(&lines[1]), x);
                    add_line::<2, _, _>(&mut dots, whole(&lines[2]), x);
                    add_line::<3, _, _>(&mut dots, whole(&lines[3]), x);
                }
                for (line, at) in rest.iter().zip(4 * fours.len()..) {
                    let mut x = [splat(0); PIXELS];
                    for (x, inputs) in x.iter_mut().zip(inputs) {
                        // SAFETY: as above.
                        let four: [i8; 4] = unsafe { *inputs.as_chunks().0.get_unchecked(at) };
                        *x = splat(i32::from_le_bytes(four.map(|x| x as u8)));
                    }
                    add_line::<0, _, _>(&mut dots, whole(line), x);
                }
                for (dots, sums) in dots.into_iter().zip(sums) {
                    dots.into_iter().zip(sums.as_chunks_mut().0).for_each(|(dot, sums)| add_to(dot, sums));
                }
            }
            PIXELS
        }
    };
}

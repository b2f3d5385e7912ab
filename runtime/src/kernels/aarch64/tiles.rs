//! A tile of rows times a panel, for instructions that take several rows' or columns' codes at a time.

/// Adds the sums of a group with one row of codes.
macro_rules! add_group {
    ($sum:ident, $kind:ident, $levels:expr, $codes:ident) => {
        *$sum = group_dot::<$kind>(*$sum, $levels, $codes)
    };
}

/// Adds the products of 16 channels' inputs of four pixels with their weights.
macro_rules! add_tap {
    ($sums:ident, ($inputs:ident, $zx:ident), ($weights:ident, $zw:ident)) => {
        add_tap(&mut $sums, (&$inputs, $zx), (&$weights, $zw))
    };
}

/// Those of several.
macro_rules! quad_tiles {
    ($features:literal) => {
        /// Adds the sums of a panel, which int32 holds, with `ROWS` rows to theirs; returns `ROWS`.
        #[inline]
        #[target_feature(enable = $features)]
        fn tile<const KIND: u8, const ROWS: usize>(tile: Tile<'_>, sums: [&mut [[i64; BLOCK]]; PAIR]) -> usize {
            if ROWS == 1 && IN_PAIRS {
                rows_of::<KIND, 2>(tile, 1, sums)
            } else {
                rows_of::<KIND, ROWS>(tile, ROWS, sums)
            }
            ROWS
        }

        /// The first `count` of `ROWS`; what is left are the last one again, whose sums nobody gets.
        #[inline]
        #[target_feature(enable = $features)]
        fn rows_of<const KIND: u8, const ROWS: usize>(
            (panel, x, (first, row), _, (start, end, _)): Tile<'_>,
            count: usize,
            mut sums: [&mut [[i64; BLOCK]]; PAIR],
        ) {
            let groups = end - start;
            let mut codes = [&[][..]; ROWS];
            for (at, codes) in codes.iter_mut().enumerate() {
                let Some(some) = row_groups(x, first + row + at.min(count - 1)).get(start..end) else { return };
                *codes = some;
            }
            if panel.iter().any(|(levels, scales)| levels.len() != groups || scales.len() != groups) {
                return;
            }
            for span in 0..SPANS {
                let mut part = [[splat(0); PAIR]; ROWS];
                for at in 0..groups {
                    // SAFETY: all slices are `groups` long.
                    let (levels, scale, codes) = unsafe {
                        (
                            panel.map(|(levels, _)| levels.get_unchecked(at)),
                            panel.map(|(_, scales)| scales.get_unchecked(at)),
                            codes.map(|codes| codes.get_unchecked(at)),
                        )
                    };
                    let dots = group_dots::<KIND, _>(levels, codes, span);
                    for block in 0..PAIR {
                        let scales = tile_scales(scale[block], span);
                        for row in 0..ROWS {
                            part[row][block] = add_scaled(part[row][block], dots[row][block], scales[row % 2]);
                        }
                    }
                }
                by_row(&mut part);
                for (block, sums) in sums.iter_mut().enumerate() {
                    for (part, sums) in part.iter().zip(sums.iter_mut()).take(count) {
                        flush(part[block], &mut sums.as_chunks_mut().0[span]);
                    }
                }
            }
        }
    };
}

/// Where the sums of a tile are by row.
macro_rules! one_by_one {
    ($features:literal) => {
        /// Rows are by themselves.
        const IN_PAIRS: bool = false;

        features! { $features;
            /// Levels stay as they were made.
            fn laid(levels: [V; LINES]) -> [V; LINES] {
                levels
            }

            /// Of rows of codes with even and with odd numbers.
            fn tile_scales(all: &[u8; BLOCK], span: usize) -> [V; 2] {
                [scales_of(all, span); 2]
            }
        }

        /// Nothing to do.
        #[inline]
        #[target_feature(enable = $features)]
        fn by_row<const ROWS: usize>(_part: &mut [[V; PAIR]; ROWS]) {}
    };
}

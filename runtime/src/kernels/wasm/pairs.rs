//! What the backends of 128 bits share: half a line, 8 rows, is a pair of vectors, so that what is made of activations serves twice.
//! Four pairs of sums, levels and activations fit the 16 registers of x86-64.

macro_rules! pairs {
    ($features:literal; look up by $swizzle:ident) => {
        /// Half of a block's rows.
        type V = [v128; 2];
        const LANES: usize = 8;
        /// Rows of codes that fit the registers beside the weights.
        const TILE: usize = 4;
        /// Blocks side by side: registers are few.
        const PAIR: usize = 1;

        features! { $features;
            fn load(bytes: &[u8; 32]) -> V {
                // SAFETY: 32 bytes are there; the loads ask for no alignment.
                unsafe { [v128_load(bytes.as_ptr().cast()), v128_load(bytes.as_ptr().add(16).cast())] }
            }

            fn twice(levels: [i8; 16]) -> V {
                // SAFETY: 16 bytes are there; the load asks for no alignment.
                [unsafe { v128_load(levels.as_ptr().cast()) }; 2]
            }

            fn low(codes: V, book: V) -> V {
                codes.map(|v| $swizzle(book[0], v128_and(v, u8x16_splat(15))))
            }

            /// The levels of low and of high nibbles.
            fn nibbles(codes: V, book: V) -> [V; 2] {
                [low(codes, book), codes.map(|v| $swizzle(book[0], u8x16_shr(v, 4)))]
            }

            /// Levels with a sign bit are negated.
            fn negated(levels: V, signs: [u8; LANES / 2]) -> V {
                // Each byte gets the 8 bits that its own is among, then its own.
                let bits = i64x2_splat(i64::from_le_bytes([1, 2, 4, 8, 16, 32, 64, 128]));
                let signs = i32x4_splat(i32::from_le_bytes(signs));
                let around = [
                    i8x16_shuffle::<0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1>(signs, signs),
                    i8x16_shuffle::<2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3>(signs, signs),
                ];
                negated_at(levels, around, [bits; 2])
            }

            /// Negated where a byte has its bit.
            fn negated_at(levels: V, bytes: V, bits: V) -> V {
                from_fn(|at| {
                    let all = i8x16_eq(v128_and(bytes[at], bits[at]), bits[at]);
                    turned_at(levels[at], all)
                })
            }

            /// The codes of one and of two rows before.
            fn rows_before(line: &[u8; 64], half: usize) -> [V; 2] {
                let halves = line.as_chunks::<32>().0;
                let ([first, second], [_, last]) = (load(&halves[half & 1]), load(&halves[!half & 1]));
                let one = |before, this| i32x4_shuffle::<3, 4, 5, 6>(before, this);
                let two = |before, this| i32x4_shuffle::<2, 3, 4, 5>(before, this);
                [[one(last, first), one(first, second)], [two(last, first), two(first, second)]]
            }

            /// The bits of `low` that `bits`, the same of each byte, has, and the others of `high`.
            fn picked(bits: u8, low: V, high: V) -> V {
                from_fn(|at| v128_bitselect(low[at], high[at], u8x16_splat(bits)))
            }

            /// Bits in which they differ.
            fn differing(a: V, b: V) -> V {
                from_fn(|at| v128_xor(a[at], b[at]))
            }

            /// The levels of T4's windows, that begin at low nibbles and at high ones, from those of windows whose bit 4 is not set and of those
            /// where it is.
            fn windows(codes: V, halves: [V; 2]) -> [V; 2] {
                // To the right by four bits, around a word's end.
                let turned = codes.map(|v| v128_or(u32x4_shr(v, 4), u32x4_shl(v, 28)));
                [window(codes, halves), window(turned, halves)]
            }

            fn window(windows: V, halves: [V; 2]) -> V {
                let [clear, set] = halves.map(|book| low(windows, book));
                let bit = |at: usize, bit| i8x16_ne(v128_and(windows[at], u8x16_splat(bit)), u8x16_splat(0));
                from_fn(|at| turned_at(v128_bitselect(set[at], clear[at], bit(at, 0x10)), bit(at, 0x20)))
            }

            fn bytes(codes: V) -> V {
                codes
            }

            /// Even and odd columns, as int16: bytes of either sign and any value, -128 among them, times others.
            fn dot8(sum: V, levels: V, x: V) -> V {
                let even = |v| i16x8_shr(i16x8_shl(v, 8), 8);
                let odd = |v| i16x8_shr(v, 8);
                from_fn(|at| {
                    let evens = i32x4_dot_i16x8(even(levels[at]), even(x[at]));
                    i32x4_add(i32x4_add(sum[at], evens), i32x4_dot_i16x8(odd(levels[at]), odd(x[at])))
                })
            }

            /// Byte `i` of each is among word `i`'s.
            fn turned(rows: [&[u8; BLOCK]; 4]) -> [V; BLOCK / LANES] {
                // SAFETY: 16 bytes are there; the load asks for no alignment.
                let [a, b, c, d] = rows.map(|row| unsafe { v128_load(row.as_ptr().cast()) });
                let low = |a, b| i8x16_shuffle::<0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23>(a, b);
                let high = |a, b| i8x16_shuffle::<8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31>(a, b);
                let four = |a, b| {
                    [i16x8_shuffle::<0, 8, 1, 9, 2, 10, 3, 11>(a, b), i16x8_shuffle::<4, 12, 5, 13, 6, 14, 7, 15>(a, b)]
                };
                [four(low(a, b), low(c, d)), four(high(a, b), high(c, d))]
            }

            fn widened(x: &[i8; LANES]) -> V {
                // SAFETY: 8 bytes are there; the load asks for no alignment.
                let x = unsafe { i16x8_load_extend_i8x8(x.as_ptr()) };
                [i32x4_extend_low_i16x8(x), i32x4_extend_high_i16x8(x)]
            }

            fn words(x: &[i32; LANES]) -> V {
                // SAFETY: 32 bytes are there; the loads ask for no alignment.
                unsafe { [v128_load(x.as_ptr().cast()), v128_load(x.as_ptr().add(4).cast())] }
            }

            fn plus(a: V, b: V) -> V {
                from_fn(|at| i32x4_add(a[at], b[at]))
            }

            fn up_by(x: V, bits: u32) -> V {
                x.map(|v| i32x4_shl(v, bits))
            }

            fn minus(a: V, b: V) -> V {
                from_fn(|at| i32x4_sub(a[at], b[at]))
            }

            /// `fixed::tflite::requantize` with double rounding of sums and what is added to them, the multiplier positive: what is
            /// added, multiplier, right shift, the bits that drops.
            fn rounded(sums: V, numbers: [V; 4]) -> V {
                let [bias, multiplier, right, dropped] = numbers;
                from_fn(|at| {
                    let (x, multiplier, dropped) = (i32x4_add(sums[at], bias[at]), multiplier[at], dropped[at]);
                    // The product and a half in 64 bits; 31 bits less.
                    let half = i64x2_splat(1 << 30);
                    let lows = u64x2_shr(i64x2_add(i64x2_extmul_low_i32x4(x, multiplier), half), 31);
                    let highs = u64x2_shr(i64x2_add(i64x2_extmul_high_i32x4(x, multiplier), half), 31);
                    let high = i32x4_shuffle::<0, 2, 4, 6>(lows, highs);
                    // Halves away from zero: `fixed::tflite::divide_by_pot`.
                    let most = i32x4_sub(u32x4_shr(dropped, 1), i32x4_shr(high, 31));
                    let up = i32x4_gt(v128_and(high, dropped), most);
                    i32x4_sub(shifted_each(high, right[at]), up)
                })
            }

            /// There is no shift of each element by its own: one after the other.
            fn shifted_each(x: v128, right: v128) -> v128 {
                i32x4(
                    i32x4_extract_lane::<0>(x).wrapping_shr(u32x4_extract_lane::<0>(right)),
                    i32x4_extract_lane::<1>(x).wrapping_shr(u32x4_extract_lane::<1>(right)),
                    i32x4_extract_lane::<2>(x).wrapping_shr(u32x4_extract_lane::<2>(right)),
                    i32x4_extract_lane::<3>(x).wrapping_shr(u32x4_extract_lane::<3>(right)),
                )
            }

            fn limited(x: V, min: V, max: V, zero: V) -> V {
                from_fn(|at| i32x4_add(i32x4_min(i32x4_max(x[at], min[at]), max[at]), zero[at]))
            }

            /// The lowest bytes of all elements.
            fn narrow(x: V, to: &mut [i8; LANES]) {
                let [a, b] = x;
                let lowest = i8x16_shuffle::<0, 4, 8, 12, 16, 20, 24, 28, 0, 0, 0, 0, 0, 0, 0, 0>(a, b);
                // SAFETY: 8 bytes are there; the store asks for no alignment.
                unsafe { v128_store64_lane::<0>(lowest, to.as_mut_ptr().cast()) };
            }

            /// The sums, 32 bits each, into those of 16 channels.
            fn add_to(part: V, sums: &mut [i32; LANES]) {
                let [a, b] = plus(words(sums), part);
                // SAFETY: 32 bytes are there; the stores ask for no alignment.
                unsafe {
                    v128_store(sums.as_mut_ptr().cast(), a);
                    v128_store(sums.as_mut_ptr().add(4).cast(), b);
                }
            }

            /// Element `j` of vector `i` becomes element `i` of vector `j`.
            fn transposed(v: [V; LANES]) -> [V; LANES] {
                let four = |at: usize, half: usize| {
                    let [a, b, c, d] = from_fn(|i| v[at + i][half]);
                    let low = |a, b| i32x4_shuffle::<0, 4, 1, 5>(a, b);
                    let high = |a, b| i32x4_shuffle::<2, 6, 3, 7>(a, b);
                    let (ab, cd) = ([low(a, b), high(a, b)], [low(c, d), high(c, d)]);
                    let pairs: [[v128; 2]; 2] =
                        from_fn(|i| [i64x2_shuffle::<0, 2>(ab[i], cd[i]), i64x2_shuffle::<1, 3>(ab[i], cd[i])]);
                    [pairs[0][0], pairs[0][1], pairs[1][0], pairs[1][1]]
                };
                let quarters = [[four(0, 0), four(4, 0)], [four(0, 1), four(4, 1)]];
                from_fn(|j| quarters[j / 4].map(|quarter| quarter[j % 4]))
            }

            /// Bits of bytes to the right, or left if `by` is below 0; what comes from the neighbour is not what is taken.
            fn shifted(v: V, by: i32) -> V {
                v.map(|v| if by < 0 { i16x8_shl(v, by.unsigned_abs()) } else { u16x8_shr(v, by as u32) })
            }

            fn splat(value: i32) -> V {
                [i32x4_splat(value); 2]
            }

            fn scales(all: &[u8; BLOCK], span: usize) -> V {
                let bytes: &[u8; LANES] = &all.as_chunks().0[span & 1];
                // SAFETY: 8 bytes are there; the load asks for no alignment.
                let scales = unsafe { u16x8_load_extend_u8x8(bytes.as_ptr()) };
                [u32x4_extend_low_u16x8(scales), u32x4_extend_high_u16x8(scales)]
            }

            fn add_scaled(sum: V, value: V, scale: V) -> V {
                from_fn(|at| i32x4_add(sum[at], i32x4_mul(value[at], scale[at])))
            }

            fn flush(part: V, sums: &mut [i64; LANES]) {
                for (part, sums) in part.into_iter().zip(sums.as_chunks_mut::<4>().0) {
                    let wide = [i64x2_extend_low_i32x4(part), i64x2_extend_high_i32x4(part)];
                    for (part, sums) in wide.into_iter().zip(sums.as_chunks_mut::<2>().0) {
                        // SAFETY: 2 numbers are there; neither load nor store asks for alignment.
                        unsafe {
                            let sum = i64x2_add(v128_load(sums.as_ptr().cast()), part);
                            v128_store(sums.as_mut_ptr().cast(), sum);
                        }
                    }
                }
            }
        }
    };
}

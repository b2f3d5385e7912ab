//! What all backends of 256 bits share: half a line, 8 rows, is a vector.

macro_rules! half_lines {
    ($features:literal) => {
        /// Half of a block's rows.
        type V = __m256i;
        const LANES: usize = 8;
        /// Rows of codes that fit the registers beside the weights.
        const TILE: usize = 4;
        /// Blocks side by side: registers are few.
        const PAIR: usize = 1;

        features! { $features;
            fn load(bytes: &[u8; 32]) -> V {
                // SAFETY: 32 bytes are there; the load asks for no alignment.
                unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
            }

            fn twice(levels: [i8; 16]) -> V {
                // SAFETY: 16 bytes are there; the load asks for no alignment.
                _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(levels.as_ptr().cast()) })
            }

            fn low(codes: V, book: V) -> V {
                _mm256_shuffle_epi8(book, _mm256_and_si256(codes, _mm256_set1_epi8(15)))
            }

            /// The levels of low and of high nibbles.
            fn nibbles(codes: V, book: V) -> [V; 2] {
                [low(codes, book), low(_mm256_srli_epi16::<4>(codes), book)]
            }

            /// Levels with a sign bit are negated; raised by 128, they are so modulo 256.
            fn negated(levels: V, signs: [u8; LANES / 2]) -> V {
                // Each byte gets the 8 bits that its own is among, then its own, then all ones or none.
                let bytes = _mm256_setr_epi64x(0, 0x0101_0101_0101_0101, 0x0202_0202_0202_0202, 0x0303_0303_0303_0303);
                let bits = _mm256_set1_epi64x(i64::from_le_bytes([1, 2, 4, 8, 16, 32, 64, 128]));
                let around = _mm256_shuffle_epi8(_mm256_set1_epi32(i32::from_le_bytes(signs)), bytes);
                negated_at(levels, around, bits)
            }

            /// Negated where a byte has its bit.
            fn negated_at(levels: V, bytes: V, bits: V) -> V {
                let all = _mm256_cmpeq_epi8(_mm256_and_si256(bytes, bits), bits);
                _mm256_sub_epi8(_mm256_xor_si256(levels, all), all)
            }

            /// The codes of one and of two rows before.
            fn rows_before(line: &[u8; 64], half: usize) -> [V; 2] {
                let halves = line.as_chunks::<32>().0;
                let (this, other) = (load(&halves[half & 1]), load(&halves[!half & 1]));
                let between = _mm256_permute2x128_si256::<0x21>(other, this);
                [_mm256_alignr_epi8::<12>(this, between), _mm256_alignr_epi8::<8>(this, between)]
            }

            /// The bits of `low` that `bits`, the same of each byte, has, and the others of `high`.
            fn picked(bits: u8, low: V, high: V) -> V {
                let bits = _mm256_set1_epi8(bits as i8);
                _mm256_or_si256(_mm256_and_si256(low, bits), _mm256_andnot_si256(bits, high))
            }

            /// Bits in which they differ.
            fn differing(a: V, b: V) -> V {
                _mm256_xor_si256(a, b)
            }

            /// The levels of T4's windows, that begin at low nibbles and at high ones, from those of windows whose bit 4 is not set and of those
            /// where it is.
            fn windows(codes: V, halves: [V; 2]) -> [V; 2] {
                // To the right by four bits, around a word's end.
                let turned = _mm256_or_si256(_mm256_srli_epi32::<4>(codes), _mm256_slli_epi32::<28>(codes));
                [window(codes, halves), window(turned, halves)]
            }

            fn window(windows: V, halves: [V; 2]) -> V {
                let code = _mm256_and_si256(windows, _mm256_set1_epi8(15));
                let [clear, set] = halves.map(|book| _mm256_shuffle_epi8(book, code));
                // Bit 4 as the highest one of its byte picks.
                let level = _mm256_blendv_epi8(clear, set, _mm256_slli_epi16::<3>(windows));
                // Raised levels, too, are negated so.
                negated_at(level, windows, _mm256_set1_epi8(0x20))
            }

            /// Byte `i` of each is among word `i`'s.
            fn turned(rows: [&[u8; BLOCK]; 4]) -> [V; 2] {
                // SAFETY: 16 bytes are there; the load asks for no alignment.
                let [a, b, c, d] = rows.map(|row| unsafe { _mm_loadu_si128(row.as_ptr().cast()) });
                let both = |a, b| [_mm_unpacklo_epi8(a, b), _mm_unpackhi_epi8(a, b)];
                let four = |a, b| _mm256_set_m128i(_mm_unpackhi_epi16(a, b), _mm_unpacklo_epi16(a, b));
                let ([ab, last_ab], [cd, last_cd]) = (both(a, b), both(c, d));
                [four(ab, cd), four(last_ab, last_cd)]
            }

            fn widened(x: &[i8; LANES]) -> V {
                // SAFETY: 8 bytes are there; the load asks for no alignment.
                _mm256_cvtepi8_epi32(unsafe { _mm_loadl_epi64(x.as_ptr().cast()) })
            }

            fn words(x: &[i32; LANES]) -> V {
                // SAFETY: 32 bytes are there; the load asks for no alignment.
                unsafe { _mm256_loadu_si256(x.as_ptr().cast()) }
            }

            fn plus(a: V, b: V) -> V {
                _mm256_add_epi32(a, b)
            }

            fn up_by(x: V, bits: u32) -> V {
                _mm256_sll_epi32(x, _mm_cvtsi32_si128(bits as i32))
            }

            fn minus(a: V, b: V) -> V {
                _mm256_sub_epi32(a, b)
            }

            /// `fixed::tflite::requantize` with double rounding of sums and what is added to them, the multiplier positive: what is
            /// added, multiplier, right shift, the bits that drops.
            fn rounded(sums: V, numbers: [V; 4]) -> V {
                let [bias, multiplier, right, dropped] = numbers;
                let x = _mm256_add_epi32(sums, bias);
                // The product and a half in 64 bits, of even and of odd elements; 31 bits less.
                let half = _mm256_set1_epi64x(1 << 30);
                let odd = |v: V| _mm256_srli_epi64::<32>(v);
                let evens = _mm256_add_epi64(_mm256_mul_epi32(x, multiplier), half);
                let odds = _mm256_add_epi64(_mm256_mul_epi32(odd(x), odd(multiplier)), half);
                let high =
                    _mm256_blend_epi32::<0xAA>(_mm256_srli_epi64::<31>(evens), _mm256_slli_epi64::<1>(odds));
                // Halves away from zero: `fixed::tflite::divide_by_pot`.
                let most = minus(_mm256_srli_epi32::<1>(dropped), _mm256_srai_epi32::<31>(high));
                let up = _mm256_cmpgt_epi32(_mm256_and_si256(high, dropped), most);
                minus(_mm256_srav_epi32(high, right), up)
            }

            fn limited(x: V, min: V, max: V, zero: V) -> V {
                _mm256_add_epi32(_mm256_min_epi32(_mm256_max_epi32(x, min), max), zero)
            }

            /// The lowest bytes of all elements.
            fn narrow(x: V, to: &mut [i8; LANES]) {
                let lowest = _mm256_setr_epi8(
                    0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, //
                    0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1,
                );
                let x = _mm256_shuffle_epi8(x, lowest);
                let both = _mm_unpacklo_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256::<1>(x));
                // SAFETY: 8 bytes are there; the store asks for no alignment.
                unsafe { _mm_storel_epi64(to.as_mut_ptr().cast(), both) };
            }

            /// The sums, 32 bits each, into those of 16 channels.
            fn add_to(part: V, sums: &mut [i32; LANES]) {
                // SAFETY: 32 bytes are there; neither load nor store asks for alignment.
                unsafe {
                    let sum = _mm256_add_epi32(_mm256_loadu_si256(sums.as_ptr().cast()), part);
                    _mm256_storeu_si256(sums.as_mut_ptr().cast(), sum);
                }
            }

            /// Element `j` of vector `i` becomes element `i` of vector `j`.
            fn transposed(v: [V; LANES]) -> [V; LANES] {
                let pair = |a, b| [_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b)];
                let four = |a, b| [_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b)];
                let ([a0, a1], [b0, b1]) = (pair(v[0], v[1]), pair(v[2], v[3]));
                let ([c0, c1], [d0, d1]) = (pair(v[4], v[5]), pair(v[6], v[7]));
                let (low, high) = ([four(a0, b0), four(a1, b1)], [four(c0, d0), four(c1, d1)]);
                let mut out = v;
                for (i, (low, high)) in low.as_flattened().iter().zip(high.as_flattened()).enumerate() {
                    out[i] = _mm256_permute2x128_si256::<0x20>(*low, *high);
                    out[i + 4] = _mm256_permute2x128_si256::<0x31>(*low, *high);
                }
                out
            }

            /// Bits of bytes to the right, or left if `by` is below 0; what comes from the neighbour is not what is taken.
            fn shifted(v: V, by: i32) -> V {
                let right = _mm256_srl_epi16(v, _mm_cvtsi32_si128(by));
                if by < 0 { _mm256_sll_epi16(v, _mm_cvtsi32_si128(-by)) } else { right }
            }

            fn splat(value: i32) -> V {
                _mm256_set1_epi32(value)
            }

            fn scales(all: &[u8; BLOCK], span: usize) -> V {
                let bytes: &[u8; LANES] = &all.as_chunks().0[span & 1];
                // SAFETY: 8 bytes are there; the load asks for no alignment.
                _mm256_cvtepu8_epi32(unsafe { _mm_loadl_epi64(bytes.as_ptr().cast()) })
            }

            fn add_scaled(sum: V, value: V, scale: V) -> V {
                _mm256_add_epi32(sum, _mm256_mullo_epi32(value, scale))
            }

            fn flush(part: V, sums: &mut [i64; LANES]) {
                let halves = [_mm256_castsi256_si128(part), _mm256_extracti128_si256::<1>(part)];
                for (half, sums) in halves.into_iter().zip(sums.as_chunks_mut::<4>().0) {
                    // SAFETY: 4 numbers are there; neither load nor store asks for alignment.
                    unsafe {
                        let old = _mm256_loadu_si256(sums.as_ptr().cast());
                        let sum = _mm256_add_epi64(old, _mm256_cvtepi32_epi64(half));
                        _mm256_storeu_si256(sums.as_mut_ptr().cast(), sum);
                    }
                }
            }
        }
    };
}

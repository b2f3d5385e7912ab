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

            /// The same of codes along a trellis, from the codes of one and of two rows before.
            fn along_trellis(codes: V, rows: [V; 2], book: V) -> [V; 2] {
    let [before, before_that] = rows;
                let turned = _mm256_xor_si256(codes, _mm256_and_si256(before_that, _mm256_set1_epi8(0x11)));
                let [low, high] = nibbles(turned, book);
                // Raised levels, too, are negated so.
                [negated_at(low, before, _mm256_set1_epi8(0x01)), negated_at(high, before, _mm256_set1_epi8(0x10))]
            }

            fn splat(value: i32) -> V {
                _mm256_set1_epi32(value)
            }

            fn scales(bytes: &[u8; LANES]) -> V {
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

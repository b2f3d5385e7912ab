//! The scalar kernels' source compiled once for each instruction set, and the choice between them: function multiversioning,
//! all of it here. Whatever the compiler makes of it, the bits are those of the source.
#![cfg_attr(target_arch = "x86_64", allow(unsafe_code))]

#[cfg(mote_dsp)]
use super::arm::requantize as coded_to_int8;
use super::scalar::int8::Output;
#[cfg(not(mote_dsp))]
use super::scalar::rows::requantize as coded_to_int8;
#[cfg(target_arch = "x86_64")]
use super::x86;
use super::{Head, Isa, Rescale, scalar};
use crate::fixed::Scale;
use crate::fixed::requantize::quantize_row;
use crate::image::tensors::{BLOCK, Vector16};
use crate::view::Columns;

/// For each line a function that runs the scalar kernel of that name, in the version of `isa`.
macro_rules! versions {
    ($($(#[$meta:meta])* fn $name:ident = $source:path, ($($arg:ident : $type:ty),* $(,)?) $(-> $result:ty)?;)*) => {
        $(
            $(#[$meta])*
            pub fn $name(isa: Isa, $($arg: $type),*) $(-> $result)? {
                match isa {
                    Isa::Portable => $source($($arg),*),
                    #[cfg(all(mote_vector, target_arch = "riscv64"))]
                    Isa::Rvv => $source($($arg),*),
                    #[cfg(target_arch = "x86_64")]
                    Isa::Avx2 => {
                        #[target_feature(enable = "avx2,bmi2,lzcnt")]
                        fn version($($arg: $type),*) $(-> $result)? {
                            $source($($arg),*)
                        }
                        // SAFETY: only tables of machines that have these instructions hold this value.
                        unsafe { version($($arg),*) }
                    }
                    #[cfg(target_arch = "x86_64")]
                    Isa::Avx512 => {
                        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512cd,avx2,bmi2,lzcnt")]
                        fn version($($arg: $type),*) $(-> $result)? {
                            $source($($arg),*)
                        }
                        // SAFETY: as above.
                        unsafe { version($($arg),*) }
                    }
                }
            }
        )*
    };
}

versions! {
    /// `out = sat(sat(R(sum * ((mult * mant) >> excess), shift)) + bias + old)` for each row of a block, of some rows of codes: multipliers
    /// and biases as the image has them, and where results go, the first row and the block's columns. `None` if something is too short.
    fn rescale = scalar::rescale,
        (sums: &[[i64; BLOCK]], numbers: (&[[u8; 2]; BLOCK], &[[u8; 4]; BLOCK]), how: &Rescale<'_>, out: &mut Columns<'_, i32>, at: (usize, usize))
        -> Option<()>;

    /// `out = clamp(R(sum * mult + bias, shift))` for each row of a block and each row of codes; `out` has `stride` elements from one to the
    /// next, of which `width` are the block's. `None` if it is too short.
    fn requantize = coded_to_int8,
        (sums: &[[i64; BLOCK]], numbers: &([u16; BLOCK], [i64; BLOCK]), shift: i32, how: &Output, out: &mut [i8], at: (usize, usize))
        -> Option<()>;

    /// See [`glu`].
    fn plain_glu = scalar::rows::glu, (gate: &mut [i32], up: &[i32], frac: i32, shift: i32);

    /// Quantizes `row` (fixed point, `frac` fraction bits) into `codes` with one scale. Codes beyond the row become 0.
    fn quantize = quantize_row, (row: &[i32], frac: i32, codes: &mut [i8]) -> Scale;

    /// Keys or values of a head, overwritten, into a cache of 4 bits. `None` if the head is too wide.
    fn quantize4 = scalar::nibbles::quantize4,
        (values: &mut [i32], frac: i32, codes: &mut [u8]) -> Option<[u8; 2]>;

    /// In-place Walsh-Hadamard transform of each `2^log2` values. Returns the bits by which they were shifted right before.
    fn hadamard = scalar::rows::hadamard, (values: &mut [i32], log2: u32) -> i32;

    /// The same, at the scale that they had: what was shifted goes left again.
    fn transform = scalar::rows::transform, (values: &mut [i32], log2: u32);

    /// Turns each pair by an angle, given as its cosine and sine in Q30.
    fn rotate = scalar::rows::rotate, (low: &mut [i32], high: &mut [i32], turns: &[(i32, i32)]);

    /// RMS norm of a row.
    fn rms_norm = scalar::rows::rms_norm,
        (x: &[i32], y: &mut [i32], gamma: Option<Vector16<'_>>, eps: u64, root: (u64, i32), out_frac: i32);

    /// See [`attend`].
    fn plain_attend = scalar::attention::attend,
        (head: &Head<'_>, q: (&[i32], i32), unit: Scale, scratch: &mut [i32], out: (&mut [i32], i32)) -> Option<()>;
}

/// `gate = silu(gate) * up`; `shift` brings the product to the result's fraction bits. `frac`: of the gate, 0 to 28.
pub fn glu(isa: Isa, gate: &mut [i32], up: &[i32], frac: i32, shift: i32) {
    match (isa, u32::try_from(frac), u32::try_from(shift)) {
        // SAFETY: only tables of machines that have these instructions hold this value.
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx2, Ok(frac @ ..=28), Ok(shift @ 1..64)) => unsafe { x86::glu::avx2::glu(gate, up, frac, shift) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx512, Ok(frac @ ..=28), Ok(shift @ 1..64)) => unsafe { x86::glu::avx512::glu(gate, up, frac, shift) },
        _ => plain_glu(isa, gate, up, frac, shift),
    }
}

/// Attention of one query head: `q` and `out` with their fraction bits, `unit` log2(e) / sqrt(head_dim), `scratch` as many
/// numbers as there are positions. `None` if something is too short.
pub fn attend(
    isa: Isa,
    head: &Head<'_>,
    q: (&[i32], i32),
    unit: Scale,
    scratch: &mut [i32],
    out: (&mut [i32], i32),
) -> Option<()> {
    match isa {
        #[cfg(all(mote_vector, target_arch = "riscv64"))]
        Isa::Rvv => super::riscv64::attend(head, q, unit, scratch, out),
        // SAFETY: only tables of machines that have these instructions hold this value.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => unsafe { x86::attention::attend(head, q, unit, scratch, out) },
        _ => plain_attend(isa, head, q, unit, scratch, out),
    }
}

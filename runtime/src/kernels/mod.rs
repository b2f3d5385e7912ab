//! Kernels: the inner loops, as a table of function pointers, and the one place that selects it.
//!
//! The scalar kernels are the specification. Every sum is exact (int32 inside a stretch that cannot overflow, int64
//! across), so any order of summation, any width and any number of threads gives the same bits; a backend has nothing
//! to agree on but the sums.

#[forbid(unsafe_code)]
pub mod scalar;

use crate::image::Coded;
use crate::image::tensors::BLOCK;

/// Exact sums of one block of 16 rows with one row of activations:
/// `acc[r] = sum over groups of scale[r, group] * sum over columns of level[r, col] * x[col]`.
///
/// Shapes: `x` holds `32 * groups` codes, any int8 (zeros beyond the columns). `acc` is overwritten.
pub type BlockFn = fn(w: &Coded<'_>, block: usize, x: &[i8], acc: &mut [i64; BLOCK]);

/// The kernels of one instruction set.
#[derive(Clone, Copy, Debug)]
pub struct Kernels {
    /// `{arch}-{types}-{variant}`, for logs and benchmarks.
    pub name: &'static str,
    /// 4-bit weights.
    pub n4_block: BlockFn,
    /// 8-bit weights.
    pub n8_block: BlockFn,
}

/// The best kernels for this machine.
#[must_use]
pub fn select() -> &'static Kernels {
    &scalar::KERNELS
}

//! Kernels: the inner loops, as a table of function pointers, and the one place that selects it.
//!
//! The scalar kernels are the specification. Every sum is exact (int32 inside a stretch that cannot overflow, int64
//! across), so any order of summation, any width and any number of threads gives the same bits; a backend has nothing
//! to agree on but the sums. What is not a sum is the scalar kernels' source, compiled for the backend's instructions.

/// `core::arch::naked_asm!` for the core that the code is compiled for (`build.rs`).
#[cfg(any(mote_dsp, mote_mve))]
macro_rules! naked_asm {
    ($($line:tt)*) => { ::core::arch::naked_asm!(env!("MOTE_CPU"), $($line)*) };
}

#[cfg(mote_vector)]
#[cfg_attr(target_arch = "riscv64", allow(unused_macros, dead_code))] // which has loops of its own
#[macro_use]
mod vector; // first, for its macros
#[cfg(all(mote_vector, target_arch = "aarch64"))]
mod aarch64;
#[cfg(mote_dsp)]
pub mod arm;
#[cfg(mote_mve)]
pub mod helium;
#[cfg(mote_lanes)]
mod lanes;
#[cfg(any(mote_dsp, mote_mve, mote_lanes))]
mod recoded;
#[cfg(all(mote_vector, target_arch = "riscv64"))]
mod riscv64;
pub(crate) mod rows;
#[forbid(unsafe_code)]
pub mod scalar;
#[cfg(all(mote_vector, target_arch = "wasm32"))]
mod wasm;
#[cfg(target_arch = "x86_64")]
mod x86;

use core::ops::Range;

#[cfg(all(mote_vector, target_arch = "aarch64"))]
use aarch64 as arch;
/// Convolutions of int8 of a microcontroller.
#[cfg(mote_dsp)]
pub use arm::int8;
/// Convolutions of int8 of a microcontroller.
#[cfg(mote_mve)]
pub use helium::int8;
/// Convolutions of int8 of a microcontroller.
#[cfg(mote_lanes)]
pub use lanes::int8;
#[cfg(all(mote_vector, target_arch = "riscv64"))]
use riscv64 as arch;
/// Convolutions of int8 of a microcontroller.
#[cfg(not(any(mote_dsp, mote_mve, mote_lanes, mote_vector)))]
pub use scalar::int8;
#[cfg(all(mote_vector, target_arch = "wasm32"))]
use wasm as arch;
#[cfg(target_arch = "x86_64")]
use x86 as arch;

use scalar::int8::{AddFn, ConvFn, Output};

use crate::image::plan::Kind;
use crate::image::tensors::{BLOCK, GROUP};
use crate::image::{Coded, Dtype};
use crate::view;

/// Rows of int8 codes at equal distances, as a Q8 slot has them.
#[derive(Clone, Copy, Debug)]
pub struct Codes<'a> {
    bytes: &'a [u8],
    stride: usize,
    rows: usize,
    cols: usize,
}

impl<'a> Codes<'a> {
    /// `rows` rows of `cols` codes each, from the first byte on, `stride` bytes from one to the next; `None` if they do not lie
    /// in `bytes`.
    #[must_use]
    pub fn new(bytes: &'a [u8], rows: usize, stride: usize, cols: usize) -> Option<Self> {
        let last = rows.checked_sub(1)?.checked_mul(stride)?;
        (last.checked_add(cols)? <= bytes.len() && cols <= stride).then_some(Self { bytes, stride, rows, cols })
    }

    /// One row.
    #[must_use]
    pub fn one(x: &'a [i8]) -> Self {
        Self { bytes: bytemuck::must_cast_slice(x), stride: x.len(), rows: 1, cols: x.len() }
    }

    /// How many rows there are.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Row `row`; empty if there is no such row.
    #[must_use]
    pub fn row(&self, row: usize) -> &'a [i8] {
        let start = row.wrapping_mul(self.stride);
        view::as_i8(self.bytes.get(start..).and_then(|b| b.get(..self.cols)).unwrap_or(&[]))
    }

    /// Whether a row holds all columns of `w`, padding included.
    #[must_use]
    pub fn fit(&self, w: &Coded<'_>) -> bool {
        w.groups.checked_mul(GROUP).is_some_and(|cols| cols <= self.cols)
    }
}

/// Gets the sums of one block with some rows of codes: `put(block, first_row, sums)`.
pub type Put<'p> = dyn FnMut(usize, usize, &[[i64; BLOCK]]) + 'p;

/// Exact sums of blocks of 16 rows with rows of codes, each pair once, in any order:
/// `sums[r] = sum over groups of scale[r, group] * sum over columns of level[r, col] * x[col]`.
///
/// Shapes: a row of `x` holds `32 * groups` codes, any int8 (zeros beyond the columns).
pub type BlocksFn = fn(w: &Coded<'_>, blocks: Range<usize>, x: &Codes<'_>, put: &mut Put<'_>);

/// How the sums of a block become fixed point (NUMERICS.md, "matmul").
#[derive(Clone, Copy, Debug)]
pub struct Rescale<'a> {
    /// Rows of codes as a Q8 slot has them, a scale before each.
    pub rows: &'a [u8],
    /// Bytes from one to the next.
    pub stride: usize,
    /// Bits by which row sums may exceed int32, at most 23.
    pub excess: u32,
    /// Right shift of the product, the scale's exponent apart.
    pub shift: i32,
    /// Whether the results are added to what is there.
    pub add: bool,
}

/// Keys and values of one head, the positions that are attended to: codes `[positions, head_dim]`, a scale a position, as a
/// cache slot has them.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a> {
    /// Codes of the keys.
    pub k: &'a [i8],
    /// Scales of the keys.
    pub k_scales: &'a [u8],
    /// Codes of the values.
    pub v: &'a [i8],
    /// Scales of the values.
    pub v_scales: &'a [u8],
    /// Of which kind the cache is: that says how codes and scales are stored.
    pub kind: Kind,
}

/// What [`rows`] are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Isa {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// The loops of attention; all else is portable.
    #[cfg(all(mote_vector, target_arch = "riscv64"))]
    Rvv,
}

/// The kernels of one instruction set.
#[derive(Clone, Copy, Debug)]
pub struct Kernels {
    /// `{arch}-{types}-{variant}`, for logs and benchmarks.
    pub name: &'static str,
    /// 3-bit weights along a trellis.
    pub t3: BlocksFn,
    /// 4-bit weights.
    pub n4: BlocksFn,
    /// 4-bit weights along a trellis.
    pub t4: BlocksFn,
    /// 5-bit weights.
    pub n5: BlocksFn,
    /// 8-bit weights.
    pub n8: BlocksFn,
    /// All that is no matrix. Only this crate makes a table, so no other value gets here than the machine has.
    pub(crate) isa: Isa,
    /// Of hosts. On microcontrollers they are not in the table: a firmware for language models would link them.
    #[cfg(mote_vector)]
    pub(crate) int8: Int8,
}

/// Convolutions of int8, fully connected layers among them, and sums.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Int8 {
    pub conv2d: ConvFn<i8>,
    pub depthwise_conv2d: ConvFn<i8>,
    pub add: AddFn<i8>,
}

impl Kernels {
    /// Convolutions of int8.
    #[inline(always)] // so that only what is asked for is linked
    pub(crate) fn int8(&self) -> Int8 {
        #[cfg(mote_vector)]
        return self.int8;
        #[cfg(not(mote_vector))]
        Int8 { conv2d: int8::conv2d, depthwise_conv2d: int8::depthwise_conv2d, add: int8::add }
    }

    /// The kernel for these weights.
    #[must_use]
    pub fn blocks(&self, w: &Coded<'_>) -> BlocksFn {
        match w.dtype {
            Dtype::T3 => self.t3,
            Dtype::N4 => self.n4,
            Dtype::T4 => self.t4,
            Dtype::N5 => self.n5,
            _ => self.n8,
        }
    }
}

/// The best kernels for this machine.
#[must_use]
pub fn select() -> &'static Kernels {
    available().next().unwrap_or(&scalar::KERNELS)
}

/// All kernels that this machine can run, the best first, the scalar ones last.
pub fn available() -> impl Iterator<Item = &'static Kernels> {
    #[cfg(mote_vector)]
    let fast = arch::available();
    #[cfg(mote_dsp)]
    let fast = core::iter::once(&arm::KERNELS);
    #[cfg(mote_mve)]
    let fast = core::iter::once(&helium::KERNELS);
    #[cfg(mote_lanes)]
    let fast = core::iter::once(&lanes::KERNELS);
    #[cfg(not(any(mote_vector, mote_dsp, mote_mve, mote_lanes)))]
    let fast = core::iter::empty();
    fast.chain(core::iter::once(&scalar::KERNELS))
}

/// Sums of a block of 16 rows, those of each row of codes, to elements: `clamp(R(sum * mult + bias, shift) + zero point)` (NUMERICS.md,
/// "conv2d_coded").
///
/// `numbers`: multipliers and biases of the rows; `out` has `stride` elements from one row of codes to the next, of which `width` are
/// the block's. `None` if it is too short.
pub fn requantize(
    kernels: &Kernels,
    sums: &[[i64; BLOCK]],
    numbers: &([u16; BLOCK], [i64; BLOCK]),
    shift: i32,
    how: &Output,
    out: &mut [i8],
    (stride, width): (usize, usize),
) -> Option<()> {
    rows::requantize(kernels.isa, sums, numbers, shift, how, out, (stride, width))
}

/// The kernels with this name, if this machine can run them.
#[must_use]
pub fn named(name: &str) -> Option<&'static Kernels> {
    available().find(|kernels| kernels.name == name)
}

//! Cores whose only multiplication is of 32 bits: Cortex-M0+ and M3 ([`thumb`]), RV32IM ([`riscv`]).
//!
//! ```text
//! int8    weights are read once for up to six pixels, activations once for two filters: a load costs more than a product. Three pixels
//!         are two words, whose products are summed up modulo 2^32 (`int8.rs`)
//! coded   two 4-bit weights lie in the halves of a word, as do their activations, crosswise: the product's upper half is the
//!         sum of both products. Sums of 32 columns fit it.
//! ```
//!
//! `thumb.rs` and `riscv.rs` have the same functions, for the same jobs; all else is shared. What they compute is what
//! [`super::scalar`] computes: `boards/support/src/kernels.rs` compares them.
#![allow(unsafe_code)]

use core::cell::Cell;

use crate::kernels::scalar::int8::Channel;

mod coded;
pub mod int8;
#[cfg(target_arch = "riscv32")]
mod riscv;
#[cfg(target_arch = "arm")]
mod thumb;

#[cfg(target_arch = "riscv32")]
use riscv as core_loops;
#[cfg(target_arch = "arm")]
use thumb as core_loops;

pub(super) use coded::KERNELS;

/// Puts so many activations, from the second argument on, less a zero point into words so many bytes apart; the last argument: how far
/// behind another pixel's are.
type Put = unsafe extern "C" fn(*mut i32, *const i8, usize, i32, usize, isize);

/// Dots of filters with patches.
#[repr(C)]
#[derive(Debug)]
struct Dots {
    /// [column][word]: activations less their zero point, of a pixel a word, or of three pixels two (`int8.rs`).
    x: *const i32,
    /// Their end.
    x_end: *const i32,
    /// Weights of the first filter's first column.
    w: *const i8,
    /// Bytes from the end of a filter's columns to the next filter, of one pixel to that after it.
    skip: usize,
    /// Filters, at least 1; of one pixel pairs of them.
    filters: usize,
    /// [filter][pixel].
    sums: *mut i32,
    /// Bytes from a filter to its pair's other: of one pixel.
    apart: usize,
    /// Bytes of the words of columns that two words' sums are exact of: of three pixels.
    piece: usize,
}

/// A tap of a depthwise convolution: the first channel's weight, and the activations of four pixels.
type Tap = [*const i8; 5];

/// Taps of four pixels of a depthwise convolution; or of the first of them, words of four channels.
#[repr(C)]
#[derive(Clone, Debug)]
struct Taps {
    list: *const Tap,
    /// Its end, behind at least one tap.
    list_end: *const Tap,
    /// From a channel's activation to the next's: 0 or 1.
    x_step: usize,
    /// Channels, at least 1; of words a multiple of four.
    channels: usize,
    /// Zero point of the activations.
    zero: i32,
    /// [channel][pixel].
    sums: *mut i32,
    /// Not 0 if these are added to what the sums are.
    again: usize,
}

/// Sums that become elements.
#[repr(C)]
#[derive(Debug)]
struct Write {
    /// [channel][pixel].
    sums: *const i32,
    /// Bias, multiplier, shift.
    cs: *const Channel,
    /// Channels, at least 1.
    channels: usize,
    /// The first channel's element of the first pixel.
    out: *const Cell<i8>,
    /// Bytes from a pixel to the next.
    apart: isize,
    /// Bytes of the sums of a channel that become elements, at least one.
    bytes: usize,
    /// Zero point.
    zero: i32,
    /// Bytes from behind those to the next channel's.
    skip: usize,
}

/// A block of coded weights and a row of activations, some groups.
#[repr(C)]
#[derive(Debug)]
struct Block {
    /// Words of the groups' activations: `coded.rs`.
    x: *const u32,
    /// Their end.
    x_end: *const u32,
    /// The first group's codes, whole words.
    codes: *const u8,
    /// The first group's scales.
    scales: *const u8,
    /// The sums of 16 rows.
    sums: *mut i32,
    /// Levels of a byte's two codes.
    table: *const u32,
    /// Steps left, of the loop.
    left: usize,
    /// What a place in the table is masked with, in bytes.
    mask: usize,
}

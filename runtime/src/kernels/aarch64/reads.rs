//! What the kernels of other machines read ahead and beside. Here levels are signed as they are, so nothing is taken off sums; and
//! these cores follow a stream by themselves, where a hint costs the small ones an instruction.

use crate::image::tensors::GROUP;

/// Nothing to add: levels are not raised.
#[inline(always)]
pub fn base_sums<const RAISED: i32>(_row: &[[i8; GROUP]], _bases: &mut [i32]) {
    const { assert!(RAISED == 0) }
}

/// No hint.
#[inline(always)]
pub fn fetch<T>(_group: &T, _ahead: usize) {}

/// The same.
#[inline(always)]
pub fn fetch_far<T>(_group: &T, _ahead: usize) {}

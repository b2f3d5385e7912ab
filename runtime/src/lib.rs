//! Mote's runtime: runs `.mote` images with integer arithmetic, in place, in memory that the caller gives.
//!
//! No `std`, no allocator, no float, no panic on the inference path. The layers, each usable by itself:
//!
//! 1. [`image`]: the file's bytes, checked once and read in place;
//! 2. [`fixed`]: fixed-point scalars (rounding, exponential, reciprocal, sine, random numbers);
//! 3. [`kernels`]: the inner loops, of which the scalar ones are the specification;
//! 4. [`ops`]: the ops that programs are made of, one file each;
//! 5. [`session`]: runs a program over an arena; [`text`] and [`sample`] turn text into tokens and logits into tokens,
//!    [`nearest`] asks word vectors for neighbours.
//!
//! Long work can be done in pieces, so that an executor or a loop of one's own does other things in between: [`session::work`].
//!
//! What every op computes, to the bit, stands in `NUMERICS.md` beside this crate.
//!
//! ```no_run
//! use mote_runtime::{Image, Limits, Session};
//! # fn main() -> mote_runtime::Result<()> {
//! # let flash: &'static [u8] = &[];
//! #[repr(align(16))]
//! struct Arena([u8; 65536]);
//! let mut arena = Arena([0; 65536]);
//!
//! let image = Image::open(flash)?;
//! let limits = Limits { batch: 1, context: 64, threads: 1 };
//! let mut session = Session::new(&image, &mut arena.0, limits)?;
//! session.prefill(&[1])?;
//! let logits = session.logits(0)?;
//! # let _ = logits;
//! # Ok(())
//! # }
//! ```
#![cfg_attr(not(any(test, feature = "std")), no_std)]
#![deny(clippy::float_arithmetic, clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![cfg_attr(test, allow(clippy::float_arithmetic, clippy::unwrap_used, clippy::expect_used, clippy::panic))]

// Unsafe code is for `view` and for kernels of one instruction set; nothing else can lift this.
#[forbid(unsafe_code)]
pub mod error;
#[forbid(unsafe_code)]
pub mod fixed;
// Firmware whose image is vouched for says so by a function that is unsafe to call.
#[cfg_attr(not(feature = "vouched"), forbid(unsafe_code))]
pub mod image;
pub mod kernels;
#[forbid(unsafe_code)]
pub mod nearest;
#[forbid(unsafe_code)]
pub mod ops;
#[forbid(unsafe_code)]
pub mod sample;
#[forbid(unsafe_code)]
pub mod session;
#[forbid(unsafe_code)]
pub mod text;
pub mod view;

pub use error::{Error, Result};
pub use image::{Image, Limits};
pub use session::Session;

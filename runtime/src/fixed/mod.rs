//! Fixed-point scalars. Each is defined to the bit in NUMERICS.md and measured against f64 in its tests.

pub mod exp;
pub mod prng;
pub mod requantize;
pub mod root;
pub mod rope;
pub mod rsqrt;
pub mod sigmoid;
pub mod tflite;

pub use requantize::{Scale, saturate, shift_round};

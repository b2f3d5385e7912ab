//! The float side: the reference that every comparison is made against, on candle's CPU tensors.

pub mod metrics;
mod model;

pub use model::{FloatError, FloatModel, FloatSession, Result};
pub(crate) use model::{Stream, operand, operands, slots, softmax, step};

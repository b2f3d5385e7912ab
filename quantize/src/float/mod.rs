//! The float side: the reference that every comparison is made against, on candle's CPU tensors.

pub mod embeddings;
pub mod metrics;
mod model;
mod stream;

pub use model::{FloatError, FloatModel, FloatSession, Result};
pub(crate) use model::{fills, operand, operands, slots, softmax, step};
pub(crate) use stream::{Room, Stream};

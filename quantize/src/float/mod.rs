//! The float side: the reference that every comparison is made against, on candle's tensors.

mod device;
pub mod embeddings;
pub mod metrics;
mod model;
mod stream;

pub use candle_core::Device;
pub use device::DeviceName;
pub(crate) use device::kind;
pub use model::{FloatError, FloatModel, FloatSession, Result};
pub(crate) use model::{fills, operand, operands, slots, softmax, step};
pub(crate) use stream::{Room, Stream, at_once, side_by_side};

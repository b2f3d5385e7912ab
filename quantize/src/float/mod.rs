//! The float side: the reference that every comparison is made against, on candle's CPU tensors.

pub mod metrics;
mod model;

pub use model::{FloatError, FloatLayer, FloatModel, FloatSession, LayerActivations, Result};
pub(crate) use model::{embed, embedding, final_norm};

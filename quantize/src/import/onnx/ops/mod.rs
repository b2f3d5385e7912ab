//! ONNX's operators: a row in the table of its group, a function that says it in the graph's ops.

mod elementwise;
mod matrix;
mod quantized;
mod recurrent;
mod reduce;
mod shapes;
mod spatial;

use super::builder::{Builder, Done, Step};
use crate::graph::ValueId;

/// Imports a node: its outputs in the file's order.
pub(super) type Import = fn(&mut Builder, &Step) -> Done<Vec<ValueId>>;

/// Operators by name, those of other domains as `domain.name`.
pub(super) type Table = &'static [(&'static str, Import)];

const TABLES: [Table; 7] = [
    elementwise::OPERATORS,
    matrix::OPERATORS,
    quantized::OPERATORS,
    recurrent::OPERATORS,
    reduce::OPERATORS,
    shapes::OPERATORS,
    spatial::OPERATORS,
];

/// Operators that may be given integers that stand for real numbers, as models of quantized operators have them: they know
/// of scales, or only move elements.
const QUANTIZED: &[&str] = &[
    "Concat",
    "DepthToSpace",
    "DequantizeLinear",
    "Dropout",
    "Expand",
    "Flatten",
    "Gather",
    "Identity",
    "MaxPool",
    "Pad",
    "Reshape",
    "Shape",
    "Size",
    "Slice",
    "SpaceToDepth",
    "Split",
    "Squeeze",
    "Tile",
    "Transpose",
    "Unsqueeze",
];

pub(super) fn find(name: &str) -> Option<Import> {
    TABLES.iter().flat_map(|t| t.iter()).find(|row| row.0 == name).map(|row| row.1)
}

/// Names of all operators.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    TABLES.iter().flat_map(|t| t.iter()).map(|row| row.0)
}

pub(super) fn knows_scales(name: &str) -> bool {
    QUANTIZED.contains(&name) || quantized::OPERATORS.iter().any(|row| row.0 == name)
}

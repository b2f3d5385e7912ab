//! Constant tables of embeddings in codes: the rows that a `Gather` takes, in steps of its result.
//!
//! Codes have groups of 32 columns and a multiplier a row, which narrow entries would not fill: several stand side by side.

use crate::codes::{CodedMatrix, Coding, code_matrix};
use crate::graph::{DType, Data, Graph, Op, Value, ValueId};

/// Columns of a row that entries are put side by side for.
const COLUMNS: usize = 128;

/// Entries a row of so many columns each: a power of two.
fn together(cols: usize) -> usize {
    let fits = |words: &usize| cols.is_multiple_of(8) && cols * words <= COLUMNS;
    (0..5).map(|log2| 1 << log2).take_while(fits).last().unwrap_or(1)
}

/// Codes a table `[rows, cols]` in steps of `scale`.
fn code(table: &[f32], cols: usize, scale: f32, coding: Coding) -> CodedMatrix {
    let words = together(cols);
    let rows = (table.len() / cols.max(1)).div_ceil(words);
    let mut steps: Vec<f32> = table.iter().map(|v| v / scale).collect();
    steps.resize(rows * words * cols, 0.0);
    code_matrix(&steps, rows, words * cols, coding, None)
}

/// The table that node `index` takes rows of, if it is a constant of floats in `float`: its place in `graph`, and the floats.
fn table(graph: &Graph, index: usize, float: &Graph) -> Option<(ValueId, Vec<f32>)> {
    let node = &graph.nodes[index];
    let Op::Gather { axis: 0 } = node.op else { return None };
    let id = node.inputs[0]?;
    // What has become integers in `graph` is known by the result, for `ranges::separate` gives shared constants another number.
    let of = float.nodes.iter().find(|n| n.outputs == node.outputs)?;
    match &float.values[of.inputs[0]?].data {
        Some(Data::F32(floats)) if graph.values[id].data.is_some() && !floats.is_empty() => Some((id, floats.clone())),
        _ => None,
    }
}

/// Gives each table of floats its codes, where those are fewer bytes than int8. `float` is the graph before its activations
/// had grids.
pub(super) fn run(graph: &mut Graph, float: &Graph, coding: Coding) {
    for index in 0..graph.nodes.len() {
        let Some((id, floats)) = table(graph, index, float) else { continue };
        let output = graph.nodes[index].outputs.first().map(|o| &graph.values[*o]);
        let Some((scale, _)) = output.and_then(|y| y.quant.as_ref()?.single()) else { continue };
        let cols = floats.len() / graph.values[id].shape[0];
        let matrix = code(&floats, cols, scale, coding);
        if matrix.bytes.len() >= floats.len() {
            continue;
        }
        let decoded = matrix.decode().into_iter().take(floats.len()).map(|v| v * scale).collect();
        let value =
            Value { dtype: DType::F32, quant: None, data: Some(Data::F32(decoded)), ..graph.values[id].clone() };
        graph.values.push(value);
        let new = graph.values.len() - 1;
        graph.nodes[index].inputs[0] = Some(new);
        graph.coded.insert(new, matrix);
    }
}

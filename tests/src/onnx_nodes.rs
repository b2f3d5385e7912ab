//! The node tests of the onnx package: where they lie, and how one is opened.
//!
//! They lie in PyPI's `onnx` 1.22.0 (later ones leave them out): `MOTE_ONNX_NODE_TESTS` names their folder, or they are found
//! in the environment that `cargo xtask setup --peers` makes. `tests/golden/onnx/passed.txt` names those that the float
//! evaluator passes.

use crate::root;
use mote_quantize::graph::{Graph, Op, Tensor};
use mote_quantize::import::onnx::{self, Options};
use std::path::{Path, PathBuf};

/// The folder of the node tests; without it says "skipped" on stderr, and the test is to return.
#[must_use]
pub fn folder() -> Option<PathBuf> {
    if let Some(folder) = std::env::var_os("MOTE_ONNX_NODE_TESTS") {
        return Some(folder.into());
    }
    let venv = std::env::var_os("MOTE_VENV").map_or_else(|| root().join(".venv"), PathBuf::from);
    let pythons = std::fs::read_dir(venv.join("lib")).into_iter().flatten().flatten();
    let node = |python: std::fs::DirEntry| python.path().join("site-packages/onnx/backend/test/data/node");
    let found = pythons.map(node).find(|folder| folder.is_dir());
    if found.is_none() {
        eprintln!("skipped: the onnx package's node tests are not there; MOTE_ONNX_NODE_TESTS names their folder");
    }
    found
}

/// Tensors of a test's inputs or outputs (`what`), in order.
///
/// # Errors
/// Elements that Mote does not have, or no tensor.
pub fn tensors(folder: &Path, what: &str) -> Result<Vec<Tensor>, String> {
    let file = |i: usize| folder.join(format!("{what}_{i}.pb"));
    let files = (0..).map(file).take_while(|f| f.is_file());
    files.map(|f| onnx::tensor(&f).map_err(|why| why.to_string())).collect()
}

/// Why the graph cannot run, if it cannot.
#[must_use]
pub fn lacks(graph: &Graph) -> Option<String> {
    graph.nodes.iter().find_map(|n| match &n.op {
        Op::Unsupported(why) => Some(format!("{}: {why}", n.kind)),
        _ => None,
    })
}

/// Imports with the inputs from `free` on as constants.
///
/// # Errors
/// What the importer says.
pub fn import(model: &Path, inputs: &[Tensor], free: usize) -> Result<Graph, String> {
    let names = onnx::inputs(model).map_err(|why| why.to_string())?;
    let mut options = Options::default();
    for (i, (name, tensor)) in names.into_iter().zip(inputs).enumerate() {
        if i < free {
            options.shapes.insert(name, tensor.shape.clone());
        } else {
            options.constants.insert(name, tensor.clone());
        }
    }
    onnx::open(model, &options).map_err(|why| why.to_string())
}

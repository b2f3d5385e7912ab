//! ONNX: the node tests of the onnx package and whole models, through the importer and the float evaluator.
//!
//! The node tests lie in PyPI's `onnx` 1.19.1 (later ones leave them out): `MOTE_ONNX_NODE_TESTS` names their folder, or they
//! are found in the environment that `cargo xtask setup --peers` makes. `tests/golden/onnx/passed.txt` names those that pass.

use mote_quantize::graph::{Data, Graph, Op, Tensor, eval};
use mote_quantize::import::onnx::{self, Options};
use mote_tests::{golden, root, shared};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The folder of the node tests.
fn node_tests() -> Option<PathBuf> {
    if let Some(folder) = std::env::var_os("MOTE_ONNX_NODE_TESTS") {
        return Some(folder.into());
    }
    let venv = std::env::var_os("MOTE_VENV").map_or_else(|| root().join(".venv"), PathBuf::from);
    let pythons = std::fs::read_dir(venv.join("lib")).ok()?.flatten();
    let node = |python: std::fs::DirEntry| python.path().join("site-packages/onnx/backend/test/data/node");
    pythons.map(node).find(|folder| folder.is_dir())
}

/// Tests whose expected data are wrong: theirs wrap around where int8 saturates. ONNX Runtime 1.32 gives what Mote does.
const WRONG: [&str; 4] = [
    "test_qlinearmatmul_2D_int8_float16",
    "test_qlinearmatmul_2D_int8_float32",
    "test_qlinearmatmul_3D_int8_float16",
    "test_qlinearmatmul_3D_int8_float32",
];

/// What became of a node test.
enum Outcome {
    Passed,
    NotClaimed(String),
    Failed(String),
}

/// Tensors of a test's inputs or outputs, in order.
fn tensors(folder: &Path, what: &str) -> Result<Vec<Tensor>, String> {
    let file = |i: usize| folder.join(format!("{what}_{i}.pb"));
    let files = (0..).map(file).take_while(|f| f.is_file());
    files.map(|f| onnx::tensor(&f).map_err(|why| why.to_string())).collect()
}

/// Why the graph cannot run, if it cannot.
fn lacks(graph: &Graph) -> Option<String> {
    graph.nodes.iter().find_map(|n| match &n.op {
        Op::Unsupported(why) => Some(format!("{}: {why}", n.kind)),
        _ => None,
    })
}

/// Imports with the inputs from `free` on as constants.
fn import(model: &Path, inputs: &[Tensor], free: usize) -> Result<Graph, String> {
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

fn close(found: &Tensor, expected: &Tensor, stored: Vec<i64>) -> Result<(), String> {
    if found.shape != expected.shape {
        return Err(format!("shape {:?} (expected {:?})", found.shape, expected.shape));
    }
    match (&found.data, &expected.data) {
        (Data::F32(found), Data::F32(expected)) => {
            // The package's own tolerance.
            let same = |a: f32, b: f32| a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= 1e-7 + 1e-3 * b.abs();
            match found.iter().zip(expected).position(|(a, b)| !same(*a, *b)) {
                Some(i) => Err(format!("element {i} is {} (expected {})", found[i], expected[i])),
                None => Ok(()),
            }
        }
        (_, Data::Int(expected)) => match stored.iter().zip(expected).position(|(a, b)| a != b) {
            Some(i) => Err(format!("element {i} is {} (expected {})", stored[i], expected[i])),
            None => Ok(()),
        },
        _ => Err("integers (expected floats)".into()),
    }
}

fn node_test(folder: &Path) -> Outcome {
    let set = folder.join("test_data_set_0");
    let (inputs, expected) = match (tensors(&set, "input"), tensors(&set, "output")) {
        (Ok(inputs), Ok(expected)) => (inputs, expected),
        _ => return Outcome::NotClaimed("not of tensors, or of elements that Mote does not have".into()),
    };
    // What may be an input in ONNX and must be a constant for Mote is one here: all but the first, or all.
    let mut graph = import(&folder.join("model.onnx"), &inputs, inputs.len());
    for free in [1, 0] {
        match &graph {
            Ok(g) if lacks(g).is_some_and(|why| why.contains("at run time")) => {
                graph = import(&folder.join("model.onnx"), &inputs, free);
            }
            _ => break,
        }
    }
    let graph = match graph {
        Ok(graph) => graph,
        Err(why) if why.contains("is not supported") => {
            return Outcome::NotClaimed(why.split_once(": ").map_or("", |w| w.1).to_owned());
        }
        Err(why) => return Outcome::Failed(why),
    };
    if let Some(why) = lacks(&graph) {
        return Outcome::NotClaimed(why);
    }
    let free: Vec<Tensor> = inputs[..graph.inputs.len()].to_vec();
    let found = match eval::run(&graph, &free) {
        Ok(found) => found,
        Err(why) => return Outcome::Failed(why.to_string()),
    };
    if found.len() != expected.len() {
        return Outcome::Failed(format!("{} outputs (expected {})", found.len(), expected.len()));
    }
    for (i, (tensor, wanted)) in found.iter().zip(&expected).enumerate() {
        let stored = eval::stored(&graph.values[graph.outputs[i]], tensor);
        if let Err(why) = close(tensor, wanted, stored) {
            return Outcome::Failed(format!("output {i}: {why}"));
        }
    }
    Outcome::Passed
}

#[test]
fn node_tests_of_the_onnx_package() {
    let Some(folder) = node_tests() else {
        eprintln!("skipped: the onnx package's node tests are not there; MOTE_ONNX_NODE_TESTS names their folder");
        return;
    };
    let mut names: Vec<String> =
        std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    let (mut passed, mut failed) = (BTreeSet::new(), Vec::new());
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    for name in &names {
        match node_test(&folder.join(name)) {
            Outcome::Passed => _ = passed.insert(name.clone()),
            Outcome::Failed(_) if WRONG.contains(&&name[..]) => {
                *reasons.entry("the expected data are wrong".into()).or_default() += 1;
            }
            Outcome::Failed(why) => failed.push(format!("{name}: {why}")),
            Outcome::NotClaimed(why) => *reasons.entry(why).or_default() += 1,
        }
    }
    let mut reasons: Vec<_> = reasons.into_iter().collect();
    reasons.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
    for (why, n) in &reasons {
        println!("{n:5} not claimed: {why}");
    }
    println!("{} of {} node tests pass, {} fail", passed.len(), names.len(), failed.len());
    if let Some(to) = std::env::var_os("MOTE_ONNX_PASSED") {
        let lines: String = passed.iter().map(|n| format!("{n}\n")).collect();
        std::fs::write(to, lines).unwrap();
    }
    assert!(failed.is_empty(), "{} fail:\n{}", failed.len(), failed.join("\n"));
    let list = std::fs::read_to_string(golden().join("onnx/passed.txt")).unwrap();
    let lost: Vec<&str> = list.lines().filter(|n| !passed.contains(*n)).collect();
    assert!(lost.is_empty(), "no longer pass: {lost:?}");
}

#[test]
fn mnist_8() {
    let Some(model) = shared("onnx/mnist_8.onnx") else { return };
    let graph = onnx::open(&model, &Options::default()).unwrap();
    for set in 0..3 {
        let tensor =
            |what: &str| onnx::tensor(&shared(&format!("onnx/mnist_8_set{set}_{what}_0.pb")).unwrap()).unwrap();
        let found = eval::run(&graph, &[tensor("input")]).unwrap();
        close(&found[0], &tensor("output"), vec![]).unwrap();
    }
}

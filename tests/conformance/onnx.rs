//! ONNX: the node tests of the onnx package and whole models, through the importer and the float evaluator, as imported
//! and after the passes.
//!
//! `tests/golden/onnx/passed.txt` names the node tests that pass.

use mote_quantize::graph::{Data, Graph, Op, Tensor, eval, passes};
use mote_quantize::import::onnx::{self, Options};
use mote_tests::onnx_nodes::{self, import, lacks, tensors};
use mote_tests::{Lcg, golden, golden_floats, noise, shared, silero};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// What became of a node test.
enum Outcome {
    /// And whether no node was left to run: all was folded to constants.
    Passed(bool),
    NotClaimed(String),
    Failed(String),
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

/// Whether the graph gives what is expected.
fn gives(graph: &Graph, inputs: &[Tensor], expected: &[Tensor]) -> Result<(), String> {
    let found = eval::run(graph, inputs).map_err(|why| why.to_string())?;
    if found.len() != expected.len() {
        return Err(format!("{} outputs (expected {})", found.len(), expected.len()));
    }
    for (i, (tensor, wanted)) in found.iter().zip(expected).enumerate() {
        let stored = eval::stored(&graph.values[graph.outputs[i]], tensor);
        close(tensor, wanted, stored).map_err(|why| format!("output {i}: {why}"))?;
    }
    Ok(())
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
    let free = &inputs[..graph.inputs.len()];
    let mut after = graph.clone();
    passes::run(&mut after);
    for (graph, stage) in [(&graph, "as imported"), (&after, "after the passes")] {
        if let Err(why) = gives(graph, free, &expected) {
            return Outcome::Failed(format!("{stage}: {why}"));
        }
    }
    Outcome::Passed(graph.nodes.is_empty())
}

#[test]
fn node_tests_of_the_onnx_package() {
    let Some(folder) = onnx_nodes::folder() else { return };
    let mut names: Vec<String> =
        std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    let (mut passed, mut failed, mut folded) = (BTreeSet::new(), Vec::new(), 0);
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    for name in &names {
        match node_test(&folder.join(name)) {
            Outcome::Passed(constant) => {
                folded += usize::from(constant);
                passed.insert(name.clone());
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
    println!(
        "{} of {} node tests pass ({folded} folded to constants), {} fail",
        passed.len(),
        names.len(),
        failed.len()
    );
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

fn expected(name: &str) -> Vec<f32> {
    golden_floats(&format!("onnx/{name}.f32"))
}

fn floats(tensor: &Tensor) -> &[f32] {
    let Data::F32(v) = &tensor.data else { panic!("{tensor:?}") };
    v
}

/// The largest difference.
fn apart(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn dtln() {
    for name in ["dtln_model_1", "dtln_model_2"] {
        let Some(model) = shared(&format!("speech/{name}.onnx")) else { return };
        let graph = onnx::open(&model, &Options::default()).unwrap();
        let [x, state] = [0, 1].map(|i| graph.values[graph.inputs[i]].shape.clone());
        let mut held = Tensor::floats(&state, vec![0.0; 512]);
        let mut all = Vec::new();
        for run in 1..=3 {
            let outputs = eval::run(&graph, &[noise(run, &x), held]).unwrap();
            all = outputs.iter().flat_map(|o| floats(o).to_vec()).collect();
            held = outputs[1].clone();
        }
        let apart = apart(&all, &expected(name));
        assert!(apart < 2e-6, "{name}: {apart}");
        // The same with the state in the graph.
        let [x, state] = <[String; 2]>::try_from(onnx::inputs(&model).unwrap()).unwrap();
        let next = graph.values[graph.outputs[1]].name.clone();
        let options = Options { states: [(state.clone(), next)].into(), ..Options::default() };
        let kept = onnx::open(&model, &options).unwrap();
        assert_eq!((kept.inputs.len(), kept.outputs.len(), kept.states.len()), (1, 1, 1));
        let mut evaluator = eval::Evaluator::new(&kept).unwrap();
        let shape = kept.values[kept.inputs[0]].shape.clone();
        let found = [1, 2, 3].map(|run| evaluator.run(&[noise(run, &shape)]).unwrap());
        let found = &found[2];
        assert_eq!(floats(&found[0]), &all[..shape.iter().product()], "{name}");
        for (from, to, word) in [(&x, "no", "there is no output \"no\""), (&state, &x[..], "there is no output")] {
            let options = Options { states: [(from.clone(), to.to_owned())].into(), ..Options::default() };
            let why = onnx::open(&model, &options).unwrap_err().to_string();
            assert!(why.contains(word), "{why}");
        }
    }
}

/// Branches by constant conditions, shapes that are computed, a state in the graph.
#[test]
fn silero_vad() {
    let Some((model, options)) = silero() else { return };
    let Some(sound) = shared("speech/silero_test.wav") else { return };
    let graph = onnx::open(&model, &options).unwrap();
    let lstms = graph.nodes.iter().filter(|n| matches!(n.op, Op::Lstm { .. })).count();
    assert_eq!((graph.inputs.len(), graph.outputs.len(), graph.states.len(), lstms), (1, 1, 1, 1));
    // 16-bit samples after a header of 44 bytes.
    let bytes = std::fs::read(sound).unwrap();
    let samples: Vec<f32> =
        bytes[44..].as_chunks().0.iter().map(|b| f32::from(i16::from_le_bytes(*b)) / 32768.0).collect();
    let (mut context, mut found) = (vec![0.0; 64], Vec::new());
    let mut evaluator = eval::Evaluator::new(&graph).unwrap();
    for window in samples[..20 * 16000].chunks(512) {
        let window = [&context[..], window].concat();
        context = window[512..].to_vec();
        let outputs = evaluator.run(&[Tensor::floats(&[1, 576], window)]).unwrap();
        found.push(floats(&outputs[0])[0]);
    }
    let apart = apart(&found, &expected("silero_vad_16k_op15")[..found.len()]);
    assert!(apart < 2e-4, "{apart}");
}

/// Both directions, first states, the reset gate before and after the state's weights.
#[test]
fn recurrent_layers() {
    for name in ["lstm_both", "gru_both", "gru_reverse"] {
        let graph = onnx::open(&golden().join(format!("onnx/{name}.onnx")), &Options::default()).unwrap();
        let outputs = eval::run(&graph, &[noise(1, &[5, 2, 3])]).unwrap();
        let all: Vec<f32> = outputs.iter().flat_map(|o| floats(o).to_vec()).collect();
        let apart = apart(&all, &expected(name));
        assert!(apart < 1e-6, "{name}: {apart}");
    }
}

/// The same net in three operator sets, and as ONNX Runtime's quantizer writes it, by scales (QDQ), by operators, and with
/// scales at run time.
#[test]
fn small_nets() {
    for (name, quantized, tolerance) in [
        ("net_float_9", false, 1e-6),
        ("net_float_13", false, 1e-6),
        ("net_float_22", false, 1e-6),
        ("net_dynamic", false, 1e-5),
        ("net_qdq", true, 1e-6),
        ("net_qoperator", true, 1e-6),
    ] {
        let graph = onnx::open(&golden().join(format!("onnx/{name}.onnx")), &Options::default()).unwrap();
        assert_eq!(graph.values[graph.inputs[0]].shape, [1, 3, 16, 16], "{name}");
        let mut found = Vec::new();
        for run in 1..=10 {
            found.extend_from_slice(floats(&eval::run(&graph, &[noise(run, &[1, 3, 16, 16])]).unwrap()[0]));
        }
        let apart = apart(&found, &expected(name));
        println!("{name}: {apart}");
        assert!(apart <= tolerance, "{name}: {apart}");
        // Weights stay integers with their scales, also those that are transposed.
        let eights = |v: &&mote_quantize::graph::Value| v.quant.is_some() && v.data.is_some();
        assert_eq!(graph.values.iter().filter(eights).count(), if quantized { 8 } else { 0 }, "{name}");
    }
}

#[test]
fn everything_that_is_missing_is_named_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.onnx");
    // The operators' names in the file, changed to others as long.
    let mut file = std::fs::read(golden().join("onnx/net_float_13.onnx")).unwrap();
    for (from, to) in [("MaxPool", "MaxPoul"), ("Flatten", "Flotten"), ("Gemm", "Gemn")] {
        let at = file.windows(from.len()).position(|w| w == from.as_bytes()).unwrap();
        file[at..at + to.len()].copy_from_slice(to.as_bytes());
    }
    std::fs::write(&path, &file).unwrap();
    let graph = onnx::open(&path, &Options::default()).unwrap();
    let why = eval::run(&graph, &[noise(1, &[1, 3, 16, 16])]).unwrap_err().to_string();
    for part in ["MaxPoul \"halve\"", "Flotten \"flat\"", "Gemn \"linear\""] {
        assert!(why.contains(part), "{part}: {why}");
    }
    assert_eq!(why.lines().count(), 4, "{why}");
    let wrong = Options { shapes: [("z".to_owned(), vec![1])].into(), ..Options::default() };
    let why = onnx::open(&path, &wrong).unwrap_err().to_string();
    assert!(why.contains("there is no input \"z\"; inputs are x"), "{why}");
    let wrong = Options { shapes: [("x".to_owned(), vec![1, 4, 16, 16])].into(), ..Options::default() };
    let why = onnx::open(&golden().join("onnx/net_float_13.onnx"), &wrong).unwrap_err().to_string();
    assert!(why.contains("Conv \"first\": weights [8, 3, 3, 3] in 1 groups"), "{why}");
}

/// 2500 files with bytes changed, cut, or lengths and numbers replaced: an error, or a graph that runs or says why not.
#[test]
fn damaged_files() {
    let path = Path::new("x.onnx");
    let here = ["net_float_13", "net_qdq", "net_dynamic"].map(|n| golden().join(format!("onnx/{n}.onnx")));
    let files: Vec<PathBuf> = here.into_iter().chain(shared("onnx/mnist_8.onnx")).collect();
    let mut lcg = Lcg(2027);
    let (mut ran, mut refused, mut opened) = (0, 0, 0);
    for original in &files {
        let original = std::fs::read(original).unwrap();
        for _ in 0..2500 / files.len() {
            let mut file = original.clone();
            for _ in 0..=lcg.below(4) {
                let at = lcg.below(file.len());
                match lcg.below(6) {
                    0 => file[at] ^= 1 << lcg.below(8),
                    1 => file[at] = lcg.byte(),
                    2 => file[at] = file[at].wrapping_add(1),
                    // A number of many bytes, as a varint has them.
                    3 => file.iter_mut().skip(at).take(1 + lcg.below(9)).for_each(|b| *b |= 0x80),
                    4 => file[at] = 0,
                    _ if lcg.below(8) == 0 => file.truncate(at.max(16)),
                    _ => {
                        let byte = lcg.byte();
                        file.insert(at, byte);
                    }
                }
            }
            let Ok(graph) = onnx::read(&file, path, &Options::default()) else {
                refused += 1;
                continue;
            };
            opened += 1;
            let input = |id: &usize| {
                let value = &graph.values[*id];
                match value.dtype {
                    mote_quantize::graph::DType::F32 => noise(1, &value.shape),
                    _ => Tensor::ints(&value.shape, vec![1; value.count()]),
                }
            };
            let elements: usize = graph.values.iter().map(mote_quantize::graph::Value::count).sum();
            if elements < 1 << 22 {
                ran += usize::from(eval::run(&graph, &graph.inputs.iter().map(input).collect::<Vec<_>>()).is_ok());
            }
        }
    }
    println!("{refused} refused, {opened} opened, {ran} ran");
    assert!(refused > 300 && ran > 300, "{refused} {opened} {ran}");
}

//! ONNX's node tests through the integer pipeline: each that the float evaluator passes is quantized at 8 bits (one of integers
//! goes through as it is), lowered, written, run by the runtime, and compared with what the package expects.
//!
//! Each test passes within the bound of its operators' class, below; or it is refused, for a reason that is printed; or it is
//! in [`OUTSIDE`], by name, for 8 bits cannot hold it. Anything else fails. `MOTE_ONNX_PASSED` names a file for the list of
//! those that pass, `tests/golden/onnx/passed_integer.txt`.
//!
//! Two errors are told apart. Against the package: what the input loses on its grid of 8 bits, too, which a steep function
//! makes larger. Against the float evaluator on the very numbers that the input's integers stand for: what the integers lose
//! in computing.

use mote_quantize::codes::Coding;
use mote_quantize::graph::quantize::{Settings, quantize};
use mote_quantize::graph::{Data, Graph, Tensor, eval, passes};
use mote_quantize::import::onnx;
use mote_quantize::{lower, net};
use mote_runtime::fixed::tflite::Rounding;
use mote_runtime::image::Dtype;
use mote_tests::golden;
use mote_tests::images::{self, Output};
use mote_tests::onnx_nodes::{self, import, lacks, tensors};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Operators of a kind, and how far their results may be off: real numbers in steps of their grids of 8 bits, integers and
/// truth values not at all.
struct Class {
    name: &'static str,
    /// As ONNX names them. What is written out in many nodes is `+` and the test's name up to the first `_`; `:2` is output 2.
    kinds: &'static [&'static str],
    /// From what the package expects, and the root of the mean square of each output.
    most: f64,
    rms: f64,
    /// From the float evaluator on what the inputs' integers stand for.
    held: f64,
    /// Share of a test's elements that may be further off, or other integers, since the function jumps and the input is a number
    /// beside the jump.
    beyond: f64,
}

const fn class(name: &'static str, most: f64, rms: f64, held: f64, kinds: &'static [&'static str]) -> Class {
    Class { name, kinds, most, rms, held, beyond: 0.0 }
}

#[rustfmt::skip]
const CLASSES: &[Class] = &[
    class("integers, logic, casts", 0.0, 0.0, 0.0, &[
        "And", "Or", "Xor", "Not", "Cast", "CastLike", "Mod", "QLinearConv", "QLinearMatMul", "QuantizeLinear",
        "DequantizeLinear",
    ]),
    class("movement", 0.51, 0.42, 0.5, &[
        "CenterCropPad", "Concat", "DepthToSpace", "Expand", "Flatten", "Gather", "GatherElements", "GatherND", "Identity",
        "Pad", "Reshape", "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Trilu", "Unsqueeze", "Upsample",
        "Where", "+center",
    ]),
    class("largest and smallest", 0.51, 0.36, 0.01, &[
        "ArgMax", "ArgMin", "GlobalMaxPool", "Max", "MaxPool", "Min", "ReduceMax", "ReduceMin", "TopK",
    ]),
    Class { beyond: 0.41, ..class("comparisons, functions that jump", 0.51, 0.5, 0.51, &[
        "Ceil", "Equal", "Floor", "Greater", "GreaterOrEqual", "Hardmax", "Less", "LessOrEqual", "OneHot", "Round", "Shrink",
        "Sign", "ThresholdedRelu", "+greater", "+less", "+shrink", "+thresholdedrelu",
    ]) },
    class("arithmetic", 1.2, 0.6, 0.8, &["Add", "Div", "Mean", "Mul", "Sub", "Sum"]),
    class("functions of one number", 2.5, 1.1, 0.8, &[
        "Abs", "Celu", "Clip", "Cos", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Mish",
        "Neg", "PRelu", "Pow", "Reciprocal", "Relu", "Selu", "Sigmoid", "Sin", "Softplus", "Softsign", "Sqrt", "Swish", "Tanh",
    ]),
    class("logarithm, tangent", 8.0, 1.6, 1.5, &["Log", "Tan"]),
    class("functions written out", 2.1, 0.75, 0.55, &[
        "+celu", "+clip", "+elu", "+gelu", "+hardsigmoid", "+hardswish", "+leakyrelu", "+mish", "+prelu", "+relu", "+selu",
        "+softplus", "+softsign", "+swish",
    ]),
    class("convolutions, matrices", 1.7, 1.4, 1.2, &[
        "Conv", "ConvTranspose", "CumSum", "Einsum", "Gemm", "MatMul", "+affine", "+causal",
    ]),
    class("averages, resizes", 1.1, 0.6, 0.6, &["AveragePool", "GlobalAveragePool", "Resize"]),
    class("sums and means", 1.1, 0.5, 0.55, &[
        "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMean", "ReduceSum", "ReduceSumSquare", "+reduce",
    ]),
    class("softmax", 1.8, 0.6, 1.1, &["LogSoftmax", "Softmax", "+logsoftmax", "+softmax"]),
    class("batch norm that stands alone", 5.2, 1.4, 2.5, &["BatchNormalization"]),
    class("norms", 2.0, 1.0, 1.3, &[
        "GroupNormalization", "InstanceNormalization", "LayerNormalization", "LpNormalization",
        "MeanVarianceNormalization", "RMSNormalization",
    ]),
    class("norms written out", 4.0, 1.2, 3.5, &["+group", "+layer", "+mvn", "+rms"]),
    class("a layer norm's 1 / deviation", 4.5, 2.7, 4.6, &["LayerNormalization:2", "+layer:2"]),
    class("LSTM, GRU", 3.5, 1.0, 0.6, &["GRU", "LSTM"]),
    class("attention, rotary embedding", 4.5, 1.5, 4.4, &["+attention", "+flexattention", "+rotary"]),
    class("losses written out", 1.3, 1.3, 1.2, &["+nllloss", "+sce"]),
];

/// Tests that run, but whose numbers no grid of 8 bits holds, by the beginnings of their names.
const OUTSIDE: &[(&str, &str)] = &[
    ("test_softmax_large_number", "inputs of 0 to 3 and of 10000 to 10003, steps of 39"),
    ("test_logsoftmax_large_number", "inputs of 0 to 3 and of 10000 to 10003, steps of 39"),
    ("test_attention_4d_softcap_neginf_mask_poison", "a value of 1000 beside others below 1"),
    ("test_lppool", "third powers of int8 between"),
    ("test_dynamicquantizelinear", "integers of a scale found at run time, in integers of one found before"),
];

/// How far the outputs of a test are off.
#[derive(Clone, Copy, Debug, Default)]
struct Apart {
    /// In steps, of what is not beyond.
    most: f64,
    rms: f64,
    /// Elements further off than the class allows, or other integers.
    beyond: usize,
    elements: usize,
}

impl Apart {
    fn of(found: &Output, expected: &Tensor, most: f64) -> Result<Self, String> {
        if found.integers.len() != expected.count() {
            return Err(format!("{} elements (expected {})", found.integers.len(), expected.count()));
        }
        let mut apart = Self { elements: expected.count(), ..Self::default() };
        match &expected.data {
            Data::Int(ints) => {
                apart.beyond = ints.iter().zip(&found.integers).filter(|(a, b)| **a != i64::from(**b)).count();
            }
            Data::F32(floats) => {
                // States of 16 bits are told in the steps of 8 bits.
                let step = found.scale * if found.dtype == Dtype::I16 { 256.0 } else { 1.0 };
                let steps = found.real().into_iter().zip(floats).map(|(a, b)| f64::from(a - b).abs() / step);
                let (near, far): (Vec<f64>, Vec<f64>) = steps.partition(|s| *s <= most);
                apart.beyond = far.len();
                apart.most = near.iter().copied().fold(0.0, f64::max);
                apart.rms = (near.iter().map(|s| s * s).sum::<f64>() / near.len().max(1) as f64).sqrt();
            }
        }
        Ok(apart)
    }
}

/// What a test's image gave, what the package expects, and what the float evaluator gives on the numbers that the inputs'
/// integers stand for.
struct Ran {
    found: Vec<Output>,
    expected: Vec<Tensor>,
    held: Vec<Tensor>,
}

enum Stop {
    Refused(String),
    Failed(String),
}

fn refused<T>(why: impl Into<String>) -> Result<T, Stop> {
    Err(Stop::Refused(why.into()))
}

fn failed(why: impl ToString) -> Stop {
    Stop::Failed(why.to_string())
}

/// Why a test of constants, or whose output is its input, is refused.
const NOTHING: &str = "nothing is left to run";

/// Quantized with a test's inputs as they are, and a little larger: what they are on their grids lies between.
fn quantized(float: &Graph, inputs: &[Tensor]) -> Result<Graph, Stop> {
    let scaled = |factor: f32| {
        let one = |t: &Tensor| match &t.data {
            Data::F32(v) => Tensor::floats(&t.shape, v.iter().map(|x| x * factor).collect()),
            Data::Int(_) => t.clone(),
        };
        inputs.iter().map(one).collect::<Vec<_>>()
    };
    let samples = [scaled(1.0), scaled(1.05)];
    quantize(float, &samples, &Settings::bits(8, Coding::N8), &mut |_| ()).map_err(failed)
}

/// What the package means by a graph's outputs: integers where they are stored as such.
fn stored(graph: &Graph, outputs: Vec<Tensor>) -> Vec<Tensor> {
    let one = |(id, t): (&usize, Tensor)| match graph.values[*id].quant {
        Some(_) => Tensor::ints(&t.shape, eval::stored(&graph.values[*id], &t)),
        None => t,
    };
    graph.outputs.iter().zip(outputs).map(one).collect()
}

/// Runs a test with the inputs from `free` on as constants.
fn run(model: &Path, inputs: &[Tensor], expected: &[Tensor], free: usize) -> Result<Ran, Stop> {
    let mut float = import(model, inputs, free).map_err(Stop::Refused)?;
    if let Some(why) = lacks(&float) {
        return refused(why);
    }
    passes::run(&mut float);
    let given = &inputs[..float.inputs.len()];
    if float.nodes.is_empty() || float.inputs.iter().all(|i| float.uses()[*i] == 0) {
        return refused(NOTHING);
    }
    let finite = |t: &Tensor| match &t.data {
        Data::F32(v) => v.iter().all(|x| x.is_finite()),
        Data::Int(v) => v.iter().all(|x| i32::try_from(*x).is_ok()),
    };
    if !given.iter().chain(expected).all(finite) {
        return refused("infinity, not-a-number, or integers beyond 32 bits");
    }
    let graph = if net::is_float(&float) { quantized(&float, given)? } else { float.clone() };
    let lowered = lower::net(&graph, Rounding::Double).map_err(|missing| Stop::Refused(reason(&missing[0])))?;
    // Lowering leaves out inputs that nothing reads.
    let uses = graph.uses();
    let read = given.iter().zip(&graph.inputs).filter(|(_, id)| uses[**id] > 0).map(|(t, _)| t.clone());
    let found = images::run_once(&images::model(&lowered), &read.collect::<Vec<_>>()).map_err(failed)?;
    let on_grids = given.iter().zip(&graph.inputs).map(|(t, id)| eval::held(&graph.values[*id], t));
    let held = eval::run(&float, &on_grids.collect::<Vec<_>>()).map_err(failed)?;
    if found.len() != expected.len() || held.len() != expected.len() {
        return Err(Stop::Failed(format!("{} outputs (expected {})", found.len(), expected.len())));
    }
    Ok(Ran { found, expected: expected.to_vec(), held: stored(&float, held) })
}

/// What is missing, without the node's name.
fn reason(missing: &str) -> String {
    match (missing.split_once(" ("), missing.split_once("): ")) {
        (Some((kind, _)), Some((_, why))) => {
            // Shapes are of this test only.
            format!(
                "{kind}: {}",
                why.rsplit_once(" (")
                    .filter(|_| why.starts_with("shapes"))
                    .map_or(why, |(_, w)| w.trim_end_matches(')'))
            )
        }
        _ => missing.split_once(": ").map_or(missing, |(_, why)| why).to_owned(),
    }
}

/// As many inputs as can be are inputs, the others constants, the last first.
fn node_test(folder: &Path) -> Result<Ran, Stop> {
    let set = folder.join("test_data_set_0");
    let (inputs, expected) =
        (tensors(&set, "input").map_err(Stop::Failed)?, tensors(&set, "output").map_err(Stop::Failed)?);
    let mut first = None;
    for free in (1..=inputs.len()).rev() {
        match run(&folder.join("model.onnx"), &inputs, &expected, free) {
            // That something must be a constant is no reason where it can be one.
            Err(Stop::Refused(why)) => {
                if first.as_ref().is_none_or(|first: &String| first.contains("at run time") && why != NOTHING) {
                    first = Some(why);
                }
            }
            other => return other,
        }
    }
    refused(first.unwrap_or_else(|| NOTHING.into()))
}

/// The class of a test's output.
fn class_of(kind: &str, output: usize) -> Option<&'static Class> {
    let find = |name: &str| CLASSES.iter().find(|c| c.kinds.contains(&name));
    find(&format!("{kind}:{output}")).or_else(|| find(kind))
}

/// What has been seen of a class.
#[derive(Default)]
struct Worst {
    tests: BTreeSet<String>,
    most: f64,
    rms: f64,
    held: f64,
    beyond: f64,
}

impl Worst {
    fn add(&mut self, name: &str, apart: Apart, held: Apart) {
        self.tests.insert(name.to_owned());
        self.most = self.most.max(apart.most);
        self.rms = self.rms.max(apart.rms);
        self.held = self.held.max(held.most);
        self.beyond = self.beyond.max(apart.beyond as f64 / apart.elements.max(1) as f64);
    }
}

/// Puts a test's outputs to their classes; what is not within bounds.
fn judge(name: &str, kind: &str, ran: &Ran, worst: &mut BTreeMap<&'static str, Worst>) -> Result<(), String> {
    for (i, ((found, expected), held)) in ran.found.iter().zip(&ran.expected).zip(&ran.held).enumerate() {
        let class = class_of(kind, i).ok_or_else(|| format!("no class for {kind}"))?;
        let apart = Apart::of(found, expected, class.most)?;
        let inner = Apart::of(found, held, class.held)?;
        if inner.beyond > 0 {
            let all = Apart::of(found, held, f64::INFINITY)?;
            return Err(format!("{kind}:{i} {} beyond {} of the evaluator: {all:?}", inner.beyond, class.held));
        }
        if apart.beyond as f64 > class.beyond * apart.elements as f64 || apart.rms > class.rms {
            let all = Apart::of(found, expected, f64::INFINITY)?;
            return Err(format!("{kind}:{i} {apart:?}, of all {all:?}"));
        }
        worst.entry(class.name).or_default().add(name, apart, inner);
    }
    Ok(())
}

#[test]
fn node_tests_in_integers() {
    let Some(folder) = onnx_nodes::folder() else { return };
    let list = |file: &str| std::fs::read_to_string(golden().join("onnx").join(file)).unwrap();
    let (mut passed, mut failures) = (BTreeSet::new(), Vec::new());
    let mut worst = BTreeMap::new();
    let [mut reasons, mut outside]: [BTreeMap<String, usize>; 2] = Default::default();
    for name in list("passed.txt").lines() {
        let kinds = onnx::kinds(&folder.join(name).join("model.onnx")).unwrap();
        let kind = match &kinds[..] {
            [one] => one.clone(),
            _ => format!("+{}", name.split('_').nth(1).unwrap_or_default()),
        };
        let left_out = OUTSIDE.iter().find(|(begin, _)| name.starts_with(begin));
        let mut apart = BTreeMap::new();
        let seen = if left_out.is_some() { &mut apart } else { &mut worst };
        let result = match node_test(&folder.join(name)) {
            Err(Stop::Refused(why)) => {
                *reasons.entry(why).or_default() += 1;
                continue;
            }
            Err(Stop::Failed(why)) => Err(why),
            Ok(ran) => judge(name, &kind, &ran, seen),
        };
        match (result, left_out) {
            (Ok(()), None) => {
                passed.insert(name.to_owned());
            }
            (Err(_), Some((_, why))) => *outside.entry((*why).to_owned()).or_default() += 1,
            (Ok(()), Some(_)) => failures.push(format!("{name}: within its bound, and named as outside")),
            (Err(why), None) => failures.push(format!("{name}: {why}")),
        }
    }
    for (what, counts) in [("refused", &reasons), ("outside 8 bits", &outside)] {
        let mut counts: Vec<_> = counts.iter().collect();
        counts.sort_by_key(|(_, n)| std::cmp::Reverse(**n));
        counts.iter().for_each(|(why, n)| println!("{n:5} {what}: {why}"));
    }
    println!("| operators | tests | largest | rms | in computing | other elements |");
    for Class { name, most, rms, held, beyond, .. } in CLASSES {
        let Some(w) = worst.get(name) else { continue };
        print!("| {name} | {} | {:.2} of {most} | {:.2} of {rms} ", w.tests.len(), w.most, w.rms);
        println!("| {:.2} of {held} | {:.1} % of {} % |", w.held, 100.0 * w.beyond, 100.0 * beyond);
    }
    let (refused, outside): (usize, usize) = (reasons.values().sum(), outside.values().sum());
    println!("{} pass, {refused} refused, {outside} outside 8 bits, {} fail", passed.len(), failures.len());
    if let Some(to) = std::env::var_os("MOTE_ONNX_PASSED") {
        let lines: String = passed.iter().map(|n| format!("{n}\n")).collect();
        std::fs::write(to, lines).unwrap();
    }
    assert!(failures.is_empty(), "{} fail:\n{}", failures.len(), failures.join("\n"));
    let before = list("passed_integer.txt");
    let lost: Vec<&str> = before.lines().filter(|n| !passed.contains(*n)).collect();
    assert!(lost.is_empty(), "no longer pass: {lost:?}");
}

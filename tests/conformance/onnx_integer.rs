//! ONNX node tests through the integer pipeline.

use mote_quantize::codes::Coding;
use mote_quantize::graph::quantize::{Settings, quantize};
use mote_quantize::graph::{Data, Graph, Tensor, eval, passes};
use mote_quantize::import::onnx;
use mote_quantize::{lower, net};
use mote_runtime::fixed::tflite::Rounding;
use mote_tests::images;
use mote_tests::onnx_nodes::{self, import, lacks, tensors};
use mote_tests::golden;
use std::collections::BTreeMap;
use std::path::Path;

/// How far outputs are from what is expected.
#[derive(Clone, Copy, Debug, Default)]
struct Error {
    /// Real numbers, in steps of their grids: the largest difference.
    most: f64,
    /// The root of the mean square, of that output where it is largest.
    rms: f64,
    /// Integers that are others.
    wrong: usize,
    /// Integers.
    integers: usize,
}

/// What became of a node test.
enum Outcome {
    /// Against what the package expects; against the float evaluator on inputs that lie on their grids.
    Ran([Error; 2]),
    Refused(String),
    Failed(String),
}

impl Error {
    fn of(found: &[images::Output], expected: &[Tensor]) -> Result<Self, String> {
        let mut error = Self::default();
        if found.len() != expected.len() {
            return Err(format!("{} outputs (expected {})", found.len(), expected.len()));
        }
        for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
            if found.integers.len() != expected.count() {
                return Err(format!("output {i}: {} elements (expected {})", found.integers.len(), expected.count()));
            }
            match &expected.data {
                Data::Int(ints) => {
                    error.integers += ints.len();
                    error.wrong += ints.iter().zip(&found.integers).filter(|(a, b)| **a != i64::from(**b)).count();
                }
                Data::F32(floats) => {
                    let apart = |(found, expected): (&f32, &f32)| f64::from(found - expected).abs() / found_scale(found, 0.0);
                    let _ = apart;
                    let steps: Vec<f64> = found
                        .real()
                        .iter()
                        .zip(floats)
                        .map(|(a, b)| if b.is_finite() { (f64::from(*a) - f64::from(*b)).abs() / found.scale } else { 0.0 })
                        .collect();
                    let rms = (steps.iter().map(|s| s * s).sum::<f64>() / steps.len().max(1) as f64).sqrt();
                    error.most = steps.iter().copied().fold(error.most, f64::max);
                    error.rms = error.rms.max(rms);
                }
            }
        }
        Ok(error)
    }
}
fn found_scale(_: &f32, x: f64) -> f64 { x }

fn attempt(model: &Path, inputs: &[Tensor], expected: &[Tensor], free: usize) -> Outcome {
    let mut float = match import(model, inputs, free) {
        Ok(graph) => graph,
        Err(why) => return Outcome::Refused(why),
    };
    if let Some(why) = lacks(&float) {
        return Outcome::Refused(why);
    }
    passes::run(&mut float);
    let given = &inputs[..float.inputs.len()];
    let uses = float.uses();
    if float.inputs.iter().all(|i| uses[*i] == 0) {
        return Outcome::Refused("nothing is computed from an input".into());
    }
    let graph = if net::is_float(&float) {
        let scaled = |factor: f32| {
            given.iter().map(|t| match &t.data {
                Data::F32(v) => Tensor::floats(&t.shape, v.iter().map(|x| x * factor).collect()),
                Data::Int(_) => t.clone(),
            }).collect::<Vec<_>>()
        };
        match quantize(&float, &[given.to_vec(), scaled(0.9)], &Settings::bits(8, Coding::N8), &mut |_| ()) {
            Ok(graph) => graph,
            Err(why) => return Outcome::Failed(why.to_string()),
        }
    } else {
        float.clone()
    };
    let lowered = match lower::net(&graph, Rounding::Double) {
        Ok(lowered) => lowered,
        Err(missing) => return Outcome::Refused(missing.join("; ")),
    };
    let image = images::model(&lowered);
    let read: Vec<Tensor> =
        given.iter().zip(&graph.inputs).filter(|(_, id)| graph.uses()[**id] > 0).map(|(t, _)| t.clone()).collect();
    let found = match images::run_once(&image, &read) {
        Ok(found) => found,
        Err(why) => return Outcome::Failed(why.to_string()),
    };
    let held: Vec<Tensor> = given.iter().zip(&graph.inputs).map(|(t, id)| eval::held(&graph.values[*id], t)).collect();
    let near = match eval::run(&float, &held) {
        Ok(near) => near,
        Err(why) => return Outcome::Failed(why.to_string()),
    };
    let near: Vec<Tensor> = near.into_iter().enumerate().map(|(i, t)| {
        let value = &float.values[float.outputs[i]];
        if value.quant.is_some() { Tensor::ints(&t.shape, eval::stored(value, &t)) } else { t }
    }).collect();
    match (Error::of(&found, expected), Error::of(&found, &near)) {
        (Ok(a), Ok(b)) => Outcome::Ran([a, b]),
        (Err(why), _) | (_, Err(why)) => Outcome::Failed(why),
    }
}

#[test]
fn node_tests_in_integers() {
    let Some(folder) = onnx_nodes::folder() else { return };
    let list = std::fs::read_to_string(golden().join("onnx/passed.txt")).unwrap();
    let mut reasons: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let (mut ran, mut failed) = (0, 0);
    for name in list.lines() {
        let set = folder.join(name).join("test_data_set_0");
        let model = folder.join(name).join("model.onnx");
        let kinds = onnx::kinds(&model).unwrap();
        let (inputs, expected) = (tensors(&set, "input").unwrap(), tensors(&set, "output").unwrap());
        let mut outcome = Outcome::Refused("no inputs".into());
        for free in (1..=inputs.len()).rev() {
            let r = std::panic::catch_unwind(|| attempt(&model, &inputs, &expected, free));
            let next = r.unwrap_or_else(|_| Outcome::Failed("PANIC".into()));
            if matches!((&next, &outcome), (Outcome::Refused(a), Outcome::Refused(b)) if a.contains("nothing is computed") && b != "no inputs") { continue; }
            outcome = next;
            if !matches!(outcome, Outcome::Refused(_)) {
                break;
            }
        }
        let class = if kinds.len() == 1 { kinds[0].clone() } else { format!("x:{}", kinds.len()) };
        match outcome {
            Outcome::Ran([a, b]) => {
                ran += 1;
                println!("RAN {class} {name} most {:.2} rms {:.2} wrong {}/{}   held most {:.2} rms {:.2} wrong {}", a.most, a.rms, a.wrong, a.integers, b.most, b.rms, b.wrong);
            }
            Outcome::Refused(why) => reasons.entry(why).or_default().push(name.to_owned()),
            Outcome::Failed(why) => { failed += 1; println!("FAILED {name}: {why}") }
        }
    }
    let mut reasons: Vec<_> = reasons.into_iter().collect();
    reasons.sort_by_key(|(_, n)| std::cmp::Reverse(n.len()));
    for (why, n) in &reasons {
        println!("REF {:5} {why}   {}", n.len(), n.iter().take(3).cloned().collect::<Vec<_>>().join(" "));
    }
    println!("{ran} ran, {failed} failed");
}

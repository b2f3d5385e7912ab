//! What 8 and 4 bits cost a net: accuracy where there are labels, otherwise how often the float net's answer stays and how
//! far outputs move. The integers are those of the float evaluator on the quantized graph, each result rounded to its grid.

use flate2::read::GzDecoder;
use mote_quantize::codes::Coding;
use mote_quantize::graph::quantize::{Feedback, Rule, Settings, layers, quantize};
use mote_quantize::graph::{Data, Graph, Tensor, eval, passes};
use mote_quantize::import::{onnx, tflite::Tflite};
use mote_tests::{root, shared};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// A net with inputs to calibrate and to compare with.
struct Case {
    name: &'static str,
    graph: Graph,
    calibration: Vec<Vec<Tensor>>,
    test: Vec<Vec<Tensor>>,
    labels: Option<Vec<usize>>,
}

fn bytes(name: &str, head: usize) -> Option<Vec<u8>> {
    let mut all = Vec::new();
    GzDecoder::new(File::open(shared(name)?).ok()?).read_to_end(&mut all).ok()?;
    Some(all.split_off(head))
}

/// Digits as a net takes them: `shape`, grey times `scale`, less `mean`; and their labels.
fn digits(set: &str, count: usize, shape: &[usize], scale: f32, mean: f32) -> Option<(Vec<Vec<Tensor>>, Vec<usize>)> {
    let pixels = bytes(&format!("mnist/{set}-images-idx3-ubyte.gz"), 16)?;
    let labels = bytes(&format!("mnist/{set}-labels-idx1-ubyte.gz"), 8)?;
    let side = shape.iter().copied().max()?;
    let border = (side - 28) / 2;
    let image = |p: &[u8]| {
        let mut data = vec![-mean; side * side];
        for (y, row) in p.chunks(28).enumerate() {
            for (x, p) in row.iter().enumerate() {
                data[(y + border) * side + x + border] = f32::from(*p) * scale - mean;
            }
        }
        vec![Tensor { shape: shape.to_vec(), data: Data::F32(data) }]
    };
    let images = pixels.chunks(784).take(count).map(image).collect();
    Some((images, labels.into_iter().take(count).map(usize::from).collect()))
}

fn floats(tensor: &Tensor) -> &[f32] {
    match &tensor.data {
        Data::F32(floats) => floats,
        Data::Int(_) => &[],
    }
}

/// Output 0 of each test input.
fn outputs(graph: &Graph, inputs: &[Vec<Tensor>]) -> Vec<Vec<f32>> {
    let part = inputs.len().div_ceil(2).max(1);
    std::thread::scope(|scope| {
        let parts: Vec<_> = inputs
            .chunks(part)
            .map(|inputs| {
                scope.spawn(move || {
                    let mut evaluator = eval::Evaluator::new(graph).expect("a sound graph");
                    inputs
                        .iter()
                        .map(|i| floats(&evaluator.run(i).expect("inputs that fit")[0]).to_vec())
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        parts.into_iter().flat_map(|p| p.join().expect("no panic")).collect()
    })
}

fn top(values: &[f32]) -> usize {
    (0..values.len()).max_by(|a, b| values[*a].total_cmp(&values[*b])).unwrap_or(0)
}

struct Score {
    right: f64,
    same: f64,
    /// Signal to noise, decibels.
    ratio: f64,
}

fn score(case: &Case, float: &[Vec<f32>], other: &[Vec<f32>]) -> Score {
    let count = float.len() as f64;
    let labels = case.labels.as_ref();
    let right = labels.map_or(f64::NAN, |l| other.iter().zip(l).filter(|(y, l)| top(y) == **l).count() as f64 / count);
    let same = float.iter().zip(other).filter(|(a, b)| top(a) == top(b)).count() as f64 / count;
    let (mut signal, mut noise) = (0f64, 0f64);
    for (a, b) in float.iter().zip(other) {
        signal += a.iter().map(|a| f64::from(*a).powi(2)).sum::<f64>();
        noise += a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
    }
    Score { right, same, ratio: 10.0 * (signal / noise.max(1e-30)).log10() }
}

/// Bits of a weight of convolutions and fully connected layers, scales counted.
fn bits(graph: &Graph) -> f64 {
    let (mut bits, mut count) = (0f64, 0f64);
    for node in &graph.nodes {
        let Some(id) = node.inputs.get(1).copied().flatten() else { continue };
        let value = &graph.values[id];
        match (graph.coded.get(&id), &value.data) {
            (Some(matrix), _) => bits += 8.0 * matrix.bytes.len() as f64,
            (None, Some(Data::Int(ints))) if value.quant.as_ref().is_some_and(|q| q.scales.len() == value.shape[0]) => {
                bits += 8.0 * ints.len() as f64 + 64.0 * value.shape[0] as f64;
            }
            _ => continue,
        }
        count += value.count() as f64;
    }
    bits / count
}

fn onnx_graph(path: &Path) -> Option<Graph> {
    let mut graph = onnx::open(path, &onnx::Options::default()).ok()?;
    passes::channels_last(&mut graph);
    passes::run(&mut graph);
    Some(graph)
}

fn tflite_graph(name: &str) -> Option<Graph> {
    let mut graph = Tflite::open(&shared(name)?).ok()?.graph().ok()?;
    passes::run(&mut graph);
    Some(graph)
}

fn digit_net(name: &'static str, path: &Path, scale: f32, mean: f32) -> Option<Case> {
    let graph = onnx_graph(path)?;
    let shape = graph.values[graph.inputs[0]].shape.clone();
    let (calibration, _) = digits("train8k", 512, &shape, scale, mean)?;
    let count = std::env::var("IMAGES").ok().and_then(|n| n.parse().ok()).unwrap_or(10_000);
    let (test, labels) = digits("t10k", count, &shape, scale, mean)?;
    Some(Case { name, graph, calibration, test, labels: Some(labels) })
}

fn autoencoder() -> Option<Case> {
    let graph = tflite_graph("mlperf-tiny/ad_float.tflite")?;
    let raw = std::fs::read(shared("mlperf-tiny/ad_normal_id_01_00000000.bin")?).ok()?;
    let frames: Vec<f32> = raw.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    let shape = graph.values[graph.inputs[0]].shape.clone();
    let window = |i: usize| vec![Tensor { shape: shape.clone(), data: Data::F32(frames[i * 128..][..640].to_vec()) }];
    let (calibration, test) = ((0..98).map(window).collect(), (98..196).map(window).collect());
    Some(Case { name: "ad autoencoder", graph, calibration, test, labels: None })
}

fn cases() -> Vec<Case> {
    let third = std::env::var_os("LENET5_ONNX").map(PathBuf::from);
    let mut cases = Vec::new();
    cases.extend(digit_net("LeNet-5, ours", &root().join("examples/models/lenet5/lenet5.onnx"), 1.0 / 255.0, 0.0));
    cases.extend(third.and_then(|p| digit_net("LeNet-5, third party", &p, 1.0 / 255.0, 0.0)));
    cases.extend(shared("onnx/mnist_8.onnx").and_then(|p| digit_net("mnist_8", &p, 1.0, 0.0)));
    cases.extend(autoencoder());
    cases
}

fn main() {
    let only = std::env::args().nth(1).unwrap_or_default();
    let four = |feedback| Settings { feedback, ..Settings::bits(4, Coding::N4Learned) };
    let eight = |rule| Settings { rule, ..Settings::bits(8, Coding::N4Learned) };
    println!("| model | weights | bits a weight | right | same answer | signal to noise |");
    println!("| --- | --- | ---: | ---: | ---: | ---: |");
    for case in cases().iter().filter(|c| c.name.contains(&only)) {
        let float = outputs(&case.graph, &case.test);
        let line = |weights: &str, graph: &Graph| {
            let s = score(case, &float, &outputs(graph, &case.test));
            let (name, bits) = (case.name, bits(graph));
            println!(
                "| {name} | {weights} | {bits:.2} | {:.2} % | {:.2} % | {:.1} dB |",
                100.0 * s.right,
                100.0 * s.same,
                s.ratio
            );
        };
        line("float", &case.graph);
        let n = layers(&case.graph).len();
        let last = n.saturating_sub(1);
        let variants = [
            ("8 bits, min to max", eight(Rule::MinMax)),
            ("8 bits, least error", eight(Rule::Mse)),
            ("8 bits, 99.99 %", eight(Rule::Percentile(1e-4))),
            ("4 bits, nearest", four(Feedback::None)),
            ("4 bits, nearest, equalised", Settings { equalize: true, ..four(Feedback::None) }),
            ("4 bits, weighted", four(Feedback::Importance)),
            ("4 bits, error feedback", four(Feedback::Errors)),
            ("4 bits, full", four(Feedback::Full)),
            ("4 bits, full, equalised", Settings { equalize: true, ..four(Feedback::Full) }),
            ("4 bits, full, least error", Settings { rule: Rule::Mse, ..four(Feedback::Full) }),
            ("4 bits, full, uniform", Settings { coding: Some(Coding::N4Uniform), ..four(Feedback::Full) }),
            ("4 bits, full, first 8", Settings { keep: vec![0], ..four(Feedback::Full) }),
            ("4 bits, full, last 8", Settings { keep: vec![last], ..four(Feedback::Full) }),
            ("4 bits, full, first and last 8", Settings { keep: vec![0, last], ..four(Feedback::Full) }),
        ];
        for (name, settings) in variants {
            let graph = quantize(&case.graph, &case.calibration, &settings, &mut |_| ()).expect("samples that fit");
            line(name, &graph);
        }
    }
}

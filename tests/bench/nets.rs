//! What 8 and 4 bits cost a net: accuracy where there are labels, otherwise how often the float net's answer stays, and how
//! far outputs move. Images are written and run by the runtime, so the figures are a device's; `--ways` compares ways of
//! quantizing on the float evaluator, which rounds each result to its grid.

use flate2::read::GzDecoder;
use mote_host::{Arena, Model};
use mote_quantize::codes::Coding;
use mote_quantize::graph::quantize::{Feedback, Rule, Settings, layers, quantize};
use mote_quantize::graph::{Data, Graph, Op, Tensor, eval, passes};
use mote_quantize::import::{onnx, tflite::Tflite};
use mote_quantize::lower;
use mote_quantize::net::{self, Described};
use mote_runtime::Session;
use mote_runtime::fixed::tflite::Rounding;
use mote_runtime::image::{Limits, Port};
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
    /// Whether the largest output is an answer.
    classes: bool,
}

fn bytes(name: &str, head: usize) -> Option<Vec<u8>> {
    let mut all = Vec::new();
    GzDecoder::new(File::open(shared(name)?).ok()?).read_to_end(&mut all).ok()?;
    Some(all.split_off(head))
}

/// Digits as a net takes them: `shape`, grey times `scale`, in a border of black; and their labels.
fn digits(set: &str, count: usize, shape: &[usize], scale: f32) -> Option<(Vec<Vec<Tensor>>, Vec<usize>)> {
    let pixels = bytes(&format!("mnist/{set}-images-idx3-ubyte.gz"), 16)?;
    let labels = bytes(&format!("mnist/{set}-labels-idx1-ubyte.gz"), 8)?;
    let side = shape.iter().copied().max()?;
    let border = (side - 28) / 2;
    let image = |p: &[u8]| {
        let mut data = vec![0.0; side * side];
        for (y, row) in p.chunks(28).enumerate() {
            for (x, p) in row.iter().enumerate() {
                data[(y + border) * side + x + border] = f32::from(*p) * scale;
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

fn digit_net(name: &'static str, path: &Path, scale: f32) -> Option<Case> {
    let graph = onnx_graph(path)?;
    let shape = graph.values[graph.inputs[0]].shape.clone();
    let (calibration, _) = digits("train8k", 512, &shape, scale)?;
    let count = std::env::var("IMAGES").ok().and_then(|n| n.parse().ok()).unwrap_or(10_000);
    let (test, labels) = digits("t10k", count, &shape, scale)?;
    Some(Case { name, graph, calibration, test, labels: Some(labels), classes: true })
}

fn autoencoder(name: &'static str) -> Option<Case> {
    let graph = tflite_graph("mlperf-tiny/ad_float.tflite")?;
    let raw = std::fs::read(shared("mlperf-tiny/ad_normal_id_01_00000000.bin")?).ok()?;
    let frames: Vec<f32> = raw.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    let shape = graph.values[graph.inputs[0]].shape.clone();
    let window = |i: usize| vec![Tensor { shape: shape.clone(), data: Data::F32(frames[i * 128..][..640].to_vec()) }];
    let (calibration, test) = ((0..98).map(window).collect(), (98..196).map(window).collect());
    Some(Case { name, graph, calibration, test, labels: None, classes: false })
}

/// Pieces of a photograph, of many places and sizes, as an image input takes them: pixels less `mean` over `std`.
fn pieces(shape: &[usize], count: usize, mean: f32, std: f32) -> Option<Vec<Vec<Tensor>>> {
    let photo = image::open(shared("vision/cat.bmp")?).ok()?.into_rgb8();
    let (width, height) = photo.dimensions();
    let mut state = 7u64;
    let mut below = |n: u32| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) % u64::from(n)) as u32
    };
    let (h, w) = (shape[1] as u32, shape[2] as u32);
    let mut piece = || {
        let side = width.min(height);
        let side = side / 3 + below(side - side / 3);
        let (x, y) = (below(width - side + 1), below(height - side + 1));
        let part = image::imageops::crop_imm(&photo, x, y, side, side).to_image();
        let part = image::imageops::resize(&part, w, h, image::imageops::FilterType::Triangle);
        let data = part.into_raw().into_iter().map(|p| (f32::from(p) - mean) / std).collect();
        vec![Tensor { shape: shape.to_vec(), data: Data::F32(data) }]
    };
    Some((0..count).map(|_| piece()).collect())
}

fn photo_net(name: &'static str, file: &str, mean: f32, std: f32, counts: [usize; 2]) -> Option<Case> {
    let mut graph = tflite_graph(file)?;
    // Probabilities in steps of 1 / 256 are too coarse to compare a thousand classes: what they are made of is compared.
    let last = graph.nodes.iter().find(|n| matches!(n.op, Op::Softmax { .. }) && n.outputs == graph.outputs);
    if let Some(logits) = last.and_then(|n| n.inputs[0]) {
        graph.outputs = vec![logits];
        graph.prune();
    }
    let shape = graph.values[graph.inputs[0]].shape.clone();
    let mut calibration = pieces(&shape, counts[0] + counts[1], mean, std)?;
    let test = calibration.split_off(counts[0]);
    Some(Case { name, graph, calibration, test, labels: None, classes: true })
}

/// Normal numbers, as a generator's latent vectors are.
fn latents(shape: &[usize], count: usize) -> Vec<Vec<Tensor>> {
    let mut state = 3u64;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    };
    let mut normal = || ((-2.0 * uniform().ln()).sqrt() * (std::f64::consts::TAU * uniform()).cos()) as f32;
    let size = shape.iter().product();
    let latent = |_| vec![Tensor { shape: shape.to_vec(), data: Data::F32((0..size).map(|_| normal()).collect()) }];
    (0..count).map(latent).collect()
}

fn generator(name: &'static str, path: &Path) -> Option<Case> {
    let graph = onnx_graph(path)?;
    let mut calibration = latents(&graph.values[graph.inputs[0]].shape, 256 + 200);
    let test = calibration.split_off(256);
    Some(Case { name, graph, calibration, test, labels: None, classes: false })
}

/// Nets, each with how it is made: only those asked for are.
type Make = fn(&'static str) -> Option<Case>;

/// A file that `tests/golden/nets/to_onnx.py` made of third-party weights, in the folder that `MOTE_NETS` names.
fn third_party(file: &str) -> Option<PathBuf> {
    Some(PathBuf::from(std::env::var_os("MOTE_NETS")?).join(file)).filter(|p| p.is_file())
}

const CASES: [(&str, Make); 8] = [
    ("LeNet-5, ours", |n| digit_net(n, &root().join("examples/models/lenet5/lenet5.onnx"), 1.0 / 255.0)),
    ("LeNet-5, third party", |n| digit_net(n, &third_party("lenet5.onnx")?, 1.0 / 255.0)),
    ("mnist_8", |n| digit_net(n, &shared("onnx/mnist_8.onnx")?, 1.0)),
    ("ad autoencoder", autoencoder),
    ("ic ResNet-8", |n| photo_net(n, "mlperf-tiny/ic_resnet8_float.tflite", 0.0, 1.0, [128, 500])),
    ("MobileNet V1 0.25", |n| photo_net(n, "vision/mobilenet_v1_0.25_224_float.tflite", 127.5, 127.5, [32, 100])),
    ("GAN generator (MLP), third party", |n| generator(n, &third_party("mnist_generator_mlp.onnx")?)),
    ("DCGAN generator, ours", |n| generator(n, &root().join("examples/models/dcgan/dcgan.onnx"))),
];

/// Output 0 of each test input, from the image that the graph becomes, in real numbers; and the image's bytes.
fn run_image(graph: &Graph, inputs: &[Vec<Tensor>]) -> Result<(Vec<Vec<f32>>, u64), String> {
    let net = lower::net(graph, Rounding::Double).map_err(|missing| missing.join("; "))?;
    let folder = tempfile::tempdir().map_err(|why| why.to_string())?;
    let path = folder.path().join("net.mote");
    let described = Described { name: "net", license: None, hash: [0; 32], bits: 4, samples: 0 };
    let (_, bytes) = net::save(&net, &described, None, &path).map_err(|why| why.to_string())?;
    let model = Model::open(&path).map_err(|why| why.to_string())?;
    let image = model.image();
    let limits = Limits { batch: 1, context: 1, threads: 1 };
    let mut arena = Arena::for_limits(&model, limits).map_err(|why| why.to_string())?;
    let mut session = Session::new(image, arena.bytes(), limits).map_err(|why| why.to_string())?;
    let (Some(from), Some(to)) = (image.ports().inputs().next(), image.ports().outputs().next()) else {
        return Err("no inputs or outputs".into());
    };
    let scale = |p: &Port| f64::from(p.mantissa) * 2f64.powi(-p.exponent);
    let mut one = |inputs: &[Tensor]| {
        for (to, x) in session.input::<i8>(0)?.iter_mut().zip(floats(&inputs[0])) {
            *to = (f64::from(*x) / scale(&from) + f64::from(from.zero_point)).round().clamp(-128.0, 127.0) as i8;
        }
        session.run()?;
        let real = |q: &i8| (f64::from(i32::from(*q) - to.zero_point) * scale(&to)) as f32;
        Ok(session.output::<i8>(0)?.iter().map(real).collect())
    };
    let outputs: Result<Vec<_>, mote_runtime::Error> = inputs.iter().map(|i| one(i)).collect();
    Ok((outputs.map_err(|why| why.to_string())?, bytes))
}

/// The ways of choosing grids and codes, one by one.
fn ways(last: usize) -> Vec<(&'static str, Settings)> {
    let eight = |rule| Settings { rule, ..Settings::bits(8, Coding::N4Learned) };
    let four = |feedback| Settings { feedback, room: 0.0, ..Settings::bits(4, Coding::N4Learned) };
    let full = four(Feedback::Full);
    vec![
        ("8 bits, min to max", eight(Rule::MinMax)),
        ("8 bits, biases as they are", Settings { correct: false, ..eight(Rule::MinMax) }),
        ("8 bits, least error", eight(Rule::Mse)),
        ("8 bits, 99.99 %", eight(Rule::Percentile(1e-4))),
        ("4 bits, nearest", four(Feedback::None)),
        ("4 bits, nearest, equalised", Settings { equalize: true, ..four(Feedback::None) }),
        ("4 bits, weighted, biases corrected", four(Feedback::Importance)),
        ("4 bits, error feedback", four(Feedback::Errors)),
        ("4 bits, error feedback on the quantized net", full.clone()),
        ("the same, equalised", Settings { equalize: true, ..full.clone() }),
        ("the same, grids of least error", Settings { rule: Rule::Mse, ..full.clone() }),
        ("the same, uniform levels", Settings { coding: Some(Coding::N4Uniform), ..full.clone() }),
        ("the same, first and last layer 8 bits", Settings { keep: vec![0, last], ..full.clone() }),
        ("the same, 8 bits within 5 %", Settings { room: 0.05, ..full }),
    ]
}

/// `bench-nets [NAME]`: the table of nets whose names hold NAME. `bench-nets --ways [NAME]`: the ways of choosing grids and
/// codes, without images. `WAY=TEXT` shows the rows of those that hold it, `IMAGES=N` takes the first digits only.
fn main() {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let one_by_one = arguments.first().is_some_and(|a| a == "--ways");
    if one_by_one {
        arguments.remove(0);
    }
    let only = arguments.first().cloned().unwrap_or_default();
    println!("| model | weights | bits a weight | image bytes | right | same answer | signal to noise |");
    println!("| --- | --- | ---: | ---: | ---: | ---: | ---: |");
    let cases = CASES.iter().filter(|(name, _)| name.contains(&only)).filter_map(|(name, make)| make(name));
    for case in cases {
        let float = outputs(&case.graph, &case.test);
        let line = |weights: &str, graph: Option<&Graph>, bytes: u64, outputs: &[Vec<f32>]| {
            let s = score(&case, &float, outputs);
            let bits = graph.map_or("32.00".into(), |g| format!("{:.2}", bits(g)));
            let right = if s.right.is_nan() { "".into() } else { format!("{:.2} %", 100.0 * s.right) };
            let same = if case.classes { format!("{:.2} %", 100.0 * s.same) } else { String::new() };
            let name = case.name;
            let ratio = if graph.is_some() { format!("{:.1} dB", s.ratio) } else { String::new() };
            let bytes = if bytes > 0 { bytes.to_string() } else { String::new() };
            println!("| {name} | {weights} | {bits} | {bytes} | {right} | {same} | {ratio} |");
        };
        line("float", None, 0, &float);
        let only: Option<String> = std::env::var("WAY").ok();
        let settings = if one_by_one {
            ways(layers(&case.graph).len().saturating_sub(1))
        } else {
            [8, 4]
                .map(|bits| (if bits == 8 { "8 bits" } else { "4 bits" }, Settings::bits(bits, Coding::N4Learned)))
                .into()
        };
        for (name, settings) in
            settings.into_iter().filter(|(name, _)| only.as_ref().is_none_or(|o| name.contains(&o[..])))
        {
            let graph = quantize(&case.graph, &case.calibration, &settings, &mut |_| ()).expect("samples that fit");
            if one_by_one {
                line(name, Some(&graph), 0, &outputs(&graph, &case.test));
                continue;
            }
            match run_image(&graph, &case.test) {
                Ok((outputs, bytes)) => line(name, Some(&graph), bytes, &outputs),
                Err(why) => {
                    line(&format!("{name}, evaluator only"), Some(&graph), 0, &outputs(&graph, &case.test));
                    eprintln!("{}: no image: {why}", case.name);
                }
            }
        }
    }
}

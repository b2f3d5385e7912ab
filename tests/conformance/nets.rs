//! Nets of floats, quantized, written and run: near to the float evaluator of the same integers; dead channels folded
//! without a change of a byte; what the examples' digits are; LiteRT's opinion of reviews; sounds to MFCCs to words.

use mote_host::Arena;
use mote_quantize::codes::Coding;
use mote_quantize::frontend::Frontend;
use mote_quantize::graph::quantize::{Settings, quantize};
use mote_quantize::graph::{Data, Graph, Op, Tensor, eval, passes};
use mote_quantize::import::onnx::Options;
use mote_quantize::import::tflite::Tflite;
use mote_quantize::lower;
use mote_quantize::net;
use mote_quantize::samples::{self, Scaling};
use mote_runtime::Session;
use mote_runtime::fixed::tflite::Rounding;
use mote_runtime::image::Element;
use mote_tests::images::{self, LIMITS};
use mote_tests::{golden, golden_floats, root, shared};

/// Output 0, in int8, of the image of a graph on each input 0.
fn run<T: Element>(graph: &Graph, inputs: &[Vec<T>]) -> Vec<Vec<i8>> {
    let model = images::model(&lower::net(graph, Rounding::Double).unwrap());
    let mut arena = Arena::for_limits(&model, LIMITS).unwrap();
    let mut session = Session::new(model.image(), arena.bytes(), LIMITS).unwrap();
    let mut one = |x: &Vec<T>| {
        session.input::<T>(0).unwrap().copy_from_slice(x);
        session.run().unwrap();
        session.output::<i8>(0).unwrap().to_vec()
    };
    inputs.iter().map(&mut one).collect()
}

fn lenet5() -> (Graph, Vec<Vec<Tensor>>, Vec<Vec<Tensor>>) {
    let folder = root().join("examples/models/lenet5");
    let (graph, _) = net::prepared(&folder.join("lenet5.onnx"), &Options::default()).unwrap();
    let scaling = Scaling::one(0.0, 255.0);
    let inputs = net::inputs(&graph, None);
    let calibration = samples::read(&folder.join("calibration"), &inputs, &scaling).unwrap();
    let digit = |d: usize| samples::file(&folder.join(format!("digit{d}.png")), &inputs[0], &scaling).unwrap();
    (graph, calibration, (0..10).map(digit).collect())
}

#[test]
fn lenet5_reads_the_examples_at_8_and_4_bits() {
    let (graph, calibration, digits) = lenet5();
    let kinds: Vec<_> =
        graph.nodes.iter().map(|n| format!("{:?}", n.op).split(' ').next().unwrap_or("").to_owned()).collect();
    assert_eq!(
        kinds,
        ["Conv2d", "Pool2d", "Conv2d", "Pool2d", "Reshape", "FullyConnected", "FullyConnected", "FullyConnected"]
    );
    for bits in [8, 4] {
        let graph = quantize(&graph, &calibration, &Settings::bits(bits, Coding::N4Learned), &mut |_| ()).unwrap();
        assert_eq!(graph.coded.is_empty(), bits == 8);
        let (x, y) = (&graph.values[graph.inputs[0]], &graph.values[graph.outputs[0]]);
        let integers: Vec<Vec<i8>> =
            digits.iter().map(|d| eval::stored(x, &d[0]).into_iter().map(|q| q as i8).collect()).collect();
        for ((digit, run), sample) in run(&graph, &integers).iter().enumerate().zip(&digits) {
            let top = (0..10).max_by_key(|i| run[*i]).unwrap();
            assert_eq!(top, digit, "{bits} bits: {run:?}");
            // The evaluator rounds each result in floats: five layers of that are a few steps.
            let expected = eval::stored(y, &eval::run(&graph, sample).unwrap()[0]);
            let off = run.iter().zip(&expected).map(|(a, b)| (i64::from(*a) - b).abs()).max().unwrap();
            assert!(off <= 2, "{bits} bits, digit {digit}: {off} steps");
        }
    }
}

/// Channels of a trained int8 net made dead: weights 0, a bias of any size.
#[test]
fn dead_channels_of_int8_nets_change_no_byte() {
    for file in [
        "mlperf-tiny/kws_int8.tflite",
        "mlperf-tiny/ic_resnet8_int8.tflite",
        "tflite-micro/micro_speech_quantized.tflite",
    ] {
        let Some(path) = shared(file) else { return };
        let mut graph = Tflite::open(&path).unwrap().graph().unwrap();
        let layers: Vec<usize> =
            (0..graph.nodes.len()).filter(|i| matches!(graph.nodes[*i].op, Op::Conv2d { .. })).collect();
        for (turn, index) in layers.into_iter().enumerate() {
            let node = &graph.nodes[index];
            let (w, b) = (node.inputs[1].unwrap(), node.inputs[2].unwrap());
            let rows = graph.values[w].shape[0];
            for row in (turn % 3..rows).step_by(3 + turn % 4) {
                let Some(Data::Int(weights)) = &mut graph.values[w].data else { panic!("int8 weights") };
                let row_length = weights.len() / rows;
                weights[row * row_length..][..row_length].fill(0);
                let Some(Data::Int(biases)) = &mut graph.values[b].data else { panic!("an int32 bias") };
                biases[row] *= [0, 1, -3][row % 3];
            }
        }
        let mut state = 1u64;
        let mut byte = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as i8
        };
        let count = graph.values[graph.inputs[0]].count();
        let inputs: Vec<Vec<i8>> = (0..20).map(|_| (0..count).map(|_| byte()).collect()).collect();
        let before = run(&graph, &inputs);
        let weights = |g: &Graph| g.nodes.iter().filter_map(|n| g.input(n, 1)).map(|w| w.count()).sum::<usize>();
        let all = weights(&graph);
        passes::run(&mut graph);
        assert!(weights(&graph) < all * 95 / 100, "{file}: {} of {all} weights are left", weights(&graph));
        assert_eq!(before, run(&graph, &inputs), "{file}");
    }
}

/// The sentiment model, an embedding and little else, on reviews of our own: LiteRT's probabilities in floats, and nearly
/// so at 8 and at 4 bits, the table of the embedding included.
#[test]
fn reviews_are_judged_as_litert_judges_them() {
    let Some(path) = shared("text/nl_classifier_embedding.tflite") else { return };
    let text = std::fs::read_to_string(golden().join("tflite/sentiment.txt")).unwrap();
    let (mut ids, mut expected): (Vec<Vec<i32>>, Vec<Vec<f32>>) = (vec![], vec![]);
    for line in text.lines() {
        let (words, opinion) = line.split_once('|').unwrap();
        let mut words: Vec<i32> = words.split_whitespace().map(|w| w.parse().unwrap()).collect();
        words.resize(256, 0);
        ids.push(words);
        expected.push(opinion.split_whitespace().map(|p| p.parse().unwrap()).collect());
    }
    let sample = |ids: &Vec<i32>| {
        vec![Tensor { shape: vec![1, 256], data: Data::Int(ids.iter().map(|i| i64::from(*i)).collect()) }]
    };
    let (graph, _) = net::prepared(&path, &Options::default()).unwrap();
    for (ids, expected) in ids.iter().zip(&expected) {
        let Data::F32(found) = eval::run(&graph, &sample(ids)).unwrap().remove(0).data else { panic!("floats") };
        assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-5), "{found:?} {expected:?}");
    }
    let calibration: Vec<_> = ids[..8].iter().map(sample).collect();
    for bits in [8, 4] {
        let graph = quantize(&graph, &calibration, &Settings::bits(bits, Coding::N4Learned), &mut |_| ()).unwrap();
        // 10003 words of 16 numbers.
        let table = graph.coded.values().map(|m| m.bytes.len()).max().unwrap_or(0);
        assert!(if bits == 8 { table == 0 } else { (80_000..95_000).contains(&table) }, "{bits} bits: {table} bytes");
        for (found, expected) in run(&graph, &ids).iter().zip(&expected) {
            let off = |(q, p): (&i8, &f32)| ((f32::from(*q) + 128.0) / 256.0 - p).abs();
            let off = found.iter().zip(expected).map(off).fold(0f32, f32::max);
            assert!(off < 0.05, "{bits} bits: {found:?} {expected:?}");
        }
    }
}

/// Features of a sound as MLPerf Tiny's keyword model has them, a window after the other, and the graph that gives them; `coefficients`:
/// of MFCCs, `quant`: their steps.
fn features_of(samples: &[i16], coefficients: Option<usize>, quant: Option<(f32, i32)>) -> (Vec<i8>, Graph) {
    let frontend =
        Frontend { rate: 16_000, window: 480, step: 320, bins: 40, coefficients, range: [20.0, 4000.0], quant };
    // The first run ends where the reference's first window begins: what it gives is left out.
    let stream: Vec<i16> = std::iter::repeat_n(0, 160).chain(samples.iter().copied()).collect();
    let steps: Vec<Vec<i16>> = stream.as_chunks::<320>().0.iter().map(|step| step.to_vec()).collect();
    let graph = frontend.graph().unwrap();
    (run(&graph, &steps).into_iter().skip(1).flatten().collect(), graph)
}

fn sound(name: &str) -> Option<Vec<i16>> {
    let mut reader = hound::WavReader::open(shared(&format!("speech/{name}.wav"))?).unwrap();
    Some(reader.samples::<i16>().collect::<Result<_, _>>().unwrap())
}

fn top<T: PartialOrd>(scores: &[T]) -> usize {
    (1..scores.len()).fold(0, |best, i| if scores[i] > scores[best] { i } else { best })
}

/// The front end against NumPy's features in floats (`golden/mfcc/mfcc.py`), and then the words that LiteRT hears with those: by
/// the int8 model, and by the float one at 8 and 4 bits.
#[test]
fn spoken_words_by_mfccs() {
    let Some((int8, float)) = shared("mlperf-tiny/kws_int8.tflite").zip(shared("mlperf-tiny/kws_float.tflite")) else {
        return;
    };
    let (int8, _) = net::prepared(&int8, &Options::default()).unwrap();
    let (scale, zero) = int8.values[int8.inputs[0]].quant.as_ref().unwrap().single().unwrap();
    let (float, _) = net::prepared(&float, &Options::default()).unwrap();
    let real = |q: &i8| (f32::from(*q) - zero as f32) * scale;
    let sample = |features: &[i8]| {
        let data = Data::F32(features.iter().map(real).collect());
        vec![Tensor { shape: vec![1, 49, 10, 1], data }]
    };
    // Other speech than what is tested.
    let Some(speech) = sound("jfk") else { return };
    let mfccs = |samples: &[i16]| features_of(samples, Some(10), Some((scale, zero))).0;
    let calibration: Vec<_> = speech.chunks_exact(16_000).map(|second| sample(&mfccs(second))).collect();
    let nets: Vec<Graph> = [8, 4]
        .map(|bits| quantize(&float, &calibration, &Settings::bits(bits, Coding::N4Learned), &mut |_| ()).unwrap())
        .into();

    let scores = std::fs::read_to_string(golden().join("mfcc/scores.txt")).unwrap();
    for line in scores.lines() {
        let (word, scores) = line.split_once(' ').unwrap();
        let scores: Vec<f32> = scores.split(' ').map(|s| s.parse().unwrap()).collect();
        let samples = sound(&format!("{word}_1000ms")).unwrap();
        // MLPerf Tiny takes sounds over their largest sample.
        let largest = samples.iter().map(|s| f64::from(*s).abs()).fold(1.0, f64::max);
        let loud = |s: &i16| (f64::from(*s) / largest * 32_767.0).round_ties_even() as i16;
        let samples: Vec<i16> = samples.iter().map(loud).collect();
        let features = mfccs(&samples);
        assert_eq!(features.len(), 490);

        let expected = golden_floats(&format!("mfcc/{word}.f32"));
        let off: Vec<f32> = features.iter().zip(&expected).map(|(q, e)| real(q) - e).collect();
        let rms = (off.iter().map(|d| d * d).sum::<f32>() / 490.0).sqrt();
        let most = off.iter().fold(0f32, |m, d| m.max(d.abs()));
        // Rounding to the model's steps of 0.58 is 0.17 of it; the rest is the 16 bits of the transform in quiet windows.
        eprintln!("{word}: MFCCs off by {rms:.3} rms, {most:.2} at most");
        assert!(rms < 0.5 && most < 3.5, "{word}: {rms} {most}");
        if word == "noise" {
            let (logs, graph) = features_of(&samples, None, None);
            let (scale, zero) = graph.values[graph.outputs[0]].quant.as_ref().unwrap().single().unwrap();
            let off = |(q, e): (&i8, &f32)| ((f32::from(*q) - zero as f32) * scale - e).abs();
            let off = logs.iter().zip(&expected[490..]).map(off).fold(0f32, f32::max);
            assert!(logs.len() == 49 * 40 && off < 2.0 * scale, "logarithms: {off}");
        }

        let heard = top(&scores);
        assert_eq!(top(&run(&int8, std::slice::from_ref(&features))[0]), heard, "{word}, int8");
        for (net, bits) in nets.iter().zip([8, 4]) {
            let x = eval::stored(&net.values[net.inputs[0]], &sample(&features)[0]);
            let scores = run(net, &[x.into_iter().map(|q| q as i8).collect()]).remove(0);
            assert_eq!(top(&scores), heard, "{word}, {bits} bits: {scores:?}");
        }
    }
}

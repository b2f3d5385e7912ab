//! Small nets of noise, and what is asked of every quantized graph.

use super::*;
use crate::graph::{Binary, PoolKind, Unary, Window};

/// Numbers from -1 to 1, always the same.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    fn tensor(&mut self, shape: &[usize], scale: f32) -> Tensor {
        let data = (0..shape.iter().product()).map(|_| scale * self.next()).collect();
        Tensor { shape: shape.to_vec(), data: Data::F32(data) }
    }

    /// An image whose pixels are like their neighbours.
    fn image(&mut self, shape: &[usize; 4]) -> Tensor {
        let [a, b, c] = [self.next(), self.next(), self.next()];
        let pixel = |i: usize| {
            let (y, x) = ((i / shape[3] / shape[2]) as f32, (i / shape[3] % shape[2]) as f32);
            (a * y * 0.7 + b * x * 0.5).sin() + c * 0.3
        };
        let smooth: Vec<f32> = (0..shape.iter().product()).map(pixel).collect();
        Tensor { shape: shape.to_vec(), data: Data::F32(smooth.iter().map(|s| s + 0.1 * self.next()).collect()) }
    }
}

const VALID: Window = Window { stride: [1, 1], dilation: [1, 1], before: [0, 0], after: [0, 0] };
const RELU: Option<[f32; 2]> = Some([0.0, f32::INFINITY]);

/// Convolution, pool, two branches (one depthwise, one sigmoid) put side by side, fully connected, softmax.
fn net() -> (Graph, Vec<Vec<Tensor>>) {
    let mut noise = Noise(5);
    let mut g = Graph::default();
    let x = g.value("x", &[1, 10, 10, 2], DType::F32);
    g.inputs.push(x);
    let mut layer = |g: &mut Graph, op: Op, x: ValueId, weights: &[usize], shape: &[usize], clamp| {
        let scale = 1.5 / (weights[1..].iter().product::<usize>() as f32).sqrt();
        let w = g.constant("w", noise.tensor(weights, scale));
        let b = g.constant("b", noise.tensor(&weights[..1], 0.1));
        let y = g.value("y", shape, DType::F32);
        g.node("layer", "n", op, &[x, w, b], &[y]);
        if let Some(node) = g.nodes.last_mut() {
            node.clamp = clamp;
        }
        y
    };
    let conv = |groups| Op::Conv2d { window: VALID, groups };
    let y = layer(&mut g, conv(1), x, &[16, 3, 3, 2], &[1, 8, 8, 16], RELU);
    let p = g.value("p", &[1, 4, 4, 16], DType::F32);
    let window = Window { stride: [2, 2], ..VALID };
    g.node("pool", "n", Op::Pool2d { kind: PoolKind::Max, kernel: [2, 2], window }, &[y], &[p]);
    let a = layer(&mut g, conv(16), p, &[16, 1, 1, 1], &[1, 4, 4, 16], None);
    let b = layer(&mut g, conv(1), p, &[16, 1, 1, 16], &[1, 4, 4, 16], None);
    let s = g.value("s", &[1, 4, 4, 16], DType::F32);
    g.node("sigmoid", "n", Op::Unary(Unary::Sigmoid), &[b], &[s]);
    let both = g.value("c", &[1, 4, 4, 32], DType::F32);
    g.node("concat", "n", Op::Concat { axis: 3 }, &[a, s], &[both]);
    let k = g.constant("k", noise_free(&[32]));
    let m = g.value("m", &[1, 4, 4, 32], DType::F32);
    g.node("mul", "n", Op::Binary(Binary::Mul), &[both, k], &[m]);
    let flat = g.value("f", &[1, 512], DType::F32);
    g.node("reshape", "n", Op::Reshape, &[m], &[flat]);
    let y = layer(&mut g, Op::FullyConnected, flat, &[10, 512], &[1, 10], None);
    let out = g.value("o", &[1, 10], DType::F32);
    g.node("softmax", "n", Op::Softmax { axis: 1, beta: 1.0, log: false }, &[y], &[out]);
    g.outputs = vec![y, out];
    let samples = (0..64).map(|_| vec![noise.image(&[1, 10, 10, 2])]).collect();
    (g, samples)
}

fn noise_free(shape: &[usize]) -> Tensor {
    let count: usize = shape.iter().product();
    Tensor { shape: shape.to_vec(), data: Data::F32((0..count).map(|i| 1.0 + 0.01 * i as f32).collect()) }
}

/// Mean square of what output 0 is off, over the mean square of its distance from its mean.
fn lost(float: &Graph, other: &Graph, samples: &[Vec<Tensor>]) -> f64 {
    let (mut off, mut all) = (0f64, 0f64);
    for sample in samples {
        let [a, b] = [float, other].map(|g| eval::run(g, sample).expect("a sound graph").remove(0));
        let (Data::F32(a), Data::F32(b)) = (a.data, b.data) else { panic!("floats are compared") };
        let mean = a.iter().sum::<f32>() / a.len() as f32;
        off += a.iter().zip(&b).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
        all += a.iter().map(|a| f64::from(a - mean).powi(2)).sum::<f64>();
    }
    off / all
}

fn quantized(settings: &Settings) -> (f64, Graph) {
    let (graph, samples) = net();
    let (calibration, held_out) = samples.split_at(48);
    let after = quantize(&graph, calibration, settings, &mut |_| ()).expect("samples that fit");
    (lost(&graph, &after, held_out), after)
}

#[test]
fn every_activation_has_a_grid_and_tflite_s_constraints_hold() {
    let (loss, graph) = quantized(&Settings::bits(8, Coding::N4Learned));
    assert!(loss < 0.002, "{loss}");
    let quant = |id: ValueId| graph.values[id].quant.as_ref().and_then(Quant::single).expect("a grid");
    for node in &graph.nodes {
        let y = quant(node.outputs[0]);
        let x = node.inputs[0].map(quant).expect("an input");
        match &node.op {
            Op::Reshape | Op::Pool2d { .. } => assert_eq!(x, y),
            Op::Concat { .. } => node.inputs.iter().flatten().for_each(|i| assert_eq!(quant(*i), y)),
            Op::Softmax { .. } | Op::Unary(Unary::Sigmoid) => assert_eq!(y, (1.0 / 256.0, -128)),
            Op::Conv2d { .. } | Op::FullyConnected => {
                let (w, b) = (graph.input(node, 1).expect("weights"), graph.input(node, 2).expect("a bias"));
                assert_eq!((w.dtype, b.dtype), (DType::I8, DType::I32));
                let (w, b) = (w.quant.clone().expect("scales"), b.quant.clone().expect("scales"));
                assert!(w.scales.iter().zip(&b.scales).all(|(w, b)| ((w * x.0) / b - 1.0).abs() < 1e-6));
            }
            _ => (),
        }
    }
    // The sigmoid's own scale meets the convolution's in the concatenation.
    assert_eq!(graph.nodes.iter().filter(|n| n.op == Op::Requantize).count(), 1);
}

#[test]
fn four_bits_lose_less_with_each_way_of_choosing_codes() {
    let mut losses = Vec::new();
    for feedback in [Feedback::None, Feedback::Errors, Feedback::Full] {
        let settings = Settings { feedback, room: 0.0, ..Settings::bits(4, Coding::N4Learned) };
        let (loss, graph) = quantized(&settings);
        // Depthwise weights are int8, all others codes whose floats stand beside them.
        assert_eq!(graph.coded.len(), 3);
        for (id, matrix) in &graph.coded {
            let reader = graph.nodes.iter().find(|n| n.inputs.contains(&Some(*id))).expect("a reader");
            let ratio = scale(&graph, reader.inputs[0]) / scale(&graph, reader.outputs.first().copied());
            let Some(Data::F32(floats)) = &graph.values[*id].data else { panic!("floats beside the codes") };
            let pairs = matrix.decode().into_iter().zip(floats).collect::<Vec<_>>();
            assert!(pairs.iter().all(|(code, w)| (code - *w * ratio).abs() <= 1e-5 * code.abs()));
        }
        losses.push(loss);
    }
    assert!(losses[1] < 0.6 * losses[0] && losses[2] < 1.05 * losses[1], "{losses:?}");
    // Room for the convolutions, not for the large layer behind them.
    let (kept, graph) = quantized(&Settings { room: 0.1, ..Settings::bits(4, Coding::N4Learned) });
    assert!((1..3).contains(&graph.coded.len()) && kept < losses[2], "{kept} {losses:?}");
}

#[test]
fn equalising_changes_nothing_in_floats() {
    let mut noise = Noise(3);
    let mut g = Graph::default();
    let x = g.value("x", &[1, 6, 6, 2], DType::F32);
    g.inputs.push(x);
    let (wa, wb, bias) = (noise.tensor(&[4, 3, 3, 2], 1.0), noise.tensor(&[3, 16], 1.0), noise.tensor(&[4], 0.5));
    let (mut a, b, bias) = (g.constant("a", wa), g.constant("b", wb), g.constant("bias", bias));
    // One channel much larger than the others.
    if let Some(Data::F32(w)) = &mut g.values[a].data {
        w[..18].iter_mut().for_each(|w| *w *= 100.0);
    }
    let y = g.value("y", &[1, 4, 4, 4], DType::F32);
    g.node("conv", "n", Op::Conv2d { window: VALID, groups: 1 }, &[x, a, bias], &[y]);
    g.nodes[0].clamp = RELU;
    let p = g.value("p", &[1, 2, 2, 4], DType::F32);
    let window = Window { stride: [2, 2], ..VALID };
    g.node("pool", "n", Op::Pool2d { kind: PoolKind::Max, kernel: [2, 2], window }, &[y], &[p]);
    let flat = g.value("f", &[1, 16], DType::F32);
    g.node("reshape", "n", Op::Reshape, &[p], &[flat]);
    let out = g.value("o", &[1, 3], DType::F32);
    g.node("fc", "n", Op::FullyConnected, &[flat, b], &[out]);
    g.outputs = vec![out];
    let samples: Vec<_> = (0..8).map(|_| vec![noise.image(&[1, 6, 6, 2])]).collect();
    let mut equal = g.clone();
    assert_eq!(equalize::equalize(&mut equal), 1);
    assert!(lost(&g, &equal, &samples) < 1e-10);
    a = equal.nodes[0].inputs[1].expect("weights");
    let Some(Data::F32(w)) = &equal.values[a].data else { panic!("weights of floats") };
    let peak = |o: usize| w[o * 18..][..18].iter().fold(0f32, |m, w| m.max(w.abs()));
    // It was a hundred times the others'.
    assert!(peak(0) < 15.0 * peak(1), "{} and {}", peak(0), peak(1));

    // A cut at 6 is not the same for all scales.
    g.nodes[0].clamp = Some([0.0, 6.0]);
    assert_eq!(equalize::equalize(&mut g), 0);
}

#[test]
fn grids_have_zero_and_reach_both_ends() {
    for (low, high) in [(-1.0, 1.0), (0.0, 6.0), (-3.0, 0.0), (2.0, 5.0), (-0.001, 1000.0), (0.0, 0.0)] {
        let quant = ranges::grid(low, high);
        let (scale, zero) = quant.single().expect("one scale");
        assert!((-128..=127).contains(&zero) && scale > 0.0);
        let real = |q: i32| (q - zero) as f32 * scale;
        assert!(real(-128) <= low.max(0.0) + scale && real(127) >= high - scale, "{low} {high} {quant:?}");
        assert_eq!(ranges::integers(&[0.0], &quant, DType::I8), [i64::from(zero)]);
    }
}

#[test]
fn transposed_convolutions_become_convolutions() {
    let mut noise = Noise(11);
    // Input, kernel, stride, cut off before, output.
    for (input, kernel, stride, before, output) in [
        ([1, 1], [4, 3], [1, 1], [0, 0], [4, 3]),
        ([1, 1], [4, 4], [2, 2], [1, 1], [2, 2]),
        ([3, 4], [4, 4], [2, 2], [1, 1], [6, 8]),
        ([3, 4], [3, 3], [2, 2], [1, 0], [6, 8]),
        ([4, 3], [5, 2], [3, 2], [0, 0], [14, 6]),
        ([5, 5], [3, 3], [1, 1], [1, 1], [5, 5]),
        ([3, 3], [2, 2], [3, 3], [0, 0], [8, 8]),
    ] {
        let mut g = Graph::default();
        let x = g.value("x", &[1, input[0], input[1], 5], DType::F32);
        g.inputs.push(x);
        let w = g.constant("w", noise.tensor(&[3, kernel[0], kernel[1], 5], 1.0));
        let b = g.constant("b", noise.tensor(&[3], 1.0));
        let y = g.value("y", &[1, output[0], output[1], 3], DType::F32);
        let window = Window { stride, before, ..VALID };
        g.node("up", "n", Op::ConvTranspose2d { window }, &[x, w, b], &[y]);
        g.nodes[0].clamp = RELU;
        g.outputs = vec![y];
        let mut other = g.clone();
        subpixel::run(&mut other);
        assert!(other.nodes.iter().all(|n| !matches!(n.op, Op::ConvTranspose2d { .. })), "{input:?} {kernel:?}");
        assert_eq!(layers(&other).len(), 1);
        let samples = vec![vec![noise.tensor(&[1, input[0], input[1], 5], 1.0)]];
        let off = lost(&g, &other, &samples);
        assert!(off < 1e-10, "{input:?} {kernel:?} {stride:?} {before:?}: {off}");
    }
}

#[test]
fn biases_make_up_for_what_weights_have_moved() {
    let (graph, samples) = net();
    // Weights a little larger than they were, as an unlucky rounding has them: every channel is off.
    let mut grids = graph.clone();
    let seen = observe::observe(&graph, &samples, &mut || ()).expect("samples that fit");
    let added = ranges::quantize(&mut grids, &seen, Rule::MinMax, false);
    let mut walk = Walk::new(&graph, &grids, &samples, &added, &[]).expect("samples that fit");
    assert!(plain(&mut grids, 0));
    let weights = grids.nodes[0].inputs[1].expect("weights");
    if let Some(Data::Int(ints)) = &mut grids.values[weights].data {
        ints.iter_mut().for_each(|w| *w = (*w + 6).min(127));
    }
    let sums = |g: &Graph| {
        let mut sums = vec![0f64; 16];
        samples.iter().for_each(|s| add_sums(g, &g.nodes[0], &s[0], &mut sums).expect("a layer"));
        sums
    };
    let (wanted, off) = (sums(&graph), sums(&grids));
    walk.correct(&mut grids, 0).expect("a layer");
    let distance = |a: &[f64]| a.iter().zip(&wanted).map(|(a, b)| (a - b).abs()).sum::<f64>();
    assert!(distance(&sums(&grids)) < 0.1 * distance(&off), "{} {}", distance(&sums(&grids)), distance(&off));
}

#[test]
fn activations_of_int16_where_ops_take_them() {
    let (graph, samples) = net();
    let [narrow, wide] = [false, true].map(|int16| {
        let settings = Settings { int16, ..Settings::bits(8, Coding::N8) };
        quantize(&graph, &samples, &settings, &mut |_| ()).expect("samples that fit")
    });
    let dtype = |id: Option<ValueId>| id.map(|id| wide.values[id].dtype);
    for node in &wide.nodes {
        let (from, to) = (dtype(node.inputs[0]), dtype(Some(node.outputs[0])));
        match node.op {
            Op::Softmax { .. } => assert_eq!((from, to), (Some(DType::I8), Some(DType::I8))),
            Op::Requantize => (),
            _ => assert_eq!((from, to), (Some(DType::I16), Some(DType::I16)), "{node}"),
        }
    }
    assert_eq!(dtype(wide.inputs.first().copied()), Some(DType::I16));
    let (less, more) = (lost(&graph, &wide, &samples), lost(&graph, &narrow, &samples));
    assert!(less < 0.7 * more, "{less} with int16, {more} with int8");
    crate::lower::net(&wide, mote_runtime::fixed::tflite::Rounding::Double).expect("ops for int16");
}

/// Narrow entries, which stand side by side, and wide ones: the rows that are taken are the table's, in 4 bits.
#[test]
fn embeddings_are_coded() {
    for cols in [16, 40, 300] {
        let mut noise = Noise(cols as u64);
        let mut g = Graph::default();
        let ids = g.value("ids", &[1, 9], DType::I32);
        g.inputs.push(ids);
        let table = g.constant("table", noise.tensor(&[203, cols], 0.2));
        let y = g.value("y", &[1, 9, cols], DType::F32);
        g.node("gather", "n", Op::Gather { axis: 0 }, &[table, ids], &[y]);
        g.outputs = vec![y];
        let run =
            |i: i64| vec![Tensor { shape: vec![1, 9], data: Data::Int((0..9).map(|j| (i * 9 + j) % 203).collect()) }];
        let samples: Vec<_> = (0..23).map(run).collect();
        let coded =
            quantize(&g, &samples, &Settings::bits(4, Coding::N4Learned), &mut |_| ()).expect("samples that fit");
        let matrix = coded.coded.values().next().expect("a coded table");
        assert!(matrix.bytes.len() < 203 * cols * 3 / 4, "{cols}: {} bytes", matrix.bytes.len());
        let off = lost(&g, &coded, &samples);
        assert!(off < 0.01, "{cols}: {off}");
        let lowered = crate::lower::net(&coded, mote_runtime::fixed::tflite::Rounding::Double).expect("ops for all");
        assert_eq!(lowered.lowered.tensors[0].parameters, 203 * cols);
    }
}

//! Each pass on a graph that has what it looks for: the same outputs before and after, and the nodes that should be left.

use super::*;
use crate::graph::{
    Binary, Coordinates, DType, Interpolation, Nearest, NormKind, PadMode, PoolKind, Reduction, State, Unary, Window,
    eval, shape,
};

/// Numbers from -1 to 1, always the same.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    fn many(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.next()).collect()
    }
}

/// A graph that is written node by node, with weights of noise.
struct Draft {
    graph: Graph,
    noise: Noise,
}

const VALID: Window = Window { stride: [1, 1], dilation: [1, 1], before: [0, 0], after: [0, 0] };
const SAME: Window = Window { before: [1, 1], after: [1, 1], ..VALID };
const TO_LAST: [usize; 4] = [0, 2, 3, 1];
const TO_FIRST: [usize; 4] = [0, 3, 1, 2];

impl Draft {
    fn new() -> Self {
        Self { graph: Graph::default(), noise: Noise(1) }
    }

    fn input(&mut self, shape: &[usize]) -> ValueId {
        let id = self.graph.value("x", shape, DType::F32);
        self.graph.inputs.push(id);
        id
    }

    fn weights(&mut self, shape: &[usize]) -> ValueId {
        let floats = self.noise.many(shape.iter().product());
        float_constant(&mut self.graph, "w".into(), shape, floats)
    }

    fn number(&mut self, x: f32) -> ValueId {
        float_constant(&mut self.graph, "k".into(), &[], vec![x])
    }

    /// A node whose output's shape follows from its operands'.
    fn op(&mut self, op: Op, inputs: &[ValueId]) -> ValueId {
        let shapes: Vec<_> = inputs.iter().map(|i| Some(&self.graph.values[*i].shape[..])).collect();
        let shape = shape::infer(&op, &shapes).expect("operands that fit").expect("a shape that follows").remove(0);
        self.shaped(op, inputs, &shape)
    }

    fn shaped(&mut self, op: Op, inputs: &[ValueId], shape: &[usize]) -> ValueId {
        let to = self.graph.value("y", shape, DType::F32);
        self.graph.node("op", "n", op, inputs, &[to]);
        to
    }

    fn transpose(&mut self, x: ValueId, perm: &[usize]) -> ValueId {
        self.op(Op::Transpose { perm: perm.to_vec() }, &[x])
    }

    /// Rounded to int8 of this scale.
    fn integers(&mut self, x: ValueId, scale: f32) -> ValueId {
        let y = self.op(Op::Requantize, &[x]);
        self.graph.values[y].dtype = DType::I8;
        self.graph.values[y].quant = Some(Quant::one(scale, 3));
        y
    }

    /// A convolution of a channels-first image, as an importer writes it.
    fn conv_first(&mut self, x: ValueId, out: usize, kernel: usize, window: Window) -> ValueId {
        let x = self.transpose(x, &TO_LAST);
        let channels = self.graph.values[x].shape[3];
        let w = self.weights(&[out, kernel, kernel, channels]);
        let y = self.op(Op::Conv2d { window, groups: 1 }, &[x, w]);
        self.transpose(y, &TO_FIRST)
    }

    fn unary(&mut self, f: Unary, x: ValueId) -> ValueId {
        self.op(Op::Unary(f), &[x])
    }

    fn binary(&mut self, f: Binary, x: ValueId, y: ValueId) -> ValueId {
        self.op(Op::Binary(f), &[x, y])
    }

    fn relu(&mut self, x: ValueId) -> ValueId {
        self.unary(Unary::Clip(0.0, f32::INFINITY), x)
    }
}

fn random_inputs(graph: &Graph) -> Vec<Tensor> {
    let mut noise = Noise(77);
    let input = |id: &ValueId| {
        let value = &graph.values[*id];
        Tensor { shape: value.shape.clone(), data: Data::F32(noise.many(value.count())) }
    };
    graph.inputs.iter().map(input).collect()
}

fn close(a: &[Tensor], b: &[Tensor]) {
    assert_eq!(a.len(), b.len());
    for (a, b) in a.iter().zip(b) {
        assert_eq!(a.shape, b.shape);
        let (Data::F32(a), Data::F32(b)) = (&a.data, &b.data) else { panic!("floats are compared") };
        let most = a.iter().fold(1f32, |m, x| m.max(x.abs()));
        for (i, (a, b)) in a.iter().zip(b).enumerate() {
            assert!((a - b).abs() <= 1e-5 * most, "element {i}: {a} before, {b} after");
        }
    }
}

/// Runs all passes on the graph with these outputs; what it computes must stay.
fn passed(mut draft: Draft, outputs: &[ValueId]) -> Graph {
    draft.graph.outputs = outputs.to_vec();
    let graph = &mut draft.graph;
    let inputs = random_inputs(graph);
    let before = eval::run(graph, &inputs).expect("the graph before");
    assert!(
        before.iter().any(|t| matches!(&t.data, Data::F32(v) if v.iter().any(|x| *x != v[0]))),
        "outputs that differ"
    );
    run(graph);
    let after = eval::run(graph, &inputs).expect("the graph after");
    close(&before, &after);
    draft.graph
}

fn ops(graph: &Graph) -> Vec<String> {
    let name = |n: &Node| {
        let debug = format!("{:?}", n.op);
        let end = debug.find([' ', '{']).unwrap_or(debug.len());
        format!("{}{}", &debug[..end], if n.clamp.is_some() { "+clamp" } else { "" })
    };
    graph.nodes.iter().map(name).collect()
}

#[test]
fn a_channels_first_cnn_has_no_transpositions_left() {
    let mut d = Draft::new();
    let x = d.input(&[1, 1, 12, 10]);
    let mut y = d.conv_first(x, 4, 3, SAME);
    let (scale, shift) = (d.weights(&[1, 4, 1, 1]), d.weights(&[4, 1, 1]));
    y = d.binary(Binary::Mul, y, scale);
    y = d.binary(Binary::Add, y, shift);
    y = d.relu(y);
    let t = d.transpose(y, &TO_LAST);
    let window = Window { stride: [2, 2], ..VALID };
    let p = d.op(Op::Pool2d { kind: PoolKind::Max, kernel: [2, 2], window }, &[t]);
    y = d.transpose(p, &TO_FIRST);
    y = d.conv_first(y, 6, 3, VALID);
    y = d.unary(Unary::Clip(0.0, 6.0), y);
    let flat = d.shaped(Op::Reshape, &[y], &[1, 6 * 4 * 3]);
    let (w, b) = (d.weights(&[72, 5]), d.weights(&[5]));
    y = d.op(Op::MatMul { transposed: false }, &[flat, w]);
    y = d.binary(Binary::Add, y, b);
    let graph = passed(d, &[y]);
    let expected = ["Reshape", "Conv2d+clamp", "Pool2d", "Conv2d+clamp", "Reshape", "FullyConnected"];
    assert_eq!(ops(&graph), expected);
}

#[test]
fn branches_concat_pad_and_means_carry_transpositions() {
    let mut d = Draft::new();
    let x = d.input(&[1, 3, 8, 8]);
    let a = d.conv_first(x, 4, 1, VALID);
    let b = d.conv_first(x, 4, 1, VALID);
    let sum = d.binary(Binary::Add, a, b);
    let both = d.op(Op::Concat { axis: 1 }, &[sum, b]);
    let cut = d.shaped(Op::Slice { starts: vec![0, 1, 0, 2], steps: vec![1, 2, 1, 1] }, &[both], &[1, 3, 8, 6]);
    let padded = d.shaped(Op::Pad { before: vec![0, 0, 1, 0], mode: PadMode::Edge }, &[cut], &[1, 3, 10, 7]);
    let y = d.conv_first(padded, 2, 3, VALID);
    let soft = d.op(Op::Softmax { axis: 1, beta: 1.0, log: false }, &[y]);
    let mean = d.shaped(Op::Reduce { kind: Reduction::Mean, axes: vec![2, 3] }, &[soft], &[1, 2]);
    let graph = passed(d, &[mean]);
    // The input's own: channels-first, read by both convolutions.
    assert_eq!(graph.nodes.iter().filter(|n| matches!(n.op, Op::Transpose { .. })).count(), 1, "{:?}", ops(&graph));
}

#[test]
fn inputs_and_outputs_become_channels_last() {
    let mut d = Draft::new();
    let x = d.input(&[1, 3, 6, 5]);
    let k = d.number(0.5);
    let scaled = d.binary(Binary::Sub, x, k);
    let y = d.conv_first(scaled, 2, 3, VALID);
    let y = d.unary(Unary::Tanh, y);
    d.graph.outputs = vec![y];
    let inputs = random_inputs(&d.graph);
    let before = eval::run(&d.graph, &inputs).expect("before");
    run(&mut d.graph);
    let changed = channels_last(&mut d.graph);
    run(&mut d.graph);
    let changed_again = channels_last(&mut d.graph);
    assert_eq!((changed.len() + changed_again.len(), d.graph.outputs.len()), (2, 1));
    assert_eq!(ops(&d.graph), ["Conv2d", "Unary(Tanh)"]);
    let last = |t: &Tensor| {
        let shape = TO_LAST.iter().map(|d| t.shape[*d]).collect();
        Tensor { shape, data: permute_data(&t.shape, &TO_LAST, &t.data) }
    };
    let after = eval::run(&d.graph, &[last(&inputs[0])]).expect("after");
    close(&[last(&before[0])], &after);
}

#[test]
fn a_generator_s_first_layer_gives_channels_last() {
    let mut d = Draft::new();
    let z = d.input(&[1, 7]);
    let (w, b) = (d.weights(&[4 * 3 * 2, 7]), d.weights(&[24]));
    let y = d.shaped(Op::FullyConnected, &[z, w, b], &[1, 24]);
    let image = d.shaped(Op::Reshape, &[y], &[1, 4, 3, 2]);
    let gain = d.weights(&[1, 4, 1, 1]);
    let y = d.binary(Binary::Mul, image, gain);
    let y = d.unary(Unary::LeakyRelu(0.2), y);
    let last = d.transpose(y, &TO_LAST);
    let w = d.weights(&[1, 4, 4, 4]);
    let window = Window { stride: [2, 2], before: [1, 1], after: [1, 1], ..VALID };
    let y = d.shaped(Op::ConvTranspose2d { window }, &[last, w], &[1, 6, 4, 1]);
    let b = d.weights(&[1]);
    let y = d.binary(Binary::Add, y, b);
    let y = d.transpose(y, &TO_FIRST);
    let y = d.unary(Unary::Tanh, y);
    let graph = passed(d, &[y]);
    assert!(graph.nodes.iter().all(|n| !matches!(n.op, Op::Transpose { .. })), "{:?}", ops(&graph));
    assert_eq!(ops(&graph).iter().filter(|o| o.starts_with("ConvTranspose")).count(), 1);
}

#[test]
fn a_scaled_and_shifted_input_goes_into_the_first_layer() {
    let mut d = Draft::new();
    let x = d.input(&[1, 6, 6, 3]);
    let (mean, spread) = (d.weights(&[3]), d.weights(&[1, 1, 1, 3]));
    let y = d.binary(Binary::Sub, x, mean);
    let y = d.binary(Binary::Div, y, spread);
    let w = d.weights(&[6, 3, 3, 1]);
    let y = d.op(Op::Conv2d { window: VALID, groups: 3 }, &[y, w]);
    let graph = passed(d, &[y]);
    assert_eq!(ops(&graph), ["Conv2d"]);

    // At the edge there is zero, not what is added.
    let mut d = Draft::new();
    let x = d.input(&[1, 6, 6, 3]);
    let mean = d.weights(&[3]);
    let y = d.binary(Binary::Sub, x, mean);
    let w = d.weights(&[4, 3, 3, 3]);
    let y = d.op(Op::Conv2d { window: SAME, groups: 1 }, &[y, w]);
    let graph = passed(d, &[y]);
    assert_eq!(ops(&graph), ["Binary(Sub)", "Conv2d"]);
}

#[test]
fn what_does_nothing_goes() {
    let mut d = Draft::new();
    let x = d.input(&[2, 3, 4]);
    let y = d.unary(Unary::Identity, x);
    let y = d.transpose(y, &[2, 0, 1]);
    let y = d.transpose(y, &[1, 2, 0]);
    let (one, zero) = (d.number(1.0), d.number(0.0));
    let y = d.binary(Binary::Mul, one, y);
    let y = d.binary(Binary::Add, y, zero);
    let y = d.shaped(Op::Reshape, &[y], &[6, 4]);
    let y = d.shaped(Op::Reshape, &[y], &[24]);
    let y = d.shaped(Op::Slice { starts: vec![0], steps: vec![1] }, &[y], &[24]);
    let two = d.number(2.0);
    let three = d.number(3.0);
    let five = d.binary(Binary::Add, two, three);
    let y = d.binary(Binary::Mul, y, five);
    let graph = passed(d, &[y]);
    let mut names = ops(&graph);
    names.sort();
    assert_eq!(names, ["Binary(Mul)", "Reshape"]);
}

#[test]
fn an_output_that_is_an_input_stays_a_node() {
    let mut d = Draft::new();
    let x = d.input(&[4]);
    let y = d.unary(Unary::Identity, x);
    let graph = passed(d, &[y]);
    assert_eq!(ops(&graph), ["Unary(Identity)"]);
}

#[test]
fn equal_nodes_are_one() {
    let mut d = Draft::new();
    let x = d.input(&[1, 8]);
    let (w, v) = (d.number(0.5), d.number(0.5));
    let (a, b) = (d.binary(Binary::Mul, x, w), d.binary(Binary::Mul, x, v));
    let (a, b) = (d.unary(Unary::Exp, a), d.unary(Unary::Exp, b));
    let y = d.binary(Binary::Sub, a, x);
    let z = d.binary(Binary::Mul, y, b);
    let graph = passed(d, &[z]);
    assert_eq!(ops(&graph), ["Binary(Mul)", "Unary(Exp)", "Binary(Sub)", "Binary(Mul)"]);
}

#[test]
fn zeros_around_an_image_go_into_windows() {
    let mut d = Draft::new();
    let x = d.input(&[1, 5, 6, 2]);
    let padded = d.shaped(Op::Pad { before: vec![0, 1, 0, 0], mode: PadMode::Constant(0.0) }, &[x], &[1, 7, 8, 2]);
    let w = d.weights(&[3, 3, 3, 2]);
    let y = d.op(Op::Conv2d { window: Window { stride: [2, 2], ..VALID }, groups: 1 }, &[padded, w]);
    let p = d.shaped(Op::Pad { before: vec![0, 1, 1, 0], mode: PadMode::Constant(0.0) }, &[y], &[1, 5, 5, 3]);
    let kind = PoolKind::Average { count_padding: false };
    let y = d.op(Op::Pool2d { kind, kernel: [3, 3], window: VALID }, &[p]);
    let graph = passed(d, &[y]);
    assert_eq!(ops(&graph), ["Conv2d", "Pool2d"]);

    // Of ones, or wider than the window: these stay.
    for (number, before) in [(1.0, 1), (0.0, 3)] {
        let mut d = Draft::new();
        let x = d.input(&[1, 5, 6, 2]);
        let mode = PadMode::Constant(number);
        let padded = d.shaped(Op::Pad { before: vec![0, before, 0, 0], mode }, &[x], &[1, 5 + before, 6, 2]);
        let w = d.weights(&[3, 3, 3, 2]);
        let y = d.op(Op::Conv2d { window: VALID, groups: 1 }, &[padded, w]);
        assert_eq!(ops(&passed(d, &[y])), ["Pad", "Conv2d"]);
    }
}

#[test]
fn layer_norm_written_out_is_one_node() {
    for square in 0..3 {
        let mut d = Draft::new();
        let x = d.input(&[1, 3, 16]);
        let mean = |d: &mut Draft, x| d.shaped(Op::Reduce { kind: Reduction::Mean, axes: vec![2] }, &[x], &[1, 3, 1]);
        let m = mean(&mut d, x);
        let (a, b) = (d.binary(Binary::Sub, x, m), d.binary(Binary::Sub, x, m));
        let s = match square {
            0 => d.binary(Binary::Mul, a, a),
            1 => d.unary(Unary::Square, a),
            _ => {
                let two = d.number(2.0);
                d.binary(Binary::Pow, a, two)
            }
        };
        let v = mean(&mut d, s);
        let epsilon = d.number(1e-3);
        let v = d.binary(Binary::Add, v, epsilon);
        let root = d.unary(Unary::Sqrt, v);
        let y = d.binary(Binary::Div, b, root);
        let (gain, bias) = (d.weights(&[16]), d.weights(&[1, 16]));
        let y = d.binary(Binary::Mul, y, gain);
        let y = d.binary(Binary::Add, y, bias);
        let graph = passed(d, &[y]);
        assert_eq!(ops(&graph), ["Norm"]);
        assert_eq!(graph.nodes[0].op, Op::Norm { kind: NormKind::Layer { axis: 2 }, epsilon: 1e-3 });
    }
}

#[test]
fn sums_of_functions_are_one_node() {
    let all = |kind| Op::Reduce { kind, axes: vec![1] };
    for (names, node) in [
        (vec!["Abs", "Sum"], "Reduce { kind: L1, axes: [1] }"),
        (vec!["Square", "Sum"], "Reduce { kind: SumSquare, axes: [1] }"),
        (vec!["Itself", "Sum"], "Reduce { kind: SumSquare, axes: [1] }"),
        (vec!["Itself", "Sum", "Sqrt"], "Reduce { kind: L2, axes: [1] }"),
        (vec!["Sum", "Log"], "Reduce { kind: LogSum, axes: [1] }"),
        (vec!["Exp", "Sum", "Log"], "Reduce { kind: LogSumExp, axes: [1] }"),
    ] {
        let mut d = Draft::new();
        let mut y = d.input(&[4, 6]);
        for name in &names {
            y = match *name {
                "Abs" => d.unary(Unary::Abs, y),
                "Square" => d.unary(Unary::Square, y),
                "Itself" => d.binary(Binary::Mul, y, y),
                "Exp" => d.unary(Unary::Exp, y),
                "Sum" => d.shaped(all(Reduction::Sum), &[y], &[4]),
                "Sqrt" => d.unary(Unary::Sqrt, y),
                _ => d.unary(Unary::Log, y),
            };
        }
        let left = passed(d, &[y]);
        assert_eq!(format!("{:?}", left.nodes.last().unwrap().op), node, "{names:?}");
    }
    for (less, log) in [(false, false), (true, false), (true, true)] {
        let mut d = Draft::new();
        let x = d.input(&[4, 6]);
        let top = d.shaped(all(Reduction::Max), &[x], &[4, 1]);
        let below = if less { d.binary(Binary::Sub, x, top) } else { x };
        let e = d.unary(Unary::Exp, below);
        let sum = d.shaped(all(Reduction::Sum), &[e], &[4, 1]);
        let mut y = d.binary(Binary::Div, e, sum);
        if log {
            y = d.unary(Unary::Log, y);
        }
        let left = passed(d, &[y]);
        assert!(left.nodes.len() == 1 && left.nodes[0].op == Op::Softmax { axis: 1, beta: 1.0, log }, "{left:?}");
    }
}

#[test]
fn swishes_are_one_node() {
    let mut d = Draft::new();
    let x = d.input(&[64]);
    let s = d.unary(Unary::Sigmoid, x);
    let silu = d.binary(Binary::Mul, s, x);
    assert_eq!(ops(&passed(d, &[silu])), ["Unary(Silu)"]);
    for how in 0..4 {
        let mut d = Draft::new();
        let x = d.input(&[64]);
        let (three, six, sixth) = (d.number(3.0), d.number(6.0), d.number(1.0 / 6.0));
        let wide = d.number(8.0);
        let x = d.binary(Binary::Mul, x, wide);
        let sum = d.binary(Binary::Add, x, three);
        let gate = d.unary(Unary::Clip(0.0, 6.0), sum);
        let y = match how {
            0 => {
                let gate = d.binary(Binary::Div, gate, six);
                d.binary(Binary::Mul, x, gate)
            }
            1 => {
                let y = d.binary(Binary::Mul, gate, x);
                d.binary(Binary::Mul, sixth, y)
            }
            2 => {
                let over = d.binary(Binary::Mul, x, sixth);
                d.binary(Binary::Mul, over, gate)
            }
            _ => {
                let gate = d.unary(Unary::HardSigmoid(1.0 / 6.0, 0.5), x);
                d.binary(Binary::Mul, x, gate)
            }
        };
        assert_eq!(ops(&passed(d, &[y])), ["Binary(Mul)", "Unary(HardSwish)"], "way {how}");
    }
}

#[test]
fn rounding_moves_onto_values() {
    let mut d = Draft::new();
    let x = d.input(&[1, 4, 4, 2]);
    let q = d.integers(x, 0.01);
    let x = d.op(Op::Requantize, &[q]);
    let w = d.graph.constant("w", Tensor { shape: vec![3, 1, 1, 2], data: Data::Int(vec![1, -7, 100, 5, 127, -128]) });
    d.graph.values[w].dtype = DType::I8;
    d.graph.values[w].quant = Some(Quant { scales: vec![0.1, 0.2, 0.3], zero_points: vec![0; 3], axis: 0 });
    let w = d.op(Op::Requantize, &[w]);
    let y = d.op(Op::Conv2d { window: VALID, groups: 1 }, &[x, w]);
    let y = d.relu(y);
    let q = d.integers(y, 0.5);
    let y = d.op(Op::Requantize, &[q]);
    let graph = passed(d, &[y]);
    assert_eq!(ops(&graph), ["Requantize", "Conv2d+clamp"]);
    assert_eq!(graph.input(&graph.nodes[1], 1).map(|w| w.dtype), Some(DType::I8));
}

#[test]
fn layouts_between_integers_are_of_integers() {
    let mut d = Draft::new();
    let x = d.input(&[1, 2, 4, 4]);
    let rounded = |d: &mut Draft, x: ValueId| {
        let q = d.integers(x, 0.05);
        d.op(Op::Requantize, &[q])
    };
    let mut y = rounded(&mut d, x);
    for _ in 0..2 {
        y = d.conv_first(y, 2, 3, SAME);
        y = rounded(&mut d, y);
    }
    let graph = passed(d, &[y]);
    assert!(!crate::net::is_float(&graph), "{:?}", ops(&graph));
}

#[test]
fn states_keep_their_values() {
    let mut d = Draft::new();
    let x = d.input(&[1, 4]);
    let read = d.graph.value("h", &[1, 4], DType::F32);
    let sum = d.binary(Binary::Add, x, read);
    let write = d.unary(Unary::Identity, sum);
    let y = d.unary(Unary::Tanh, write);
    d.graph.states.push(State { name: "h".into(), read, write, initial: Data::F32(vec![0.5; 4]) });
    d.graph.outputs = vec![y];
    let graph = passed_twice(d);
    assert_eq!(ops(&graph), ["Binary(Add)", "Unary(Tanh)"]);
}

/// Runs all passes on a graph with states; what it computes in two runs must stay.
fn passed_twice(mut draft: Draft) -> Graph {
    let inputs = random_inputs(&draft.graph);
    let twice = |graph: &Graph| {
        let mut evaluator = eval::Evaluator::new(graph).expect("a sound graph");
        let first = evaluator.run(&inputs).expect("first");
        [first, evaluator.run(&inputs).expect("second")].concat()
    };
    let before = twice(&draft.graph);
    run(&mut draft.graph);
    close(&before, &twice(&draft.graph));
    draft.graph
}

/// Units of the LSTMs written out.
const UNITS: usize = 3;

/// An LSTM step written out: from x `[batch, features]`, h and c `[batch, units]`; h and c afterwards.
fn step(d: &mut Draft, x: ValueId, [h, c]: [ValueId; 2]) -> [ValueId; 2] {
    let (batch, features) = (d.graph.values[x].shape[0], d.graph.values[x].shape[1]);
    let (w, r, b) = (d.weights(&[4 * UNITS, features]), d.weights(&[4 * UNITS, UNITS]), d.weights(&[4 * UNITS]));
    let [from_x, from_h] = [[x, w], [h, r]].map(|both| d.shaped(Op::FullyConnected, &both, &[batch, 4 * UNITS]));
    let sum = d.binary(Binary::Add, from_x, from_h);
    let sum = d.binary(Binary::Add, sum, b);
    let [i, f, g, o] = [0, 1, 2, 3].map(|gate| {
        let slice = Op::Slice { starts: vec![0, gate * UNITS], steps: vec![1; 2] };
        let part = d.shaped(slice, &[sum], &[batch, UNITS]);
        d.unary(if gate == 2 { Unary::Tanh } else { Unary::Sigmoid }, part)
    });
    let (kept, new) = (d.binary(Binary::Mul, f, c), d.binary(Binary::Mul, i, g));
    let cells = d.binary(Binary::Add, kept, new);
    let tanh = d.unary(Unary::Tanh, cells);
    [d.binary(Binary::Mul, o, tanh), cells]
}

/// Two steps, one behind the other, whose states are one input `[2 layers, 3 units, h or c]`.
fn written_out(change: impl Fn(&mut Draft, ValueId) -> ValueId) -> Draft {
    let mut d = Draft::new();
    let mut x = d.input(&[1, 5]);
    let read = d.graph.value("states", &[2, UNITS, 2], DType::F32);
    let mut packed = vec![];
    for layer in 0..2 {
        let states = [0, 1].map(|which| {
            let slice = Op::Slice { starts: vec![layer, 0, which], steps: vec![1; 3] };
            let one = d.shaped(slice, &[read], &[1, UNITS, 1]);
            d.shaped(Op::Reshape, &[one], &[1, UNITS])
        });
        let [h, c] = step(&mut d, x, states);
        let c = change(&mut d, c);
        packed.push([h, c].map(|v| d.shaped(Op::Reshape, &[v], &[1, UNITS, 1])));
        x = h;
    }
    let layers = packed.into_iter().map(|both| d.op(Op::Concat { axis: 2 }, &both)).collect::<Vec<_>>();
    let write = d.op(Op::Concat { axis: 0 }, &layers);
    let initial = Data::F32(d.noise.many(4 * UNITS));
    d.graph.states.push(State { name: "states".into(), read, write, initial });
    d.graph.outputs = vec![x];
    d
}

/// Of several at a time, and of none, where there is nothing to divide by.
#[test]
fn lstms_with_states_of_their_own() {
    for (batch, lstms) in [(2, 1), (0, 0)] {
        let mut d = Draft::new();
        let x = d.input(&[batch, 5]);
        let read = ["h", "c"].map(|name| d.graph.value(name, &[batch, UNITS], DType::F32));
        let write = step(&mut d, x, read);
        for (read, write) in read.into_iter().zip(write) {
            let initial = Data::F32(d.noise.many(batch * UNITS));
            d.graph.states.push(State { name: "state".into(), read, write, initial });
        }
        d.graph.outputs = vec![write[0]];
        let graph = passed_twice(d);
        assert_eq!(ops(&graph).iter().filter(|op| *op == "Lstm").count(), lstms, "{:?}", ops(&graph));
    }
}

#[test]
fn packed_states_fall_apart_and_lstms_come_together() {
    let graph = passed_twice(written_out(|_, cells| cells));
    let lstms = ops(&graph).iter().filter(|op| *op == "Lstm").count();
    assert_eq!((lstms, graph.states.len()), (2, 4), "{:?}", ops(&graph));
    let names: Vec<&str> = graph.states.iter().map(|s| &s.name[..]).collect();
    assert_eq!(names, ["states.0", "states.1", "states.2", "states.3"]);
}

#[test]
fn steps_that_are_not_quite_an_lstm_stay() {
    // Cells that are halved from step to step: states of their own, but no LSTM's.
    let graph = passed_twice(written_out(|d, cells| {
        let half = d.number(0.5);
        d.binary(Binary::Mul, cells, half)
    }));
    assert!(!ops(&graph).contains(&"Lstm".to_owned()) && graph.states.len() == 4, "{:?}", ops(&graph));
}

#[test]
fn a_state_that_moves_on_stays_whole() {
    // The last three of four, and a new one.
    let mut d = Draft::new();
    let x = d.input(&[1, 1]);
    let read = d.graph.value("ring", &[1, 4], DType::F32);
    let rest = d.shaped(Op::Slice { starts: vec![0, 1], steps: vec![1; 2] }, &[read], &[1, 3]);
    let twice = d.binary(Binary::Add, x, x);
    let write = d.op(Op::Concat { axis: 1 }, &[rest, twice]);
    let y = d.unary(Unary::Tanh, write);
    d.graph.states.push(State { name: "ring".into(), read, write, initial: Data::F32(vec![0.1, 0.2, 0.3, 0.4]) });
    d.graph.outputs = vec![y];
    assert_eq!(passed_twice(d).states.len(), 1);
}

#[test]
fn a_root_of_two_squares_is_one_node() {
    let mut d = Draft::new();
    let x = d.input(&[2, 6]);
    let [a, b] = [0, 3].map(|at| d.shaped(Op::Slice { starts: vec![0, at], steps: vec![1; 2] }, &[x], &[2, 3]));
    let two = d.number(2.0);
    let (a, b) = (d.binary(Binary::Pow, a, two), d.binary(Binary::Mul, b, b));
    let sum = d.binary(Binary::Add, a, b);
    let y = d.unary(Unary::Sqrt, sum);
    assert_eq!(ops(&passed(d, &[y])), ["Slice", "Slice", "Binary(Hypot)"]);
}

/// Channels 1 and 4 of the first layer are dead: zero weights, a bias below and above 0. Behind them a depthwise layer, a
/// pool, a pointwise layer; then a depthwise one with a dead channel of its own, and what feeds only that.
fn with_dead_channels(edges: bool, bias: f32) -> (Draft, ValueId) {
    let mut d = Draft::new();
    let window = if edges { SAME } else { VALID };
    let x = d.input(&[1, 9, 9, 2]);
    let zero = |d: &mut Draft, w: ValueId, row: usize, count: usize| {
        if let Some(Data::F32(floats)) = &mut d.graph.values[w].data {
            floats[row * count..][..count].fill(0.0);
        }
    };
    let (w, b) = (d.weights(&[6, 3, 3, 2]), d.weights(&[6]));
    zero(&mut d, w, 1, 18);
    zero(&mut d, w, 4, 18);
    if let Some(Data::F32(floats)) = &mut d.graph.values[b].data {
        (floats[1], floats[4]) = (-0.25, bias);
    }
    let y = d.op(Op::Conv2d { window, groups: 1 }, &[x, w, b]);
    let y = d.relu(y);
    let (w, b) = (d.weights(&[6, 3, 3, 1]), d.weights(&[6]));
    let y = d.op(Op::Conv2d { window, groups: 6 }, &[y, w, b]);
    let y = d.relu(y);
    let y = d.op(Op::Pool2d { kind: PoolKind::Max, kernel: [2, 2], window: VALID }, &[y]);
    let w = d.weights(&[5, 1, 1, 6]);
    let y = d.op(Op::Conv2d { window: VALID, groups: 1 }, &[y, w]);
    let w = d.weights(&[5, 3, 3, 1]);
    zero(&mut d, w, 2, 9);
    let y = d.op(Op::Conv2d { window, groups: 5 }, &[y, w]);
    let y = d.unary(Unary::Clip(0.0, 6.0), y);
    let count = d.graph.values[y].count();
    let flat = d.shaped(Op::Reshape, &[y], &[1, count]);
    let w = d.weights(&[3, count]);
    let y = d.shaped(Op::FullyConnected, &[flat, w], &[1, 3]);
    (d, y)
}

#[test]
fn dead_channels_are_folded() {
    // Where windows reach over the edge, only the channel that is zero can be replaced, and that only up to where the next
    // layer's bias makes it another number.
    for (edges, bias, first, second, third) in
        [(false, 0.75, 4, 4, 4), (true, 0.75, 5, 5, 4), (false, 0.0, 4, 4, 4), (true, 0.0, 4, 4, 4)]
    {
        let (d, y) = with_dead_channels(edges, bias);
        let graph = passed(d, &[y]);
        let channels: Vec<_> =
            graph.nodes.iter().map(|n| *graph.values[n.outputs[0]].shape.last().expect("a dimension")).collect();
        assert_eq!(channels[..5], [first, second, second, third, third], "edges {edges}, bias {bias}");
    }
}

/// Integers for a graph of floats, roughly.
fn quantized(graph: &mut Graph) {
    let mut makers = std::collections::HashMap::new();
    for node in &graph.nodes {
        if let Op::Conv2d { .. } | Op::FullyConnected = node.op {
            makers.insert(node.outputs[0], node.clone());
        }
    }
    let constants: std::collections::HashSet<_> =
        makers.values().flat_map(|n| n.inputs[1..].iter().flatten().copied()).collect();
    for (id, value) in graph.values.iter_mut().enumerate() {
        if value.data.is_none() {
            value.dtype = DType::I8;
            value.quant = Some(Quant::one(0.03, -20));
        } else if constants.contains(&id) {
            let Some(Data::F32(floats)) = &value.data else { continue };
            let bias = value.shape.len() == 1;
            let scale = if bias { 0.03 / 127.0 } else { 1.0 / 127.0 };
            let rows = value.shape[0];
            value.data = Some(Data::Int(floats.iter().map(|f| (f / scale).round() as i64).collect()));
            value.dtype = if bias { DType::I32 } else { DType::I8 };
            value.quant = Some(Quant { scales: vec![scale; rows], zero_points: vec![0; rows], axis: 0 });
        }
    }
}

#[test]
fn dead_channels_of_integers_change_no_bit() {
    for (edges, bias) in [(false, 0.75), (true, 0.75), (false, 0.0), (true, 0.0)] {
        let (mut d, y) = with_dead_channels(edges, bias);
        activations::run(&mut d.graph);
        quantized(&mut d.graph);
        d.graph.outputs = vec![y];
        let inputs: Vec<Tensor> = random_inputs(&d.graph);
        let integers = |graph: &Graph| {
            let outputs = eval::run(graph, &inputs).expect("a sound graph");
            let stored = |(t, o): (&Tensor, &ValueId)| eval::stored(&graph.values[*o], t);
            outputs.iter().zip(&graph.outputs).flat_map(stored).collect::<Vec<_>>()
        };
        let before = integers(&d.graph);
        let computed = |graph: &Graph| {
            let count = |n: &Node| graph.values[n.outputs[0]].count();
            graph.nodes.iter().map(count).sum::<usize>()
        };
        let all = computed(&d.graph);
        assert!(dead_channels::run(&mut d.graph));
        d.graph.prune();
        assert!(computed(&d.graph) < all);
        assert_eq!(before, integers(&d.graph), "edges {edges}, bias {bias}");
    }
}

#[test]
fn resizes_and_one_kept_channel() {
    // All channels of the layer are dead: one stays, for an image has channels.
    let mut d = Draft::new();
    let x = d.input(&[1, 4, 4, 2]);
    let w = float_constant(&mut d.graph, "w".into(), &[3, 1, 1, 2], vec![0.0; 6]);
    let b = d.weights(&[3]);
    let y = d.op(Op::Conv2d { window: VALID, groups: 1 }, &[x, w, b]);
    let interpolation = Interpolation::Nearest(Nearest::Floor);
    let y = d.shaped(Op::Resize { coordinates: Coordinates::Asymmetric, interpolation }, &[y], &[1, 8, 8, 3]);
    let w = d.weights(&[2, 1, 1, 3]);
    let y = d.op(Op::Conv2d { window: VALID, groups: 1 }, &[y, w]);
    let graph = passed(d, &[y]);
    assert_eq!(graph.output(&graph.nodes[0], 0).map(|v| v.shape.clone()), Some(vec![1, 4, 4, 1]));
}

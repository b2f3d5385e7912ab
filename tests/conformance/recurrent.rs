//! Recurrent layers and norms of float nets, quantized at 8 bits and run: near to what ONNX Runtime gave in floats, and to
//! the float evaluator over many runs with states.

use mote_quantize::codes::Coding;
use mote_quantize::graph::quantize::{Settings, quantize};
use mote_quantize::graph::{DType, Data, Direction, Graph, NormKind, Op, State, Tensor, ValueId, eval};
use mote_quantize::import::onnx::{self, Options};
use mote_tests::images::{self, Output};
use mote_tests::{golden, golden_floats, noise};

fn floats(tensor: &Tensor) -> &[f32] {
    let Data::F32(v) = &tensor.data else { panic!("{tensor:?}") };
    v
}

/// Quantizes a graph of one input with these inputs and runs its image; all outputs of each run as real numbers, one after
/// another, states going on from run to run.
fn quantized(float: &Graph, samples: &[Tensor], inputs: &[Tensor]) -> Vec<Vec<f32>> {
    let one_input = |all: &[Tensor]| all.iter().map(|x| vec![x.clone()]).collect::<Vec<_>>();
    let graph = quantize(float, &one_input(samples), &Settings::bits(8, Coding::N8), &mut |_| ()).unwrap();
    let runs = images::run_all(&graph, &one_input(inputs));
    runs.iter().map(|outputs| outputs.iter().flat_map(Output::real).collect()).collect()
}

/// The largest difference, and the root of the mean square of all.
fn apart(found: &[f32], expected: &[f32]) -> (f32, f32) {
    assert_eq!(found.len(), expected.len());
    let all = found.iter().zip(expected).map(|(a, b)| (a - b).abs());
    let squares: f32 = all.clone().map(|d| d * d).sum();
    (all.fold(0.0, f32::max), (squares / found.len() as f32).sqrt())
}

/// Both directions, constant first states, states as outputs, the reset gate before and after: against ONNX Runtime.
#[test]
fn layers_are_onnx_runtime_s() {
    for name in ["lstm_both", "gru_both", "gru_reverse"] {
        let graph = onnx::open(&golden().join(format!("onnx/{name}.onnx")), &Options::default()).unwrap();
        let expected = golden_floats(&format!("onnx/{name}.f32"));
        let samples: Vec<Tensor> = (1..40).map(|seed| noise(seed, &[5, 2, 3])).collect();
        let found = quantized(&graph, &samples, &samples[..1]);
        let (most, rms) = apart(&found[0], &expected);
        println!("{name}: {most} at most, rms {rms}");
        assert!(most < MOST && rms < RMS, "{name}: {most}, {rms}");
    }
}

/// Of results between -1 and 1, whose int8 has steps of 1/128 or less.
const MOST: f32 = 0.01;
const RMS: f32 = 0.004;

/// A layer norm, an LSTM or a GRU whose states are the graph's, and a fully connected layer.
fn net(gru: bool) -> Graph {
    let (width, units) = (20, 40);
    let mut g = Graph::default();
    let x = g.value("x", &[1, 1, width], DType::F32);
    let mut seed = 100;
    let mut weights = |g: &mut Graph, shape: &[usize], scale: f32, offset: f32| -> ValueId {
        seed += 1;
        let values = floats(&noise(seed, shape)).iter().map(|v| offset + scale * v).collect();
        g.constant("w", Tensor::floats(shape, values))
    };
    let (gain, bias) = (weights(&mut g, &[width], 0.5, 1.0), weights(&mut g, &[width], 0.5, 0.0));
    let normal = g.value("normal", &[1, 1, width], DType::F32);
    g.node("Norm", "n", Op::Norm { kind: NormKind::Layer { axis: 2 }, epsilon: 1e-3 }, &[x, gain, bias], &[normal]);
    let gates = if gru { 3 } else { 4 };
    let (w, r) =
        (weights(&mut g, &[gates * units, width], 0.8, 0.0), weights(&mut g, &[gates * units, units], 0.6, 0.0));
    let b = weights(&mut g, &[gates * units], 0.5, 0.0);
    let y = g.value("y", &[1, 1, units], DType::F32);
    let state = |g: &mut Graph| {
        let (read, write) = (g.value("before", &[1, units], DType::F32), g.value("after", &[1, units], DType::F32));
        g.states.push(State { name: "state".into(), read, write, initial: Data::F32(vec![0.0; units]) });
        [read, write]
    };
    let [h, h_next] = state(&mut g);
    let direction = Direction::Forward;
    if gru {
        let again = weights(&mut g, &[gates * units], 0.5, 0.0);
        g.node("GRU", "g", Op::Gru { direction, reset_after: true }, &[normal, w, r, b, again, h], &[y, h_next]);
    } else {
        let [c, c_next] = state(&mut g);
        g.node("LSTM", "l", Op::Lstm { direction }, &[normal, w, r, b, h, c], &[y, h_next, c_next]);
    }
    let (w, b) = (weights(&mut g, &[4, units], 0.5, 0.0), weights(&mut g, &[4], 0.5, 0.0));
    let out = g.value("out", &[1, 1, 4], DType::F32);
    g.node("Gemm", "f", Op::FullyConnected, &[y, w, b], &[out]);
    (g.inputs, g.outputs) = (vec![x], vec![out]);
    g
}

/// 200 runs, one after another, states going on from each to the next.
#[test]
fn states_go_on_from_run_to_run() {
    for (name, gru) in [("lstm", false), ("gru", true)] {
        let graph = net(gru);
        let inputs: Vec<Tensor> = (1..=200).map(|seed| noise(seed, &[1, 1, 20])).collect();
        let found = quantized(&graph, &inputs, &inputs).concat();
        let mut evaluator = eval::Evaluator::new(&graph).unwrap();
        let run = |x: &Tensor| floats(&evaluator.run(std::slice::from_ref(x)).unwrap()[0]).to_vec();
        let expected = inputs.iter().map(run).collect::<Vec<_>>().concat();
        let range = expected.iter().fold(0f32, |m, v| m.max(v.abs()));
        let (most, rms) = apart(&found, &expected);
        println!("{name}: {most} at most, rms {rms}, of results up to {range}");
        assert!(most < 0.02 * range && rms < 0.006 * range, "{name}: {most}, {rms}, of {range}");
    }
}

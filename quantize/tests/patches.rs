//! Nets in patches: not a byte of their outputs changes, whatever is cut into how many, and the arena stated is the one used.

mod support;

use mote_quantize::graph::patches::{Patches, apply, stretches};
use mote_quantize::graph::{
    Binary, DType, Data, Graph, Node, Op, PadMode, PoolKind, Quant, Unary, Value, ValueId, Window, shape,
};
use mote_quantize::lower::Net;
use mote_quantize::ram::{Planned, Ram, Unplanned, plan};
use mote_quantize::{board, lower, macs, net};
use mote_runtime::Image;
use mote_runtime::fixed::tflite::Rounding;
use support::{LIMITS, Random, run};

/// The image of a net, whole.
fn image(lowered: &Net) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("net.mote");
    let described = net::Described { name: "net", license: None, hash: [0; 32], bits: 8, samples: 0 };
    net::save(lowered, &described, None, &path).unwrap();
    std::fs::read(path).unwrap()
}

fn arena(file: &[u8]) -> u64 {
    Image::open(file).unwrap().arena_bytes(LIMITS).unwrap()
}

fn bytes_of_input(graph: &Graph) -> usize {
    graph.values[graph.inputs[0]].count()
}

/// A net of int8 under construction.
struct Layers<'r> {
    r: &'r mut Random,
    graph: Graph,
    /// Images that layers may take.
    images: Vec<ValueId>,
}

impl Layers<'_> {
    fn image(&mut self, shape: &[usize], quant: (f32, i32)) -> ValueId {
        let id = self.graph.value("image", shape, DType::I8);
        self.graph.values[id].quant = Some(Quant::one(quant.0, quant.1));
        self.images.push(id);
        id
    }

    fn constant(&mut self, shape: &[usize], dtype: DType, reach: i64, scale: f32) -> ValueId {
        let count = shape.iter().product();
        let data = (0..count).map(|_| self.r.range(0, 2 * reach as usize) as i64 - reach).collect();
        let (data, quant) = (Some(Data::Int(data)), Some(Quant::one(scale, 0)));
        self.graph.values.push(Value { name: "constant".into(), shape: shape.to_vec(), dtype, quant, data });
        self.graph.values.len() - 1
    }

    /// A window that fits an image of this size, and the size of what it gives.
    fn window(&mut self, size: [usize; 2], dilated: bool) -> ([usize; 2], Window, [usize; 2]) {
        loop {
            let mut pair = |low, high| [self.r.range(low, high), self.r.range(low, high)];
            let (kernel, stride) = (pair(1, 4), pair(0, 4).map(|n| [1, 1, 1, 2, 3][n]));
            let dilation = if dilated { pair(1, 2) } else { [1; 2] };
            let reach: [usize; 2] = std::array::from_fn(|d| (kernel[d] - 1) * dilation[d]);
            let mut pad = || std::array::from_fn(|d| self.r.range(0, reach[d]));
            let window = Window { stride, dilation, before: pad(), after: pad() };
            let place = |d: usize| {
                shape::places(size[d], kernel[d], stride[d], dilation[d], window.before[d] + window.after[d])
            };
            if let (Some(height), Some(width)) = (place(0), place(1)) {
                return (kernel, window, [height, width]);
            }
        }
    }

    /// A layer on some image, most often the last.
    fn layer(&mut self) {
        let last = self.images.len() - 1;
        let at = if self.r.range(0, 3) == 0 { self.r.range(0, last) } else { last };
        let x = self.images[at];
        let value = self.graph.values[x].clone();
        let &[1, h, w, c] = &value.shape[..] else { panic!("no image") };
        let same = value.quant.as_ref().and_then(|q| q.single()).unwrap();
        let other = (0.05, self.r.range(0, 40) as i32 - 20);
        match self.r.range(0, 9) {
            0..=4 => {
                let (kernel, window, [oh, ow]) = self.window([h, w], true);
                let depthwise = self.r.range(0, 1) == 0;
                let (out, groups) = if depthwise { (c, c) } else { (self.r.range(1, 9), 1) };
                let weights = self.constant(&[out, kernel[0], kernel[1], c / groups], DType::I8, 127, 0.01);
                let bias = self.constant(&[out], DType::I32, 2000, 0.01 * same.0);
                let y = self.image(&[1, oh, ow, out], other);
                self.graph.node("conv", "", Op::Conv2d { window, groups }, &[x, weights, bias], &[y]);
                if self.r.range(0, 1) == 0 {
                    self.graph.nodes.last_mut().unwrap().clamp = Some([0.0, f32::INFINITY]);
                }
            }
            5 => {
                let (kernel, window, [oh, ow]) = self.window([h, w], false);
                let kind = [PoolKind::Max, PoolKind::Average { count_padding: false }][self.r.range(0, 1)];
                let y = self.image(&[1, oh, ow, c], same);
                self.graph.node("pool", "", Op::Pool2d { kind, kernel, window }, &[x], &[y]);
            }
            6 => {
                let before = vec![0, self.r.range(0, 2), self.r.range(0, 2), 0];
                let (oh, ow) = (h + before[1] + self.r.range(0, 2), w + before[2] + self.r.range(0, 2));
                let y = self.image(&[1, oh, ow, c], same);
                let mode = PadMode::Constant(0.3);
                self.graph.node("pad", "", Op::Pad { before, mode }, &[x], &[y]);
            }
            7 => {
                let y = self.image(&value.shape, other);
                self.graph.node("tanh", "", Op::Unary(Unary::Tanh), &[x], &[y]);
            }
            8 => {
                let by = self.constant(&[1, 1, 1, c], DType::I8, 100, 0.02);
                let y = self.image(&value.shape, other);
                self.graph.node("mul", "", Op::Binary(Binary::Mul), &[x, by], &[y]);
            }
            _ => {
                let shapes = |id: &ValueId| self.graph.values[*id].shape[..3] == value.shape[..3];
                let mates: Vec<ValueId> = self.images.iter().copied().filter(shapes).collect();
                let mate = mates[self.r.range(0, mates.len() - 1)];
                let channels = self.graph.values[mate].shape[3];
                if channels == c && mate != x && self.r.range(0, 2) > 0 {
                    let y = self.image(&value.shape, other);
                    self.graph.node("add", "", Op::Binary(Binary::Add), &[x, mate], &[y]);
                } else {
                    let y = self.image(&[1, h, w, c + channels], same);
                    self.graph.node("concat", "", Op::Concat { axis: 3 }, &[x, mate], &[y]);
                }
            }
        }
    }
}

fn random_net(r: &mut Random) -> Graph {
    let (layers, shape) = (r.range(2, 9), [1, r.range(6, 14), r.range(1, 14), r.range(1, 4)]);
    let mut net = Layers { r, graph: Graph::default(), images: vec![] };
    let input = net.image(&shape, (0.1, 3));
    net.graph.inputs = vec![input];
    (0..layers).for_each(|_| net.layer());
    net.graph.outputs = vec![*net.images.last().unwrap()];
    net.graph.prune();
    net.graph
}

/// A random stretch of `graph` in random patches, if there is one.
fn cut(r: &mut Random, graph: &Graph) -> Option<(Graph, Patches)> {
    let all = stretches(graph);
    let stretch = all.get(r.range(0, all.len().max(1) - 1))?;
    let count = [1, 2].map(|d| r.range(1, graph.values[stretch.to].shape[d].min(5)));
    let patches = Patches { from: stretch.from, to: stretch.to, count };
    apply(graph, &patches).map(|graph| (graph, patches))
}

fn lowered(graph: &Graph) -> Net {
    lower::net(graph, Rounding::Double).unwrap()
}

#[test]
fn random_nets_in_random_patches() {
    let (mut cuts, mut halos, mut smaller) = (0, 0, 0);
    for case in 0..90 {
        let r = &mut Random(case);
        let graph = random_net(r);
        let input = r.bytes(bytes_of_input(&graph));
        let whole = lowered(&graph);
        let (file, needed) = (image(&whole), macs::of_net(&whole));
        let expected = run(&file, &input);
        for _ in 0..3 {
            let Some((patched, patches)) = cut(r, &graph) else { continue };
            let net = lowered(&patched);
            assert_eq!(run(&image(&net), &input), expected, "case {case}: {patches:?}");
            cuts += 1;
            // Fewer, where a stride leaves pixels out that nobody needs.
            halos += usize::from(macs::of_net(&net) > needed);
        }
        if case % 3 > 0 {
            continue;
        }
        let least = plan(&graph, Rounding::Double, Ram::Least).unwrap();
        let found = image(&least.net);
        assert_eq!(run(&found, &input), expected, "case {case}: {:?}", least.patches);
        assert_eq!((arena(&found), macs::of_net(&least.net)), (least.arena, least.macs));
        assert!(least.arena <= arena(&file));
        smaller += usize::from(least.arena < arena(&file));
    }
    assert!(cuts > 150 && halos > 30 && smaller > 4, "{cuts} cuts, {halos} with halos, {smaller} nets smaller");
}

#[test]
fn what_cannot_be_cut_is_not() {
    let mut net = Layers { r: &mut Random(1), graph: Graph::default(), images: vec![] };
    let x = net.image(&[1, 8, 8, 2], (0.1, 0));
    let y = net.image(&[1, 8, 8, 2], (0.1, 0));
    let z = net.image(&[1, 8, 8, 2], (0.1, 0));
    let mut graph = net.graph;
    (graph.inputs, graph.outputs) = (vec![x], vec![z]);
    let node = |op: Op, x: ValueId, y: ValueId| Node {
        name: String::new(),
        kind: String::new(),
        op,
        inputs: vec![Some(x)],
        outputs: vec![y],
        clamp: None,
    };
    graph.nodes = vec![node(Op::Unary(Unary::Tanh), x, y), node(Op::Unary(Unary::Tanh), y, z)];
    let to = |graph: &Graph| stretches(graph).iter().map(|s| (s.from, s.to)).collect::<Vec<_>>();
    assert_eq!(to(&graph), [(None, y), (None, z), (Some(y), z)]);
    let patches = |count| Patches { from: None, to: z, count };
    for count in [[1, 1], [0, 2], [2, 0], [9, 1], [1, 9]] {
        assert!(apply(&graph, &patches(count)).is_none(), "{count:?}");
    }
    assert_eq!(apply(&graph, &patches([8, 8])).unwrap().nodes.len(), 64 * 4);
    // What is read outside lies whole.
    let mut both = graph.clone();
    both.outputs = vec![y, z];
    assert_eq!(to(&both), [(None, y), (Some(y), z)]);
    // Rows that need all the others.
    let mut softmax = graph.clone();
    softmax.nodes[1].op = Op::Softmax { axis: 3, beta: 1.0, log: false };
    assert_eq!(to(&softmax), [(None, y)]);
}

/// Files of the shared data, and the bytes of their smallest plans (BENCHMARKS.md).
const MODELS: [(&str, u64); 4] = [
    ("mlperf-tiny/ic_resnet8_int8.tflite", 16_560),
    ("mlperf-tiny/kws_int8.tflite", 8_576),
    ("vision/mcunet_vww_int8.tflite", 23_040),
    ("vision/mobilenet_v1_0.25_128_quant.tflite", 49_312),
];

#[test]
fn real_nets_in_less_memory() {
    for (name, bytes) in MODELS {
        let Some(path) = board::shared(name).unwrap() else {
            eprintln!("skipped: {name} of the shared data is not there");
            continue;
        };
        let (graph, _) = net::prepared(&path, &Default::default()).unwrap();
        let r = &mut Random(7);
        let input = r.bytes(bytes_of_input(&graph));
        let planned = |ram| plan(&graph, Rounding::Double, ram);
        let ran = |planned: &Planned| {
            let file = image(&planned.net);
            assert_eq!(arena(&file), planned.arena, "{name}");
            run(&file, &input)
        };
        let plain = planned(Ram::Any).unwrap();
        assert!(plain.patches.is_empty());
        let expected = ran(&plain);
        let least = planned(Ram::Least).unwrap();
        assert_eq!(ran(&least), expected, "{name}: {:?}", least.patches);
        assert_eq!(least.arena, bytes, "{name}");
        for _ in 0..2 {
            if let Some((patched, patches)) = cut(r, &graph) {
                assert_eq!(run(&image(&lowered(&patched)), &input), expected, "{name}: {patches:?}");
            }
        }
        if !name.contains("resnet") {
            continue; // searching takes its time
        }
        // Between the two, and below.
        let room = plain.arena.midpoint(least.arena);
        let some = planned(Ram::Bytes(room)).unwrap();
        assert!(some.arena <= room && some.macs <= least.macs, "{name}: {} {}", some.arena, some.macs);
        assert_eq!(ran(&some), expected, "{name}: {:?}", some.patches);
        match planned(Ram::Bytes(least.arena / 2)) {
            Err(Unplanned::TooLarge(plans)) => assert_eq!([plans[0].arena, plans[1].arena], [least.arena, plain.arena]),
            other => panic!("{name}: {other:?}"),
        }
    }
}

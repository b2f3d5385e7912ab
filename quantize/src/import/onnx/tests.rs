//! Files made here: attributes that moved to inputs, branches, what is refused, and what a hostile file asks for.

use super::proto::*;
use super::*;
use crate::graph::eval;
use prost::Message;

/// An attribute's value.
enum A {
    F(f32),
    I(i64),
    Is(Vec<i64>),
    S(&'static str),
    G(GraphProto),
}

type Node<'a> = (&'a str, &'a [&'a str], &'a [&'a str], Vec<(&'a str, A)>);

fn graph(nodes: Vec<Node>, inputs: &[(&str, &[i64])], outputs: &[&str], constants: &[(&str, Tensor)]) -> GraphProto {
    let strings = |all: &[&str]| all.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
    let node = |(kind, inputs, outputs, attributes): Node| {
        let attribute = |(name, a): (&str, A)| {
            let mut p = AttributeProto { name: Some(name.into()), ..Default::default() };
            match a {
                A::F(v) => p.f = Some(v),
                A::I(v) => p.i = Some(v),
                A::Is(v) => p.ints = v,
                A::S(v) => p.s = Some(v.into()),
                A::G(v) => p.g = Some(Box::new(v)),
            }
            p
        };
        NodeProto {
            input: strings(inputs),
            output: strings(outputs),
            op_type: Some(kind.into()),
            attribute: attributes.into_iter().map(attribute).collect(),
            ..Default::default()
        }
    };
    let dim = |d: &i64| match d {
        -1 => DimensionProto { param: Some("n".into()), ..Default::default() },
        d => DimensionProto { value: Some(*d), ..Default::default() },
    };
    let value = |name: &str, shape: &[i64]| ValueInfoProto {
        name: Some(name.into()),
        kind: Some(TypeProto {
            tensor: Some(TensorTypeProto {
                elem_type: Some(1),
                shape: Some(TensorShapeProto { dim: shape.iter().map(dim).collect() }),
            }),
        }),
    };
    let constant = |(name, t): &(&str, Tensor)| {
        let mut p = TensorProto { name: Some((*name).into()), ..Default::default() };
        p.dims = t.shape.iter().map(|d| *d as i64).collect();
        match &t.data {
            Data::F32(v) => (p.data_type, p.float_data) = (Some(1), v.clone()),
            Data::Int(v) => (p.data_type, p.int64_data) = (Some(7), v.clone()),
        }
        p
    };
    GraphProto {
        node: nodes.into_iter().map(node).collect(),
        initializer: constants.iter().map(constant).collect(),
        input: inputs.iter().map(|(n, s)| value(n, s)).collect(),
        output: outputs.iter().map(|n| ValueInfoProto { name: Some((*n).into()), kind: None }).collect(),
        ..Default::default()
    }
}

fn file(opset: i64, graph: GraphProto) -> Vec<u8> {
    let opset_import = vec![OperatorSetIdProto { domain: None, version: Some(opset) }];
    ModelProto { ir_version: Some(8), graph: Some(graph), opset_import, functions: vec![] }.encode_to_vec()
}

fn import(opset: i64, graph: GraphProto) -> std::result::Result<Graph, String> {
    read(&file(opset, graph), Path::new("x.onnx"), &Options::default()).map_err(|why| why.to_string())
}

fn ints(v: &[i64]) -> Tensor {
    Tensor::ints(&[v.len()], v.to_vec())
}

fn floats(v: &[f32]) -> Tensor {
    Tensor::floats(&[v.len()], v.to_vec())
}

/// Imports, and evaluates with 1, 2, 3 .. as the input.
fn run(opset: i64, graph: GraphProto) -> Vec<Tensor> {
    let g = import(opset, graph).unwrap();
    let count =
        |id: &ValueId| Tensor::floats(&g.values[*id].shape, (1..=g.values[*id].count()).map(|i| i as f32).collect());
    eval::run(&g, &g.inputs.iter().map(count).collect::<Vec<_>>()).unwrap()
}

#[test]
fn what_was_an_attribute_and_became_an_input() {
    let x: &[(&str, &[i64])] = &[("x", &[2, 3])];
    let one = |opset, node: Node, constants: &[(&str, Tensor)]| run(opset, graph(vec![node], x, &["y"], constants));
    for (old, new) in [
        (
            one(7, ("Clip", &["x"], &["y"], vec![("min", A::F(2.0)), ("max", A::F(4.0))]), &[]),
            one(13, ("Clip", &["x", "a", "b"], &["y"], vec![]), &[("a", floats(&[2.0])), ("b", floats(&[4.0]))]),
        ),
        (
            one(
                9,
                (
                    "Slice",
                    &["x"],
                    &["y"],
                    vec![("starts", A::Is(vec![-2])), ("ends", A::Is(vec![9])), ("axes", A::Is(vec![1]))],
                ),
                &[],
            ),
            one(
                10,
                ("Slice", &["x", "a", "b", "c"], &["y"], vec![]),
                &[("a", ints(&[-2])), ("b", ints(&[9])), ("c", ints(&[-1]))],
            ),
        ),
        (
            one(11, ("Unsqueeze", &["x"], &["y"], vec![("axes", A::Is(vec![0, 3]))]), &[]),
            one(13, ("Unsqueeze", &["x", "a"], &["y"], vec![]), &[("a", ints(&[-1, 0]))]),
        ),
        (
            one(12, ("ReduceSum", &["x"], &["y"], vec![("axes", A::Is(vec![1])), ("keepdims", A::I(0))]), &[]),
            one(13, ("ReduceSum", &["x", "a"], &["y"], vec![("keepdims", A::I(0))]), &[("a", ints(&[-1]))]),
        ),
        (
            one(10, ("Pad", &["x"], &["y"], vec![("pads", A::Is(vec![0, 1, 0, 0])), ("value", A::F(9.0))]), &[]),
            one(11, ("Pad", &["x", "p", "v"], &["y"], vec![]), &[("p", ints(&[0, 1, 0, 0])), ("v", floats(&[9.0]))]),
        ),
        (
            one(9, ("TopK", &["x", "k"], &["y"], vec![]), &[("k", ints(&[1]))]),
            one(
                13,
                ("Slice", &["x", "a", "b", "c"], &["y"], vec![]),
                &[("a", ints(&[2])), ("b", ints(&[3])), ("c", ints(&[1]))],
            ),
        ),
    ] {
        assert_eq!(old, new);
    }
    // Before opset 13 the default axis was the first, and all after it were one dimension.
    let soft = |opset| one(opset, ("Softmax", &["x"], &["y"], vec![("axis", A::I(0))]), &[]);
    let sum = |t: &Tensor| match &t.data {
        Data::F32(v) => v.iter().sum::<f32>(),
        Data::Int(_) => 0.0,
    };
    assert!((sum(&soft(11)[0]) - 1.0).abs() < 1e-6 && (sum(&soft(13)[0]) - 3.0).abs() < 1e-6);
}

#[test]
fn branches_and_shapes_that_are_computed() {
    let double = || graph(vec![("Add", &["x", "x"], &["t"], vec![])], &[], &["t"], &[]);
    let same = || graph(vec![("Identity", &["x"], &["t"], vec![])], &[], &["t"], &[]);
    let of = |rank: i64| {
        let nodes: Vec<Node> = vec![
            ("Shape", &["x"], &["s"], vec![]),
            ("Size", &["s"], &["r"], vec![]),
            ("Equal", &["r", "rank"], &["c"], vec![]),
            ("If", &["c"], &["y"], vec![("then_branch", A::G(double())), ("else_branch", A::G(same()))]),
        ];
        run(13, graph(nodes, &[("x", &[-1, 2])], &["y"], &[("rank", Tensor::ints(&[], vec![rank]))]))
    };
    assert_eq!(of(2), [Tensor::floats(&[1, 2], vec![2.0, 4.0])]);
    assert_eq!(of(3), [Tensor::floats(&[1, 2], vec![1.0, 2.0])]);
    let branches = vec![("then_branch", A::G(double())), ("else_branch", A::G(same()))];
    let nodes: Vec<Node> =
        vec![("IsNaN", &["x"], &["c"], vec![]), ("If", &["c"], &["y"], branches), ("Unique", &["y"], &["z"], vec![])];
    let g = import(13, graph(nodes, &[("x", &[1])], &["z"], &[])).unwrap();
    let why = eval::run(&g, &[floats(&[0.0])]).unwrap_err().to_string();
    assert!(why.contains("condition \"c\" is computed at run time"), "{why}");
    assert!(why.contains("Unique \"z\": Mote lacks this operator"), "{why}");
    // Subgraphs in subgraphs, to beyond what protobuf readers follow.
    for (depth, fine) in [(20, true), (500, false)] {
        let mut inner = same();
        for _ in 0..depth {
            let node: Node = ("If", &["c"], &["t"], vec![("then_branch", A::G(inner))]);
            inner = graph(vec![node], &[], &["t"], &[]);
        }
        inner.input = graph(vec![], &[("x", &[1])], &[], &[]).input;
        inner.initializer = graph(vec![], &[], &[], &[("c", Tensor::ints(&[], vec![1]))]).initializer;
        assert_eq!(import(13, inner).is_ok(), fine, "{depth}");
    }
}

#[test]
fn refused_with_what_is_wrong() {
    let relu = |shape: &'static [i64]| graph(vec![("Relu", &["x"], &["y"], vec![])], &[("x", shape)], &["y"], &[]);
    let conv = |attributes| {
        let w = Tensor::floats(&[1, 1, 3, 3], vec![1.0; 9]);
        graph(vec![("Conv", &["x", "w"], &["y"], attributes)], &[("x", &[1, 1, 8, 8])], &["y"], &[("w", w)])
    };
    let mut elsewhere = graph(vec![("Relu", &["x"], &["y"], vec![])], &[], &["y"], &[("x", floats(&[1.0]))]);
    elsewhere.initializer[0].data_location = Some(1);
    let mut short = elsewhere.clone();
    short.initializer[0].data_location = None;
    short.initializer[0].dims = vec![2];
    let none: Vec<Node> = vec![("Relu", &["z"], &["y"], vec![])];
    for (opset, graph, word) in [
        (6, relu(&[1]), "ONNX opset 6 is not supported; supported are 7 to 27"),
        (28, relu(&[1]), "ONNX opset 28"),
        (13, elsewhere, "lies in another file"),
        (13, short, "of shape [2] has 1 elements"),
        (13, graph(none, &[], &["y"], &[]), "Relu \"y\": input \"z\" is computed by no node before it"),
        (13, graph(vec![], &[], &["y"], &[]), "output \"y\" is computed by no node"),
        (13, relu(&[1 << 40, 1 << 40]), "a tensor of shape [1099511627776, 1099511627776]"),
        (13, relu(&[1 << 28, 1]), "with it all tensors take more than"),
        (13, relu(&[-2]), "a tensor of shape [-2]"),
        (13, relu(&[1; 17]), "a tensor of shape [1, 1,"),
        (13, conv(vec![("strides", A::Is(vec![0, 1]))]), "Conv \"y\": a stride or dilation of 0"),
        (13, conv(vec![("dilations", A::Is(vec![9, 1]))]), "Conv \"y\": a window of [3, 3]"),
        (13, conv(vec![("group", A::I(0))]), "in 0 groups"),
        (13, conv(vec![("group", A::I(-1))]), "-1 groups"),
        (13, conv(vec![("kernel_shape", A::Is(vec![5, 5]))]), "for weights of [3, 3]"),
        (13, conv(vec![("auto_pad", A::S("SAME"))]), "auto_pad = \"SAME\""),
    ] {
        let why = import(opset, graph).unwrap_err();
        assert!(why.contains(word), "{word}: {why}");
    }
    for bytes in [&b""[..], b"\x08", b"not a model at all", &[0xff; 64]] {
        assert!(read(bytes, Path::new("x.onnx"), &Options::default()).is_err(), "{bytes:?}");
    }
}

/// Each asks for more memory, time or depth than there is; each ends soon, with an error, an operator that is not
/// supported, or a graph that is not too large.
#[test]
fn bombs() {
    let deep = 1 << 20;
    let names: Vec<String> = (0..200).map(|i| format!("t{i}")).collect();
    let chain = |kind: &'static str, extra: Option<&'static str>| -> GraphProto {
        let mut g = graph(vec![], &[], &["t199"], &[("t0", floats(&[1.0])), ("four", ints(&[4]))]);
        for pair in names.windows(2) {
            let input = std::iter::once(pair[0].clone()).chain(extra.map(str::to_owned));
            let (input, output) = (input.collect(), vec![pair[1].clone()]);
            g.node.push(NodeProto { input, output, op_type: Some(kind.into()), ..Default::default() });
        }
        g
    };
    let mut twice = chain("Concat", None);
    for node in &mut twice.node {
        node.input.push(node.input[0].clone());
        node.attribute.push(AttributeProto { name: Some("axis".into()), i: Some(0), ..Default::default() });
    }
    let image: &[(&str, &[i64])] = &[("x", &[1, 1, 4, 4])];
    let pool = |k: i64, p: i64, d: i64| {
        let all =
            vec![("kernel_shape", A::Is(vec![k; 2])), ("pads", A::Is(vec![p; 4])), ("dilations", A::Is(vec![d; 2]))];
        graph(vec![("MaxPool", &["x"], &["y"], all)], image, &["y"], &[])
    };
    let of_shape =
        |shape: &[i64]| graph(vec![("ConstantOfShape", &["s"], &["y"], vec![])], &[], &["y"], &[("s", ints(shape))]);
    let square: Vec<Node> = vec![
        ("ConstantOfShape", &["s"], &["a"], vec![]),
        ("MatMul", &["a", "a"], &["b"], vec![]),
        ("MatMul", &["b", "a"], &["y"], vec![]),
    ];
    let extremes = [("a", ints(&[i64::MIN])), ("b", ints(&[i64::MAX])), ("m", ints(&[-1]))];
    let nothing: Vec<Node> = vec![
        ("ConstantOfShape", &["s"], &["a"], vec![]),
        ("Transpose", &["a"], &["b"], vec![]),
        ("Add", &["b", "b"], &["y"], vec![]),
    ];
    let slice: Vec<Node> = vec![("Slice", &["x", "b", "a", "m", "a"], &["y"], vec![])];
    let divide: Vec<Node> = vec![
        ("Div", &["a", "m"], &["p"], vec![]),
        ("Mod", &["a", "m"], &["q"], vec![]),
        ("Abs", &["a"], &["r"], vec![]),
        ("Mul", &["a", "b"], &["s"], vec![]),
        ("Neg", &["a"], &["t"], vec![]),
        ("Sub", &["b", "a"], &["y"], vec![]),
    ];
    let range: Vec<Node> =
        vec![("Range", &["a", "b", "m"], &["y"], vec![]), ("Range", &["m", "b", "m"], &["z"], vec![])];
    for (name, g) in [
        ("tile", chain("Tile", Some("four"))),
        ("concat", twice),
        ("window", pool(deep << 11, deep << 10, 1)),
        ("dilation", pool(3, (1 << 31) - 1, (1 << 31) - 1)),
        ("huge", of_shape(&[1 << 40])),
        ("empty but huge", of_shape(&[0, i64::MAX, i64::MAX])),
        ("a gigabyte", of_shape(&[1 << 14, 1 << 14])),
        ("work", graph(square, &[], &["y"], &[("s", ints(&[4096, 4096]))])),
        ("nothing", graph(nothing, &[], &["y"], &[("s", ints(&[0, 1 << 28]))])),
        ("slice", graph(slice, image, &["y"], &extremes)),
        ("integers", graph(divide, &[], &["y", "p", "q", "r", "s", "t"], &extremes)),
        ("range", graph(range, &[], &["y"], &extremes)),
    ] {
        if let Ok(g) = import(18, g) {
            let bytes: usize = g.values.iter().map(|v| 4 * v.count()).sum();
            assert!(bytes <= 1 << 30, "{name}: {bytes}");
        }
    }
}

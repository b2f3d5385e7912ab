//! The graph of a small model: what every importer of nets makes, every pass changes, and lowering turns into a program.
//!
//! ```text
//! .tflite ─┐          ┌─ eval     (float, the reference; folds constants)
//!          ├─> Graph ─┼─ passes   (float to float)
//! .onnx  ──┘          ├─ quantize (float to integers: every activation gets a Quant)
//!                     └─ lower    (integers to ops of the runtime)
//! ```
//!
//! A graph is a list of nodes in an order in which they can run, over values with static shapes. One arrangement of
//! dimensions holds for all sources: images are `[n, height, width, channels]`, a convolution's weights [out, height,
//! width, in]. An importer of files that arrange them otherwise puts [`Op::Transpose`] around, and a pass takes what
//! cancels away.
//!
//! Integers are real numbers here too: a value with a [`Quant`] stands for `(integer - zero point) * scale`, and every op
//! is defined on what its operands stand for.

pub mod eval;
pub mod passes;
pub mod patches;
pub mod quantize;
pub mod shape;

use crate::codes::CodedMatrix;
use std::collections::BTreeMap;
use std::fmt;

/// Index of a value.
pub type ValueId = usize;

/// Elements, row by row.
#[derive(Clone, Debug, PartialEq)]
pub enum Data {
    /// Floats (of whatever width they were stored).
    F32(Vec<f32>),
    /// Integers and truth values (of whatever width they were stored).
    Int(Vec<i64>),
}

/// An array.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Dimensions; none for a single number.
    pub shape: Vec<usize>,
    /// Elements.
    pub data: Data,
}

impl Tensor {
    /// An array of floats; as many as the shape says.
    #[must_use]
    pub fn floats(shape: &[usize], data: Vec<f32>) -> Self {
        debug_assert_eq!(shape.iter().product::<usize>(), data.len());
        Self { shape: shape.to_vec(), data: Data::F32(data) }
    }

    /// An array of integers; as many as the shape says.
    #[must_use]
    pub fn ints(shape: &[usize], data: Vec<i64>) -> Self {
        debug_assert_eq!(shape.iter().product::<usize>(), data.len());
        Self { shape: shape.to_vec(), data: Data::Int(data) }
    }

    /// Elements.
    #[must_use]
    pub fn count(&self) -> usize {
        self.data.count()
    }
}

impl Data {
    /// Elements.
    #[must_use]
    pub fn count(&self) -> usize {
        match self {
            Self::F32(v) => v.len(),
            Self::Int(v) => v.len(),
        }
    }
}

/// How the elements of a value are stored, in the file it came from or in the image that it goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DType {
    /// float32, float16, bfloat16, float64
    F32,
    /// int4
    I4,
    /// int8
    I8,
    /// uint8
    U8,
    /// int16
    I16,
    /// int32
    I32,
    /// uint32
    U32,
    /// int64
    I64,
    /// Truth values.
    Bool,
}

/// What integers stand for: `real = (integer - zero point) * scale`, one pair for all or one a channel.
#[derive(Clone, Debug, PartialEq)]
pub struct Quant {
    /// Scales, positive: one, or one for each index along `axis`.
    pub scales: Vec<f32>,
    /// Zero points, as many as scales.
    pub zero_points: Vec<i32>,
    /// The dimension that channels are counted along.
    pub axis: usize,
}

impl DType {
    /// Smallest and largest integer of a type; none of floats.
    #[must_use]
    pub fn range(self) -> Option<(i64, i64)> {
        Some(match self {
            Self::F32 => return None,
            Self::I4 => (-8, 7),
            Self::I8 => (-128, 127),
            Self::U8 => (0, 255),
            Self::I16 => (-32768, 32767),
            Self::I32 => (i64::from(i32::MIN), i64::from(i32::MAX)),
            Self::U32 => (0, i64::from(u32::MAX)),
            Self::I64 => (i64::MIN, i64::MAX),
            Self::Bool => (0, 1),
        })
    }
}

impl Quant {
    /// One scale and zero point for all elements.
    #[must_use]
    pub fn one(scale: f32, zero_point: i32) -> Self {
        Self { scales: vec![scale], zero_points: vec![zero_point], axis: 0 }
    }

    /// The scale and zero point, if there is one pair.
    #[must_use]
    pub fn single(&self) -> Option<(f32, i32)> {
        match (&self.scales[..], &self.zero_points[..]) {
            ([scale], [zero]) => Some((*scale, *zero)),
            _ => None,
        }
    }
}

/// A value: an input, a constant, or what a node computes.
#[derive(Clone, Debug, PartialEq)]
pub struct Value {
    /// Name in the file, for people.
    pub name: String,
    /// Dimensions.
    pub shape: Vec<usize>,
    /// How its elements are stored.
    pub dtype: DType,
    /// What its integers stand for; floats, indices and truth values have none.
    pub quant: Option<Quant>,
    /// The elements of a constant.
    pub data: Option<Data>,
}

impl Value {
    /// Whether it holds floats, not integers that stand for reals.
    #[must_use]
    pub fn is_float(&self) -> bool {
        self.dtype == DType::F32 && self.quant.is_none()
    }

    /// Elements.
    #[must_use]
    pub fn count(&self) -> usize {
        self.shape.iter().product()
    }
}

/// How a window moves over an image, `[vertical, horizontal]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Pixels from one place to the next.
    pub stride: [usize; 2],
    /// Pixels from one tap to the next.
    pub dilation: [usize; 2],
    /// Pixels added on each side: top, left.
    pub before: [usize; 2],
    /// Pixels added on each side: bottom, right.
    pub after: [usize; 2],
}

/// What a pool keeps of its window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolKind {
    /// The mean; `count_padding`: pixels outside the image count as zeros.
    Average {
        /// Whether the divisor is the window's size everywhere.
        count_padding: bool,
    },
    /// The largest.
    Max,
}

/// Functions of one number.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs)] // Their names are their definitions, as ONNX has them.
pub enum Unary {
    Abs,
    Ceil,
    /// Into `[min, max]`; relu is `[0, inf]`.
    Clip(f32, f32),
    Cos,
    /// x, or alpha (e^x - 1) below 0.
    Elu(f32),
    Erf,
    Exp,
    Floor,
    /// x Phi(x), exact.
    Gelu,
    /// 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))).
    GeluTanh,
    /// clip(alpha x + beta, 0, 1).
    HardSigmoid(f32, f32),
    /// x clip(x + 3, 0, 6) / 6.
    HardSwish,
    /// The value itself (a change of integers only).
    Identity,
    /// x, or alpha x below 0.
    LeakyRelu(f32),
    Log,
    Neg,
    Not,
    Reciprocal,
    /// To the nearest, halves to even.
    Round,
    Rsqrt,
    /// gamma (x, or alpha (e^x - 1) below 0).
    Selu(f32, f32),
    Sigmoid,
    Sign,
    /// x sigmoid(x).
    Silu,
    Sin,
    /// ln(1 + e^x).
    Softplus,
    /// x / (1 + |x|).
    Softsign,
    Sqrt,
    Square,
    Tan,
    Tanh,
    /// x above alpha, else 0.
    ThresholdedRelu(f32),
}

/// Functions of two numbers; operands of other shapes are broadcast as NumPy's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Binary {
    Add,
    And,
    Div,
    Equal,
    Greater,
    GreaterOrEqual,
    /// sqrt(x^2 + y^2).
    Hypot,
    Less,
    LessOrEqual,
    Max,
    Min,
    /// The sign is the divisor's (Python's %).
    Mod,
    /// The sign is the dividend's (C's fmod).
    Fmod,
    Mul,
    NotEqual,
    Or,
    Pow,
    /// x, or slope x below 0.
    Prelu,
    SquaredDifference,
    Sub,
    Xor,
}

impl Binary {
    /// Whether the result is a truth value of two numbers.
    #[must_use]
    pub fn is_comparison(self) -> bool {
        use Binary::{Equal, Greater, GreaterOrEqual, Less, LessOrEqual, NotEqual};
        matches!(self, Equal | NotEqual | Greater | GreaterOrEqual | Less | LessOrEqual)
    }
}

/// What is kept of the elements along some dimensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Reduction {
    L1,
    L2,
    LogSum,
    LogSumExp,
    Max,
    Mean,
    Min,
    Prod,
    Sum,
    SumSquare,
}

/// What is outside an array.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum PadMode {
    /// This number.
    Constant(f32),
    /// The element at the edge.
    Edge,
    /// Mirrored, the edge itself once.
    Reflect,
    /// Mirrored, the edge twice.
    Symmetric,
    /// From the other side.
    Wrap,
}

/// Which input coordinate an output coordinate of a resize reads (ONNX's `coordinate_transformation_mode`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coordinates {
    /// (x + 0.5) / scale - 0.5
    HalfPixel,
    /// As half pixel, but 0 for an output of one element.
    PytorchHalfPixel,
    /// x (in - 1) / (out - 1)
    AlignCorners,
    /// x / scale
    Asymmetric,
}

/// How a resize without interpolation rounds a coordinate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Nearest {
    RoundPreferFloor,
    RoundPreferCeil,
    Floor,
    Ceil,
}

/// How a resize interpolates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interpolation {
    /// The nearest element.
    Nearest(Nearest),
    /// Between the two nearest along each dimension.
    Linear,
}

/// Which elements a norm is taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    /// All dimensions from this one on; gain and bias have their shape.
    Layer {
        /// First of the dimensions.
        axis: usize,
    },
    /// All but the first and the last dimension, each channel (last) by itself; gain and bias `[channels]`.
    Instance,
    /// As instance, over this many groups of channels; gain and bias `[channels]`.
    Group {
        /// Groups.
        groups: usize,
    },
    /// As layer, without taking the mean away.
    Rms {
        /// First of the dimensions.
        axis: usize,
    },
}

/// Direction of a recurrent layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// First step to last.
    Forward,
    /// Last step to first.
    Reverse,
}

/// A part of TensorFlow Lite Micro's audio front end: integers as they are, defined to the bit in the runtime's NUMERICS.md,
/// section 16. Energies, what filters give and noise are uint32.
#[derive(Clone, Debug, PartialEq)]
pub enum Signal {
    /// x int16 `[n]`, weights int16 `[n]` -> int16: `x * weight >> shift`
    Window {
        /// Fraction bits of the weights.
        shift: u32,
    },
    /// x int16 `[n]` -> int16 `[n]` shifted left as far as all of them allow, int32 `[1]` how far
    AutoScale,
    /// x int16, zeros after it up to `length` -> int16: real and imaginary parts of `length / 2 + 1` frequencies
    Rfft {
        /// Samples.
        length: usize,
    },
    /// x int16 `[2 n]`, complex -> uint32 `[n]`: squared sizes of the frequencies from `start` to before `end`, of others 0
    Energy {
        /// First.
        start: usize,
        /// After the last.
        end: usize,
    },
    /// x uint32, weights, weights for the next channel, first frequencies, first weights, widths (all int16), how far auto
    /// scale shifted -> uint32 `[channels]`: square roots
    FilterBank,
    /// x uint32 `[n]`, noise uint32 `[n]` -> what is left, the next noise
    SpectralSubtraction(Subtraction),
    /// x uint32 `[n]`, noise uint32 `[n]`, gains int16 `[125]` -> uint32 `[n]`
    Pcan {
        /// Right shift of the product of x and its gain.
        shift: u32,
    },
    /// x uint32 `[n]` -> int16 `[n]`: `scale * ln(x << shift)`
    Log {
        /// Factor.
        scale: u32,
        /// Left shift before.
        shift: u32,
    },
}

/// How spectral subtraction follows the noise; factors have `bits` fraction bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subtraction {
    /// Share of the new and of the old in the noise of even channels.
    pub even: [u32; 2],
    /// The same of odd channels.
    pub odd: [u32; 2],
    /// Least share of the signal that is left.
    pub least: u32,
    /// Bits that the noise has more than the signal.
    pub up: u32,
    /// Fraction bits of the factors.
    pub bits: u32,
    /// The noise is never above the signal.
    pub clamping: bool,
}

/// What a node computes. `x` is input 0; inputs in brackets may be left out. Dimensions are counted from 0.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// x `[n, h, w, i]`, weights `[o, kh, kw, i / groups]`, (bias `[o]`) -> `[n, h', w', o]`
    Conv2d {
        /// Stride, dilation, padding.
        window: Window,
        /// Groups of channels; as many as channels: depthwise.
        groups: usize,
    },
    /// x `[n, h, w, i]`, weights `[o, kh, kw, i]`, (bias `[o]`) -> `[n, h', w', o]`: each input pixel adds its window to the
    /// output at `stride * pixel - before`. How large the output is, its shape says.
    ConvTranspose2d {
        /// Stride, dilation, and what is cut off on each side.
        window: Window,
    },
    /// x `[.., i]`, weights `[o, i]`, (bias `[o]`) -> `[.., o]`, or x seen as `[rows, i]`
    FullyConnected,
    /// x `[.., m, k]`, y `[.., k, n]` -> `[.., m, n]`; the dimensions before are broadcast
    MatMul {
        /// y is `[.., n, k]`.
        transposed: bool,
    },
    /// x `[n, h, w, c]` -> `[n, h', w', c]`
    Pool2d {
        /// What is kept.
        kind: PoolKind,
        /// Height and width of the window.
        kernel: [usize; 2],
        /// Stride, dilation, padding.
        window: Window,
    },
    /// x -> the same shape
    Unary(Unary),
    /// x, y -> their shapes broadcast
    Binary(Binary),
    /// condition, x, y -> x where the condition is true, else y
    Select,
    /// x -> the same shape; what a graph of functions of single elements, with one input and one output of one element each,
    /// makes of each element
    Function(Box<Graph>),
    /// x -> the same shape; e^(beta x) over its sum along `axis`
    Softmax {
        /// Dimension.
        axis: usize,
        /// Factor of x.
        beta: f32,
        /// The logarithm of it.
        log: bool,
    },
    /// Any number of inputs -> one after the other along `axis`
    Concat {
        /// Dimension.
        axis: usize,
    },
    /// x -> the elements at starts + steps * index, as many as the output's shape says
    Slice {
        /// First element along each dimension.
        starts: Vec<usize>,
        /// Elements to the next, along each dimension; may be negative.
        steps: Vec<i64>,
    },
    /// (x), part -> x, or without it anything, with `part` in it from element `starts` on. x is changed in place: nobody else
    /// reads it.
    Insert {
        /// First element along each dimension.
        starts: Vec<usize>,
    },
    /// x -> the same elements in the output's shape
    Reshape,
    /// x -> dimension i of the output is dimension `perm[i]` of x
    Transpose {
        /// Where each dimension comes from.
        perm: Vec<usize>,
    },
    /// x, indices -> x with dimension `axis` replaced by those of the indices; negative ones count from the end
    Gather {
        /// Dimension.
        axis: usize,
    },
    /// x -> with so many elements before it along each dimension, and after it what the output's shape leaves
    Pad {
        /// Elements before, along each dimension.
        before: Vec<usize>,
        /// What they are.
        mode: PadMode,
    },
    /// x -> broadcast to the output's shape, or repeated where a dimension is a multiple
    Expand,
    /// x -> without those dimensions (or with 1 in their place: the output's shape says)
    Reduce {
        /// What is kept.
        kind: Reduction,
        /// Dimensions.
        axes: Vec<usize>,
    },
    /// x `[n, h, w, c]` -> `[n, h', w', c]`
    Resize {
        /// Which coordinate is read.
        coordinates: Coordinates,
        /// What is there.
        interpolation: Interpolation,
    },
    /// x, (gain), (bias) -> the same shape
    Norm {
        /// Over what.
        kind: NormKind,
        /// Added to the variance.
        epsilon: f32,
    },
    /// x -> index of the largest along `axis` (the first of equals), without that dimension or with 1
    ArgMax {
        /// Dimension.
        axis: usize,
        /// The smallest instead.
        least: bool,
    },
    /// x -> the largest along `axis`, as many as the output's shape says, and their indices
    TopK {
        /// Dimension.
        axis: usize,
        /// The smallest instead.
        least: bool,
    },
    /// x `[steps, n, i]`, w `[4h, i]`, r `[4h, h]`, (bias `[4h]`), (h `[n, h]`), (c `[n, h]`) -> y `[steps, n, h]`, h, c. Rows: input,
    /// output, forget, cell gate (ONNX's order); sigmoid and tanh.
    Lstm {
        /// Order of the steps.
        direction: Direction,
    },
    /// x `[steps, n, i]`, w `[3h, i]`, r `[3h, h]`, (bias of w `[3h]`), (bias of r `[3h]`), (h `[n, h]`) -> y `[steps, n, h]`, h. Rows:
    /// update, reset, hidden gate (ONNX's order).
    Gru {
        /// Order of the steps.
        direction: Direction,
        /// The reset gate multiplies what r and its bias give (Keras's default), not the state before them.
        reset_after: bool,
    },
    /// x -> the same numbers in the output's type, cut as C does
    Cast,
    /// x -> the same real numbers as the output's integers, or floats of integers: rounded to the nearest, halves to even in
    /// ONNX, away from zero in TFLite.
    Requantize,
    /// A part of an audio front end, in integers only.
    Signal(Signal),
    /// What Mote lacks, with the reason; lowering names all of them at once.
    Unsupported(String),
}

/// A node.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Name in the file, for people.
    pub name: String,
    /// The file's operator, for people: `CONV_2D`, `Conv`.
    pub kind: String,
    /// What it computes.
    pub op: Op,
    /// Its operands; `None`: left out.
    pub inputs: Vec<Option<ValueId>>,
    /// Its results.
    pub outputs: Vec<ValueId>,
    /// A fused activation: the result is cut to this range of real numbers.
    pub clamp: Option<[f32; 2]>,
}

/// A value that lives from one run to the next.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    /// For people.
    pub name: String,
    /// What a run begins with.
    pub read: ValueId,
    /// What it leaves to the next.
    pub write: ValueId,
    /// What the first run begins with.
    pub initial: Data,
}

/// A model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Graph {
    /// Values, in no order.
    pub values: Vec<Value>,
    /// Nodes, each after those whose results it reads.
    pub nodes: Vec<Node>,
    /// Inputs.
    pub inputs: Vec<ValueId>,
    /// Outputs.
    pub outputs: Vec<ValueId>,
    /// States.
    pub states: Vec<State>,
    /// Weights that go into the image as codes, `[out, all other dimensions]`, in steps of the reading node's output a step
    /// of its input: decoded, they are the constant's floats times the input's scale over the output's. The constant's own
    /// floats are what the codes stand for, and the node's bias stays a float.
    pub coded: BTreeMap<ValueId, CodedMatrix>,
}

impl Graph {
    /// Adds a value that a node will compute, or an input.
    pub fn value(&mut self, name: impl Into<String>, shape: &[usize], dtype: DType) -> ValueId {
        self.values.push(Value { name: name.into(), shape: shape.to_vec(), dtype, quant: None, data: None });
        self.values.len() - 1
    }

    /// Adds a constant of floats or indices.
    pub fn constant(&mut self, name: impl Into<String>, tensor: Tensor) -> ValueId {
        let dtype = match tensor.data {
            Data::F32(_) => DType::F32,
            Data::Int(_) => DType::I64,
        };
        let (name, shape, data) = (name.into(), tensor.shape, Some(tensor.data));
        self.values.push(Value { name, shape, dtype, quant: None, data });
        self.values.len() - 1
    }

    /// Adds a node.
    pub fn node(&mut self, kind: &str, name: &str, op: Op, inputs: &[ValueId], outputs: &[ValueId]) {
        self.node_at(self.nodes.len(), kind, name, op, inputs, outputs);
    }

    /// Adds a node before node `index`.
    pub fn node_at(&mut self, index: usize, kind: &str, name: &str, op: Op, inputs: &[ValueId], outputs: &[ValueId]) {
        let inputs = inputs.iter().copied().map(Some).collect();
        let (kind, name, outputs) = (kind.to_owned(), name.to_owned(), outputs.to_vec());
        self.nodes.insert(index, Node { name, kind, op, inputs, outputs, clamp: None });
    }

    /// The value of input `which` of a node.
    #[must_use]
    pub fn input(&self, node: &Node, which: usize) -> Option<&Value> {
        self.values.get((*node.inputs.get(which)?)?)
    }

    /// The value of output `which` of a node.
    #[must_use]
    pub fn output(&self, node: &Node, which: usize) -> Option<&Value> {
        self.values.get(*node.outputs.get(which)?)
    }

    /// How often each value is read: by nodes, as an output, as a state's next.
    #[must_use]
    pub fn uses(&self) -> Vec<usize> {
        let mut uses = vec![0; self.values.len()];
        let nodes = self.nodes.iter().flat_map(|n| n.inputs.iter().flatten());
        for value in nodes.chain(&self.outputs).chain(self.states.iter().map(|s| &s.write)) {
            uses[*value] += 1;
        }
        uses
    }

    /// Takes away nodes whose results nobody reads.
    pub fn prune(&mut self) {
        let mut live: Vec<bool> = vec![false; self.values.len()];
        for value in self.outputs.iter().chain(self.states.iter().map(|s| &s.write)) {
            live[*value] = true;
        }
        for node in self.nodes.iter().rev() {
            if node.outputs.iter().any(|o| live[*o]) {
                node.inputs.iter().flatten().for_each(|i| live[*i] = true);
            }
        }
        self.nodes.retain(|node| node.outputs.iter().any(|o| live[*o]));
    }
}

impl Graph {
    /// Takes away values that no node, input, output or state names, and counts the others anew.
    pub fn compact(&mut self) {
        let mut named = vec![false; self.values.len()];
        self.each_id(|id| named[*id] = true);
        let counted = |count: &mut usize, named: &bool| {
            *count += usize::from(*named);
            Some(*count - usize::from(*named))
        };
        let new: Vec<ValueId> = named.iter().scan(0, counted).collect();
        let mut keep = named.iter();
        self.values.retain(|_| keep.next() == Some(&true));
        self.each_id(|id| *id = new[*id]);
        let coded = std::mem::take(&mut self.coded).into_iter();
        self.coded = coded.filter(|(id, _)| named.get(*id) == Some(&true)).map(|(id, m)| (new[id], m)).collect();
    }

    /// Calls with every index of a value.
    fn each_id(&mut self, mut f: impl FnMut(&mut ValueId)) {
        let nodes = self.nodes.iter_mut().flat_map(|n| n.inputs.iter_mut().flatten().chain(&mut n.outputs));
        nodes.chain(&mut self.inputs).chain(&mut self.outputs).for_each(&mut f);
        self.states.iter_mut().flat_map(|s| [&mut s.read, &mut s.write]).for_each(f);
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} \"{}\"", self.kind, self.name)
    }
}

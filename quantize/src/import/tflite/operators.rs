//! TensorFlow Lite's operators, each as nodes of the graph.
//!
//! To add one: a function here and a row in [`OPERATORS`].

use super::{Lowering, Operator, Reader, Subgraph, signal};
use crate::graph::{
    Binary, Coordinates, Data, Interpolation, Nearest, Op, PadMode, PoolKind, Reduction, Unary, Value, ValueId, Window,
};
use std::collections::HashMap;

/// Number of the operator that sets states once.
pub(super) const CALL_ONCE: i32 = 129;

/// An operator with its operands.
pub(super) struct Call<'r, 'a> {
    pub(super) reader: &'r mut Reader,
    pub(super) o: &'r Operator<'a>,
    /// Its place in the file.
    pub(super) at: usize,
    pub(super) inputs: Vec<Option<ValueId>>,
    pub(super) outputs: Vec<ValueId>,
    /// The operator's name.
    pub(super) kind: String,
    /// The name of its first output.
    pub(super) name: String,
}

/// Adds an operator's nodes.
pub(super) type Import = fn(&mut Call<'_, '_>) -> Lowering<()>;

/// Operators by their number in the schema.
const OPERATORS: [(i32, Import); 67] = [
    (0, |c| binary(c, Binary::Add, Some(0))),
    (1, |c| pool(c, PoolKind::Average { count_padding: false })),
    (2, concat),
    (3, conv2d),
    (4, depthwise_conv2d),
    (5, |c| blocks(c, true)), // DEPTH_TO_SPACE
    (6, |c| plain(c, Op::Requantize)),
    (8, |c| unary(c, Unary::Floor)),
    (9, fully_connected),
    (14, |c| unary(c, Unary::Sigmoid)),
    (17, |c| pool(c, PoolKind::Max)),
    (18, |c| binary(c, Binary::Mul, Some(0))),
    (19, |c| unary(c, Unary::Clip(0.0, f32::INFINITY))),
    (20, |c| unary(c, Unary::Clip(-1.0, 1.0))),
    (21, |c| unary(c, Unary::Clip(0.0, 6.0))),
    (22, reshape),
    (23, |c| resize(c, 2, Interpolation::Linear)),
    (25, softmax),
    (26, |c| blocks(c, false)), // SPACE_TO_DEPTH
    (28, |c| unary(c, Unary::Tanh)),
    (34, pad),
    (36, gather),
    (39, transpose),
    (40, |c| reduce(c, Reduction::Mean)),
    (41, |c| binary(c, Binary::Sub, Some(0))),
    (42, |c| binary(c, Binary::Div, Some(0))),
    (43, reshape), // SQUEEZE
    (45, strided_slice),
    (47, |c| unary(c, Unary::Exp)),
    (49, split),
    (50, log_softmax),
    (53, |c| plain(c, Op::Cast)),
    (54, |c| binary(c, Binary::Prelu, None)),
    (55, |c| binary(c, Binary::Max, None)),
    (56, |c| arg(c, false)),
    (57, |c| binary(c, Binary::Min, None)),
    (59, |c| unary(c, Unary::Neg)),
    (60, pad), // PADV2
    (65, slice),
    (67, transpose_conv),
    (70, reshape), // EXPAND_DIMS
    (73, |c| unary(c, Unary::Log)),
    (74, |c| reduce(c, Reduction::Sum)),
    (75, |c| unary(c, Unary::Sqrt)),
    (76, |c| unary(c, Unary::Rsqrt)),
    (78, |c| binary(c, Binary::Pow, None)),
    (79, |c| arg(c, true)),
    (82, |c| reduce(c, Reduction::Max)),
    (83, pack),
    (88, unpack),
    (89, |c| reduce(c, Reduction::Min)),
    (92, |c| unary(c, Unary::Square)),
    (97, |c| resize(c, 0, Interpolation::Nearest(Nearest::Floor))),
    (98, |c| unary(c, Unary::LeakyRelu(c.o.float(0)))),
    (99, |c| binary(c, Binary::SquaredDifference, None)),
    (100, mirror_pad),
    (101, |c| unary(c, Unary::Abs)),
    (102, split),
    (111, |c| unary(c, Unary::Elu(1.0))),
    (114, |c| plain(c, Op::Requantize)),
    (117, |c| unary(c, Unary::HardSwish)),
    (126, batch_matmul),
    (CALL_ONCE, |_| Ok(())),
    (142, var_handle),
    (143, read_variable),
    (144, assign_variable),
    (150, |c| unary(c, if c.o.flag(0) { Unary::GeluTanh } else { Unary::Gelu })),
];

/// Names by number, for messages.
const NAMES: &str = "\
    ADD AVERAGE_POOL_2D CONCATENATION CONV_2D DEPTHWISE_CONV_2D DEPTH_TO_SPACE DEQUANTIZE EMBEDDING_LOOKUP FLOOR \
    FULLY_CONNECTED HASHTABLE_LOOKUP L2_NORMALIZATION L2_POOL_2D LOCAL_RESPONSE_NORMALIZATION LOGISTIC \
    LSH_PROJECTION LSTM MAX_POOL_2D MUL RELU RELU_N1_TO_1 RELU6 RESHAPE RESIZE_BILINEAR RNN SOFTMAX \
    SPACE_TO_DEPTH SVDF TANH CONCAT_EMBEDDINGS SKIP_GRAM CALL CUSTOM EMBEDDING_LOOKUP_SPARSE PAD \
    UNIDIRECTIONAL_SEQUENCE_RNN GATHER BATCH_TO_SPACE_ND SPACE_TO_BATCH_ND TRANSPOSE MEAN SUB DIV SQUEEZE \
    UNIDIRECTIONAL_SEQUENCE_LSTM STRIDED_SLICE BIDIRECTIONAL_SEQUENCE_RNN EXP TOPK_V2 SPLIT LOG_SOFTMAX DELEGATE \
    BIDIRECTIONAL_SEQUENCE_LSTM CAST PRELU MAXIMUM ARG_MAX MINIMUM LESS NEG PADV2 GREATER GREATER_EQUAL \
    LESS_EQUAL SELECT SLICE SIN TRANSPOSE_CONV SPARSE_TO_DENSE TILE EXPAND_DIMS EQUAL NOT_EQUAL LOG SUM SQRT \
    RSQRT SHAPE POW ARG_MIN FAKE_QUANT REDUCE_PROD REDUCE_MAX PACK LOGICAL_OR ONE_HOT LOGICAL_AND LOGICAL_NOT \
    UNPACK REDUCE_MIN FLOOR_DIV REDUCE_ANY SQUARE ZEROS_LIKE FILL FLOOR_MOD RANGE RESIZE_NEAREST_NEIGHBOR \
    LEAKY_RELU SQUARED_DIFFERENCE MIRROR_PAD ABS SPLIT_V UNIQUE CEIL REVERSE_V2 ADD_N GATHER_ND COS WHERE RANK \
    ELU REVERSE_SEQUENCE MATRIX_DIAG QUANTIZE MATRIX_SET_DIAG ROUND HARD_SWISH IF WHILE NON_MAX_SUPPRESSION_V4 \
    NON_MAX_SUPPRESSION_V5 SCATTER_ND SELECT_V2 DENSIFY SEGMENT_SUM BATCH_MATMUL PLACEHOLDER_FOR_GREATER_OP_CODES \
    CUMSUM CALL_ONCE BROADCAST_TO RFFT2D CONV_3D IMAG REAL COMPLEX_ABS HASHTABLE HASHTABLE_FIND HASHTABLE_IMPORT \
    HASHTABLE_SIZE REDUCE_ALL CONV_3D_TRANSPOSE VAR_HANDLE READ_VARIABLE ASSIGN_VARIABLE BROADCAST_ARGS \
    RANDOM_STANDARD_NORMAL BUCKETIZE RANDOM_UNIFORM MULTINOMIAL GELU";

/// The name of an operator, and what adds it to the graph if Mote has it.
pub(super) fn find(o: &Operator<'_>) -> (String, Option<Import>) {
    let known = NAMES.split_whitespace().nth(o.code.max(0) as usize);
    let name = match (o.custom.as_str(), known) {
        ("", Some(name)) => name.to_owned(),
        ("", None) => format!("operator code {}", o.code),
        (custom, _) => format!("custom operator {custom}"),
    };
    let import = match o.custom.as_str() {
        "" => OPERATORS.iter().find(|(code, _)| *code == o.code).map(|(_, import)| *import),
        custom => signal::OPERATORS.iter().find(|(name, _)| *name == custom).map(|(_, import)| *import),
    };
    (name, import)
}

/// What the operators of an initialising graph assign to its states.
pub(super) fn initial_states(g: &Subgraph<'_>) -> HashMap<String, Data> {
    let mut handles = HashMap::new();
    let mut initial = HashMap::new();
    for o in &g.operators {
        match (o.code, &o.inputs[..], &o.outputs[..]) {
            (142, _, [handle]) => drop(handles.insert(*handle, o.text(1))),
            (144, [handle, value], _) => {
                let tensor = usize::try_from(*value).ok().and_then(|v| g.tensors.get(v));
                if let Some((key, data)) = handles.get(handle).zip(tensor.and_then(|t| t.data.clone())) {
                    initial.insert(key.clone(), data);
                }
            }
            _ => {}
        }
    }
    initial
}

/// The range of a fused activation.
fn activation(code: u8) -> Lowering<Option<[f32; 2]>> {
    match code {
        0 => Ok(None),
        1 => Ok(Some([0.0, f32::INFINITY])),
        2 => Ok(Some([-1.0, 1.0])),
        3 => Ok(Some([0.0, 6.0])),
        other => Err(format!("the fused activation {other}")),
    }
}

impl Call<'_, '_> {
    pub(super) fn id(&self, which: usize) -> Lowering<ValueId> {
        self.inputs.get(which).copied().flatten().ok_or_else(|| format!("input {which} left out"))
    }

    pub(super) fn value(&self, which: usize) -> Lowering<&Value> {
        Ok(&self.reader.graph.values[self.id(which)?])
    }

    fn output(&self) -> Lowering<&Value> {
        self.outputs.first().map(|o| &self.reader.graph.values[*o]).ok_or_else(|| "no output".to_owned())
    }

    /// The numbers of a constant input.
    fn ints(&self, which: usize) -> Lowering<Vec<i64>> {
        match &self.value(which)?.data {
            Some(Data::Int(ints)) => Ok(ints.clone()),
            _ => Err(format!("an input {which} that is not known beforehand")),
        }
    }

    /// An axis of a value with this many dimensions.
    fn axis(axis: i64, rank: usize) -> Lowering<usize> {
        let from = if axis < 0 { axis + rank as i64 } else { axis };
        usize::try_from(from).ok().filter(|a| *a < rank).ok_or_else(|| format!("axis {axis} of {rank} dimensions"))
    }

    /// Only the first `count` inputs go to the node: the others were options.
    pub(super) fn push_first(&mut self, count: usize, op: Op) -> Lowering<()> {
        self.id(count - 1)?;
        self.push_of(op, self.inputs[..count].to_vec(), self.outputs.clone(), None);
        Ok(())
    }
}

fn plain(c: &mut Call<'_, '_>, op: Op) -> Lowering<()> {
    c.push_first(1, op)
}

fn unary(c: &mut Call<'_, '_>, f: Unary) -> Lowering<()> {
    c.push_first(1, Op::Unary(f))
}

/// `fused`: which option is the activation.
fn binary(c: &mut Call<'_, '_>, f: Binary, fused: Option<usize>) -> Lowering<()> {
    c.id(1)?;
    let clamp = fused.map_or(Ok(None), |id| activation(c.o.byte(id)))?;
    c.push(Op::Binary(f), clamp);
    Ok(())
}

fn reshape(c: &mut Call<'_, '_>) -> Lowering<()> {
    let (from, to) = (c.value(0)?.count(), c.output()?.count());
    if from != to {
        return Err(format!("a change of shape from {from} elements to {to}"));
    }
    c.push_first(1, Op::Reshape)
}

/// Stride and dilation from options, padding from sizes: 0 is SAME, 1 is VALID.
fn window(kind: u8, sizes: [[usize; 2]; 3], stride: [i32; 2], dilation: [i32; 2]) -> Lowering<Window> {
    let [input, kernel, output] = sizes;
    let positive = |v: i32| usize::try_from(v).ok().filter(|v| (1..=255).contains(v));
    let mut w = Window { stride: [1; 2], dilation: [1; 2], before: [0; 2], after: [0; 2] };
    for i in 0..2 {
        let steps = positive(stride[i]).zip(positive(dilation[i]));
        let (stride, dilation) = steps.ok_or_else(|| format!("stride {}, dilation {}", stride[i], dilation[i]))?;
        if kernel[i] == 0 || input[i] == 0 || output[i] == 0 || kernel[i].max(input[i]).max(output[i]) >= 1 << 16 {
            return Err("a side of no elements, or of 65536 or more".into());
        }
        let reach = (kernel[i] - 1) * dilation + 1;
        let expected = match kind {
            0 => input[i].div_ceil(stride),
            1 => (input[i] + stride).saturating_sub(reach) / stride,
            other => return Err(format!("padding {other}")),
        };
        if output[i] != expected {
            return Err(format!("an output side of {} where {expected} is expected", output[i]));
        }
        let total = ((output[i] - 1) * stride + reach).saturating_sub(input[i]);
        w.stride[i] = stride;
        w.dilation[i] = dilation;
        w.before[i] = total / 2;
        w.after[i] = total - total / 2;
    }
    Ok(w)
}

/// Height and width of an image.
fn sides(value: &Value) -> Lowering<[usize; 2]> {
    match value.shape[..] {
        [_, h, w, _] => Ok([h, w]),
        _ => Err(format!("an image of shape {:?}", value.shape)),
    }
}

fn conv2d(c: &mut Call<'_, '_>) -> Lowering<()> {
    let (x, w, y) = (c.value(0)?, c.value(1)?, c.output()?);
    let &[out, kh, kw, cin] = &w.shape[..] else {
        return Err(format!("weights of shape {:?}", w.shape));
    };
    let (channels, made) = (x.shape.last().copied().unwrap_or(0), y.shape.last().copied().unwrap_or(0));
    let groups = channels.checked_div(cin).unwrap_or(0);
    if groups == 0 || groups * cin != channels || made != out || out % groups != 0 {
        return Err(format!("weights of shape {:?} for {channels} to {made} channels", w.shape));
    }
    let (stride, dilation) = ([c.o.int(2, 0), c.o.int(1, 0)], [c.o.int(5, 1), c.o.int(4, 1)]);
    let window = window(c.o.byte(0), [sides(x)?, [kh, kw], sides(y)?], stride, dilation)?;
    let clamp = activation(c.o.byte(3))?;
    c.push(Op::Conv2d { window, groups }, clamp);
    Ok(())
}

/// Weights are [1, kh, kw, out]; here they are [out, kh, kw, 1].
fn depthwise_conv2d(c: &mut Call<'_, '_>) -> Lowering<()> {
    let (x, w, y) = (c.value(0)?, c.value(1)?, c.output()?);
    let &[1, kh, kw, out] = &w.shape[..] else {
        return Err(format!("weights of shape {:?}", w.shape));
    };
    let (channels, made) = (x.shape.last().copied().unwrap_or(0), y.shape.last().copied().unwrap_or(0));
    if channels == 0 || out % channels != 0 || made != out {
        return Err(format!("weights of shape {:?} for {channels} to {made} channels", w.shape));
    }
    let (stride, dilation) = ([c.o.int(2, 0), c.o.int(1, 0)], [c.o.int(6, 1), c.o.int(5, 1)]);
    let window = window(c.o.byte(0), [sides(x)?, [kh, kw], sides(y)?], stride, dilation)?;
    let clamp = activation(c.o.byte(4))?;
    let taps = kh * kw;
    let data = match w.data.as_ref().ok_or("weights that are not constant")? {
        Data::F32(v) => Data::F32((0..v.len()).map(|i| v[i % taps * out + i / taps]).collect()),
        Data::Int(v) => Data::Int((0..v.len()).map(|i| v[i % taps * out + i / taps]).collect()),
    };
    let mut weights = Value { shape: vec![out, kh, kw, 1], data: Some(data), ..w.clone() };
    if let Some(quant) = &mut weights.quant {
        quant.axis = 0;
    }
    let values = &mut c.reader.graph.values;
    values.push(weights);
    let mut inputs = c.inputs.clone();
    inputs[1] = Some(values.len() - 1);
    c.push_of(Op::Conv2d { window, groups: channels }, inputs, c.outputs.clone(), clamp);
    Ok(())
}

/// Inputs: the output's shape, weights, image, bias.
fn transpose_conv(c: &mut Call<'_, '_>) -> Lowering<()> {
    let (w, x, y) = (c.value(1)?, c.value(2)?, c.output()?);
    let &[out, kh, kw, cin] = &w.shape[..] else {
        return Err(format!("weights of shape {:?}", w.shape));
    };
    if x.shape.last() != Some(&cin) || y.shape.last() != Some(&out) {
        return Err(format!("weights of shape {:?} for {:?} to {:?}", w.shape, x.shape, y.shape));
    }
    // The padding is that of the convolution which leads back.
    let window = window(c.o.byte(0), [sides(y)?, [kh, kw], sides(x)?], [c.o.int(2, 0), c.o.int(1, 0)], [1, 1])?;
    let clamp = activation(c.o.byte(3))?;
    let mut inputs = vec![Some(c.id(2)?), Some(c.id(1)?)];
    inputs.extend(c.inputs.get(3).copied());
    c.push_of(Op::ConvTranspose2d { window }, inputs, c.outputs.clone(), clamp);
    Ok(())
}

fn fully_connected(c: &mut Call<'_, '_>) -> Lowering<()> {
    let (x, w, y) = (c.value(0)?, c.value(1)?, c.output()?);
    if c.o.byte(1) != 0 {
        return Err("shuffled weights".into());
    }
    let &[out, features] = &w.shape[..] else {
        return Err(format!("weights of shape {:?}", w.shape));
    };
    let rows = x.count().checked_div(features).unwrap_or(0);
    if rows * features != x.count() || rows * out != y.count() {
        return Err(format!("weights of shape {:?} for {:?} to {:?}", w.shape, x.shape, y.shape));
    }
    let clamp = activation(c.o.byte(0))?;
    c.push(Op::FullyConnected, clamp);
    Ok(())
}

fn pool(c: &mut Call<'_, '_>, kind: PoolKind) -> Lowering<()> {
    let (x, y) = (c.value(0)?, c.output()?);
    let side = |id| usize::try_from(c.o.int(id, 0)).map_err(|_| "a window of negative size");
    let kernel = [side(4)?, side(3)?];
    let stride = [c.o.int(2, 0), c.o.int(1, 0)];
    let window = window(c.o.byte(0), [sides(x)?, kernel, sides(y)?], stride, [1, 1])?;
    if x.shape.last() != y.shape.last() {
        return Err("a pool that changes the number of channels".into());
    }
    let clamp = activation(c.o.byte(5))?;
    c.push(Op::Pool2d { kind, kernel, window }, clamp);
    Ok(())
}

fn softmax(c: &mut Call<'_, '_>) -> Lowering<()> {
    let axis = Call::axis(-1, c.value(0)?.shape.len())?;
    c.push_first(1, Op::Softmax { axis, beta: c.o.float(0), log: false })
}

fn log_softmax(c: &mut Call<'_, '_>) -> Lowering<()> {
    let axis = Call::axis(-1, c.value(0)?.shape.len())?;
    c.push_first(1, Op::Softmax { axis, beta: 1.0, log: true })
}

fn concat(c: &mut Call<'_, '_>) -> Lowering<()> {
    let axis = Call::axis(c.o.int(0, 0).into(), c.output()?.shape.len())?;
    let clamp = activation(c.o.byte(1))?;
    c.push(Op::Concat { axis }, clamp);
    Ok(())
}

fn gather(c: &mut Call<'_, '_>) -> Lowering<()> {
    if c.o.int(1, 0) != 0 {
        return Err("batch dimensions".into());
    }
    let axis = Call::axis(c.o.int(0, 0).into(), c.value(0)?.shape.len())?;
    c.push_first(2, Op::Gather { axis })
}

fn transpose(c: &mut Call<'_, '_>) -> Lowering<()> {
    let rank = c.value(0)?.shape.len();
    let perm = c.ints(1)?.into_iter().map(|p| Call::axis(p, rank)).collect::<Lowering<Vec<usize>>>()?;
    let shape: Vec<usize> = perm.iter().map(|p| c.value(0).map(|x| x.shape[*p])).collect::<Lowering<_>>()?;
    if shape != c.output()?.shape {
        return Err(format!("a transposition {perm:?} to {:?}", c.output()?.shape));
    }
    c.push_first(1, Op::Transpose { perm })
}

fn reduce(c: &mut Call<'_, '_>, kind: Reduction) -> Lowering<()> {
    let rank = c.value(0)?.shape.len();
    let mut axes = c.ints(1)?.into_iter().map(|p| Call::axis(p, rank)).collect::<Lowering<Vec<usize>>>()?;
    axes.sort_unstable();
    axes.dedup();
    c.push_first(1, Op::Reduce { kind, axes })
}

/// Zeros (of the real numbers), or the constant of PADV2.
fn pad(c: &mut Call<'_, '_>) -> Lowering<()> {
    let value = match c.inputs.get(2).copied().flatten() {
        None => 0.0,
        Some(id) => {
            let value = &c.reader.graph.values[id];
            let quant = value.quant.as_ref().and_then(|q| q.single());
            match (&value.data, quant) {
                (Some(Data::F32(v)), _) if v.len() == 1 => v[0],
                (Some(Data::Int(v)), Some((scale, zero))) if v.len() == 1 => (v[0] - i64::from(zero)) as f32 * scale,
                _ => return Err("padding that is not known beforehand".into()),
            }
        }
    };
    padding(c, PadMode::Constant(value), 0)
}

fn mirror_pad(c: &mut Call<'_, '_>) -> Lowering<()> {
    let reflect = c.o.byte(0) == 0;
    padding(c, if reflect { PadMode::Reflect } else { PadMode::Symmetric }, usize::from(reflect))
}

/// `edge`: how many elements at the edge are not mirrored.
fn padding(c: &mut Call<'_, '_>, mode: PadMode, edge: usize) -> Lowering<()> {
    let (pads, x, y) = (c.ints(1)?, c.value(0)?, c.output()?);
    let mut before = vec![];
    if pads.len() != 2 * x.shape.len() || x.shape.len() != y.shape.len() {
        return Err(format!("{} numbers of padding for {:?}", pads.len(), x.shape));
    }
    for ((pair, from), to) in pads.as_chunks::<2>().0.iter().zip(&x.shape).zip(&y.shape) {
        let [a, b] = pair.map(|p| usize::try_from(p).unwrap_or(usize::MAX));
        let far = !matches!(mode, PadMode::Constant(_)) && a.max(b) > from.saturating_sub(edge);
        if from.checked_add(a).and_then(|n| n.checked_add(b)) != Some(*to) || far {
            return Err(format!("padding {pads:?} of {:?} to {:?}", x.shape, y.shape));
        }
        before.push(a);
    }
    c.push_first(1, Op::Pad { before, mode })
}

fn slice(c: &mut Call<'_, '_>) -> Lowering<()> {
    let (begins, rank) = (c.ints(1)?, c.value(0)?.shape.len());
    let starts = begins.iter().map(|b| usize::try_from(*b).map_err(|_| "a negative beginning"));
    let starts = starts.collect::<Result<Vec<usize>, _>>()?;
    sliced(c, starts, vec![1; rank], c.output()?.shape.clone())
}

/// Checks that a slice lies inside, and adds it; `shape` has as many dimensions as the input, which the output's may not.
fn sliced(c: &mut Call<'_, '_>, starts: Vec<usize>, steps: Vec<i64>, shape: Vec<usize>) -> Lowering<()> {
    let x = c.value(0)?;
    let inside = |((start, step), (size, count)): ((&usize, &i64), (&usize, &usize))| {
        let last = *start as i64 + step.saturating_mul(*count as i64 - 1);
        *count > 0 && start < size && (0..*size as i64).contains(&last)
    };
    let all = starts.iter().zip(&steps).zip(x.shape.iter().zip(&shape)).all(inside);
    if starts.len() != x.shape.len() || steps.len() != x.shape.len() || shape.len() != x.shape.len() || !all {
        return Err(format!("a slice of {shape:?} at {starts:?}, steps {steps:?}, of {:?}", x.shape));
    }
    if shape.iter().product::<usize>() != c.output()?.count() {
        return Err(format!("a slice of {shape:?} where {:?} is expected", c.output()?.shape));
    }
    let op = Op::Slice { starts, steps };
    if c.output()?.shape == shape {
        return c.push_first(1, op);
    }
    let between = c.reader.like(c.id(0)?, &shape);
    c.push_of(op, c.inputs[..1].to_vec(), vec![between], None);
    c.push_of(Op::Reshape, vec![Some(between)], c.outputs.clone(), None);
    Ok(())
}

fn strided_slice(c: &mut Call<'_, '_>) -> Lowering<()> {
    let masks: [i32; 5] = std::array::from_fn(|id| c.o.int(id, 0));
    let [begin_mask, end_mask, ellipsis, new_axis, shrink] = masks;
    let (begins, ends, strides, x) = (c.ints(1)?, c.ints(2)?, c.ints(3)?, c.value(0)?);
    let rank = begins.len();
    if ellipsis != 0 || new_axis != 0 || rank > x.shape.len() || ends.len() != rank || strides.len() != rank {
        return Err("a slice with an ellipsis or new dimensions".into());
    }
    let (mut starts, mut steps, mut shape) = (vec![0; x.shape.len()], vec![1; x.shape.len()], x.shape.clone());
    for i in 0..rank {
        let (size, step) = (x.shape[i] as i64, strides[i]);
        let bit = |mask: i32| mask >> i & 1 != 0;
        let from_end = |v: i64| if v < 0 { v + size } else { v };
        // Where a slice may begin or end: before the first element only when it runs backwards.
        let (low, high) = if step > 0 { (0, size) } else { (-1, size - 1) };
        let begin =
            if bit(begin_mask) { if step > 0 { low } else { high } } else { from_end(begins[i]).clamp(low, high) };
        let end = if bit(end_mask) { if step > 0 { high } else { low } } else { from_end(ends[i]).clamp(low, high) };
        let count = match step {
            0 => return Err("a slice with stride 0".into()),
            _ if bit(shrink) => 1,
            1.. => (end - begin + step - 1) / step,
            _ => (begin - end - step - 1) / -step,
        };
        starts[i] = usize::try_from(begin).map_err(|_| "an empty slice")?;
        steps[i] = step;
        shape[i] = usize::try_from(count).map_err(|_| "an empty slice")?;
    }
    sliced(c, starts, steps, shape)
}

/// SPLIT has the axis as input 0, SPLIT_V as input 2.
fn split(c: &mut Call<'_, '_>) -> Lowering<()> {
    let (data, axis) = if c.o.code == 49 { (1, 0) } else { (0, 2) };
    let axis = c.ints(axis)?.first().copied().ok_or("an axis left out")?;
    let input = c.id(data)?;
    let shape = c.value(data)?.shape.clone();
    let axis = Call::axis(axis, shape.len())?;
    let mut at = 0;
    for output in c.outputs.clone() {
        let mut starts = vec![0; shape.len()];
        starts[axis] = at;
        let part = &c.reader.graph.values[output].shape;
        at += part.get(axis).copied().unwrap_or(0);
        if part.len() != shape.len() || at > shape[axis] {
            return Err(format!("a part {part:?} of {shape:?}"));
        }
        let op = Op::Slice { starts, steps: vec![1; shape.len()] };
        c.push_of(op, vec![Some(input)], vec![output], None);
    }
    Ok(())
}

/// PACK: each input gets the new dimension.
fn pack(c: &mut Call<'_, '_>) -> Lowering<()> {
    let mut shape = c.output()?.shape.clone();
    let axis = Call::axis(c.o.int(1, 0).into(), shape.len())?;
    shape[axis] = 1;
    let mut parts = vec![];
    for which in 0..c.inputs.len() {
        let input = c.id(which)?;
        if c.value(which)?.count() != shape.iter().product::<usize>() {
            return Err("parts of other shapes".into());
        }
        let part = c.reader.like(input, &shape);
        c.push_of(Op::Reshape, vec![Some(input)], vec![part], None);
        parts.push(Some(part));
    }
    c.push_of(Op::Concat { axis }, parts, c.outputs.clone(), None);
    Ok(())
}

fn unpack(c: &mut Call<'_, '_>) -> Lowering<()> {
    let (input, shape) = (c.id(0)?, c.value(0)?.shape.clone());
    let axis = Call::axis(c.o.int(1, 0).into(), shape.len())?;
    let mut one = shape.clone();
    one[axis] = 1;
    if c.outputs.len() != shape[axis] {
        return Err(format!("{} parts of {shape:?}", c.outputs.len()));
    }
    for (at, output) in c.outputs.clone().into_iter().enumerate() {
        let mut starts = vec![0; shape.len()];
        starts[axis] = at;
        let part = c.reader.like(input, &one);
        c.push_of(Op::Slice { starts, steps: vec![1; shape.len()] }, vec![Some(input)], vec![part], None);
        c.push_of(Op::Reshape, vec![Some(part)], vec![output], None);
    }
    Ok(())
}

/// SPACE_TO_DEPTH and its inverse, as a change of shape, a transposition and another change of shape.
fn blocks(c: &mut Call<'_, '_>, to_space: bool) -> Lowering<()> {
    let block = usize::try_from(c.o.int(0, 0)).ok().filter(|b| *b > 0).ok_or("blocks of no size")?;
    let input = c.id(0)?;
    let &[n, h, w, channels] = &c.value(0)?.shape[..] else {
        return Err(format!("an image of shape {:?}", c.value(0)?.shape));
    };
    let (area, fits) = (block * block, if to_space { channels.is_multiple_of(block * block) } else { true });
    if !fits || (!to_space && (h % block != 0 || w % block != 0)) {
        return Err(format!("blocks of {block} in {:?}", c.value(0)?.shape));
    }
    let split = if to_space {
        [n, h, w, block, block, channels / area]
    } else {
        [n, h / block, block, w / block, block, channels]
    };
    // Rows of blocks beside rows in a block, or the other way round: its own inverse.
    let perm = [0, 1, 3, 2, 4, 5];
    let a = c.reader.like(input, &split);
    let b = c.reader.like(input, &perm.map(|p: usize| split[p]));
    c.push_of(Op::Reshape, vec![Some(input)], vec![a], None);
    c.push_of(Op::Transpose { perm: perm.to_vec() }, vec![Some(a)], vec![b], None);
    c.push_of(Op::Reshape, vec![Some(b)], c.outputs.clone(), None);
    Ok(())
}

/// `flags`: which option is "align corners"; the next one is "half-pixel centers".
fn resize(c: &mut Call<'_, '_>, flags: usize, interpolation: Interpolation) -> Lowering<()> {
    let coordinates = match (c.o.flag(flags), c.o.flag(flags + 1)) {
        (true, _) => Coordinates::AlignCorners,
        (_, true) => Coordinates::HalfPixel,
        _ => Coordinates::Asymmetric,
    };
    let interpolation = match (interpolation, coordinates) {
        // TFLite rounds where corners are aligned, and looks half a pixel further with half-pixel centers: in both
        // cases to the nearest, halves up.
        (Interpolation::Nearest(_), Coordinates::AlignCorners | Coordinates::HalfPixel) => {
            Interpolation::Nearest(Nearest::RoundPreferCeil)
        }
        (other, _) => other,
    };
    sides(c.value(0)?)?;
    sides(c.output()?)?;
    c.push_first(1, Op::Resize { coordinates, interpolation })
}

fn arg(c: &mut Call<'_, '_>, least: bool) -> Lowering<()> {
    let axis = c.ints(1)?.first().copied().ok_or("an axis left out")?;
    let axis = Call::axis(axis, c.value(0)?.shape.len())?;
    c.push_first(1, Op::ArgMax { axis, least })
}

fn batch_matmul(c: &mut Call<'_, '_>) -> Lowering<()> {
    if c.o.flag(0) {
        return Err("a first matrix that is transposed".into());
    }
    c.push_first(2, Op::MatMul { transposed: c.o.flag(1) })
}

fn var_handle(c: &mut Call<'_, '_>) -> Lowering<()> {
    let handle = c.o.outputs.first().copied().ok_or("no output")?;
    c.reader.handles.insert(handle, c.o.text(1));
    Ok(())
}

/// The state that input 0 is a handle of.
fn key(c: &Call<'_, '_>) -> Lowering<String> {
    let handle = c.o.inputs.first().and_then(|i| c.reader.handles.get(i));
    handle.cloned().ok_or_else(|| "a handle that nothing gives".into())
}

fn read_variable(c: &mut Call<'_, '_>) -> Lowering<()> {
    let key = key(c)?;
    let output = *c.outputs.first().ok_or("no output")?;
    let at = c.reader.state(&key, output);
    // Read again, or after it was assigned: the value that it has now.
    let index = c.o.outputs[0] as usize;
    c.reader.ids[index] = c.reader.graph.states[at].write;
    Ok(())
}

fn assign_variable(c: &mut Call<'_, '_>) -> Lowering<()> {
    let (key, value) = (key(c)?, c.id(1)?);
    let Some(at) = c.reader.states.get(&key).copied() else {
        return Err("a state that is assigned before it is read".into());
    };
    let state = &mut c.reader.graph.states[at];
    state.write = value;
    let (read, write) = (&c.reader.graph.values[state.read], &c.reader.graph.values[value]);
    if read.shape != write.shape || read.quant != write.quant || read.dtype != write.dtype {
        return Err(format!("a state of {:?} that is assigned {:?}", read.shape, write.shape));
    }
    Ok(())
}

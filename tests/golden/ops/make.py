"""What TensorFlow Lite Micro's reference kernels compute, an operator at a time, for runtime/tests/tflm.rs.

    pip install tflite-micro numpy
    python tests/golden/ops/make.py

Each case is a model of one operator, made here, and one run of it; multipliers and shifts are derived here as TFLM's `Prepare`
functions derive them, so the runtime's ops are compared with TFLM without Mote's importer. cases.txt, a case:

    case OP FLAGS             name in the runtime's table, flags
    in KIND VALUES            a slot that the run reads
    out KIND VALUES           a slot that the run writes, and what must be in it
    tensor KIND DIMS VALUES   a constant
    args ...                  arguments: sN slot N, tN tensor N (in the order above), else numbers
"""

import math
import pathlib

import flatbuffers
import numpy as np
from tflite_micro.python.tflite_micro import runtime
from tflite_micro.python.tflite_micro._version import __version__ as version
from tflite_micro.tensorflow.lite.micro.python import schema_py_generated as schema

RNG = np.random.default_rng(2026)
TYPES = {
    np.dtype(np.int8): (schema.TensorType.INT8, "i8"),
    np.dtype(np.int16): (schema.TensorType.INT16, "i16"),
    np.dtype(np.int32): (schema.TensorType.INT32, "i32"),
    np.dtype(np.uint8): (schema.TensorType.UINT8, "u8"),
}
f32 = np.float32


class Tensor:
    """A tensor of a model: its type, shape, scale and zero point, its data if it is constant."""

    def __init__(self, dtype, shape, scale=0.0, zero=0, data=None):
        self.dtype, self.shape, self.scale, self.zero, self.data = np.dtype(dtype), list(shape), f32(scale), zero, data
        self.scales, self.axis = None, 0  # of each slice along a dimension

    def random(self):
        low, high = np.iinfo(self.dtype).min, np.iinfo(self.dtype).max
        if RNG.integers(4) == 0:
            return RNG.choice([low, high], self.shape).astype(self.dtype)
        return RNG.integers(low, high, self.shape, endpoint=True).astype(self.dtype)


def invoke(code, options, inputs, outputs, values, version_=1):
    """One run of a model of one operator; `values` for the inputs that are not constant."""
    model, graph, op, opcode = schema.ModelT(), schema.SubGraphT(), schema.OperatorT(), schema.OperatorCodeT()
    opcode.builtinCode, opcode.deprecatedBuiltinCode, opcode.version = code, min(code, 127), version_
    model.version, model.operatorCodes, model.subgraphs, model.buffers = 3, [opcode], [graph], [schema.BufferT()]
    graph.tensors, graph.operators = [], [op]
    for t in inputs + outputs:
        tensor = schema.TensorT()
        tensor.type, tensor.shape, tensor.name = TYPES[t.dtype][0], t.shape, f"t{len(graph.tensors)}"
        tensor.quantization = schema.QuantizationParametersT()
        if t.scale:
            scales = t.scales or [t.scale]
            tensor.quantization.scale, tensor.quantization.zeroPoint = scales, [t.zero] * len(scales)
            tensor.quantization.quantizedDimension = t.axis
        if t.data is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(t.data.tobytes(), dtype=np.uint8)
            model.buffers.append(buffer)
            tensor.buffer = len(model.buffers) - 1
        graph.tensors.append(tensor)
    op.inputs, op.outputs = list(range(len(inputs))), [len(inputs) + i for i in range(len(outputs))]
    if options is not None:
        name, fields = options
        op.builtinOptionsType = getattr(schema.BuiltinOptions, name)
        op.builtinOptions = getattr(schema, name + "T")()
        for key, value in fields.items():
            assert hasattr(op.builtinOptions, key), key
            setattr(op.builtinOptions, key, value)
    graph.inputs = [i for i, t in enumerate(inputs) if t.data is None]
    graph.outputs = op.outputs
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    net = runtime.Interpreter.from_bytes(bytes(builder.Output()), arena_size=1 << 20)
    for i, value in enumerate(values):
        net.set_input(value, i)
    net.invoke()
    return [net.get_output(i).copy() for i in range(len(outputs))]


def multiplier(real):
    """TFLite's QuantizeMultiplier."""
    if real == 0.0:
        return [0, 0]
    fraction, shift = math.frexp(real)
    fixed = math.floor(fraction * (1 << 31) + 0.5)
    if fixed == 1 << 31:
        fixed, shift = fixed // 2, shift + 1
    return [0, 0] if shift < -31 else [fixed, shift]


def word(values):
    return int.from_bytes(bytes(v & 255 for v in values), "little")


LINES = [f"# tflite-micro {version}, made by make.py"]


def case(name, flags, slots, tensors, args):
    LINES.append(f"case {name} {flags}")
    for what, values in slots:
        LINES.append(f"{what} {TYPES[values.dtype][1]} {' '.join(map(str, values.ravel()))}")
    for values in tensors:
        dims = "x".join(map(str, values.shape))
        LINES.append(f"tensor {TYPES[values.dtype][1]} {dims} {' '.join(map(str, values.ravel()))}")
    LINES.append("args " + " ".join(map(str, args)))


def zero(dtype):
    """A zero point; int16 has none."""
    return int(RNG.integers(-128, 128)) if np.dtype(dtype) == np.int8 else 0


def scale(low=0.01, high=0.2):
    return f32(RNG.uniform(low, high))


def binary(dtype, shape):
    a, b, out = (Tensor(dtype, shape, scale(), zero(dtype)) for _ in range(3))
    return a, b, out, [a.random(), b.random()]


def mul(dtype, activation):
    a, b, out, values = binary(dtype, [1, 3, 5])
    out.scale = f32(float(a.scale) * float(b.scale) * RNG.uniform(20, 120) * (1 if dtype == np.int8 else 256))
    got = invoke(18, ("MulOptions", {"fusedActivationFunction": activation}), [a, b], [out], values)
    info = np.iinfo(dtype)
    quantized = lambda real: out.zero + int(np.round(f32(real) / out.scale))
    low = max(info.min, out.zero) if activation in (1, 3) else info.min
    high = min(info.max, quantized(6.0)) if activation == 3 else info.max
    real = float(a.scale) * float(b.scale) / float(out.scale)
    slots = [("in", values[0]), ("in", values[1]), ("out", got[0])]
    case("mul", 0, slots, [], ["s0", "s1", "s2", *multiplier(real), out.zero, a.zero, b.zero, low, high])


def maximum(dtype, code, flags):
    a = Tensor(dtype, [1, 3, 5], 0.5 if dtype == np.int8 else 0.0, 0)
    values = [a.random(), a.random()]
    got = invoke(code, ("MaximumMinimumOptions", {}), [a, a], [a], values)
    case("maximum", flags, [("in", values[0]), ("in", values[1]), ("out", got[0])], [], ["s0", "s1", "s2"])


def arithmetic(code, name, which):
    a = Tensor(np.int32, [1, 3, 5])
    values = [RNG.integers(-(2**15), 2**15, a.shape).astype(np.int32) for _ in range(2)]
    values[1][values[1] == 0] = 7  # TFLM divides by no 0
    got = invoke(code, (name, {}), [a, a], [a], values)
    case("arithmetic", 0, [("in", values[0]), ("in", values[1]), ("out", got[0])], [], ["s0", "s1", "s2", which])


def squared_difference(dtype):
    a, b, out, values = binary(dtype, [1, 3, 5])
    if dtype == np.int16:  # within the range where TFLM's square does not overflow
        values = [(v // 2).astype(np.int16) for v in values]
    wide = 1 if dtype == np.int8 else 1 << 8
    out.scale = f32(max(a.scale, b.scale) ** 2 * RNG.uniform(60, 300) * wide)
    got = invoke(99, ("SquaredDifferenceOptions", {}), [a, b], [out], values)
    twice = 2.0 * float(max(a.scale, b.scale))
    (ma, sa), (mb, sb) = multiplier(float(a.scale) / twice), multiplier(float(b.scale) / twice)
    up = 7 if dtype == np.int8 else 0
    # TFLM computes the denominator in float32.
    mo = multiplier((twice * twice) / float(f32(1 << (2 * up)) * out.scale))
    slots = [("in", values[0]), ("in", values[1]), ("out", got[0])]
    case("squared_difference", 0, slots, [], ["s0", "s1", "s2", *mo, out.zero, a.zero, b.zero, ma, mb, word([sa, sb, 0, 0])])


def reduction(shape, axes):
    """[outer, count, inner] of adjacent axes."""
    return math.prod(shape[axes[0] : axes[-1] + 1]), math.prod(shape[axes[-1] + 1 :])


def reduce_sum(dtype, code, shape, axes, keep, same=False):
    a = Tensor(dtype, shape, scale(), zero(dtype))
    count, inner = reduction(shape, axes)
    kept = [1 if i in axes else d for i, d in enumerate(shape) if keep or i not in axes]
    wide = math.sqrt(count) if code == 74 else 0.5 + RNG.uniform()
    out = Tensor(dtype, kept, a.scale if same else float(a.scale) * wide, a.zero if same else zero(dtype))
    axis = Tensor(np.int32, [len(axes)], data=np.array(axes, dtype=np.int32))
    values = [a.random()]
    got = invoke(code, ("ReducerOptions", {"keepDims": keep}), [a, axis], [out], values)
    m, s = multiplier(float(a.scale) / float(out.scale))
    if code == 40:
        shift = min(count.bit_length() - 1, 32, 31 + s)
        m, s = (m << shift) // count, s - shift
    case("reduce", 0, [("in", values[0]), ("out", got[0])], [], ["s0", "s1", count, inner, m, s, out.zero, a.zero])


def reduce_max(code, flags, shape, axes):
    a = Tensor(np.int8, shape, 0.5, 3)
    out = Tensor(np.int8, [d for i, d in enumerate(shape) if i not in axes], 0.5, 3)
    axis = Tensor(np.int32, [len(axes)], data=np.array(axes, dtype=np.int32))
    values = [a.random()]
    got = invoke(code, ("ReducerOptions", {"keepDims": False}), [a, axis], [out], values)
    case("reduce", flags, [("in", values[0]), ("out", got[0])], [], ["s0", "s1", *reduction(shape, axes)])


def gather(shape, axis, count, constant):
    data = Tensor(np.int8, shape, 0.5, 0)
    out = Tensor(np.int8, shape[:axis] + [count] + shape[axis + 1 :], 0.5, 0)
    table, index = data.random(), RNG.integers(0, shape[axis], count).astype(np.int32)
    data.data = table if constant else None
    values = [index] if constant else [table, index]
    got = invoke(36, ("GatherOptions", {"axis": axis}), [data, Tensor(np.int32, [count])], [out], values)
    if constant:
        case("gather", 0, [("in", index), ("out", got[0])], [table], ["s0", "s1", "t0"])
    else:
        slots = [("in", index), ("out", got[0]), ("in", table)]
        case("gather_slot", 0, slots, [], ["s0", "s1", "s2", shape[axis], math.prod(shape[axis + 1 :])])


def requantize(a, b):
    x = Tensor(a, [2, 9], scale(), zero(a))
    wide = {np.int8: 256, np.int16: 1, np.int32: 2**-12}
    out = Tensor(b, [2, 9], float(x.scale) * wide[b] / wide[a] * RNG.uniform(0.3, 3), zero(b))
    values = [x.random()]
    if a == np.int32:
        values = [(values[0] >> int(RNG.integers(2, 8))).astype(np.int32)]
    got = invoke(114, ("QuantizeOptions", {}), [x], [out], values)
    real = float(x.scale) / float(out.scale)
    case("requantize", 0, [("in", values[0]), ("out", got[0])], [], ["s0", "s1", *multiplier(real), out.zero, x.zero])


def arg_max(code, name, flags, shape, axis):
    a = Tensor(np.int8, shape, 0.5, 0)
    out = Tensor(np.int32, shape[:axis] + shape[axis + 1 :])
    values = [(a.random() // 32).astype(np.int8)]  # many equals
    where = Tensor(np.int32, [1], data=np.array([axis], dtype=np.int32))
    got = invoke(code, (name, {"outputType": schema.TensorType.INT32}), [a, where], [out], values)
    case("arg_max", flags, [("in", values[0]), ("out", got[0])], [], ["s0", "s1", shape[axis], math.prod(shape[axis + 1 :])])


def bilinear_places(size, out, align, half):
    """TFLite's ComputeInterpolationValuesInteger, where it counts: between the first pixel and the last."""
    step = (1024 * size + out // 2) // out
    if align and out > 1:
        step = (1024 * (size - 1) + (out - 1) // 2) // (out - 1)
    places = [i * step + (step // 2 - 512 if half else 0) for i in range(out)]
    return np.clip(places, 0, 1024 * (size - 1)).astype(np.int32)


def nearest_places(size, out, align, half):
    """TFLite's GetNearestNeighbor, in float32 as there."""
    step = f32(size - 1) / f32(out - 1) if align and out > 1 else f32(size) / f32(out)
    offset = f32(0.5) if half else f32(0)
    places = [f32(f32(i) + offset) * step for i in range(out)]
    whole = [math.floor(float(p) + 0.5) if align else math.floor(float(p)) for p in places]
    return (1024 * np.clip(whole, 0, size - 1)).astype(np.int32)


def resize(code, name, places, size, out_size, channels, align, half):
    a, out = Tensor(np.int8, [1, *size, channels], 0.5, 1), Tensor(np.int8, [1, *out_size, channels], 0.5, 1)
    sizes = Tensor(np.int32, [2], data=np.array(out_size, dtype=np.int32))
    values = [a.random()]
    got = invoke(code, (name, {"alignCorners": align, "halfPixelCenters": half}), [a, sizes], [out], values, 3)
    tensors = [places(n, m, align, half) for n, m in zip(size, out_size)]
    slots = [("in", values[0]), ("out", got[0])]
    case("resize", 0, slots, tensors, ["s0", "s1", size[0] | size[1] << 16, "t0", "t1"])


def batch_matmul(dtype, batch, m, k, n, transposed, shared):
    a = Tensor(dtype, [batch, m, k], scale(), zero(dtype))
    b = Tensor(dtype, [1 if shared else batch] + ([n, k] if transposed else [k, n]), scale(), zero(dtype))
    wide = 90 if dtype == np.int8 else 20000
    out = Tensor(dtype, [batch, m, n], float(a.scale) * float(b.scale) * math.sqrt(k) * wide, zero(dtype))
    values = [a.random(), b.random()]
    got = invoke(126, ("BatchMatMulOptions", {"adjX": False, "adjY": transposed}), [a, b], [out], values)
    real = float(f32(a.scale * b.scale)) / float(out.scale)
    slots = [("in", values[0]), ("in", values[1]), ("out", got[0])]
    args = ["s0", "s1", "s2", *multiplier(real), out.zero, a.zero, b.zero, m, k, n]
    case("batch_matmul", 4 if transposed else 0, slots, [], args)


def prelu(channels):
    a, out = (Tensor(np.int8, [1, 2, 3, channels], scale(), zero(np.int8)) for _ in range(2))
    slopes = Tensor(np.int8, [1, 1, channels], scale(0.002, 0.01), zero(np.int8))
    slopes.data = slopes.random()
    values = [a.random()]
    got = invoke(54, None, [a, slopes], [out], values)
    above = multiplier(float(a.scale) / float(out.scale))
    below = multiplier(float(a.scale) * float(slopes.scale) / float(out.scale))
    slots = [("in", values[0]), ("out", got[0])]
    args = ["s0", "s1", "t0", *above, out.zero, a.zero, slopes.zero, *below]
    case("prelu", 0, slots, [slopes.data.ravel()], args)


def sigmoid_table():
    """TFLite's sigmoid_table_uint16: moved up by what halves the worst error of the straight lines between; the last is 1."""
    values = []
    for i in range(256):
        s = 1 / (1 + math.exp(-i / 24))
        values.append(round(65536 * (s + abs(s * (1 - s) * (1 - 2 * s)) / (16 * 24 * 24))))
    return np.array(values[:255] + [65535], dtype=np.uint16).view(np.int16)


def sigmoid16(code, flags, real):
    a, out = Tensor(np.int16, [3, 16], real, 0), Tensor(np.int16, [3, 16], 2.0**-15, 0)
    values = [a.random()]
    got = invoke(code, None, [a], [out], values)
    # TFLM's Prepare of both; a scale of 2^-12 (of tanh: or 2^-11) has a multiplier of its own.
    left = 12 + int(round(math.log2(a.scale)))
    if 2.0 ** round(math.log2(a.scale)) == a.scale and left in ((0,) if flags == 0 else (0, 1)):
        m, shift = 3 << left, 0
    else:
        m, shift = float(a.scale) * 4096.0 * 3.0, 0
        while m <= 32767.0 / 2.0 and shift <= 30:
            m, shift = m * 2.0, shift + 1
    table = sigmoid_table()
    case("sigmoid16", flags, [("in", values[0]), ("out", got[0])], [table], ["s0", "s1", int(m), shift, "t0"])


def half_away(value):
    return f32(math.copysign(math.floor(abs(float(value)) + 0.5), float(value)))


def steps(function, low, high):
    """TFLite's gen_lut of int16, in float32 as there."""
    low, high = f32(low), f32(high)
    step = f32(f32(high - low) / f32(512))
    half, scale = f32(step / f32(2)), f32(32768)
    lut = []
    for i in range(512):
        value = function(f32(low + f32(f32(i) * step)))
        middle = function(f32(f32(low + f32(f32(i) * step)) + half))
        after = function(f32(low + f32(f32(i + 1) * step)))
        sample = half_away(f32(value * scale))
        between = half_away(f32(f32(f32(after * scale) + sample) / f32(2)))
        bias = half_away(f32(f32(between - half_away(f32(middle * scale))) / f32(2)))
        lut.append(min(max(float(sample - bias), -32768), 32767))
    lut.append(min(max(float(half_away(f32(function(high) * scale))), -32768), 32767))
    return np.array(lut).astype(np.int16)


def softmax16(row, real):
    a, out = Tensor(np.int16, [2, row], real, 0), Tensor(np.int16, [2, row], 2.0**-15, 0)
    values = [a.random()]
    got = invoke(25, ("SoftmaxOptions", {"beta": 1.0}), [a], [out], values)
    real = multiplier(float(a.scale) * 1.0 / (10.0 / 65535.0))
    tables = [steps(np.exp, -10, 0), steps(lambda x: f32(f32(1) / f32(f32(1) + x)), 0, 1)]
    case("softmax16", 0, [("in", values[0]), ("out", got[0])], tables, ["s0", "s1", row, *real, "t0", "t1"])


def leaky_relu16(alpha):
    a, out = (Tensor(np.int16, [2, 9], scale(), 0) for _ in range(2))
    values = [a.random()]
    got = invoke(98, ("LeakyReluOptions", {"alpha": alpha}), [a], [out], values)
    above = multiplier(float(a.scale) / float(out.scale))
    below = multiplier(float(a.scale) * float(f32(alpha)) / float(out.scale))
    slots = [("in", values[0]), ("out", got[0])]
    case("prelu", 0, slots, [np.ones(1, dtype=np.int8)], ["s0", "s1", "t0", *above, 0, 0, 0, *below])


def main():
    for dtype in (np.int8, np.int16):
        for activation in (0, 1, 3):
            mul(dtype, activation)
            mul(dtype, activation)
        for _ in range(3):
            squared_difference(dtype)
    for code, flags in ((55, 0), (57, 1)):
        maximum(np.int8, code, flags)
        maximum(np.int32, code, flags)
    for which, (code, name) in enumerate(((0, "AddOptions"), (41, "SubOptions"), (18, "MulOptions"), (42, "DivOptions"))):
        arithmetic(code, name, which)
    for shape, axes, keep in (
        ([1, 4, 5, 3], [1, 2], True),
        ([1, 4, 5, 3], [1, 2], False),
        ([1, 7, 6], [1], True),
        ([3, 11], [1], False),
        ([2, 3, 4, 2], [1], False),
        ([1, 2, 2, 8], [3], True),
    ):
        for dtype in (np.int8, np.int16):
            reduce_sum(dtype, 40, shape, axes, keep)
            reduce_sum(dtype, 40, shape, axes, keep, same=True)
        reduce_sum(np.int8, 74, shape, axes, keep)
        reduce_max(82, 4, shape, axes)
        reduce_max(89, 8, shape, axes)
    gather([9, 5], 0, 7, True)
    gather([9, 5], 0, 7, False)
    gather([2, 6, 3], 1, 4, False)
    for a, b in ((8, 8), (8, 16), (8, 32), (16, 8), (16, 16), (16, 32), (32, 8), (32, 16)):
        for _ in range(2):
            requantize(*(np.dtype(f"int{bits}").type for bits in (a, b)))
    for shape, axis in (([4, 9], 1), ([4, 9], 0), ([2, 5, 3], 1)):
        arg_max(56, "ArgMaxOptions", 0, shape, axis)
        arg_max(79, "ArgMinOptions", 1, shape, axis)
    for size, out in (([3, 4], [6, 8]), ([5, 3], [3, 7]), ([4, 4], [7, 1]), ([2, 3], [5, 5])):
        for align, half in ((False, False), (True, False), (False, True)):
            resize(23, "ResizeBilinearOptions", bilinear_places, size, out, 2, align, half)
            resize(97, "ResizeNearestNeighborOptions", nearest_places, size, out, 2, align, half)
    for batch, m, k, n, transposed, shared in (
        (1, 3, 7, 5, False, False),
        (2, 3, 9, 4, True, False),
        (3, 2, 5, 20, False, False),
        (2, 4, 6, 3, True, True),
        (2, 4, 6, 18, False, True),
    ):
        for dtype in (np.int8, np.int16):
            batch_matmul(dtype, batch, m, k, n, transposed, shared)
    for channels in (3, 5):
        prelu(channels)
    for code, flags in ((14, 0), (28, 4)):
        for real in (2.0**-12, 2.0**-11, 0.0003, 0.0007, 2.0**-15):
            sigmoid16(code, flags, real)
    softmax16(16, 0.001)
    softmax16(5, 0.0002)
    for alpha in (0.1, 0.3):
        leaky_relu16(alpha)
    (pathlib.Path(__file__).parent / "cases.txt").write_text("\n".join(LINES) + "\n")


if __name__ == "__main__":
    main()

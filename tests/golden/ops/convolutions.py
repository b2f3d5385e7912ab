"""As make.py, whose helpers it uses: convolutions, fully connected layers, pools and sums of int8 and int16 with every option
that TFLM has for them. Writes convolutions.txt.

    python tests/golden/ops/convolutions.py
"""

import math
import pathlib

import numpy as np

import make
from make import RNG, Tensor, case, f32, invoke, multiplier, scale, schema, word, zero

make.LINES[0] = make.LINES[0].replace("make.py", "convolutions.py")
make.TYPES[np.dtype(np.int64)] = (schema.TensorType.INT64, "i64")
SAME, VALID = 0, 1


def weights(shape, axis):
    """Constant int8 weights with a scale a channel."""
    w = Tensor(np.int8, shape, scale(), 0)
    w.data = RNG.integers(-127, 127, shape, endpoint=True).astype(np.int8)
    w.scales, w.axis = [scale(0.001, 0.02) for _ in range(shape[axis])], axis
    return w


def channels(dtype, biases, reals):
    """The table of channels as the runtime has it."""
    rows = []
    for bias, real in zip(biases, reals):
        low_high = [bias & 0xFFFFFFFF, (bias >> 32) & 0xFFFFFFFF] if dtype == np.int16 else [bias & 0xFFFFFFFF]
        rows.append(low_high + [v & 0xFFFFFFFF for v in multiplier(real)])
    return np.array(rows, dtype=np.uint32).view(np.int32)


def numbers(x, out, low, high):
    if x.dtype == np.int16:
        return (low & 0xFFFF) | (high & 0xFFFF) << 16
    return word([x.zero, out.zero, low, high])


def bounds(out, activation):
    info = np.iinfo(out.dtype)
    at = lambda real: min(max(out.zero + int(np.round(f32(real) / out.scale)), info.min), info.max)
    low = {0: info.min, 1: at(0.0), 2: at(-1.0), 3: at(0.0)}[activation]
    return low, {0: info.max, 1: info.max, 2: at(1.0), 3: at(6.0)}[activation]


def side(size, kernel, stride, dilation, padding):
    reach = (kernel - 1) * dilation + 1
    out = -(-size // stride) if padding == SAME else (size - reach) // stride + 1
    return out, max((out - 1) * stride + reach - size, 0) // 2


def pair(a, b):
    return a | b << 16


def biased(dtype, bias, count, reach):
    """A bias tensor of the kind asked for, and its values."""
    if bias is None:
        return None, [0] * count
    values = RNG.integers(-reach, reach, count).astype(bias)
    return Tensor(bias, [count], 1.0, 0, values), [int(v) for v in values]


def layer(name, code, options, dtype, x, w, out_shape, products, bias, activation, args, axis=0):
    """One operator with weights; the output's scale is such that sums fill its range."""
    count = w.shape[axis]
    top = 127 if dtype == np.int8 else 32767
    wide = float(x.scale) * float(np.mean(w.scales)) * math.sqrt(products) * 80 * (75 if dtype == np.int8 else 20000) / top
    out = Tensor(dtype, out_shape, wide, zero(dtype))
    b, biases = biased(dtype, bias, count, int(40 * top * math.sqrt(products)))
    values = [x.random()]
    got = invoke(code, options, [x, w] + ([b] if b else []), [out], values, 4 if dtype == np.int16 else 3)
    real = lambda s: float(x.scale) * float(s) / float(out.scale)
    table = channels(dtype, biases, [real(s) for s in w.scales])
    narrow = dtype == np.int16 and bias == np.int32
    shape = w.data if name != "fully_connected" else w.data.reshape(w.shape)
    tail = [numbers(x, out, *bounds(out, activation)), 0]
    case(name, 4 if narrow else 0, [("in", values[0]), ("out", got[0])], [shape, table], ["s0", "s1", "t0", "t1", *args, *tail])


def convolution(dtype, bias, depthwise, size, cin, count, kernel, stride, dilation, padding, activation, groups=1):
    x = Tensor(dtype, [1, *size, cin], scale(), zero(dtype))
    w = weights([1, *kernel, count] if depthwise else [count, *kernel, cin // groups], 3 if depthwise else 0)
    sides = [side(*size_kernel, padding) for size_kernel in zip(size, kernel, stride, dilation)]
    out = [o for o, _ in sides]
    fields = {
        "padding": padding, "strideH": stride[0], "strideW": stride[1],
        "dilationHFactor": dilation[0], "dilationWFactor": dilation[1], "fusedActivationFunction": activation,
    }
    if depthwise:
        fields["depthMultiplier"] = count // cin
    options = ("DepthwiseConv2DOptions" if depthwise else "Conv2DOptions", fields)
    args = [pair(*size), pair(*out), word([*stride, *dilation]), pair(sides[0][1], sides[1][1])]
    name, code = ("depthwise_conv2d", 4) if depthwise else ("conv2d", 3)
    products = math.prod(kernel) * (1 if depthwise else cin // groups)
    layer(name, code, options, dtype, x, w, [1, *out, count], products, bias, activation, args, 3 if depthwise else 0)


def transposed(dtype, bias, size, cin, count, kernel, stride, padding):
    x = Tensor(dtype, [1, *size, cin], scale(), zero(dtype))
    w = weights([count, *kernel, cin], 0)
    # The output from which a convolution with this padding would give the input.
    out = [n * s if padding == SAME else (n - 1) * s + k for n, s, k in zip(size, stride, kernel)]
    pads = [side(o, k, s, 1, padding)[1] for o, k, s in zip(out, kernel, stride)]
    where = Tensor(np.int32, [4], data=np.array([1, *out, count], dtype=np.int32))
    top = 127 if dtype == np.int8 else 32767
    products = cin * max(1, math.prod(kernel) // math.prod(stride))
    wide = float(x.scale) * float(np.mean(w.scales)) * math.sqrt(products) * 80 * (75 if dtype == np.int8 else 20000) / top
    y = Tensor(dtype, [1, *out, count], wide, zero(dtype))
    b, biases = biased(dtype, bias, count, int(40 * top * math.sqrt(products)))
    fields = {"padding": padding, "strideH": stride[0], "strideW": stride[1]}
    values = [x.random()]
    got = invoke(67, ("TransposeConvOptions", fields), [where, w, x] + ([b] if b else []), [y], values, 3)
    table = channels(dtype, biases, [float(x.scale) * float(s) / float(y.scale) for s in w.scales])
    args = [pair(*size), pair(*out), word([*stride, 1, 1]), pair(*pads), numbers(x, y, *bounds(y, 0)), 0]
    slots = [("in", values[0]), ("out", got[0])]
    case("transpose_conv2d", 0, slots, [w.data, table], ["s0", "s1", "t0", "t1", *args])


def fully_connected(dtype, bias, rows, features, count, activation):
    x = Tensor(dtype, [rows, features], scale(), zero(dtype))
    w = weights([count, features], 0)
    w.scales = w.scales[:1] * count
    options = ("FullyConnectedOptions", {"fusedActivationFunction": activation})
    layer("fully_connected", 9, options, dtype, x, w, [rows, count], features, bias, activation, [])


def pool(dtype, code, size, channels_, kernel, stride, padding, activation):
    x = Tensor(dtype, [1, *size, channels_], 0.03 if dtype == np.int8 else 0.0003, zero(dtype))
    sides = [side(n, k, s, 1, padding) for n, k, s in zip(size, kernel, stride)]
    out = Tensor(dtype, [1, sides[0][0], sides[1][0], channels_], x.scale, x.zero)
    fields = {
        "padding": padding, "strideH": stride[0], "strideW": stride[1],
        "filterHeight": kernel[0], "filterWidth": kernel[1], "fusedActivationFunction": activation,
    }
    values = [x.random()]
    got = invoke(code, ("Pool2DOptions", fields), [x], [out], values, 3)
    low, high = bounds(out, activation)
    last = (low & 0xFFFF) | (high & 0xFFFF) << 16 if dtype == np.int16 else word([0, 0, low, high])
    args = [pair(*size), pair(sides[0][0], sides[1][0]), word([*stride, 1, 1]), pair(sides[0][1], sides[1][1])]
    name = "average_pool2d" if code == 1 else "max_pool2d"
    case(name, 0, [("in", values[0]), ("out", got[0])], [], ["s0", "s1", *args, pair(*kernel), last])


def add(dtype, code, flags, activation):
    a, b, out, values = make.binary(dtype, [1, 3, 11])
    out.scale = f32(max(a.scale, b.scale) * RNG.uniform(0.5, 2.5))
    name = "AddOptions" if code == 0 else "SubOptions"
    fields = {"fusedActivationFunction": activation, "potScaleInt16": False}
    got = invoke(code, (name, fields), [a, b], [out], values, 2)
    up = 20 if dtype == np.int8 else 15
    twice = 2.0 * float(max(a.scale, b.scale))
    reals = float(a.scale) / twice, float(b.scale) / twice, twice / (float(1 << up) * float(out.scale))
    (ma, sa), (mb, sb), (mo, so) = map(multiplier, reals)
    low, high = bounds(out, activation)
    last = (low & 0xFFFF) | (high & 0xFFFF) << 16 if dtype == np.int16 else word([0, out.zero, low, high])
    slots = [("in", values[0]), ("in", values[1]), ("out", got[0])]
    case("add", flags, slots, [], ["s0", "s1", "s2", ma, mb, mo, word([sa, sb, so, 0]), word([a.zero, b.zero, 0, 0]), last])


def main():
    kinds = [(np.int8, np.int32), (np.int8, None), (np.int16, np.int64), (np.int16, np.int32), (np.int16, None)]
    for dtype, bias in kinds:
        both = dtype, bias
        convolution(*both, False, (5, 6), 3, 5, (3, 3), (1, 1), (1, 1), SAME, 0)
        convolution(*both, False, (7, 5), 2, 4, (3, 2), (2, 1), (1, 1), VALID, 1)
        convolution(*both, False, (6, 7), 4, 3, (2, 3), (1, 1), (2, 2), SAME, 3)
        convolution(*both, False, (3, 4), 6, 4, (3, 3), (1, 2), (1, 1), SAME, 0, groups=2)
        fully_connected(*both, 3, 17, 5, 0)
        fully_connected(*both, 1, 9, 4, 1)
        if (dtype, bias) != (np.int16, np.int32):  # TFLM takes int64 or none
            convolution(*both, True, (5, 6), 3, 3, (3, 3), (1, 1), (1, 1), SAME, 0)
            convolution(*both, True, (6, 5), 2, 6, (3, 2), (2, 2), (1, 1), VALID, 3)
            convolution(*both, True, (6, 5), 3, 3, (2, 2), (1, 1), (2, 2), SAME, 0)
            transposed(*both, (3, 4), 3, 2, (3, 3), (2, 2), SAME)
            transposed(*both, (2, 5), 4, 3, (2, 4), (1, 3), VALID)
            transposed(*both, (1, 6), 2, 5, (1, 4), (1, 2), SAME)
    for dtype in (np.int8, np.int16):
        for code in (1, 17):
            pool(dtype, code, (5, 6), 3, (2, 3), (1, 2), SAME, 0)
            pool(dtype, code, (6, 5), 2, (3, 3), (2, 2), VALID, 1)
        for code, flags in ((0, 0), (41, 4)):
            for activation in (0, 1, 3):
                add(dtype, code, flags, activation)
    (pathlib.Path(__file__).parent / "convolutions.txt").write_text("\n".join(make.LINES) + "\n")


if __name__ == "__main__":
    main()

"""The real models of ../shared/data beside the runtimes that they were made for, as one Markdown table.

    python models.py ../shared/data --binaries target/release [--json FILE] [--only TEXT]

Each model of `models()` is imported and quantized by `mote quantize`, run by `mote infer` on real inputs, and compared with its
own runtime on the same inputs, here and now. BINARIES holds `mote` and `evaluate-net` (`cargo xtask bench models` builds them).

A model of integers is taken as it is: *same* counts the inputs whose output has the same bytes. One of floats is quantized to 8
and to 4 bits after calibration on other inputs than those it is tested on; its row "float" is Mote's evaluator of the imported
graph. *Same answer*: inputs whose largest output is the same one. *Signal to noise*: over all outputs. *Off*: the largest
difference of an output, of integers in their steps.
"""

import argparse
import gzip
import json
import pathlib
import subprocess
import sys
import tempfile
import wave
from typing import Callable, NamedTuple

import numpy as np
from PIL import Image

GOLDEN = pathlib.Path(__file__).parent.parent / "golden"
sys.path[:0] = [str(GOLDEN / "tflite"), str(GOLDEN / "mfcc")]
import mfcc  # noqa: E402
import sentiment  # noqa: E402


class Model(NamedTuple):
    """A row's worth. `inputs` gives the arrays to run, those to calibrate with (of floats) and what they are."""

    name: str
    file: str
    reference: str
    inputs: Callable
    run: Callable  # (path, inputs) -> the reference's outputs, one a row
    weights: tuple = ("as is",)
    classes: bool = True
    says: Callable = None  # outputs -> words
    options: tuple = ()  # of `mote quantize`


HEARS = ("--activations", "16")
SILERO = HEARS + ("--shape", "input=1x576", "--constant", "sr=16000", "--state", "state=stateN")


# ---- inputs


def photo(data):
    return np.asarray(Image.open(data / "vision/cat.bmp").convert("RGB"))


def resized(pixels, side):
    """Bilinear without smoothing, output pixel i from input i * in / out: as `mote infer` and TensorFlow Lite's examples do."""
    for axis in (0, 1):
        size = pixels.shape[axis]
        at = np.minimum(np.arange(side) * size / side, size - 1)
        low = at.astype(int)
        shape = [1, 1, 1]
        shape[axis] = side
        share = (at - low).reshape(shape)
        take = lambda index: np.take(pixels, np.minimum(index, size - 1), axis).astype(float)
        pixels = take(low) * (1 - share) + take(low + 1) * share
    return pixels


def crops(data, side, count, seed):
    """The whole photograph, then `count` - 1 pieces of it, of bytes."""
    rng, whole = np.random.default_rng(seed), photo(data)
    pieces = [resized(whole, side)]
    for _ in range(count - 1):
        size = int(rng.integers(min(whole.shape[:2]) // 3, min(whole.shape[:2]) + 1))
        y, x = (int(rng.integers(0, edge - size + 1)) for edge in whole.shape[:2])
        pieces.append(resized(whole[y : y + size, x : x + size], side))
    return np.rint(np.stack(pieces)).astype(np.uint8)


def photos(side, count, of=None):
    """Bytes, or what `of` makes of them; for those of floats as many others to calibrate with."""

    def make(data, _):
        test = crops(data, side, count, 7)
        if of is None:
            return test, None, f"cat.bmp and {count - 1} pieces of it"
        return of(test), of(crops(data, side, 65, 8)[1:]), f"cat.bmp and {count - 1} pieces of it"

    return make


def signed(pixels):
    """[-1, 1]."""
    return ((pixels.astype(np.float32) - 127.5) / 127.5).astype(np.float32)


def sound(data, name):
    with wave.open(str(data / f"speech/{name}.wav")) as file:
        return np.frombuffer(file.readframes(file.getnframes()), "<i2")


def windows(samples, step):
    """[count, 480]: 30 ms, `step` samples apart."""
    return np.stack([samples[at : at + 480] for at in range(0, len(samples) - 479, step)])


SPOKEN = ["jfk", "noise_1000ms", "yes_1000ms", "no_1000ms"]
WORDS = ["yes_1000ms", "no_1000ms", "noise_1000ms", "silence_1000ms"]


def stream(data, _):
    samples = np.concatenate([sound(data, name) for name in SPOKEN])
    return windows(samples, 160), None, "14 s of sound, every 10 ms"


def features(data, samples, step):
    """Of TensorFlow Lite Micro's audio front end: [frames, 40] of int8."""
    return micro(data / "tflite-micro/audio_preprocessor_int8.tflite", windows(samples, step)).reshape(-1, 40)


def wake_frames(data, _):
    frames = features(data, np.concatenate([sound(data, name) for name in SPOKEN]), 160)
    frames = frames[: len(frames) // 3 * 3]
    return frames.reshape(-1, 3, 40), None, "14 s of sound, state kept"


def words(data, _):
    return np.stack([features(data, sound(data, name), 320).ravel() for name in WORDS]), None, "yes, no, noise, silence"


def idx(data, name, head):
    return np.frombuffer(gzip.open(data / f"mnist/{name}-ubyte.gz").read(), np.uint8, offset=head)


def heard(samples):
    """What Silero VAD is given: [count, 576], 512 new samples behind 64 that it has seen."""
    padded = np.concatenate([np.zeros(64), samples]).astype(np.float32) / np.float32(32768)
    return np.stack([padded[at : at + 576] for at in range(0, len(padded) - 575, 512)])


def silero(data, _):
    calibration = np.concatenate([sound(data, name) for name in SPOKEN[:3]])
    return heard(sound(data, "silero_test")), heard(calibration), "a minute of speech, state kept"


def frames(data, speech, loud, seconds):
    """DTLN's: [count, 512] of speech `loud` times as loud as the noise beside it, 8 ms apart."""
    samples, noise = sound(data, speech)[: seconds * 16000] / 32768, sound(data, "noise_1000ms") / 32768
    mixed = samples + np.resize(noise, len(samples)) / loud
    return np.stack([mixed[at : at + 512] for at in range(0, len(mixed) - 511, 128)])


def dtln(second):
    """Sizes of frequencies for the first network, or frames of what it lets through for the second."""

    def of(data, pieces):
        spectra = np.fft.rfft(pieces)
        sizes = np.abs(spectra).astype(np.float32)
        if not second:
            return sizes
        return np.fft.irfft(spectra * carried(data / "speech/dtln_model_1.onnx", sizes)).astype(np.float32)

    def make(data, _):
        test, other = frames(data, "jfk", 3, 5), frames(data, "silero_test", 4, 6)
        return of(data, test), of(data, other), "5 s of speech in noise, state kept"

    return make


def digits(shape, scale, count=1000):
    def make(data, _):
        border = (shape[-1] - 28) // 2

        def of(name, count):
            images = idx(data, name, 16).reshape(-1, 28, 28)[:count].astype(np.float32) * np.float32(scale)
            return np.pad(images, [(0, 0), (border, border), (border, border)]).reshape(-1, *shape)

        return of("t10k-images-idx3", count), of("train8k-images-idx3", 256), f"{count} digits of MNIST"

    return make


def vectors(data, _):
    """The model zoo's own three inputs."""
    from onnx import TensorProto, numpy_helper

    def tensor(name):
        return numpy_helper.to_array(TensorProto.FromString((data / f"onnx/{name}.pb").read_bytes()))

    return np.stack([tensor(f"mnist_8_set{i}_input_0")[0] for i in range(3)])


def zoo(data, _):
    _, calibration, _ = digits((1, 28, 28), 1)(data, None)
    return vectors(data, None), calibration, "its three test vectors"


def steps(data, _):
    """What a front end takes, 20 ms a run."""
    samples = np.concatenate([mfcc.sound(data, name) for name in mfcc.SOUNDS])
    return samples[: len(samples) // 320 * 320].reshape(-1, 320), None, "yes, no, noise, silence: 4 s"


def mfcc_floats(_, x):
    """Of the last 480 samples at each run."""
    return mfcc.features(np.concatenate([np.zeros(160, np.int16), x.ravel()]))[0]


def spoken_mfccs(data, path):
    """Of four sounds and of eleven seconds of speech, after calibration on a minute of other speech, in floats."""
    seconds = lambda samples: samples[: len(samples) // 16000 * 16000].reshape(-1, 16000)
    of = lambda sounds: np.stack([mfcc.features(sound)[0] for sound in sounds]).astype(np.float32)
    test = [mfcc.sound(data, name) for name in mfcc.SOUNDS] + list(seconds(mfcc.sound(data, "jfk")))
    what = "MFCCs of yes, no, noise, silence, 11 s of speech"
    return grid(path, of(test)), of(seconds(mfcc.sound(data, "silero_test"))), what


def machine(data, path):
    """Windows of 5 frames of a machine's sound, the first half to calibrate with; in integers for a model of integers."""
    frames = np.fromfile(data / "mlperf-tiny/ad_normal_id_01_00000000.bin", "<f4").reshape(200, 128)
    x = np.stack([frames[at : at + 5].ravel() for at in range(196)])
    return grid(path, x[98:]), x[:98], "98 windows of a machine's sound"


def latents(data, _):
    rng = np.random.default_rng(1)
    return rng.standard_normal((200, 64), np.float32), rng.standard_normal((256, 64), np.float32), "200 latents"


def reviews(data, path):
    x = sentiment.ids(path, [text for text, _ in sentiment.reviews()])
    return x[8:], x[:8], "16 reviews of our own"


# ---- references


def lite_net(path, exact=False):
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    kind = {"experimental_op_resolver_type": OpResolverType.BUILTIN_REF} if exact else {}
    net = Interpreter(model_path=str(path), **kind)
    net.allocate_tensors()
    return net


def lite(path, x, exact=False):
    """LiteRT; `exact`: its reference kernels."""
    net = lite_net(path, exact)
    (given,), (made,) = net.get_input_details(), net.get_output_details()
    out = []
    for one in x:
        net.set_tensor(given["index"], one.reshape(given["shape"]).astype(given["dtype"]))
        net.invoke()
        out.append(net.get_tensor(made["index"]).ravel())
    return np.stack(out)


def micro(path, x):
    """TensorFlow Lite Micro, whose state is kept from one input to the next."""
    from tflite_micro.python.tflite_micro import runtime

    net = runtime.Interpreter.from_file(str(path), arena_size=1 << 22)
    given, out = net.get_input_details(0), []
    for one in x:
        net.set_input(one.reshape(given["shape"]).astype(given["dtype"]), 0)
        net.invoke()
        out.append(net.get_output(0).ravel())
    return np.stack(out)


def micro_between(path, x):
    """The same of a model that changes floats to integers first and back last; integers go in and come out here."""
    ops = lite_net(path, True)._get_ops_details()
    tensors = {t["index"]: t["quantization"] for t in lite_net(path, True).get_tensor_details()}
    (scale, zero), (scale_out, zero_out) = (
        tensors[[o for o in ops if o["op_name"] == "QUANTIZE"][0]["outputs"][0]],
        tensors[[o for o in ops if o["op_name"] == "DEQUANTIZE"][-1]["inputs"][0]],
    )
    out = micro(path, ((x.astype(np.float32) - zero) * np.float32(scale)).astype(np.float32))
    return np.rint(out / np.float32(scale_out) + zero_out).astype(np.int8)


def onnx(path, x):
    import onnxruntime

    session = onnxruntime.InferenceSession(path)
    (given,) = session.get_inputs()
    return np.stack([session.run(None, {given.name: one.reshape(given.shape)})[0].ravel() for one in x])


def carried(path, x):
    """Of a network that gives its next state as output 1."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path)
    given, held, *rest = session.get_inputs()
    feed = {one.name: np.array(16000) for one in rest}
    state, out = np.zeros([d if isinstance(d, int) else 1 for d in held.shape], np.float32), []
    for one in x:
        # Silero's input has no shape of its own; DTLN's has three dimensions.
        one = one.reshape(given.shape if all(isinstance(d, int) for d in given.shape) else (1, -1))
        result, state = session.run(None, {given.name: one, held.name: state, **feed})[:2]
        out.append(result.ravel())
    return np.stack(out)


def torch_lenet5(data):
    """Its author's layers (shared MANIFEST.md), without the last log-softmax."""

    def run(_, x):
        import torch
        from safetensors.torch import load_file
        from torch.nn import functional as f

        w = load_file(data / "mnist/lenet5.safetensors")
        both = lambda layer: (w[f"{layer}.weight"], w[f"{layer}.bias"])
        y = torch.from_numpy(x)
        for layer in ("c1", "c3"):
            y = f.max_pool2d(f.relu(f.conv2d(y, *both(f"convnet.{layer}"))), 2)
        y = f.relu(f.conv2d(y, *both("convnet.c5"))).flatten(1)
        return f.linear(f.relu(f.linear(y, *both("fc.f6"))), *both("fc.f7")).numpy()

    return run


def torch_generator(data):
    def run(_, x):
        import torch
        from safetensors.torch import load_file

        w, y = load_file(data / "gan/mnist_generator_mlp.safetensors"), torch.from_numpy(x)
        for layer in "024":
            y = torch.nn.functional.linear(y, w[f"{layer}.weight"], w[f"{layer}.bias"])
            y = torch.tanh(y) if layer == "4" else torch.relu(y)
        return y.numpy()

    return run


def grid(path, x):
    """Floats in the integers of a model's input, if it takes integers."""
    (given,) = lite_net(path).get_input_details()
    if given["dtype"] == np.float32:
        return x
    scale, zero = given["quantization"]
    info = np.iinfo(given["dtype"])
    return np.clip(np.rint(x / scale) + zero, info.min, info.max).astype(given["dtype"])


def vww(data, path):
    """Photographs in the integers behind the first QUANTIZE: [-1, 1] in 255 steps."""
    return (crops(data, 80, 30, 7).astype(int) - 128).astype(np.int8), None, "cat.bmp and 29 pieces of it"


# ---- words


def named(data):
    labels = (data / "vision/imagenet_labels.txt").read_text().splitlines()
    return lambda y: "cat.bmp: " + labels[int(y[0].argmax())].split(None, 1)[1].split(",")[0]


def cifar(y):
    kinds = ["aeroplane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    return f"cat.bmp: {kinds[int(y[0].argmax())]}"


def person(y):
    return "cat.bmp: " + ("a person" if y[0, 1] > y[0, 0] else "no person")


def spoken(y):
    kinds = ["silence", "unknown", "yes", "no"]
    return ", ".join(kinds[int(row.argmax())] for row in y)


def keywords(y):
    return ", ".join(mfcc.LABELS[int(row.argmax())] for row in y[: len(mfcc.SOUNDS)])


def detected(cutoff):
    """The mean of 5 probabilities against the cutoff, as the model's JSON has it, in the speech that the stream begins with."""

    def says(y):
        mean = np.convolve(y.ravel() / 256, np.ones(5) / 5)[: 11 * 100 // 3]
        return f"detected in {(mean > cutoff).mean():.0%} of jfk.wav"

    return says


def speech(y):
    return f"speech in {(y >= 0.5).mean():.1%}"


def right(data, count=1000):
    labels = idx(data, "t10k-labels-idx1", 8)[:count]
    return lambda y: f"{(y.argmax(1) == labels).mean():.2%} right"


def three(y):
    return "digits " + " ".join(str(int(row.argmax())) for row in y)


# ---- the table


def models(data, made):
    both = ("float", 8, 4)
    tflm, reference = "TFLM", "LiteRT, reference kernels"
    exact = lambda path, x: lite(path, x, exact=True)
    return [
        Model("MobileNet V1 0.25 128, uint8", "vision/mobilenet_v1_0.25_128_quant.tflite", reference, photos(128, 30), exact,
              says=named(data)),
        Model("MobileNet V1 0.25 224, uint8", "vision/mobilenet_v1_0.25_224_quant.tflite", reference, photos(224, 30), exact,
              says=named(data)),
        Model("MobileNet V2 1.0 224, uint8", "vision/mobilenet_v2_1.0_224_quant.tflite", reference, photos(224, 5), exact,
              says=named(data)),
        Model("MobileNet V1 0.25 224", "vision/mobilenet_v1_0.25_224_float.tflite", "LiteRT", photos(224, 60, signed), lite,
              both, says=named(data)),
        Model("MCUNet, visual wake words, int8", "vision/mcunet_vww_int8.tflite", tflm, vww, micro_between, says=person),
        Model("ResNet-8, int8", "mlperf-tiny/ic_resnet8_int8.tflite", tflm,
              lambda d, p: (grid(p, crops(d, 32, 60, 7)), None, "cat.bmp and 59 pieces of it"), micro, says=cifar),
        Model("ResNet-8", "mlperf-tiny/ic_resnet8_float.tflite", "LiteRT", photos(32, 60, np.float32), lite, both, says=cifar),
        Model("audio front end, int8", "tflite-micro/audio_preprocessor_int8.tflite", tflm, stream, micro, classes=False),
        Model("wake word okay_nabu, int8", "speech/mww_okay_nabu.tflite", tflm, wake_frames, micro, classes=False,
              says=detected(0.97)),
        Model("voice activity mww_vad, int8", "speech/mww_vad.tflite", tflm, wake_frames, micro, classes=False,
              says=detected(0.5)),
        Model("micro_speech, int8", "tflite-micro/micro_speech_quantized.tflite", tflm, words, micro, says=spoken),
        Model("MFCC front end (`mote frontend`)", "", "NumPy, float64", steps, mfcc_floats, ("mfcc",), classes=False),
        Model("DS-CNN keywords, int8", "mlperf-tiny/kws_int8.tflite", tflm, spoken_mfccs, micro, says=keywords),
        Model("DS-CNN keywords", "mlperf-tiny/kws_float.tflite", "LiteRT", spoken_mfccs, lite, both, says=keywords),
        Model("autoencoder, int8", "mlperf-tiny/ad_int8.tflite", tflm, machine, micro, classes=False),
        Model("autoencoder", "mlperf-tiny/ad_float.tflite", "LiteRT", machine, lite, both, classes=False),
        Model("mnist_8", "onnx/mnist_8.onnx", "ONNX Runtime", zoo, onnx, both, says=three),
        Model("mnist_8", "onnx/mnist_8.onnx", "ONNX Runtime", digits((1, 28, 28), 1), onnx, both, says=right(data)),
        Model("LeNet-5 (safetensors)", made / "lenet5.onnx", "PyTorch", digits((1, 32, 32), 1 / 255), torch_lenet5(data), both,
              says=right(data)),
        Model("GAN generator (safetensors)", made / "mnist_generator_mlp.onnx", "PyTorch", latents, torch_generator(data), both,
              classes=False),
        Model("sentiment, embedding", sentiment.MODEL, "LiteRT", reviews, lite, both),
        Model("Silero VAD, int16 activations", "speech/silero_vad_16k_op15.onnx", "ONNX Runtime", silero, carried, (8, 4),
              classes=False, says=speech, options=SILERO),
        Model("DTLN, network 1, int16 activations", "speech/dtln_model_1.onnx", "ONNX Runtime", dtln(False), carried, (8, 4),
              classes=False, options=HEARS + ("--state", "input_3=tf_op_layer_stack_2")),
        Model("DTLN, network 2, int16 activations", "speech/dtln_model_2.onnx", "ONNX Runtime", dtln(True), carried, (8, 4),
              classes=False, options=HEARS + ("--state", "input_5=tf_op_layer_stack_5")),
    ]


def tool(*command):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(str(part) for part in command)}:\n{done.stderr}")
    return done.stdout


def mote(binaries, path, weights, x, calibration, folder, options=()):
    """The outputs of the model, one a row; in real numbers if it was one of floats; and the bytes of its image."""
    given, made, image = folder / "x.npy", folder / "y.npy", folder / "net.mote"
    np.save(given, x)
    if weights == "float":
        tool(binaries / "evaluate-net", path, given, folder / "y.f32")
        return np.fromfile(folder / "y.f32", "<f4").reshape(len(x), -1), None
    quantize = [binaries / "mote", "quantize", path, "-o", image]
    if weights == "mfcc":
        quantize = [binaries / "mote", "frontend", "mfcc", "-o", image]
    elif weights != "as is":
        np.save(folder / "c.npy", calibration)
        quantize += ["--bits", weights, "--calibrate", folder / "c.npy", *options]
    tool(*quantize)
    tool(binaries / "mote", "infer", image, "--input", given, "-o", made)
    y = np.load(made).reshape(len(x), -1)
    if weights != "as is":
        ports = json.loads(tool(binaries / "mote", "inspect", image, "--json"))["ports"]
        (port,) = [port for port in ports if port["port"] == "output"]
        y = (y.astype(float) - port["zero_point"]) * port["scale"]
    return y, image.stat().st_size


def compare(model, weights, y, expected, size, what):
    """A row of the table: its columns and their words."""
    difference = y.astype(float) - expected.astype(float)
    noise, count = (difference**2).sum(), len(y)
    same = None if weights != "as is" else f"{(difference == 0).all(1).sum()} of {count}"
    answer = (y.argmax(1) == expected.argmax(1)).sum() if model.classes else None
    off = np.abs(difference).max()
    return {
        "model": model.name,
        "inputs": what,
        "reference": model.reference,
        "weights": str(weights),
        "image bytes": size,
        "same": same,
        "same answer": None if answer is None else f"{answer} of {count}",
        "signal to noise": None if same or not noise else f"{10 * np.log10((expected.astype(float) ** 2).sum() / noise):.1f} dB",
        "off": f"{off:.0f}" if same else f"{off:.2g}",
        "says": model.says(y) if model.says else None,
        "the reference says": model.says(expected) if model.says else None,
    }


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("data", type=pathlib.Path)
    arguments.add_argument("--binaries", type=pathlib.Path, required=True)
    arguments.add_argument("--json", type=pathlib.Path)
    arguments.add_argument("--only", default="", help="models whose names hold this")
    given = arguments.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        tool(sys.executable, GOLDEN / "nets/to_onnx.py", given.data, folder)
        for model in models(given.data, folder):
            if given.only not in model.name:
                continue
            path = given.data / model.file
            x, calibration, what = model.inputs(given.data, path)
            expected = model.run(path, x)
            for weights in model.weights:
                y, size = mote(given.binaries, path, weights, x, calibration, folder, model.options)
                rows.append(compare(model, weights, y, expected, size, what))
                if len(rows) == 1:
                    print("| " + " | ".join(rows[0]) + " |")
                    print("|" + " --- |" * len(rows[0]))
                print("| " + " | ".join("" if v is None else str(v) for v in rows[-1].values()) + " |", flush=True)
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1) + "\n")


main()

"""MFCCs of MLPerf Tiny's keyword spotting in floats, and what LiteRT makes of them; for tests/conformance/frontend.rs.

    pip install ai-edge-litert numpy
    python tests/golden/mfcc/mfcc.py ../shared/data

The features are those of TensorFlow's tf.signal as MLPerf Tiny's training uses it, written down again in NumPy and float64: the
sound over its largest sample; frames of 480 samples, 320 apart; a periodic Hann window; |FFT| over 512; linear_to_mel_weight_matrix
of 40 filters from 20 to 4000 Hz; ln(mel + 1e-6); mfccs_from_log_mel_spectrograms, ten of 40.

WORD.f32: little-endian, 49 frames of 10 MFCCs, then of 40 logarithms. scores.txt: a line a sound, the 12 probabilities of
kws_float.
"""

import pathlib
import sys
import wave

import numpy as np

HERE = pathlib.Path(__file__).parent
SOUNDS = ["yes_1000ms", "no_1000ms", "noise_1000ms", "silence_1000ms"]
# The classes of MLPerf Tiny's model.
LABELS = ["down", "go", "left", "no", "off", "on", "right", "stop", "up", "yes", "silence", "unknown"]


def sound(data, name):
    """Samples over the largest one, as bytes of int16 can hold them too."""
    with wave.open(str(data / f"speech/{name}.wav")) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float64)
    return np.rint(samples / max(np.abs(samples).max(), 1) * 32767).astype(np.int16)


def mel_matrix(bins, frequencies, rate, low, high):
    mel = lambda f: 1127.0 * np.log(1.0 + f / 700.0)
    edges = np.linspace(mel(low), mel(high), bins + 2)
    place = mel(np.linspace(0.0, rate / 2, frequencies)[1:])[:, None]
    rising = (place - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - place) / (edges[2:] - edges[1:-1])
    return np.pad(np.maximum(0.0, np.minimum(rising, falling)), [(1, 0), (0, 0)])


def features(samples):
    """MFCCs [49, 10] and logarithms [49, 40] of one second of int16."""
    frames = np.stack([samples[at : at + 480] for at in range(0, len(samples) - 479, 320)]) / 32768.0
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(480) / 480)
    sizes = np.abs(np.fft.rfft(frames * hann, 512))
    logs = np.log(sizes @ mel_matrix(40, 257, 16000, 20.0, 4000.0) + 1e-6)
    turns = np.pi * np.outer(np.arange(40) + 0.5, np.arange(10)) / 40
    return logs @ np.cos(turns) * 2 / np.sqrt(80), logs


def main():
    from ai_edge_litert.interpreter import Interpreter

    data, lines = pathlib.Path(sys.argv[1]), []
    net = Interpreter(model_path=str(data / "mlperf-tiny/kws_float.tflite"))
    net.allocate_tensors()
    for name in SOUNDS:
        mfccs, logs = features(sound(data, name))
        np.concatenate([mfccs.ravel(), logs.ravel()]).astype("<f4").tofile(HERE / f"{name.split('_')[0]}.f32")
        net.set_tensor(net.get_input_details()[0]["index"], mfccs.reshape(1, 49, 10, 1).astype(np.float32))
        net.invoke()
        scores = net.get_tensor(net.get_output_details()[0]["index"])[0]
        lines.append(f"{name.split('_')[0]} " + " ".join(f"{p:.6f}" for p in scores))
        print(LABELS[scores.argmax()], lines[-1])
    (HERE / "scores.txt").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()

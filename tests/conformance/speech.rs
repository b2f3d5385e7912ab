//! Networks that hear: Silero VAD and DTLN, whose states are packed into one input and output, as images with states of their
//! own and activations of int16, against ONNX Runtime and against the float evaluator.

use mote_quantize::codes::Coding;
use mote_quantize::graph::quantize::{Settings, quantize};
use mote_quantize::graph::{Data, Graph, Op, Tensor, eval};
use mote_quantize::import::onnx::{self, Options};
use mote_quantize::net;
use mote_quantize::samples::{self, Input, Scaling};
use mote_tests::images::run_all;
use mote_tests::{golden_floats, shared, silero};
use std::f32::consts::TAU;
use std::path::PathBuf;

fn floats(tensor: &Tensor) -> &[f32] {
    let Data::F32(v) = &tensor.data else { panic!("{tensor:?}") };
    v
}

/// Sounds of the shared data, cut for an input, one after another.
fn sounds(names: &[&str], input: &Input) -> Option<Vec<Vec<Tensor>>> {
    let paths: Option<Vec<PathBuf>> = names.iter().map(|name| shared(&format!("speech/{name}.wav"))).collect();
    let cut = |path: &PathBuf| samples::file(path, input, &Scaling::one(0.0, 1.0)).unwrap();
    Some(paths?.iter().flat_map(cut).map(|piece| vec![piece]).collect())
}

fn quantized(graph: &Graph, samples: &[Vec<Tensor>], bits: u8) -> Graph {
    let settings = Settings { int16: true, ..Settings::bits(bits, Coding::N4Learned) };
    quantize(graph, samples, &settings, &mut |_| ()).unwrap()
}

/// Passages of speech, in windows: as `get_speech_timestamps` of silero-vad's utils_vad.py finds them with its defaults, without
/// the padding at the end.
fn passages(probabilities: &[f32]) -> Vec<[usize; 2]> {
    // 250 ms of speech and 100 ms of silence at least, of 32 ms a window.
    let (speech, silence) = (250.0 / 32.0, 100.0 / 32.0);
    let (mut found, mut start, mut end) = (vec![], None, None);
    for (at, p) in probabilities.iter().enumerate() {
        match start {
            None if *p >= 0.5 => start = Some(at),
            Some(_) if *p >= 0.5 => end = None,
            Some(first) if *p < 0.35 => {
                let last = *end.get_or_insert(at);
                if (at - last) as f32 >= silence {
                    found.push([first, last]);
                    (start, end) = (None, None);
                }
            }
            _ => (),
        }
    }
    found.extend(start.map(|first| [first, probabilities.len()]));
    found.retain(|[first, last]| (last - first) as f32 > speech);
    found
}

#[test]
fn silero_hears_what_onnx_runtime_hears() {
    let Some((model, options)) = silero() else { return };
    let (graph, _) = net::prepared(&model, &options).unwrap();
    assert_eq!(graph.states.len(), 2, "the hidden and the cell state of the LSTM");
    let input = net::inputs(&graph, Some(512)).remove(0);
    let Some(calibration) = sounds(&["jfk", "yes_1000ms", "noise_1000ms"], &input) else { return };
    let Some(minute) = sounds(&["silero_test"], &input) else { return };
    let expected = golden_floats("onnx/silero_vad_16k_op15.f32");
    assert_eq!((minute.len(), passages(&expected).len()), (expected.len(), 19));
    for (bits, most, least) in [(8, 0.012, 0.998), (4, 0.06, 0.985)] {
        let outputs = run_all(&quantized(&graph, &calibration, bits), &minute);
        let found: Vec<f32> = outputs.iter().map(|o| o[0].real()[0]).collect();
        let pairs = || found.iter().zip(&expected);
        let rms = (pairs().map(|(a, b)| (a - b).powi(2)).sum::<f32>() / found.len() as f32).sqrt();
        let same = pairs().filter(|(a, b)| (**a >= 0.5) == (**b >= 0.5)).count() as f32 / found.len() as f32;
        let (heard, wanted) = (passages(&found), passages(&expected));
        println!(
            "{bits} bits: off by {rms} rms, the same decision in {same}, {} passages for {}",
            heard.len(),
            wanted.len()
        );
        assert!(rms < most && same > least, "{bits} bits: {rms}, {same}");
        if bits == 8 {
            let near = |a: &[usize; 2], b: &[usize; 2]| a.iter().zip(b).all(|(a, b)| a.abs_diff(*b) <= 1);
            assert!(heard.len() == wanted.len() && heard.iter().zip(&wanted).all(|(a, b)| near(a, b)), "{heard:?}");
        }
    }
}

/// Samples of a frame, and from one to the next.
const FRAME: usize = 512;
const HOP: usize = 128;
/// Frequencies of a frame.
const BINS: usize = FRAME / 2 + 1;

/// e^(-2 pi i n / 512).
fn turns() -> Vec<[f32; 2]> {
    (0..FRAME).map(|n| (TAU * n as f32 / FRAME as f32).sin_cos()).map(|(sin, cos)| [cos, -sin]).collect()
}

/// Real and imaginary part of each frequency.
fn dft(frame: &[f32], turns: &[[f32; 2]]) -> Vec<[f32; 2]> {
    let bin = |k: usize| {
        let at = |n: usize| turns[k * n % FRAME];
        (0..FRAME).fold([0.0; 2], |[re, im], n| [re + frame[n] * at(n)[0], im + frame[n] * at(n)[1]])
    };
    (0..BINS).map(bin).collect()
}

/// The frame of a spectrum.
fn inverse(spectrum: &[[f32; 2]], turns: &[[f32; 2]]) -> Vec<f32> {
    let sample = |n: usize| {
        let term = |k: usize| {
            let (twice, [re, im], [cos, minus_sin]) =
                (if k.is_multiple_of(BINS - 1) { 1.0 } else { 2.0 }, spectrum[k], turns[k * n % FRAME]);
            twice * (re * cos + im * minus_sin)
        };
        (0..BINS).map(term).sum::<f32>() / FRAME as f32
    };
    (0..FRAME).map(sample).collect()
}

/// What a net makes of its inputs, in order, its states going on.
type Net<'n> = &'n dyn Fn(&[Vec<Tensor>]) -> Vec<Vec<f32>>;

/// DTLN's two networks around a Fourier transform (Westhausen and Meyer, Interspeech 2020, as its real_time_processing_onnx.py
/// has it): the first masks frequencies, the second a learned basis. Returns the sound, and what each was given.
fn denoise(sound: &[f32], first: Net<'_>, second: Net<'_>) -> (Vec<f32>, [Vec<Vec<Tensor>>; 2]) {
    let turns = turns();
    let spectra: Vec<_> = sound.windows(FRAME).step_by(HOP).map(|frame| dft(frame, &turns)).collect();
    let sizes =
        |s: &Vec<[f32; 2]>| vec![Tensor::floats(&[1, 1, BINS], s.iter().map(|[re, im]| re.hypot(*im)).collect())];
    let given: Vec<_> = spectra.iter().map(sizes).collect();
    let masks = first(&given);
    let masked = |(spectrum, mask): (&Vec<[f32; 2]>, &Vec<f32>)| {
        let spectrum: Vec<_> = spectrum.iter().zip(mask).map(|([re, im], m)| [re * m, im * m]).collect();
        vec![Tensor::floats(&[1, 1, FRAME], inverse(&spectrum, &turns))]
    };
    let frames: Vec<_> = spectra.iter().zip(&masks).map(masked).collect();
    let mut out = vec![0.0; sound.len()];
    for (at, frame) in second(&frames).iter().enumerate() {
        out[at * HOP..][..FRAME].iter_mut().zip(frame).for_each(|(o, x)| *o += x);
    }
    (out, [given, frames])
}

/// Speech with noise beside it, so many times as loud as the noise.
fn noisy(speech: &str, loud: f32, samples: usize) -> Option<Vec<f32>> {
    let whole = |n| Input { name: "x".into(), shape: vec![n], integers: false, hop: None };
    let of = |name: &str, n| Some(floats(&sounds(&[name], &whole(n))?[0][0]).to_vec());
    let (speech, noise) = (of(speech, samples)?, of("noise_1000ms", 16_000)?);
    Some(speech.iter().enumerate().map(|(i, s)| s + noise[i % noise.len()] / loud).collect())
}

/// Signal to noise in dB.
fn decibels(signal: &[f32], found: &[f32]) -> f32 {
    let power: f32 = signal.iter().map(|s| s * s).sum();
    let lost: f32 = signal.iter().zip(found).map(|(s, f)| (s - f).powi(2)).sum();
    10.0 * (power / lost).log10()
}

#[test]
fn dtln_denoises_as_its_floats_do() {
    let mut graphs = vec![];
    for (name, lstms) in [("dtln_model_1", 2), ("dtln_model_2", 2)] {
        let Some(model) = shared(&format!("speech/{name}.onnx")) else { return };
        let [_, state] = <[String; 2]>::try_from(onnx::inputs(&model).unwrap()).unwrap();
        let next = if name == "dtln_model_1" { "tf_op_layer_stack_2" } else { "tf_op_layer_stack_5" };
        let options = Options { states: [(state, next.to_owned())].into(), ..Options::default() };
        let (graph, _) = net::prepared(&model, &options).unwrap();
        let found = graph.nodes.iter().filter(|n| matches!(n.op, Op::Lstm { .. })).count();
        assert_eq!((graph.states.len(), found), (4, lstms), "{name}: two LSTMs, a hidden and a cell state each");
        graphs.push(graph);
    }
    let (Some(other), Some(sound)) = (noisy("silero_test", 4.0, 6 * 16_000), noisy("jfk", 3.0, 5 * 16_000)) else {
        return;
    };
    let float = |graph: &Graph, inputs: &[Vec<Tensor>]| -> Vec<Vec<f32>> {
        let mut evaluator = eval::Evaluator::new(graph).unwrap();
        inputs.iter().map(|x| floats(&evaluator.run(x).unwrap()[0]).to_vec()).collect()
    };
    let [one, two] = [0, 1].map(|i| move |graphs: &[Graph], x: &[Vec<Tensor>]| float(&graphs[i], x));
    let (_, samples) = denoise(&other, &|x| one(&graphs, x), &|x| two(&graphs, x));
    let (expected, _) = denoise(&sound, &|x| one(&graphs, x), &|x| two(&graphs, x));
    for (bits, least) in [(8, 20.0), (4, 10.0)] {
        let images = [0, 1].map(|i| quantized(&graphs[i], &samples[i], bits));
        let run = |graph: &Graph, x: &[Vec<Tensor>]| run_all(graph, x).iter().map(|o| o[0].real()).collect();
        let (found, _) = denoise(&sound, &|x| run(&images[0], x), &|x| run(&images[1], x));
        let apart = decibels(&expected, &found);
        println!("DTLN at {bits} bits: {apart:.1} dB from the floats' sound");
        assert!(apart > least, "{bits} bits: {apart} dB");
    }
}

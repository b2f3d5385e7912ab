//! TensorFlow Lite Micro's own models and MLPerf-Tiny's: the same bytes as its reference kernels, and no panic on what
//! is no model. `tests/golden/tflite/make.py` made the digests.

use mote_host::{Arena, Model};
use mote_quantize::graph::{DType, Node, Op, passes};
use mote_quantize::import::onnx::Options;
use mote_quantize::import::tflite::Tflite;
use mote_quantize::lower;
use mote_quantize::net;
use mote_quantize::quantize::{QuantizeError, hex};
use mote_runtime::Session;
use mote_runtime::fixed::tflite::Rounding;
use mote_runtime::image::{Dtype, Limits};
use mote_tests::{Lcg, golden, shared};
use sha2::Digest;
use std::path::Path;

const LIMITS: Limits = Limits { batch: 1, context: 1, threads: 1 };

fn image(model: &Path, folder: &Path) -> Result<Model, QuantizeError> {
    let out = folder.join("x.mote");
    let (mut graph, hash) = net::graph(model, &Options::default())?;
    // LiteRT, which stands in for TFLM where that has no kernels (uint8), computes softmax in floats: up to that.
    let is_softmax = |node: &&Node| matches!(node.op, Op::Softmax { .. });
    let unsigned = graph.inputs.iter().any(|i| graph.values[*i].dtype == DType::U8);
    if let Some(softmax) = graph.nodes.last().filter(is_softmax).filter(|_| unsigned) {
        graph.outputs = softmax.inputs.iter().flatten().copied().collect();
        graph.prune();
    }
    passes::run(&mut graph);
    let missing = |missing| QuantizeError::Unsupported { path: model.to_owned(), missing };
    let lowered = lower::net(&graph, Rounding::Double).map_err(missing)?;
    net::save(&lowered, &net::Described { name: "x", license: None, hash, bits: 8, samples: 0 }, None, &out)?;
    Ok(Model::open(&out).unwrap())
}

/// Fills input `index` from the generator.
fn fill(session: &mut Session<'_>, index: u32, dtype: Dtype, lcg: &mut Lcg) {
    match dtype {
        Dtype::I8 => session.input::<i8>(index).unwrap().fill_with(|| lcg.byte() as i8),
        Dtype::U8 => session.input::<u8>(index).unwrap().fill_with(|| lcg.byte()),
        Dtype::I16 => {
            session.input::<i16>(index).unwrap().fill_with(|| i16::from_le_bytes([lcg.byte(), lcg.byte()]));
        }
        other => panic!("an input of {other:?}"),
    }
}

/// The bytes of output 0.
fn output(session: &mut Session<'_>, dtype: Dtype) -> Vec<u8> {
    match dtype {
        Dtype::I8 => session.output::<i8>(0).unwrap().iter().map(|v| *v as u8).collect(),
        Dtype::U8 => session.output::<u8>(0).unwrap().to_vec(),
        Dtype::I16 => session.output::<i16>(0).unwrap().iter().flat_map(|v| v.to_le_bytes()).collect(),
        other => panic!("an output of {other:?}"),
    }
}

/// SHA-256 of output 0 for each run's input.
fn digests(model: &Model, runs: usize) -> Vec<String> {
    let mut arena = Arena::for_limits(model, LIMITS).unwrap();
    arena.bytes().fill(0xA5);
    let inputs: Vec<Dtype> = model.image().ports().inputs().map(|p| p.dtype).collect();
    let out = model.image().ports().outputs().next().unwrap().dtype;
    let mut session = Session::new(model.image(), arena.bytes(), LIMITS).unwrap();
    (1..=runs)
        .map(|seed| {
            let mut lcg = Lcg(seed as u64);
            for (index, dtype) in (0..).zip(&inputs) {
                fill(&mut session, index, *dtype, &mut lcg);
            }
            session.run().unwrap();
            hex(&sha2::Sha256::digest(output(&mut session, out)))
        })
        .collect()
}

/// Models, with the bytes of their arenas and what TFLM's allocator states for them on x86-64 (`make.py` prints it; it has
/// no kernels for uint8).
const MODELS: [(&str, u64, u64); 17] = [
    ("mlperf-tiny/kws_int8.tflite", 8_576, 24_272),
    ("mlperf-tiny/ic_resnet8_int8.tflite", 33_360, 55_984),
    ("mlperf-tiny/ad_int8.tflite", 768, 3_984),
    ("tflite-micro/hello_world_int8.tflite", 32, 1_504),
    ("tflite-micro/micro_speech_quantized.tflite", 4_192, 7_584),
    ("tflite-micro/audio_preprocessor_int8.tflite", 2_256, 10_224),
    ("speech/mww_okay_nabu.tflite", 8_160, 23_424),
    ("speech/mww_vad.tflite", 2_912, 12_208),
    ("vision/mcunet_vww_int8.tflite", 75_392, 224_976),
    ("tflite-micro/seanet_conv5.tflite", 8_320, 11_872),
    ("tflite-micro/seanet_conv10.tflite", 4_992, 6_752),
    ("tflite-micro/seanet_conv20.tflite", 5_184, 8_736),
    ("tflite-micro/seanet_transpose_conv0.tflite", 4_864, 25_296),
    ("tflite-micro/seanet_transpose_conv3.tflite", 10_624, 56_272),
    ("vision/mobilenet_v1_0.25_128_quant.tflite", 65_600, u64::MAX),
    ("vision/mobilenet_v1_0.25_224_quant.tflite", 200_768, u64::MAX),
    ("vision/mobilenet_v2_1.0_224_quant.tflite", 1_204_608, u64::MAX),
];

#[test]
fn models_give_tflite_micro_s_bytes() {
    let table = std::fs::read_to_string(golden().join("tflite/outputs.txt")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut wrong = vec![];
    for (name, arena, theirs) in MODELS {
        let Some(path) = shared(name) else {
            return;
        };
        let lines = table.lines().filter_map(|l| l.strip_prefix(name)).map(|l| l.rsplit(' ').next().unwrap());
        let expected: Vec<&str> = lines.collect();
        assert!(!expected.is_empty(), "{name}");
        let model = match image(&path, folder.path()) {
            Ok(model) => model,
            Err(why) => {
                wrong.push(why.to_string());
                continue;
            }
        };
        let found = digests(&model, expected.len());
        let same = found.iter().zip(&expected).filter(|(a, b)| a == b).count();
        let found = model.image().arena_bytes(LIMITS).unwrap();
        if same != expected.len() || found != arena || arena >= theirs {
            wrong.push(format!("{name}: {same} of {} runs the same, arena {found}", expected.len()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Where field `id` of the flatbuffer's table at `table` lies.
fn field(file: &[u8], table: usize, id: usize) -> Option<usize> {
    let word = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().unwrap()) as i32;
    let vtable = (table as i64 - i64::from(word(table))) as usize;
    let half = |at: usize| usize::from(u16::from_le_bytes([file[at], file[at + 1]]));
    let offset = if half(vtable) > 4 + 2 * id { half(vtable + 4 + 2 * id) } else { 0 };
    (offset != 0).then_some(table + offset)
}

/// A model whose four kinds of operators are made into others, which Mote lacks.
#[test]
fn everything_that_is_missing_is_named_at_once() {
    const LACKING: [(u8, &str); 4] = [(24, "RNN"), (27, "SVDF"), (30, "SKIP_GRAM"), (33, "EMBEDDING_LOOKUP_SPARSE")];
    let folder = tempfile::tempdir().unwrap();
    let Some(path) = shared("tflite-micro/micro_speech_quantized.tflite") else {
        return;
    };
    let mut file = std::fs::read(path).unwrap();
    let follow = |file: &[u8], at: usize| at + u32::from_le_bytes(file[at..at + 4].try_into().unwrap()) as usize;
    let codes = follow(&file, field(&file, follow(&file, 0), 1).unwrap());
    for (i, (code, _)) in LACKING.iter().enumerate() {
        let table = follow(&file, codes + 4 + 4 * i);
        // The older field and the newer one: the larger counts.
        for at in [0, 3].into_iter().filter_map(|id| field(&file, table, id)).collect::<Vec<_>>() {
            file[at] = *code;
        }
    }
    let changed = folder.path().join("changed.tflite");
    std::fs::write(&changed, file).unwrap();
    let why = image(&changed, folder.path()).err().unwrap().to_string();
    for (_, name) in LACKING {
        assert!(why.contains(&format!("{name} (operator ")), "{name}: {why}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is written");
}

/// Sound to word in integers: 49 windows of 30 ms through the audio front end, their features through the keyword model.
#[test]
fn spoken_words_are_recognised() {
    const LABELS: [&str; 4] = ["silence", "unknown", "yes", "no"];
    let folder = tempfile::tempdir().unwrap();
    let model = |name: &str| shared(name).map(|path| image(&path, folder.path()).unwrap());
    let Some((front, words)) =
        model("tflite-micro/audio_preprocessor_int8.tflite").zip(model("tflite-micro/micro_speech_quantized.tflite"))
    else {
        return;
    };
    for word in ["yes", "no"] {
        let sound = shared(&format!("speech/{word}_1000ms.wav")).unwrap();
        let samples = hound::WavReader::open(sound).unwrap().samples::<i16>().collect::<Result<Vec<_>, _>>().unwrap();
        let (mut arena, mut other) =
            (Arena::for_limits(&front, LIMITS).unwrap(), Arena::for_limits(&words, LIMITS).unwrap());
        let mut session = Session::new(front.image(), arena.bytes(), LIMITS).unwrap();
        let mut features = Vec::new();
        for window in samples.windows(480).step_by(320) {
            session.input::<i16>(0).unwrap().copy_from_slice(window);
            session.run().unwrap();
            features.extend_from_slice(session.output::<i8>(0).unwrap());
        }
        let mut session = Session::new(words.image(), other.bytes(), LIMITS).unwrap();
        session.input::<i8>(0).unwrap().copy_from_slice(&features);
        session.run().unwrap();
        let scores = session.output::<i8>(0).unwrap();
        let best = (0..4).max_by_key(|label| scores[*label]).unwrap();
        // TensorFlow Lite Micro's own scores, all four.
        let theirs: [i8; 4] = if word == "yes" { [-128, -128, 127, -128] } else { [-128, -114, -128, 114] };
        assert_eq!((LABELS[best], scores), (word, &theirs[..]));
    }
}

/// 2500 files with bytes changed, words replaced, cut or shifted: an error, or an image that opens and runs.
#[test]
fn damaged_files() {
    let folder = tempfile::tempdir().unwrap();
    let mut lcg = Lcg(2026);
    let (mut good, mut bad) = (0, 0);
    for name in ["tflite-micro/hello_world_int8.tflite", "tflite-micro/micro_speech_quantized.tflite"] {
        let Some(path) = shared(name) else {
            return;
        };
        let original = std::fs::read(path).unwrap();
        let target = folder.path().join("x.tflite");
        for _ in 0..1250 {
            let mut file = original.clone();
            for _ in 0..=lcg.below(3) {
                // Where the tables are: at the beginning and at the end, the weights between.
                let reach = file.len().min(1200);
                let near = lcg.below(reach);
                let at = if lcg.below(2) == 0 { near } else { file.len() - 1 - near };
                match lcg.below(4) {
                    0 => file[at] ^= 1 << lcg.below(8),
                    1 => {
                        let words = [0, 1, 0xFF, 0x7FFF_FFFF, 0x8000_0000, u32::MAX, original.len() as u32];
                        let word = words[lcg.below(words.len())].to_le_bytes();
                        file.iter_mut().skip(at & !3).zip(word).for_each(|(to, from)| *to = from);
                    }
                    2 => file[at] = lcg.byte(),
                    _ if lcg.below(8) == 0 => file.truncate(at),
                    _ => file[at] = file[at].wrapping_add(4),
                }
                if file.len() < 16 {
                    break;
                }
            }
            std::fs::write(&target, &file).unwrap();
            // Most are refused without a graph; writing an image syncs the disk, so only some are.
            let lowered =
                Tflite::open(&target).and_then(|f| f.graph().map(|g| lower::net(&g, Rounding::Double).is_ok()));
            match lowered {
                Ok(true) if good % 16 == 0 => {
                    good += 1;
                    digests(&image(&target, folder.path()).unwrap(), 1);
                }
                Ok(true) => good += 1,
                _ => bad += 1,
            }
        }
    }
    assert!(good > 50 && bad > 200, "{good} {bad}");
}

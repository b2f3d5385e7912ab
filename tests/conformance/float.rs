//! The float evaluator, which every comparison is made against, against transformers and llama2.c; and the whole integer
//! pipeline against the float evaluator on every architecture that is imported.

use mote_host::{Arena, Model, Threads};
use mote_quantize::calibrate::{self, Text};
use mote_quantize::codes::Coding;
use mote_quantize::float::FloatModel;
use mote_quantize::float::embeddings::{Comparison, compare};
use mote_quantize::float::metrics::LockStep;
use mote_quantize::import::{ImageModel, open_model};
use mote_quantize::quantize::{Settings, quantize};
use mote_tests::{golden, golden_floats, shared};
use std::path::{Path, PathBuf};

/// The models in `golden/transformers`, each an architecture or a detail of one; `make.py` there says which.
const MODELS: [&str; 9] = [
    "mha-untied",
    "gqa-tied",
    "llama3-rope",
    "mistral-window",
    "qwen2-bias",
    "qwen3-qk-norm",
    "gpt2-tied",
    "gpt2-untied",
    "m2m100",
];

/// A model's folder, the source that its encoder is given (empty if it has none) and its tokens, and the logits that
/// transformers computed for them, a row a token.
fn expected(name: &str) -> (PathBuf, Text, Vec<Vec<f32>>) {
    let folder = golden().join("transformers").join(name);
    let json: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder.join("expected.json")).unwrap()).unwrap();
    let ids = |name: &str| -> Vec<u32> {
        json[name].as_array().into_iter().flatten().map(|t| t.as_u64().unwrap() as u32).collect()
    };
    let (source, tokens) = (ids("source"), ids("tokens"));
    let floats = golden_floats(&format!("transformers/{name}/{}", json["logits"].as_str().unwrap()));
    let rows = floats.chunks_exact(floats.len() / tokens.len()).map(<[f32]>::to_vec).collect();
    (folder, Text { source, tokens }, rows)
}

/// Logits of all tokens at a time.
fn floats(model: &FloatModel, text: &Text) -> Vec<Vec<f32>> {
    let mut session = model.session();
    if !text.source.is_empty() {
        session.encode(&text.source).unwrap();
    }
    session.forward(&text.tokens).unwrap()
}

fn relative(found: &[Vec<f32>], expected: &[Vec<f32>]) -> f64 {
    let largest = expected.iter().flatten().fold(0f32, |m, v| m.max(v.abs()));
    let pairs = found.iter().flatten().zip(expected.iter().flatten());
    f64::from(pairs.fold(0f32, |m, (a, b)| m.max((a - b).abs())) / largest)
}

#[test]
fn float_logits_are_those_of_transformers() {
    for name in MODELS {
        let (folder, text, rows) = expected(name);
        let model = FloatModel::load(&*open_model(&folder).unwrap()).unwrap();
        let whole = floats(&model, &text);
        assert_eq!((whole.len(), whole[0].len()), (rows.len(), rows[0].len()), "{name}");
        let error = relative(&whole, &rows);
        assert!(error < 1e-4, "{name}: {error:e}");
        // Token by token, over a cache.
        let mut session = model.session();
        if !text.source.is_empty() {
            session.encode(&text.source).unwrap();
        }
        let single: Vec<Vec<f32>> = text.tokens.iter().map(|t| session.forward(&[*t]).unwrap().remove(0)).collect();
        let error = relative(&single, &rows);
        assert!(error < 1e-4, "{name}, token by token: {error:e}");
    }
}

/// KL divergence of the image from the model, and the same of the image's weights in floats.
fn divergences(folder: &Path, text: &Text, coding: Coding) -> (f64, f64) {
    let model = open_model(folder).unwrap();
    let out = tempfile::tempdir().unwrap();
    let path = out.path().join("x.mote");
    let settings = Settings::new("golden", coding, vec![text.clone()]);
    quantize(&*model, &[], &settings, &path, &mut |_, _| {}).unwrap();
    let reference = floats(&FloatModel::load(&*model).unwrap(), text);
    let decoded = floats(&FloatModel::load(&ImageModel::open(&path).unwrap()).unwrap(), text);
    let image = Model::open(&path).unwrap();
    image.image().verify().unwrap();
    let pool = Threads::new(2);
    let mut arena = Arena::for_limits(&image, image.limits(7, text.tokens.len() as u32, 2)).unwrap();
    let mut session = image.session(&mut arena, &pool).unwrap();
    let unit = 2f32.powi(-(session.logits_frac_bits() as i32));
    if !text.source.is_empty() {
        session.encode(&text.source).unwrap();
    }
    let (mut integer, mut float, mut at) = (LockStep::default(), LockStep::default(), 0);
    for batch in text.tokens.chunks(7) {
        session.prefill(batch).unwrap();
        for row in 0..batch.len() {
            let logits: Vec<f32> = session.logits(row as u32).unwrap().iter().map(|l| *l as f32 * unit).collect();
            integer.push(&reference[at], &logits, None);
            float.push(&reference[at], &decoded[at], None);
            at += 1;
        }
    }
    (integer.finish().unwrap().kld.mean, float.finish().unwrap().kld.mean)
}

#[test]
fn integer_logits_are_near_those_of_transformers() {
    for name in MODELS {
        let (folder, text, _) = expected(name);
        let (integer, float) = divergences(&folder, &text, Coding::N8);
        eprintln!("{name}: 8 bits, KL divergence {integer:.6} in integers, {float:.6} in floats");
        assert!(integer < MOST_AT_8_BITS, "{name}: {integer}");
        let (integer, float) = divergences(&folder, &text, Coding::N4Learned);
        eprintln!("{name}: 4 bits, KL divergence {integer:.6} in integers, {float:.6} in floats");
        assert!(integer < 1.5 * float + MOST_AT_8_BITS, "{name}: {integer} against {float}");
    }
}

/// The folder of an encoder in `golden/transformers`, its sources, and the embedding that transformers computed of each.
fn embedder(name: &str) -> (PathBuf, Vec<Vec<u32>>, Vec<Vec<f32>>) {
    let folder = golden().join("transformers").join(name);
    let json: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder.join("expected.json")).unwrap()).unwrap();
    let sources: Vec<Vec<u32>> = serde_json::from_value(json["sources"].clone()).unwrap();
    let floats = golden_floats(&format!("transformers/{name}/{}", json["embeddings"].as_str().unwrap()));
    let rows = floats.chunks_exact(floats.len() / sources.len()).map(<[f32]>::to_vec).collect();
    (folder, sources, rows)
}

#[test]
fn embeddings_are_those_of_transformers() {
    for name in ["bert", "bert-cls"] {
        let (folder, sources, expected) = embedder(name);
        let model = open_model(&folder).unwrap();
        let floats = FloatModel::load(&*model).unwrap();
        let found: Vec<Vec<f32>> = sources.iter().map(|ids| floats.session().embed(ids).unwrap()).collect();
        let error = relative(&found, &expected);
        assert!(error < 1e-5, "{name}: {error:e}");
        for (coding, most) in [(Coding::N8, MOST_TURNED_AT_8_BITS), (Coding::T4, 0.05)] {
            let out = tempfile::tempdir().unwrap();
            let path = out.path().join("x.mote");
            let settings = Settings::new("golden", coding, calibrate::sources(&sources, 48, usize::MAX));
            quantize(&*model, &[], &settings, &path, &mut |_, _| {}).unwrap();
            let decoded = FloatModel::load(&ImageModel::open(&path).unwrap()).unwrap();
            let decoded: Vec<Vec<f32>> = sources.iter().map(|ids| decoded.session().embed(ids).unwrap()).collect();
            let image = Model::open(&path).unwrap();
            image.image().verify().unwrap();
            let pool = Threads::new(2);
            let mut arena = Arena::for_limits(&image, image.limits(7, 64, 2)).unwrap();
            let mut session = image.session(&mut arena, &pool).unwrap();
            let unit = 2f32.powi(-(session.logits_frac_bits() as i32));
            let mut embed =
                |ids: &Vec<u32>| session.embed(ids).unwrap().iter().map(|v| *v as f32 * unit).collect::<Vec<f32>>();
            let found: Vec<Vec<f32>> = sources.iter().map(&mut embed).collect();
            let [integer, float] = [&found, &decoded].map(|found| compare(&expected, found).unwrap());
            eprintln!("{name}, {coding:?}: in integers {integer:?}, in floats {float:?}");
            let turned = |c: &Comparison| c.cosine_distance.mean;
            assert!(turned(&integer) < most, "{name}, {coding:?}: {integer:?}");
            assert!(turned(&integer) < 1.5 * turned(&float) + MOST_TURNED_AT_8_BITS, "{name}: {integer:?}, {float:?}");
        }
    }
}

/// 1 - cosine of an embedding of such a model, on average, that 8-bit weights and activations may cost.
const MOST_TURNED_AT_8_BITS: f64 = 0.0005;

/// These models are random, and sharper than trained ones: a token's logits differ by tens.
const MOST_AT_8_BITS: f64 = 0.02;

#[test]
fn stories260k_writes_what_llama2c_writes() {
    let Some(data) = shared("llm/stories260K.bin") else { return };
    let expected = std::fs::read_to_string(data.with_file_name("stories260K_expected_greedy.txt")).unwrap();
    let vocabulary =
        mote_quantize::import::tokenizer::find(&data, Some(&data.with_file_name("tok512.bin")), 512).unwrap().unwrap();
    let section = vocabulary.to_bytes();
    let model = FloatModel::load(&*open_model(&data).unwrap()).unwrap();
    let mut session = model.session();
    let mut tokens = vec![1u32];
    // BOS and 200 steps.
    while tokens.len() < 201 {
        let logits = session.forward(&tokens[tokens.len() - 1..]).unwrap().remove(0);
        let best = (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap() as u32;
        if best == 1 {
            break;
        }
        tokens.push(best);
    }
    let text = mote_quantize::import::tokenizer::decode(&section, &tokens).unwrap();
    assert_eq!(text.trim_end(), expected.trim_end());
}

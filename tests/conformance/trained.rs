//! Trained models of the shared data that come in formats of their own: converted to Hugging Face folders by
//! `golden/models/convert.py`, compared in floats with what their authors' runtimes computed, and quantized.

use mote_host::{Arena, Model, Threads};
use mote_quantize::calibrate::Text;
use mote_quantize::codes::Coding;
use mote_quantize::float::FloatModel;
use mote_quantize::float::metrics::LockStep;
use mote_quantize::import::open_model;
use mote_quantize::quantize::{Settings, quantize};
use mote_tests::{golden, shared};
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

/// The folder that `convert.py` makes of a model of the shared data, of which `file` is one file.
fn converted(kind: &str, file: &str) -> Option<TempDir> {
    let folder = shared(file)?.parent()?.to_owned();
    let out = tempfile::tempdir().unwrap();
    let script = golden().join("models/convert.py");
    let Ok(status) = Command::new("python3").arg(script).arg(kind).arg(folder).arg(out.path()).status() else {
        eprintln!("skipped: python3 is not there");
        return None;
    };
    assert!(status.success());
    Some(out)
}

/// What `model` writes after `prompt` if each token is drawn as likely as it thinks: text of the kind that it knows.
fn drawn(model: &FloatModel, prompt: &[u32], count: usize) -> Vec<u32> {
    let (mut session, mut tokens, mut state) = (model.session(), prompt.to_vec(), 1u64);
    let mut logits = session.forward(prompt).unwrap();
    while tokens.len() < count {
        let row = logits.pop().unwrap();
        let top = row.iter().copied().fold(f32::MIN, f32::max);
        let weights: Vec<f64> = row.iter().map(|l| f64::from(l - top).exp()).collect();
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let mut left = (state >> 11) as f64 * 2f64.powi(-53) * weights.iter().sum::<f64>();
        let mut passed = |w: &f64| {
            left -= w;
            left < 0.0
        };
        let next = weights.iter().position(&mut passed).unwrap_or(0) as u32;
        tokens.push(next);
        logits = session.forward(&[next]).unwrap();
    }
    tokens
}

/// Mean KL divergence of the image at `path` from `model` over texts, and the share of equal likeliest tokens.
fn divergence(model: &FloatModel, path: &Path, texts: &[Vec<u32>]) -> (f64, f64) {
    let image = Model::open(path).unwrap();
    let pool = Threads::new(1);
    let mut steps = LockStep::default();
    for text in texts {
        let mut arena = Arena::for_limits(&image, image.limits(8, text.len() as u32, 1)).unwrap();
        let mut session = image.session(&mut arena, &pool).unwrap();
        let unit = 2f32.powi(-(session.logits_frac_bits() as i32));
        let expected = model.session().forward(text).unwrap();
        for (token, expected) in text.iter().zip(&expected) {
            session.prefill(&[*token]).unwrap();
            let got: Vec<f32> = session.last_logits().unwrap().iter().map(|l| *l as f32 * unit).collect();
            steps.push(expected, &got, None);
        }
    }
    let found = steps.finish().unwrap();
    (found.kld.mean, found.top1_agreement)
}

/// A vector: the prompt's tokens, and the likeliest tokens with their logits in Q20.12.
type Vector = (Vec<u32>, Vec<(usize, f32)>);

fn vectors(text: &str) -> Vec<Vector> {
    let lines = text.lines().filter(|line| line.starts_with("V|"));
    let parse = |line: &str| {
        let fields: Vec<&str> = line.split('|').collect();
        let tokens = fields[3].split(',').map(|t| t.parse().unwrap()).collect();
        let logits = fields[5].split(',').map(|pair| pair.split_once(':').unwrap());
        let logits = logits.map(|(id, l)| (id.parse().unwrap(), l.parse::<f32>().unwrap() / 4096.0)).collect();
        (tokens, logits)
    };
    lines.map(parse).collect()
}

#[test]
fn gpt2basic_is_its_authors_model_at_8_and_4_bits() {
    let Some(folder) = converted("gpt2basic", "llm/gpt2basic_463k/weights_f32.bin") else { return };
    let text = std::fs::read_to_string(shared("llm/gpt2basic_463k/vectors_q20_12.txt").unwrap()).unwrap();
    let source = open_model(folder.path()).unwrap();
    let model = FloatModel::load(&*source).unwrap();
    let vectors = vectors(&text);
    assert!(vectors.len() >= 3);
    let mut worst = 0f32;
    for (tokens, expected) in &vectors {
        let logits = model.session().forward(tokens).unwrap().pop().unwrap();
        worst = expected.iter().fold(worst, |worst, (id, l)| worst.max((logits[*id] - l).abs()));
    }
    eprintln!("gpt2basic: largest difference from the authors' logits {worst:.4}");
    // The authors' runtime is fixed point of 12 bits: transformers 5.24, in f64 too, is 0.0494 away from it.
    assert!((worst - 0.0494).abs() < 2e-4, "{worst}");

    let texts: Vec<Vec<u32>> = vectors.iter().map(|(tokens, _)| drawn(&model, tokens, 150)).collect();
    let calibration = Text::windows(&drawn(&model, &[1000], 190), 192);
    for (coding, bits, most) in [(Coding::N8, 8, 0.001), (Coding::N4Learned, 4, 0.05)] {
        let out = folder.path().join("x.mote");
        let (_, bytes) =
            quantize(&*source, &[], &Settings::new("trained", coding, calibration.clone()), &out, &mut |_, _| {})
                .unwrap();
        let (kl, same) = divergence(&model, &out, &texts);
        eprintln!(
            "gpt2basic: {bits} bits, {bytes} bytes, KL divergence {kl:.6}, same likeliest token {:.1} %",
            100.0 * same
        );
        assert!(kl < most, "{bits} bits: {kl}");
    }
}

/// A name, what CTranslate2 writes for it, and the sum of the log-probabilities.
struct Name {
    source: Vec<u32>,
    target: String,
    chance: f64,
}

/// Ids of characters, by their lines in a vocabulary.
fn ids(vocabulary: &[String], text: &str) -> Vec<u32> {
    let id = |c: char| vocabulary.iter().position(|token| *token == c.to_string()).map(|id| id as u32);
    text.chars().map(|c| id(c).unwrap_or_else(|| panic!("{c:?} of {text:?} is not in the vocabulary"))).collect()
}

#[test]
fn aren_writes_what_ctranslate2_writes() {
    let Some(folder) = converted("aren", "encoder-decoder/aren_f32/model.bin") else { return };
    let lines =
        |path: &Path| -> Vec<String> { std::fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect() };
    let (source_tokens, target_tokens) =
        (lines(&folder.path().join("source_vocabulary.txt")), lines(&folder.path().join("target_vocabulary.txt")));
    let text = |ids: &[u32]| ids.iter().map(|id| target_tokens[*id as usize].as_str()).collect::<String>();
    let golden = lines(&shared("encoder-decoder/aren_golden.tsv").unwrap());
    let name = |line: &String| {
        let fields: Vec<&str> = line.split('\t').collect();
        let chance = fields[2].parse().unwrap();
        Name { source: ids(&source_tokens, fields[0]), target: fields[1].into(), chance }
    };
    let names: Vec<Name> = golden.iter().filter(|line| !line.starts_with('#')).map(name).collect();
    assert_eq!(names.len(), 20);

    let source = open_model(folder.path()).unwrap();
    let model = FloatModel::load(&*source).unwrap();
    let mut worst = 0f64;
    for name in &names {
        let (written, chance) = model.session().translate(&name.source, &[2], 40).unwrap();
        assert_eq!(text(&written), name.target);
        worst = worst.max((chance - name.chance).abs());
    }
    eprintln!("aren: largest difference of a log-probability {worst:.1e}");
    assert!(worst < 1e-3, "{worst}");

    // Calibrated with words that are none of the twenty: the characters, some at a time.
    let words: Vec<Vec<u32>> =
        (0..24u32).map(|w| (0..4 + w % 5).map(|i| 3 + (w * 7 + i * i * 5 + i) % 48).collect()).collect();
    let texts = mote_quantize::calibrate::translations(&model, &words, &[2], 1000).unwrap();
    for (coding, bits, fewest) in [(Coding::N8, 8, 20), (Coding::N4Learned, 4, 10)] {
        let out = folder.path().join("x.mote");
        let (_, bytes) =
            quantize(&*source, &[], &Settings::new("trained", coding, texts.clone()), &out, &mut |_, _| {}).unwrap();
        let image = Model::open(&out).unwrap();
        let pool = Threads::new(1);
        let (mut right, mut wrong) = (0, Vec::new());
        for name in &names {
            let mut arena = Arena::for_limits(&image, image.limits(4, 40, 1)).unwrap();
            let mut session = image.session(&mut arena, &pool).unwrap();
            session.encode(&name.source).unwrap();
            let (mut next, mut written) = (image.image().plan().start, Vec::new());
            while session.position() < 40 {
                session.prefill(&[next]).unwrap();
                let logits = session.last_logits().unwrap();
                next = (0..logits.len()).rev().max_by_key(|id| logits[*id]).unwrap() as u32;
                if next == 2 {
                    break;
                }
                written.push(next);
            }
            right += usize::from(text(&written) == name.target);
            if text(&written) != name.target {
                wrong.push(format!("{} not {}", text(&written), name.target));
            }
        }
        eprintln!("aren: {bits} bits, {bytes} bytes, {right} of 20 as in floats; {}", wrong.join(", "));
        assert!(right >= fewest, "{bits} bits: {right}");
    }
}

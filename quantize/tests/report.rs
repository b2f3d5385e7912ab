//! `mote quantize --report` as its reader meets it: the page in a browser, as wide as a phone.

mod browser;

use browser::Browser;
use serde_json::Value;
use std::path::Path;
use std::process::Command;

/// What is looked at in the page.
const LOOK: &str = include_str!("browser/look.js");

/// Quantizes a bundled model with a report; what the command says of the image, and the page.
fn report(folder: &Path, model: &str, more: &[&str]) -> (Value, String) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let (image, page) = (folder.join("x.mote"), folder.join("x.html"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_mote"));
    command.current_dir(root).args(["quantize", &format!("examples/models/{model}"), "--json", "-o"]).arg(&image);
    let out = command.arg("--report").arg(&page).args(more).output().unwrap();
    assert!(out.status.success(), "{model}: {}", String::from_utf8_lossy(&out.stderr));
    (serde_json::from_slice(&out.stdout).unwrap(), std::fs::read_to_string(page).unwrap())
}

/// Looks at a page in a browser, if there is one, at the width of a phone, by day and by night.
fn look(folder: &Path, summary: &Value, sections: &[&str]) {
    let Some(mut browser) = Browser::start() else { return };
    for scheme in ["light", "dark"] {
        let seen = browser.look(&folder.join("x.html"), 390, scheme, LOOK);
        assert_eq!(seen["width"], 390, "{seen}");
        assert!(seen["content"].as_u64().unwrap() <= 390, "the page is wider than the screen: {seen}");
        assert_eq!(seen["tensors"].as_u64().unwrap() as usize, summary["tensors"].as_array().unwrap().len());
        assert_eq!(seen["sections"], serde_json::json!(sections));
        for what in ["scripts", "loaded", "unnamed", "faint"] {
            assert_eq!(seen[what], serde_json::json!([]), "{what}, {scheme}");
        }
        assert_eq!(browser.complaints, Vec::<String>::new());
    }
    // What can be complained about is heard: that an assertion above can fail.
    std::fs::write(folder.join("x.html"), "<script>console.error(1)</script><div style='width:900px'>x</div>").unwrap();
    let seen = browser.look(&folder.join("x.html"), 390, "light", LOOK);
    assert!(seen["scripts"].as_array().unwrap().len() == 1 && seen["content"].as_u64().unwrap() >= 900, "{seen}");
    assert_eq!(browser.complaints.len(), 1);
}

const LANGUAGE_MODEL: [&str; 6] = ["summary", "sensitivity", "bits", "errors", "texts", "tensors"];

#[test]
fn of_a_language_model() {
    let folder = tempfile::tempdir().unwrap();
    let evil = "<script>alert(1)</script><img src=x>";
    let (summary, page) = report(folder.path(), "gpt", &["--calibrate-tokens", "300", "--name", evil]);
    assert!(page.contains("&#60;script&#62;alert(1)") && !page.contains("<script") && !page.contains("<img"));
    // 300 of the text's tokens are calibrated with, and there are some 1,376.
    assert!(page.contains("that calibration has not seen") && !page.contains("of the calibration text itself"));
    assert!(page.contains("They part at token"), "40 tokens of four prompts, and never another one");
    look(folder.path(), &summary, &LANGUAGE_MODEL);

    // The other page, of the same style.
    let at = |name: &str| folder.path().join(name);
    let inspect = Command::new(env!("CARGO_BIN_EXE_mote"))
        .arg("inspect")
        .args([at("x.mote")])
        .arg("--html")
        .arg(at("x.html"))
        .status();
    assert!(inspect.unwrap().success());
    look(folder.path(), &summary, &["memory", "peaks", "tensors"]);
}

#[test]
fn of_a_model_with_an_encoder_of_a_net_and_of_vectors() {
    let folder = tempfile::tempdir().unwrap();
    let (summary, page) = report(folder.path(), "dates", &["--bpw", "6", "--calibrate-tokens", "200"]);
    assert!(page.contains("<strong>of the calibration text itself</strong>") && page.contains("Source:"));
    look(folder.path(), &summary, &LANGUAGE_MODEL);

    let (summary, page) = report(folder.path(), "word2vec/vectors.bin", &[]);
    assert!(page.contains("Largest errors"));
    look(folder.path(), &summary, &["summary", "sensitivity", "bits", "errors", "tensors"]);

    let samples = ["--calibrate", "examples/models/lenet5/calibration"];
    let (summary, _) = report(folder.path(), "lenet5/lenet5.onnx", &samples);
    look(folder.path(), &summary, &["summary", "sensitivity", "bits", "tensors"]);
}

#[test]
fn without_a_folder_nothing_is_begun() {
    let folder = tempfile::tempdir().unwrap();
    let (image, page) = (folder.path().join("x.mote"), folder.path().join("none/x.html"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_mote"));
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/models/gpt");
    let out = command.args(["quantize", model, "-o"]).arg(&image).arg("--report").arg(&page).output().unwrap();
    let why = String::from_utf8_lossy(&out.stderr);
    assert!(!out.status.success() && why.contains("none/x.html: ") && !image.exists(), "{why}");
}

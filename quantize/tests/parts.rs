//! Runs that are killed and go on, and models that are quantized in parts.

#[path = "support/command.rs"]
mod command;

use command::{bad, good, json, mote, root, text};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tempfile::TempDir;

const MODEL: &str = "examples/models/gpt";

/// A folder, and a path in it.
fn place(folder: &TempDir, name: &str) -> String {
    folder.path().join(name).to_str().unwrap().to_owned()
}

/// The image of a run that nothing interrupts.
fn whole(folder: &TempDir, model: &str, extra: &[&str]) -> Vec<u8> {
    let out = place(folder, "whole.mote");
    good(&[&["quantize", model, "-o", &out], extra].concat());
    std::fs::read(out).unwrap()
}

/// The finished pieces whose names begin so.
fn pieces(folder: &Path, begin: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let ours = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        name.starts_with(begin) && name.ends_with(".piece")
    };
    entries.filter(ours).collect()
}

/// Starts a run and kills it, without a warning, once it has finished some pieces whose names begin so.
fn kill(args: &[&str], work: &Path, begin: &str, some: usize) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mote"));
    command.args(args).current_dir(root()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    while pieces(work, begin).len() < some {
        assert!(child.try_wait().unwrap().is_none(), "{args:?} has ended before {some} pieces were seen");
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    child.kill().unwrap();
    assert!(!child.wait().unwrap().success());
}

#[test]
fn a_run_that_was_killed_goes_on_and_gives_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let expected = whole(&folder, MODEL, &[]);
    let out = place(&folder, "x.mote");
    let work = folder.path().join("x.mote.parts");
    let args = ["quantize", MODEL, "-o", &out];
    kill(&args, &work, "0", 4);
    assert!(!Path::new(&out).exists());
    let finished = pieces(&work, "0");
    assert!(finished.len() < 21, "{}", finished.len());
    // One is cut short, and one has a bit that is wrong.
    let cut = std::fs::read(&finished[0]).unwrap();
    std::fs::write(&finished[0], &cut[..cut.len() - 5]).unwrap();
    let mut wrong = std::fs::read(&finished[1]).unwrap();
    let middle = wrong.len() / 2;
    wrong[middle] ^= 4;
    std::fs::write(&finished[1], wrong).unwrap();

    let run = mote(&[&args[..], &["--json"]].concat());
    let said = text(&run.stderr);
    assert!(run.status.success() && said.contains("2 files are damaged"), "{said}");
    let summary: serde_json::Value = serde_json::from_slice(&run.stdout).unwrap();
    assert_eq!(summary["resumed_matrices"], finished.len() - 2, "{said}");
    assert!(std::fs::read(&out).unwrap() == expected);
    assert!(!work.exists(), "the work folder is removed once the image is in place");
}

#[test]
fn what_was_measured_for_a_budget_is_kept_too() {
    let folder = tempfile::tempdir().unwrap();
    let budget = ["--bpw", "5.4", "--calibrate-tokens", "300"];
    let expected = whole(&folder, MODEL, &budget);
    let (out, work) = (place(&folder, "x.mote"), place(&folder, "elsewhere"));
    let args = [&["quantize", MODEL, "-o", &out, "--work", &work][..], &budget].concat();
    for (begin, some) in [("trial-", 3), ("cost-", 3), ("0", 3)] {
        kill(&args, Path::new(&work), begin, some);
    }
    let summary = json(&[&args[..], &["--json"]].concat());
    assert!(summary["resumed_matrices"].as_u64().unwrap() >= 3, "{summary}");
    assert!(std::fs::read(&out).unwrap() == expected);
    assert!(!Path::new(&work).exists());
}

#[test]
fn what_is_of_other_settings_is_not_used() {
    let folder = tempfile::tempdir().unwrap();
    let out = place(&folder, "x.mote");
    let work = folder.path().join("x.mote.parts");
    kill(&["quantize", MODEL, "-o", &out], &work, "0", 2);
    // What is not a run's is left alone.
    std::fs::write(work.join("mine.txt"), "mine").unwrap();
    let run = mote(&["quantize", MODEL, "-o", &out, "--method", "weighted", "--json"]);
    let said = text(&run.stderr);
    assert!(run.status.success() && said.contains("other settings (method: Feedback): starting anew"), "{said}");
    assert!(text(&run.stdout).contains(r#""resumed_matrices":0"#), "{said}");
    assert!(std::fs::read(&out).unwrap() == whole(&folder, MODEL, &["--method", "weighted"]));
    let left: Vec<_> = std::fs::read_dir(&work).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["mine.txt"]);
    // A run that has finished nothing leaves nothing.
    bad(1, &["quantize", MODEL, "-o", &out, "--context", "1000000", "--work", &place(&folder, "w")]);
    assert!(!folder.path().join("w").exists());
}

#[test]
fn activations_on_disk_change_nothing() {
    let folder = tempfile::tempdir().unwrap();
    for (model, tokens) in [(MODEL, "700"), ("examples/models/dates", "200")] {
        let tokens = ["--calibrate-tokens", tokens];
        let expected = whole(&folder, model, &tokens);
        for spill in ["0", "1M"] {
            assert!(whole(&folder, model, &[&tokens[..], &["--spill", spill]].concat()) == expected, "{model} {spill}");
        }
    }
}

#[test]
fn layers_of_several_runs_make_an_image() {
    let folder = tempfile::tempdir().unwrap();
    let part = |model: &str, layers: &str, extra: &[&str]| {
        let out = place(&folder, &format!("{layers}.part"));
        let found = json(&[&["quantize", model, "--layers", layers, "-o", &out, "--json"], extra].concat());
        assert_eq!(found["bytes"].as_u64().unwrap(), std::fs::metadata(&out).unwrap().len());
        out
    };
    let merged = |parts: &[&String]| {
        let out = place(&folder, "merged.mote");
        let parts = parts.iter().map(|part| part.as_str());
        let args: Vec<&str> = ["merge", "-o", &out].into_iter().chain(parts).collect();
        good(&args);
        std::fs::read(out).unwrap()
    };
    // Without feedback nothing depends on what came before: any split gives the bytes of one run. So with an encoder.
    for (model, splits) in [(MODEL, &["..2", "2..3", "3.."][..]), ("examples/models/dates", &["0..1", "1..3", "3.."])] {
        let extra = ["--method", "weighted", "--calibrate-tokens", "300"];
        let expected = whole(&folder, model, &extra);
        let parts: Vec<String> = splits.iter().map(|layers| part(model, layers, &extra)).collect();
        assert!(merged(&parts.iter().collect::<Vec<_>>()) == expected, "{model}");
    }
    // With it, all layers in one part do; and a split gives the same in whatever order.
    let [all, first, last] = ["0..5", "0..2", "2..5"].map(|layers| part(MODEL, layers, &[]));
    let expected = whole(&folder, MODEL, &[]);
    assert!(merged(&[&all]) == expected);
    let split = merged(&[&last, &first]);
    assert!(split == merged(&[&first, &last]) && split != expected);

    let out = place(&folder, "none.mote");
    let fails = |parts: &[&str], expected: &str| {
        let why = bad(1, &[&["merge", "-o", &out], parts].concat());
        assert!(why.contains(expected), "{why}");
        assert!(!Path::new(&out).exists());
    };
    fails(&[&last], "layers 0..2 of 0..5 are in none of the parts");
    fails(&[&first], "layers 2..5 of 0..5 are in none of the parts");
    fails(&[&all, &last], "layers 2..5 are in ");
    fails(&[&all, &all], "layers 0..5 are in ");
    let weighted = part(MODEL, "3..5", &["--method", "weighted"]);
    fails(&[&first, &weighted], "other settings (method: Weighted)");
    let shorter = part(MODEL, "2..", &["--calibrate-tokens", "300"]);
    fails(&[&first, &shorter], "another calibration text");
    let named = part(MODEL, "2..5", &["--name", "another"]);
    fails(&[&first, &named], "another name, licence, context or cache");
    let other = part("examples/models/dates", "2..", &["--calibrate-tokens", "100"]);
    fails(&[&first, &other], "another model");
    fails(&["README.md"], "README.md: this holds no layers of a model");
    let cut = std::fs::read(&first).unwrap();
    std::fs::write(&first, &cut[..cut.len() / 2]).unwrap();
    fails(&[&first, &last], "the file is damaged, or cut short");
    let why = bad(1, &["quantize", MODEL, "--layers", "3..9", "-o", &out]);
    assert!(why.contains("layers 3..9 were asked for; the model has 0..5"), "{why}");
    bad(2, &["quantize", MODEL, "--layers", "3", "-o", &out]);
}

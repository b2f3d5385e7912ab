//! Nets without tokens: the same outputs on this host, on aarch64 under emulation and on every board, and those of TensorFlow
//! Lite Micro's reference kernels where it computed them (`tests/golden/tflite`).

use crate::board::{self, lines};
use crate::hosts::AARCH64;
use crate::shell::{output, say};
use crate::{digest, symbols, table};
use anyhow::{Context, Result, bail, ensure};
use std::path::{Path, PathBuf};
use std::process::Command;
use table::Firmware;

/// A net of the table.
#[derive(Clone, Copy, Debug)]
pub struct Net {
    /// What it is called here.
    pub name: &'static str,
    /// The model: a path in this repository, or else in the shared data.
    pub source: &'static str,
    /// What else `mote quantize` must be told; what begins with [`SHARED`] is a file of the shared data.
    pub args: &'static [&'static str],
    /// How many random inputs it is given on each machine: emulated boards take a second for some hundred million
    /// instructions. `test nets --all` gives every net [`ALL`].
    pub runs: u32,
}

/// A file of the shared data among the arguments.
const SHARED: &str = "shared:";

/// Random inputs for which the outputs of TensorFlow Lite Micro's kernels are kept.
const ALL: u32 = 100;

/// A net that is quantized already.
const fn integers(name: &'static str, source: &'static str, runs: u32) -> Net {
    Net { name, source, args: &[], runs }
}

/// The nets.
const NETS: [Net; 19] = [
    Net {
        name: "lenet5",
        source: "examples/models/lenet5/lenet5.onnx",
        args: &["--calibrate", "examples/models/lenet5/calibration"],
        runs: 10,
    },
    Net {
        name: "dcgan",
        source: "examples/models/dcgan/dcgan.onnx",
        args: &["--calibrate", "examples/models/dcgan/calibration"],
        runs: 2,
    },
    Net { name: "word2vec", source: "examples/models/word2vec/vectors.bin", args: &[], runs: 2 },
    integers("kws", "mlperf-tiny/kws_int8.tflite", 10),
    integers("ic_resnet8", "mlperf-tiny/ic_resnet8_int8.tflite", 5),
    integers("ad", "mlperf-tiny/ad_int8.tflite", 100),
    integers("hello_world", "tflite-micro/hello_world_int8.tflite", 100),
    integers("micro_speech", "tflite-micro/micro_speech_quantized.tflite", 50),
    integers("audio_preprocessor", "tflite-micro/audio_preprocessor_int8.tflite", 100),
    integers("okay_nabu", "speech/mww_okay_nabu.tflite", 30),
    integers("vad", "speech/mww_vad.tflite", 30),
    integers("mcunet_vww", "vision/mcunet_vww_int8.tflite", 1),
    // The same bytes, patch by patch.
    Net { name: "mcunet_40k", source: "vision/mcunet_vww_int8.tflite", args: &["--ram", "40K"], runs: 1 },
    Net {
        name: "silero",
        source: "speech/silero_vad_16k_op15.onnx",
        args: &[
            "--shape",
            "input=1x576",
            "--constant",
            "sr=16000",
            "--state",
            "state=stateN",
            "--activations",
            "16",
            "--calibrate",
            "shared:speech/yes_1000ms.wav",
        ],
        runs: 3,
    },
    integers("seanet_conv5", "tflite-micro/seanet_conv5.tflite", 10),
    integers("seanet_conv10", "tflite-micro/seanet_conv10.tflite", 10),
    integers("seanet_conv20", "tflite-micro/seanet_conv20.tflite", 10),
    integers("seanet_transpose_conv0", "tflite-micro/seanet_transpose_conv0.tflite", 10),
    integers("seanet_transpose_conv3", "tflite-micro/seanet_transpose_conv3.tflite", 10),
];

/// The package of the program `infer IMAGE --runs N --each --sha256`, and the program.
const PROGRAM: [&str; 2] = ["mote-example-host", "infer"];

/// The model, if it is there.
pub fn source(net: &Net) -> Result<Option<PathBuf>> {
    let bundled = Some(table::root()?.join(net.source)).filter(|path| path.exists());
    bundled.map_or_else(|| table::shared(net.source), |path| Ok(Some(path)))
}

/// The nets that are there, each with its image, which is made anew.
pub fn images() -> Result<Vec<(Net, PathBuf)>> {
    let mut images = Vec::new();
    for net in NETS {
        images.extend(made(&net)?.map(|image| (net, image)));
    }
    Ok(images)
}

/// The image of the net of this name, if its model is there.
pub fn named(name: &str) -> Result<Option<PathBuf>> {
    made(NETS.iter().find(|net| net.name == name).context("no such net")?)
}

/// Makes a net's image, if its model is there.
fn made(net: &Net) -> Result<Option<PathBuf>> {
    let Some(source) = source(net)? else {
        say(&format!("skipped: {}: there is no ../shared/data/{}", net.name, net.source));
        return Ok(None);
    };
    let image = digest::folder()?.join(format!("{}.mote", net.name));
    let mut mote = digest::mote();
    mote.current_dir(table::root()?).arg("quantize").arg(source).arg("-o").arg(&image);
    for arg in net.args {
        match arg.strip_prefix(SHARED) {
            Some(file) => mote.arg(table::shared(file)?.with_context(|| format!("no ../shared/data/{file}"))?),
            None => mote.arg(arg),
        };
    }
    output(&mut mote)?;
    Ok(Some(image))
}

/// What TensorFlow Lite Micro computed: the digest of each run's outputs; none if it was not asked about this net.
fn golden(net: &Net) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(table::root()?.join("tests/golden/tflite/outputs.txt"))?;
    let lines = text.lines().filter_map(|l| l.strip_prefix(net.source)?.split_whitespace().nth(1));
    Ok(lines.map(str::to_owned).collect())
}

/// The digests of the runs in lines of output.
fn each(lines: &str) -> Vec<String> {
    lines.lines().filter_map(|l| l.strip_prefix("run_sha256=")).map(str::to_owned).collect()
}

/// Runs everywhere and compares, with `all` on as many inputs as there are digests for. Returns how many outputs were compared.
pub fn check(all: bool) -> Result<usize> {
    let images = images()?;
    if images.is_empty() {
        return Ok(0);
    }
    let root = table::root()?;
    let [package, program] = PROGRAM;
    let elf = AARCH64.build(package, program)?;
    let boards = board::all(&root)?;
    let mut compared = 0;
    for (net, image) in images {
        let runs = if all { ALL } else { net.runs };
        let line = format!("--runs {runs} --each");
        let flags = |mut command: Command| output(command.arg(&image).args(line.split(' ')));
        let mut found = vec![("host".to_owned(), flags(digest::program(package, program))?)];
        for core in digest::AARCH64_CORES {
            found.push((format!("aarch64 {core}"), flags(AARCH64.run(core, &elf))?));
        }
        let firmware = Firmware { image: Some(Path::new(&image)), ..Firmware::default() };
        for board in board::fitting(&boards, firmware)? {
            let built = table::build(&root, board, firmware)?;
            symbols::check(board, &built)?;
            found.push((board.name.clone(), lines(board, &built, &line)?.join("\n")));
        }
        let golden = golden(&net)?;
        let (expected, whose) = if golden.is_empty() { (each(&found[0].1), "host") } else { (golden, "TFLM") };
        ensure!(expected.len() >= runs as usize, "{}: only {} digests to compare with", net.name, expected.len());
        for (machine, lines) in &found {
            let digests = each(lines);
            ensure!(digests.len() == runs as usize, "{}: {machine} printed\n{lines}", net.name);
            if let Some(run) = (0..digests.len()).find(|run| digests[*run] != expected[*run]) {
                bail!("{}: {machine} computes {} in run {run}, not {}", net.name, digests[run], expected[run]);
            }
        }
        say(&format!("{}: outputs of {runs} runs on {} machines as on {whose}", net.name, found.len()));
        compared += runs as usize * found.len();
    }
    Ok(compared)
}

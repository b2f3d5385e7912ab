//! `mote quantize`.

use crate::args::{bytes, print_json, progress, size};
use crate::cost;
use anyhow::{Context, Result, anyhow, bail};
use mote_quantize::calibrate::{self, Text};
use mote_quantize::codes::Coding;
use mote_quantize::float::{DeviceName, FloatModel};
use mote_quantize::graph::{Data, Tensor, quantize as integers};
use mote_quantize::import::{self, LlmConfig, onnx, tokenizer};
use mote_quantize::lower;
use mote_quantize::macs;
use mote_quantize::merge::merge;
use mote_quantize::net;
use mote_quantize::parts::{Key, Work};
use mote_quantize::quantize::{self, Meta, Settings, longest_context, quantize_in, quantize_layers};
use mote_quantize::ram::Ram;
use mote_quantize::report::{self as page, Findings, ReportError};
use mote_quantize::samples::Scaling;
use mote_quantize::vectors;
use mote_quantize::write::{can_write, write_file};
use mote_runtime::fixed::tflite::Rounding;
use mote_runtime::image::{Limits, section};
use serde::Serialize;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

/// Which levels 4-bit codes stand for.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Codebook {
    /// 16 levels fitted to each tensor: least error
    Learned,
    /// -8 to 7: the fastest on cores without table look-ups
    Uniform,
    /// 64 levels, of which a trellis leaves each code 16: a fifth less error than `learned`, as fast where a table of 64 bytes is looked up
    Trellis,
}

/// How codes are chosen.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Method {
    /// The nearest to each weight: fastest, needs no calibration
    Nearest,
    /// The nearest, with scales and levels for the columns that calibration finds important
    Weighted,
    /// For what a matrix gives: later codes make up for what earlier ones lost, along rows (GPTQ) and, of decoders, across them (YAQA), then all are improved in turn
    Feedback,
}

impl From<Method> for quantize::Rounding {
    fn from(method: Method) -> Self {
        match method {
            Method::Nearest => Self::Nearest,
            Method::Weighted => Self::Weighted,
            Method::Feedback => Self::Feedback,
        }
    }
}

/// How TensorFlow Lite was built that a model of integers was made for.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum TfliteRounding {
    /// Products are rounded twice: TensorFlow Lite's default
    Double,
    /// Once (TFLITE_SINGLE_ROUNDING)
    Single,
}

impl From<TfliteRounding> for Rounding {
    fn from(rounding: TfliteRounding) -> Self {
        match rounding {
            TfliteRounding::Double => Self::Double,
            TfliteRounding::Single => Self::Single,
        }
    }
}

/// The arguments.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Hugging Face folder (config.json, *.safetensors), llama2.c checkpoint (.bin), net (.tflite, .onnx; one of integers is
    /// taken as it is, one of floats needs --calibrate), or word vectors (word2vec, fastText, GloVe)
    model: PathBuf,
    /// The image to write
    #[arg(short, long)]
    out: PathBuf,
    /// Bits of a weight's code: 3, 4, 5 or 8
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u8).range(3..=8))]
    bits: u8,
    /// Bits of the output matrix (and of the embedding, if they are one), which counts most [default: as --bits]
    #[arg(long, value_parser = clap::value_parser!(u8).range(3..=8))]
    head_bits: Option<u8>,
    /// Weights that share a scale; the format has groups of 32
    #[arg(long, default_value_t = 32)]
    group: usize,
    /// Levels of 4-bit codes [default: trellis for language models, else learned]
    #[arg(long, value_enum)]
    codebook: Option<Codebook>,
    /// Bits a weight of a language model, everything counted: each matrix gets 3, 4, 5 or 8, as its share of the loss is measured
    #[arg(long, value_name = "BITS", conflicts_with_all = ["bits", "head_bits", "codebook"])]
    bpw: Option<f64>,
    /// How a language model's codes are chosen
    #[arg(long, value_enum, default_value_t = Method::Feedback)]
    method: Method,
    /// Leave a language model's channels as they are, however unequal
    #[arg(long)]
    no_balance: bool,
    /// Longest context the image will allow [default: the model's]
    #[arg(long)]
    context: Option<usize>,
    /// Bits of a language model's keys and values in its cache: 8, or 4, which take half the memory
    #[arg(long, default_value_t = 8, value_name = "BITS", value_parser = kv_bits)]
    kv_bits: u8,
    /// What to calibrate with, best of the kind the model will see: a text (for an encoder, a source a line)
    /// [default: a built-in one]; for a net of floats a folder of inputs (.npy, .png, .jpg, .bmp, 16 kHz .wav), or one file
    #[arg(long, value_name = "TEXT FILE OR DIR")]
    calibrate: Option<PathBuf>,
    /// Shape of an input that an ONNX file leaves open, as 1x576
    #[arg(long, value_name = "INPUT=SHAPE", value_parser = shape)]
    shape: Vec<(String, Vec<usize>)>,
    /// An input of an ONNX file that is always this number: it is built in, and is no input of the image
    #[arg(long, value_name = "INPUT=NUMBER", value_parser = number, allow_negative_numbers = true)]
    constant: Vec<(String, Tensor)>,
    /// An input of an ONNX file that takes, in each run, what this output gave in the run before (zeros in the first): the image
    /// keeps it itself
    #[arg(long, value_name = "INPUT=OUTPUT", value_parser = pair)]
    state: Vec<(String, String)>,
    /// Samples of a sound from one run of a net to the next, if it sees some of them twice [default: as many as it takes]
    #[arg(long, value_name = "N")]
    hop: Option<usize>,
    /// Bits of a net's activations: 16 takes twice the RAM, for nets that 8 harm, such as those that hear raw sound; what only
    /// exists in 8 bits stays so
    #[arg(long, default_value_t = 8, value_parser = bits)]
    activations: u8,
    /// What is taken from a pixel of 0 to 255: one number, or one a channel
    #[arg(long, value_name = "N,..", value_delimiter = ',', allow_negative_numbers = true, default_value = "0")]
    mean: Vec<f32>,
    /// What a pixel is divided by after that; 0 and 255 give [0, 1], 127.5 and 127.5 [-1, 1], 0 and 1 the bytes
    #[arg(long, value_name = "N,..", value_delimiter = ',', default_value = "255")]
    std: Vec<f32>,
    /// Bytes, in per cent of a net's weights in 4 or 5 bits, by which it may grow so that layers which those harm keep 8 bits
    #[arg(long, default_value_t = 5.0, value_name = "PER CENT", value_parser = percent)]
    room: f64,
    /// Most tokens of it that are used
    #[arg(long, default_value_t = 16384, value_name = "N")]
    calibrate_tokens: usize,
    /// Tokenizer: tokenizer.json, tokenizer.model, llama2.c's tokenizer.bin, or GGUF [default: beside the model]
    #[arg(long)]
    tokenizer: Option<PathBuf>,
    /// Rounding that a TensorFlow Lite model of integers was made for
    #[arg(long, value_enum, default_value_t = TfliteRounding::Double)]
    rounding: TfliteRounding,
    /// Tokenizer of the sources, of a model whose encoder has a vocabulary of its own [default: source_tokenizer.json or
    /// source_vocabulary.txt beside the model]
    #[arg(long)]
    source_tokenizer: Option<PathBuf>,
    /// Name of the model [default: the file's]
    #[arg(long)]
    name: Option<String>,
    /// Licence of the model, to be stated in the image
    #[arg(long)]
    license: Option<String>,
    /// Most bytes of the arena (64K is 65536). Of a net, patches are computed one after the other for it, for as few more
    /// multiply-accumulates as may be; "min" is the smallest arena there is. Of a language model, the image's context is the
    /// longest that fits, for one token at a time and one thread
    #[arg(long, value_name = "BYTES", value_parser = ram)]
    ram: Option<Ram>,
    /// Also write a page of what was lost and where: sensitivity and errors by layer and tensor, bits spent, what the float model
    /// and the image make of the same texts. A language model's floats are in memory for it
    #[arg(long, value_name = "FILE.html")]
    report: Option<PathBuf>,
    /// Only these layers of a language model (an encoder's come before the decoder's), each coded as if all before A were exact: the
    /// output is a part for `mote merge`, so that several machines can share a model
    #[arg(long, value_name = "A..B", value_parser = layers, conflicts_with = "report")]
    layers: Option<(usize, Option<usize>)>,
    /// Folder for a language model's finished matrices: the same command goes on from there after a kill, and removes it in the end
    /// [default: OUT.parts]
    #[arg(long, value_name = "DIR")]
    work: Option<PathBuf>,
    /// Bytes of calibration's activations that are held in memory (64M is 67108864); what is more goes to a file in the work folder
    #[arg(long, value_name = "BYTES", default_value = "1G", value_parser = bytes)]
    spill: u64,
    /// Where a language model's floats are computed: cpu, cuda (cuda:N for another GPU than the first) or metal; the GPUs if mote was
    /// built with that feature. Codes can differ in a few last bits from the CPU's
    #[arg(long, value_name = "DEVICE", default_value_t)]
    device: DeviceName,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Summary<'m> {
    image: &'m Path,
    bytes: u64,
    seconds: f64,
    /// Matrices that an earlier run had finished.
    #[serde(skip_serializing_if = "Option::is_none")]
    resumed_matrices: Option<usize>,
    #[serde(flatten)]
    memory: Option<Memory>,
    #[serde(flatten)]
    meta: &'m Meta,
}

/// The arguments of `mote merge`.
#[derive(clap::Args, Debug)]
pub struct MergeArgs {
    /// What `mote quantize --layers` has made, every layer once
    #[arg(required = true)]
    parts: Vec<PathBuf>,
    /// The image to write
    #[arg(short, long)]
    out: PathBuf,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// Runs `mote merge`.
pub fn merge_main(args: &MergeArgs) -> Result<ExitCode> {
    let start = Instant::now();
    let (meta, bytes) = merge(&args.parts, &args.out)?;
    summary(&args.out, &meta, bytes, start, None, None, args.json)
}

/// Runs it.
pub fn main(args: &Args) -> Result<ExitCode> {
    if args.group != 32 {
        bail!("--group is {}; the image format has groups of 32", args.group);
    }
    let (is_net, is_vectors) = (net::is_net(&args.model), import::vectors::is_vectors(&args.model));
    let is_language_model = !is_net && !is_vectors;
    let codebook = args.codebook.unwrap_or(if is_language_model { Codebook::Trellis } else { Codebook::Learned });
    let coding_of = |flag: &str, bits: u8| match (bits, codebook) {
        (3, _) => Ok(Coding::T3),
        (4, Codebook::Learned) => Ok(Coding::N4Learned),
        (4, Codebook::Uniform) => Ok(Coding::N4Uniform),
        (4, Codebook::Trellis) => Ok(Coding::T4),
        (5, _) => Ok(Coding::N5),
        (8, _) => Ok(Coding::N8),
        (bits, _) => bail!("{flag} is {bits}; 3, 4, 5 or 8 are supported"),
    };
    let coding = coding_of("--bits", args.bits)?;
    let head = coding_of("--head-bits", args.head_bits.unwrap_or(args.bits))?;
    if mote_host::Model::open(&args.model).is_ok() {
        bail!("{} is an image already: quantize the float model that it was made from", args.model.display());
    }
    if let Some(path) = &args.report {
        can_write(path)?;
    }
    if args.kv_bits != 8 && !is_language_model {
        bail!("--kv-bits is for language models: {} has no cache of keys and values", args.model.display());
    }
    let start = Instant::now();
    let stem = args.model.file_stem().or(args.model.file_name()).map(|n| n.to_string_lossy().into_owned());
    let name = args.name.clone().or(stem).unwrap_or_else(|| "model".into());
    if (args.layers.is_some() || args.work.is_some()) && !is_language_model {
        bail!("--layers and --work are for language models");
    }
    if args.device != DeviceName::Cpu && !is_language_model {
        bail!("--device is for language models: all else is computed on the CPU");
    }
    if is_net {
        let (license, rounding) = (args.license.clone(), args.rounding.into());
        let open = onnx::Options {
            shapes: args.shape.iter().cloned().collect(),
            constants: args.constant.iter().cloned().collect(),
            states: args.state.iter().cloned().collect(),
        };
        let (float, ram) = (float_net(args, coding)?, args.ram.unwrap_or(Ram::Any));
        let settings = net::Settings { name, license, rounding, open, float, ram };
        let bar = progress(100, "{percent} %");
        let done = net::quantize(&args.model, &settings, &args.out, &mut |share| {
            bar.set_position((100.0 * share) as u64);
        });
        bar.finish_and_clear();
        let (meta, bytes) = done?;
        write_report(args, &meta, bytes, |_| Ok(Findings::default()))?;
        return report(args, &meta, bytes, start);
    }
    if !(args.shape.is_empty() && args.constant.is_empty() && args.state.is_empty()) {
        bail!("--shape, --constant and --state are for ONNX files");
    }
    if is_vectors {
        if args.ram.is_some() {
            bail!("--ram is for nets and language models");
        }
        let settings = net::Settings { license: args.license.clone(), ..net::Settings::new(name) };
        let (meta, bytes) = vectors::quantize(&args.model, coding, &settings, &args.out)?;
        write_report(args, &meta, bytes, |_| page::vectors(&args.model, &args.out, &meta.tensors))?;
        return report(args, &meta, bytes, start);
    }
    let device = args.device.open()?;
    let model = import::open_model(&args.model)?;
    let config = model.config();
    let count = config.layers + config.encoder.as_ref().map_or(0, |e| e.layers);
    if config.embeds() && (args.bpw.is_some() || args.report.is_some()) {
        bail!(
            "--bpw and --report compare what models write; {} gives embeddings: see `mote eval`",
            args.model.display()
        );
    }
    let context = context(args, config)?;
    let vocabulary = tokenizer::find(&args.model, args.tokenizer.as_deref(), config.vocab)?;
    let source = match &config.encoder {
        Some(encoder) if !encoder.shared => {
            tokenizer::find_source(&args.model, args.source_tokenizer.as_deref(), encoder.vocab)?
        }
        _ if args.source_tokenizer.is_some() => {
            bail!("--source-tokenizer is for models whose encoder has a vocabulary of its own")
        }
        _ => None,
    };
    let notes: Vec<String> = vocabulary.iter().chain(&source).flat_map(|v| v.warnings.clone()).collect();
    let ends = vocabulary.as_ref().map_or_else(Vec::new, |v| v.ends.clone());
    let text = vocabulary.map(|v| v.to_bytes());
    let source_text = source.map(|v| v.to_bytes());
    if text.is_none() {
        eprintln!("no tokenizer beside the model: the image will take and give token ids only (see --tokenizer)");
    }
    for warning in model.warnings().iter().chain(&notes) {
        eprintln!("note: {warning}");
    }
    let calibration = match &config.encoder {
        None => Text::windows(&calibration_tokens(args, text.as_deref(), config.vocab)?, config.max_context),
        Some(encoder) => {
            let reads = if encoder.shared { &text } else { &source_text };
            let sources = calibration_sources(args, reads.as_deref(), encoder.vocab)?;
            if config.embeds() {
                calibrate::sources(&sources, config.max_context, args.calibrate_tokens)
            } else {
                calibrate::translations(
                    &FloatModel::load_on(&*model, &device)?,
                    &sources,
                    &ends,
                    args.calibrate_tokens,
                )?
            }
        }
    };
    let settings = Settings {
        rounding: args.method.into(),
        balance: !args.no_balance,
        head,
        budget: args.bpw,
        context,
        kv_bits: args.kv_bits,
        license: args.license.clone(),
        layers: args.layers.map(|(first, end)| first..end.unwrap_or(count)),
        spill: args.spill,
        device,
        ..Settings::new(name, coding, calibration)
    };
    let key = Key::new(&*model, &settings)?;
    let folder = args.work.clone().unwrap_or_else(|| Work::beside(&args.out));
    let work = Work::open(&folder, &key)?;
    let resumed = say_found(&work);

    let matrices = lower::weights(config).into_iter().map(|w| w.shape).filter(|shape| shape.len() == 2);
    let total = matrices.map(|shape| 4 * shape.iter().product::<usize>() as u64).sum();
    let bar = progress(total, "{bytes}/{total_bytes}");
    let texts = [(section::TEXT, &text), (section::SOURCE_TEXT, &source_text)];
    let texts: Vec<(u32, &[u8])> = texts.iter().filter_map(|(kind, text)| Some((*kind, text.as_deref()?))).collect();
    let mut progress = |name: &str, bytes: u64| {
        bar.set_message(name.to_owned());
        bar.inc(bytes);
    };
    let done = if settings.layers.is_some() {
        quantize_layers(work, &key, &*model, &texts, &settings, &args.out, &mut progress).map(Done::Layers)
    } else {
        let done = quantize_in(work, &key, &*model, &texts, &settings, &args.out, &mut progress);
        done.map(|(meta, bytes)| Done::Image(Box::new(meta), bytes))
    };
    bar.finish_and_clear();
    match done {
        Ok(Done::Image(meta, bytes)) => {
            if args.report.is_some() {
                let longest = context.unwrap_or(config.max_context);
                let tried = match &config.encoder {
                    Some(_) => cost::translated(&settings.calibration),
                    None => {
                        let seen: Vec<u32> = settings.calibration.iter().flat_map(|t| t.tokens.clone()).collect();
                        let given = calibration_text(args, args.calibrate_tokens.saturating_add(cost::HELD))?;
                        cost::tried(text.as_deref(), given.as_deref(), &seen, longest)?
                    }
                };
                write_report(args, &meta, bytes, |progress| {
                    page::language_model(&*model, &args.out, &settings, &tried, progress)
                })?;
            }
            summary(&args.out, &meta, bytes, start, Some(resumed), memory(args)?, args.json)
        }
        Ok(Done::Layers(bytes)) => {
            let seconds = start.elapsed().as_secs_f64();
            let part = Part { part: &args.out, bytes, seconds, resumed_matrices: resumed, key: &key };
            part.print(args.json)
        }
        Err(why) => {
            if folder.exists() {
                eprintln!("{}: what was finished; the same command takes it from there", folder.display());
            }
            Err(why.into())
        }
    }
}

/// What a run of a language model has made.
enum Done {
    Image(Box<Meta>, u64),
    Layers(u64),
}

/// Some layers of a model, for `mote merge`.
#[derive(Serialize)]
struct Part<'p> {
    part: &'p Path,
    bytes: u64,
    seconds: f64,
    resumed_matrices: usize,
    #[serde(flatten)]
    key: &'p Key,
}

impl Part<'_> {
    fn print(&self, json: bool) -> Result<ExitCode> {
        if json {
            print_json(self)?;
            return Ok(ExitCode::SUCCESS);
        }
        let Self { part, bytes, seconds, key: Key { range, layers, .. }, .. } = self;
        let (part, bytes, range) = (part.display(), format!("{bytes} bytes ({})", size(*bytes)), range.clone());
        writeln!(
            std::io::stdout(),
            "{part}: layers {}..{} of {layers}, {bytes}, in {seconds:.1} s",
            range.start,
            range.end
        )?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Says what a work folder holds; returns how many finished matrices.
fn say_found(work: &Work) -> usize {
    let (folder, found) = (work.folder().display(), &work.found);
    if let Some(other) = &found.other {
        eprintln!("{folder}: what was finished there is of {other}: starting anew");
    }
    if found.damaged > 0 {
        eprintln!("{folder}: {} files are damaged: what they held is computed again", found.damaged);
    }
    if found.matrices > 0 {
        eprintln!("{folder}: an earlier run has finished {} matrices: going on from there", found.matrices);
    }
    found.matrices
}

/// A range of layers: A..B, A.., ..B.
fn layers(text: &str) -> Result<(usize, Option<usize>), String> {
    let expected = "a range of layers is expected, such as 0..8 (layers 0 to 7), 8.. or ..8";
    let (first, end) = text.split_once("..").ok_or(expected)?;
    let number = |text: &str| text.parse::<usize>().map_err(|_| expected);
    let first = if first.is_empty() { 0 } else { number(first)? };
    Ok((first, if end.is_empty() { None } else { Some(number(end)?) }))
}

/// Writes the page of `--report`, of what `measure` finds.
fn write_report(
    args: &Args,
    meta: &Meta,
    bytes: u64,
    measure: impl FnOnce(&mut dyn FnMut(&str)) -> Result<Findings, ReportError>,
) -> Result<()> {
    let Some(path) = &args.report else { return Ok(()) };
    let bar = progress(0, "report,");
    let found = measure(&mut |what| bar.set_message(what.to_owned()));
    bar.finish_and_clear();
    write_file(path, page::page(meta, bytes, &found?)?.as_bytes())?;
    eprintln!("{}: the report", path.display());
    Ok(())
}

/// `INPUT=VALUE`.
fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("an input's name, = and a value are expected")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// `INPUT=1x576`.
fn shape(text: &str) -> Result<(String, Vec<usize>), String> {
    let (name, shape) = pair(text)?;
    let dims = shape.split(['x', ',']).map(|d| d.parse::<usize>().map_err(|_| format!("{d:?} is no dimension")));
    Ok((name, dims.collect::<Result<_, _>>()?))
}

/// `INPUT=16000`.
fn number(text: &str) -> Result<(String, Tensor), String> {
    let (name, number) = pair(text)?;
    let data = match (number.parse::<i64>(), number.parse::<f32>()) {
        (Ok(integer), _) => Data::Int(vec![integer]),
        (_, Ok(float)) => Data::F32(vec![float]),
        _ => return Err(format!("{number:?} is no number")),
    };
    Ok((name, Tensor { shape: vec![], data }))
}

/// Bits of an activation.
fn bits(text: &str) -> Result<u8, String> {
    match text {
        "8" => Ok(8),
        "16" => Ok(16),
        _ => Err("8 or 16 is expected".into()),
    }
}

fn kv_bits(text: &str) -> Result<u8, String> {
    match text {
        "8" => Ok(8),
        "4" => Ok(4),
        _ => Err("8 or 4 is expected".into()),
    }
}

fn ram(text: &str) -> Result<Ram, String> {
    if text == "min" { Ok(Ram::Least) } else { bytes(text).map(Ram::Bytes).map_err(|why| why + ", or \"min\"") }
}

/// The context of a language model's image: what is asked for, or what `--ram` leaves.
fn context(args: &Args, config: &LlmConfig) -> Result<Option<usize>> {
    let room = match args.ram {
        None | Some(Ram::Any) => return Ok(args.context),
        Some(Ram::Least) => bail!("--ram min is for nets: a language model takes less the shorter its --context is"),
        Some(Ram::Bytes(room)) => room,
    };
    let longest = longest_context(config, args.kv_bits, config.max_context, room).map_err(|least| {
        anyhow!("--ram is {room}; a context of one token takes {least} bytes already, one token at a time")
    })?;
    match args.context {
        Some(asked) if asked > longest && asked <= config.max_context => {
            bail!("--ram is {room}; the longest context that fits, one token at a time, is {longest} (not {asked})")
        }
        Some(asked) => Ok(Some(asked)),
        None => {
            eprintln!("a context of {longest} (of {}) fits, one token at a time", config.max_context);
            Ok(Some(longest))
        }
    }
}

fn percent(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(x) if (0.0..=100.0).contains(&x) => Ok(x),
        _ => Err("a number from 0 to 100 is expected".into()),
    }
}

/// What a net of floats is quantized with, if there is anything to calibrate it with.
fn float_net(args: &Args, coding: Coding) -> Result<Option<net::Float>> {
    let Some(samples) = args.calibrate.clone() else { return Ok(None) };
    if args.std.iter().any(|s| *s == 0.0 || !s.is_finite()) || args.mean.iter().any(|m| !m.is_finite()) {
        bail!("--mean {:?} --std {:?}: finite numbers are expected, and none of --std may be 0", args.mean, args.std);
    }
    let scaling = Some(Scaling { mean: args.mean.clone(), std: args.std.clone() });
    let mut settings = integers::Settings::bits(args.bits, coding);
    (settings.room, settings.int16) = (args.room / 100.0, args.activations == 16);
    Ok(Some(net::Float { samples, scaling, hop: args.hop, settings }))
}

fn report(args: &Args, meta: &Meta, bytes: u64, start: Instant) -> Result<ExitCode> {
    summary(&args.out, meta, bytes, start, None, memory(args)?, args.json)
}

/// Says what became of a model.
fn summary(
    image: &Path,
    meta: &Meta,
    bytes: u64,
    start: Instant,
    resumed_matrices: Option<usize>,
    memory: Option<Memory>,
    json: bool,
) -> Result<ExitCode> {
    let summary = Summary { image, bytes, seconds: start.elapsed().as_secs_f64(), resumed_matrices, memory, meta };
    if json {
        print_json(&summary)?;
    } else {
        print(&summary)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The text of `--calibrate`, as much of it as may take so many tokens.
fn calibration_text(args: &Args, tokens: usize) -> Result<Option<String>> {
    let Some(path) = &args.calibrate else { return Ok(None) };
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    // What is more than this cannot be used, and a cut inside a character does no harm.
    let most = tokens.saturating_mul(16).min(bytes.len());
    Ok(Some(String::from_utf8_lossy(&bytes[..most]).into_owned()))
}

/// Sources to calibrate an encoder with, one a line.
fn calibration_sources(args: &Args, text: Option<&[u8]>, vocab: usize) -> Result<Vec<Vec<u32>>> {
    let given = calibration_text(args, args.calibrate_tokens)?;
    let lines = |section: &[u8], text: &str| -> Result<Vec<Vec<u32>>, _> {
        text.lines().filter(|line| !line.is_empty()).map(|line| tokenizer::encode(section, line, false)).collect()
    };
    let known = match (text, &given) {
        (Some(section), Some(given)) => Some(lines(section, given).context("the calibration text")?),
        // A vocabulary of one script's characters has no tokens for the built-in text.
        (Some(section), None) => lines(section, calibrate::TEXT).ok(),
        (None, Some(_)) => {
            bail!("--calibrate needs a tokenizer of the sources: give one with --tokenizer or --source-tokenizer")
        }
        (None, None) => None,
    };
    // Without a text: every id about as often as any other.
    let id = |i: u64| ((i * 2_654_435_761) % vocab as u64) as u32;
    let known = known.unwrap_or_else(|| (0..64u64).map(|line| (16 * line..16 * line + 16).map(id).collect()).collect());
    if known.iter().all(Vec::is_empty) {
        bail!("the calibration text has no tokens");
    }
    Ok(known)
}

fn calibration_tokens(args: &Args, text: Option<&[u8]>, vocab: usize) -> Result<Vec<u32>> {
    let given = calibration_text(args, args.calibrate_tokens)?;
    let mut tokens = match text {
        Some(section) => tokenizer::encode(section, given.as_deref().unwrap_or(calibrate::TEXT), false)
            .context("the calibration text")?,
        None if given.is_some() => bail!("--calibrate needs a tokenizer: give one with --tokenizer"),
        // Without a tokenizer: every id about as often as any other.
        None => (0..1024u64).map(|i| ((i * 2_654_435_761) % vocab as u64) as u32).collect(),
    };
    tokens.truncate(args.calibrate_tokens);
    if tokens.is_empty() {
        bail!("the calibration text has no tokens");
    }
    Ok(tokens)
}

/// What `--ram` has come to.
#[derive(Serialize)]
struct Memory {
    arena_bytes: u64,
    /// Multiply-accumulates of a run of a net.
    #[serde(skip_serializing_if = "Option::is_none")]
    macs: Option<u64>,
}

fn memory(args: &Args) -> Result<Option<Memory>> {
    if args.ram.is_none() {
        return Ok(None);
    }
    let model = mote_host::Model::open(&args.out)?;
    let context = model.image().plan().max_context;
    let arena_bytes = model.image().arena_bytes(Limits { batch: 1, context, threads: 1 })?;
    let macs = (!model.image().plan().takes_tokens()).then(|| macs::macs(model.image()));
    Ok(Some(Memory { arena_bytes, macs }))
}

fn print(summary: &Summary<'_>) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let Meta { config, tensors, .. } = summary.meta;
    match config {
        Some(c) => writeln!(
            out,
            "{}: {} ({} layers, width {}, {} heads on {}, vocabulary {})",
            summary.meta.name,
            c.architecture,
            c.encoder.as_ref().filter(|_| c.embeds()).map_or(c.layers, |e| e.layers),
            c.dim,
            c.heads,
            c.kv_heads,
            c.vocab
        )?,
        None if summary.meta.calibration_samples > 0 => {
            let samples = summary.meta.calibration_samples;
            writeln!(out, "{}: a net of floats, calibrated on {samples} inputs", summary.meta.name)?;
        }
        None => writeln!(out, "{}: a net in the integers it was quantized to", summary.meta.name)?,
    }
    writeln!(out, "{:44} {:>14} {:>5} {:>12} {:>12}  int32", "tensor", "shape", "bits", "bytes", "rel. error")?;
    for t in tensors {
        let shape = t.shape.iter().map(usize::to_string).collect::<Vec<_>>().join("x");
        let proof = match (t.shape.len(), t.fits_i32) {
            (2, true) => "every row fits",
            (2, false) => "in stretches",
            _ => "",
        };
        writeln!(out, "{:44} {shape:>14} {:>5} {:>12} {:>12.5}  {proof}", t.name, t.bits, t.bytes, t.relative_error)?;
    }
    writeln!(
        out,
        "{}: {} bytes ({}), {} parameters, {:.3} bits per weight, in {:.1} s",
        summary.image.display(),
        summary.bytes,
        size(summary.bytes),
        summary.meta.parameters,
        summary.meta.bits_per_weight,
        summary.seconds
    )?;
    for patches in &summary.meta.patches {
        writeln!(out, "{patches}")?;
    }
    if let Some(Memory { arena_bytes, macs }) = summary.memory {
        let macs = macs.map_or_else(String::new, |macs| format!(", {macs} multiply-accumulates"));
        writeln!(out, "arena: {arena_bytes} bytes ({}){macs}", size(arena_bytes))?;
    }
    Ok(())
}

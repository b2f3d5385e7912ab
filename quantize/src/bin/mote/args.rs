//! What several subcommands share: flags, opening files, printing.

use anyhow::{Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use mote_host::{Model, Threads};
use mote_quantize::quantize::Meta;
pub use mote_quantize::report::size;
use mote_quantize::write::write_file;
use mote_runtime::image::{Limits, section};
use mote_runtime::sample::{ONE, Params};
use npyz::WriterBuilder;
use serde::Serialize;
use std::io::Write;
use std::path::Path;

/// How the next token is chosen.
#[derive(clap::Args, Clone, Debug)]
pub struct Sampling {
    /// Temperature; 0 always takes the most likely token
    #[arg(long, default_value_t = 0.8, allow_negative_numbers = true, value_parser = fraction(65535.0))]
    pub temperature: f64,
    /// Keep only the K most likely tokens; 0 keeps all
    #[arg(long, default_value_t = 40)]
    pub top_k: u32,
    /// Keep the fewest tokens that hold this share of the probability
    #[arg(long, default_value_t = 0.95, allow_negative_numbers = true, value_parser = fraction(1.0))]
    pub top_p: f64,
    /// Keep tokens at least this likely relative to the most likely one
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true, value_parser = fraction(1.0))]
    pub min_p: f64,
    /// Divide the logits of recent tokens by this
    #[arg(long, default_value_t = 1.0, allow_negative_numbers = true, value_parser = fraction(65535.0))]
    pub repeat_penalty: f64,
    /// How many tokens are recent
    #[arg(long, default_value_t = 64, value_name = "N")]
    pub repeat_last: u32,
    /// Seed of the random numbers: the same seed gives the same text on every device [default: from the clock]
    #[arg(long)]
    pub seed: Option<u64>,
}

impl Sampling {
    /// As the runtime takes them.
    pub fn params(&self) -> Params {
        let q16 = |x: f64| (x * f64::from(ONE)).round() as u32;
        Params {
            temperature: q16(self.temperature),
            top_k: self.top_k,
            top_p: q16(self.top_p),
            min_p: q16(self.min_p),
            repeat_penalty: q16(self.repeat_penalty),
            repeat_last: self.repeat_last,
        }
    }

    /// The seed, or one from the clock.
    pub fn seed(&self) -> u64 {
        let clock = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        self.seed.unwrap_or_else(|| clock().map_or(0, |d| d.as_nanos() as u64 & 0xFFFF_FFFF))
    }
}

/// A parser of numbers from 0 to `most`.
fn fraction(most: f64) -> impl Fn(&str) -> Result<f64, String> + Clone + Send + Sync + 'static {
    move |text| match text.parse::<f64>() {
        Ok(x) if (0.0..=most).contains(&x) => Ok(x),
        _ => Err(format!("a number from 0 to {most} is expected")),
    }
}

/// What is computed at a time, and by whom. Neither changes a result.
#[derive(clap::Args, Clone, Copy, Debug)]
pub struct Compute {
    /// Tokens of the prompt that are processed at a time
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub batch: u32,
    #[command(flatten)]
    pub workers: Workers,
}

impl Compute {
    /// Limits of a session over `model` with this context, or the longest that it allows.
    pub fn limits(self, model: &Model, context: u32) -> Limits {
        model.limits(self.batch, context, self.workers.threads)
    }
}

/// Who computes. How many changes no result.
#[derive(clap::Args, Clone, Copy, Debug)]
pub struct Workers {
    /// Threads
    #[arg(long, default_value_t = default_threads(), value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub threads: u32,
}

impl Workers {
    /// The threads, started.
    pub fn pool(self) -> Threads {
        Threads::new(self.threads as usize)
    }

    /// Limits of a session over a net without tokens.
    pub fn limits(self) -> Limits {
        Limits { batch: 1, context: 1, threads: self.threads }
    }
}

fn default_threads() -> u32 {
    std::thread::available_parallelism().map_or(1, |n| n.get().min(1024) as u32)
}

/// Maps an image.
pub fn open(path: &Path) -> Result<Model> {
    Model::open(path).map_err(|why| match why {
        mote_host::HostError::Image(path, mote_runtime::Error::NotAnImage) => anyhow::anyhow!(
            "{} is not a .mote image; `mote quantize {} -o X.mote` may make one of it",
            path.display(),
            path.display()
        ),
        why => anyhow::anyhow!(why),
    })
}

/// Maps the image of a language model.
pub fn open_language_model(path: &Path) -> Result<Model> {
    let model = open(path)?;
    ensure_language_model(&model, path)?;
    Ok(model)
}

/// An error that says what is for a model without tokens.
pub fn ensure_language_model(model: &Model, path: &Path) -> Result<()> {
    if model.image().plan().vocab == 0 {
        let verb = if model.embeds() { "embed" } else { "infer" };
        bail!("{} is no language model that writes: `mote {verb}` runs it", path.display());
    }
    Ok(())
}

/// What the image says of itself, if it was made by `mote quantize`.
pub fn meta(model: &Model) -> Option<Meta> {
    serde_json::from_slice(model.image().section(section::META).ok()?).ok()
}

/// Ids separated by commas.
pub fn ids(text: &str) -> Result<Vec<u32>> {
    let id = |word: &str| word.trim().parse::<u32>().ok();
    match text.split(',').map(id).collect::<Option<Vec<u32>>>() {
        Some(ids) => Ok(ids),
        None => bail!("--tokens is {text:?}; ids separated by commas are expected, such as 1,403,407"),
    }
}

/// Prints a value as one line of JSON.
pub fn print_json(value: &impl Serialize) -> Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, value).map_err(std::io::Error::from)?;
    writeln!(out)?;
    Ok(())
}

/// A progress bar over `total`, shown on terminals only. `counts` says them: indicatif's keys.
pub fn progress(total: u64, counts: &str) -> ProgressBar {
    let bar = ProgressBar::new(total);
    if let Ok(style) = ProgressStyle::with_template(&format!("{{bar:30}} {counts} {{eta}} left  {{msg}}")) {
        bar.set_style(style);
    }
    bar
}

/// A number of bytes as people write it: 65536, 64K, 64KB or 64KiB, all the same; so with M and G.
pub fn bytes(text: &str) -> Result<u64, String> {
    let upper = text.trim().to_ascii_uppercase();
    let digits = upper.trim_end_matches(|c: char| !c.is_ascii_digit());
    let shift = match upper[digits.len()..].trim_start() {
        "" | "B" => 0,
        "K" | "KB" | "KIB" => 10,
        "M" | "MB" | "MIB" => 20,
        "G" | "GB" | "GIB" => 30,
        _ => 64,
    };
    let bytes = digits.parse::<u64>().ok().and_then(|n| n.checked_mul(1u64.checked_shl(shift)?));
    bytes.ok_or_else(|| "a number of bytes is expected, such as 65536 or 64K".into())
}

/// Writes an array as NumPy has it, or leaves the file that was there.
pub fn write_npy<T: npyz::AutoSerialize>(path: &Path, shape: &[u64], values: impl Iterator<Item = T>) -> Result<()> {
    let mut bytes = vec![];
    let options = npyz::WriteOptions::<T>::new().default_dtype().shape(shape).writer(&mut bytes);
    let mut npy = options.begin_nd()?;
    npy.extend(values)?;
    npy.finish()?;
    Ok(write_file(path, &bytes)?)
}

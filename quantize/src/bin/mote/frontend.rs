//! `mote frontend`.

use crate::args;
use anyhow::{Context, Result, bail};
use mote_quantize::frontend::Frontend;
use mote_quantize::lower;
use mote_quantize::net::{Described, save};
use mote_runtime::fixed::tflite::Rounding;
use mote_runtime::image::Dtype;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Kinds of features.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Features {
    /// Mel-frequency cepstral coefficients: the DCT of the logarithms
    Mfcc,
    /// The logarithms of the mel filters
    LogMel,
}

/// The arguments; without options they are MLPerf Tiny's for keyword spotting.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Features
    #[arg(value_enum)]
    kind: Features,
    /// The image to write
    #[arg(short, long)]
    out: PathBuf,
    /// The image that will read the features: they get the scale and zero point of its input [default: from silence to the
    /// loudest tone]
    #[arg(long = "for", value_name = "IMAGE")]
    reader: Option<PathBuf>,
    /// Samples a second
    #[arg(long, default_value_t = 16_000, value_parser = clap::value_parser!(u32).range(1..=384_000))]
    rate: u32,
    /// Milliseconds of a window
    #[arg(long, default_value_t = 30.0, value_name = "MS")]
    window: f64,
    /// Milliseconds from one window to the next
    #[arg(long, default_value_t = 20.0, value_name = "MS")]
    step: f64,
    /// Mel filters
    #[arg(long, default_value_t = 40, value_name = "N")]
    bins: usize,
    /// Coefficients that are kept, of MFCCs
    #[arg(long, default_value_t = 10, value_name = "N")]
    coefficients: usize,
    /// Where the lowest filter begins, Hz
    #[arg(long, default_value_t = 20.0, value_name = "HZ")]
    low: f64,
    /// Where the highest filter ends, Hz
    #[arg(long, default_value_t = 4000.0, value_name = "HZ")]
    high: f64,
}

/// Runs it.
pub fn main(args: &Args) -> Result<ExitCode> {
    let samples = |ms: f64| (ms * f64::from(args.rate) / 1000.0).round() as usize;
    let frontend = Frontend {
        rate: args.rate,
        window: samples(args.window),
        step: samples(args.step),
        bins: args.bins,
        coefficients: (args.kind == Features::Mfcc).then_some(args.coefficients),
        range: [args.low, args.high],
        quant: args.reader.as_deref().map(input_of).transpose()?,
    };
    let lowered =
        lower::net(&frontend.graph()?, Rounding::Double).map_err(|missing| anyhow::anyhow!(missing.join("; ")))?;
    let name = if args.kind == Features::Mfcc { "mfcc" } else { "log-mel" };
    let described = Described { name, license: None, hash: [0; 32], bits: 8, samples: 0 };
    let (_, bytes) = save(&lowered, &described, None, &args.out)?;
    writeln!(
        std::io::stdout(),
        "{}: {}; {} samples a run, features of the last {}",
        args.out.display(),
        args::size(bytes),
        frontend.step,
        frontend.window
    )?;
    Ok(ExitCode::SUCCESS)
}

/// Scale and zero point of the first input of an image.
fn input_of(path: &Path) -> Result<(f32, i32)> {
    let model = args::open(path)?;
    let port = model.image().ports().inputs().next().with_context(|| format!("{} has no inputs", path.display()))?;
    if port.dtype != Dtype::I8 || port.mantissa == 0 {
        bail!("{} takes {:?}, not int8 with a scale", path.display(), port.dtype);
    }
    Ok(((f64::from(port.mantissa) * 2f64.powi(-port.exponent)) as f32, port.zero_point))
}

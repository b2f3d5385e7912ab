//! `mote infer`.

use crate::args::{self, Workers};
use anyhow::{Context, Result, bail, ensure};
use mote_host::Arena;
use mote_host::runtime::image::{Dtype, Element, Port};
use mote_quantize::graph::Data;
use mote_quantize::samples::{self, Scaling};
use mote_quantize::write::write_file;
use std::fs::File;
use std::io::{BufReader, Cursor, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// The arguments.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The image
    image: PathBuf,
    /// An array (.npy), picture (.png, .jpg, .bmp) or 16 kHz sound (.wav), one for each input. An array of the net's own
    /// integers (`mote inspect` says which) goes in as it is; other numbers, pixels and sounds are brought to its scale. What holds
    /// several inputs one after another is run one after another, and a net with a state keeps it
    #[arg(long, required = true, value_name = "FILE")]
    input: Vec<PathBuf>,
    /// Write output 0 there: an array of its own integers (.npy), or a picture (.png) [default: print the largest values of
    /// each output]
    #[arg(short, long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// How many values are printed
    #[arg(long, default_value_t = 5, value_name = "N")]
    top: usize,
    /// Names of output 0's elements, a line each
    #[arg(long, value_name = "FILE")]
    labels: Option<PathBuf>,
    /// Samples of a sound from one run to the next [default: as many as the net takes]
    #[arg(long, value_name = "N")]
    hop: Option<usize>,
    /// What is taken from a pixel of 0 to 255: one number, or one a channel [default: by the input's range]
    #[arg(long, value_name = "N,..", value_delimiter = ',', allow_negative_numbers = true, requires = "std")]
    mean: Vec<f32>,
    /// What a pixel is divided by after that
    #[arg(long, value_name = "N,..", value_delimiter = ',', requires = "mean")]
    std: Vec<f32>,
    #[command(flatten)]
    workers: Workers,
}

/// Evaluates `$body` with `$t` the type of the elements that a port has.
macro_rules! with_type {
    ($port:expr, $t:ident => $body:expr) => {
        match $port.dtype {
            Dtype::U8 => {
                type $t = u8;
                $body
            }
            Dtype::I16 => {
                type $t = i16;
                $body
            }
            Dtype::I32 => {
                type $t = i32;
                $body
            }
            // The image's check lets no others through.
            _ => {
                type $t = i8;
                $body
            }
        }
    };
}

/// Runs it.
pub fn main(args: &Args) -> Result<ExitCode> {
    let model = args::open(&args.image)?;
    let image = model.image();
    let inputs: Vec<Port> = image.ports().inputs().collect();
    ensure!(!inputs.is_empty(), "{} has no inputs: language models are for `mote run`", args.image.display());
    ensure!(inputs.len() == args.input.len(), "{} inputs are needed: give --input for each", inputs.len());
    let labels = args.labels.as_deref().map(labels).transpose()?.unwrap_or_default();
    let scaling = Some(Scaling { mean: args.mean.clone(), std: args.std.clone() }).filter(|s| !s.mean.is_empty());
    let mut given = vec![];
    for ((path, port), index) in args.input.iter().zip(&inputs).zip(0..) {
        given.push(read_bytes(path, port, index, scaling.as_ref(), args.hop)?);
    }
    let runs = given.iter().map(|(_, runs)| *runs).max().unwrap_or(1);
    if let Some(at) = given.iter().position(|(_, count)| *count != runs && *count != 1) {
        bail!("{} holds {} inputs, another one {runs}", args.input[at].display(), given[at].1);
    }
    let pool = args.workers.pool();
    let mut arena = Arena::for_limits(&model, args.workers.limits())?;
    let mut session = model.session(&mut arena, &pool)?;
    let mut kept = vec![];
    for run in 0..runs {
        for (((bytes, count), port), index) in given.iter().zip(&inputs).zip(0..) {
            let one = bytes.len() / *count as usize;
            let at = if *count == 1 { 0 } else { run as usize * one };
            with_type!(port, T => fill(session.input::<T>(index)?, &bytes[at..at + one]));
        }
        session.run()?;
        if args.out.is_none() && runs > 1 {
            writeln!(std::io::stdout(), "run {run}")?;
        }
        for (port, index) in image.ports().outputs().zip(0..) {
            let bytes: Vec<u8> = with_type!(port, T => {
                session.output::<T>(index)?.iter().flat_map(|v| v.to_le_bytes()).collect()
            });
            match &args.out {
                Some(_) if index == 0 => kept.extend(bytes),
                Some(_) if runs > 1 => {}
                _ => print(&bytes, &port, index, args.top, if index == 0 { &labels } else { &[] })?,
            }
        }
    }
    if let (Some(path), Some(mut port)) = (&args.out, image.ports().outputs().next()) {
        if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("png")) {
            write_picture(path, &kept, &port, runs)?;
        } else {
            port.dims[0] *= runs;
            write_bytes(path, &kept, &port)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn labels(path: &Path) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(text.lines().map(|l| l.trim().to_owned()).collect())
}

fn fill<T: Element>(to: &mut [T], bytes: &[u8]) {
    bytemuck::cast_slice_mut(to).copy_from_slice(bytes);
}

/// What NumPy calls the type.
fn numpy_name(dtype: Dtype) -> &'static str {
    match dtype {
        Dtype::U8 => "uint8",
        Dtype::I16 => "int16",
        Dtype::I32 => "int32",
        _ => "int8",
    }
}

/// The array in a file, if it is one of the input's own integers.
fn raw<T: Element + npyz::Deserialize>(path: &Path) -> Option<Vec<T>> {
    let npy = npyz::NpyFile::new(BufReader::new(File::open(path).ok()?)).ok()?;
    (npy.order() == npyz::Order::C).then(|| npy.into_vec::<T>().ok()).flatten()
}

/// The integers that an input gets from a file, as a little-endian machine has them, and how many times over they fill it.
/// `scaling` says what pixels become; without it, what the input's range suggests. `hop`: samples of a sound from one run to
/// the next.
pub fn read_bytes(
    path: &Path,
    port: &Port,
    index: u32,
    scaling: Option<&Scaling>,
    hop: Option<usize>,
) -> Result<(Vec<u8>, u32)> {
    let one = port.elements().unwrap_or(0) as usize;
    let own = with_type!(port, T => raw::<T>(path).map(|values| {
        (values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>(), values.len())
    }));
    if let Some((bytes, elements)) = own {
        if elements == 0 || one == 0 || elements % one != 0 {
            bail!("{} has {elements} elements, input {index} is {:?}: {one}", path.display(), port.shape());
        }
        return Ok((bytes, u32::try_from(elements / one)?));
    }
    let scale = f64::from(port.mantissa) * 2f64.powi(-port.exponent);
    let limits = with_type!(port, T => [T::MIN as f64, T::MAX as f64]);
    let real = |q: f64| ((q - f64::from(port.zero_point)) * scale) as f32;
    let guessed = Scaling::guess(real(limits[0]), real(limits[1]));
    let shape = port.shape().iter().map(|d| *d as usize).collect();
    let integers = port.mantissa == 0;
    let input = samples::Input { name: format!("input {index}"), shape, integers, hop };
    let what = || format!("input {index}, {} {:?}", numpy_name(port.dtype), port.shape());
    let tensors = samples::file(path, &input, scaling.unwrap_or(&guessed)).with_context(what)?;
    let mut bytes = vec![];
    for tensor in &tensors {
        let numbers: Vec<f64> = match &tensor.data {
            Data::F32(floats) => floats.iter().map(|v| f64::from(*v) / scale + f64::from(port.zero_point)).collect(),
            Data::Int(ints) => ints.iter().map(|v| *v as f64).collect(),
        };
        for q in numbers {
            let q = q.round_ties_even().clamp(limits[0], limits[1]);
            with_type!(port, T => bytes.extend((q as T).to_le_bytes()));
        }
    }
    ensure!(!bytes.is_empty(), "{} holds nothing for input {index}", path.display());
    Ok((bytes, u32::try_from(tensors.len())?))
}

/// Writes an output that comes from a little-endian machine.
pub fn write_bytes(path: &Path, bytes: &[u8], port: &Port) -> Result<()> {
    let shape: Vec<u64> = port.shape().iter().map(|d| u64::from(*d)).collect();
    with_type!(port, T => {
        let words = bytes.as_chunks::<{ size_of::<T>() }>().0;
        args::write_npy(path, &shape, words.iter().map(|word| T::from_le_bytes(*word)))
    })
}

/// The integers of an output, and the real numbers that they stand for.
fn numbers(bytes: &[u8], port: &Port) -> Vec<(i64, f64)> {
    let scale = f64::from(port.mantissa) * 2f64.powi(-port.exponent);
    let of = |q: i64| if port.mantissa == 0 { q as f64 } else { (q - i64::from(port.zero_point)) as f64 * scale };
    with_type!(port, T => {
        bytes.as_chunks::<{ size_of::<T>() }>().0.iter().map(|w| i64::from(T::from_le_bytes(*w))).map(|q| (q, of(q))).collect()
    })
}

/// The largest values, each with its index (or name), its integer, and what that stands for.
fn print(bytes: &[u8], port: &Port, index: u32, top: usize, labels: &[String]) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let values = numbers(bytes, port);
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by_key(|i| std::cmp::Reverse(values[*i].0));
    writeln!(out, "output {index}: {:>6} {:>8} {:>12}", "index", "integer", "value")?;
    for i in order.into_iter().take(top) {
        let (integer, value) = values[i];
        let label = labels.get(i).map_or("", String::as_str);
        let line = format!("{i:>16} {integer:>8} {value:>12.6}  {label}");
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

/// Writes pictures, the outputs of all runs side by side in rows. Numbers from -1 to 1, from 0 to 1 or from 0 to 255, as the
/// output's range has it, become black to white.
fn write_picture(path: &Path, bytes: &[u8], port: &Port, runs: u32) -> Result<()> {
    let shape = match *port.shape() {
        [1, h, w, c @ (1 | 3)] | [h, w, c @ (1 | 3)] => Some([h, w, c]),
        // Channels first, or one row of a square.
        [1, 1, h, w] => Some([h, w, 1]),
        [1, n] | [n] if n.isqrt().pow(2) == n => Some([n.isqrt(), n.isqrt(), 1]),
        _ => None,
    };
    let Some([height, width, channels]) = shape else {
        bail!("output 0 is {:?}, no picture: write it as .npy", port.shape());
    };
    let values = numbers(bytes, port);
    let limits = with_type!(port, T => [T::MIN as f64, T::MAX as f64]);
    let scale = f64::from(port.mantissa) * 2f64.powi(-port.exponent);
    let [low, high] = limits.map(|q| (q - f64::from(port.zero_point)) * scale);
    let (black, white) = match (low, high) {
        (_, high) if high > 16.0 => (0.0, 255.0),
        (low, _) if low < -0.25 => (-1.0, 1.0),
        _ => (0.0, 1.0),
    };
    let across = (f64::from(runs).sqrt().ceil() as u32).max(1);
    let down = runs.div_ceil(across);
    let mut picture = image::RgbImage::new(across * width, down * height);
    for (i, (_, value)) in values.iter().enumerate() {
        let i = i as u32;
        let (channel, pixel) = (i % channels, i / channels);
        let (x, y, run) = (pixel % width, pixel / width % height, pixel / width / height);
        let light = ((value - black) / (white - black) * 255.0).round().clamp(0.0, 255.0) as u8;
        let to = picture.get_pixel_mut(run % across * width + x, run / across * height + y);
        if channels == 1 {
            to.0 = [light; 3];
        } else {
            to.0[channel as usize] = light;
        }
    }
    let mut bytes = vec![];
    picture.write_to(&mut Cursor::new(&mut bytes), image::ImageFormat::Png)?;
    Ok(write_file(path, &bytes)?)
}

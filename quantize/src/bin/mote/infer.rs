//! `mote infer`.

use crate::args;
use anyhow::{Context, Result, bail, ensure};
use mote_host::Arena;
use mote_host::runtime::Session;
use mote_host::runtime::image::{Dtype, Element, Limits, Port};
use npyz::WriterBuilder;
use std::fmt::Display;
use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// The arguments.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The image
    image: PathBuf,
    /// An array of integers as the net takes it (`mote inspect` says which), one for each input
    #[arg(long, required = true, value_name = "X.npy")]
    input: Vec<PathBuf>,
    /// Write output 0 there, in its own integers [default: print the largest values of each output]
    #[arg(short, long, value_name = "X.npy")]
    out: Option<PathBuf>,
    /// How many values are printed
    #[arg(long, default_value_t = 5, value_name = "N")]
    top: usize,
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
    let limits = Limits { batch: 1, context: 1, threads: 1 };
    let mut arena = Arena::for_limits(&model, limits)?;
    let mut session = Session::new(image, arena.bytes(), limits)?;
    for ((path, port), index) in args.input.iter().zip(&inputs).zip(0..) {
        with_type!(port, T => fill(session.input::<T>(index)?, path, port, index)?);
    }
    session.run()?;
    for (port, index) in image.ports().outputs().zip(0..) {
        with_type!(port, T => {
            let values = session.output::<T>(index)?;
            match &args.out {
                Some(path) if index == 0 => write(path, values, &port)?,
                _ => print(values, &port, index, args.top)?,
            }
        });
    }
    Ok(ExitCode::SUCCESS)
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

/// Reads the array in a file, which has the input's type.
fn read<T: Element + npyz::Deserialize>(path: &Path, index: u32) -> Result<Vec<T>> {
    let what =
        || format!("cannot read {} as an array of {}, as input {index} is", path.display(), numpy_name(T::DTYPE));
    let npy = npyz::NpyFile::new(BufReader::new(File::open(path).with_context(what)?)).with_context(what)?;
    ensure!(npy.order() == npyz::Order::C, "{} is in Fortran order: save it in C order", path.display());
    npy.into_vec::<T>().with_context(what)
}

/// Reads the array in a file, which has the input's type and number of elements.
fn fill<T: Element + npyz::Deserialize>(to: &mut [T], path: &Path, port: &Port, index: u32) -> Result<()> {
    let values = read::<T>(path, index)?;
    if values.len() != to.len() {
        bail!("{} has {} elements, input {index} is {:?}: {}", path.display(), values.len(), port.shape(), to.len());
    }
    to.copy_from_slice(&values);
    Ok(())
}

/// The integers of an array as a little-endian machine has them, and how many times over they fill the input.
pub fn read_bytes(path: &Path, port: &Port, index: u32) -> Result<(Vec<u8>, u32)> {
    let (bytes, elements) = with_type!(port, T => {
        let values = read::<T>(path, index)?;
        (values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>(), values.len())
    });
    let one = port.elements().unwrap_or(0) as usize;
    if elements == 0 || one == 0 || elements % one != 0 {
        bail!("{} has {elements} elements, input {index} is {:?}: {one}", path.display(), port.shape());
    }
    Ok((bytes, u32::try_from(elements / one)?))
}

/// Writes an output that comes from a little-endian machine.
pub fn write_bytes(path: &Path, bytes: &[u8], port: &Port) -> Result<()> {
    with_type!(port, T => {
        let (words, _) = bytes.as_chunks::<{ size_of::<T>() }>();
        let values: Vec<T> = words.iter().map(|word| T::from_le_bytes(*word)).collect();
        write(path, &values, port)
    })
}

fn write<T: Element + npyz::AutoSerialize>(path: &Path, values: &[T], port: &Port) -> Result<()> {
    let what = || format!("cannot write {}", path.display());
    let shape: Vec<u64> = port.shape().iter().map(|d| u64::from(*d)).collect();
    let file = BufWriter::new(File::create(path).with_context(what)?);
    let mut npy =
        npyz::WriteOptions::<T>::new().default_dtype().shape(&shape).writer(file).begin_nd().with_context(what)?;
    npy.extend(values.iter().copied()).with_context(what)?;
    npy.finish().with_context(what)
}

/// The largest values, each with its index, its integer, and what that stands for.
fn print<T: Element + Ord + Display + Into<f64>>(values: &[T], port: &Port, index: u32, top: usize) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by_key(|i| std::cmp::Reverse(values[*i]));
    let scale = f64::from(port.mantissa) * 2f64.powi(-port.exponent);
    writeln!(out, "output {index}: {:>6} {:>8} {:>12}", "index", "integer", "value")?;
    for i in order.into_iter().take(top) {
        let value = (values[i].into() - f64::from(port.zero_point)) * scale;
        writeln!(out, "{:>16} {:>8} {value:>12.6}", i, values[i])?;
    }
    Ok(())
}

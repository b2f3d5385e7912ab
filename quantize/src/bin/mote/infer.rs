//! `mote infer`.

use crate::args;
use anyhow::{Context, Result, bail, ensure};
use mote_host::Arena;
use mote_host::runtime::Session;
use mote_host::runtime::image::{Limits, Port};
use npyz::WriterBuilder;
use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// The arguments.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The image
    image: PathBuf,
    /// An array of int8 as the net takes it (`mote inspect` says how), one for each input
    #[arg(long, required = true, value_name = "X.npy")]
    input: Vec<PathBuf>,
    /// Write output 0 there, as int8 [default: print the largest values of each output]
    #[arg(short, long, value_name = "X.npy")]
    out: Option<PathBuf>,
    /// How many values are printed
    #[arg(long, default_value_t = 5, value_name = "N")]
    top: usize,
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
        let values = read(path)?;
        let to = session.input(index)?;
        if values.len() != to.len() {
            bail!(
                "{} has {} elements, input {index} is {:?}: {}",
                path.display(),
                values.len(),
                port.shape(),
                to.len()
            );
        }
        to.copy_from_slice(&values);
    }
    session.run()?;
    for (port, index) in image.ports().outputs().zip(0..) {
        let values = session.output(index)?;
        match &args.out {
            Some(path) if index == 0 => write(path, values, &port)?,
            _ => print(values, &port, index, args.top)?,
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The elements of an array of int8.
pub fn read(path: &Path) -> Result<Vec<i8>> {
    let what = || format!("cannot read {} as an array of int8", path.display());
    let npy = npyz::NpyFile::new(BufReader::new(File::open(path).with_context(what)?)).with_context(what)?;
    ensure!(npy.order() == npyz::Order::C, "{} is in Fortran order: save it in C order", path.display());
    npy.into_vec::<i8>().with_context(what)
}

/// Writes the elements of a port.
pub fn write(path: &Path, values: &[i8], port: &Port) -> Result<()> {
    let what = || format!("cannot write {}", path.display());
    let shape: Vec<u64> = port.shape().iter().map(|d| u64::from(*d)).collect();
    let file = BufWriter::new(File::create(path).with_context(what)?);
    let mut npy =
        npyz::WriteOptions::<i8>::new().default_dtype().shape(&shape).writer(file).begin_nd().with_context(what)?;
    npy.extend(values.iter().copied()).with_context(what)?;
    npy.finish().with_context(what)
}

/// The largest values, each with its index, its integer, and what that stands for.
fn print(values: &[i8], port: &Port, index: u32, top: usize) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by_key(|i| std::cmp::Reverse(values[*i]));
    let scale = f64::from(port.mantissa) * 2f64.powi(-port.exponent);
    writeln!(out, "output {index}: {:>6} {:>8} {:>12}", "index", "integer", "value")?;
    for i in order.into_iter().take(top) {
        let value = f64::from(i32::from(values[i]) - port.zero_point) * scale;
        writeln!(out, "{:>16} {:>8} {value:>12.6}", i, values[i])?;
    }
    Ok(())
}

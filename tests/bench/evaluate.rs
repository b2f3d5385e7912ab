//! A net of floats (.tflite, .onnx) as it is imported, on inputs one after another: what `tests/peers/models.py` sets beside other
//! runtimes' floats.
//!
//!     evaluate-net MODEL INPUT.npy OUT.f32
//!
//! Writes output 0 of each run, little-endian f32, nothing else.

use mote_quantize::graph::eval::Evaluator;
use mote_quantize::graph::{Data, Tensor};
use mote_quantize::import::onnx::Options;
use mote_quantize::net;
use mote_quantize::samples::{Scaling, read};
use std::error::Error;
use std::path::Path;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, input, out] = &arguments[..] else { return Err("evaluate-net MODEL INPUT.npy OUT.f32".into()) };
    let (graph, _) = net::prepared(Path::new(model), &Options::default())?;
    let runs = read(Path::new(input), &net::inputs(&graph, None), &Scaling::one(0.0, 1.0))?;
    let mut evaluator = Evaluator::new(&graph)?;
    let mut bytes = Vec::new();
    for run in &runs {
        match evaluator.run(run)?.first() {
            Some(Tensor { data: Data::F32(floats), .. }) => bytes.extend(floats.iter().flat_map(|v| v.to_le_bytes())),
            _ => return Err("output 0 is not of floats".into()),
        }
    }
    std::fs::write(out, bytes)?;
    Ok(())
}

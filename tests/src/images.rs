//! Nets that are written as images and run with the runtime.

use mote_host::{Arena, Model};
use mote_quantize::graph::{Data, Graph, Tensor};
use mote_quantize::lower::{self, Net};
use mote_quantize::net::{self, Described};
use mote_runtime::fixed::tflite::Rounding;
use mote_runtime::image::{Dtype, Limits, Port};
use mote_runtime::{Error, Session};

/// What a net of one run at a time is opened with.
pub const LIMITS: Limits = Limits { batch: 1, context: 1, threads: 1 };

/// Writes a lowered net and opens its image.
///
/// # Panics
/// Where it cannot be written, or is no good image.
#[must_use]
pub fn model(net: &Net) -> Model {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("net.mote");
    let described = Described { name: "net", license: None, hash: [0; 32], bits: 8, samples: 0 };
    net::save(net, &described, None, &path).unwrap();
    Model::open(&path).unwrap()
}

/// An output: its integers and what they stand for.
#[derive(Clone, Debug)]
pub struct Output {
    /// As the session gives them.
    pub integers: Vec<i32>,
    /// The step; 0 for integers that stand for themselves.
    pub scale: f64,
    /// The integer that stands for 0.
    pub zero_point: i32,
    /// Type of the integers.
    pub dtype: Dtype,
}

impl Output {
    /// As real numbers.
    #[must_use]
    pub fn real(&self) -> Vec<f32> {
        let real = |v: &i32| ((f64::from(*v) - f64::from(self.zero_point)) * self.scale) as f32;
        self.integers.iter().map(real).collect()
    }
}

fn scale(port: &Port) -> f64 {
    f64::from(port.mantissa) * 2f64.powi(-port.exponent)
}

/// Runs a model once on inputs, real numbers or integers, one for each port; its outputs.
///
/// # Errors
/// [`Error`] of the session.
pub fn run(model: &Model, session: &mut Session<'_>, inputs: &[Tensor]) -> Result<Vec<Output>, Error> {
    let ports = model.image().ports();
    for ((port, tensor), index) in ports.inputs().zip(inputs).zip(0..) {
        // In float32, as the evaluator puts numbers on grids.
        let step = scale(&port) as f32;
        let integer = |x: &f32| (x / step).round_ties_even() as i64 + i64::from(port.zero_point);
        let integers: Vec<i64> = match &tensor.data {
            Data::F32(floats) => floats.iter().map(integer).collect(),
            Data::Int(ints) => ints.clone(),
        };
        let integers = integers.into_iter();
        match port.dtype {
            Dtype::U8 => {
                session.input::<u8>(index)?.iter_mut().zip(integers).for_each(|(to, x)| *to = x.clamp(0, 255) as u8);
            }
            Dtype::I16 => {
                let to = session.input::<i16>(index)?.iter_mut();
                to.zip(integers).for_each(|(to, x)| *to = x.clamp(-32768, 32767) as i16);
            }
            Dtype::I32 => session.input::<i32>(index)?.iter_mut().zip(integers).for_each(|(to, x)| *to = x as i32),
            _ => {
                let to = session.input::<i8>(index)?.iter_mut();
                to.zip(integers).for_each(|(to, x)| *to = x.clamp(-128, 127) as i8);
            }
        }
    }
    session.run()?;
    let output = |(port, index): (Port, u32)| {
        let integers = match port.dtype {
            Dtype::I8 => session.output::<i8>(index)?.iter().map(|v| i32::from(*v)).collect(),
            Dtype::U8 => session.output::<u8>(index)?.iter().map(|v| i32::from(*v)).collect(),
            Dtype::I16 => session.output::<i16>(index)?.iter().map(|v| i32::from(*v)).collect(),
            _ => session.output::<i32>(index)?.to_vec(),
        };
        Ok(Output { integers, scale: scale(&port), zero_point: port.zero_point, dtype: port.dtype })
    };
    ports.outputs().zip(0..).map(output).collect()
}

/// Writes the image of a quantized graph, and runs it on inputs one after another, its states going on from run to run.
///
/// # Panics
/// Where the graph cannot be lowered or run.
#[must_use]
pub fn run_all(graph: &Graph, runs: &[Vec<Tensor>]) -> Vec<Vec<Output>> {
    let model = model(&lower::net(graph, Rounding::Double).unwrap());
    let mut arena = Arena::for_limits(&model, LIMITS).unwrap();
    let mut session = Session::new(model.image(), arena.bytes(), LIMITS).unwrap();
    session.reset().unwrap();
    runs.iter().map(|inputs| run(&model, &mut session, inputs).unwrap()).collect()
}

/// As [`run`], of a model that is run once.
///
/// # Errors
/// [`Error`] of the session.
///
/// # Panics
/// Where there is no memory for its arena.
pub fn run_once(model: &Model, inputs: &[Tensor]) -> Result<Vec<Output>, Error> {
    let mut arena = Arena::for_limits(model, LIMITS).unwrap();
    let mut session = Session::new(model.image(), arena.bytes(), LIMITS)?;
    session.reset()?;
    run(model, &mut session, inputs)
}

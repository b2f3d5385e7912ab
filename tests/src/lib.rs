//! What the tests across crates share: where their data lies, and the generator of the scripts in `golden`.

use mote_host::{Arena, Model};
use mote_quantize::graph::{Data, Graph, Tensor, eval};
use mote_quantize::lower;
use mote_quantize::net::{self, Described};
use mote_runtime::Session;
use mote_runtime::fixed::tflite::Rounding;
use mote_runtime::image::{Dtype, Limits};
use std::path::{Path, PathBuf};

/// The repository's root.
#[must_use]
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

/// What independent implementations computed; each folder has the script that made it.
#[must_use]
pub fn golden() -> PathBuf {
    root().join("tests/golden")
}

/// A file of the shared data (`MANIFEST.md` there lists them): below `$MOTE_SHARED`, or `shared` beside the repository.
/// Without it says "skipped" on stderr, and the test is to return.
#[must_use]
pub fn shared(file: &str) -> Option<PathBuf> {
    let path = mote_quantize::board::shared(file).ok().flatten();
    if path.is_none() {
        eprintln!("skipped: {file} of the shared data is not there; MOTE_SHARED names its folder");
    }
    path
}

/// The generator of `golden/*/make.py`, from its seed: Knuth's multiplier and increment for 64 bits.
#[derive(Clone, Copy, Debug)]
pub struct Lcg(pub u64);

impl Lcg {
    /// The next byte: the state's highest bits.
    pub fn byte(&mut self) -> u8 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 56) as u8
    }

    /// A number below `n`, of four bytes.
    pub fn below(&mut self, n: usize) -> usize {
        (0..4).fold(0, |v, _| v << 8 | usize::from(self.byte())) % n
    }
}

/// Numbers from -0.5 to 0.5, as `golden/onnx/make.py` makes them.
#[must_use]
pub fn noise(seed: u64, shape: &[usize]) -> Tensor {
    let mut lcg = Lcg(seed);
    let count = shape.iter().product();
    Tensor::floats(shape, (0..count).map(|_| (f32::from(lcg.byte()) - 128.0) / 256.0).collect())
}

/// Writes the image of a quantized graph, and runs it, states going on from run to run: the outputs of each run as the real
/// numbers that they stand for. Inputs are rounded to the image's integers.
///
/// # Panics
/// Where the graph cannot be lowered or run: a test that calls this expects that it can.
#[must_use]
pub fn run_image(graph: &Graph, runs: &[Vec<Tensor>]) -> Vec<Vec<Vec<f32>>> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("net.mote");
    let described = Described { name: "net", license: None, hash: [0; 32], bits: 8, samples: 0 };
    net::save(&lower::net(graph, Rounding::Double).unwrap(), &described, None, &path).unwrap();
    let model = Model::open(&path).unwrap();
    let limits = Limits { batch: 1, context: 1, threads: 1 };
    let mut arena = Arena::for_limits(&model, limits).unwrap();
    let mut session = Session::new(model.image(), arena.bytes(), limits).unwrap();
    let mut all = Vec::new();
    for inputs in runs {
        for ((tensor, id), (port, index)) in
            inputs.iter().zip(&graph.inputs).zip(model.image().ports().inputs().zip(0..))
        {
            let integers = eval::stored(&graph.values[*id], tensor).into_iter();
            match port.dtype {
                Dtype::U8 => {
                    session.input::<u8>(index).unwrap().iter_mut().zip(integers).for_each(|(to, x)| *to = x as u8)
                }
                Dtype::I8 => {
                    session.input::<i8>(index).unwrap().iter_mut().zip(integers).for_each(|(to, x)| *to = x as i8)
                }
                Dtype::I16 => {
                    session.input::<i16>(index).unwrap().iter_mut().zip(integers).for_each(|(to, x)| *to = x as i16);
                }
                _ => session.input::<i32>(index).unwrap().iter_mut().zip(integers).for_each(|(to, x)| *to = x as i32),
            }
        }
        session.run().unwrap();
        let output = |(id, (port, index)): (&usize, (mote_runtime::image::Port, u32))| {
            let integers: Vec<i64> = match port.dtype {
                Dtype::U8 => session.output::<u8>(index).unwrap().iter().map(|v| (*v).into()).collect(),
                Dtype::I8 => session.output::<i8>(index).unwrap().iter().map(|v| (*v).into()).collect(),
                Dtype::I16 => session.output::<i16>(index).unwrap().iter().map(|v| (*v).into()).collect(),
                _ => session.output::<i32>(index).unwrap().iter().map(|v| (*v).into()).collect(),
            };
            // The real numbers that integers stand for, or the integers themselves.
            match eval::held(&graph.values[*id], &Tensor::ints(&[integers.len()], integers)).data {
                Data::F32(floats) => floats,
                Data::Int(ints) => ints.iter().map(|i| *i as f32).collect(),
            }
        };
        all.push(graph.outputs.iter().zip(model.image().ports().outputs().zip(0..)).map(output).collect());
    }
    all
}

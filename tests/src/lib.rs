//! What the tests across crates share: where their data lies, and the generator of the scripts in `golden`.

pub mod images;
pub mod onnx_nodes;

use mote_quantize::graph::Tensor;
use mote_quantize::import::onnx::Options;
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

/// Little-endian f32 of a file in [`golden`].
///
/// # Panics
/// Where the file is not there.
#[must_use]
pub fn golden_floats(file: &str) -> Vec<f32> {
    let bytes = std::fs::read(golden().join(file)).unwrap();
    bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

/// Silero VAD of the shared data, and what its file leaves open.
#[must_use]
pub fn silero() -> Option<(PathBuf, Options)> {
    let options = Options {
        shapes: [("input".to_owned(), vec![1, 576])].into(),
        constants: [("sr".to_owned(), Tensor::ints(&[], vec![16000]))].into(),
        states: [("state".to_owned(), "stateN".to_owned())].into(),
    };
    Some((shared("speech/silero_vad_16k_op15.onnx")?, options))
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

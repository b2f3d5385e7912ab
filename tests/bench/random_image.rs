//! Images of given shapes with random codes: quick to write, and to the clock the same as a quantized model's.

use mote_quantize::import::LlmConfig;
use mote_quantize::lower::{Lowered, Ranges, Source, language_model};
use mote_quantize::quantize::{plan_bytes, program_bytes};
use mote_quantize::write::Weights;
use mote_runtime::image::{Dtype, TensorDesc, section};
use std::path::Path;

/// ggml's IQ4_NL levels: near what learned codebooks look like, and as wide as levels may be.
const BOOK: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// xorshift64*: fills gigabytes in a second.
pub struct Random(pub u64);

impl Random {
    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// So many random bytes.
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..count.div_ceil(8)).flat_map(|_| self.next().to_le_bytes()).collect();
        bytes.truncate(count);
        bytes
    }
}

/// A model of the Llama family of this width; the rest as small models have it.
pub fn llama(vocab: usize, dim: usize, hidden: usize, layers: usize, (heads, kv_heads): (usize, usize)) -> LlmConfig {
    LlmConfig {
        architecture: "llama".into(),
        vocab,
        dim,
        hidden,
        layers,
        heads,
        kv_heads,
        head_dim: 64,
        max_context: 1024,
        rope_theta: 10000.0,
        norm_eps: 1e-5,
        tied: true,
        ..LlmConfig::default()
    }
}

/// Writes an image of this shape, each matrix in what `codes` says of its name (T3, N4 or T4). Its numbers are of ordinary sizes: nothing
/// saturates, no row is zero.
pub fn write(config: &LlmConfig, codes: fn(&str) -> Dtype, path: &Path) {
    let mut ranges = Ranges::default();
    for name in ["residual", "normed", "q", "k", "v", "attention", "gate", "up", "glu", "logits"] {
        ranges.see(name, 64.0);
    }
    let mut steps = language_model(config, &ranges);
    steps.set_kv_bits(8); // as the quantizer does it
    let lowered: Lowered = steps.finish(config.max_context);
    let mut weights = Weights::begin(path).unwrap();
    let (mut table, mut random) = (Vec::new(), Random(1));
    for source in &lowered.tensors {
        let dims = source.weight().map_or(vec![config.head_dim / 2], |weight| weight.shape.clone());
        let mut shape = [1u32; 4];
        shape.iter_mut().zip(&dims).for_each(|(to, from)| *to = *from as u32);
        let count: usize = dims.iter().product();
        // Levels of 64 times scales of 190 times multipliers of 49,000 are 2^29; over the root of a row's columns.
        let (dtype, exponent, bytes) = match source {
            Source::Coded(weight, _) => {
                let dtype = codes(&weight.name);
                (dtype, 29 + dims[1].ilog2() as i32 / 2, coded(&mut random, dtype, shape))
            }
            Source::Gain(_) => (Dtype::I16, 14, 16384i16.to_le_bytes().repeat(count)),
            Source::Bias(_, frac) => (Dtype::I32, i32::from(*frac), vec![0; 4 * count]),
            Source::RopeSteps => (Dtype::U64, 64, turns(config)),
            Source::Positions(_) | Source::SinusoidSteps => panic!("no model of the Llama family has {source:?}"),
        };
        let codebook = if dtype.code_bits().is_some() { BOOK } else { [0; 16] };
        let span = weights.append(&bytes).unwrap();
        table.extend(TensorDesc { dtype, rank: dims.len() as u8, exponent, dims: shape, span, codebook }.to_bytes());
    }
    let (program, plan) = (program_bytes(&lowered), plan_bytes(&lowered));
    let sections: [(u32, &[u8]); 3] =
        [(section::PROGRAM, &program), (section::PLAN, &plan), (section::TENSORS, &table)];
    weights.finish(&sections).unwrap();
}

/// Codes, scales of at least 128, multipliers of at least 2^15.
fn coded(random: &mut Random, dtype: Dtype, dims: [u32; 4]) -> Vec<u8> {
    let mut bytes = random.bytes(TensorDesc::data_bytes(dtype, dims).unwrap() as usize);
    let (rows, groups) = ((dims[0] as usize).next_multiple_of(16), (dims[1] as usize).div_ceil(32));
    let (_, scales) = bytes.split_at_mut(rows * groups * 4 * dtype.code_bits().unwrap() as usize);
    scales.iter_mut().for_each(|byte| *byte |= 128);
    bytes
}

/// Turns a position of each rotary pair, in 2^-64.
fn turns(config: &LlmConfig) -> Vec<u8> {
    let turn = |f: f64| (f / std::f64::consts::TAU * 2f64.powi(64)).round() as u64;
    config.rope_frequencies().into_iter().flat_map(|f| turn(f).to_le_bytes()).collect()
}

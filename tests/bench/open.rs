//! Opens images of 1 MB and 1 GB of weights: the time it takes and the memory that is resident afterwards.

use mote_host::Model;
use mote_quantize::import::LlmConfig;
use mote_quantize::lower::{Lowered, Ranges, Source, language_model};
use mote_quantize::quantize::{plan_bytes, program_bytes};
use mote_quantize::write::Weights;
use mote_runtime::image::{Dtype, TensorDesc, section};
use std::path::Path;
use std::time::Instant;

fn config(dim: usize, layers: usize) -> LlmConfig {
    LlmConfig {
        architecture: "llama".into(),
        vocab: 1024,
        dim,
        hidden: 3 * dim,
        layers,
        heads: dim / 64,
        kv_heads: dim / 64,
        head_dim: 64,
        max_context: 1024,
        rope_theta: 10000.0,
        norm_eps: 1e-5,
        tied: true,
        ..LlmConfig::default()
    }
}

/// Writes an image of this shape whose weights are all zero.
fn write(config: &LlmConfig, path: &Path) {
    let lowered: Lowered = language_model(config, &Ranges::default()).finish(config.max_context);
    let mut weights = Weights::begin(path).unwrap();
    let mut table = Vec::new();
    for source in &lowered.tensors {
        let dtype = match source {
            Source::Coded(..) => Dtype::N4,
            Source::Positions(_) => Dtype::N8,
            Source::Gain(_) => Dtype::I16,
            Source::Bias(..) => Dtype::I32,
            Source::RopeSteps | Source::SinusoidSteps => Dtype::U64,
        };
        let dims = source.weight().map_or(vec![config.head_dim / 2], |weight| weight.shape.clone());
        let mut shape = [1u32; 4];
        shape.iter_mut().zip(&dims).for_each(|(to, from)| *to = *from as u32);
        let bytes = TensorDesc::data_bytes(dtype, shape).unwrap();
        let span = weights.append(&vec![0; bytes as usize]).unwrap();
        let desc = TensorDesc { dtype, rank: dims.len() as u8, exponent: 0, dims: shape, span, codebook: [0; 16] };
        table.extend(desc.to_bytes());
    }
    let (program, plan) = (program_bytes(&lowered), plan_bytes(&lowered));
    let sections: [(u32, &[u8]); 3] =
        [(section::PROGRAM, &program), (section::PLAN, &plan), (section::TENSORS, &table)];
    weights.finish(&sections).unwrap();
}

/// Resident KiB of this process; 0 where the system does not say.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap_or_default().to_owned();
    line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).unwrap_or(0)
}

fn main() {
    let folder = tempfile::tempdir_in(".").expect("a folder here");
    println!("| image bytes | tensors | ops | median time to open | resident before | after |");
    println!("| ---: | ---: | ---: | ---: | ---: | ---: |");
    // The same number of ops and tensors, so that only the weights differ.
    for dim in [192, 6144] {
        let path = folder.path().join(format!("{dim}.mote"));
        write(&config(dim, 4), &path);
        let mut times = Vec::new();
        let (mut before, mut after) = (0, 0);
        for _ in 0..21 {
            before = resident();
            let start = Instant::now();
            let model = Model::open(&path).unwrap();
            times.push(start.elapsed());
            after = resident();
            drop(model);
        }
        times.sort();
        let model = Model::open(&path).unwrap();
        println!(
            "| {} | {} | {} | {:.0} us | {before} KiB | {after} KiB |",
            std::fs::metadata(&path).unwrap().len(),
            model.image().tensor_count(),
            model.image().program().ops().count(),
            times[times.len() / 2].as_secs_f64() * 1e6,
        );
    }
}

//! A net on random inputs, and digests of its outputs: `infer X.mote [--runs N] [--seed N] [--each]`. What a net keeps from one
//! run to the next it keeps through all of them.
//!
//! The boards' firmware prints the same, from the same generator; `cargo xtask test` compares them. `mote infer` runs a net on
//! inputs of yours; this program needs neither the quantizer nor a tensor library, so it is built for other machines in seconds.

use mote_host::runtime::image::Limits;
use mote_host::{Arena, Model, Threads};
use sha2::{Digest, Sha256};
use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let usage = "usage: infer X.mote [--runs N] [--seed N] [--each]";
    let mut args = std::env::args().skip(1);
    let path = args.next().ok_or(usage)?;
    let (mut runs, mut seed, mut each) = (1u32, 1u32, false);
    while let Some(flag) = args.next() {
        let mut value = || args.next().ok_or(usage);
        match flag.as_str() {
            "--runs" => runs = value()?.parse()?,
            "--seed" => seed = value()?.parse()?,
            "--each" => each = true,
            _ => return Err(usage.into()),
        }
    }
    let model = Model::open(path.as_ref())?;
    let (inputs, outputs) = (model.image().ports().inputs().count(), model.image().ports().outputs().count());
    let pool = Threads::new(1);
    let mut arena = Arena::for_limits(&model, Limits { batch: 1, context: 1, threads: 1 })?;
    let mut session = model.session(&mut arena, &pool)?;
    let mut all = Sha256::new();
    for run in 0..runs {
        // Knuth's MMIX generator: one stream a run, its highest byte.
        let mut state = u64::from(seed.wrapping_add(run));
        for index in 0..inputs {
            session.input_bytes(index as u32)?.fill_with(|| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 56) as u8
            });
        }
        session.run()?;
        let mut one = Sha256::new();
        for index in 0..outputs {
            let bytes = session.output_bytes(index as u32)?;
            one.update(bytes);
            all.update(bytes);
        }
        if each {
            println!("run_sha256={}", hex(&one.finalize()));
        }
    }
    println!("output_sha256={}", hex(&all.finalize()));
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

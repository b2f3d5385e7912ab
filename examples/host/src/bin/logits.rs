//! The digest of all logits: `logits X.mote --tokens 1,2,3 --sha256 [--batch N] [--threads N]`.
//!
//! `mote logits` prints the same; this program needs neither the quantizer nor a tensor library, so it is built for other
//! machines (aarch64 under emulation, say) in seconds, to compare their bits with this one's.

use mote_host::{Arena, Model, Threads};
use sha2::{Digest, Sha256};
use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let usage = "usage: logits X.mote --tokens 1,2,3 [--sha256] [--batch N] [--threads N]";
    let mut args = std::env::args().skip(1);
    let path = args.next().ok_or(usage)?;
    let (mut tokens, mut batch, mut threads) = (Vec::new(), 8u32, 1u32);
    while let Some(flag) = args.next() {
        let mut value = || args.next().ok_or(usage);
        match flag.as_str() {
            "--sha256" => {}
            "--tokens" => tokens = value()?.split(',').map(str::parse).collect::<Result<Vec<u32>, _>>()?,
            "--batch" => batch = value()?.parse()?,
            "--threads" => threads = value()?.parse()?,
            _ => return Err(usage.into()),
        }
    }
    let model = Model::open(path.as_ref())?;
    let pool = Threads::new(threads as usize);
    let mut arena = Arena::for_limits(&model, model.limits(batch, tokens.len() as u32, threads))?;
    let mut session = model.session(&mut arena, &pool)?;
    let mut hash = Sha256::new();
    for step in tokens.chunks(batch as usize) {
        session.prefill(step)?;
        for row in 0..session.rows() {
            session.logits(row)?.iter().for_each(|logit| hash.update(logit.to_le_bytes()));
        }
    }
    let digest: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    println!("logits_sha256={digest}");
    Ok(())
}

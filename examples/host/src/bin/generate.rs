//! Generates text: `generate X.mote "Once upon a time"`. Everything a program needs of Mote, on one page.

use mote_host::runtime::image::section;
use mote_host::runtime::sample::{Params, Sampler};
use mote_host::runtime::text::{Decoder, Tokenizer};
use mote_host::{Arena, Model, Threads};
use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let path = args.next().ok_or("usage: generate X.mote [PROMPT]")?;
    let prompt = args.next().unwrap_or_default();

    // The file is mapped, not read: opening takes as long for a gigabyte as for a megabyte.
    let model = Model::open(path.as_ref())?;
    let tokenizer = Tokenizer::open(model.image().section(section::TEXT)?)?;

    // Text to tokens, in buffers that are ours.
    let (mut tokens, mut scratch) = ([0; 256], vec![0; Tokenizer::scratch_words(prompt.len())]);
    let count = tokenizer.encode(&prompt, false, &mut tokens, &mut scratch)?;

    // All memory that inference needs, allocated once: 8 tokens at a time, up to 256 positions, on 2 threads.
    let pool = Threads::new(2);
    let mut arena = Arena::for_limits(&model, model.limits(8, 256, 2))?;
    let longest = arena.limits().context;
    let mut session = model.session(&mut arena, &pool)?;

    let mut decoder = Decoder::new(tokenizer);
    let mut sampler = Sampler::new(Params::GREEDY, 0);
    session.prefill(&tokens[..count])?;
    tokens[..count].iter().for_each(|id| decoder.push(*id, &mut |text| print!("{text}")));
    while session.position() < longest {
        let frac_bits = session.logits_frac_bits();
        let id = sampler.sample(session.last_logits()?, frac_bits, &[]);
        if tokenizer.is_end(id) {
            break;
        }
        decoder.push(id, &mut |text| print!("{text}"));
        session.prefill(&[id])?;
    }
    decoder.finish(&mut |text| print!("{text}"));
    println!();
    Ok(())
}

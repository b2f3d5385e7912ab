//! Mote in a web page: what JavaScript calls (`page/mote.js`), over the runtime as it is.
//!
//! ```text
//! mote_alloc   room for an image or a prompt, which the caller fills
//! mote_open    takes the image; an instance of the module has one, and another file gets another instance
//! mote_prompt  begins a text
//! mote_step    a batch of the prompt, or a token more; between two of them the caller may stop
//! mote_text    what the last call has to say: text that came to be, or what is wrong
//! ```
//!
//! Numbers below zero are errors. A module of this needs nothing from outside: it has no imports.
// Pointers come from JavaScript, and an instance has one image for as long as it lives.
#![allow(unsafe_code)]

use mote_runtime::image::section;
use mote_runtime::sample::{Params, Sampler};
use mote_runtime::text::{Decoder, Tokenizer};
use mote_runtime::{Image, Limits, Session, kernels};
use std::alloc::Layout;
use std::cell::RefCell;
use std::error::Error;

/// Tokens of the prompt that are processed at a time.
const BATCH: usize = 32;

/// What [`mote_step`] returns.
const MORE: i32 = 0;
const END_TOKEN: i32 = 1;
const LENGTH: i32 = 2;
const CONTEXT_FULL: i32 = 3;
const FAILED: i32 = -1;

#[derive(Default)]
struct State {
    model: Option<Model>,
    run: Option<Run>,
    /// What [`mote_text`] gives.
    text: String,
}

#[derive(Clone, Copy)]
struct Model {
    image: &'static Image<'static>,
    tokenizer: Tokenizer<'static>,
    /// Of what it is given: with an encoder perhaps another one.
    source: Tokenizer<'static>,
}

/// A text that is being written.
struct Run {
    session: Session<'static>,
    /// The session's memory: given back after it.
    _arena: Arena,
    context: u32,
    sampler: Sampler,
    decoder: Decoder<'static>,
    tokens: Vec<u32>,
    /// How many of them the session has had, and how many begin the text.
    fed: usize,
    given: usize,
    /// How many tokens there may be.
    most: usize,
}

/// Memory from a box.
struct Arena(*mut [u128]);

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: it came from a box, and the session, which alone used it, has ended (`Run`).
        drop(unsafe { Box::from_raw(self.0) });
    }
}

thread_local! {
    static STATE: RefCell<State> = RefCell::default();
}

type Outcome = Result<i32, Box<dyn Error>>;

/// Runs `call` on the state; an error becomes text.
fn with(call: impl FnOnce(&mut State) -> Outcome) -> i32 {
    STATE.with_borrow_mut(|state| {
        state.text.clear();
        call(state).unwrap_or_else(|why| {
            state.text = why.to_string();
            FAILED
        })
    })
}

fn layout(bytes: usize) -> Option<Layout> {
    Layout::from_size_align(bytes.max(1), 64).ok()
}

/// Room for `bytes` bytes, zeros, for [`mote_open`] or [`mote_prompt`], which take it; null if there is none.
#[unsafe(no_mangle)]
pub extern "C" fn mote_alloc(bytes: usize) -> *mut u8 {
    // SAFETY: the size is not 0.
    layout(bytes).map_or(std::ptr::null_mut(), |layout| unsafe { std::alloc::alloc_zeroed(layout) })
}

/// Opens an image. The text is then what it is, as JSON: kernels in use, longest context, pieces of the vocabulary, bytes.
/// Returns 0.
///
/// # Safety
/// `image` is from [`mote_alloc`] with this many bytes, and is nobody else's from now on.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mote_open(image: *mut u8, bytes: usize) -> i32 {
    // SAFETY: the caller's promise; it is never given back.
    let file: &'static [u8] = unsafe { std::slice::from_raw_parts(image, bytes) };
    with(|state| {
        (state.model, state.run) = (None, None);
        let image = Image::open(file)?;
        if image.plan().vocab == 0 {
            return Err("this is an image, but of no model that writes text. `mote infer`, `mote embed` run it".into());
        }
        let no_text = |_| "the image has no tokenizer: quantize the model together with its tokenizer";
        let text = image.section(section::TEXT).map_err(no_text)?;
        let tokenizer = Tokenizer::open(text)?;
        let source = image.section(section::SOURCE_TEXT).map_or(Ok(tokenizer), Tokenizer::open)?;
        let image: &'static Image<'static> = Box::leak(Box::new(image));
        state.text = format!(
            "{{\"kernels\":\"{}\",\"context\":{},\"vocabulary\":{},\"encoder\":{},\"bytes\":{bytes}}}",
            kernels::select().name,
            image.plan().max_context,
            image.plan().vocab,
            image.plan().source_vocab != 0,
        );
        state.model = Some(Model { image, tokenizer, source });
        Ok(0)
    })
}

/// Begins a text of at most `most` tokens more; a model with an encoder takes the prompt as its source. Fractions are Q16
/// ([`Params`]). Returns how many tokens the prompt has.
///
/// # Safety
/// `prompt` is UTF-8 from [`mote_alloc`] with this many bytes, and is nobody else's from now on.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mote_prompt(
    prompt: *mut u8,
    bytes: usize,
    most: u32,
    temperature: u32,
    top_k: u32,
    top_p: u32,
    seed: u64,
) -> i32 {
    // SAFETY: the caller's promise.
    let text = unsafe { std::slice::from_raw_parts(prompt, bytes) }.to_vec();
    if let Some(layout) = layout(bytes) {
        // SAFETY: as above; `text` is a copy.
        unsafe { std::alloc::dealloc(prompt, layout) };
    }
    let sampler = Sampler::new(Params { temperature, top_k, top_p, ..Params::GREEDY }, seed);
    with(|state| {
        state.run = None;
        let model = state.model.ok_or("no image is open")?;
        let prompt = encode(model.source, std::str::from_utf8(&text)?)?;
        let (run, given) = (begin(model, &prompt, most, sampler)?, prompt.len());
        state.run = Some(run);
        Ok(given as i32)
    })
}

fn encode(tokenizer: Tokenizer<'_>, text: &str) -> Result<Vec<u32>, Box<dyn Error>> {
    // Every token but the first and the last stands for at least a byte, or is a space put before some.
    let mut ids = vec![0; 2 * text.len() + 2];
    let mut scratch = vec![0; Tokenizer::scratch_words(text.len())];
    let count = tokenizer.encode(text, false, &mut ids, &mut scratch)?;
    ids.truncate(count);
    Ok(ids)
}

fn begin(model: Model, prompt: &[u32], most: u32, sampler: Sampler) -> Result<Run, Box<dyn Error>> {
    let plan = model.image.plan();
    let (longest, given) = (plan.max_context, prompt.len() as u32);
    if prompt.is_empty() {
        return Err("the prompt is empty, and this model's texts begin with nothing: write something".into());
    }
    if given > longest {
        return Err(format!("the prompt has {given} tokens; the image allows {longest}").into());
    }
    let encoder = plan.source_vocab != 0;
    let context = if encoder { given.max(most.saturating_add(1)) } else { given.saturating_add(most) }.min(longest);
    let limits = Limits { batch: BATCH as u32, context, threads: 1 };
    let bytes = model.image.arena_bytes(limits)?;
    let no_room = || format!("{bytes} bytes are needed for a context of {context}; there is no room");
    let words = usize::try_from(bytes).map_err(|_| no_room())?.div_ceil(16);
    let mut arena = Vec::new();
    arena.try_reserve_exact(words).map_err(|_| no_room())?;
    arena.resize(words, 0);
    let arena = Arena(Box::into_raw(arena.into_boxed_slice()));
    // SAFETY: it lives longer than the session (`Run`), which alone uses it.
    let memory = unsafe { std::slice::from_raw_parts_mut(arena.0.cast::<u8>(), 16 * words) };
    let mut run = Run {
        session: Session::new(model.image, memory, limits)?,
        _arena: arena,
        context,
        sampler,
        decoder: Decoder::new(model.tokenizer),
        tokens: prompt.to_vec(),
        fed: 0,
        given: prompt.len(),
        most: most as usize,
    };
    if encoder {
        run.session.encode(prompt)?;
        (run.tokens, run.given) = (vec![plan.start], 1);
    }
    Ok(run)
}

/// A batch of the prompt, or a token more. The text is then what came to be. Returns 0 if there is more to come, 1 after the
/// token that ends texts, 2 with as many tokens as were asked for, 3 with a full context.
#[unsafe(no_mangle)]
pub extern "C" fn mote_step() -> i32 {
    with(|state| {
        let State { run, text, model } = state;
        let (run, model) = run.as_mut().zip(*model).ok_or("no text has been begun")?;
        let after = step(run, model, text)?;
        if after != MORE {
            run.decoder.finish(&mut |piece| text.push_str(piece));
        }
        Ok(after)
    })
}

fn step(run: &mut Run, model: Model, text: &mut String) -> Outcome {
    if run.fed < run.given {
        let batch = &run.tokens[run.fed..run.given.min(run.fed + BATCH)];
        run.session.prefill(batch)?;
        batch.iter().for_each(|id| run.decoder.push(*id, &mut |piece| text.push_str(piece)));
        run.fed += batch.len();
        return Ok(if run.fed == run.given && run.most == 0 { LENGTH } else { MORE });
    }
    // The last token is fed when another is wanted.
    if run.fed < run.tokens.len() {
        if run.session.position() == run.context {
            return Ok(CONTEXT_FULL);
        }
        run.session.prefill(&run.tokens[run.fed..])?;
        run.fed = run.tokens.len();
    }
    let frac_bits = run.session.logits_frac_bits();
    let id = run.sampler.sample(run.session.last_logits()?, frac_bits, &run.tokens);
    run.tokens.push(id);
    if model.tokenizer.is_end(id) {
        return Ok(END_TOKEN);
    }
    run.decoder.push(id, &mut |piece| text.push_str(piece));
    Ok(if run.tokens.len() - run.given == run.most { LENGTH } else { MORE })
}

/// Where the text of the last call lies, UTF-8, until the next.
#[unsafe(no_mangle)]
pub extern "C" fn mote_text() -> *const u8 {
    STATE.with_borrow(|state| state.text.as_ptr())
}

/// How many bytes it has.
#[unsafe(no_mangle)]
pub extern "C" fn mote_text_bytes() -> usize {
    STATE.with_borrow(|state| state.text.len())
}

//! `mote inspect --html`: an image as a page, with a picture of its memory over time. Nothing is loaded from elsewhere.

use anyhow::Result;
use askama::Template;
use mote_host::runtime::image::{Image, Limits, Slot, TensorDesc};
use mote_host::runtime::ops;
use mote_quantize::quantize::Meta;

/// Size of the picture.
const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 360.0;

/// A slot in the arena: its bytes, and the ops from the first to the last that use it.
struct Life {
    slot: u32,
    start: u64,
    end: u64,
    first: usize,
    last: usize,
}

/// A slot in the picture.
struct Block {
    x: f64,
    y: f64,
    width: f64,
    height: f64,
    hue: u32,
    title: String,
}

/// A tensor as the page shows it.
struct Row<'p> {
    name: &'p str,
    kind: String,
    shape: String,
    bytes: u64,
    /// Of the largest tensor's bytes.
    percent: f64,
    error: String,
}

/// What the template shows.
#[derive(Template)]
#[template(path = "inspect.html")]
struct Page<'p> {
    name: &'p str,
    meta: Option<&'p Meta>,
    limits: Limits,
    arena: u64,
    /// Whether it takes tokens.
    tokens: bool,
    blocks: Vec<Block>,
    /// Up to which byte the arena is in use, at which op.
    peaks: Vec<(u64, usize, &'static str)>,
    tensors: Vec<Row<'p>>,
}

/// The page. `limits` are those that the picture is drawn for.
pub fn page(image: &Image<'_>, meta: Option<&Meta>, limits: Limits) -> Result<String> {
    let (lives, arena) = (lives(image, limits), image.arena_bytes(limits).unwrap_or(0));
    let page = Page {
        name: meta.map_or("image", |m| &m.name),
        meta,
        limits,
        arena,
        tokens: image.plan().takes_tokens(),
        blocks: blocks(image, &lives, arena),
        peaks: peaks(image, &lives),
        tensors: tensors(image, meta),
    };
    Ok(page.render()? + "\n")
}

fn op_name(code: u16) -> &'static str {
    ops::find(code).map_or("unknown", |def| def.name)
}

fn lives(image: &Image<'_>, limits: Limits) -> Vec<Life> {
    let all: Vec<_> = image.program().ops().collect();
    let uses = |op: &mote_host::runtime::image::Op, slot: u32| {
        ops::find(op.code).is_some_and(|def| def.slots.iter().any(|at| op.args[*at] == slot))
    };
    let inputs: Vec<u32> = image.ports().inputs().map(|p| p.slot).collect();
    let outputs: Vec<u32> = image.ports().outputs().map(|p| p.slot).collect();
    let life = |slot: u32| {
        let range = image.slot(slot).ok().as_ref().and_then(|s: &Slot| s.range(limits))?;
        let mut at = (0..all.len()).filter(|i| uses(&all[*i], slot));
        let first = at.next();
        let last = at.next_back().or(first);
        let first = if inputs.contains(&slot) { Some(0) } else { first }?;
        let last = if outputs.contains(&slot) { all.len().saturating_sub(1) } else { last.unwrap_or(first) };
        Some(Life { slot, start: range.start, end: range.end, first, last })
    };
    (0..image.plan().slots).filter_map(life).collect()
}

/// The picture: ops across, the arena up.
fn blocks(image: &Image<'_>, lives: &[Life], arena: u64) -> Vec<Block> {
    let names: Vec<&str> = image.program().ops().map(|op| op_name(op.code)).collect();
    let (x, y) = (WIDTH / names.len().max(1) as f64, HEIGHT / arena.max(1) as f64);
    let block = |life: &Life| {
        let (from, to) = (names.get(life.first).unwrap_or(&""), names.get(life.last).unwrap_or(&""));
        let Life { slot, start, end, first, last } = *life;
        Block {
            x: first as f64 * x,
            y: HEIGHT - end as f64 * y,
            width: (last + 1 - first) as f64 * x,
            height: (end - start) as f64 * y,
            hue: slot.wrapping_mul(137) % 360,
            title: format!("slot {slot}: {} bytes at {start}, op {first} ({from}) to op {last} ({to})", end - start),
        }
    };
    lives.iter().map(block).collect()
}

/// The ops at which most of the arena is in use.
fn peaks(image: &Image<'_>, lives: &[Life]) -> Vec<(u64, usize, &'static str)> {
    let used = image.program().ops().enumerate().map(|(at, op)| {
        let alive = lives.iter().filter(|l| (l.first..=l.last).contains(&at));
        (alive.map(|l| l.end).max().unwrap_or(0), at, op_name(op.code))
    });
    let mut used: Vec<_> = used.collect();
    used.sort_by_key(|(bytes, at, _)| (std::cmp::Reverse(*bytes), *at));
    used.truncate(8);
    used
}

fn tensors<'p>(image: &Image<'_>, meta: Option<&'p Meta>) -> Vec<Row<'p>> {
    let all: Vec<TensorDesc> = (0..image.tensor_count()).filter_map(|i| image.tensor(i).ok()).collect();
    let most = all.iter().map(|t| t.span.bytes).max().unwrap_or(1).max(1);
    let row = |(index, t): (usize, &TensorDesc)| {
        let known = meta.and_then(|m| m.tensors.get(index));
        let shape: Vec<String> = t.dims[..usize::from(t.rank)].iter().map(u32::to_string).collect();
        let error = known.map_or(0.0, |k| k.relative_error);
        Row {
            name: known.map_or("", |k| &k.name),
            kind: format!("{:?}", t.dtype),
            shape: shape.join("x"),
            bytes: t.span.bytes,
            percent: 100.0 * t.span.bytes as f64 / most as f64,
            error: if error > 0.0 { format!("{error:.4}") } else { String::new() },
        }
    };
    all.iter().enumerate().map(row).collect()
}

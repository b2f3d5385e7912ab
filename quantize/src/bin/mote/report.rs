//! `mote inspect --html`: an image as a page, with a picture of its memory over time. Nothing is loaded from elsewhere.

use mote_host::runtime::image::{Image, Limits, Slot, TensorDesc};
use mote_host::runtime::ops;
use mote_quantize::quantize::Meta;
use std::fmt::Write as _;

/// A slot in the arena: its bytes, and the ops from the first to the last that use it.
struct Life {
    slot: u32,
    start: u64,
    end: u64,
    first: usize,
    last: usize,
}

/// The page. `limits` are those that the picture is drawn for.
pub fn page(image: &Image<'_>, meta: Option<&Meta>, limits: Limits) -> String {
    let name = meta.map_or("image", |m| &m.name);
    let mut html = String::new();
    let _ = write!(
        html,
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width\">\
         <title>{0}</title><style>body{{font:16px/1.5 system-ui,sans-serif;margin:1rem auto;max-width:60rem;padding:0 1rem}}\
         table{{border-collapse:collapse;display:block;overflow-x:auto}}td,th{{padding:.15rem .6rem;text-align:right;\
         white-space:nowrap}}td:first-child,th:first-child{{text-align:left}}tr:nth-child(even){{background:#8881}}\
         code{{overflow-wrap:anywhere}}svg{{width:100%;height:auto;background:#8881}}rect.slot{{stroke:#0006;stroke-width:.5}}\
         .bar{{background:#47a;height:.8rem}}</style><h1>{0}</h1>",
        escape(name)
    );
    if let Some(m) = meta {
        let _ = write!(
            html,
            "<p>{} parameters in {:.3} bits each, by {}; licence: {}.<br>Source SHA-256 <code>{}</code></p>",
            m.parameters,
            m.bits_per_weight,
            escape(&m.quantizer),
            escape(m.license.as_deref().unwrap_or("not stated")),
            escape(&m.source_sha256)
        );
    }
    let lives = lives(image, limits);
    let arena = image.arena_bytes(limits).unwrap_or(0);
    let _ = write!(html, "<h2>Memory over time</h2><p>Arena: {arena} bytes");
    if image.plan().vocab != 0 {
        let _ = write!(html, " for steps of {} tokens and a context of {}", limits.batch, limits.context);
    }
    html.push_str(". Across: the ops, in order; up: the arena. Each block is a slot, from the first op that uses it to the last.</p>");
    let patches: Vec<String> = meta.iter().flat_map(|m| &m.patches).map(ToString::to_string).collect();
    if !patches.is_empty() {
        let _ = write!(html, "<p>One after the other: {}.</p>", escape(&patches.join("; ")));
    }
    picture(&mut html, image, &lives, arena);
    peaks(&mut html, image, &lives);
    tensors(&mut html, image, meta);
    html.push_str("</html>\n");
    html
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
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

fn picture(html: &mut String, image: &Image<'_>, lives: &[Life], arena: u64) {
    const WIDTH: f64 = 960.0;
    const HEIGHT: f64 = 360.0;
    let count = image.program().ops().count().max(1);
    let (x, y) = (WIDTH / count as f64, HEIGHT / arena.max(1) as f64);
    let _ =
        write!(html, "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=img aria-label=\"slots of the arena over the ops\">");
    let names: Vec<&str> = image.program().ops().map(|op| op_name(op.code)).collect();
    for life in lives {
        let hue = life.slot.wrapping_mul(137) % 360;
        let (from, to) = (names.get(life.first).unwrap_or(&""), names.get(life.last).unwrap_or(&""));
        let _ = write!(
            html,
            "<rect class=slot x=\"{:.2}\" y=\"{:.2}\" width=\"{:.2}\" height=\"{:.2}\" fill=\"hsl({hue} 60% 60% / .75)\">\
             <title>slot {}: {} bytes at {}, op {} ({from}) to op {} ({to})</title></rect>",
            life.first as f64 * x,
            HEIGHT - life.end as f64 * y,
            (life.last + 1 - life.first) as f64 * x,
            (life.end - life.start) as f64 * y,
            life.slot,
            life.end - life.start,
            life.start,
            life.first,
            life.last
        );
    }
    html.push_str("</svg>");
}

/// The ops at which most of the arena is in use.
fn peaks(html: &mut String, image: &Image<'_>, lives: &[Life]) {
    let mut used: Vec<(u64, usize, &str)> = image
        .program()
        .ops()
        .enumerate()
        .map(|(at, op)| {
            let alive = lives.iter().filter(|l| (l.first..=l.last).contains(&at));
            (alive.map(|l| l.end).max().unwrap_or(0), at, op_name(op.code))
        })
        .collect();
    used.sort_by_key(|(bytes, at, _)| (std::cmp::Reverse(*bytes), *at));
    html.push_str("<h2>Where it is highest</h2><table><tr><th>op<th>up to byte</tr>");
    for (bytes, at, name) in used.into_iter().take(8) {
        let _ = write!(html, "<tr><td>{at} {name}<td>{bytes}</tr>");
    }
    html.push_str("</table>");
}

fn tensors(html: &mut String, image: &Image<'_>, meta: Option<&Meta>) {
    let all: Vec<TensorDesc> = (0..image.tensor_count()).filter_map(|i| image.tensor(i).ok()).collect();
    let most = all.iter().map(|t| t.span.bytes).max().unwrap_or(1).max(1);
    html.push_str("<h2>Tensors</h2><table><tr><th>tensor<th>type<th>shape<th>bytes<th><th>relative error</tr>");
    for (index, t) in all.iter().enumerate() {
        let known = meta.and_then(|m| m.tensors.get(index));
        let shape: Vec<String> = t.dims[..usize::from(t.rank)].iter().map(u32::to_string).collect();
        let error = known.map_or(0.0, |k| k.relative_error);
        let _ = write!(
            html,
            "<tr><td>{}<td>{:?}<td>{}<td>{}<td style=\"min-width:8rem\"><div class=bar style=\"width:{:.1}%\"></div><td>{}</tr>",
            escape(known.map_or("", |k| &k.name)),
            t.dtype,
            shape.join("x"),
            t.span.bytes,
            100.0 * t.span.bytes as f64 / most as f64,
            if error > 0.0 { format!("{error:.4}") } else { String::new() }
        );
    }
    html.push_str("</table>");
}

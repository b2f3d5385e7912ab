//! `mote inspect`.

use crate::{args, report};
use anyhow::Result;
use mote_host::runtime::image::plan::{Kind, Slot};
use mote_host::runtime::image::{Image, Limits, Port, TensorDesc, header, section};
use mote_host::runtime::ops;
use mote_quantize::macs::macs;
use mote_quantize::quantize::Meta;
use mote_quantize::write::write_file;
use serde::Serialize;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

/// The arguments.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The image
    image: PathBuf,
    /// Also list the program, op by op
    #[arg(long)]
    program: bool,
    /// Also sum all sections: reads the whole file
    #[arg(long)]
    verify: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Write a page with a picture of the memory over time, and print nothing
    #[arg(long, value_name = "FILE.html", conflicts_with = "json")]
    html: Option<PathBuf>,
}

#[derive(Serialize)]
struct Part {
    section: &'static str,
    offset: u64,
    bytes: u64,
}

#[derive(Serialize)]
struct Tensor {
    index: u32,
    name: Option<String>,
    dtype: String,
    shape: Vec<u32>,
    bytes: u64,
    relative_error: Option<f64>,
}

#[derive(Serialize)]
struct PortLine {
    /// Input or output.
    port: &'static str,
    shape: Vec<u32>,
    dtype: String,
    scale: f64,
    zero_point: i32,
}

#[derive(Serialize)]
struct OpLine {
    index: usize,
    op: &'static str,
    flags: u16,
    args: Vec<i64>,
}

/// The caches of keys and values of all layers.
#[derive(Serialize)]
struct CacheLine {
    bits: u8,
    bytes_per_position: u64,
}

#[derive(Serialize)]
struct ArenaLine {
    batch: u32,
    context: u32,
    threads: u32,
    bytes: u64,
}

#[derive(Serialize)]
struct Outcome {
    format_version: u32,
    file_bytes: u64,
    verified: bool,
    sections: Vec<Part>,
    vocab: u32,
    max_context: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    cache: Option<CacheLine>,
    arena: Vec<ArenaLine>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ports: Vec<PortLine>,
    /// Multiply-accumulates of a run; of nets without tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    macs: Option<u64>,
    meta: Option<Meta>,
    tensors: Vec<Tensor>,
    ops: Vec<OpLine>,
}

const NAMES: [(u32, &str); 8] = [
    (section::PROGRAM, "program"),
    (section::PLAN, "plan"),
    (section::TENSORS, "tensors"),
    (section::TEXT, "text"),
    (section::WEIGHTS, "weights"),
    (section::META, "meta"),
    (section::IO, "io"),
    (section::SOURCE_TEXT, "source text"),
];

/// Runs it.
pub fn main(args: &Args) -> Result<ExitCode> {
    let model = args::open(&args.image)?;
    let image = model.image();
    if args.verify {
        image.verify()?;
    }
    if let Some(path) = &args.html {
        // What a microcontroller would use.
        let context = image.plan().max_context.clamp(1, 256);
        let limits = Limits { batch: context.min(4), context, threads: 1 };
        let page = report::page(image, args::meta(&model).as_ref(), limits)?;
        write_file(path, page.as_bytes())?;
        return Ok(ExitCode::SUCCESS);
    }
    let outcome = outcome(image, args::meta(&model), args)?;
    if args.json {
        args::print_json(&outcome)?
    } else {
        print(&outcome)?
    }
    Ok(ExitCode::SUCCESS)
}

fn outcome(image: &Image<'_>, meta: Option<Meta>, args: &Args) -> Result<Outcome> {
    let sections = image.sections().map(|s| Part {
        section: NAMES.iter().find(|(kind, _)| *kind == s.kind).map_or("unknown", |(_, name)| name),
        offset: s.span.offset,
        bytes: s.span.bytes,
    });
    let sections: Vec<Part> = sections.collect();
    let plan = image.plan();
    let mut arena = Vec::new();
    for (batch, context, threads) in [(1, 64, 1), (1, 256, 1), (1, plan.max_context, 1), (32, plan.max_context, 4)] {
        let context = context.min(plan.max_context);
        let bytes = image.arena_bytes(Limits { batch, context, threads })?;
        if !arena.iter().any(|l: &ArenaLine| (l.batch, l.context) == (batch, context)) {
            arena.push(ArenaLine { batch, context, threads, bytes });
        }
    }
    let mut tensors = Vec::new();
    for index in 0..image.tensor_count() {
        let TensorDesc { dtype, rank, dims, span, .. } = image.tensor(index)?;
        let known = meta.as_ref().and_then(|m| m.tensors.get(index as usize));
        tensors.push(Tensor {
            index,
            name: known.map(|t| t.name.clone()),
            dtype: format!("{dtype:?}"),
            shape: dims[..usize::from(rank)].to_vec(),
            bytes: span.bytes,
            relative_error: known.map(|t| t.relative_error),
        });
    }
    let ops = image.program().ops().enumerate().map(|(index, op)| OpLine {
        index,
        op: ops::find(op.code).map_or("unknown", |def| def.name),
        flags: op.flags,
        // -1 for "none".
        args: op.args.iter().map(|a| i64::from(*a as i32)).collect(),
    });
    Ok(Outcome {
        format_version: header::VERSION,
        file_bytes: sections.last().map_or(0, |s| s.offset + s.bytes),
        verified: args.verify,
        vocab: plan.vocab,
        max_context: plan.max_context,
        cache: cache(image)?,
        arena,
        ports: ports(image),
        macs: (!plan.takes_tokens()).then(|| macs(image)),
        ops: if args.program { ops.collect() } else { Vec::new() },
        meta,
        tensors,
        sections,
    })
}

fn cache(image: &Image<'_>) -> Result<Option<CacheLine>> {
    let slots = (0..image.plan().slots).map(|index| image.slot(index)).collect::<Result<Vec<_>, _>>()?;
    let caches: Vec<Slot> = slots.into_iter().filter(|slot| slot.kind.is_cache()).collect();
    Ok(caches.first().map(|first| CacheLine {
        bits: if first.kind == Kind::Cache4 { 4 } else { 8 },
        bytes_per_position: caches.iter().map(Slot::stride_bytes).sum(),
    }))
}

fn ports(image: &Image<'_>) -> Vec<PortLine> {
    let line = |port: &'static str, p: Port| PortLine {
        port,
        shape: p.shape().to_vec(),
        dtype: format!("{:?}", p.dtype),
        scale: f64::from(p.mantissa) * 2f64.powi(-p.exponent),
        zero_point: p.zero_point,
    };
    let (inputs, outputs) = (image.ports().inputs(), image.ports().outputs());
    inputs.map(|p| line("input", p)).chain(outputs.map(|p| line("output", p))).collect()
}

fn print(o: &Outcome) -> Result<()> {
    let mut out = std::io::stdout().lock();
    if let Some(m) = &o.meta {
        let kind = m.config.as_ref().map_or("a net", |c| &c.architecture);
        writeln!(out, "{} ({kind}), licence: {}", m.name, m.license.as_deref().unwrap_or("not stated"))?;
        if let Some(c) = m.config.as_ref().filter(|c| !c.embeds()) {
            writeln!(
                out,
                "{} layers, width {}, feed-forward {}, {} heads of {} on {} key-value heads",
                c.layers, c.dim, c.hidden, c.heads, c.head_dim, c.kv_heads
            )?;
        }
        if let Some((dim, e)) = m.config.as_ref().and_then(|c| Some((c.dim, c.encoder.as_ref()?))) {
            writeln!(
                out,
                "encoder of {} layers, width {}, feed-forward {}, {} heads, vocabulary {}",
                e.layers, dim, e.hidden, e.heads, e.vocab
            )?;
        }
        writeln!(
            out,
            "{} parameters, {:.3} bits per weight, made by {}",
            m.parameters, m.bits_per_weight, m.quantizer
        )?;
        writeln!(out, "source SHA-256 {}", m.source_sha256)?;
        for patches in &m.patches {
            writeln!(out, "{patches}")?;
        }
    }
    match o.vocab {
        0 => writeln!(out, "{} bytes", o.file_bytes)?,
        vocab => writeln!(out, "vocabulary {vocab}, context up to {}, {} bytes", o.max_context, o.file_bytes)?,
    }
    for p in &o.ports {
        let shape = p.shape.iter().map(u32::to_string).collect::<Vec<_>>().join("x");
        writeln!(out, "{} {} {shape}, scale {}, zero point {}", p.port, p.dtype, p.scale, p.zero_point)?;
    }
    if let Some(macs) = o.macs {
        writeln!(out, "{macs} multiply-accumulates a run")?;
    }
    if let Some(c) = &o.cache {
        writeln!(out, "keys and values in {} bits, {} bytes a position", c.bits, c.bytes_per_position)?;
    }
    if o.verified {
        writeln!(out, "all checksums are right")?;
    }
    writeln!(out, "\n{:10} {:>12} {:>12}", "section", "offset", "bytes")?;
    for s in &o.sections {
        writeln!(out, "{:10} {:>12} {:>12}", s.section, s.offset, s.bytes)?;
    }
    writeln!(out, "\n{:>8} {:>8} {:>8} {:>12}", "batch", "context", "threads", "arena bytes")?;
    for l in &o.arena {
        writeln!(out, "{:>8} {:>8} {:>8} {:>12}", l.batch, l.context, l.threads, l.bytes)?;
    }
    writeln!(
        out,
        "\n{:>5} {:44} {:>5} {:>14} {:>12} {:>11}",
        "index", "tensor", "type", "shape", "bytes", "rel. error"
    )?;
    for t in &o.tensors {
        let shape = t.shape.iter().map(u32::to_string).collect::<Vec<_>>().join("x");
        let error = t.relative_error.map_or_else(String::new, |e| format!("{e:.6}"));
        let name = t.name.as_deref().unwrap_or("");
        writeln!(out, "{:>5} {name:44} {:>5} {shape:>14} {:>12} {error:>11}", t.index, t.dtype, t.bytes)?;
    }
    if !o.ops.is_empty() {
        writeln!(out, "\n{:>5} {:16} {:>5} arguments", "index", "op", "flags")?;
    }
    for op in &o.ops {
        let args = op.args.iter().map(i64::to_string).collect::<Vec<_>>().join(" ");
        writeln!(out, "{:>5} {:16} {:>5} {args}", op.index, op.op, op.flags)?;
    }
    Ok(())
}

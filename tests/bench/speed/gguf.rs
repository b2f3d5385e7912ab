//! GGUF of given shapes with random Q4_0 weights: what llama.cpp is timed with. No tokenizer.
//!
//! Source: ggml's `docs/gguf.md`, version 3. A Q4_0 block is an f16 scale and 32 codes in 16 bytes.

use crate::random_image::Random;
use mote_quantize::import::LlmConfig;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

const F32: u32 = 0;
const Q4_0: u32 = 2;
const ALIGN: u64 = 32;

enum Value<'a> {
    U32(usize),
    F32(f64),
    Text(&'a str),
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

/// Name, dimensions (columns first) and type of every tensor.
fn tensors(c: &LlmConfig) -> Vec<(String, Vec<usize>, u32)> {
    let (q, kv) = (c.heads * c.head_dim, c.kv_heads * c.head_dim);
    let mut all =
        vec![("token_embd.weight".into(), vec![c.dim, c.vocab], Q4_0), ("output_norm.weight".into(), vec![c.dim], F32)];
    for l in 0..c.layers {
        let mut add = |name: &str, dims: &[usize]| {
            all.push((format!("blk.{l}.{name}"), dims.to_vec(), if dims.len() == 2 { Q4_0 } else { F32 }));
        };
        add("attn_norm.weight", &[c.dim]);
        for (name, rows) in [("q", q), ("k", kv), ("v", kv)] {
            add(&format!("attn_{name}.weight"), &[c.dim, rows]);
            if c.qkv_bias {
                add(&format!("attn_{name}.bias"), &[rows]);
            }
        }
        add("attn_output.weight", &[q, c.dim]);
        add("ffn_norm.weight", &[c.dim]);
        add("ffn_gate.weight", &[c.dim, c.hidden]);
        add("ffn_up.weight", &[c.dim, c.hidden]);
        add("ffn_down.weight", &[c.hidden, c.dim]);
    }
    all
}

fn data(random: &mut Random, dims: &[usize], kind: u32) -> Vec<u8> {
    let count: usize = dims.iter().product();
    if kind == F32 {
        return if dims.len() == 1 { 1f32.to_le_bytes().repeat(count) } else { vec![0; 4 * count] };
    }
    let mut bytes = random.bytes(count / 32 * 18);
    for block in bytes.as_chunks_mut::<18>().0 {
        block[1] = 0x1C | block[1] & 3; // scales of 2^-8 to 2^-7
    }
    bytes
}

/// Writes the file.
pub fn write(c: &LlmConfig, path: &Path) -> io::Result<()> {
    let arch = if c.qkv_bias { "qwen2" } else { "llama" };
    let own = |key: &str| format!("{arch}.{key}");
    let pairs = [
        ("general.architecture".into(), Value::Text(arch)),
        ("general.file_type".into(), Value::U32(2)),
        (own("vocab_size"), Value::U32(c.vocab)),
        (own("context_length"), Value::U32(c.max_context)),
        (own("embedding_length"), Value::U32(c.dim)),
        (own("block_count"), Value::U32(c.layers)),
        (own("feed_forward_length"), Value::U32(c.hidden)),
        (own("attention.head_count"), Value::U32(c.heads)),
        (own("attention.head_count_kv"), Value::U32(c.kv_heads)),
        (own("attention.key_length"), Value::U32(c.head_dim)),
        (own("attention.value_length"), Value::U32(c.head_dim)),
        (own("rope.dimension_count"), Value::U32(c.head_dim)),
        (own("rope.freq_base"), Value::F32(c.rope_theta)),
        (own("attention.layer_norm_rms_epsilon"), Value::F32(c.norm_eps)),
        ("tokenizer.ggml.model".into(), Value::Text("no_vocab")),
    ];
    let (tensors, mut random) = (tensors(c), Random(2));
    let mut head = b"GGUF".to_vec();
    head.extend(3u32.to_le_bytes());
    head.extend((tensors.len() as u64).to_le_bytes());
    head.extend((pairs.len() as u64).to_le_bytes());
    for (key, value) in pairs {
        text(&mut head, &key);
        match value {
            Value::U32(n) => [4u32, n as u32].iter().for_each(|word| head.extend(word.to_le_bytes())),
            Value::F32(x) => {
                head.extend(6u32.to_le_bytes());
                head.extend((x as f32).to_le_bytes());
            }
            Value::Text(value) => {
                head.extend(8u32.to_le_bytes());
                text(&mut head, value);
            }
        }
    }
    let mut offset = 0u64;
    for (name, dims, kind) in &tensors {
        text(&mut head, name);
        head.extend((dims.len() as u32).to_le_bytes());
        dims.iter().for_each(|d| head.extend((*d as u64).to_le_bytes()));
        head.extend(kind.to_le_bytes());
        head.extend(offset.to_le_bytes());
        let count: usize = dims.iter().product();
        offset += (if *kind == F32 { 4 * count } else { count / 32 * 18 } as u64).next_multiple_of(ALIGN);
    }
    head.resize(head.len().next_multiple_of(ALIGN as usize), 0);
    let mut out = BufWriter::new(File::create(path)?);
    out.write_all(&head)?;
    for (_, dims, kind) in &tensors {
        let mut bytes = data(&mut random, dims, *kind);
        bytes.resize(bytes.len().next_multiple_of(ALIGN as usize), 0);
        out.write_all(&bytes)?;
    }
    out.flush()
}

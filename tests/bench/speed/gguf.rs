//! GGUF of given shapes with random weights of 4 bits: what llama.cpp and candle are timed with. No tokenizer.
//!
//! Source: ggml's `docs/gguf.md`, version 3, and `ggml-common.h`. A Q4_0 block is an f16 scale and 32 codes in 16 bytes. A Q4_K
//! block is two f16, which scale 8 scales and 8 offsets of 6 bits in 12 bytes, and 256 codes in 128 bytes.

use crate::random_image::Random;
use mote_quantize::import::LlmConfig;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

/// How matrices are stored.
pub struct Format {
    /// ggml's name.
    pub name: &'static str,
    /// Weights of a block, which must fill a row.
    pub block: usize,
    bytes: usize,
    /// ggml's numbers: the tensor's type, the file's.
    kind: u32,
    file: usize,
    /// Where a block has f16s, and the higher byte that makes weights of about 2^-5 of them.
    scales: &'static [(usize, u8)],
}

/// 4.5 bits a weight, in blocks of 32.
pub const Q4_0: Format = Format { name: "Q4_0", block: 32, bytes: 18, kind: 2, file: 2, scales: &[(0, 0x1C)] };
/// 4.5 bits a weight, in blocks of 256. Offsets of 32 * 2^-10 are what scales of 32 * 2^-13 make of a code of 8.
pub const Q4_K: Format =
    Format { name: "Q4_K", block: 256, bytes: 144, kind: 12, file: 14, scales: &[(0, 0x08), (2, 0x14)] };

const F32: u32 = 0;
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

/// Name and dimensions (columns first) of every tensor; those of two are matrices.
fn tensors(c: &LlmConfig) -> Vec<(String, Vec<usize>)> {
    let (q, kv) = (c.heads * c.head_dim, c.kv_heads * c.head_dim);
    let mut all = vec![("token_embd.weight".into(), vec![c.dim, c.vocab]), ("output_norm.weight".into(), vec![c.dim])];
    for l in 0..c.layers {
        let mut add = |name: &str, dims: &[usize]| {
            all.push((format!("blk.{l}.{name}"), dims.to_vec()));
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

/// Columns of all matrices.
pub fn widths(c: &LlmConfig) -> Vec<usize> {
    tensors(c).into_iter().filter(|(_, dims)| dims.len() == 2).map(|(_, dims)| dims[0]).collect()
}

fn size(dims: &[usize], format: &Format) -> u64 {
    let count: usize = dims.iter().product();
    (if dims.len() == 1 { 4 * count } else { count / format.block * format.bytes }) as u64
}

/// Ones for norms and biases, else random blocks.
fn data(random: &mut Random, dims: &[usize], format: &Format) -> Vec<u8> {
    if dims.len() == 1 {
        return 1f32.to_le_bytes().repeat(dims[0]);
    }
    let mut bytes = random.bytes(size(dims, format) as usize);
    for block in bytes.chunks_exact_mut(format.bytes) {
        for (at, high) in format.scales {
            block[at + 1] = high | block[at + 1] & 3; // a power of two to twice that
        }
    }
    bytes
}

/// Writes the file.
pub fn write(c: &LlmConfig, format: &Format, path: &Path) -> io::Result<()> {
    let arch = if c.qkv_bias { "qwen2" } else { "llama" };
    let own = |key: &str| format!("{arch}.{key}");
    let pairs = [
        ("general.architecture".into(), Value::Text(arch)),
        ("general.file_type".into(), Value::U32(format.file)),
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
    for (name, dims) in &tensors {
        text(&mut head, name);
        head.extend((dims.len() as u32).to_le_bytes());
        dims.iter().for_each(|d| head.extend((*d as u64).to_le_bytes()));
        head.extend(if dims.len() == 1 { F32 } else { format.kind }.to_le_bytes());
        head.extend(offset.to_le_bytes());
        offset += size(dims, format).next_multiple_of(ALIGN);
    }
    head.resize(head.len().next_multiple_of(ALIGN as usize), 0);
    let mut out = BufWriter::new(File::create(path)?);
    out.write_all(&head)?;
    for (_, dims) in &tensors {
        let mut bytes = data(&mut random, dims, format);
        bytes.resize(bytes.len().next_multiple_of(ALIGN as usize), 0);
        out.write_all(&bytes)?;
    }
    out.flush()
}

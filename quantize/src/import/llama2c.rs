//! llama2.c checkpoints (karpathy/llama2.c, `run.c`, `memory_map_weights`; `export.py` for version 1).
//!
//! ```text
//! legacy:    7 x i32: dim, hidden, layers, heads, kv_heads, vocab (negative: untied), context; f32 weights, 28 bytes on
//! version 1: "ak42", i32 1, the same 7 numbers, u8 tied, zeros to 256; f32 weights, norms first
//! ```
//!
//! llama2.c rotates neighbouring pairs (2i, 2i + 1); Mote and Hugging Face rotate (i, i + half). So the rows of each
//! query and key head are reordered here, as transformers' own conversion script does.

use super::{ImportError, LlmConfig, Model, Result, Weight, hash_files, llama, map};
use byteorder::{ByteOrder, LittleEndian};
use memmap2::Mmap;
use std::path::{Path, PathBuf};

/// A mapped checkpoint.
pub struct Checkpoint {
    path: PathBuf,
    file: Mmap,
    config: LlmConfig,
    /// First float of each kind of weight: see `offset`.
    starts: Vec<(Kind, usize)>,
    data: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Embed,
    AttnNorm,
    Q,
    K,
    V,
    O,
    FfnNorm,
    Gate,
    Down,
    Up,
    FinalNorm,
    RopeTables,
    Head,
}

const MAGIC: u32 = 0x616b_3432;

impl Checkpoint {
    /// Opens a checkpoint and checks that its size is what its header says.
    ///
    /// # Errors
    /// [`ImportError`].
    pub fn open(path: &Path) -> Result<Self> {
        let file = map(path)?;
        let malformed = |what: String| ImportError::Malformed { path: path.to_owned(), what };
        if file.len() < 256 {
            return Err(malformed(format!("{} bytes are too few for a model", file.len())));
        }
        let versioned = LittleEndian::read_u32(&file) == MAGIC;
        if versioned && LittleEndian::read_u32(&file[4..]) != 1 {
            let found = format!("llama2.c version {}", LittleEndian::read_u32(&file[4..]));
            let supported = "supported are legacy and version 1 (f32) checkpoints".to_owned();
            return Err(ImportError::Unsupported { path: path.to_owned(), found, supported });
        }
        let mut numbers = [0i32; 7];
        LittleEndian::read_i32_into(&file[if versioned { 8 } else { 0 }..][..28], &mut numbers);
        let [dim, hidden, layers, heads, kv_heads, vocab, context] = numbers;
        let tied = if versioned { file[36] != 0 } else { vocab > 0 };
        let plausible = [dim, hidden, layers, heads, kv_heads, context].iter().all(|n| (1..1 << 24).contains(n))
            && vocab != 0
            && vocab.unsigned_abs() < 1 << 24
            && layers < 1 << 12
            && dim % heads == 0
            && heads % kv_heads == 0
            && (dim / heads) % 2 == 0
            && dim / heads <= mote_runtime::image::plan::MAX_HEAD_DIM as i32;
        if !plausible {
            return Err(malformed(format!(
                "not a llama2.c checkpoint: its header reads dim {dim}, hidden {hidden}, layers {layers}, heads {heads}, \
                 kv heads {kv_heads}, vocab {vocab}, context {context}"
            )));
        }
        let config = LlmConfig {
            architecture: "llama2.c".into(),
            vocab: vocab.unsigned_abs() as usize,
            dim: dim as usize,
            hidden: hidden as usize,
            layers: layers as usize,
            heads: heads as usize,
            kv_heads: kv_heads as usize,
            head_dim: (dim / heads) as usize,
            max_context: context as usize,
            rope_theta: 10000.0,
            norm_eps: 1e-5,
            tied,
            ..LlmConfig::default()
        };
        let data = if versioned { 256 } else { 28 };
        let order: &[Kind] = if versioned {
            use Kind::*;
            &[AttnNorm, FfnNorm, FinalNorm, Embed, Q, K, V, O, Gate, Down, Up, Head]
        } else {
            use Kind::*;
            &[Embed, AttnNorm, Q, K, V, O, FfnNorm, Gate, Down, Up, FinalNorm, RopeTables, Head]
        };
        let mut starts = Vec::new();
        let mut at = 0usize;
        for kind in order {
            if *kind == Kind::Head && config.tied {
                continue;
            }
            starts.push((*kind, at));
            let floats = kind.floats(&config).checked_mul(kind.copies(&config));
            at = floats.and_then(|n| at.checked_add(n)).ok_or_else(|| malformed("its sizes overflow".into()))?;
        }
        let expected = data as u128 + 4 * at as u128;
        if file.len() as u128 != expected {
            return Err(malformed(format!(
                "{} bytes, its header makes it {expected}: {}",
                file.len(),
                if (file.len() as u128) < expected { "the file is truncated" } else { "it is no such checkpoint" }
            )));
        }
        Ok(Self { path: path.to_owned(), file, config, starts, data })
    }

    fn floats(&self, kind: Kind, layer: usize) -> Vec<f32> {
        let size = kind.floats(&self.config);
        let start = self.starts.iter().find(|(k, _)| *k == kind).map_or(0, |(_, at)| *at) + layer * size;
        let mut out = vec![0.0; size];
        LittleEndian::read_f32_into(&self.file[self.data + 4 * start..][..4 * size], &mut out);
        out
    }
}

impl Kind {
    /// Floats of one copy.
    fn floats(self, c: &LlmConfig) -> usize {
        let kv = c.kv_heads * c.head_dim;
        match self {
            Self::Embed | Self::Head => c.vocab * c.dim,
            Self::AttnNorm | Self::FfnNorm | Self::FinalNorm => c.dim,
            Self::Q | Self::O => c.dim * c.dim,
            Self::K | Self::V => kv * c.dim,
            Self::Gate | Self::Up | Self::Down => c.hidden * c.dim,
            Self::RopeTables => c.max_context * c.head_dim,
        }
    }

    fn copies(self, c: &LlmConfig) -> usize {
        if matches!(self, Self::Embed | Self::Head | Self::FinalNorm | Self::RopeTables) { 1 } else { c.layers }
    }
}

/// Rows of each head from neighbouring pairs to half-split pairs.
fn half_split(w: &[f32], head_dim: usize, cols: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(w.len());
    for head in w.chunks_exact(head_dim * cols) {
        for first in [0, 1] {
            for pair in head.chunks_exact(2 * cols) {
                out.extend(&pair[first * cols..][..cols]);
            }
        }
    }
    out
}

impl Model for Checkpoint {
    fn config(&self) -> &LlmConfig {
        &self.config
    }

    fn tensor(&self, weight: &Weight) -> Result<Vec<f32>> {
        let c = &self.config;
        let (layer, part) = llama::part(&weight.name);
        let kind = match part {
            "model.embed_tokens.weight" => Kind::Embed,
            "lm_head.weight" => Kind::Head,
            "model.norm.weight" => Kind::FinalNorm,
            "input_layernorm.weight" => Kind::AttnNorm,
            "post_attention_layernorm.weight" => Kind::FfnNorm,
            "self_attn.q_proj.weight" => Kind::Q,
            "self_attn.k_proj.weight" => Kind::K,
            "self_attn.v_proj.weight" => Kind::V,
            "self_attn.o_proj.weight" => Kind::O,
            "mlp.gate_proj.weight" => Kind::Gate,
            "mlp.up_proj.weight" => Kind::Up,
            "mlp.down_proj.weight" => Kind::Down,
            _ => return Err(ImportError::Missing { path: self.path.clone(), name: weight.name.clone() }),
        };
        let values = self.floats(kind, layer);
        Ok(if matches!(kind, Kind::Q | Kind::K) { half_split(&values, c.head_dim, c.dim) } else { values })
    }

    fn source_hash(&self) -> Result<[u8; 32]> {
        hash_files(std::slice::from_ref(&self.path))
    }

    fn path(&self) -> &Path {
        &self.path
    }
}

//! Importers: model files to configuration, weights and tokenizer.
//!
//! A [`Model`] streams: it gives one tensor at a time as f32 from a mapped file, so that nothing larger than a tensor is
//! ever in memory. Formats are told by content. To add one: a file here, and a row in [`open_model`]; to add a family of
//! models in Hugging Face's layout: a file that reads its config.json, and a row in `hf.rs`.

mod bert;
mod gpt2;
mod hf;
mod image;
mod llama;
mod llama2c;
mod m2m100;
pub mod onnx;
pub mod tflite;
pub mod tokenizer;
pub mod vectors;

pub use image::ImageModel;

use std::path::{Path, PathBuf};

/// Why a model could not be imported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// A file could not be read.
    #[error("{path}: {why}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        why: std::io::Error,
    },
    /// The file is damaged.
    #[error("{path}: {what}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What was found and what was expected.
        what: String,
    },
    /// The model is whole, but of a kind that Mote does not run.
    #[error("{path}: {found} is not supported; {supported}")]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// What was found.
        found: String,
        /// What is supported, or what to do.
        supported: String,
    },
    /// A tensor that the architecture needs is not there.
    #[error("{path}: tensor {name} is missing")]
    Missing {
        /// The file or folder.
        path: PathBuf,
        /// The tensor.
        name: String,
    },
    /// A tensor has another shape than the configuration says.
    #[error("{path}: tensor {name} has shape {found:?}, the configuration says {expected:?}")]
    Shape {
        /// The file or folder.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// In the file.
        found: Vec<usize>,
        /// By the configuration.
        expected: Vec<usize>,
    },
}

/// Shorthand for importers.
pub type Result<T> = std::result::Result<T, ImportError>;

/// How rotary frequencies are scaled.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub enum RopeScaling {
    /// Not at all.
    #[default]
    None,
    /// All by a factor (position interpolation, arXiv 2306.15595).
    Linear {
        /// Positions are divided by it.
        factor: f64,
    },
    /// Llama 3: low frequencies by a factor, high ones not, between them interpolated.
    Llama3 {
        /// Low frequencies are divided by it.
        factor: f64,
        /// Below original / low_freq_factor wavelengths: scaled.
        low_freq_factor: f64,
        /// Above original / high_freq_factor wavelengths: kept.
        high_freq_factor: f64,
        /// Context of the original training.
        original_context: f64,
    },
}

/// Families of language models; each has a lowering (`lower/<family>.rs`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Family {
    /// Llama, Mistral, Qwen 2 and 3: rotary positions, RMS norms, gated feed-forward nets.
    #[default]
    Llama,
    /// GPT-2: learned positions, layer norms, biases.
    Gpt2,
    /// M2M-100 and NLLB: an encoder and a decoder, sinusoidal positions, layer norms before each step, biases.
    M2m100,
    /// BERT: an encoder alone, learned positions, layer norms after each step, biases. It gives a text's embedding.
    Bert,
}

/// The encoder before a decoder.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Encoder {
    /// Rows of its embedding.
    pub vocab: usize,
    /// Its embedding is the decoder's.
    pub shared: bool,
    /// Layers.
    pub layers: usize,
    /// Heads.
    pub heads: usize,
    /// Width inside its feed-forward net.
    pub hidden: usize,
    /// The token that begins a target.
    pub start: u32,
}

/// The function inside a feed-forward net.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Activation {
    /// `x * sigmoid(x)`, of a gate.
    #[default]
    Silu,
    /// `max(x, 0)`.
    Relu,
    /// GELU with tanh.
    GeluTanh,
    /// GELU with erf.
    GeluErf,
}

/// What an encoder makes of its tokens' rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Pooling {
    /// Their mean.
    #[default]
    Mean,
    /// The first.
    First,
}

/// What a language model is made of.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct LlmConfig {
    /// Architecture as its folder names it.
    pub architecture: String,
    /// Which lowering it has.
    #[serde(default)]
    pub family: Family,
    /// Rows of the embedding.
    pub vocab: usize,
    /// Width of the residual stream.
    pub dim: usize,
    /// Width inside the feed-forward net.
    pub hidden: usize,
    /// Layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Longest context it was made for.
    pub max_context: usize,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Scaling of the rotary frequencies.
    pub rope_scaling: RopeScaling,
    /// Epsilon of the norms.
    pub norm_eps: f64,
    /// The output matrix is the embedding.
    pub tied: bool,
    /// Queries, keys and values have biases (Qwen2).
    pub qkv_bias: bool,
    /// Queries and keys are normalised by head (Qwen3).
    pub qk_norm: bool,
    /// Attention looks back this many positions only.
    pub sliding_window: Option<usize>,
    /// The function inside the feed-forward net.
    #[serde(default)]
    pub activation: Activation,
    /// The output matrix has a bias.
    #[serde(default)]
    pub head_bias: bool,
    /// Embeddings are multiplied by the root of the width.
    #[serde(default)]
    pub scaled_embedding: bool,
    /// The position that a text's first token has.
    #[serde(default)]
    pub first_position: usize,
    /// What stands before the decoder; of BERT, all there is.
    #[serde(default)]
    pub encoder: Option<Encoder>,
    /// Types of tokens that BERT's embedding tells apart. Texts are of the first.
    #[serde(default)]
    pub token_types: usize,
    /// What an encoder without a decoder makes of its tokens' rows.
    #[serde(default)]
    pub pooling: Pooling,
}

impl LlmConfig {
    /// Whether it is an encoder without a decoder, which gives embeddings.
    #[must_use]
    pub fn embeds(&self) -> bool {
        self.family == Family::Bert
    }

    /// Angle in radians by which each sine and cosine of a sinusoidal position turns per position, `dim / 2` of them.
    #[must_use]
    pub fn sinusoid_frequencies(&self) -> Vec<f64> {
        let half = self.dim / 2;
        let last = (half as f64 - 1.0).max(1.0);
        (0..half).map(|i| 10000f64.powf(-(i as f64) / last)).collect()
    }

    /// Angle in radians by which each pair of a head turns per position, `head_dim / 2` of them.
    #[must_use]
    pub fn rope_frequencies(&self) -> Vec<f64> {
        let half = self.head_dim / 2;
        (0..half)
            .map(|i| {
                let base = self.rope_theta.powf(-(i as f64) / half as f64);
                match self.rope_scaling {
                    RopeScaling::None => base,
                    RopeScaling::Linear { factor } => base / factor,
                    RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
                        let wavelength = std::f64::consts::TAU / base;
                        let smooth =
                            (original_context / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
                        if wavelength < original_context / high_freq_factor {
                            base
                        } else if wavelength > original_context / low_freq_factor {
                            base / factor
                        } else {
                            (1.0 - smooth) * base / factor + smooth * base
                        }
                    }
                }
            })
            .collect()
    }
}

/// A weight by the name and the shape that a program needs it with.
#[derive(Clone, Debug, PartialEq)]
pub struct Weight {
    /// Its name, unique in the model: Hugging Face's, where that has it by itself.
    pub name: String,
    /// `[rows, cols]`, or `[length]`.
    pub shape: Vec<usize>,
    /// Where a Hugging Face folder has it, if it is stored otherwise.
    pub stored: Option<Stored>,
}

/// A tensor of a Hugging Face folder that holds a weight among others, or with its columns first.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    /// Its name.
    pub name: String,
    /// Its shape: `[cols, all rows]`, or `[all lengths]`.
    pub shape: Vec<usize>,
    /// The weight's first row or element.
    pub first: usize,
    /// Name and shape of another tensor, whose first row is added to each of its rows.
    pub plus: Option<(String, Vec<usize>)>,
}

impl Weight {
    /// A weight that is stored as it is needed.
    #[must_use]
    pub fn new(name: impl Into<String>, shape: &[usize]) -> Self {
        Self { name: name.into(), shape: shape.to_vec(), stored: None }
    }

    /// Name and shape in a Hugging Face folder.
    fn in_folder(&self) -> (&str, &[usize]) {
        self.stored.as_ref().map_or((&self.name, &self.shape), |s| (&s.name, &s.shape))
    }

    /// The same of the tensor whose first row is added to each of its rows.
    fn plus(&self) -> Option<(&str, &[usize])> {
        self.stored.as_ref()?.plus.as_ref().map(|(name, shape)| (&**name, &**shape))
    }

    /// The weight's values from those of the tensor that [`Weight::in_folder`] names.
    fn take(&self, values: Vec<f32>) -> Vec<f32> {
        let Some(stored) = self.stored.as_ref().filter(|stored| stored.plus.is_none()) else { return values };
        match (&self.shape[..], &stored.shape[..]) {
            ([rows, cols], [_, all]) => {
                let value = |row: usize, col: usize| values[col * all + stored.first + row];
                (0..*rows).flat_map(|row| (0..*cols).map(move |col| (row, col))).map(|(r, c)| value(r, c)).collect()
            }
            _ => values[stored.first..][..self.shape[0]].to_vec(),
        }
    }
}

/// A model that gives its weights one at a time.
pub trait Model {
    /// Its shape.
    fn config(&self) -> &LlmConfig;
    /// The values of one weight as f32, row-major. Half-split rotation order for queries and keys, whatever the file's.
    ///
    /// # Errors
    /// [`ImportError`].
    fn tensor(&self, weight: &Weight) -> Result<Vec<f32>>;
    /// SHA-256 of the files that hold the weights.
    ///
    /// # Errors
    /// [`ImportError::Io`].
    fn source_hash(&self) -> Result<[u8; 32]>;
    /// Where it lies.
    fn path(&self) -> &Path;
    /// Things a person should know (tensors that were not used, say).
    fn warnings(&self) -> Vec<String> {
        Vec::new()
    }
}

/// Opens a Hugging Face folder (or a file in one), a llama2.c checkpoint, or an image (whose weights it gives in floats).
///
/// # Errors
/// [`ImportError`], saying what was found and what is supported.
pub fn open_model(path: &Path) -> Result<Box<dyn Model>> {
    if path.is_dir() {
        return Ok(Box::new(hf::Folder::open(path)?));
    }
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    if name == "config.json" || name.ends_with(".safetensors") || name.ends_with(".safetensors.index.json") {
        return Ok(Box::new(hf::Folder::open(path.parent().unwrap_or(Path::new(".")))?));
    }
    let file = map(path)?;
    if file.starts_with(&mote_runtime::image::MAGIC) {
        return Ok(Box::new(ImageModel::open(path)?));
    }
    if file.starts_with(b"GGUF") {
        // The file's name often says what it holds (ggml-rs reads the community's naming scheme).
        let parts = ggml_rs::parse_gguf_filename(&name);
        let encoding = parts.and_then(|p| p.encoding).map_or_else(String::new, |e| format!(", encoded as {e}"));
        let found = format!("a GGUF file{encoding}");
        return Err(ImportError::Unsupported {
            path: path.to_owned(),
            found,
            supported: "give the Hugging Face folder it was made from (config.json, *.safetensors)".into(),
        });
    }
    Ok(Box::new(llama2c::Checkpoint::open(path)?))
}

/// Maps a file for reading.
pub(crate) fn map(path: &Path) -> Result<memmap2::Mmap> {
    let io = |why| ImportError::Io { path: path.to_owned(), why };
    let file = std::fs::File::open(path).map_err(io)?;
    // SAFETY: as for every mapping, the file must not change meanwhile; model files are read-only data.
    #[allow(unsafe_code)]
    unsafe { memmap2::Mmap::map(&file) }.map_err(io)
}

/// Lets the system forget the pages of `part` of a mapped file, so that a model larger than memory leaves no trace of what
/// has been read. Advice only: reading them again reads the file again.
pub(crate) fn release(file: &memmap2::Mmap, part: &[u8]) {
    #[cfg(target_os = "linux")]
    {
        let offset = part.as_ptr().addr() - file.as_ptr().addr();
        // SAFETY: the mapping is read-only and of a file, so a dropped page is only read again.
        #[allow(unsafe_code)]
        let _ = unsafe { file.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, offset, part.len()) };
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (file, part);
}

/// SHA-256 of files, one after the other.
pub(crate) fn hash_files(paths: &[PathBuf]) -> Result<[u8; 32]> {
    use sha2::Digest;
    let mut hash = sha2::Sha256::new();
    for path in paths {
        let io = |why| ImportError::Io { path: path.clone(), why };
        let mut file = std::fs::File::open(path).map_err(io)?;
        let mut buffer = vec![0; 1 << 20];
        loop {
            let n = std::io::Read::read(&mut file, &mut buffer).map_err(io)?;
            if n == 0 {
                break;
            }
            hash.update(&buffer[..n]);
        }
    }
    Ok(hash.finalize().into())
}

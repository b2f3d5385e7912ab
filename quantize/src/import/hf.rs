//! Hugging Face folders: config.json and safetensors, in one file or in shards.

use super::{ImportError, LlmConfig, Model, Result, Role, RopeScaling, hash_files, map};
use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// A folder whose weights are mapped.
pub struct Folder {
    path: PathBuf,
    config: LlmConfig,
    files: Vec<(PathBuf, Mmap)>,
    /// Tensor name to index in `files`.
    index: BTreeMap<String, usize>,
    warnings: Vec<String>,
}

impl Folder {
    /// Opens a folder and checks that every weight is there with its shape.
    ///
    /// # Errors
    /// [`ImportError`].
    pub fn open(path: &Path) -> Result<Self> {
        let json = read_json(&path.join("config.json"))?;
        let mut config = parse_config(&path.join("config.json"), &json)?;
        let names = weight_files(path)?;
        let mut files = Vec::new();
        let mut index = BTreeMap::new();
        for name in names {
            let file = map(&name)?;
            let parsed = parse(&name, &file)?;
            for tensor in parsed.names() {
                index.insert(tensor.to_owned(), files.len());
            }
            files.push((name, file));
        }
        // Some folders say "untied" and then hold no output matrix, or leave the field out: believe the file.
        config.tied = config.tied || !index.contains_key(&Role::Head.name());
        let mut folder = Self { path: path.to_owned(), config, files, index, warnings: Vec::new() };
        folder.check()?;
        Ok(folder)
    }

    fn check(&mut self) -> Result<()> {
        let mut unused: BTreeSet<&str> = self.index.keys().map(String::as_str).collect();
        for role in Role::all(&self.config) {
            let name = role.name();
            let (dtype, shape, _) = self.view(&name)?;
            let expected = role.shape(&self.config);
            if shape != expected {
                return Err(ImportError::Shape { path: self.path.clone(), name, found: shape, expected });
            }
            if !matches!(dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16) {
                return Err(ImportError::Unsupported {
                    path: self.path.clone(),
                    found: format!("tensor {name} of type {dtype:?}"),
                    supported: "weights must be F32, F16 or BF16: give the folder before it was quantized".into(),
                });
            }
            unused.remove(name.as_str());
        }
        if self.config.tied {
            unused.remove(Role::Head.name().as_str());
        }
        let left: Vec<&str> = unused.into_iter().filter(|n| !n.ends_with("rotary_emb.inv_freq")).collect();
        if !left.is_empty() {
            self.warnings.push(format!("not used: {}", left.join(", ")));
        }
        Ok(())
    }

    fn view(&self, name: &str) -> Result<(Dtype, Vec<usize>, &[u8])> {
        let missing = || ImportError::Missing { path: self.path.clone(), name: name.to_owned() };
        let (path, file) = &self.files[*self.index.get(name).ok_or_else(missing)?];
        let parsed = parse(path, file)?;
        let view = parsed.tensor(name).map_err(|_| missing())?;
        Ok((view.dtype(), view.shape().to_vec(), view.data()))
    }
}

impl Model for Folder {
    fn config(&self) -> &LlmConfig {
        &self.config
    }

    fn tensor(&self, role: Role) -> Result<Vec<f32>> {
        let role = if role == Role::Head && self.config.tied { Role::Embed } else { role };
        let name = role.name();
        let (dtype, _, bytes) = self.view(&name)?;
        let halves = bytes.as_chunks::<2>().0.iter();
        let values = match dtype {
            Dtype::F16 => halves.map(|b| half::f16::from_le_bytes(*b).to_f32()).collect(),
            Dtype::BF16 => halves.map(|b| half::bf16::from_le_bytes(*b).to_f32()).collect(),
            _ => bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        };
        if let Some(file) = self.index.get(&name) {
            super::release(&self.files[*file].1, bytes);
        }
        Ok(values)
    }

    fn source_hash(&self) -> Result<[u8; 32]> {
        hash_files(&self.files.iter().map(|(path, _)| path.clone()).collect::<Vec<_>>())
    }

    fn path(&self) -> &Path {
        &self.path
    }

    fn warnings(&self) -> Vec<String> {
        self.warnings.clone()
    }
}

fn parse<'m>(path: &Path, file: &'m Mmap) -> Result<SafeTensors<'m>> {
    SafeTensors::deserialize(file)
        .map_err(|why| ImportError::Malformed { path: path.to_owned(), what: format!("not a safetensors file: {why}") })
}

fn read_json(path: &Path) -> Result<Value> {
    let text = std::fs::read_to_string(path).map_err(|why| ImportError::Io { path: path.to_owned(), why })?;
    serde_json::from_str(&text)
        .map_err(|why| ImportError::Malformed { path: path.to_owned(), what: format!("not JSON: {why}") })
}

fn weight_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let index = folder.join("model.safetensors.index.json");
    if !index.exists() {
        let (single, pickle) = (folder.join("model.safetensors"), folder.join("pytorch_model.bin"));
        if !single.exists() && pickle.exists() {
            return Err(ImportError::Unsupported {
                path: pickle,
                found: "a pickled checkpoint".into(),
                supported: "supported is safetensors: transformers' save_pretrained writes it".into(),
            });
        }
        return Ok(vec![single]);
    }
    let json = read_json(&index)?;
    let malformed = |what: &str| ImportError::Malformed { path: index.clone(), what: what.to_owned() };
    let map = json["weight_map"].as_object().ok_or_else(|| malformed("no weight_map"))?;
    let mut names = BTreeSet::new();
    for name in map.values() {
        let name = name.as_str().ok_or_else(|| malformed("weight_map holds something that is no file name"))?;
        if Path::new(name).file_name() != Some(std::ffi::OsStr::new(name)) {
            return Err(malformed("weight_map names a file outside the folder"));
        }
        names.insert(folder.join(name));
    }
    Ok(names.into_iter().collect())
}

/// Largest number a dimension may have: products of two stay far from overflow.
const LARGEST: usize = 1 << 28;
/// Most layers: each is looked up by name before anything else is known to be there.
const MOST_LAYERS: usize = 1 << 12;

fn parse_config(path: &Path, json: &Value) -> Result<LlmConfig> {
    let unsupported = |found: String, supported: &str| ImportError::Unsupported {
        path: path.to_owned(),
        found,
        supported: supported.to_owned(),
    };
    let malformed = |what: String| ImportError::Malformed { path: path.to_owned(), what };
    let architecture = json["architectures"][0].as_str().or(json["model_type"].as_str()).unwrap_or("none").to_owned();
    let (qkv_bias, qk_norm) = match architecture.as_str() {
        "LlamaForCausalLM" | "MistralForCausalLM" | "llama" | "mistral" => (false, false),
        "Qwen2ForCausalLM" | "qwen2" => (true, false),
        "Qwen3ForCausalLM" | "qwen3" => (false, true),
        other => {
            let supported = "supported are LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM";
            return Err(unsupported(format!("architecture {other}"), supported));
        }
    };
    let number = |name: &str| match json[name].as_u64().map(usize::try_from) {
        Some(Ok(n)) if (1..=LARGEST).contains(&n) => Ok(n),
        _ => Err(malformed(format!("{name} is {}, a number from 1 to {LARGEST} was expected", json[name]))),
    };
    let optional = |name: &str, default: usize| if json[name].is_null() { Ok(default) } else { number(name) };
    if json["hidden_act"].as_str().unwrap_or("silu") != "silu" {
        return Err(unsupported(format!("activation {}", json["hidden_act"]), "supported is silu"));
    }
    for name in ["attention_bias", "mlp_bias"] {
        if json[name].as_bool() == Some(true) {
            return Err(unsupported(format!("{name} = true"), "biases are supported for Qwen2's q, k and v only"));
        }
    }
    if !json["quantization_config"].is_null() {
        return Err(unsupported("a quantized checkpoint".into(), "give the folder before it was quantized"));
    }
    let (dim, heads, layers) = (number("hidden_size")?, number("num_attention_heads")?, number("num_hidden_layers")?);
    if layers > MOST_LAYERS {
        return Err(malformed(format!("num_hidden_layers is {layers}, at most {MOST_LAYERS} are possible")));
    }
    let head_dim = optional("head_dim", dim / heads)?;
    let kv_heads = optional("num_key_value_heads", heads)?;
    let largest = mote_runtime::image::plan::MAX_HEAD_DIM as usize;
    if head_dim == 0 || head_dim % 2 != 0 || head_dim > largest {
        return Err(unsupported(format!("head_dim {head_dim}"), &format!("even ones up to {largest} are supported")));
    }
    if heads % kv_heads != 0 {
        return Err(malformed(format!("{heads} query heads are no multiple of {kv_heads} key-value heads")));
    }
    // Newer folders keep theta and scaling together in rope_parameters.
    let rope = if json["rope_parameters"].is_object() { &json["rope_parameters"] } else { &json["rope_scaling"] };
    let theta = json["rope_theta"].as_f64().or(rope["rope_theta"].as_f64()).unwrap_or(10000.0);
    let positive = |name: &str| {
        let missing = || malformed(format!("rope scaling: {name} is {}, a positive number was expected", rope[name]));
        rope[name].as_f64().filter(|v| *v > 0.0).ok_or_else(missing)
    };
    let rope_scaling = match rope["rope_type"].as_str().or(rope["type"].as_str()).unwrap_or("default") {
        "default" => RopeScaling::None,
        "linear" => RopeScaling::Linear { factor: positive("factor")? },
        "llama3" => RopeScaling::Llama3 {
            factor: positive("factor")?,
            low_freq_factor: positive("low_freq_factor")?,
            high_freq_factor: positive("high_freq_factor")?,
            original_context: positive("original_max_position_embeddings")?,
        },
        other => {
            return Err(unsupported(format!("rope scaling {other}"), "supported are default, linear and llama3"));
        }
    };
    if !(theta > 1.0 && theta.is_finite()) {
        return Err(malformed(format!("rope_theta is {theta}")));
    }
    let window = json["sliding_window"].as_u64().filter(|_| json["use_sliding_window"].as_bool() != Some(false));
    Ok(LlmConfig {
        vocab: number("vocab_size")?,
        dim,
        hidden: number("intermediate_size")?,
        layers,
        heads,
        kv_heads,
        head_dim,
        max_context: optional("max_position_embeddings", 2048)?,
        rope_theta: theta,
        rope_scaling,
        norm_eps: json["rms_norm_eps"].as_f64().filter(|e| (0.0..1.0).contains(e)).unwrap_or(1e-6),
        tied: json["tie_word_embeddings"].as_bool().unwrap_or(false),
        qkv_bias,
        qk_norm,
        sliding_window: window.and_then(|w| usize::try_from(w).ok()),
        architecture,
    })
}

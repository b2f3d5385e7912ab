//! Hugging Face folders: config.json and safetensors, in one file or in shards.

use super::{ImportError, LlmConfig, Model, Result, Weight, bert, gpt2, hash_files, llama, m2m100, map};
use crate::lower;
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
        let config = Config::read(path.join("config.json"))?;
        config.parse(&|_| true)?; // what it refuses need not have weights
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
        let config = config.parse(&|name| index.contains_key(name))?;
        let mut folder = Self { path: path.to_owned(), config, files, index, warnings: Vec::new() };
        folder.check()?;
        Ok(folder)
    }

    fn check(&mut self) -> Result<()> {
        let mut used = BTreeSet::new();
        for weight in lower::weights(&self.config) {
            for (name, expected) in std::iter::once(weight.in_folder()).chain(weight.plus()) {
                let (dtype, shape, _) = self.view(name)?;
                if shape != expected {
                    let (name, expected) = (name.to_owned(), expected.to_vec());
                    return Err(ImportError::Shape { path: self.path.clone(), name, found: shape, expected });
                }
                if !matches!(dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16) {
                    return Err(ImportError::Unsupported {
                        path: self.path.clone(),
                        found: format!("tensor {name} of type {dtype:?}"),
                        supported: "weights must be F32, F16 or BF16: give the folder before it was quantized".into(),
                    });
                }
                used.insert(self.key(name).to_owned());
            }
        }
        let shares =
            |name: &str| self.config.encoder.as_ref().is_some_and(|e| e.shared) && m2m100::SHARING.contains(&name);
        let tied = |name: &str| self.config.tied && name == "lm_head.weight" || shares(name);
        let unused = self.index.keys().filter(|n| !used.contains(*n) && !tied(n) && !is_constant(n));
        let left: Vec<&str> = unused.map(String::as_str).collect();
        if !left.is_empty() {
            self.warnings.push(format!("not used: {}", left.join(", ")));
        }
        Ok(())
    }

    /// `name` as the files have it: without the model's prefix if the model was saved without its head, and a shared
    /// embedding under the name of any that shares it.
    fn key<'n>(&self, name: &'n str) -> &'n str {
        let short = name.split_once('.').map_or(name, |(_, rest)| rest);
        let shared = if name == m2m100::SHARED { &m2m100::SHARING[..] } else { &[] };
        let mut names = [name, short].into_iter().chain(shared.iter().copied());
        names.find(|name| self.index.contains_key(*name)).unwrap_or(name)
    }

    /// All values of a tensor of the files.
    fn values(&self, name: &str) -> Result<Vec<f32>> {
        let (dtype, _, bytes) = self.view(name)?;
        let halves = bytes.as_chunks::<2>().0.iter();
        let values = match dtype {
            Dtype::F16 => halves.map(|b| half::f16::from_le_bytes(*b).to_f32()).collect(),
            Dtype::BF16 => halves.map(|b| half::bf16::from_le_bytes(*b).to_f32()).collect(),
            _ => bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        };
        if let Some(file) = self.index.get(self.key(name)) {
            super::release(&self.files[*file].1, bytes);
        }
        Ok(values)
    }

    fn view(&self, name: &str) -> Result<(Dtype, Vec<usize>, &[u8])> {
        let missing = || ImportError::Missing { path: self.path.clone(), name: name.to_owned() };
        let name = self.key(name);
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

    fn tensor(&self, weight: &Weight) -> Result<Vec<f32>> {
        let mut values = self.values(weight.in_folder().0)?;
        if let Some((name, shape)) = weight.plus() {
            let row = &self.values(name)?[..shape[1]];
            values.chunks_mut(row.len()).for_each(|to| to.iter_mut().zip(row).for_each(|(to, more)| *to += more));
        }
        Ok(weight.take(values))
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

/// Reads a JSON file.
pub(super) fn read_json(path: &Path) -> Result<Value> {
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

/// Tensors that follow from the configuration: rotary frequencies, GPT-2's causal masks, sinusoidal positions.
fn is_constant(name: &str) -> bool {
    [".rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias", ".embed_positions.weights", "embeddings.position_ids"]
        .iter()
        .any(|end| name.ends_with(end))
}

/// Reads a family's configuration; the function says whether the folder has a tensor of this name.
type Parse = fn(&Config, &dyn Fn(&str) -> bool) -> Result<LlmConfig>;

/// The architectures, by their names in `architectures` or `model_type`.
const ARCHITECTURES: [(&[&str], Parse); 4] = [
    (&llama::NAMES, llama::parse),
    (&gpt2::NAMES, gpt2::parse),
    (&m2m100::NAMES, m2m100::parse),
    (&bert::NAMES, bert::parse),
];

/// A config.json.
pub(super) struct Config {
    path: PathBuf,
    /// Its contents.
    pub json: Value,
}

impl Config {
    fn read(path: PathBuf) -> Result<Self> {
        Ok(Self { json: read_json(&path)?, path })
    }

    fn parse(&self, has: &dyn Fn(&str) -> bool) -> Result<LlmConfig> {
        let name = self.architecture();
        if !self.json["quantization_config"].is_null() {
            return Err(self.unsupported("a quantized checkpoint".into(), "give the folder before it was quantized"));
        }
        let Some((_, parse)) = ARCHITECTURES.iter().find(|(names, _)| names.contains(&name)) else {
            let known =
                ARCHITECTURES.iter().flat_map(|(names, _)| names.iter()).filter(|n| n.starts_with(char::is_uppercase));
            let supported = format!("supported are {}", known.copied().collect::<Vec<_>>().join(", "));
            return Err(self.unsupported(format!("architecture {name}"), &supported));
        };
        parse(self, has)
    }

    /// A file of the same folder.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.path.with_file_name(name)
    }

    /// The architecture, as the folder names it.
    pub fn architecture(&self) -> &str {
        self.json["architectures"][0].as_str().or(self.json["model_type"].as_str()).unwrap_or("none")
    }

    /// The error for what Mote does not run.
    pub fn unsupported(&self, found: String, supported: &str) -> ImportError {
        ImportError::Unsupported { path: self.path.clone(), found, supported: supported.to_owned() }
    }

    /// The error for what no such file can say.
    pub fn malformed(&self, what: String) -> ImportError {
        ImportError::Malformed { path: self.path.clone(), what }
    }

    /// A size.
    pub fn number(&self, name: &str) -> Result<usize> {
        match self.json[name].as_u64().map(usize::try_from) {
            Some(Ok(n)) if (1..=LARGEST).contains(&n) => Ok(n),
            _ => {
                let what = format!("{name} is {}, a number from 1 to {LARGEST} was expected", self.json[name]);
                Err(self.malformed(what))
            }
        }
    }

    /// A size that may be left out.
    pub fn optional(&self, name: &str, default: usize) -> Result<usize> {
        if self.json[name].is_null() { Ok(default) } else { self.number(name) }
    }

    /// A number of layers.
    pub fn layers(&self, name: &str) -> Result<usize> {
        match self.number(name)? {
            n if n > MOST_LAYERS => Err(self.malformed(format!("{name} is {n}, at most {MOST_LAYERS} are possible"))),
            n => Ok(n),
        }
    }

    /// Refuses the first of these fields that is not as expected (or left out).
    pub fn expect(&self, fields: &[(&str, Value)]) -> Result<()> {
        match fields.iter().find(|(name, value)| !self.json[*name].is_null() && self.json[*name] != *value) {
            Some((name, value)) => {
                Err(self.unsupported(format!("{name} = {}", self.json[*name]), &format!("supported is {value}")))
            }
            None => Ok(()),
        }
    }

    /// The width of the heads that `dim` is split into.
    pub fn head_dim(&self, dim: usize, heads: usize) -> Result<usize> {
        let largest = mote_runtime::image::plan::MAX_HEAD_DIM as usize;
        if !dim.is_multiple_of(heads) {
            return Err(self.malformed(format!("a width of {dim} is no multiple of {heads} heads")));
        }
        match dim / heads {
            each if each <= largest => Ok(each),
            each => Err(self.unsupported(format!("heads of {each}"), &format!("up to {largest} are supported"))),
        }
    }
}

/// Largest number a dimension may have: products of two stay far from overflow.
const LARGEST: usize = 1 << 28;
/// Most layers: each is looked up by name before anything else is known to be there.
const MOST_LAYERS: usize = 1 << 12;

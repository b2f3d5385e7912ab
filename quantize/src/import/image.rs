//! Images as float models: the weights as the device computes with them.
//!
//! So the float evaluator runs a quantized model, which tells what its weights lost apart from what integer arithmetic
//! does.

use super::{ImportError, LlmConfig, Model, Result, Weight, hash_files};
use crate::codes::decode;
use crate::quantize::Meta;
use mote_host::runtime::image::{Dtype, section};
use std::path::{Path, PathBuf};

/// A mapped image and what it says of itself.
pub struct ImageModel {
    path: PathBuf,
    model: mote_host::Model,
    meta: Meta,
    config: LlmConfig,
}

impl ImageModel {
    /// Opens an image that `mote quantize` made.
    ///
    /// # Errors
    /// [`ImportError::Malformed`].
    pub fn open(path: &Path) -> Result<Self> {
        let malformed = |what: String| ImportError::Malformed { path: path.to_owned(), what };
        let model = mote_host::Model::open(path).map_err(|why| malformed(why.to_string()))?;
        let meta = model.image().section(section::META).map_err(|why| malformed(why.to_string()))?;
        let meta: Meta = serde_json::from_slice(meta).map_err(|why| malformed(format!("its META section: {why}")))?;
        if meta.tensors.len() != model.image().tensor_count() as usize {
            return Err(malformed("its META section lists other tensors than it has".into()));
        }
        let config = meta.config.clone().ok_or_else(|| malformed("it is no language model's image".into()))?;
        Ok(Self { path: path.to_owned(), model, meta, config })
    }
}

impl Model for ImageModel {
    fn config(&self) -> &LlmConfig {
        &self.config
    }

    fn tensor(&self, weight: &Weight) -> Result<Vec<f32>> {
        let missing = || ImportError::Missing { path: self.path.clone(), name: weight.name.clone() };
        let at = self.meta.tensors.iter().position(|t| t.name == weight.name).ok_or_else(missing)?;
        let (report, index, image) = (&self.meta.tensors[at], at as u32, self.model.image());
        if let Some(coded) = image.coded(index) {
            return Ok(decode(&coded, report.hadamard.min(coded.cols.trailing_zeros())));
        }
        let desc = image.tensor(index).map_err(|_| missing())?;
        let unit = 2f64.powi(-desc.exponent);
        let real = |v: i32| (f64::from(v) * unit) as f32;
        match desc.dtype {
            Dtype::I16 => Ok(image.vector16(index).ok_or_else(missing)?.iter().map(|v| real(v.into())).collect()),
            Dtype::I32 => {
                let bytes = image.raw(index, Dtype::I32).ok_or_else(missing)?;
                Ok(bytes.as_chunks::<4>().0.iter().map(|b| real(i32::from_le_bytes(*b))).collect())
            }
            _ => Err(missing()),
        }
    }

    fn source_hash(&self) -> Result<[u8; 32]> {
        hash_files(std::slice::from_ref(&self.path))
    }

    fn path(&self) -> &Path {
        &self.path
    }
}

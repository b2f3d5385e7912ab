//! What a Hugging Face folder says of its tokenizer outside the tokenizer's own file: tokenizer_config.json,
//! generation_config.json and config.json. Each may be missing.

use super::{ImportError, Result};
use serde_json::Value;
use std::path::Path;

/// What the files say.
#[derive(Debug, Default)]
pub(super) struct Sidecar {
    /// Whether texts begin with BOS.
    pub(super) add_bos: Option<bool>,
    /// BOS by its text.
    pub(super) bos_name: Option<String>,
    /// BOS by its id.
    pub(super) bos_id: Option<u32>,
    /// EOS by its text.
    pub(super) eos_name: Option<String>,
    /// Ids that end a text.
    pub(super) ends: Vec<u32>,
}

impl Sidecar {
    /// Reads the files beside `tokenizer`.
    pub(super) fn read(tokenizer: &Path) -> Result<Self> {
        let folder = tokenizer.parent().unwrap_or(Path::new(""));
        let mut found = Self::default();
        // The generation's ends outrank the architecture's, as in transformers.
        for name in ["generation_config.json", "config.json"] {
            let path = folder.join(name);
            let json = read(&path)?;
            found.bos_id = found.bos_id.or(ids(&path, &json, "bos_token_id")?.first().copied());
            if found.ends.is_empty() {
                found.ends = ids(&path, &json, "eos_token_id")?;
            }
        }
        let json = read(&folder.join("tokenizer_config.json"))?;
        found.add_bos = json["add_bos_token"].as_bool();
        found.bos_name = token(&json["bos_token"]);
        found.eos_name = token(&json["eos_token"]);
        Ok(found)
    }
}

/// A JSON file, or null if there is none.
pub(super) fn read(path: &Path) -> Result<Value> {
    if !path.is_file() {
        return Ok(Value::Null);
    }
    let bytes = std::fs::read(path).map_err(|why| ImportError::Io { path: path.to_owned(), why })?;
    serde_json::from_slice(&bytes)
        .map_err(|why| ImportError::Malformed { path: path.to_owned(), what: format!("not JSON: {why}") })
}

/// A token's text: a string, or an object with `content`.
fn token(json: &Value) -> Option<String> {
    json.as_str().or(json["content"].as_str()).map(str::to_owned)
}

/// Nothing, an id, or a list of ids.
fn ids(path: &Path, json: &Value, name: &str) -> Result<Vec<u32>> {
    let id = |v: &Value| v.as_u64().and_then(|id| u32::try_from(id).ok());
    let found = match &json[name] {
        Value::Null => Some(Vec::new()),
        Value::Array(list) => list.iter().map(id).collect(),
        one => id(one).map(|id| vec![id]),
    };
    found.ok_or_else(|| ImportError::Malformed {
        path: path.to_owned(),
        what: format!("{name} is {}, an id or a list of ids was expected", json[name]),
    })
}

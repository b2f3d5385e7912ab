//! What is finished, on disk: matrices of a run that may be killed, and layers that several machines share.
//!
//! Both are one kind of file: eight letters, the bytes of a JSON, that JSON, what it describes, and a CRC-32C of all that. A file
//! appears under its name when it is whole (written beside, synced, renamed), so one that is damaged is found by its sum and done
//! again.

use crate::calibrate::Text;
use crate::float::kind;
use crate::import::{LlmConfig, Model};
use crate::lower::{Ranges, language_model};
use crate::quantize::{QUANTIZER, QuantizeError, Settings, hex};
use crate::write::{folder, put};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, TryLockError};
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// What can be wrong with such files.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PartsError {
    /// The system's.
    #[error("{path}: {why}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The reason.
        why: io::Error,
    },
    /// Another process has the folder.
    #[error("{path}: another mote is at work there; give this one a folder of its own with --work")]
    Busy {
        /// The folder.
        path: PathBuf,
    },
    /// Not such a file, or no longer.
    #[error("{path}: {what}; `mote quantize --layers A..B` makes what can be merged")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: &'static str,
    },
    /// Layers that nobody has.
    #[error("layers {missing} of 0..{layers} are in none of the parts")]
    Missing {
        /// Ranges, separated by commas.
        missing: String,
        /// How many there are.
        layers: usize,
    },
    /// A tensor that a part should have.
    #[error("tensor {name} is in none of the parts: mote {QUANTIZER} did not make them")]
    Tensor {
        /// The tensor.
        name: String,
    },
    /// Layers that two have.
    #[error("layers {}..{} are in {first} and in {second}", twice.start, twice.end)]
    Twice {
        /// The layers.
        twice: Range<usize>,
        /// A file.
        first: PathBuf,
        /// Another.
        second: PathBuf,
    },
    /// Parts that do not belong together.
    #[error("{second} does not belong to {first}: {what}")]
    Differs {
        /// A file.
        first: PathBuf,
        /// Another.
        second: PathBuf,
        /// What the second has.
        what: String,
    },
    /// Layers that a model lacks.
    #[error("layers {}..{} were asked for; the model has 0..{layers}", asked.start, asked.end)]
    Layers {
        /// Asked for.
        asked: Range<usize>,
        /// How many there are.
        layers: usize,
    },
}

/// Shorthand for this file.
pub(crate) type Result<T> = std::result::Result<T, PartsError>;

/// Everything that determines the codes of a model's matrices.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Key {
    /// The quantizer and its version.
    pub quantizer: String,
    /// SHA-256 of the files that hold the weights.
    pub model: String,
    /// The model's shape.
    pub config: LlmConfig,
    /// Layers of an encoder and of the decoder together.
    pub layers: usize,
    /// SHA-256 of the calibration text's tokens.
    pub calibration: String,
    /// How many they are.
    pub calibration_tokens: usize,
    /// How codes are chosen.
    pub settings: BTreeMap<String, String>,
    /// The layers that are coded; those before are in floats.
    pub range: Range<usize>,
}

impl Key {
    /// The key of a run. Reads all of the model once.
    ///
    /// # Errors
    /// The model's, and [`PartsError::Layers`].
    pub fn new(model: &dyn Model, settings: &Settings) -> std::result::Result<Self, QuantizeError> {
        let config = model.config().clone();
        let layers = language_model(&config, &Ranges::default()).layers();
        let range = settings.layers.clone().unwrap_or(0..layers);
        if range.is_empty() || range.end > layers {
            return Err(PartsError::Layers { asked: range, layers }.into());
        }
        let Settings { rounding, balance, coding, head, budget, device, .. } = settings;
        let budget = budget.map_or_else(|| "none".into(), |bits| bits.to_string());
        let codes = [
            ("codes", format!("{coding:?}")),
            ("codes of the head", format!("{head:?}")),
            ("bits a weight", budget),
            ("method", format!("{rounding:?}")),
            // Without this line, or with other words in it or in the next, of a version that chose other codes.
            ("errors", "of columns and rows, by signs".to_owned()),
            ("balance", if *balance { "values, keys, norms" } else { "no" }.to_owned()),
            ("device", kind(device).to_owned()),
        ];
        Ok(Self {
            quantizer: QUANTIZER.to_owned(),
            model: hex(&model.source_hash()?),
            config,
            layers,
            calibration: hex(&hash(&settings.calibration)),
            calibration_tokens: settings.calibration.iter().map(|text| text.tokens.len()).sum(),
            settings: codes.map(|(name, value)| (name.to_owned(), value)).into(),
            range,
        })
    }

    /// What `other` has that this has not, the range aside.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Option<String> {
        if self.model != other.model || self.config != other.config {
            return Some("another model".into());
        }
        if self.quantizer != other.quantizer {
            return Some(format!("another version ({})", other.quantizer));
        }
        if self.settings != other.settings {
            let other = other.settings.iter().filter(|(name, value)| self.settings.get(*name) != Some(*value));
            let named: Vec<String> = other.map(|(name, value)| format!("{name}: {value}")).collect();
            return Some(format!("other settings ({})", named.join(", ")));
        }
        (self.calibration != other.calibration).then(|| "another calibration text".into())
    }
}

/// SHA-256 of texts, each with its lengths.
fn hash(texts: &[Text]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for tokens in texts.iter().flat_map(|text| [&text.source, &text.tokens]) {
        hash.update((tokens.len() as u64).to_le_bytes());
        tokens.iter().for_each(|token| hash.update(token.to_le_bytes()));
    }
    hash.finalize().into()
}

const MAGIC: &[u8; 8] = b"MOTEPART";
/// How the names of pieces end.
const END: &str = ".piece";
/// And while they are written.
const TEMPORARY: &str = ".tmp";
/// The file that the process which has a folder keeps locked.
const LOCK: &str = "lock";
/// The file of the key.
const KEY: &str = "key";

/// A folder of finished pieces of one run, which only this process uses.
pub struct Work {
    folder: PathBuf,
    lock: File,
    names: BTreeSet<String>,
    /// What was there.
    pub found: Found,
}

/// What a folder held.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Matrices of this run.
    pub matrices: usize,
    /// Files that were not whole.
    pub damaged: usize,
    /// What else it held, and does no longer.
    pub other: Option<String>,
}

impl Work {
    /// The folder of a run whose result will be `out`.
    #[must_use]
    pub fn beside(out: &Path) -> PathBuf {
        let mut name = out.file_name().unwrap_or_default().to_owned();
        name.push(".parts");
        out.with_file_name(name)
    }

    /// Opens a folder, or makes it. What is there of the same key stays, if it is whole.
    ///
    /// # Errors
    /// [`PartsError::Io`], [`PartsError::Busy`].
    pub fn open(folder: &Path, key: &Key) -> Result<Self> {
        let io = |why| PartsError::Io { path: folder.to_owned(), why };
        if !folder.is_dir() {
            std::fs::create_dir(folder).map_err(io)?;
        }
        let lock = File::create(folder.join(LOCK)).map_err(io)?;
        match lock.try_lock() {
            Err(TryLockError::WouldBlock) => return Err(PartsError::Busy { path: folder.to_owned() }),
            Err(TryLockError::Error(why)) if why.kind() != io::ErrorKind::Unsupported => return Err(io(why)),
            _ => {}
        }
        let mut work = Self { folder: folder.to_owned(), lock, names: BTreeSet::new(), found: Found::default() };
        let before = work.get::<Key>(KEY).ok().map(|(key, _)| key);
        let same = before.as_ref() == Some(key);
        for path in work.files()? {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let finished = name.strip_suffix(END).filter(|_| same);
            match finished {
                Some(KEY) => continue,
                Some(name) if Opened::new(&path).and_then(|mut file| file.head::<serde_json::Value>()).is_ok() => {
                    work.names.insert(name.to_owned());
                    continue;
                }
                Some(_) => work.found.damaged += 1,
                None => {}
            }
            std::fs::remove_file(&path).map_err(io)?;
        }
        work.found.matrices = work.matrices();
        if !same {
            let ranges = "other layers".to_owned();
            work.found.other = before.map(|before| key.difference(&before).unwrap_or(ranges));
            write(&work.path(KEY), key, &[])?;
        }
        Ok(work)
    }

    /// The files that such a folder has, but for the lock.
    fn files(&self) -> Result<Vec<PathBuf>> {
        let io = |why| PartsError::Io { path: self.folder.clone(), why };
        let entries = std::fs::read_dir(&self.folder).map_err(io)?.collect::<io::Result<Vec<_>>>().map_err(io)?;
        let ours = |path: &PathBuf| {
            let name = path.to_string_lossy();
            name.strip_suffix(TEMPORARY).unwrap_or(&name).ends_with(END)
        };
        Ok(entries.into_iter().map(|entry| entry.path()).filter(ours).collect())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}{END}"))
    }

    /// Where it lies.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// How many matrices are finished.
    #[must_use]
    pub fn matrices(&self) -> usize {
        self.names.iter().filter(|name| is_matrix(name)).count()
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.names.contains(name)
    }

    /// Keeps a piece.
    pub(crate) fn put(&mut self, name: &str, head: &impl Serialize, data: &[u8]) -> Result<()> {
        write(&self.path(name), head, data)?;
        self.names.insert(name.to_owned());
        Ok(())
    }

    /// A piece that was kept.
    pub(crate) fn get<T: DeserializeOwned>(&self, name: &str) -> Result<(T, Vec<u8>)> {
        read(&self.path(name))
    }

    /// Removes the folder, unless there is something in it that is not of such a run.
    ///
    /// # Errors
    /// [`PartsError::Io`].
    pub fn remove(self) -> Result<()> {
        let io = |why| PartsError::Io { path: self.folder.clone(), why };
        for path in self.files()? {
            std::fs::remove_file(path).map_err(io)?;
        }
        std::fs::remove_file(self.folder.join(LOCK)).map_err(io)?;
        drop(self.lock);
        match std::fs::remove_dir(&self.folder) {
            Err(why) if why.kind() != io::ErrorKind::DirectoryNotEmpty => Err(io(why)),
            _ => Ok(()),
        }
    }
}

/// The name of a matrix's piece.
pub(crate) fn matrix_name(index: u32) -> String {
    format!("{index:05}")
}

fn is_matrix(name: &str) -> bool {
    name.bytes().all(|b| b.is_ascii_digit())
}

/// Writes a file that is not there until it is whole.
fn write(path: &Path, head: &impl Serialize, data: &[u8]) -> Result<()> {
    write_all(path, head, &mut |append| append(data))
}

/// Takes what comes next in a file.
type Append<'a> = dyn FnMut(&[u8]) -> Result<()> + 'a;

/// The same with data that comes bit by bit.
pub(crate) fn write_all<E: From<PartsError>>(
    path: &Path,
    head: &impl Serialize,
    data: &mut dyn FnMut(&mut Append<'_>) -> std::result::Result<(), E>,
) -> std::result::Result<(), E> {
    let io = |why| PartsError::Io { path: path.to_owned(), why };
    let end = format!(".{}{TEMPORARY}", path.file_name().unwrap_or_default().display());
    let temporary = tempfile::Builder::new().suffix(&end).tempfile_in(folder(path)).map_err(io)?;
    let mut out = BufWriter::new(temporary.as_file());
    let mut crc = 0;
    let mut append = |bytes: &[u8]| {
        crc = crc32c::crc32c_append(crc, bytes);
        out.write_all(bytes).map_err(io)
    };
    let json = serde_json::to_vec(head).map_err(|why| io(why.into()))?;
    append(MAGIC)?;
    append(&(json.len() as u64).to_le_bytes())?;
    append(&json)?;
    data(&mut append)?;
    out.write_all(&crc.to_le_bytes()).and_then(|()| out.flush()).map_err(io)?;
    drop(out);
    Ok(put(temporary, path).map_err(io)?)
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<(T, Vec<u8>)> {
    let mut open = Opened::new(path)?;
    let head = open.head()?;
    let data = open.data(0, open.bytes)?;
    Ok((head, data))
}

/// A file that was found to be whole.
pub(crate) struct Opened {
    path: PathBuf,
    file: File,
    json: Range<u64>,
    /// Bytes of what follows the JSON.
    pub bytes: u64,
}

impl Opened {
    /// Reads all of a file for its sum.
    pub(crate) fn new(path: &Path) -> Result<Self> {
        let io = |why| PartsError::Io { path: path.to_owned(), why };
        let malformed = |what| PartsError::Malformed { path: path.to_owned(), what };
        let file = File::open(path).map_err(io)?;
        let bytes = file.metadata().map_err(io)?.len();
        let mut head = [0; 16];
        let mut reader = BufReader::with_capacity(1 << 20, &file);
        if bytes < 20 || reader.read_exact(&mut head).is_err() || !head.starts_with(MAGIC) {
            return Err(malformed("this holds no layers of a model"));
        }
        let mut crc = crc32c::crc32c(&head);
        let json = u64::from_le_bytes(*head.last_chunk().unwrap_or(&[0; 8]));
        let mut left = bytes - 20;
        if json > left {
            return Err(malformed("the file is cut short"));
        }
        let mut buffer = vec![0; 1 << 20];
        while left > 0 {
            let piece = &mut buffer[..left.min(1 << 20) as usize];
            reader.read_exact(piece).map_err(io)?;
            crc = crc32c::crc32c_append(crc, piece);
            left -= piece.len() as u64;
        }
        let mut sum = [0; 4];
        reader.read_exact(&mut sum).map_err(io)?;
        if sum != crc.to_le_bytes() {
            return Err(malformed("the file is damaged, or cut short"));
        }
        Ok(Self { path: path.to_owned(), file, json: 16..16 + json, bytes: bytes - 20 - json })
    }

    /// Its JSON.
    pub(crate) fn head<T: DeserializeOwned>(&mut self) -> Result<T> {
        let json = self.at(self.json.start, self.json.end - self.json.start)?;
        let what = "its description is not understood: another version of mote made it";
        serde_json::from_slice(&json).map_err(|_| PartsError::Malformed { path: self.path.clone(), what })
    }

    /// Some of what follows the JSON.
    pub(crate) fn data(&mut self, offset: u64, bytes: u64) -> Result<Vec<u8>> {
        if offset.checked_add(bytes).is_none_or(|end| end > self.bytes) {
            return Err(PartsError::Malformed { path: self.path.clone(), what: "it describes more than it holds" });
        }
        self.at(self.json.end + offset, bytes)
    }

    fn at(&mut self, offset: u64, bytes: u64) -> Result<Vec<u8>> {
        let io = |why| PartsError::Io { path: self.path.clone(), why };
        self.file.seek(SeekFrom::Start(offset)).map_err(io)?;
        let mut data = vec![0; bytes as usize];
        self.file.read_exact(&mut data).map_err(io)?;
        Ok(data)
    }
}

#[cfg(test)]
mod tests {
    use super::Key;
    use crate::codes::Coding;
    use crate::import::open_model;
    use crate::quantize::Settings;
    use std::path::Path;

    #[test]
    fn what_another_device_has_coded_is_not_the_same() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/models/llm");
        let key = Key::new(&*open_model(&folder).unwrap(), &Settings::new("llm", Coding::T4, vec![])).unwrap();
        assert_eq!((key.settings["device"].as_str(), key.difference(&key)), ("cpu", None));
        let mut other = key.clone();
        other.settings.insert("device".into(), "cuda".into());
        assert_eq!(key.difference(&other).as_deref(), Some("other settings (device: cuda)"));
    }
}

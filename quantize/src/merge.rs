//! Images of what was coded: by one run, or by several, each some layers of the model.

use crate::calibrate::is_matrix;
use crate::import::LlmConfig;
use crate::lower::{Ranges, Source, Steps, language_model, parameters};
use crate::parts::{Key, Opened, PartsError, write_all};
use crate::quantize::{Meta, Placed, QuantizeError, Settings, small, write};
use crate::write::Weights;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// What an image is told that does not change its codes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Label {
    name: String,
    license: Option<String>,
    context: usize,
    bits: u8,
    kv_bits: u8,
}

impl Label {
    /// The label of an image.
    pub(crate) fn new(c: &LlmConfig, settings: &Settings) -> Self {
        let Settings { name, license, context, coding, kv_bits, .. } = settings;
        let context = context.unwrap_or(c.max_context);
        Self { name: name.clone(), license: license.clone(), context, bits: coding.bits(), kv_bits: *kv_bits }
    }
}

/// A tensor of the program.
pub(crate) enum Piece {
    /// A coded matrix.
    Matrix(Placed, Vec<u8>),
    /// Values of a gain or a bias.
    Floats(Vec<f32>),
}

/// Gives the piece of each tensor that has a weight, by its index.
pub(crate) type Pieces<'p> = dyn FnMut(u32, &Source) -> Result<Piece, QuantizeError> + 'p;

/// Writes the image of a model whose matrices are coded. Returns what it says of itself, and its bytes.
pub(crate) fn assemble(
    key: &Key,
    label: &Label,
    ranges: &Ranges,
    pieces: &mut Pieces<'_>,
    texts: &[(u32, &[u8])],
    out: &Path,
) -> Result<(Meta, u64), QuantizeError> {
    let c = &key.config;
    let mut program = language_model(c, ranges);
    program.set_kv_bits(label.kv_bits);
    let mut weights = Weights::begin(out)?;
    let mut placed: HashMap<u32, Placed> = HashMap::new();
    for (_, index) in program.last_uses() {
        let source = &program.tensors()[index as usize];
        if is_matrix(source)
            && let Piece::Matrix(mut matrix, bytes) = pieces(index, source)?
        {
            matrix.desc.span = weights.append(&bytes)?;
            placed.insert(index, matrix);
        }
    }
    let lowered = program.finish(label.context);
    let (mut descs, mut reports) = (Vec::new(), Vec::new());
    for (index, source) in (0..).zip(&lowered.tensors) {
        let Placed { desc, report } = match (placed.remove(&index), source.weight()) {
            (Some(placed), _) => placed,
            (None, None) => small(c, source, &[], &mut weights)?,
            (None, Some(_)) => match pieces(index, source)? {
                Piece::Floats(values) => small(c, source, &values, &mut weights)?,
                Piece::Matrix(..) => unreachable!("matrices were placed"),
            },
        };
        descs.push(desc);
        reports.push(report);
    }
    let parameters = parameters(&lowered.tensors);
    let bytes: u64 = reports.iter().map(|r| r.bytes).sum();
    let meta = Meta {
        name: label.name.clone(),
        license: label.license.clone(),
        source_sha256: key.model.clone(),
        quantizer: key.quantizer.clone(),
        config: Some(c.clone()),
        bits: label.bits,
        calibration_tokens: key.calibration_tokens,
        calibration_samples: 0,
        patches: vec![],
        tensors: reports,
        parameters,
        bits_per_weight: bytes as f64 * 8.0 / parameters as f64,
    };
    let bytes = write(weights, &lowered, &descs, &meta, texts)?;
    Ok((meta, bytes))
}

/// What a file of some layers says of itself. Its data are the pieces, then the texts.
#[derive(Serialize, Deserialize)]
struct Head {
    key: Key,
    label: Label,
    ranges: BTreeMap<String, f64>,
    pieces: Vec<PieceHead>,
    /// Kind and bytes of each; the file of the last layer has them.
    texts: Vec<(u32, u64)>,
}

#[derive(Serialize, Deserialize)]
struct PieceHead {
    tensor: u32,
    bytes: u64,
    matrix: Option<Placed>,
}

/// The tensors that belong to some layers: those used there and never later.
fn own(program: &Steps, layers: &Range<usize>) -> Vec<u32> {
    let ops = program.layer_ops(layers);
    program.last_uses().into_iter().filter(|(at, _)| ops.contains(at)).map(|(_, index)| index).collect()
}

/// Writes what was coded of `key.range` to a file for [`merge`]. Returns its bytes.
pub(crate) fn write_layers(
    key: &Key,
    label: &Label,
    ranges: &Ranges,
    pieces: &mut Pieces<'_>,
    texts: &[(u32, &[u8])],
    out: &Path,
) -> Result<u64, QuantizeError> {
    let program = language_model(&key.config, &Ranges::default());
    let texts = if key.range.end == key.layers { texts } else { &[] };
    let mut heads = Vec::new();
    for tensor in own(&program, &key.range) {
        heads.push(match pieces(tensor, &program.tensors()[tensor as usize])? {
            Piece::Matrix(matrix, bytes) => PieceHead { tensor, bytes: bytes.len() as u64, matrix: Some(matrix) },
            Piece::Floats(values) => PieceHead { tensor, bytes: 4 * values.len() as u64, matrix: None },
        });
    }
    let head = Head {
        key: key.clone(),
        label: label.clone(),
        ranges: ranges.iter().map(|(name, largest)| (name.to_owned(), largest)).collect(),
        pieces: heads,
        texts: texts.iter().map(|(kind, text)| (*kind, text.len() as u64)).collect(),
    };
    write_all(out, &head, &mut |append| {
        for PieceHead { tensor, .. } in &head.pieces {
            match pieces(*tensor, &program.tensors()[*tensor as usize])? {
                Piece::Matrix(_, bytes) => append(&bytes)?,
                Piece::Floats(values) => {
                    values
                        .chunks(1 << 16)
                        .try_for_each(|some| append(&some.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>()))?;
                }
            }
        }
        texts.iter().try_for_each(|(_, text)| append(text))?;
        Ok::<_, QuantizeError>(())
    })?;
    Ok(std::fs::metadata(out).map_err(|why| PartsError::Io { path: out.to_owned(), why })?.len())
}

/// Assembles an image at `out` from files of `mote quantize --layers`. Returns what it says of itself, and its bytes.
///
/// # Errors
/// [`PartsError`]: files that are damaged, do not belong together, or lack layers or have some twice.
pub fn merge(parts: &[PathBuf], out: &Path) -> Result<(Meta, u64), QuantizeError> {
    let mut files = Vec::new();
    for path in parts {
        let mut file = Opened::new(path)?;
        files.push((path, file.head::<Head>()?, file));
    }
    files.sort_by_key(|(_, head, _)| (head.key.range.start, head.key.range.end));
    agree(&files)?;
    let Some((_, Head { key, label, .. }, _)) = files.first() else {
        return Err(PartsError::Missing { missing: "all".into(), layers: 0 }.into());
    };
    let (key, label) = (key.clone(), label.clone());
    let program = language_model(&key.config, &Ranges::default());
    let mut ranges = Ranges::default();
    // By tensor: its file, what is said of it, and where it begins.
    let mut places: HashMap<u32, (usize, PieceHead, u64)> = HashMap::new();
    let mut texts = Vec::new();
    for (at, (_, head, file)) in files.iter_mut().enumerate() {
        for place in program.places() {
            head.ranges.get(place).into_iter().for_each(|largest| ranges.see(place, *largest));
        }
        let mut offset = 0;
        for piece in head.pieces.drain(..) {
            let end = offset + piece.bytes;
            places.insert(piece.tensor, (at, piece, offset));
            offset = end;
        }
        for (kind, bytes) in &head.texts {
            texts.push((*kind, file.data(offset, *bytes)?));
            offset += bytes;
        }
    }
    let mut pieces = |index: u32, source: &Source| {
        let name = source.weight().map_or("", |weight| &weight.name);
        let lacking = || PartsError::Tensor { name: name.to_owned() };
        let (at, piece, offset) = places.get(&index).ok_or_else(lacking)?;
        let data = files[*at].2.data(*offset, piece.bytes)?;
        match &piece.matrix {
            Some(matrix) if is_matrix(source) => Ok(Piece::Matrix(matrix.clone(), data)),
            None if !is_matrix(source) => {
                Ok(Piece::Floats(data.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()))
            }
            _ => Err(lacking().into()),
        }
    };
    let texts: Vec<(u32, &[u8])> = texts.iter().map(|(kind, text)| (*kind, text.as_slice())).collect();
    assemble(&key, &label, &ranges, &mut pieces, &texts, out)
}

/// Checks that files, in the order of their layers, are of one model and one manner, and have every layer once.
fn agree(files: &[(&PathBuf, Head, Opened)]) -> Result<(), PartsError> {
    for [(first, one, _), (second, two, _)] in files.array_windows() {
        let label =
            (one.label != two.label).then(|| "another name, licence, context or cache for the image".to_owned());
        if let Some(what) = one.key.difference(&two.key).or(label) {
            return Err(PartsError::Differs { first: (*first).clone(), second: (*second).clone(), what });
        }
    }
    let (mut missing, mut next) = (Vec::new(), 0);
    let layers = files.first().map_or(0, |(_, head, _)| head.key.layers);
    for (at, (path, Head { key, .. }, _)) in files.iter().enumerate() {
        if key.range.start < next {
            let twice = key.range.start..key.range.end.min(next);
            return Err(PartsError::Twice { twice, first: files[at - 1].0.clone(), second: (*path).clone() });
        }
        missing.extend((next < key.range.start).then(|| format!("{next}..{}", key.range.start)));
        next = key.range.end;
    }
    missing.extend((next < layers).then(|| format!("{next}..{layers}")));
    if missing.is_empty() { Ok(()) } else { Err(PartsError::Missing { missing: missing.join(", "), layers }) }
}

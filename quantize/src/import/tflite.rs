//! TensorFlow Lite files: a flatbuffer, read in place.
//!
//! ```text
//! table   i32 back to its vtable, then its fields         vtable  u16 bytes of it, u16 bytes of the table,
//! vector  u32 length, then the elements                           u16 offset of each field in the table, 0: absent
//! offset  u32 forward from where it stands
//! ```
//!
//! Every offset is checked against the file when it is followed, and nothing is followed twice or recursively, so a damaged
//! or hostile file costs no more than its size. Which field of a table has which number is TFLite's `schema.fbs`.

use super::{ImportError, Result, hash_files, map};
use std::path::{Path, PathBuf};

/// Why a file is refused: an offset leads out of it, or a number is impossible.
#[derive(Debug)]
struct Damaged(&'static str);

type Checked<T> = std::result::Result<T, Damaged>;

const OUTSIDE: Damaged = Damaged("an offset leads out of the file");

/// A table of the flatbuffer.
#[derive(Clone, Copy, Debug)]
pub struct Table<'a> {
    file: &'a [u8],
    at: usize,
}

fn bytes_at<const N: usize>(file: &[u8], at: usize) -> Checked<[u8; N]> {
    file.get(at..).and_then(|f| f.first_chunk()).copied().ok_or(OUTSIDE)
}

fn follow(file: &[u8], at: usize) -> Checked<usize> {
    at.checked_add(u32::from_le_bytes(bytes_at(file, at)?) as usize).ok_or(OUTSIDE)
}

impl<'a> Table<'a> {
    /// Where field `id` lies, if the table has it.
    fn field(&self, id: usize) -> Checked<Option<usize>> {
        let back = i32::from_le_bytes(bytes_at(self.file, self.at)?);
        let vtable =
            (self.at as i64).checked_sub(i64::from(back)).and_then(|v| usize::try_from(v).ok()).ok_or(OUTSIDE)?;
        let bytes = usize::from(u16::from_le_bytes(bytes_at(self.file, vtable)?));
        if 4 + 2 * id + 2 > bytes {
            return Ok(None);
        }
        let offset = u16::from_le_bytes(bytes_at(self.file, vtable + 4 + 2 * id)?);
        Ok((offset != 0).then(|| self.at + usize::from(offset)))
    }

    fn number<const N: usize>(&self, id: usize) -> Checked<Option<[u8; N]>> {
        self.field(id)?.map(|at| bytes_at(self.file, at)).transpose()
    }

    fn u8(&self, id: usize) -> Checked<u8> {
        Ok(self.number::<1>(id)?.map_or(0, |[b]| b))
    }

    fn i32(&self, id: usize, absent: i32) -> Checked<i32> {
        Ok(self.number(id)?.map_or(absent, i32::from_le_bytes))
    }

    fn f32(&self, id: usize) -> Checked<f32> {
        Ok(self.number(id)?.map_or(0.0, f32::from_le_bytes))
    }

    fn table(&self, id: usize) -> Checked<Option<Table<'a>>> {
        self.field(id)?.map(|at| Ok(Table { file: self.file, at: follow(self.file, at)? })).transpose()
    }

    /// The elements of a vector of `N`-byte elements; empty if it is absent.
    fn vector<const N: usize>(&self, id: usize) -> Checked<&'a [[u8; N]]> {
        let Some(at) = self.field(id)? else {
            return Ok(&[]);
        };
        let start = follow(self.file, at)?;
        let count = u32::from_le_bytes(bytes_at(self.file, start)?) as usize;
        let elements = self.file.get(start + 4..).ok_or(OUTSIDE)?.as_chunks::<N>().0;
        elements.get(..count).ok_or(OUTSIDE)
    }

    /// The tables of a vector of tables.
    fn tables(&self, id: usize) -> Checked<Vec<Table<'a>>> {
        /// More operators or tensors than any model has.
        const MOST: usize = 1 << 16;
        let offsets = self.vector::<4>(id)?;
        if offsets.len() > MOST {
            return Err(Damaged("a list is longer than any model's"));
        }
        let start = offsets.as_ptr().addr().wrapping_sub(self.file.as_ptr().addr());
        let table = |i: usize| Ok(Table { file: self.file, at: follow(self.file, start + 4 * i)? });
        (0..offsets.len()).map(table).collect()
    }

    fn ints(&self, id: usize) -> Checked<Vec<i32>> {
        /// More inputs, outputs or dimensions than any operator has.
        const MOST: usize = 256;
        let ints = self.vector(id)?;
        if ints.len() > MOST {
            return Err(Damaged("a list is longer than any operator's"));
        }
        Ok(ints.iter().map(|b| i32::from_le_bytes(*b)).collect())
    }
}

/// Types of elements that Mote reads; others keep their number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// float32
    F32,
    /// int32
    I32,
    /// uint8
    U8,
    /// int16
    I16,
    /// int8
    I8,
    /// Any other.
    Other(u8),
}

/// A tensor of the graph.
#[derive(Clone, Debug)]
pub struct Tensor<'a> {
    /// Its name, for people.
    name: &'a [[u8; 1]],
    /// Dimensions.
    pub shape: Vec<usize>,
    /// Element type.
    pub dtype: Type,
    /// The bytes of a constant; empty for what is computed.
    pub data: &'a [u8],
    /// Scales: none, one, or one a channel.
    scales: &'a [[u8; 4]],
    /// Zero points likewise.
    zero_points: &'a [[u8; 8]],
    /// The dimension that channels are counted along.
    pub channel_dim: i32,
    /// Its contents live from one run to the next.
    pub variable: bool,
}

impl<'a> Tensor<'a> {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> String {
        String::from_utf8_lossy(self.name.as_flattened()).into_owned()
    }

    /// Its elements, if that is a number.
    #[must_use]
    pub fn count(&self) -> Option<usize> {
        self.shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d))
    }

    /// Scales, as stored.
    pub fn scales(&self) -> impl ExactSizeIterator<Item = f32> + 'a {
        self.scales.iter().map(|b| f32::from_le_bytes(*b))
    }

    /// Zero points, as stored.
    pub fn zero_points(&self) -> impl ExactSizeIterator<Item = i64> + 'a {
        self.zero_points.iter().map(|b| i64::from_le_bytes(*b))
    }

    /// The one scale and zero point of an int8 activation.
    #[must_use]
    pub fn int8(&self) -> Option<(f32, i8)> {
        let scale = self.scales().next().filter(|s| s.is_finite() && *s > 0.0)?;
        let zero = i8::try_from(self.zero_points().next().unwrap_or(0)).ok()?;
        (self.dtype == Type::I8 && self.scales.len() == 1).then_some((scale, zero))
    }
}

/// Numbers of an operator, by the schema's order of its options.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a>(Option<Table<'a>>);

impl Options<'_> {
    /// Option `id` as a byte (an enumeration or a truth value).
    #[must_use]
    pub fn byte(&self, id: usize) -> u8 {
        self.0.and_then(|t| t.u8(id).ok()).unwrap_or(0)
    }

    /// Option `id` as an int32.
    #[must_use]
    pub fn int(&self, id: usize, absent: i32) -> i32 {
        self.0.and_then(|t| t.i32(id, absent).ok()).unwrap_or(absent)
    }

    /// Option `id` as a float.
    #[must_use]
    pub fn float(&self, id: usize) -> f32 {
        self.0.and_then(|t| t.f32(id).ok()).unwrap_or(0.0)
    }
}

/// An operator of the graph.
#[derive(Clone, Debug)]
pub struct Operator<'a> {
    /// Number in the schema's `BuiltinOperator`.
    pub code: i32,
    /// Indices of its input tensors; -1: left out.
    pub inputs: Vec<i32>,
    /// Indices of its output tensors.
    pub outputs: Vec<i32>,
    /// Its options.
    pub options: Options<'a>,
}

/// A model's graph. Indices of tensors are not checked yet: [`Graph::tensor`] is how to use them.
#[derive(Clone, Debug)]
pub struct Graph<'a> {
    /// Tensors.
    tensors: Vec<Tensor<'a>>,
    /// Operators, each after those whose outputs it reads.
    pub operators: Vec<Operator<'a>>,
    /// Inputs.
    pub inputs: Vec<i32>,
    /// Outputs.
    pub outputs: Vec<i32>,
}

impl<'a> Graph<'a> {
    /// Tensor `index`; `None` if it is left out (-1) or not there.
    #[must_use]
    pub fn tensor(&self, index: i32) -> Option<&Tensor<'a>> {
        self.tensors.get(usize::try_from(index).ok()?)
    }

    /// Number of tensors.
    #[must_use]
    pub fn tensor_count(&self) -> usize {
        self.tensors.len()
    }
}

/// A TensorFlow Lite file.
pub struct Tflite {
    path: PathBuf,
    map: memmap2::Mmap,
}

/// Whether a file begins like a TensorFlow Lite model.
#[must_use]
pub fn is_tflite(path: &Path) -> bool {
    path.is_file() && map(path).is_ok_and(|file| file.get(4..8) == Some(b"TFL3"))
}

impl Tflite {
    /// Maps the file.
    ///
    /// # Errors
    /// [`ImportError::Io`].
    pub fn open(path: &Path) -> Result<Self> {
        Ok(Self { path: path.to_owned(), map: map(path)? })
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// SHA-256 of the file.
    ///
    /// # Errors
    /// [`ImportError::Io`].
    pub fn source_hash(&self) -> Result<[u8; 32]> {
        hash_files(std::slice::from_ref(&self.path))
    }

    /// The model's graph.
    ///
    /// # Errors
    /// [`ImportError::Malformed`], [`ImportError::Unsupported`].
    pub fn graph(&self) -> Result<Graph<'_>> {
        let subgraphs = read(&self.map).map_err(|Damaged(what)| ImportError::Malformed {
            path: self.path.clone(),
            what: format!("{what}: not a TensorFlow Lite model, or a damaged one"),
        })?;
        let count = subgraphs.len();
        let mut subgraphs = subgraphs.into_iter();
        match (subgraphs.next(), count) {
            (Some(graph), 1) => Ok(graph),
            _ => Err(ImportError::Unsupported {
                path: self.path.clone(),
                found: format!("a model of {count} graphs"),
                supported: "models of one graph are (no control flow)".into(),
            }),
        }
    }
}

/// The graphs of a file; only the first is read.
fn read(file: &[u8]) -> Checked<Vec<Graph<'_>>> {
    if file.get(4..8) != Some(b"TFL3") {
        return Err(Damaged("bytes 4 to 7 are not \"TFL3\""));
    }
    let model = Table { file, at: follow(file, 0)? };
    let codes = model.tables(1)?.iter().map(operator_code).collect::<Checked<Vec<i32>>>()?;
    let buffers = model.tables(4)?;
    let subgraphs = model.tables(2)?;
    if subgraphs.len() != 1 {
        // What is in them does not matter: such models are refused.
        let empty = Graph { tensors: vec![], operators: vec![], inputs: vec![], outputs: vec![] };
        return Ok(vec![empty; subgraphs.len().min(1000)]);
    }
    subgraphs.iter().map(|g| graph(g, &codes, &buffers)).collect()
}

/// Codes below 127 are in the older field too; files of either age have the larger in the one that counts.
fn operator_code(code: &Table<'_>) -> Checked<i32> {
    Ok(code.i32(3, 0)?.max(i32::from(code.u8(0)? as i8)))
}

fn graph<'a>(g: &Table<'a>, codes: &[i32], buffers: &[Table<'a>]) -> Checked<Graph<'a>> {
    let tensors = g.tables(0)?.iter().map(|t| tensor(t, buffers)).collect::<Checked<Vec<_>>>()?;
    let operators = g.tables(3)?.iter().map(|o| operator(o, codes)).collect::<Checked<Vec<_>>>()?;
    Ok(Graph { tensors, operators, inputs: g.ints(1)?, outputs: g.ints(2)? })
}

fn tensor<'a>(t: &Table<'a>, buffers: &[Table<'a>]) -> Checked<Tensor<'a>> {
    let quantization = t.table(4)?;
    let buffer = buffers.get(t.i32(2, 0)? as u32 as usize).ok_or(Damaged("a tensor's buffer is not there"))?;
    let shape = t.ints(0)?;
    if shape.len() > 8 {
        return Err(Damaged("a tensor has more than 8 dimensions"));
    }
    let size = |d: i32| usize::try_from(d).map_err(|_| Damaged("a dimension is negative"));
    Ok(Tensor {
        name: t.vector(3)?,
        shape: shape.into_iter().map(size).collect::<Checked<Vec<_>>>()?,
        dtype: match t.u8(1)? {
            0 => Type::F32,
            2 => Type::I32,
            3 => Type::U8,
            7 => Type::I16,
            9 => Type::I8,
            other => Type::Other(other),
        },
        data: buffer.vector::<1>(0)?.as_flattened(),
        scales: quantization.map_or(Ok(&[][..]), |q| q.vector(2))?,
        zero_points: quantization.map_or(Ok(&[][..]), |q| q.vector(3))?,
        channel_dim: quantization.map_or(Ok(0), |q| q.i32(6, 0))?,
        variable: t.u8(5)? != 0,
    })
}

fn operator<'a>(o: &Table<'a>, codes: &[i32]) -> Checked<Operator<'a>> {
    let index = o.i32(0, 0)? as u32 as usize;
    Ok(Operator {
        code: *codes.get(index).ok_or(Damaged("an operator's code is not there"))?,
        inputs: o.ints(1)?,
        outputs: o.ints(2)?,
        options: Options(o.table(4)?),
    })
}

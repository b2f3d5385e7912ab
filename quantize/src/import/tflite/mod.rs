//! TensorFlow Lite files, to a [`Graph`].
//!
//! Which field of a table has which number is TFLite's `schema.fbs`. `operators.rs` has the operators.

mod flatbuffer;
mod flexbuffer;
mod operators;
mod signal;

use super::{ImportError, Result, hash_files, map};
use crate::graph::{DType, Data, Graph, Node, Op, Quant, State, Value, ValueId};
use flatbuffer::{Checked, Damaged, Table, follow};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

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

    /// The model's graph. What Mote lacks is in it as [`Op::Unsupported`].
    ///
    /// # Errors
    /// [`ImportError::Malformed`].
    pub fn graph(&self) -> Result<Graph> {
        read(&self.map).map_err(|Damaged(what)| ImportError::Malformed {
            path: self.path.clone(),
            what: format!("{what}: not a TensorFlow Lite model, or a damaged one"),
        })
    }
}

/// An operator as the file has it.
struct Operator<'a> {
    /// Number in the schema's `BuiltinOperator`.
    code: i32,
    /// The name of a custom operator.
    custom: String,
    /// Indices of its input tensors; -1: left out.
    inputs: Vec<i32>,
    /// Indices of its output tensors.
    outputs: Vec<i32>,
    /// Its options.
    options: Option<Table<'a>>,
    /// The options of a custom operator, a flexbuffer.
    custom_options: &'a [u8],
}

/// Options, by the schema's order of them; those that are absent have the schema's default.
impl Operator<'_> {
    fn byte(&self, id: usize) -> u8 {
        self.options.and_then(|t| t.u8(id).ok()).unwrap_or(0)
    }

    fn flag(&self, id: usize) -> bool {
        self.byte(id) != 0
    }

    fn int(&self, id: usize, absent: i32) -> i32 {
        self.options.and_then(|t| t.i32(id, absent).ok()).unwrap_or(absent)
    }

    fn float(&self, id: usize) -> f32 {
        self.options.and_then(|t| t.f32(id).ok()).unwrap_or(0.0)
    }

    fn text(&self, id: usize) -> String {
        self.options.and_then(|t| t.text(id).ok()).unwrap_or_default()
    }
}

/// A graph of the file.
struct Subgraph<'a> {
    tensors: Vec<Value>,
    operators: Vec<Operator<'a>>,
    inputs: Vec<i32>,
    outputs: Vec<i32>,
}

/// Reads the first graph; others are only initialisers of states (`CALL_ONCE`), or branches, which Mote lacks.
fn read(file: &[u8]) -> Checked<Graph> {
    if file.get(4..8) != Some(b"TFL3") {
        return Err(Damaged("bytes 4 to 7 are not \"TFL3\""));
    }
    let model = Table { file, at: follow(file, 0)? };
    let codes = model.tables(1)?.iter().map(operator_code).collect::<Checked<Vec<_>>>()?;
    let buffers = model.tables(4)?;
    let subgraphs = model.tables(2)?;
    let first = subgraphs.first().ok_or(Damaged("it has no graph"))?;
    // Constants are widened when they are read: a file that names one buffer often must not cost more than a large one.
    let mut budget = file.len().saturating_mul(4);
    let main = subgraph(first, &codes, &buffers, &mut budget)?;
    let mut reader = Reader::new(main.tensors)?;
    let once = main.operators.iter().find(|o| o.code == operators::CALL_ONCE);
    if let Some(init) = once.map(|o| o.int(0, 0)).and_then(|i| subgraphs.get(usize::try_from(i).ok()?)) {
        let init = subgraph(init, &codes, &buffers, &mut budget)?;
        reader.initial = operators::initial_states(&init);
    }
    reader.graph.inputs = reader.all(&main.inputs)?;
    for (at, operator) in main.operators.iter().enumerate() {
        reader.operator(at, operator)?;
    }
    reader.graph.outputs = reader.all(&main.outputs)?;
    Ok(reader.graph)
}

/// Codes below 127 are in the older field too; files of either age have the larger in the one that counts.
fn operator_code(code: &Table<'_>) -> Checked<(i32, String)> {
    Ok((code.i32(3, 0)?.max(i32::from(code.u8(0)? as i8)), code.text(1)?))
}

fn subgraph<'a>(
    g: &Table<'a>,
    codes: &[(i32, String)],
    buffers: &[Table<'a>],
    budget: &mut usize,
) -> Checked<Subgraph<'a>> {
    Ok(Subgraph {
        tensors: g.tables(0)?.iter().map(|t| tensor(t, buffers, budget)).collect::<Checked<Vec<_>>>()?,
        operators: g.tables(3)?.iter().map(|o| operator(o, codes)).collect::<Checked<Vec<_>>>()?,
        inputs: g.ints(1)?,
        outputs: g.ints(2)?,
    })
}

fn tensor(t: &Table<'_>, buffers: &[Table<'_>], budget: &mut usize) -> Checked<Value> {
    let buffer = buffers.get(t.i32(2, 0)? as u32 as usize).ok_or(Damaged("a tensor's buffer is not there"))?;
    let bytes = buffer.vector::<1>(0)?.as_flattened();
    let shape = t.ints(0)?;
    if shape.len() > 8 {
        return Err(Damaged("a tensor has more than 8 dimensions"));
    }
    let size = |d: i32| usize::try_from(d).map_err(|_| Damaged("a dimension is negative"));
    let shape = shape.into_iter().map(size).collect::<Checked<Vec<_>>>()?;
    let count = shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d)).filter(|n| *n < 1 << 31);
    let count = count.ok_or(Damaged("a tensor has more than 2^31 elements"))?;
    // Types that Mote does not read (text, complex numbers, handles) only occur in operators that it lacks.
    let dtype = match t.u8(1)? {
        0 | 1 | 10 => DType::F32,
        2 => DType::I32,
        3 => DType::U8,
        4 => DType::I64,
        6 => DType::Bool,
        7 => DType::I16,
        9 => DType::I8,
        15 => DType::U32,
        17 => DType::I4,
        _ => DType::Bool,
    };
    spend(budget, bytes.len())?;
    let data = if bytes.is_empty() { None } else { elements(t.u8(1)?, bytes, count) };
    Ok(Value { name: t.text(3)?, shape, dtype, quant: quant(t.table(4)?, budget)?, data })
}

/// A constant's elements; `None` if they are not as many as the shape says, or of a type that Mote does not read.
fn elements(code: u8, bytes: &[u8], count: usize) -> Option<Data> {
    let ints = |n: Vec<i64>| Some(Data::Int(n));
    let data = match code {
        0 => Some(Data::F32(bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect())),
        1 => Some(Data::F32(bytes.as_chunks().0.iter().map(|b| half::f16::from_le_bytes(*b).to_f32()).collect())),
        2 => ints(bytes.as_chunks().0.iter().map(|b| i32::from_le_bytes(*b).into()).collect()),
        3 | 6 => ints(bytes.iter().map(|b| i64::from(*b)).collect()),
        4 => ints(bytes.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b)).collect()),
        7 => ints(bytes.as_chunks().0.iter().map(|b| i16::from_le_bytes(*b).into()).collect()),
        9 => ints(bytes.iter().map(|b| i64::from(*b as i8)).collect()),
        15 => ints(bytes.as_chunks().0.iter().map(|b| u32::from_le_bytes(*b).into()).collect()),
        10 => Some(Data::F32(bytes.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b) as f32).collect())),
        // Two to a byte, the first one low.
        17 => {
            ints(bytes.iter().flat_map(|b| [(*b as i8) << 4 >> 4, *b as i8 >> 4]).take(count).map(i64::from).collect())
        }
        _ => None,
    };
    data.filter(|d| match d {
        Data::F32(v) => v.len() == count,
        Data::Int(v) => v.len() == count,
    })
}

/// Counts what is read against what the file can hold.
fn spend(budget: &mut usize, bytes: usize) -> Checked<()> {
    *budget = budget.checked_sub(bytes).ok_or(Damaged("its constants are larger than the file"))?;
    Ok(())
}

fn quant(q: Option<Table<'_>>, budget: &mut usize) -> Checked<Option<Quant>> {
    let Some(q) = q else {
        return Ok(None);
    };
    spend(budget, 4 * q.vector::<4>(2)?.len() + 8 * q.vector::<8>(3)?.len())?;
    let scales: Vec<f32> = q.vector(2)?.iter().map(|b| f32::from_le_bytes(*b)).collect();
    let zeros: Vec<i64> = q.vector(3)?.iter().map(|b| i64::from_le_bytes(*b)).collect();
    if scales.is_empty() {
        return Ok(None);
    }
    let positive = scales.iter().all(|s| s.is_finite() && *s >= 0.0);
    let fits = |i: usize| i32::try_from(zeros.get(i).or(zeros.first()).copied().unwrap_or(0)).ok();
    let zero_points: Option<Vec<i32>> = (0..scales.len()).map(fits).collect();
    match zero_points.filter(|_| positive) {
        Some(zero_points) => Ok(Some(Quant { scales, zero_points, axis: q.i32(6, 0)?.max(0) as usize })),
        None => Err(Damaged("a scale or zero point is out of range")),
    }
}

fn operator<'a>(o: &Table<'a>, codes: &[(i32, String)]) -> Checked<Operator<'a>> {
    let index = o.i32(0, 0)? as u32 as usize;
    let (code, custom) = codes.get(index).ok_or(Damaged("an operator's code is not there"))?;
    Ok(Operator {
        code: *code,
        custom: custom.clone(),
        inputs: o.ints(1)?,
        outputs: o.ints(2)?,
        options: o.table(4)?,
        custom_options: o.vector::<1>(5)?.as_flattened(),
    })
}

/// What an operator lacks; the words complete "is not supported".
type Lowering<T> = std::result::Result<T, String>;

/// Makes the graph, operator by operator.
struct Reader {
    graph: Graph,
    /// The value of each of the file's tensors.
    ids: Vec<ValueId>,
    /// The state that a tensor is a handle of.
    handles: HashMap<i32, String>,
    /// Place of a state in the graph's list.
    states: HashMap<String, usize>,
    /// What states begin with.
    initial: HashMap<String, Data>,
}

impl Reader {
    fn new(tensors: Vec<Value>) -> Checked<Self> {
        let ids = (0..tensors.len()).collect();
        let graph = Graph { values: tensors, ..Graph::default() };
        Ok(Self { graph, ids, handles: HashMap::new(), states: HashMap::new(), initial: HashMap::new() })
    }

    /// The values of these tensors.
    fn all(&self, indices: &[i32]) -> Checked<Vec<ValueId>> {
        let id = |i: &i32| usize::try_from(*i).ok().and_then(|i| self.ids.get(i)).copied();
        indices.iter().map(|i| id(i).ok_or(Damaged("a tensor is not there"))).collect()
    }

    /// The values of an operator's operands, those left out as `None`.
    fn operands(&self, indices: &[i32]) -> Checked<Vec<Option<ValueId>>> {
        let one = |i: &i32| if *i == -1 { Ok(None) } else { Ok(Some(self.all(&[*i])?[0])) };
        indices.iter().map(one).collect()
    }

    fn operator(&mut self, at: usize, o: &Operator<'_>) -> Checked<()> {
        let inputs = self.operands(&o.inputs)?;
        let outputs = self.all(&o.outputs)?;
        let (name, import) = operators::find(o);
        let label = outputs.first().map_or_else(String::new, |v| self.graph.values[*v].name.clone());
        let mut call = operators::Call { reader: self, o, at, inputs, outputs, kind: name, name: label };
        let done = import.map_or_else(|| Err("the operator".to_owned()), |import| import(&mut call));
        if let Err(why) = done {
            call.push(Op::Unsupported(why), None);
        }
        Ok(())
    }

    /// A value with the type and scale of `like`, of this shape.
    fn like(&mut self, like: ValueId, shape: &[usize]) -> ValueId {
        let value = Value { shape: shape.to_vec(), data: None, ..self.graph.values[like].clone() };
        self.graph.values.push(value);
        self.graph.values.len() - 1
    }

    /// The state with this name, made when it is first read.
    fn state(&mut self, key: &str, value: ValueId) -> usize {
        if let Some(at) = self.states.get(key) {
            return *at;
        }
        let count = self.graph.values[value].count();
        let initial = self.initial.get(key).cloned().unwrap_or_else(|| Data::Int(vec![0; count]));
        self.graph.states.push(State { name: key.to_owned(), read: value, write: value, initial });
        self.states.insert(key.to_owned(), self.graph.states.len() - 1);
        self.graph.states.len() - 1
    }
}

impl operators::Call<'_, '_> {
    /// Adds the node of this operator.
    fn push(&mut self, op: Op, clamp: Option<[f32; 2]>) {
        self.push_of(op, self.inputs.clone(), self.outputs.clone(), clamp);
    }

    /// Adds a node of this operator with other operands.
    fn push_of(&mut self, op: Op, inputs: Vec<Option<ValueId>>, outputs: Vec<ValueId>, clamp: Option<[f32; 2]>) {
        let (name, kind) = (format!("operator {}, output \"{}\"", self.at, self.name), self.kind.clone());
        self.reader.graph.nodes.push(Node { name, kind, op, inputs, outputs, clamp });
    }
}

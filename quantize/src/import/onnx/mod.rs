//! ONNX files (operator sets 7 to 27): protobuf, to a [`Graph`].
//!
//! ```text
//! proto     the file's messages, and its tensors
//! mod       the file's graph: inputs, initialisers, nodes in order, the branch of an If that is taken
//! builder   nodes of the graph, constants folded as they come
//! ops/      what each operator is in the graph's ops
//! ```
//!
//! Shapes are static: a dimension with a name is 1 unless [`Options::shapes`] says otherwise. Images are transposed to
//! channels last before each spatial operator and back after it; a pass takes away what cancels.
//!
//! An operator that Mote lacks, or has not with these attributes, becomes [`Op::Unsupported`]; what reads its results is only
//! looked at for further ones, so that they are all named at once.
//!
//! A hostile file costs no more than its size times a constant: shapes and constants come to at most a gigabyte, constant
//! folding to a number of multiplications, subgraphs are followed no deeper than protobuf's own limit.

mod builder;
mod ops;
mod proto;
#[cfg(test)]
mod tests;

use super::{ImportError, Result, map};
use crate::graph::{DType, Data, Graph, Node, Op, State, Tensor, Value, ValueId};
use builder::{Builder, Done, Step, Stop, malformed};
use prost::Message;
use proto::{GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// What the file leaves open.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Options {
    /// Shapes of inputs, by name.
    pub shapes: BTreeMap<String, Vec<usize>>,
    /// Inputs that are constants, by name: they are no inputs of the graph, and what follows from them is folded. A single
    /// number fills an input of any shape; integers may be given for floats.
    pub constants: BTreeMap<String, Tensor>,
    /// Inputs that are states, by name, each with the output that is its next value: they live in the graph from one run to
    /// the next, and are 0 before the first.
    pub states: BTreeMap<String, String>,
}

/// Operator sets whose semantics are known here.
const OPSETS: std::ops::RangeInclusive<i64> = 7..=27;

/// Whether a file is ONNX: a protobuf that begins with a format version (field 1), as every exporter writes it.
///
/// # Errors
/// [`ImportError::Io`].
pub fn is_onnx(path: &Path) -> Result<bool> {
    let file = map(path)?;
    Ok(matches!(file.get(..2), Some([8, version]) if *version < 64) && ModelProto::decode(&file[..]).is_ok())
}

/// Imports a file.
///
/// # Errors
/// [`ImportError`]: damaged, of an operator set that is not known, without a shape that must be given.
pub fn open(path: &Path, options: &Options) -> Result<Graph> {
    read(&map(path)?, path, options)
}

/// Imports a file's bytes; `path` is for messages.
///
/// # Errors
/// As [`open`].
pub fn read(file: &[u8], path: &Path, options: &Options) -> Result<Graph> {
    let damaged = |what: String| ImportError::Malformed { path: path.to_owned(), what };
    let lacking = |found: String, supported: &str| ImportError::Unsupported {
        path: path.to_owned(),
        found,
        supported: supported.to_owned(),
    };
    let model = ModelProto::decode(file).map_err(|why| damaged(format!("not a whole ONNX model: {why}")))?;
    let graph = model.graph.as_ref().ok_or_else(|| damaged("it has no graph: not an ONNX model".into()))?;
    let version = |domain: &str| {
        let of = |d: &str| if d == "ai.onnx" { String::new() } else { d.to_owned() };
        model.opset_import.iter().find(|o| of(o.domain()) == domain).map(|o| o.version())
    };
    let opset = version("").or_else(|| version("com.microsoft").map(|_| 13)).unwrap_or(1);
    if !OPSETS.contains(&opset) {
        return Err(lacking(format!("ONNX opset {opset}"), "supported are 7 to 27; onnx.version_converter changes it"));
    }
    let mut import = Import { b: Builder::new(), opset, options };
    import.model(graph).map_err(|why| match why {
        Stop::Malformed(what) => damaged(what),
        Stop::Unsupported(found) => lacking(found, "supported are static shapes and tensors of numbers"),
    })?;
    let (mut graph, whole) = (import.b.graph, import.b.unknown.is_empty());
    // What is unsupported stays, though what would read it is not there.
    if whole {
        graph.prune();
    }
    graph.compact();
    Ok(graph)
}

/// The graph of a file, unread.
fn file_graph(path: &Path) -> Result<GraphProto> {
    let damaged =
        |why| ImportError::Malformed { path: path.to_owned(), what: format!("not a whole ONNX model: {why}") };
    Ok(ModelProto::decode(&map(path)?[..]).map_err(damaged)?.graph.unwrap_or_default())
}

/// Names of a file's inputs, in order, without those that are initialisers.
///
/// # Errors
/// [`ImportError`]: no whole ONNX file.
pub fn inputs(path: &Path) -> Result<Vec<String>> {
    let graph = file_graph(path)?;
    let initial: std::collections::HashSet<&str> = graph.initializer.iter().map(TensorProto::name).collect();
    Ok(graph.input.iter().map(|i| i.name().to_owned()).filter(|n| !initial.contains(&n[..])).collect())
}

/// The operators of a file's nodes, in order, as the file names them.
///
/// # Errors
/// As [`inputs`].
pub fn kinds(path: &Path) -> Result<Vec<String>> {
    Ok(file_graph(path)?.node.iter().map(|n| n.op_type().to_owned()).collect())
}

/// Reads a file that holds one tensor (TensorProto, as ONNX's test vectors have them).
///
/// # Errors
/// [`ImportError::Malformed`].
pub fn tensor(path: &Path) -> Result<Tensor> {
    let damaged = |what| ImportError::Malformed { path: path.to_owned(), what };
    let proto = TensorProto::decode(&map(path)?[..]).map_err(|why| damaged(format!("not a tensor: {why}")))?;
    proto.read().map(|(tensor, _)| tensor).map_err(damaged)
}

/// Names of the operators that are imported; those of other domains as `domain.name`.
#[must_use]
pub fn operators() -> Vec<&'static str> {
    let mut names: Vec<&str> = ops::names().chain(["If"]).collect();
    names.sort_unstable();
    names
}

struct Import<'o> {
    b: Builder,
    opset: i64,
    options: &'o Options,
}

impl Import<'_> {
    fn model(&mut self, graph: &GraphProto) -> Done<()> {
        self.initialisers(graph)?;
        for input in &graph.input {
            self.input(input)?;
        }
        let wrong = self.options.shapes.keys().chain(self.options.constants.keys()).chain(self.options.states.keys());
        if let Some(name) = wrong.clone().find(|n| !graph.input.iter().any(|i| i.name() == *n)) {
            let names: Vec<&str> = graph.input.iter().map(ValueInfoProto::name).collect();
            return malformed(format!("there is no input {name:?}; inputs are {}", names.join(", ")));
        }
        self.nodes(graph)?;
        for output in &graph.output {
            let name = output.name();
            let id = self.b.find(name).ok_or_else(|| format!("output {name:?} is computed by no node"))?;
            match self.options.states.iter().find(|(_, to)| *to == name) {
                None => self.b.graph.outputs.push(id),
                Some((input, _)) => self.state(input, name, id)?,
            }
        }
        let outputs = || graph.output.iter().map(ValueInfoProto::name);
        match self.options.states.values().find(|to| !outputs().any(|o| o == *to)) {
            None => Ok(()),
            Some(to) => malformed(format!(
                "there is no output {to:?}; outputs are {}",
                outputs().collect::<Vec<_>>().join(", ")
            )),
        }
    }

    /// Makes an input a state that is written by an output.
    fn state(&mut self, input: &str, output: &str, write: ValueId) -> Done<()> {
        let read = self.b.graph.inputs.iter().copied().find(|i| self.b.at(*i).name == input);
        let read = read.ok_or_else(|| format!("{input:?} is no input that could be a state"))?;
        let (from, to) = (self.b.at(write), self.b.at(read));
        if (&from.shape, from.dtype) != (&to.shape, to.dtype) || to.dtype != DType::F32 {
            return malformed(format!(
                "state {input:?} of {:?} is written by {output:?} of {:?}",
                to.shape, from.shape
            ));
        }
        let initial = Data::F32(vec![0.0; to.count()]);
        self.b.graph.inputs.retain(|i| *i != read);
        self.b.graph.states.push(State { name: input.to_owned(), read, write, initial });
        Ok(())
    }

    fn initialisers(&mut self, graph: &GraphProto) -> Done<()> {
        if !graph.sparse_initializer.is_empty() {
            return builder::unsupported("a sparse tensor");
        }
        for proto in &graph.initializer {
            let (tensor, dtype) = proto.read().map_err(|what| format!("{what} ({:?})", proto.name()))?;
            self.b.now = [String::new(), String::new(), proto.name().to_owned()];
            let id = self.b.constant(tensor, dtype)?;
            self.b.types.insert(id, proto.data_type());
            self.b.bind(proto.name(), id);
        }
        Ok(())
    }

    fn input(&mut self, input: &ValueInfoProto) -> Done<()> {
        let name = input.name();
        let tensor = input.kind.as_ref().and_then(|k| k.tensor.as_ref());
        let number = tensor.and_then(|t| t.elem_type).unwrap_or(0);
        if let Some(value) = self.options.constants.get(name) {
            let dtype = proto::dtype(number)?;
            let mut value = value.clone();
            if let (DType::F32, Data::Int(ints)) = (dtype, &value.data) {
                value.data = Data::F32(ints.iter().map(|i| *i as f32).collect());
            }
            if (dtype == DType::F32) != matches!(value.data, Data::F32(_)) {
                return malformed(format!("input {name:?} is of {}: an integer is expected", proto::type_name(number)));
            }
            if let (true, Some(shape)) = (value.count() == 1, tensor.and_then(|t| t.shape.as_ref())) {
                value = Self::fill(&value, shape).map_err(|what| format!("input {name:?}: {what}"))?;
            }
            self.b.now = [String::new(), String::new(), name.to_owned()];
            let id = self.b.constant(value, dtype)?;
            self.b.types.insert(id, number);
            self.b.bind(name, id);
            return Ok(());
        }
        // Until format version 4 initialisers were inputs too.
        if self.b.find(name).is_some() {
            return Ok(());
        }
        let Some(tensor) = tensor else {
            return builder::unsupported(format!("input {name:?}, which is no tensor,"));
        };
        let shape = match (self.options.shapes.get(name), &tensor.shape) {
            (Some(shape), _) => shape.clone(),
            (None, None) => {
                return builder::unsupported(format!("input {name:?} without a shape (give it one)"));
            }
            (None, Some(shape)) => shape.stated().map_err(|what| format!("input {name:?}: {what}"))?,
        };
        let dtype = proto::dtype(number).map_err(|what| Stop::Unsupported(format!("input {name:?}: {what}")))?;
        let value = Value { name: name.to_owned(), shape, dtype, quant: None, data: None };
        let id = self.b.value(value)?;
        self.b.types.insert(id, number);
        self.b.bind(name, id);
        self.b.graph.inputs.push(id);
        Ok(())
    }

    /// A number as an array of the shape that an input states.
    fn fill(number: &Tensor, shape: &proto::TensorShapeProto) -> std::result::Result<Tensor, String> {
        let shape = shape.stated()?;
        let count = shape.iter().product();
        let data = match &number.data {
            Data::F32(v) => Data::F32(vec![v[0]; count]),
            Data::Int(v) => Data::Int(vec![v[0]; count]),
        };
        Ok(Tensor { shape, data })
    }

    fn nodes(&mut self, graph: &GraphProto) -> Done<()> {
        let shapes: HashMap<&str, &ValueInfoProto> =
            graph.value_info.iter().chain(&graph.output).map(|v| (v.name(), v)).collect();
        for node in &graph.node {
            let kind = match node.domain() {
                "" | "ai.onnx" => node.op_type().to_owned(),
                domain => format!("{domain}.{}", node.op_type()),
            };
            let first = node.output.iter().find(|o| !o.is_empty()).cloned().unwrap_or_default();
            let name = if node.name().is_empty() { first.clone() } else { node.name().to_owned() };
            self.b.now = [kind.clone(), name.clone(), first.clone()];
            let before = self.b.graph.values.len();
            let fail = |what: &str| format!("{kind} {name:?}: {what}");
            let results = match self.node(node, &kind) {
                Ok(results) => results,
                Err(Stop::Malformed(what)) => return malformed(fail(&what)),
                Err(Stop::Unsupported(why)) => {
                    self.unsupported(node, why, &shapes)?;
                    continue;
                }
            };
            for (name, id) in node.output.iter().zip(&results) {
                if !name.is_empty() {
                    self.b.bind(name, *id);
                    if *id >= before {
                        self.b.graph.values[*id].name.clone_from(name);
                    }
                }
            }
            let unbound = node.output.iter().skip(results.len()).find(|o| !o.is_empty());
            if let Some(name) = unbound {
                let why = format!("its output {name:?}");
                self.unsupported(node, why, &shapes)?;
            }
        }
        Ok(())
    }

    fn node(&mut self, node: &NodeProto, kind: &str) -> Done<Vec<ValueId>> {
        let import = ops::find(kind);
        if import.is_none() && kind != "If" {
            return builder::unsupported("Mote lacks this operator");
        }
        let mut inputs = Vec::with_capacity(node.input.len());
        for input in &node.input {
            inputs.push(match &input[..] {
                "" => None,
                name => {
                    Some(self.b.find(name).ok_or_else(|| format!("input {name:?} is computed by no node before it"))?)
                }
            });
        }
        if inputs.iter().flatten().any(|i| self.b.unknown.contains(i)) {
            return node.output.iter().map(|o| self.nobody_knows(o)).collect();
        }
        let real = inputs.iter().flatten().find(|i| self.b.at(**i).quant.is_some());
        if let Some(id) = real.filter(|_| !ops::knows_scales(kind)) {
            let name = &self.b.at(*id).name;
            return builder::unsupported(format!(
                "it computes with the integers of {name:?}, which stand for real numbers"
            ));
        }
        let step = Step { proto: node, kind: kind.to_owned(), opset: self.opset, inputs };
        match import {
            Some(import) => import(&mut self.b, &step),
            None => self.branch(&step),
        }
    }

    /// A value whose shape nobody knows.
    fn nobody_knows(&mut self, name: &str) -> Done<ValueId> {
        let value = Value { name: name.to_owned(), shape: vec![], dtype: DType::F32, quant: None, data: None };
        let id = self.b.value(value)?;
        self.b.unknown.insert(id);
        Ok(id)
    }

    /// Adds a node that Mote lacks; what the file says of its outputs' shapes is believed.
    fn unsupported(&mut self, node: &NodeProto, why: String, shapes: &HashMap<&str, &ValueInfoProto>) -> Done<()> {
        let [kind, name, _] = self.b.now.clone();
        let mut outputs = Vec::new();
        for output in node.output.iter().filter(|o| !o.is_empty()) {
            let id = self.nobody_knows(output)?;
            let tensor = shapes.get(&output[..]).and_then(|v| v.kind.as_ref()?.tensor.as_ref());
            let stated = tensor.and_then(|t| {
                let dims: Option<Vec<i64>> = t.shape.as_ref()?.dim.iter().map(|d| d.value).collect();
                Some((proto::dims(&dims?).ok()?, proto::dtype(t.elem_type()).ok()?))
            });
            if let Some((shape, dtype)) = stated {
                let value = &mut self.b.graph.values[id];
                (value.shape, value.dtype) = (shape, dtype);
                self.b.unknown.remove(&id);
            }
            self.b.bind(output, id);
            outputs.push(id);
        }
        let op = Op::Unsupported(why);
        self.b.graph.nodes.push(Node { name, kind, op, inputs: vec![], outputs, clamp: None });
        Ok(())
    }

    /// The branch of an If that a constant condition takes.
    fn branch(&mut self, s: &Step) -> Done<Vec<ValueId>> {
        let condition = self.b.ints("condition", s.x(0)?)?.first().is_some_and(|c| *c != 0);
        let graph = s.graph(if condition { "then_branch" } else { "else_branch" })?;
        self.b.scopes.push(HashMap::new());
        let outputs = self.initialisers(graph).and_then(|()| self.nodes(graph)).and_then(|()| {
            let find = |o: &ValueInfoProto| {
                self.b.find(o.name()).ok_or_else(|| Stop::Malformed(format!("output {:?} of a branch", o.name())))
            };
            graph.output.iter().map(find).collect::<Done<Vec<_>>>()
        });
        self.b.scopes.pop();
        outputs
    }
}

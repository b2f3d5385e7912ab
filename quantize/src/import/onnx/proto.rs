//! ONNX's protobuf: the messages of onnx/onnx, `onnx/onnx.proto`, with the fields that matter here; others are skipped.

use crate::graph::{DType, Data, Tensor, shape};
use half::{bf16, f16};
use prost::Message;

#[derive(Clone, PartialEq, Message)]
pub(super) struct ModelProto {
    #[prost(int64, optional, tag = "1")]
    pub ir_version: Option<i64>,
    #[prost(message, optional, tag = "7")]
    pub graph: Option<GraphProto>,
    #[prost(message, repeated, tag = "8")]
    pub opset_import: Vec<OperatorSetIdProto>,
    #[prost(message, repeated, tag = "25")]
    pub functions: Vec<FunctionProto>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct OperatorSetIdProto {
    #[prost(string, optional, tag = "1")]
    pub domain: Option<String>,
    #[prost(int64, optional, tag = "2")]
    pub version: Option<i64>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct FunctionProto {
    #[prost(string, optional, tag = "1")]
    pub name: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct GraphProto {
    #[prost(message, repeated, tag = "1")]
    pub node: Vec<NodeProto>,
    #[prost(message, repeated, tag = "5")]
    pub initializer: Vec<TensorProto>,
    #[prost(message, repeated, tag = "11")]
    pub input: Vec<ValueInfoProto>,
    #[prost(message, repeated, tag = "12")]
    pub output: Vec<ValueInfoProto>,
    #[prost(message, repeated, tag = "13")]
    pub value_info: Vec<ValueInfoProto>,
    #[prost(message, repeated, tag = "15")]
    pub sparse_initializer: Vec<Skipped>,
}

/// A message whose content does not matter.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Skipped {}

#[derive(Clone, PartialEq, Message)]
pub(super) struct NodeProto {
    #[prost(string, repeated, tag = "1")]
    pub input: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    pub output: Vec<String>,
    #[prost(string, optional, tag = "3")]
    pub name: Option<String>,
    #[prost(string, optional, tag = "4")]
    pub op_type: Option<String>,
    #[prost(message, repeated, tag = "5")]
    pub attribute: Vec<AttributeProto>,
    #[prost(string, optional, tag = "7")]
    pub domain: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct AttributeProto {
    #[prost(string, optional, tag = "1")]
    pub name: Option<String>,
    #[prost(float, optional, tag = "2")]
    pub f: Option<f32>,
    #[prost(int64, optional, tag = "3")]
    pub i: Option<i64>,
    #[prost(bytes = "vec", optional, tag = "4")]
    pub s: Option<Vec<u8>>,
    #[prost(message, optional, tag = "5")]
    pub t: Option<TensorProto>,
    #[prost(message, optional, boxed, tag = "6")]
    pub g: Option<Box<GraphProto>>,
    #[prost(float, repeated, tag = "7")]
    pub floats: Vec<f32>,
    #[prost(int64, repeated, tag = "8")]
    pub ints: Vec<i64>,
    #[prost(bytes = "vec", repeated, tag = "9")]
    pub strings: Vec<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ValueInfoProto {
    #[prost(string, optional, tag = "1")]
    pub name: Option<String>,
    #[prost(message, optional, tag = "2")]
    pub kind: Option<TypeProto>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct TypeProto {
    #[prost(message, optional, tag = "1")]
    pub tensor: Option<TensorTypeProto>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct TensorTypeProto {
    #[prost(int32, optional, tag = "1")]
    pub elem_type: Option<i32>,
    #[prost(message, optional, tag = "2")]
    pub shape: Option<TensorShapeProto>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct TensorShapeProto {
    #[prost(message, repeated, tag = "1")]
    pub dim: Vec<DimensionProto>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct DimensionProto {
    #[prost(int64, optional, tag = "1")]
    pub value: Option<i64>,
    #[prost(string, optional, tag = "2")]
    pub param: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct TensorProto {
    #[prost(int64, repeated, tag = "1")]
    pub dims: Vec<i64>,
    #[prost(int32, optional, tag = "2")]
    pub data_type: Option<i32>,
    #[prost(float, repeated, tag = "4")]
    pub float_data: Vec<f32>,
    #[prost(int32, repeated, tag = "5")]
    pub int32_data: Vec<i32>,
    #[prost(int64, repeated, tag = "7")]
    pub int64_data: Vec<i64>,
    #[prost(string, optional, tag = "8")]
    pub name: Option<String>,
    #[prost(bytes = "vec", optional, tag = "9")]
    pub raw_data: Option<Vec<u8>>,
    #[prost(double, repeated, tag = "10")]
    pub double_data: Vec<f64>,
    #[prost(uint64, repeated, tag = "11")]
    pub uint64_data: Vec<u64>,
    #[prost(message, repeated, tag = "13")]
    pub external_data: Vec<Skipped>,
    #[prost(int32, optional, tag = "14")]
    pub data_location: Option<i32>,
}

/// Element types by number: name, how Mote keeps it, bits of an element of raw data. Unsigned ones that have no type of
/// their own are kept in a wider one; the two differ only where a result does not fit.
const TYPES: [(i32, &str, Option<DType>, usize); 17] = [
    (1, "float", Some(DType::F32), 32),
    (2, "uint8", Some(DType::U8), 8),
    (3, "int8", Some(DType::I8), 8),
    (4, "uint16", Some(DType::I32), 16),
    (5, "int16", Some(DType::I16), 16),
    (6, "int32", Some(DType::I32), 32),
    (7, "int64", Some(DType::I64), 64),
    (8, "string", None, 0),
    (9, "bool", Some(DType::Bool), 8),
    (10, "float16", Some(DType::F32), 16),
    (11, "double", Some(DType::F32), 64),
    (12, "uint32", Some(DType::I64), 32),
    (13, "uint64", Some(DType::I64), 64),
    (14, "complex64", None, 0),
    (16, "bfloat16", Some(DType::F32), 16),
    (21, "uint4", Some(DType::U8), 4),
    (22, "int4", Some(DType::I4), 4),
];

/// The name of an element type, for people.
pub(super) fn type_name(number: i32) -> String {
    let row = TYPES.iter().find(|row| row.0 == number);
    row.map_or_else(|| format!("element type {number}"), |row| row.1.to_owned())
}

/// How Mote keeps an element type.
pub(super) fn dtype(number: i32) -> Result<DType, String> {
    let row = TYPES.iter().find(|row| row.0 == number);
    row.and_then(|row| row.2).ok_or_else(|| format!("tensors of {}", type_name(number)))
}

/// Dimensions as a file states them.
pub(super) fn dims(dims: &[i64]) -> Result<Vec<usize>, String> {
    let all: Option<Vec<usize>> = dims.iter().map(|d| usize::try_from(*d).ok()).collect();
    all.filter(|s| shape::count(s).is_some()).ok_or_else(|| format!("a tensor of shape {dims:?}"))
}

impl TensorShapeProto {
    /// The dimensions; 1 for one that is left open.
    pub(super) fn stated(&self) -> Result<Vec<usize>, String> {
        dims(&self.dim.iter().map(|d| d.value.unwrap_or(1)).collect::<Vec<i64>>())
    }
}

impl TensorProto {
    /// The tensor, if its data are as many as its shape says.
    pub(super) fn read(&self) -> Result<(Tensor, DType), String> {
        let number = self.data_type();
        let (dtype, shape) = (dtype(number)?, dims(&self.dims)?);
        if self.data_location() == 1 || !self.external_data.is_empty() {
            let name = self.name();
            return Err(format!(
                "tensor {name:?} lies in another file: save the model as one file (onnx.save without save_as_external_data)"
            ));
        }
        let count = shape::count(&shape).unwrap_or(0);
        let data = match &self.raw_data {
            Some(raw) => from_raw(raw, number, count)?,
            None => self.typed(number, count)?,
        };
        if data.count() != count {
            return Err(format!("tensor {:?} of shape {shape:?} has {} elements", self.name(), data.count()));
        }
        Ok((Tensor { shape, data }, dtype))
    }

    fn typed(&self, number: i32, count: usize) -> Result<Data, String> {
        let words = |f: fn(u16) -> f32| Data::F32(self.int32_data.iter().map(|v| f(*v as u16)).collect());
        Ok(match number {
            1 => Data::F32(self.float_data.clone()),
            11 => Data::F32(self.double_data.iter().map(|v| *v as f32).collect()),
            10 => words(|v| f16::from_bits(v).to_f32()),
            16 => words(|v| bf16::from_bits(v).to_f32()),
            7 => Data::Int(self.int64_data.clone()),
            12 | 13 => Data::Int(self.uint64_data.iter().map(|v| unsigned(*v)).collect::<Result<_, _>>()?),
            21 | 22 => {
                let bytes: Vec<u8> = self.int32_data.iter().map(|v| *v as u8).collect();
                from_raw(&bytes, number, count)?
            }
            _ => Data::Int(self.int32_data.iter().map(|v| i64::from(*v)).collect()),
        })
    }
}

fn unsigned(v: u64) -> Result<i64, String> {
    i64::try_from(v).map_err(|_| format!("the number {v} (the largest is {})", i64::MAX))
}

fn from_raw(raw: &[u8], number: i32, count: usize) -> Result<Data, String> {
    fn each<const N: usize, T>(raw: &[u8], f: impl Fn([u8; N]) -> T) -> Vec<T> {
        raw.as_chunks().0.iter().map(|c| f(*c)).collect()
    }
    let bits = TYPES.iter().find(|row| row.0 == number).map_or(0, |row| row.3);
    if raw.len() != count.saturating_mul(bits).div_ceil(8) {
        return Err(format!("{count} elements of {} in {} bytes", type_name(number), raw.len()));
    }
    Ok(match number {
        1 => Data::F32(each(raw, f32::from_le_bytes)),
        10 => Data::F32(each(raw, |b| f16::from_le_bytes(b).to_f32())),
        11 => Data::F32(each(raw, |b| f64::from_le_bytes(b) as f32)),
        16 => Data::F32(each(raw, |b| bf16::from_le_bytes(b).to_f32())),
        2 => Data::Int(each(raw, |[b]| i64::from(b))),
        3 => Data::Int(each(raw, |[b]| i64::from(b as i8))),
        9 => Data::Int(each(raw, |[b]| i64::from(b != 0))),
        4 => Data::Int(each(raw, |b| i64::from(u16::from_le_bytes(b)))),
        5 => Data::Int(each(raw, |b| i64::from(i16::from_le_bytes(b)))),
        6 => Data::Int(each(raw, |b| i64::from(i32::from_le_bytes(b)))),
        7 => Data::Int(each(raw, i64::from_le_bytes)),
        12 => Data::Int(each(raw, |b| i64::from(u32::from_le_bytes(b)))),
        13 => Data::Int(each(raw, u64::from_le_bytes).into_iter().map(unsigned).collect::<Result<_, _>>()?),
        _ => {
            // Two in a byte, the low half first.
            let halves = raw.iter().flat_map(|b| [b & 15, b >> 4]);
            let signed = |v: u8| if number == 22 && v > 7 { i64::from(v) - 16 } else { i64::from(v) };
            Data::Int(halves.take(count).map(signed).collect())
        }
    })
}

//! Functions of each element.

use super::super::builder::{Builder, Done, Step, malformed, unsupported};
use super::super::proto::{dtype, type_name};
use super::Table;
use crate::graph::{Binary, DType, Op, Unary, ValueId};

pub(super) const OPERATORS: Table = &[
    ("Abs", unary),
    ("Add", binary),
    ("And", binary),
    ("Cast", cast),
    ("CastLike", cast_like),
    ("Ceil", unary),
    ("Celu", celu),
    ("Clip", clip),
    ("Cos", unary),
    ("Div", binary),
    ("Elu", unary),
    ("Equal", binary),
    ("Erf", unary),
    ("Exp", unary),
    ("Floor", unary),
    ("Gelu", unary),
    ("Greater", binary),
    ("GreaterOrEqual", binary),
    ("HardSigmoid", unary),
    ("HardSwish", unary),
    ("IsInf", is_inf),
    ("IsNaN", is_nan),
    ("LeakyRelu", unary),
    ("Less", binary),
    ("LessOrEqual", binary),
    ("Log", unary),
    ("Max", variadic),
    ("Mean", variadic),
    ("Min", variadic),
    ("Mish", mish),
    ("Mod", binary),
    ("Mul", binary),
    ("Neg", unary),
    ("Not", unary),
    ("Or", binary),
    ("PRelu", binary),
    ("Pow", binary),
    ("Reciprocal", unary),
    ("Relu", unary),
    ("Round", unary),
    ("Selu", unary),
    ("Shrink", shrink),
    ("Sigmoid", unary),
    ("Sign", unary),
    ("Sin", unary),
    ("Softplus", unary),
    ("Softsign", unary),
    ("Sqrt", unary),
    ("Sub", binary),
    ("Sum", variadic),
    ("Swish", swish),
    ("Tan", unary),
    ("Tanh", unary),
    ("ThresholdedRelu", unary),
    ("Where", select),
    ("Xor", binary),
    ("com.microsoft.Gelu", unary),
    ("com.microsoft.FastGelu", unary),
];

fn unary(b: &mut Builder, s: &Step) -> Done<Vec<ValueId>> {
    let x = s.x(0)?;
    let f = match &s.kind[..] {
        "Abs" => Unary::Abs,
        "Ceil" => Unary::Ceil,
        "Cos" => Unary::Cos,
        "Elu" => Unary::Elu(s.float("alpha", 1.0)),
        "Erf" => Unary::Erf,
        "Exp" => Unary::Exp,
        "Floor" => Unary::Floor,
        "Gelu" | "com.microsoft.Gelu" => match &s.text("approximate", "none")[..] {
            "none" => Unary::Gelu,
            "tanh" => Unary::GeluTanh,
            other => return malformed(format!("approximate = {other:?}")),
        },
        "com.microsoft.FastGelu" if s.given(1).is_some() => return unsupported("a bias in it"),
        "com.microsoft.FastGelu" => Unary::GeluTanh,
        "HardSigmoid" => Unary::HardSigmoid(s.float("alpha", 0.2), s.float("beta", 0.5)),
        "HardSwish" => Unary::HardSwish,
        "LeakyRelu" => Unary::LeakyRelu(s.float("alpha", 0.01)),
        "Log" => Unary::Log,
        "Neg" => Unary::Neg,
        "Not" => Unary::Not,
        "Reciprocal" => Unary::Reciprocal,
        "Relu" if b.at(x).dtype != DType::F32 => {
            let zero = b.number(0.0, x)?;
            return Ok(vec![b.binary(Binary::Max, x, zero)?]);
        }
        "Relu" => Unary::Clip(0.0, f32::INFINITY),
        "Round" => Unary::Round,
        "Selu" => Unary::Selu(s.float("alpha", 1.673_263_2), s.float("gamma", 1.050_701)),
        "Sigmoid" => Unary::Sigmoid,
        "Sign" => Unary::Sign,
        "Sin" => Unary::Sin,
        "Softplus" => Unary::Softplus,
        "Softsign" => Unary::Softsign,
        "Sqrt" => Unary::Sqrt,
        "Tan" => Unary::Tan,
        "Tanh" => Unary::Tanh,
        _ => Unary::ThresholdedRelu(s.float("alpha", 1.0)),
    };
    Ok(vec![b.unary(f, x)?])
}

fn function(s: &Step) -> Binary {
    match &s.kind[..] {
        "Add" | "Sum" | "Mean" => Binary::Add,
        "And" => Binary::And,
        "Div" => Binary::Div,
        "Equal" => Binary::Equal,
        "Greater" => Binary::Greater,
        "GreaterOrEqual" => Binary::GreaterOrEqual,
        "Less" => Binary::Less,
        "LessOrEqual" => Binary::LessOrEqual,
        "Max" => Binary::Max,
        "Min" => Binary::Min,
        "Mod" if s.int("fmod", 0) != 0 => Binary::Fmod,
        "Mod" => Binary::Mod,
        "Mul" => Binary::Mul,
        "Or" => Binary::Or,
        "PRelu" => Binary::Prelu,
        "Pow" => Binary::Pow,
        "Sub" => Binary::Sub,
        _ => Binary::Xor,
    }
}

fn binary(b: &mut Builder, s: &Step) -> Done<Vec<ValueId>> {
    Ok(vec![b.binary(function(s), s.x(0)?, s.x(1)?)?])
}

fn variadic(b: &mut Builder, s: &Step) -> Done<Vec<ValueId>> {
    let mut y = s.x(0)?;
    for i in 1..s.inputs.len() {
        y = b.binary(function(s), y, s.x(i)?)?;
    }
    if s.kind == "Mean" && s.inputs.len() > 1 {
        let part = b.scalar(1.0 / s.inputs.len() as f32)?;
        y = b.binary(Binary::Mul, y, part)?;
    }
    Ok(vec![y])
}

/// Into [min, max]; attributes before opset 11, inputs since.
fn clip(b: &mut Builder, s: &Step) -> Done<Vec<ValueId>> {
    let x = s.x(0)?;
    let bound = |b: &Builder, i: usize, absent: f32| match s.given(i) {
        None => Some(absent),
        Some(id) => b.single("bound", id).ok(),
    };
    let (low, high) = if s.opset < 11 {
        (Some(s.float("min", f32::MIN)), Some(s.float("max", f32::MAX)))
    } else {
        (bound(b, 1, f32::NEG_INFINITY), bound(b, 2, f32::INFINITY))
    };
    if let (Some(low), Some(high), DType::F32) = (low, high, b.at(x).dtype) {
        return Ok(vec![b.unary(Unary::Clip(low, high), x)?]);
    }
    let mut y = x;
    for (i, f) in [(1, Binary::Max), (2, Binary::Min)] {
        if let Some(bound) = s.given(i) {
            y = b.binary(f, y, bound)?;
        }
    }
    Ok(vec![y])
}

fn celu(b: &mut Builder, s: &Step) -> Done<Vec<ValueId>> {
    let (alpha, back) = (b.scalar(s.float("alpha", 1.0))?, b.scalar(1.0 / s.float("alpha", 1.0))?);
    let scaled = b.binary(Binary::Mul, s.x(0)?, back)?;
    let elu = b.unary(Unary::Elu(1.0), scaled)?;
    Ok(vec![b.binary(Binary::Mul, elu, alpha)?])
}

fn mish(b: &mut Builder, s: &Step) -> Done<Vec<ValueId>> {
    let soft = b.unary(Unary::Softplus, s.x(0)?)?;
    let factor = b.unary(Unary::Tanh, soft)?;
    Ok(vec![b.binary(Binary::Mul, s.x(0)?, factor)?])
}

fn swish(b: &mut Builder, s: &Step) -> Done<Vec<ValueId>> {
    let (x, alpha) = (s.x(0)?, s.float("alpha", 1.0));
    if alpha == 1.0 {
        return Ok(vec![b.unary(Unary::Silu, x)?]);
    }
    let alpha = b.scalar(alpha)?;
    let scaled = b.binary(Binary::Mul, x, alpha)?;
    let factor = b.unary(Unary::Sigmoid, scaled)?;
    Ok(vec![b.binary(Binary::Mul, x, factor)?])
}

/// x + bias below -lambd, x - bias above lambd, 0 between.
fn shrink(b: &mut Builder, s: &Step) -> Done<Vec<ValueId>> {
    let (x, bias, lambd) = (s.x(0)?, s.float("bias", 0.0), s.float("lambd", 0.5));
    let (low, high) = (b.number(-lambd, x)?, b.number(lambd, x)?);
    let (bias, mut y) = (b.number(bias, x)?, b.number(0.0, x)?);
    for (compare, bound, f) in [(Binary::Less, low, Binary::Add), (Binary::Greater, high, Binary::Sub)] {
        let beyond = b.binary(compare, x, bound)?;
        let moved = b.binary(f, x, bias)?;
        y = b.op(Op::Select, &[beyond, moved, y])?;
    }
    Ok(vec![y])
}

fn is_nan(b: &mut Builder, s: &Step) -> Done<Vec<ValueId>> {
    Ok(vec![b.binary(Binary::NotEqual, s.x(0)?, s.x(0)?)?])
}

fn is_inf(b: &mut Builder, s: &Step) -> Done<Vec<ValueId>> {
    let x = s.x(0)?;
    let (of, bound) = match (s.int("detect_negative", 1) != 0, s.int("detect_positive", 1) != 0) {
        (true, true) => (b.unary(Unary::Abs, x)?, f32::INFINITY),
        (false, true) => (x, f32::INFINITY),
        (true, false) => (x, f32::NEG_INFINITY),
        (false, false) => return unsupported("neither sign"),
    };
    let bound = b.scalar(bound)?;
    Ok(vec![b.binary(Binary::Equal, of, bound)?])
}

fn select(b: &mut Builder, s: &Step) -> Done<Vec<ValueId>> {
    Ok(vec![b.op(Op::Select, &[s.x(0)?, s.x(1)?, s.x(2)?])?])
}

/// Types that a cast may give: those kept as they are, and floats of other widths, whose numbers are kept.
fn target(number: i64) -> Done<DType> {
    let number = i32::try_from(number).unwrap_or(0);
    match number {
        1 | 2 | 3 | 5 | 6 | 7 | 9 | 10 | 11 => Ok(dtype(number)?),
        _ => unsupported(format!("a cast to {}", type_name(number))),
    }
}

fn cast(b: &mut Builder, s: &Step) -> Done<Vec<ValueId>> {
    Ok(vec![b.cast(s.x(0)?, target(s.int("to", 0))?)?])
}

fn cast_like(b: &mut Builder, s: &Step) -> Done<Vec<ValueId>> {
    let like = s.x(1)?;
    let to = match b.types.get(&like) {
        Some(number) => target(i64::from(*number))?,
        None => b.at(like).dtype,
    };
    Ok(vec![b.cast(s.x(0)?, to)?])
}

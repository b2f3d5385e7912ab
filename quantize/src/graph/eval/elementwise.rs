//! Functions of one element, or of elements at the same place.

use super::moves::{broadcast_places, take};
use super::{Args, DType, Data, Outcome, Tensor};
use crate::graph::{Binary, Graph, Unary};
use candle_core::cpu::erf::erf_f64;

/// The function itself, of a float.
pub(crate) fn function(f: Unary) -> impl Fn(f32) -> f32 {
    let elu = |x: f32, alpha: f32| if x < 0.0 { alpha * x.exp_m1() } else { x };
    let sigmoid = |x: f32| 1.0 / (1.0 + (-x).exp());
    move |x: f32| match f {
        Unary::Abs => x.abs(),
        Unary::Ceil => x.ceil(),
        Unary::Clip(low, high) => x.max(low).min(high),
        Unary::Cos => x.cos(),
        Unary::Elu(alpha) => elu(x, alpha),
        Unary::Erf => erf_f64(f64::from(x)) as f32,
        Unary::Exp => x.exp(),
        Unary::Floor => x.floor(),
        Unary::Gelu => (0.5 * f64::from(x) * (1.0 + erf_f64(f64::from(x) * std::f64::consts::FRAC_1_SQRT_2))) as f32,
        Unary::GeluTanh => 0.5 * x * (1.0 + (0.797_884_6 * (x + 0.044_715 * x * x * x)).tanh()),
        Unary::HardSigmoid(alpha, beta) => (alpha * x + beta).clamp(0.0, 1.0),
        Unary::HardSwish => x * (x + 3.0).clamp(0.0, 6.0) / 6.0,
        Unary::Identity => x,
        Unary::LeakyRelu(alpha) => x * if x < 0.0 { alpha } else { 1.0 },
        Unary::Log => x.ln(),
        Unary::Neg => -x,
        Unary::Not => f32::from(u8::from(x == 0.0)),
        Unary::Reciprocal => 1.0 / x,
        Unary::Round => x.round_ties_even(),
        Unary::Rsqrt => 1.0 / x.sqrt(),
        Unary::Selu(alpha, gamma) => gamma * elu(x, alpha),
        Unary::Sigmoid => sigmoid(x),
        Unary::Sign => f32::from(i8::from(x > 0.0) - i8::from(x < 0.0)),
        Unary::Silu => x * sigmoid(x),
        Unary::Sin => x.sin(),
        Unary::Softplus => x.max(0.0) + (-x.abs()).exp().ln_1p(),
        Unary::Softsign => x / (1.0 + x.abs()),
        Unary::Sqrt => x.sqrt(),
        Unary::Square => x * x,
        Unary::Tan => x.tan(),
        Unary::Tanh => x.tanh(),
        Unary::ThresholdedRelu(alpha) => x * f32::from(u8::from(x > alpha)),
    }
}

pub(super) fn unary(args: &Args, f: Unary) -> Outcome {
    let data = match &args.x(0)?.data {
        Data::F32(v) => Data::F32(v.iter().copied().map(function(f)).collect()),
        Data::Int(v) => {
            let of = |x: i64| match f {
                Unary::Abs => Some(x.wrapping_abs()),
                Unary::Clip(low, high) => Some(x.max(low as i64).min(high as i64)),
                Unary::Ceil | Unary::Floor | Unary::Identity | Unary::Round => Some(x),
                Unary::Neg => Some(x.wrapping_neg()),
                Unary::Not => Some(i64::from(x == 0)),
                Unary::Sign => Some(x.signum()),
                Unary::Square => Some(x.wrapping_mul(x)),
                _ => None,
            };
            Data::Int(v.iter().map(|x| of(*x)).collect::<Option<_>>().ok_or("this function of integers")?)
        }
    };
    Ok(vec![Tensor { shape: args.out().to_vec(), data }])
}

/// A function that is a graph, of each element.
pub(crate) fn composed(f: &Graph, x: &[f32]) -> Result<Vec<f32>, String> {
    let mut f = f.clone();
    let all = [x.len()];
    f.values.iter_mut().filter(|v| v.data.is_none()).for_each(|v| v.shape = all.to_vec());
    let results = super::run(&f, &[Tensor::floats(&all, x.to_vec())]).map_err(|why| why.to_string())?;
    match results.into_iter().next().map(|t| t.data) {
        Some(Data::F32(y)) => Ok(y),
        _ => Err("a function of floats that gives none".into()),
    }
}

/// Two operands' elements side by side.
fn pairs<T: Copy, R>(args: &Args, x: &[T], y: &[T], f: impl Fn(T, T) -> R) -> Vec<R> {
    let (a, b, out) = (args.shape(0), args.shape(1), args.out());
    match (x, y) {
        _ if a == b => x.iter().zip(y).map(|(x, y)| f(*x, *y)).collect(),
        (_, [y]) if a == out => x.iter().map(|x| f(*x, *y)).collect(),
        ([x], _) if b == out => y.iter().map(|y| f(*x, *y)).collect(),
        _ => {
            let places = broadcast_places(a, out).into_iter().zip(broadcast_places(b, out));
            places.map(|(i, j)| f(x[i], y[j])).collect()
        }
    }
}

/// A truth value of floats.
pub(crate) fn of_floats(f: Binary) -> Option<fn(f32, f32) -> bool> {
    Some(match f {
        Binary::Equal => |x, y| x == y,
        Binary::NotEqual => |x, y| x != y,
        Binary::Greater => |x, y| x > y,
        Binary::GreaterOrEqual => |x, y| x >= y,
        Binary::Less => |x, y| x < y,
        Binary::LessOrEqual => |x, y| x <= y,
        _ => return None,
    })
}

/// The function itself, of floats.
pub(crate) fn function2(f: Binary) -> Option<fn(f32, f32) -> f32> {
    Some(match f {
        Binary::Add => |x, y| x + y,
        Binary::Div => |x, y| x / y,
        // Not f32::max, which drops what is not a number.
        Binary::Max => |x, y| if x.is_nan() || x > y { x } else { y },
        Binary::Min => |x, y| if x.is_nan() || x < y { x } else { y },
        Binary::Mod => |x, y| {
            let rest = x % y;
            if rest != 0.0 && (rest < 0.0) != (y < 0.0) { rest + y } else { rest }
        },
        Binary::Fmod => |x, y| x % y,
        Binary::Hypot => f32::hypot,
        Binary::Mul => |x, y| x * y,
        Binary::Pow => f32::powf,
        Binary::Prelu => |x, slope| if x < 0.0 { x * slope } else { x },
        Binary::SquaredDifference => |x, y| (x - y) * (x - y),
        Binary::Sub => |x, y| x - y,
        _ => return None,
    })
}

fn of_ints(f: Binary) -> Option<fn(i64, i64) -> i64> {
    Some(match f {
        Binary::Add => i64::wrapping_add,
        Binary::And => |x, y| i64::from(x != 0 && y != 0),
        Binary::Div => i64::wrapping_div,
        Binary::Equal => |x, y| i64::from(x == y),
        Binary::Fmod => i64::wrapping_rem,
        Binary::Greater => |x, y| i64::from(x > y),
        Binary::GreaterOrEqual => |x, y| i64::from(x >= y),
        // Of floats only.
        Binary::Hypot => return None,
        Binary::Less => |x, y| i64::from(x < y),
        Binary::LessOrEqual => |x, y| i64::from(x <= y),
        Binary::Max => i64::max,
        Binary::Min => i64::min,
        Binary::Mod => |x, y| {
            let rest = x.wrapping_rem(y);
            if rest != 0 && (rest < 0) != (y < 0) { rest + y } else { rest }
        },
        Binary::Mul => i64::wrapping_mul,
        Binary::NotEqual => |x, y| i64::from(x != y),
        Binary::Or => |x, y| i64::from(x != 0 || y != 0),
        Binary::Pow => |x, y| match u32::try_from(y) {
            Ok(y) => x.wrapping_pow(y),
            Err(_) => (x as f64).powf(y as f64) as i64,
        },
        Binary::Prelu => |x, slope| if x < 0 { x.wrapping_mul(slope) } else { x },
        Binary::SquaredDifference => |x, y| x.wrapping_sub(y).wrapping_mul(x.wrapping_sub(y)),
        Binary::Sub => i64::wrapping_sub,
        Binary::Xor => |x, y| i64::from((x != 0) != (y != 0)),
    })
}

pub(super) fn binary(args: &Args, f: Binary) -> Outcome {
    let data = match (&args.x(0)?.data, &args.x(1)?.data) {
        (Data::F32(x), Data::F32(y)) => match (of_floats(f), function2(f)) {
            (Some(f), _) => Data::Int(pairs(args, x, y, |x, y| i64::from(f(x, y)))),
            (_, Some(f)) => Data::F32(pairs(args, x, y, f)),
            _ => return Err("a logical function of floats".into()),
        },
        (Data::Int(x), Data::Int(y)) => {
            if matches!(f, Binary::Div | Binary::Mod | Binary::Fmod) && y.contains(&0) {
                return Err("integers divided by 0".into());
            }
            let f = of_ints(f).ok_or("this function of integers")?;
            Data::Int(pairs(args, x, y, f))
        }
        (Data::F32(x), Data::Int(y)) if f == Binary::Pow => {
            let y: Vec<f32> = y.iter().map(|y| *y as f32).collect();
            Data::F32(pairs(args, x, &y, f32::powf))
        }
        (Data::Int(x), Data::F32(y)) if f == Binary::Pow => {
            let x: Vec<f32> = x.iter().map(|x| *x as f32).collect();
            Data::Int(pairs(args, &x, y, |x, y| f64::from(x).powf(f64::from(y)) as i64))
        }
        _ => return Err("floats and integers in one function".into()),
    };
    Ok(vec![Tensor { shape: args.out().to_vec(), data }])
}

pub(super) fn select(args: &Args) -> Outcome {
    let out = args.out();
    let condition = take(&args.x(0)?.data, &broadcast_places(args.shape(0), out));
    let Data::Int(condition) = condition else {
        return Err("a condition of floats".into());
    };
    fn choose<T: Copy>(condition: &[i64], x: (&[T], &[usize]), y: (&[T], &[usize]), out: &[usize]) -> Vec<T> {
        let places = broadcast_places(x.1, out).into_iter().zip(broadcast_places(y.1, out));
        condition.iter().zip(places).map(|(c, (i, j))| if *c != 0 { x.0[i] } else { y.0[j] }).collect()
    }
    let (a, b) = (args.shape(1), args.shape(2));
    let data = match &args.x(1)?.data {
        Data::F32(x) => Data::F32(choose(&condition, (x, a), (args.floats(2)?, b), out)),
        Data::Int(x) => Data::Int(choose(&condition, (x, a), (args.ints(2)?, b), out)),
    };
    Ok(vec![Tensor { shape: out.to_vec(), data }])
}

pub(super) fn cast(args: &Args) -> Outcome {
    let to = args.outputs.first().map_or(DType::F32, |o| o.dtype);
    let data = match (&args.x(0)?.data, to) {
        (Data::F32(v), DType::F32) => Data::F32(v.clone()),
        (Data::Int(v), DType::F32) => Data::F32(v.iter().map(|x| *x as f32).collect()),
        (Data::F32(v), DType::Bool) => Data::Int(v.iter().map(|x| i64::from(*x != 0.0)).collect()),
        (Data::Int(v), DType::Bool) => Data::Int(v.iter().map(|x| i64::from(*x != 0)).collect()),
        (Data::F32(v), _) => Data::Int(v.iter().map(|x| *x as i64).collect()),
        (Data::Int(v), _) => Data::Int(v.clone()),
    };
    Ok(vec![Tensor { shape: args.out().to_vec(), data }])
}

/// Operand and result stand for real numbers; that the result is rounded is its value's doing.
pub(super) fn requantize(args: &Args) -> Outcome {
    args.floats_out(args.floats(0)?.to_vec())
}

//! Functions of one int8, as the table of their 256 values.
//!
//! Where TensorFlow Lite Micro computes a function in integers, the table holds the very results of its kernel
//! (`kernels/internal/reference/`, named at each function); the others are computed in floats and rounded once.

use super::fixed::quantize_multiplier;
use super::{Affine, Lowering};
use crate::graph::Unary;
use crate::graph::eval::function;
use mote_runtime::fixed::tflite::{
    Rounding, divide_by_pot, exp_on_negative, one_minus_over_one_plus, one_over_one_plus, requantize,
};

/// The table of `f` from integers of one scale to integers of another: of 0 to 127, then of -128 to -1.
pub(super) fn table(f: Unary, input: Affine, out: Affine, rounding: Rounding) -> Lowering<[i8; 256]> {
    let fixed: Box<dyn Fn(i32) -> i32> = match f {
        Unary::Identity => rescaled(input, out, f64::from(input.scale) / f64::from(out.scale), rounding)?,
        Unary::Clip(min, max) => clip(input, out, [min, max], rounding)?,
        Unary::LeakyRelu(alpha) => leaky_relu(input, out, alpha, rounding)?,
        // These are defined for the one scale that their results fit.
        Unary::Sigmoid if out == (Affine { scale: 1.0 / 256.0, zero: -128 }) => logistic(input, rounding)?,
        Unary::Tanh if out == (Affine { scale: 1.0 / 128.0, zero: 0 }) => tanh(input, rounding)?,
        Unary::HardSwish => match hard_swish(input, out) {
            Some(f) => f,
            None => floats(f, input, out),
        },
        _ => floats(f, input, out),
    };
    Ok(std::array::from_fn(|byte| fixed((byte as u8 as i8).into()).clamp(-128, 127) as i8))
}

/// The table of `f` from int16 of one scale to int16 of another: its values at -32768, -32640 and so on to 32768, each moved by
/// half of what a straight line to the next is off in the middle (TFLite's `LUTPopulate`).
pub(super) fn table16(f: &dyn Fn(f32) -> f32, input: Affine, out: Affine, (min, max): (i32, i32)) -> [i16; 513] {
    let at = |q: f64| {
        let real = f64::from(f((q * f64::from(input.scale)) as f32)) / f64::from(out.scale);
        if real.is_nan() { 0.0 } else { real.clamp(-1e6, 1e6).round() }
    };
    std::array::from_fn(|i| {
        let q = f64::from(i as u32) * 128.0 - 32768.0;
        let bias = if i == 512 { 0.0 } else { (((at(q) + at(q + 128.0)) / 2.0).round() - at(q + 64.0)) / 2.0 };
        (at(q) - bias.round()).clamp(f64::from(min), f64::from(max)) as i16
    })
}

/// Computed in floats.
fn floats(f: Unary, input: Affine, out: Affine) -> Box<dyn Fn(i32) -> i32> {
    Box::new(move |q| float(&function(f), input, out, q))
}

/// A function of one integer, computed in floats; not-a-number gives the zero point.
fn float(f: &dyn Fn(f32) -> f32, input: Affine, out: Affine, q: i32) -> i32 {
    let real = f((q - input.zero) as f32 * input.scale);
    let q = (f64::from(real) / f64::from(out.scale)).round();
    if q.is_nan() { out.zero } else { (q.clamp(-1e6, 1e6) as i32) + out.zero }
}

/// The table of any function, computed in floats and rounded once.
pub(super) fn table_of(f: &dyn Fn(f32) -> f32, input: Affine, out: Affine) -> [i8; 256] {
    std::array::from_fn(|byte| float(f, input, out, (byte as u8 as i8).into()).clamp(-128, 127) as i8)
}

/// `MultiplyByQuantizedMultiplier` of the distance to the zero point: `reference/requantize.h`.
fn rescaled(input: Affine, out: Affine, real: f64, rounding: Rounding) -> Lowering<Box<dyn Fn(i32) -> i32>> {
    let (m, s) = quantize_multiplier(real).ok_or("scales out of range")?;
    Ok(Box::new(move |q| requantize(q - input.zero, m, s, rounding).saturating_add(out.zero)))
}

/// `ReluQuantized` of `reference/activations`: rescaled, then cut in the integers of the output.
fn clip(input: Affine, out: Affine, range: [f32; 2], rounding: Rounding) -> Lowering<Box<dyn Fn(i32) -> i32>> {
    let inner = rescaled(input, out, f64::from(input.scale) / f64::from(out.scale), rounding)?;
    let [min, max] = range.map(|real| out.quantized(real));
    Ok(Box::new(move |q| inner(q).max(min).min(max)))
}

/// `QuantizeLeakyRelu` of `reference/leaky_relu.h`; its multipliers are products of floats.
fn leaky_relu(input: Affine, out: Affine, alpha: f32, rounding: Rounding) -> Lowering<Box<dyn Fn(i32) -> i32>> {
    let above = rescaled(input, out, f64::from(input.scale / out.scale), rounding)?;
    let below = rescaled(input, out, f64::from(input.scale * alpha / out.scale), rounding)?;
    Ok(Box::new(move |q| if q >= input.zero { above(q) } else { below(q) }))
}

/// The distance to the zero point in Q4.27, and from which distance on it counts as infinite.
fn to_q4(input: Affine, rounding: Rounding) -> Lowering<(impl Fn(i32) -> i32, i32)> {
    const INTEGER_BITS: i32 = 4;
    let real = f64::from(input.scale) * f64::from(1 << (31 - INTEGER_BITS));
    let (m, s) = quantize_multiplier(real).filter(|(_, s)| *s >= 0).ok_or("a scale out of range")?;
    // `CalculateInputRadius`
    let radius = f64::from((1 << INTEGER_BITS) - 1) * f64::from(1 << (31 - INTEGER_BITS)) / 2f64.powi(s);
    Ok((move |q| requantize(q - input.zero, m, s, rounding), radius.floor() as i32))
}

/// `reference/integer_ops/logistic.h`, gemmlowp's `logistic`.
fn logistic(input: Affine, rounding: Rounding) -> Lowering<Box<dyn Fn(i32) -> i32>> {
    let (to_q4, radius) = to_q4(input, rounding)?;
    Ok(Box::new(move |q| match q - input.zero {
        d if d <= -radius => -128,
        d if d >= radius => 127,
        _ => {
            let a = to_q4(q);
            let above = one_over_one_plus(exp_on_negative(a.saturating_abs().saturating_neg(), 4));
            let result = match a {
                0 => 1 << 30,
                1.. => above,
                _ => i32::MAX - above,
            };
            divide_by_pot(result, 31 - 8) - 128
        }
    }))
}

/// `reference/integer_ops/tanh.h`, gemmlowp's `tanh`.
fn tanh(input: Affine, rounding: Rounding) -> Lowering<Box<dyn Fn(i32) -> i32>> {
    let (to_q4, radius) = to_q4(input, rounding)?;
    Ok(Box::new(move |q| match q - input.zero {
        d if d <= -radius => -128,
        d if d >= radius => 127,
        _ => {
            let a = to_q4(q);
            // Twice the number is the same integer with a bit more above its fraction.
            let result = match a {
                0 => 0,
                1.. => one_minus_over_one_plus(exp_on_negative(-a, 5)),
                _ => -one_minus_over_one_plus(exp_on_negative(a, 5)),
            };
            divide_by_pot(result, 31 - 7)
        }
    }))
}

/// `reference/hard_swish.h`; `None` where its output may not be scaled so.
fn hard_swish(input: Affine, out: Affine) -> Option<Box<dyn Fn(i32) -> i32>> {
    /// gemmlowp's `SaturatingRoundingDoublingHighMul` of int16.
    fn rounding_high_mul(a: i32, b: i32) -> i32 {
        let product = a * b;
        let nudge = if product >= 0 { 1 << 14 } else { 1 - (1 << 14) };
        if (a, b) == (-32_768, -32_768) { 32_767 } else { (product + nudge) / (1 << 15) }
    }
    let saturate = |v: i64| v.clamp(-32_768, 32_767) as i32;
    // `DownScaleInt32ToInt16Multiplier`
    let int16 = |m: i32| if m >= i32::MAX - (1 << 15) { 32_767 } else { (m + (1 << 15)) >> 16 };
    let hires = (1.0f32 / 128.0) * input.scale;
    let (m_out, e_out) = quantize_multiplier(f64::from(hires / out.scale)).filter(|(_, e)| *e <= 0)?;
    let (m_relu, e_relu) = quantize_multiplier(f64::from(hires / (3.0f32 / 32_768.0)))?;
    let (m_out, m_relu) = (int16(m_out), int16(m_relu));
    Some(Box::new(move |q| {
        let value = (q - input.zero) * (1 << 7);
        let on_output_scale = rounding_high_mul(value, m_out);
        let mut relu = value;
        if e_relu > 0 {
            relu = saturate(i64::from(relu) << (e_relu - 1));
        }
        relu = rounding_high_mul(relu, m_relu);
        if e_relu > 0 {
            relu = saturate(i64::from(relu) << 1);
        }
        if e_relu < 0 {
            relu = divide_by_pot(relu, e_relu.unsigned_abs());
        }
        let relu = (relu + (1 << 15)) >> 1;
        let product = relu * on_output_scale / (1 << 15);
        divide_by_pot(product, e_out.unsigned_abs()) + out.zero
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The integer kernels are within a unit and a half of the functions.
    #[test]
    fn tables_are_near_the_functions() {
        let input = Affine { scale: 0.0471, zero: 3 };
        for (f, out) in [
            (Unary::Identity, Affine { scale: 0.06, zero: -7 }),
            (Unary::Clip(0.0, 6.0), Affine { scale: 6.0 / 255.0, zero: -128 }),
            (Unary::LeakyRelu(0.1), Affine { scale: 0.03, zero: -100 }),
            (Unary::Sigmoid, Affine { scale: 1.0 / 256.0, zero: -128 }),
            (Unary::Tanh, Affine { scale: 1.0 / 128.0, zero: 0 }),
            (Unary::HardSwish, Affine { scale: 0.0262, zero: -114 }),
            (Unary::Gelu, Affine { scale: 0.0262, zero: -114 }),
        ] {
            let table = table(f, input, out, Rounding::Double).unwrap();
            for q in -128..=127i32 {
                let real = function(f)((q - input.zero) as f32 * input.scale);
                let exact = (real / out.scale + out.zero as f32).clamp(-128.0, 127.0);
                let got = f32::from(table[usize::from(q as u8)]);
                assert!((got - exact).abs() <= 1.5, "{f:?} of {q}: {got} where {exact} is exact");
            }
        }
    }
}

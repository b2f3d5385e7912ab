//! Functions of int8 whose inner results need more bits than 8: they are int16 in between.
//!
//! A step of int8 is 128 steps of int16 (`widened`), so that a table of 513 values (`lookup` of int16) has each int8 exactly;
//! between, it is straight.

use super::fixed::quantize_multiplier;
use super::{Affine, Context, Lowering};
use crate::graph::{Node, Reduction};
use mote_runtime::image::plan::Kind;
use mote_runtime::ops::{self, add::SUBTRACT};

/// Steps of int16 in one of int8.
const FINER: f64 = 128.0;
/// The largest int16.
const MOST: f64 = 32_767.0;
/// Limits of int16.
const ALL: (i32, i32) = (-32_768, 32_767);
/// Terms of a sum of exponentials: more would leave the smallest too few bits.
const MOST_TERMS: usize = 256;

/// What int16 of a scale stand for.
fn affine(scale: f64) -> Affine {
    Affine { scale: scale as f32, zero: 0 }
}

impl Context<'_> {
    /// Int8 as int16 of a 128th of its step, without a zero point.
    pub(super) fn widened(&mut self, from: u32, a: Affine, count: usize) -> Lowering<u32> {
        let to = self.builder_slot(Kind::I16, count);
        self.requantize(from, to, FINER, [a.zero, 0])?;
        Ok(to)
    }

    /// Back to int8.
    fn narrowed(&mut self, from: u32, to: u32, out: Affine) -> Lowering<()> {
        self.requantize(from, to, 1.0 / FINER, [0, out.zero])
    }

    /// A function of int16, from integers to integers.
    pub(super) fn curve(&mut self, from: u32, count: usize, name: &str, f: impl Fn(f64) -> f64) -> u32 {
        let at = |i: usize| f((i as f64 - 256.0) * 128.0).round().clamp(-32_768.0, MOST);
        let to = self.builder_slot(Kind::I16, count);
        self.lookup16(from, to, name, std::array::from_fn(|i| at(i) as i16));
        to
    }

    /// The sum of int16 `[outer, count, inner]` along the middle, times `real`.
    fn total(&mut self, from: u32, [outer, count, inner]: [usize; 3], real: f64) -> Lowering<u32> {
        let to = self.builder_slot(Kind::I16, outer * inner);
        let (m, s) = quantize_multiplier(real).ok_or("scales out of range")?;
        self.op(&ops::reduce::OP, &[from, to, count as u32, inner as u32, m as u32, s as u32, 0, 0], &[from], to);
        Ok(to)
    }

    /// `[outer, inner]` of int16 for each element of `[outer, count, inner]`.
    fn spread(&mut self, from: u32, [outer, count, inner]: [usize; 3]) -> Lowering<u32> {
        let dims = vec![(outer, inner as i64, (count * inner) as i64), (count, 0, inner as i64), (inner, 1, 1)];
        self.copied(from, Kind::I16, outer * count * inner, dims)
    }

    /// For int8 `[outer, count, inner]`: each less the largest of its row, in steps of a 128th; the largest likewise; the logarithm of the
    /// sum of their exponentials, and the step of that.
    fn log_sum(&mut self, from: u32, a: Affine, shape: [usize; 3]) -> Lowering<([u32; 3], f64)> {
        let [outer, count, inner] = shape;
        if count > MOST_TERMS {
            return Err(format!("the logarithm of a sum of {count} exponentials"));
        }
        let (all, rows) = (outer * count * inner, outer * inner);
        let largest = self.builder_slot(Kind::I8, rows);
        let args = [from, largest, count as u32, inner as u32];
        self.op_with(&ops::reduce::OP, ops::reduce::MAXIMUM, &args, &[from], largest);
        let (x, top) = (self.widened(from, a, all)?, self.widened(largest, a, rows)?);
        let each = self.spread(top, shape)?;
        let below = self.builder_slot(Kind::I16, all);
        self.sum([x, each], below, [affine(1.0); 3], ALL, (SUBTRACT, true))?;
        let step = f64::from(a.scale) / FINER;
        let exp = self.curve(below, all, "exp", |v| (v * step).exp() * MOST);
        let sum = self.total(exp, shape, 1.0 / count as f64)?;
        let log_step = (count as f64).ln().max(1e-3) / MOST;
        let log = self.curve(sum, rows, "log", |v| (v.max(1.0) / MOST * count as f64).ln() / log_step);
        Ok(([below, top, log], log_step))
    }
}

/// x times the reciprocal of y.
pub(super) fn div(c: &mut Context<'_>, node: &Node) -> Lowering<()> {
    let (x, y, made) = (c.value(node, 0)?, c.value(node, 1)?, c.made(node)?);
    let (a, b, out) = (c.affine(x)?, c.affine(y)?, c.affine(made)?);
    let count = made.count();
    let [from, with] = c.pair(node)?;
    let (x, y) = (c.widened(from, a, count)?, c.widened(with, b, count)?);
    // The reciprocal of one step is the largest there is.
    let reciprocal = c.curve(y, count, "reciprocal", |v| if v == 0.0 { MOST } else { MOST * FINER / v });
    let fine = affine(f64::from(out.scale) / FINER);
    let quotient = c.builder_slot(Kind::I16, count);
    let scales = [f64::from(a.scale) / FINER, 1.0 / f64::from(b.scale) / MOST].map(affine);
    c.product([x, reciprocal], quotient, [scales[0], scales[1], fine], limits(c, node, out))?;
    let to = c.output(node)?;
    c.narrowed(quotient, to, out)
}

/// A node's limits as int16.
fn limits(c: &Context<'_>, node: &Node, out: Affine) -> (i32, i32) {
    let (min, max) = c.range(node, out);
    (((min - out.zero) * 128).max(ALL.0), ((max - out.zero) * 128).min(ALL.1))
}

/// Sums of a function, and functions of sums.
pub(super) fn reduce(c: &mut Context<'_>, node: &Node, kind: Reduction, axes: &[usize]) -> Lowering<()> {
    let (x, y) = (c.value(node, 0)?, c.made(node)?);
    let (a, out) = (c.affine(x)?, c.affine(y)?);
    let (from, count, inner) = c.gathered(node, axes)?;
    let shape @ [outer, _, _] = [x.count() / (count * inner).max(1), count, inner];
    let rows = outer * inner;
    let fine = f64::from(out.scale) / FINER;
    if kind == Reduction::LogSumExp {
        let ([_, top, log], step) = c.log_sum(from, a, shape)?;
        let both = c.builder_slot(Kind::I16, rows);
        let scales = [f64::from(a.scale) / FINER, step, fine].map(affine);
        c.sum([top, log], both, scales, limits(c, node, out), (0, true))?;
        let to = c.output(node)?;
        return c.narrowed(both, to, out);
    }
    if count > 1 << 16 {
        return Err(format!("{kind:?} over {count} elements"));
    }
    let wide = c.widened(from, a, x.count())?;
    let step = f64::from(a.scale) / FINER;
    // The largest x there can be, and the largest result.
    let (reach, most) = (f64::from(a.scale) * 255.0, f64::from(out.scale) * f64::from(127 - out.zero).max(1.0));
    let result = match kind {
        Reduction::L1 => {
            let parts = c.curve(wide, x.count(), "abs", f64::abs);
            c.total(parts, shape, step / fine)?
        }
        Reduction::SumSquare | Reduction::L2 => {
            let parts = c.curve(wide, x.count(), "square", |v| (v * step / reach).powi(2) * MOST);
            let unit = reach * reach / MOST;
            if kind == Reduction::SumSquare {
                c.total(parts, shape, unit / fine)?
            } else {
                let sum = c.total(parts, shape, unit / (most * most / MOST))?;
                c.curve(sum, rows, "sqrt", |v| (v.max(0.0) / MOST).sqrt() * most / fine)
            }
        }
        // The logarithm of a sum.
        _ => {
            let sum = c.total(wide, shape, step / (most.exp() / MOST))?;
            c.curve(sum, rows, "log", |v| (v.max(1.0) / MOST * most.exp()).ln() / fine)
        }
    };
    let to = c.output(node)?;
    c.narrowed(result, to, out)
}

/// x less the logarithm of the sum of the exponentials.
pub(super) fn log_softmax(c: &mut Context<'_>, node: &Node, axis: usize, beta: f32) -> Lowering<()> {
    if beta != 1.0 {
        return Err(format!("the logarithm of a softmax with beta {beta}"));
    }
    let (x, y) = (c.value(node, 0)?, c.made(node)?);
    let (a, out) = (c.affine(x)?, c.affine(y)?);
    let (from, count, inner) = c.gathered(node, &[axis])?;
    let shape = [x.count() / (count * inner).max(1), count, inner];
    let ([below, _, log], step) = c.log_sum(from, a, shape)?;
    let each = c.spread(log, shape)?;
    let apart = c.builder_slot(Kind::I16, x.count());
    let scales = [f64::from(a.scale) / FINER, step, f64::from(out.scale) / FINER].map(affine);
    c.sum([below, each], apart, scales, limits(c, node, out), (SUBTRACT, true))?;
    let to = c.output(node)?;
    c.narrowed(apart, to, out)
}

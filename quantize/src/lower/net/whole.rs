//! Integers that stand for themselves, and truth values (int8 of 0 and 1): arithmetic, comparisons, choices, casts.
//!
//! Whatever their width, integers are computed as int32, modulo 2^32, and cut to their width again; int64 is int32 here.

use super::tables::table_of;
use super::{Affine, Context, Lowering};
use crate::graph::{Binary, DType, Node, Unary, Value};
use mote_runtime::image::plan::Kind;
use mote_runtime::ops::{self, add::SUBTRACT, maximum::MINIMUM};

/// Sum, difference, product and quotient, as `ops/arithmetic.rs` numbers them.
const ADD: u32 = 0;
const SUB: u32 = 1;
const MUL: u32 = 2;
const DIV: u32 = 3;

/// The step of integers that stand for themselves.
const ONE: Affine = Affine { scale: 1.0, zero: 0 };

/// Whether a value's integers stand for themselves.
pub(super) fn is_whole(value: &Value) -> bool {
    value.quant.is_none() && value.dtype != DType::F32
}

impl Context<'_> {
    /// A slot of `count` int32 with a value's integers.
    fn words_of(&mut self, slot: u32, value: &Value, count: usize) -> Lowering<u32> {
        if self.kind(value)? == Kind::I32 {
            return Ok(slot);
        }
        let to = self.builder_slot(Kind::I32, count);
        self.op(&ops::cast::OP, &[slot, to], &[slot], to);
        if value.dtype == DType::U8 { Ok(self.plus(to, 128, count)) } else { Ok(to) }
    }

    /// Makes int32 the node's output.
    fn end_in_words(&mut self, node: &Node, words: u32) -> Lowering<()> {
        let y = self.made(node)?;
        if self.kind(y)? == Kind::I32 {
            self.slots.insert(node.outputs[0], words);
            return Ok(());
        }
        let from = if y.dtype == DType::U8 { self.plus(words, -128, y.count()) } else { words };
        let to = self.output(node)?;
        self.op(&ops::cast::OP, &[from, to], &[from], to);
        Ok(())
    }

    /// A slot of one number.
    fn constant_words(&mut self, number: i32, count: usize) -> u32 {
        let to = self.builder_slot(Kind::I32, count);
        self.fill(to, number);
        to
    }

    fn plus(&mut self, words: u32, number: i32, count: usize) -> u32 {
        let other = self.constant_words(number, count);
        self.arithmetic(ADD, [words, other], count)
    }

    fn arithmetic(&mut self, which: u32, [x, y]: [u32; 2], count: usize) -> u32 {
        let to = self.builder_slot(Kind::I32, count);
        self.op(&ops::arithmetic::OP, &[x, y, to, which], &[x, y], to);
        to
    }

    /// What is left of x divided by y, of the sign of x.
    fn rest(&mut self, [x, y]: [u32; 2], count: usize) -> u32 {
        let whole = self.arithmetic(DIV, [x, y], count);
        let back = self.arithmetic(MUL, [whole, y], count);
        self.arithmetic(SUB, [x, back], count)
    }

    fn extreme(&mut self, flags: u16, [x, y]: [u32; 2], kind: Kind, count: usize) -> u32 {
        let to = self.builder_slot(kind, count);
        self.op_with(&ops::maximum::OP, flags, &[x, y, to], &[x, y], to);
        to
    }

    /// All bits the other way: the order of the elements is turned round.
    pub(super) fn turned_round(&mut self, slot: u32, kind: Kind, count: usize) -> Lowering<u32> {
        match kind {
            Kind::I8 => {
                let to = self.builder_slot(kind, count);
                self.lookup(slot, to, "order turned round", std::array::from_fn(|byte| !(byte as u8 as i8)));
                Ok(to)
            }
            Kind::I32 => {
                let ones = self.constant_words(-1, count);
                Ok(self.arithmetic(SUB, [ones, slot], count))
            }
            other => Err(format!("the smallest of {other:?}")),
        }
    }

    /// -1, 0 or 1 as int8, for int32 below, at or above 0.
    fn sign(&mut self, words: u32, count: usize) -> u32 {
        let (low, high) = (self.constant_words(-1, count), self.constant_words(1, count));
        let above = self.extreme(0, [words, low], Kind::I32, count);
        let both = self.extreme(MINIMUM, [above, high], Kind::I32, count);
        let to = self.builder_slot(Kind::I8, count);
        self.op(&ops::cast::OP, &[both, to], &[both], to);
        to
    }

    /// The difference of int8 of one scale, saturating.
    fn difference(&mut self, slots: [u32; 2], count: usize) -> Lowering<u32> {
        let to = self.builder_slot(Kind::I8, count);
        self.sum(slots, to, [ONE; 3], (-128, 127), (SUBTRACT, false))?;
        Ok(to)
    }

    /// The node's output, a truth value of each int8.
    fn truth(&mut self, node: &Node, from: u32, f: impl Fn(i8) -> bool) -> Lowering<()> {
        let to = self.output(node)?;
        self.lookup(from, to, &node.kind, std::array::from_fn(|byte| i8::from(f(byte as u8 as i8))));
        Ok(())
    }
}

/// Functions of two tensors of integers that stand for themselves.
pub(super) fn binary(c: &mut Context<'_>, node: &Node, f: Binary) -> Lowering<()> {
    if node.clamp.is_some() {
        return Err("an activation of integers without a scale".into());
    }
    if f.is_comparison() {
        return compare(c, node, f);
    }
    let (x, made) = (c.value(node, 0)?, c.made(node)?);
    let count = made.count();
    let small = [x, c.value(node, 1)?, made].iter().all(|v| v.dtype == x.dtype);
    match f {
        Binary::And | Binary::Min | Binary::Or | Binary::Max if small => {
            let slots = c.pair(node)?;
            let flags = if matches!(f, Binary::And | Binary::Min) { MINIMUM } else { 0 };
            let to = c.output(node)?;
            c.op_with(&ops::maximum::OP, flags, &[slots[0], slots[1], to], &slots, to);
            return Ok(());
        }
        Binary::Xor => {
            let slots = c.pair(node)?;
            let apart = c.difference(slots, count)?;
            return c.truth(node, apart, |d| d != 0);
        }
        _ => {}
    }
    let [a, b] = c.pair(node)?;
    let (a, b) = (c.words_of(a, x, count)?, c.words_of(b, c.value(node, 1)?, count)?);
    let words = match f {
        Binary::Add => c.arithmetic(ADD, [a, b], count),
        Binary::Sub => c.arithmetic(SUB, [a, b], count),
        Binary::Mul => c.arithmetic(MUL, [a, b], count),
        Binary::Div => c.arithmetic(DIV, [a, b], count),
        Binary::Fmod => c.rest([a, b], count),
        // The rest has the sign of the dividend: one divisor more, and the rest again, has the divisor's.
        Binary::Mod => {
            let first = c.rest([a, b], count);
            let more = c.arithmetic(ADD, [first, b], count);
            c.rest([more, b], count)
        }
        Binary::Max => c.extreme(0, [a, b], Kind::I32, count),
        Binary::Min => c.extreme(MINIMUM, [a, b], Kind::I32, count),
        other => return Err(format!("{other:?} of integers without a scale")),
    };
    c.end_in_words(node, words)
}

/// Functions of one tensor of int16 or more that stand for themselves.
pub(super) fn unary(c: &mut Context<'_>, node: &Node, f: Unary) -> Lowering<()> {
    let x = c.value(node, 0)?;
    let count = x.count();
    let slot = c.input(node, 0)?;
    let words = c.words_of(slot, x, count)?;
    let zero = c.constant_words(0, count);
    let minus = c.arithmetic(SUB, [zero, words], count);
    let words = match f {
        Unary::Neg => minus,
        Unary::Abs => c.extreme(0, [words, minus], Kind::I32, count),
        other => return Err(format!("{other:?} of integers without a scale")),
    };
    c.end_in_words(node, words)
}

/// Truth values of two tensors of one scale, or of integers that stand for themselves.
pub(super) fn compare(c: &mut Context<'_>, node: &Node, f: Binary) -> Lowering<()> {
    let (x, y, count) = (c.value(node, 0)?, c.value(node, 1)?, c.made(node)?.count());
    let [a, b] = c.pair(node)?;
    if c.kind(x)? == Kind::I8 && x.dtype == y.dtype {
        if x.quant != y.quant {
            return Err("a comparison of two scales".into());
        }
        let apart = c.difference([a, b], count)?;
        return c.truth(node, apart, move |d| match f {
            Binary::Equal => d == 0,
            Binary::NotEqual => d != 0,
            Binary::Greater => d > 0,
            Binary::GreaterOrEqual => d >= 0,
            Binary::Less => d < 0,
            _ => d <= 0,
        });
    }
    if !is_whole(x) || !is_whole(y) {
        return Err(format!("{f:?} of {:?} and {:?}", x.dtype, y.dtype));
    }
    let [a, b] = [c.words_of(a, x, count)?, c.words_of(b, y, count)?];
    // A difference may leave int32, but is 0 only of equals: x > y where max(x, y) is not y.
    let (apart, wanted) = match f {
        Binary::Equal => ([a, b], false),
        Binary::NotEqual => ([a, b], true),
        Binary::Greater => ([c.extreme(0, [a, b], Kind::I32, count), b], true),
        Binary::LessOrEqual => ([c.extreme(0, [a, b], Kind::I32, count), b], false),
        Binary::Less => ([c.extreme(0, [a, b], Kind::I32, count), a], true),
        _ => ([c.extreme(0, [a, b], Kind::I32, count), a], false),
    };
    let apart = c.arithmetic(SUB, apart, count);
    let sign = c.sign(apart, count);
    c.truth(node, sign, move |d| (d != 0) == wanted)
}

/// condition * x + (1 - condition) * y, which is exact.
pub(super) fn select(c: &mut Context<'_>, node: &Node) -> Lowering<()> {
    let (condition, x, y, made) = (c.value(node, 0)?, c.value(node, 1)?, c.value(node, 2)?, c.made(node)?);
    let (kind, count) = (c.kind(made)?, made.count());
    if [x, y].iter().any(|v| v.dtype != made.dtype || v.quant != made.quant) || condition.dtype != DType::Bool {
        return Err(format!("a choice between {:?} and {:?} as {:?}", x.dtype, y.dtype, made.dtype));
    }
    let yes = c.broadcast(node, 0)?;
    let mut no = c.builder_slot(Kind::I8, count);
    c.lookup(yes, no, "not", std::array::from_fn(|byte| i8::from(byte == 0)));
    let (mut yes, [a, b]) = (yes, [c.broadcast(node, 1)?, c.broadcast(node, 2)?]);
    match kind {
        Kind::I8 => {
            let one = c.affine(made)?;
            let kept = [c.builder_slot(kind, count), c.builder_slot(kind, count)];
            let all = (-128, 127);
            c.product([yes, a], kept[0], [ONE, one, one], all)?;
            c.product([no, b], kept[1], [ONE, one, one], all)?;
            let limits = c.range(node, one);
            let to = c.output(node)?;
            c.sum(kept, to, [one; 3], limits, (0, false))
        }
        Kind::I32 => {
            for side in [&mut yes, &mut no] {
                let to = c.builder_slot(Kind::I32, count);
                c.op(&ops::cast::OP, &[*side, to], &[*side], to);
                *side = to;
            }
            let kept = [c.arithmetic(MUL, [yes, a], count), c.arithmetic(MUL, [no, b], count)];
            let words = c.arithmetic(ADD, kept, count);
            c.end_in_words(node, words)
        }
        other => Err(format!("a choice between {other:?}")),
    }
}

/// Numbers to another type: integers to others, to real numbers, to truth values, and back, cut towards zero.
pub(super) fn cast(c: &mut Context<'_>, node: &Node) -> Lowering<()> {
    let (x, y) = (c.value(node, 0)?, c.made(node)?);
    let (from_kind, to_kind) = (c.kind(x)?, c.kind(y)?);
    let (x_whole, y_whole) = (is_whole(x), is_whole(y));
    if x.count() != y.count() {
        return Err(format!("{:?} to {:?}", x.shape, y.shape));
    }
    // int64 is int32 here, so the sign of what was uint32 would be another.
    if x.dtype == DType::U32 && y.dtype != DType::U32 && (y.dtype == DType::I64 || !y_whole) {
        return Err("uint32 to int64".into());
    }
    let count = x.count();
    let from = c.input(node, 0)?;
    if x.dtype == y.dtype && x.quant == y.quant || x_whole && y_whole && (from_kind, to_kind) == (Kind::I32, Kind::I32)
    {
        c.slots.insert(node.outputs[0], from);
        return Ok(());
    }
    match (x_whole, y_whole) {
        (_, true) if y.dtype == DType::Bool => {
            if from_kind == Kind::I8 {
                let zero = c.affine(x)?.zero;
                return c.truth(node, from, move |v| i32::from(v) != zero);
            }
            let words = c.words_of(from, x, count)?;
            let sign = c.sign(words, count);
            c.truth(node, sign, |v| v != 0)
        }
        (true, true) => {
            let words = c.words_of(from, x, count)?;
            c.end_in_words(node, words)
        }
        (true, false) if (from_kind, to_kind) == (Kind::I8, Kind::I8) => {
            let table = table_of(&|v| v, c.affine(x)?, c.affine(y)?);
            let to = c.output(node)?;
            c.lookup(from, to, &node.kind, table);
            Ok(())
        }
        (true, false) => {
            let out = c.scaled(y)?;
            let zero = if from_kind == Kind::I8 { c.affine(x)?.zero } else { 0 };
            let to = c.output(node)?;
            c.requantize(from, to, 1.0 / f64::from(out.scale), [zero, out.zero])
        }
        (false, true) if from_kind == Kind::I8 => {
            let input = c.affine(x)?;
            let largest = f64::from(input.scale) * f64::from((127 - input.zero).max(input.zero + 128));
            if largest > 32_767.0 {
                return Err(format!("real numbers up to {largest} to integers"));
            }
            let wide = c.widened(from, input, count)?;
            let cut = c.curve(wide, count, "cut", |v| (v / 128.0 * f64::from(input.scale)).trunc());
            let words = c.builder_slot(Kind::I32, count);
            c.op(&ops::cast::OP, &[cut, words], &[cut], words);
            c.end_in_words(node, words)
        }
        (false, false) => super::elementwise::unary(c, node),
        _ => Err(format!("{:?} to {:?}", x.dtype, y.dtype)),
    }
}

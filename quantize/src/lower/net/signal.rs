//! TensorFlow Lite Micro's audio front end: `ops/signal/` of the runtime, and its tables.

use super::{Context, Lowering, ints};
use crate::graph::{DType, Node, Op, Signal, Subtraction, ValueId};
use mote_runtime::image::Dtype;
use mote_runtime::ops;
use mote_runtime::ops::signal::spectral_subtraction::CLAMPING;
use std::f64::consts::PI;

pub(super) fn signal(c: &mut Context<'_>, node: &Node) -> Lowering<()> {
    let Op::Signal(signal) = &node.op else {
        return Err("another op".into());
    };
    if node.clamp.is_some() {
        return Err("a fused activation".into());
    }
    match signal {
        Signal::Window { shift } => window(c, node, *shift),
        Signal::AutoScale => auto_scale(c, node),
        Signal::Rfft { length } => rfft(c, node, *length),
        Signal::Energy { start, end } => energy(c, node, [*start, *end]),
        Signal::FilterBank => filter_bank(c, node),
        Signal::SpectralSubtraction(s) => spectral_subtraction(c, node, s),
        Signal::Pcan { shift } => pcan(c, node, *shift),
        Signal::Log { scale, shift } => log(c, node, *scale, *shift),
    }
}

impl Context<'_> {
    /// Checks the types of a node's first inputs and of its outputs; returns how many elements they have.
    fn counts<const N: usize, const M: usize>(
        &self,
        node: &Node,
        inputs: [DType; N],
        outputs: [DType; M],
    ) -> Lowering<([usize; N], [usize; M])> {
        let made: [ValueId; M] =
            node.outputs[..].try_into().map_err(|_| format!("{} outputs (expected {M})", node.outputs.len()))?;
        let mut counts = ([0; N], [0; M]);
        for (which, dtype) in inputs.into_iter().enumerate() {
            let value = self.value(node, which)?;
            counts.0[which] = value.count();
            if value.dtype != dtype {
                return Err(format!("input {which} of {:?} (expected {dtype:?})", value.dtype));
            }
        }
        for ((count, id), dtype) in counts.1.iter_mut().zip(made).zip(outputs) {
            let value = &self.graph.values[id];
            *count = value.count();
            if value.dtype != dtype {
                return Err(format!("an output of {:?} (expected {dtype:?})", value.dtype));
            }
        }
        Ok(counts)
    }

    /// The int16 constant that input `which` of a node is, in the image.
    fn halves(&mut self, node: &Node, which: usize) -> Lowering<u32> {
        let value = self.value(node, which)?;
        let numbers = ints(value)?.iter().map(|v| i16::try_from(*v)).collect::<Result<Vec<_>, _>>();
        let numbers = numbers.map_err(|_| format!("input {which} beyond int16"))?;
        Ok(self.table16(&value.name, &numbers))
    }

    fn table16(&mut self, name: &str, numbers: &[i16]) -> u32 {
        let bytes = numbers.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.constant(name, Dtype::I16, &[numbers.len()], bytes)
    }
}

/// `Ok` if it fits.
fn need(fits: bool, what: impl FnOnce() -> String) -> Lowering<()> {
    if fits { Ok(()) } else { Err(what()) }
}

fn shift_within(shift: u32, most: u32) -> Lowering<()> {
    need(shift <= most, || format!("a shift by {shift} (at most {most})"))
}

fn window(c: &mut Context<'_>, node: &Node, shift: u32) -> Lowering<()> {
    let ([n, weights], [made]) = c.counts(node, [DType::I16; 2], [DType::I16])?;
    need(n == weights && n == made, || format!("a window of {weights} for {n} samples to {made}"))?;
    shift_within(shift, 31)?;
    let (from, table) = (c.input(node, 0)?, c.halves(node, 1)?);
    let to = c.output(node)?;
    c.op(&ops::signal::window::OP, &[from, to, table, shift], &[from], to);
    Ok(())
}

fn auto_scale(c: &mut Context<'_>, node: &Node) -> Lowering<()> {
    let ([n], [made, bits]) = c.counts(node, [DType::I16], [DType::I16, DType::I32])?;
    need(n == made && bits == 1, || format!("{n} samples to {made}, {bits} shifts"))?;
    let from = c.input(node, 0)?;
    let (to, bits) = (c.new_slot(node.outputs[0])?, c.new_slot(node.outputs[1])?);
    c.builder.op(ops::signal::auto_scale::OP.code, 0, &[from, to, bits], &[from], &[to, bits]);
    Ok(())
}

/// kissfft's twiddles: both parts of each are in this table, a quarter of it apart.
fn circle(length: usize) -> Vec<i16> {
    let cosine = |j: usize| (2.0 * PI * j as f64 / length as f64).cos();
    (0..length).map(|j| (32_767.0 * cosine(j) + 0.5).floor() as i16).collect()
}

fn rfft(c: &mut Context<'_>, node: &Node, length: usize) -> Lowering<()> {
    let ([n], [made]) = c.counts(node, [DType::I16], [DType::I16])?;
    need(length.is_power_of_two() && (4..=1 << 14).contains(&length), || {
        format!("a transform of {length} samples (a power of two, 4 to 16384)")
    })?;
    need(n <= length && made == length + 2, || format!("{n} samples in {length}, to {made} numbers"))?;
    let from = c.input(node, 0)?;
    let table = c.table16("cosines of an rfft", &circle(length));
    let to = c.output(node)?;
    c.op(&ops::signal::rfft::OP, &[from, to, table], &[from], to);
    Ok(())
}

fn energy(c: &mut Context<'_>, node: &Node, [start, end]: [usize; 2]) -> Lowering<()> {
    let ([n], [made]) = c.counts(node, [DType::I16], [DType::U32])?;
    need(2 * made == n && start <= end && end <= made, || {
        format!("energies {start} to {end} of {n} numbers to {made}")
    })?;
    let from = c.input(node, 0)?;
    let to = c.output(node)?;
    c.op(&ops::signal::energy::OP, &[from, to, start as u32, end as u32], &[from], to);
    Ok(())
}

fn filter_bank(c: &mut Context<'_>, node: &Node) -> Lowering<()> {
    if node.inputs.len() != 7 {
        return Err("a filter bank without a square root after it".into());
    }
    let types = [DType::U32, DType::I16, DType::I16, DType::I16, DType::I16, DType::I16, DType::I32];
    let ([n, here, next, firsts, starts, widths, bits], [channels]) = c.counts(node, types, [DType::U32])?;
    need(here == next && bits == 1 && [firsts, starts, widths].iter().all(|n| *n == channels + 1), || {
        format!("{channels} channels, tables of {firsts}, {starts} and {widths}, {here} and {next} weights")
    })?;
    let tables = [ints(c.value(node, 3)?)?, ints(c.value(node, 4)?)?, ints(c.value(node, 5)?)?];
    for channel in 0..=channels {
        let [first, start, width] = tables.map(|table| table[channel]);
        let inside = |from: i64, of: usize| from >= 0 && width >= 0 && from + width <= of as i64;
        need(inside(first, n) && inside(start, here), || {
            format!("channel {channel}: {width} of {n} energies from {first} on, of {here} weights from {start} on")
        })?;
    }
    let (from, shift) = (c.input(node, 0)?, c.input(node, 6)?);
    let mut args = vec![from, shift, 0];
    for which in 1..6 {
        args.push(c.halves(node, which)?);
    }
    args[2] = c.output(node)?;
    c.op(&ops::signal::filter_bank::OP, &args, &[from, shift], args[2]);
    Ok(())
}

fn spectral_subtraction(c: &mut Context<'_>, node: &Node, s: &Subtraction) -> Lowering<()> {
    let ([n, noise], [made, after]) = c.counts(node, [DType::U32; 2], [DType::U32; 2])?;
    need([noise, made, after] == [n; 3], || format!("{n} channels and {noise} of noise to {made} and {after}"))?;
    shift_within(s.up.max(s.bits), 31)?;
    let (from, before) = (c.input(node, 0)?, c.input(node, 1)?);
    let (to, left) = (c.new_slot(node.outputs[0])?, c.new_slot(node.outputs[1])?);
    let [[new, old], [odd_new, odd_old]] = [s.even, s.odd];
    let args = [from, before, to, left, new, old, odd_new, odd_old, s.least, s.up, s.bits];
    let flags = if s.clamping { CLAMPING } else { 0 };
    c.builder.op(ops::signal::spectral_subtraction::OP.code, flags, &args, &[from, before], &[to, left]);
    Ok(())
}

fn pcan(c: &mut Context<'_>, node: &Node, shift: u32) -> Lowering<()> {
    let ([n, noise, gains], [made]) = c.counts(node, [DType::U32, DType::U32, DType::I16], [DType::U32])?;
    need(noise == n && made == n && gains == 125, || {
        format!("{n} channels, {noise} of noise, {gains} gains, to {made}")
    })?;
    shift_within(shift, 63)?;
    let (from, noise, gains) = (c.input(node, 0)?, c.input(node, 1)?, c.halves(node, 2)?);
    let to = c.output(node)?;
    c.op(&ops::signal::pcan::OP, &[from, noise, to, gains, shift], &[from, noise], to);
    Ok(())
}

/// TFLM's `kLogLut`: how far the logarithm to base 2 is above a straight line, in Q16.
fn above_line() -> Vec<i16> {
    let line = |i: i32| f64::from(i) / 128.0;
    (0..=128).map(|i| (65_536.0 * ((1.0 + line(i)).log2() - line(i))).round() as i16).collect()
}

fn log(c: &mut Context<'_>, node: &Node, scale: u32, shift: u32) -> Lowering<()> {
    let ([n], [made]) = c.counts(node, [DType::U32], [DType::I16])?;
    need(n == made, || format!("{n} channels to {made}"))?;
    shift_within(shift, 31)?;
    let from = c.input(node, 0)?;
    let table = c.table16("logarithms above a line", &above_line());
    let to = c.output(node)?;
    c.op(&ops::signal::log::OP, &[from, to, table, scale, shift], &[from], to);
    Ok(())
}

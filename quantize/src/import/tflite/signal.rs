//! The operators of TensorFlow Lite Micro's audio front end (its `signal/micro/kernels/`), custom operators by name.
//!
//! To add one: a function here and a row in [`OPERATORS`].

use super::operators::{Call, Import};
use super::{Lowering, flexbuffer};
use crate::graph::{Data, Op, Signal, State, Subtraction};

/// Custom operators by their name.
pub(super) const OPERATORS: [(&str, Import); 9] = [
    ("SignalWindow", |c| {
        let shift = c.option("shift")?;
        c.push_first(2, Op::Signal(Signal::Window { shift }))
    }),
    ("SignalFftAutoScale", |c| c.push_first(1, Op::Signal(Signal::AutoScale))),
    ("SignalRfft", |c| {
        let length = c.option("fft_length")? as usize;
        c.push_first(1, Op::Signal(Signal::Rfft { length }))
    }),
    ("SignalEnergy", |c| {
        let (start, end) = (c.option("start_index")? as usize, c.option("end_index")? as usize);
        c.push_first(1, Op::Signal(Signal::Energy { start, end }))
    }),
    ("SignalFilterBank", |c| c.push_first(6, Op::Signal(Signal::FilterBank))),
    ("SignalFilterBankSquareRoot", square_root),
    ("SignalFilterBankSpectralSubtraction", spectral_subtraction),
    ("SignalPCAN", |c| {
        let shift = c.option("snr_shift")?;
        c.push_first(3, Op::Signal(Signal::Pcan { shift }))
    }),
    ("SignalFilterBankLog", |c| {
        let (scale, shift) = (c.option("output_scale")?, c.option("input_correction_bits")?);
        c.push_first(1, Op::Signal(Signal::Log { scale, shift }))
    }),
];

impl Call<'_, '_> {
    /// A custom operator's option.
    fn option(&self, key: &str) -> Lowering<u32> {
        let value = flexbuffer::int(self.o.custom_options, key).ok_or_else(|| format!("no option {key}"))?;
        u32::try_from(value).map_err(|_| format!("option {key}: {value}"))
    }
}

/// The root becomes part of the filter bank before it, whose sums have 64 bits.
fn square_root(c: &mut Call<'_, '_>) -> Lowering<()> {
    let (sums, bits) = (c.id(0)?, c.id(1)?);
    let nodes = &mut c.reader.graph.nodes;
    let bank = |node: &crate::graph::Node| node.op == Op::Signal(Signal::FilterBank) && node.outputs == [sums];
    let at = nodes.iter().position(bank).ok_or("a square root of what no filter bank gives")?;
    let mut inputs = nodes.remove(at).inputs;
    inputs.push(Some(bits));
    c.push_of(Op::Signal(Signal::FilterBank), inputs, c.outputs.clone(), None);
    Ok(())
}

/// The noise is a state: what the node gives as its second output it reads in the next run.
fn spectral_subtraction(c: &mut Call<'_, '_>) -> Lowering<()> {
    let subtraction = Subtraction {
        even: [c.option("smoothing")?, c.option("one_minus_smoothing")?],
        odd: [c.option("alternate_smoothing")?, c.option("alternate_one_minus_smoothing")?],
        least: c.option("min_signal_remaining")?,
        up: c.option("smoothing_bits")?,
        bits: c.option("spectral_subtraction_bits")?,
        clamping: c.option("clamping")? != 0,
    };
    let (x, &[_, after]) = (c.id(0)?, &c.outputs[..]) else {
        return Err(format!("{} outputs (expected 2)", c.outputs.len()));
    };
    let shape = c.reader.graph.values[after].shape.clone();
    let before = c.reader.like(after, &shape);
    let graph = &mut c.reader.graph;
    let (name, initial) = (graph.values[after].name.clone(), Data::Int(vec![0; graph.values[after].count()]));
    graph.states.push(State { name, read: before, write: after, initial });
    let op = Op::Signal(Signal::SpectralSubtraction(subtraction));
    c.push_of(op, vec![Some(x), Some(before)], c.outputs.clone(), None);
    Ok(())
}

//! Audio front ends made of the runtime's ops: 16-bit samples to log-mel features or MFCCs of int8, in integers.
//!
//! ```text
//! step samples ─ concat ─ auto_scale ─ window ─ rfft ─ energy ─ filter_bank ─ filter_bank ─ log ─ max ─ fully_connected ─ int8
//!         last window's end ┘    └────── bits ──────────────────────┘ sizes      mel
//! ```
//!
//! What it computes, in floats, is TensorFlow's `tf.signal` recipe, which MLPerf Tiny's keyword spotting was trained with: a periodic
//! Hann window, the transform over the next power of two, sizes |X| (not their squares), triangles equally wide on the scale 1127 ln(1
//! + f / 700), ln(max(mel, 1e-6)), and for MFCCs the first coefficients of a DCT-II times sqrt(2 / bins), 1 / sqrt(2 bins) of TF's.
//!
//! The first filter bank has a filter a frequency: its root makes sizes of energies. The second one's root is undone by the logarithm,
//! whose factor is doubled. Each run takes the next `step` samples and gives the features of the last `window`, those before kept as a
//! state: NUMERICS.md, section 16.4, has the scales.

use crate::graph::quantize::grid;
use crate::graph::{Binary, DType, Data, Graph, Op, Quant, Signal, State, ValueId};
use std::f64::consts::PI;

/// What features are wanted.
#[derive(Clone, Debug, PartialEq)]
pub struct Frontend {
    /// Samples a second.
    pub rate: u32,
    /// Samples of a window.
    pub window: usize,
    /// Samples from one window to the next.
    pub step: usize,
    /// Mel filters.
    pub bins: usize,
    /// Coefficients that are kept of the DCT; `None`: the logarithms themselves.
    pub coefficients: Option<usize>,
    /// Where the lowest filter begins and the highest ends, Hz.
    pub range: [f64; 2],
    /// Scale and zero point of the features; `None`: from silence to the loudest tone.
    pub quant: Option<(f32, i32)>,
}

/// What a front end cannot be.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct FrontendError(String);

/// The smallest mel value that is told from silence.
const FLOOR: f64 = 1e-6;
/// Of the sizes' squares, and of the mel filters' weights: 1.
const UNIT: f64 = 16_384.0;
/// Steps of a logarithm in a unit; the op's factor is twice that, for it takes that of a root.
const STEPS: f64 = 1024.0;

impl Frontend {
    /// Points of the transform.
    fn points(&self) -> usize {
        self.window.next_power_of_two()
    }

    fn check(&self) -> Result<(), FrontendError> {
        let [low, high] = self.range;
        let nyquist = f64::from(self.rate) / 2.0;
        let need = |fits: bool, what: String| if fits { Ok(()) } else { Err(FrontendError(what)) };
        need((4..=1 << 14).contains(&self.window), format!("a window of {} samples; 4 to 16384", self.window))?;
        need(
            (1..=self.window).contains(&self.step),
            format!("a step of {} samples; 1 to the window's {}", self.step, self.window),
        )?;
        need((1..=256).contains(&self.bins), format!("{} mel bins; 1 to 256", self.bins))?;
        let kept = self.coefficients.unwrap_or(self.bins);
        need((1..=self.bins).contains(&kept), format!("{kept} coefficients of {} mel bins", self.bins))?;
        need(0.0 <= low && low < high && high <= nyquist, format!("{low} to {high} Hz; within 0 to {nyquist}"))
    }

    /// What each feature is of the logarithms: `[features, bins]`.
    fn weights(&self) -> Vec<Vec<f64>> {
        let n = self.bins as f64;
        let dct = |k: usize| move |j: usize| (2.0 / n).sqrt() * (PI * k as f64 * (j as f64 + 0.5) / n).cos();
        let row = |k: usize| (0..self.bins).map(dct(k)).collect();
        let same = |k: usize| (0..self.bins).map(|j| f64::from(u8::from(j == k))).collect();
        match self.coefficients {
            Some(kept) => (0..kept).map(row).collect(),
            None => (0..self.bins).map(same).collect(),
        }
    }

    /// The graph, of integers throughout: int16 `[1, step]` to int8 `[1, features]`.
    ///
    /// # Errors
    /// Numbers that make no front end.
    pub fn graph(&self) -> Result<Graph, FrontendError> {
        self.check()?;
        let mut g = Graph::default();
        let samples = self.samples(&mut g);
        let mel = self.mel(&mut g, samples);
        self.features(&mut g, mel);
        Ok(g)
    }

    /// The last `window` samples: those that a run brings behind those that the one before has left.
    fn samples(&self, g: &mut Graph) -> ValueId {
        let sound = Some(Quant::one(2f32.powi(-15), 0));
        let mut value = |name: &str, count: usize| {
            let id = g.value(name, &[1, count], DType::I16);
            g.values[id].quant = sound.clone();
            id
        };
        let (x, kept) = (value("samples", self.step), self.window - self.step);
        if kept == 0 {
            g.inputs = vec![x];
            return x;
        }
        let (read, all, write) =
            (value("last samples", kept), value("window", self.window), value("kept samples", kept));
        g.inputs = vec![x];
        g.node("Concat", "window", Op::Concat { axis: 1 }, &[read, x], &[all]);
        let cut = Op::Slice { starts: vec![0, self.step], steps: vec![1, 1] };
        g.node("Slice", "kept samples", cut, &[all], &[write]);
        g.states.push(State { name: "samples".into(), read, write, initial: Data::Int(vec![0; kept]) });
        all
    }

    /// Roots of the mel filters, as uint32.
    fn mel(&self, g: &mut Graph, samples: ValueId) -> ValueId {
        let (window, points) = (self.window, self.points());
        let frequencies = points / 2 + 1;
        let scaled = g.value("scaled", &[1, window], DType::I16);
        let bits = g.value("bits", &[1], DType::I32);
        g.node("Signal", "auto scale", Op::Signal(Signal::AutoScale), &[samples], &[scaled, bits]);
        let hann = |i: usize| 0.5 - 0.5 * (2.0 * PI * i as f64 / window as f64).cos();
        let hann = halves(g, "hann", (0..window).map(|i| 32_768.0 * hann(i)));
        let windowed = g.value("windowed", &[1, window], DType::I16);
        g.node("Signal", "hann", Op::Signal(Signal::Window { shift: 15 }), &[scaled, hann], &[windowed]);
        let parts = g.value("spectrum", &[1, 2 * frequencies], DType::I16);
        g.node("Signal", "rfft", Op::Signal(Signal::Rfft { length: points }), &[windowed], &[parts]);

        let filters = self.filters();
        let last = filters.iter().map(|f| f.first + f.rising.len()).max().unwrap_or(0).max(1);
        let energies = g.value("energies", &[1, frequencies], DType::U32);
        g.node("Signal", "energies", Op::Signal(Signal::Energy { start: 1, end: last }), &[parts], &[energies]);
        // A filter of one weight a frequency; the first interval only leads up to them.
        let width = |c: usize| f64::from(u8::from(c > 0));
        let one = [
            halves(g, "one", [UNIT].into_iter()),
            halves(g, "none", [0.0].into_iter()),
            halves(g, "frequencies", (0..=last).map(|c| c.saturating_sub(1) as f64)),
            halves(g, "the one weight", (0..=last).map(|_| 0.0)),
            halves(g, "width of one", (0..=last).map(width)),
        ];
        let sizes = g.value("sizes", &[1, last], DType::U32);
        bank(g, "sizes", energies, one, bits, sizes);
        let falling = filters.iter().flat_map(|f| f.rising.iter().map(|t| UNIT * (1.0 - t)));
        let starts = filters.iter().scan(0, |start, f| {
            *start += f.rising.len();
            Some((*start - f.rising.len()) as f64)
        });
        let starts: Vec<f64> = starts.collect();
        let mel = [
            halves(g, "falling", falling),
            halves(g, "rising", filters.iter().flat_map(|f| f.rising.iter().map(|t| UNIT * t))),
            halves(g, "first frequencies", filters.iter().map(|f| f.first as f64)),
            halves(g, "first weights", starts.into_iter()),
            halves(g, "widths", filters.iter().map(|f| f.rising.len() as f64)),
        ];
        let none = ints(g, "no shift", DType::I32, &[1], vec![0]);
        let roots = g.value("mel", &[1, self.bins], DType::U32);
        bank(g, "mel", sizes, mel, none, roots);
        roots
    }

    /// What lies between an edge of the mel filters and the next: there one of them rises and the one before it falls.
    fn filters(&self) -> Vec<Interval> {
        let mel = |f: f64| 1127.0 * (1.0 + f / 700.0).ln();
        let [low, high] = self.range.map(mel);
        let width = (high - low) / (self.bins + 1) as f64;
        let step = f64::from(self.rate) / self.points() as f64;
        let place = |bin: usize| (mel(bin as f64 * step) - low) / width;
        // The mean of all samples is no frequency.
        let within = |i: usize| move |bin: &usize| (i as f64..(i + 1) as f64).contains(&place(*bin));
        let interval = |i: usize| {
            let bins: Vec<usize> = (1..=self.points() / 2).filter(within(i)).collect();
            let rising = bins.iter().map(|bin| place(*bin) - i as f64).collect();
            Interval { first: bins.first().copied().unwrap_or(0), rising }
        };
        (0..=self.bins).map(interval).collect()
    }

    /// Logarithms, their DCT, and int8.
    fn features(&self, g: &mut Graph, mel: ValueId) {
        // ln of the sum that the filter bank takes the root of, for a mel value of 1 of samples within [-1, 1).
        let one = (UNIT * UNIT.sqrt() * 32_768.0 / self.points() as f64).ln();
        let log_scale = Some(Quant::one((1.0 / STEPS) as f32, 0));
        let logs = g.value("logarithms", &[1, self.bins], DType::I16);
        g.node("Signal", "log", Op::Signal(Signal::Log { scale: 2 * STEPS as u32, shift: 0 }), &[mel], &[logs]);
        let floor = ((FLOOR.ln() + one) * STEPS).round() as i64;
        let floor = ints(g, "floor", DType::I16, &[1, self.bins], vec![floor.max(0); self.bins]);
        let audible = g.value("audible", &[1, self.bins], DType::I16);
        for id in [logs, floor, audible] {
            g.values[id].quant = log_scale.clone();
        }
        g.node("Maximum", "floor", Op::Binary(Binary::Max), &[logs, floor], &[audible]);

        let rows = self.weights();
        let span = rows.iter().map(|row| row.iter().sum::<f64>()).fold(0.0, f64::max);
        let loudest = self.window as f64 / 2.0;
        let quant = match self.quant {
            Some((scale, zero)) => Quant::one(scale, zero),
            None => grid((span * FLOOR.ln()) as f32, (span * loudest.ln()) as f32),
        };
        let scale = quant.single().map_or(1.0, |(scale, _)| scale);
        let count = rows.len();
        let scales: Vec<f64> = rows.iter().map(|row| row.iter().fold(0f64, |m, w| m.max(w.abs())) / 127.0).collect();
        let codes: Vec<Vec<f64>> =
            rows.iter().zip(&scales).map(|(row, s)| row.iter().map(|w| (w / s).round()).collect()).collect();
        // What rounded weights make of a usual logarithm is made up for; and ln(1) is 0.
        let usual = one - 4.0;
        let bias = |k: usize| {
            let (exact, coded): (f64, f64) = (rows[k].iter().sum(), codes[k].iter().sum::<f64>() * scales[k]);
            ((exact * (usual - one) - coded * usual) * STEPS / scales[k]).round() as i64
        };
        let bias = ints(g, "bias", DType::I64, &[count], (0..count).map(bias).collect());
        let codes = codes.into_iter().flatten().map(|w| w as i64).collect();
        let weights = ints(g, "features of logarithms", DType::I8, &[count, self.bins], codes);
        let scales = scales.iter().map(|s| *s as f32).collect();
        g.values[weights].quant = Some(Quant { scales, zero_points: vec![0; count], axis: 0 });
        let fine = g.value("fine", &[1, count], DType::I16);
        // Twice what int8 reaches from its zero point on either side.
        g.values[fine].quant = Some(Quant::one(scale * 256.0 / 32_767.0, 0));
        g.node("FullyConnected", "features", Op::FullyConnected, &[audible, weights, bias], &[fine]);
        let out = g.value("features", &[1, count], DType::I8);
        g.values[out].quant = Some(quant);
        g.node("Requantize", "features", Op::Requantize, &[fine], &[out]);
        g.outputs = vec![out];
    }
}

/// Frequencies from one edge to the next, and how far each has come.
struct Interval {
    first: usize,
    rising: Vec<f64>,
}

fn bank(g: &mut Graph, name: &str, from: ValueId, tables: [ValueId; 5], bits: ValueId, to: ValueId) {
    let [here, next, firsts, starts, widths] = tables;
    let inputs = [from, here, next, firsts, starts, widths, bits];
    g.node("Signal", name, Op::Signal(Signal::FilterBank), &inputs, &[to]);
}

fn ints(g: &mut Graph, name: &str, dtype: DType, shape: &[usize], numbers: Vec<i64>) -> ValueId {
    let id = g.value(name, shape, dtype);
    g.values[id].data = Some(Data::Int(numbers));
    id
}

/// A constant of int16.
fn halves(g: &mut Graph, name: &str, numbers: impl Iterator<Item = f64>) -> ValueId {
    let numbers: Vec<i64> = numbers.map(|v| v.round().min(32_767.0) as i64).collect();
    ints(g, name, DType::I16, &[numbers.len()], numbers)
}

//! `lstm` and `gru` against NUMERICS.md, sections 15.3 to 15.5 and 12.6, written down a second time: one unit after the other, gate by
//! gate, in 128-bit integers; and against f64.

mod support;

use mote_runtime::image::plan::{Kind, Rows, Slot};
use mote_runtime::image::tensors::Dtype::{self, N4, N5, N8, T3, T4};
use mote_runtime::ops::gru::RESET_AFTER;
use mote_runtime::ops::recurrent::REVERSE;
use support::{Bench, Builder, CODED, Matrix, Random, code, limits, mant_exp, measured, op, try_run};

/// R of section 2.
fn round(v: i128, shift: i32) -> i128 {
    match shift {
        100.. => 0,
        1.. => (v + (1 << (shift - 1))) >> shift,
        -60..=0 => v << -shift,
        _ => v.signum() << 100,
    }
}

fn sat(v: i128, bits: u32) -> i128 {
    v.clamp(-(1 << (bits - 1)), (1 << (bits - 1)) - 1)
}

/// Section 12.1.
fn exp2(d: i128) -> i128 {
    if d >= 31 << 16 {
        return 0;
    }
    let table = (2f64.powi(30) * 2f64.powf(-((d >> 10 & 63) as f64) / 64.0)).round() as i128;
    let x = ((d % 1024) * 744_261_118) >> 16;
    let x2 = (x * x) >> 30;
    let poly = (1 << 30) - x + (x2 >> 1) - ((x2 * x) >> 30) / 6;
    let v = (table * poly + (1 << 29)) >> 30;
    (((2 * v) >> (d >> 16)) + 1) >> 1
}

/// Section 12.2.
fn recip(d: i128) -> i128 {
    let mut y = 3_031_741_621 - ((2_021_161_081 * d) >> 31);
    for _ in 0..3 {
        y = (y * ((1 << 31) - ((d * y) >> 31))) >> 30;
    }
    y
}

/// Section 12.6, of Q16.
fn sigmoid(x: i128) -> i128 {
    let e = exp2(round(x.abs() * 1_549_082_005, 30).min((1 << 32) - 1));
    let inverse = recip((1 << 30) + e);
    if x < 0 { (e * inverse) >> 30 } else { inverse }
}

fn tanh(x: i128) -> i128 {
    let e = exp2(round(x.abs() * 1_549_082_005, 29).min((1 << 32) - 1));
    x.signum() * (2 * recip((1 << 30) + e) - (1 << 31)).clamp(0, 1 << 31)
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Cell {
    Lstm,
    Gru { after: bool },
}

/// A recurrent layer.
#[derive(Clone, Debug)]
struct Net {
    cell: Cell,
    reverse: bool,
    steps: usize,
    batch: usize,
    /// The last step's output alone.
    last: bool,
    /// The input is int16.
    wide: bool,
    w: Matrix,
    r: Matrix,
    /// Of the two matrices, with these exponents.
    bias: [Vec<i32>; 2],
    bias_exponent: [i32; 2],
    /// One over the hidden scale.
    inverse: (u32, i32),
    zero_point: i8,
    cell_frac: i32,
}

/// x, hidden state (int8 or Q15), cell state: `[steps, batch, in]`, `[batch, units]`.
#[derive(Clone, Debug, PartialEq)]
struct State {
    h: Vec<i16>,
    c: Vec<i32>,
}

impl Net {
    fn gates(&self) -> usize {
        if self.cell == Cell::Lstm { 4 } else { 3 }
    }

    fn units(&self) -> usize {
        self.r.cols
    }

    /// Row of gate `gate` of unit `unit`.
    fn row(&self, unit: usize, gate: usize) -> usize {
        if self.cell == Cell::Lstm { 4 * unit + gate } else { gate * self.units() + unit }
    }

    fn random(r: &mut Random, dtype: Dtype, extreme: bool) -> Self {
        let cell = [Cell::Lstm, Cell::Gru { after: false }, Cell::Gru { after: true }][r.range(0, 2) as usize];
        let gates = if cell == Cell::Lstm { 4 } else { 3 };
        let (units, cols) = (r.range(1, 40) as usize, r.range(1, 70) as usize);
        let matrix = |r: &mut Random, cols: usize| {
            // Sums of about 2 for activations of about 60 in size.
            let mut m = Matrix::like_a_model(r, gates * units, cols, dtype, 0.03 / (cols as f64).sqrt());
            if extreme {
                m = Matrix {
                    exponent: m.exponent - r.range(0, 12) as i32,
                    ..Matrix::any(r, gates * units, cols, dtype)
                };
            }
            m
        };
        let (mut w, rec) = (matrix(r, cols), matrix(r, units));
        let wide = r.range(0, 2) == 0;
        if wide {
            w.exponent += 8;
        }
        let bias_exponent = [w.exponent, rec.exponent].map(|e| e - r.range(0, 12) as i32);
        let bias = bias_exponent.map(|e| {
            let one = 2f64.powi(e);
            (0..gates * units).map(|_| (one * r.normal()).clamp(-2e9, 2e9) as i32).collect()
        });
        let (mant, exp) = mant_exp(100.0 + 60.0 * r.unit());
        Self {
            cell,
            reverse: r.range(0, 1) == 1,
            steps: r.range(1, 5) as usize,
            batch: r.range(1, 3) as usize,
            last: r.range(0, 1) == 1,
            wide,
            w,
            r: rec,
            bias,
            bias_exponent,
            inverse: (mant, exp as i32),
            zero_point: r.range(-20, 20) as i8,
            cell_frac: r.range(0, 24) as i32,
        }
    }

    fn quantize(&self, v: i128, frac: i32) -> i128 {
        let steps = sat(round(v * i128::from(self.inverse.0), frac + self.inverse.1), 32);
        (steps + i128::from(self.zero_point)).clamp(-128, 127)
    }

    /// The two halves of a gate, Q16.
    fn sums(&self, unit: usize, gate: usize, x: &[i16], h: &[i128]) -> [i128; 2] {
        let row = self.row(unit, gate);
        let half = |m: &Matrix, which: usize, x: &dyn Fn(usize) -> i128| {
            let acc: i128 = (0..m.cols).map(|c| i128::from(m.level(row, c) * m.scale(row, c)) * x(c)).sum();
            let bias = i128::from(self.bias[which][row]) << (m.exponent - self.bias_exponent[which]);
            sat(round(acc * i128::from(m.mults[row]) + bias, m.exponent - 16), 32)
        };
        [half(&self.w, 0, &|c| i128::from(x[c]).min(32_639)), half(&self.r, 1, &|c| h[c])]
    }

    fn page_step(&self, x: &[i16], h: &mut [i16], c: &mut [i32]) -> Vec<i8> {
        let units = self.units();
        if self.cell == Cell::Lstm {
            let before: Vec<i128> = h.iter().map(|h| i128::from(*h)).collect();
            for unit in 0..units {
                let gate = |g| sat(self.sums(unit, g, x, &before).iter().sum(), 32);
                let [i, f, o] = [0, 1, 3].map(|g| sigmoid(gate(g)));
                let new = round(i * tanh(gate(2)), 31 - self.cell_frac);
                let cell = sat(round(f * i128::from(c[unit]) + new, 31), 32);
                c[unit] = cell as i32;
                let squashed = tanh(sat(round(cell, self.cell_frac - 16), 32));
                h[unit] = self.quantize(round(o * squashed, 31), 31) as i16;
            }
            return h.iter().map(|h| *h as i8).collect();
        }
        let before: Vec<i128> = h.iter().map(|h| self.quantize(i128::from(*h), 15)).collect();
        let gate = |unit, g| sigmoid(sat(self.sums(unit, g, x, &before).iter().sum(), 32));
        let reset: Vec<i128> = (0..units).map(|u| gate(u, 1)).collect();
        let zero = i128::from(self.zero_point);
        let scaled = |u: usize| (round(reset[u] * (before[u] - zero), 31) + zero).clamp(-128, 127);
        let after = self.cell == Cell::Gru { after: true };
        let operand: Vec<i128> = if after { before.clone() } else { (0..units).map(scaled).collect() };
        for unit in 0..units {
            let z = gate(unit, 0);
            let [from_x, from_h] = self.sums(unit, 2, x, &operand);
            let from_h = if after { round(reset[unit] * from_h, 31) } else { from_h };
            let n = tanh(sat(from_x + from_h, 32));
            let new = round(((1 << 31) - z) * n, 16);
            h[unit] = sat(round(z * i128::from(h[unit]) + new, 31), 16) as i16;
        }
        h.iter().map(|h| self.quantize(i128::from(*h), 15) as i8).collect()
    }

    /// NUMERICS.md: outputs, and the state afterwards.
    fn page(&self, x: &[i16], state: &State) -> (Vec<i8>, State) {
        let (units, cols) = (self.units(), self.w.cols);
        let mut state = state.clone();
        let mut out = vec![0; if self.last { 1 } else { self.steps } * self.batch * units];
        for step in 0..self.steps {
            let step = if self.reverse { self.steps - 1 - step } else { step };
            for b in 0..self.batch {
                let (h, c) = (&mut state.h[b * units..][..units], &mut state.c[b * units..][..units]);
                let result = self.page_step(&x[(step * self.batch + b) * cols..][..cols], h, c);
                let place = if self.last { b } else { step * self.batch + b };
                out[place * units..][..units].copy_from_slice(&result);
            }
        }
        (out, state)
    }

    /// Slots: x, out, state, scratch, cell.
    fn builder(&self) -> (Builder, [u32; 5]) {
        let mut b = Builder::new();
        b.logits = b.i32_slot(Rows::One, 1, 0);
        let (units, cols) = (self.units(), self.w.cols);
        let lstm = self.cell == Cell::Lstm;
        let i16_slot = |b: &mut Builder, cols: usize| {
            let cols = cols as u32;
            b.slot(Slot { kind: Kind::I16, rows: Rows::One, frac: 0, cols, heads: 0, head_dim: 0, offset: [0; 4] })
        };
        let count = self.steps * self.batch * cols;
        let x = if self.wide { i16_slot(&mut b, count) } else { b.i8_slot(count) };
        let out = b.i8_slot(if self.last { 1 } else { self.steps } * self.batch * units);
        let count = self.batch * units;
        let state = if lstm { b.i8_slot(count) } else { i16_slot(&mut b, count) };
        let rows = cols.next_multiple_of(32) * if self.wide { 2 } else { 1 } + units.next_multiple_of(32);
        let scratch = b.i8_slot(rows + if lstm { 0 } else { 8 * units });
        let cell = b.i32_slot(Rows::One, count, self.cell_frac as i16);
        let [w, r] = [&self.w, &self.r].map(|m| b.matrix(m));
        let bias = [0, 1].map(|i| b.vector32(&self.bias[i], self.bias_exponent[i]));
        let hidden = u32::from_le_bytes([
            self.inverse.0 as u8,
            (self.inverse.0 >> 8) as u8,
            self.inverse.1 as u8,
            self.zero_point as u8,
        ]);
        let all = [x, out, state, scratch, w, bias[0], r, bias[1], hidden, cell];
        let (name, args) = if lstm { ("lstm", &all[..]) } else { ("gru", &all[..9]) };
        let mut the_op = op(code(name), args);
        the_op.flags = if self.reverse { REVERSE } else { 0 };
        the_op.flags |= if self.cell == (Cell::Gru { after: true }) { RESET_AFTER } else { 0 };
        b.run.push(the_op);
        (b, [x, out, state, scratch, cell])
    }

    fn run(&self, x: &[i16], state: &State) -> (Vec<i8>, State) {
        let (b, [x_slot, out, h, _, c]) = self.builder();
        let lstm = self.cell == Cell::Lstm;
        let mut bench = Bench::new(&b, limits(1, 1));
        let mut put = |slot: u32, bytes: Vec<u8>| bench.bytes(slot)[..bytes.len()].copy_from_slice(&bytes);
        let wide = |v: &[i16]| v.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
        put(x_slot, if self.wide { wide(x) } else { x.iter().map(|v| *v as u8).collect() });
        put(h, if lstm { state.h.iter().map(|v| *v as u8).collect() } else { wide(&state.h) });
        put(c, state.c.iter().flat_map(|v| v.to_le_bytes()).collect());
        bench.run(&b.run[0], 1);
        let mut bytes = |slot: u32, n: usize| bench.bytes(slot)[..n].to_vec();
        let n = state.h.len();
        let wide = |v: Vec<u8>| v.as_chunks::<2>().0.iter().map(|b| i16::from_le_bytes(*b)).collect::<Vec<i16>>();
        let results = if self.last { 1 } else { self.steps } * n;
        let out = bytes(out, results).iter().map(|b| *b as i8).collect();
        let hidden =
            if lstm { bytes(h, n).iter().map(|b| i16::from(*b as i8)).collect() } else { wide(bytes(h, 2 * n)) };
        let c = bytes(c, 4 * n).as_chunks::<4>().0.iter().map(|b| i32::from_le_bytes(*b)).collect();
        (out, State { h: hidden, c })
    }

    fn inputs(&self, r: &mut Random) -> (Vec<i16>, State) {
        let most = if self.wide { 32_767 } else { 127 };
        let x = (0..self.steps * self.batch * self.w.cols).map(|_| r.range(-most - 1, most) as i16).collect();
        let n = self.batch * self.units();
        let most = if self.cell == Cell::Lstm { 127 } else { 32_767 };
        let h = (0..n).map(|_| r.range(-most - 1, most) as i16).collect();
        let size = 2f64.powi(self.cell_frac + r.range(0, 6) as i32);
        (x, State { h, c: (0..n).map(|_| (size * r.normal()) as i32).collect() })
    }
}

#[test]
fn lstm_and_gru_are_the_page_s() {
    let r = &mut Random::new(1);
    let mut values = std::collections::HashSet::new();
    for case in 0..300 {
        let net = Net::random(r, [N4, N5, N8, T3, T4][case % 5], case % 3 == 2);
        let (x, state) = net.inputs(r);
        let got = net.run(&x, &state);
        assert_eq!(got, net.page(&x, &state), "case {case}: {:?} {} of {}", net.cell, net.units(), net.w.cols);
        values.extend(got.0);
    }
    assert!(values.len() > 200, "{} different outputs", values.len());
}

/// Runs cut in two, the state left in its slots, give what one run gives.
#[test]
fn state_carries_over() {
    let r = &mut Random::new(2);
    for _ in 0..50 {
        let net = Net { reverse: false, last: false, steps: 6, ..Net::random(r, N4, false) };
        let (x, state) = net.inputs(r);
        let whole = net.run(&x, &state);
        let part = Net { steps: 3, ..net.clone() };
        let (first, between) = part.run(&x[..x.len() / 2], &state);
        let (second, end) = part.run(&x[x.len() / 2..], &between);
        assert_eq!(whole, ([first, second].concat(), end));
    }
}

/// A net in f64 with the weights of the integers: its zero points taken out of the biases.
struct Float<'n> {
    net: &'n Net,
    x_zero: f64,
    hidden_scale: f64,
}

impl Float<'_> {
    /// One step from real values: input, hidden, cell.
    fn step(&self, x: &[f64], h: &mut [f64], c: &mut [f64]) {
        let n = self.net;
        let units = n.units();
        let one = |v: f64| 1.0 / (1.0 + (-v).exp());
        let half = |m: &Matrix, which: usize, row: usize, v: &dyn Fn(usize) -> f64| {
            let bias = f64::from(n.bias[which][row]) * 2f64.powi(-n.bias_exponent[which]);
            (0..m.cols).map(|col| m.weight(row, col) * v(col)).sum::<f64>() + bias
        };
        // As integers see them: x in steps, h in steps, each with its zero point.
        let steps = |v: f64| v / self.hidden_scale + f64::from(n.zero_point);
        let old = h.to_vec();
        let sums = |unit: usize, gate: usize, r: &dyn Fn(usize) -> f64| {
            let row = n.row(unit, gate);
            [half(&n.w, 0, row, &|col| x[col] + self.x_zero), half(&n.r, 1, row, &|col| steps(r(col) * old[col]))]
        };
        let gate = |unit, g| sums(unit, g, &|_| 1.0).iter().sum::<f64>();
        let reset: Vec<f64> = if n.gates() == 3 { (0..units).map(|u| one(gate(u, 1))).collect() } else { vec![] };
        for unit in 0..units {
            match n.cell {
                Cell::Lstm => {
                    c[unit] = one(gate(unit, 1)) * c[unit] + one(gate(unit, 0)) * gate(unit, 2).tanh();
                    h[unit] = one(gate(unit, 3)) * c[unit].tanh();
                }
                Cell::Gru { after } => {
                    let z = one(gate(unit, 0));
                    let [a, b] = if after { sums(unit, 2, &|_| 1.0) } else { sums(unit, 2, &|col| reset[col]) };
                    let new = (a + if after { reset[unit] } else { 1.0 } * b).tanh();
                    h[unit] = z * h[unit] + (1.0 - z) * new;
                }
            }
        }
    }
}

/// Weights, biases and inputs of a trained layer's size; hidden scale 1/127, its zero point 0.
fn like_a_model(r: &mut Random, cell: Cell, dtype: Dtype, cols: usize, units: usize, steps: usize) -> Net {
    let gates = if cell == Cell::Lstm { 4 } else { 3 };
    let sigma = |cols: usize, step: f64| 1.4 / (cols as f64).sqrt() * step;
    let w = Matrix::like_a_model(r, gates * units, cols, dtype, sigma(cols, 0.02));
    let rec = Matrix::like_a_model(r, gates * units, units, dtype, sigma(units, 1.0 / 127.0));
    let bias_exponent = [w.exponent, rec.exponent].map(|e| e - 12);
    let bias = bias_exponent.map(|e| (0..gates * units).map(|_| (0.4 * 2f64.powi(e) * r.normal()) as i32).collect());
    let (mant, exp) = mant_exp(127.0);
    Net {
        cell,
        reverse: false,
        steps,
        batch: 1,
        last: false,
        wide: false,
        w,
        r: rec,
        bias,
        bias_exponent,
        inverse: (mant, exp as i32),
        zero_point: 0,
        cell_frac: 20,
    }
}

/// One step from the same state: the new state and the output are the real ones, rounded.
#[test]
fn a_step_against_f64() {
    let r = &mut Random::new(3);
    // Of lstm, gru with its reset after, gru with its reset before.
    let (mut output, mut state_units, mut cell_state) = ([0f64; 3], [0f64; 3], 0f64);
    for case in 0..60 {
        let kind = case % 3;
        let cell = [Cell::Lstm, Cell::Gru { after: true }, Cell::Gru { after: false }][kind];
        let net = like_a_model(r, cell, [N4, N5, N8, N8][case % 4], 40, 33, 1);
        let x: Vec<i16> = (0..40).map(|_| (50.0 * r.normal()).clamp(-128.0, 127.0) as i16).collect();
        let (_, mut state) = net.inputs(r);
        // Hidden states that int8 holds exactly.
        if cell != Cell::Lstm {
            state.h.iter_mut().for_each(|h| *h = (f64::from(*h / 256) / 127.0 * 32768.0).round() as i16);
        }
        let (out, after) = net.run(&x, &state);
        let float = Float { net: &net, x_zero: 0.0, hidden_scale: 1.0 / 127.0 };
        let real_h = |h: i16| if cell == Cell::Lstm { f64::from(h) / 127.0 } else { f64::from(h) * 2f64.powi(-15) };
        let mut h: Vec<f64> = state.h.iter().map(|h| real_h(*h)).collect();
        let mut c: Vec<f64> = state.c.iter().map(|c| f64::from(*c) * 2f64.powi(-20)).collect();
        float.step(&x.iter().map(|x| f64::from(*x)).collect::<Vec<_>>(), &mut h, &mut c);
        for unit in 0..33 {
            output[kind] = output[kind].max((f64::from(out[unit]) - h[unit] * 127.0).abs());
            if cell == Cell::Lstm {
                let error = (f64::from(after.c[unit]) * 2f64.powi(-20) - c[unit]).abs();
                cell_state = cell_state.max((error - 2f64.powi(-21)) / (c[unit].abs() + 2.0));
            } else {
                let units = (f64::from(after.h[unit]) - h[unit] * 32768.0).abs();
                state_units[kind] = state_units[kind].max(units);
            }
        }
    }
    measured("lstm, a step's output, steps of 1/127", output[0], 0.55);
    measured("lstm, cell state beyond half a unit, over |c| + 2", cell_state, 2f64.powi(-16));
    measured("gru, reset after, a step's output, steps of 1/127", output[1], 0.51);
    measured("gru, reset after, state, units of Q15", state_units[1], 2.0);
    // The product of reset gate and state is rounded to int8 before it goes into the matrix.
    measured("gru, reset before, a step's output, steps of 1/127", output[2], 1.2);
    measured("gru, reset before, state, units of Q15", state_units[2], 200.0);
}

/// A hundred steps of a layer of 128 units against the f64 layer that rounds nothing.
#[test]
fn sequences_against_f64() {
    let r = &mut Random::new(4);
    for (name, cell, rms_bound, most_bound) in [
        ("lstm", Cell::Lstm, 0.35, 2.0),
        ("gru, reset before", Cell::Gru { after: false }, 0.4, 2.5),
        ("gru, reset after", Cell::Gru { after: true }, 0.35, 2.0),
    ] {
        let (mut square, mut most, mut count) = (0f64, 0f64, 0f64);
        for dtype in CODED {
            let net = like_a_model(r, cell, dtype, 128, 128, 100);
            let x: Vec<i16> = (0..12_800).map(|_| (50.0 * r.normal()).clamp(-128.0, 127.0) as i16).collect();
            let state = State { h: vec![0; 128], c: vec![0; 128] };
            let (out, _) = net.run(&x, &state);
            let float = Float { net: &net, x_zero: 0.0, hidden_scale: 1.0 / 127.0 };
            let (mut h, mut c) = (vec![0f64; 128], vec![0f64; 128]);
            for (x, out) in x.chunks(128).zip(out.chunks(128)) {
                float.step(&x.iter().map(|x| f64::from(*x)).collect::<Vec<_>>(), &mut h, &mut c);
                for (out, h) in out.iter().zip(&h) {
                    let error = f64::from(*out) - h * 127.0;
                    square += error * error;
                    most = most.max(error.abs());
                    count += 1.0;
                }
            }
        }
        measured(&format!("{name}, 100 steps, rms, steps of 1/127"), (square / count).sqrt(), rms_bound);
        measured(&format!("{name}, 100 steps, most"), most, most_bound);
    }
}

/// Every argument with numbers that do not fit: refused or run, never a panic.
#[test]
fn any_arguments_at_all() {
    let r = &mut Random::new(5);
    let (mut opened, mut refused) = (0, 0);
    for case in 0..3000 {
        let net = Net::random(r, [N4, N5, N8, T3, T4][case % 5], case % 7 == 0);
        let (mut b, _) = net.builder();
        for _ in 0..r.range(0, 2) {
            let words = [0, 1, 2, 3, 5, 0xFFFF, u32::MAX, 1 << 31, r.next() as u32];
            b.run[0].args[r.range(0, 10) as usize] = words[r.range(0, words.len() as i64 - 1) as usize];
        }
        b.run[0].flags = r.range(0, 4) as u16;
        match r.range(0, 3) {
            0 => b.tensors[r.range(0, 3) as usize].0.exponent = r.range(-256, 256) as i32,
            1 => {
                let slot = &mut b.slots[r.range(1, 5) as usize];
                slot.cols = (slot.cols as i64 + r.range(-2, 2)).max(1) as u32;
            }
            _ => {}
        }
        match try_run(&b.image(), || 0x80) {
            None => refused += 1,
            Some(ran) => opened += u32::from(ran),
        }
    }
    assert!(opened > 100 && refused > 100, "{opened} {refused}");
}

//! Recurrent layers: one node a direction.

use super::super::builder::{Builder, Done, Step, malformed, unsupported};
use super::Table;
use crate::graph::{Binary, DType, Direction, Op, ValueId};

pub(super) const OPERATORS: Table = &[("GRU", gru), ("LSTM", lstm)];

struct Layer {
    x: ValueId,
    directions: Vec<Direction>,
    steps: usize,
    n: usize,
    h: usize,
    /// Batch first, before steps and directions.
    batch_first: bool,
}

fn layer(b: &mut Builder, s: &Step, gates: usize, functions: &[&str]) -> Done<Layer> {
    use Direction::{Forward, Reverse};
    let directions = match &s.text("direction", "forward")[..] {
        "forward" => vec![Forward],
        "reverse" => vec![Reverse],
        "bidirectional" => vec![Forward, Reverse],
        other => return malformed(format!("direction = {other:?}")),
    };
    let found = s.texts("activations");
    let usual = |(i, f): (usize, &String)| f.eq_ignore_ascii_case(functions[i % functions.len()]);
    if !found.iter().enumerate().all(usual) {
        return unsupported(format!("activations {found:?} (Mote has {functions:?})"));
    }
    for attribute in ["clip", "input_forget"] {
        if s.has(attribute) && (s.float(attribute, 0.0) != 0.0 || s.int(attribute, 0) != 0) {
            return unsupported(format!("attribute {attribute}"));
        }
    }
    let batch_first = s.int("layout", 0) != 0;
    let x = if batch_first { b.transpose(s.x(0)?, &[1, 0, 2])? } else { s.x(0)? };
    let (shape, r) = (b.shape(x), b.shape(s.x(2)?));
    let (&[steps, n, _], &[d, rows, h]) = (&shape[..], &r[..]) else {
        return malformed(format!("operands of shapes {shape:?} and {r:?}"));
    };
    if d != directions.len() || rows != gates * h {
        return malformed(format!("state weights {r:?} for {} directions", directions.len()));
    }
    if let Some(lengths) = s.given(4) {
        let same = b.ints("sequence_lens", lengths)?.iter().all(|l| *l == steps as i64);
        if !same {
            return unsupported("sequences of different lengths (sequence_lens)");
        }
    }
    Ok(Layer { x, directions, steps, n, h, batch_first })
}

impl Layer {
    /// Direction `d` of an operand [directions, ..], as `shape`.
    fn part(&self, b: &mut Builder, x: ValueId, d: usize, shape: &[usize]) -> Done<ValueId> {
        let one = b.slice(x, 0, d, 1)?;
        b.reshape(one, shape)
    }

    /// A state's first values for direction `d`.
    fn initial(&self, b: &mut Builder, s: &Step, i: usize, d: usize) -> Done<Option<ValueId>> {
        let Some(x) = s.given(i) else { return Ok(None) };
        let x = if self.batch_first { b.transpose(x, &[1, 0, 2])? } else { x };
        self.part(b, x, d, &[self.n, self.h]).map(Some)
    }

    /// Biases [directions, 2 * rows]: those of the input weights and those of the state's.
    fn biases(&self, b: &mut Builder, s: &Step, d: usize, rows: usize) -> Done<Option<[ValueId; 2]>> {
        let Some(all) = s.given(3) else { return Ok(None) };
        let all = self.part(b, all, d, &[2 * rows])?;
        Ok(Some([b.slice(all, 0, 0, rows)?, b.slice(all, 0, rows, rows)?]))
    }

    /// Nodes for all directions, and their results side by side: Y, Y_h, Y_c.
    fn emit(
        &self,
        b: &mut Builder,
        s: &Step,
        states: usize,
        make: impl Fn(&mut Builder, usize) -> Done<(Op, Vec<Option<ValueId>>)>,
    ) -> Done<Vec<ValueId>> {
        let (&Self { steps, n, h, .. }, each) = (self, self.directions.len());
        let mut parts = vec![Vec::new(); 1 + states];
        for d in 0..each {
            let (op, inputs) = make(b, d)?;
            let mut outputs = vec![(vec![steps, n, h], DType::F32, None)];
            outputs.extend((0..states).map(|_| (vec![n, h], DType::F32, None)));
            for (part, y) in parts.iter_mut().zip(b.emit(op, &inputs, &outputs)?) {
                part.push(y);
            }
        }
        let mut results = Vec::new();
        for (i, part) in parts.into_iter().enumerate() {
            if !s.wants(i) {
                results.push(part[0]);
                continue;
            }
            // Y [steps, directions, n, h], states [directions, n, h].
            let (shape, axis): (&[usize], usize) = if i == 0 { (&[steps, 1, n, h], 1) } else { (&[1, n, h], 0) };
            let part = part.into_iter().map(|p| b.reshape(p, shape)).collect::<Done<Vec<_>>>()?;
            let y = b.concat(&part, axis)?;
            results.push(match (self.batch_first, i) {
                (false, _) => y,
                (true, 0) => b.transpose(y, &[2, 0, 1, 3])?,
                (true, _) => b.transpose(y, &[1, 0, 2])?,
            });
        }
        Ok(results)
    }
}

fn lstm(b: &mut Builder, s: &Step) -> Done<Vec<ValueId>> {
    let l = layer(b, s, 4, &["Sigmoid", "Tanh", "Tanh"])?;
    if s.given(7).is_some() {
        return unsupported("peephole weights (input P)");
    }
    let i = b.at(l.x).shape[2];
    l.emit(b, s, 2, |b, d| {
        let w = l.part(b, s.x(1)?, d, &[4 * l.h, i])?;
        let r = l.part(b, s.x(2)?, d, &[4 * l.h, l.h])?;
        let bias = match l.biases(b, s, d, 4 * l.h)? {
            None => None,
            Some([of_w, of_r]) => Some(b.binary(Binary::Add, of_w, of_r)?),
        };
        let (hidden, cell) = (l.initial(b, s, 5, d)?, l.initial(b, s, 6, d)?);
        Ok((Op::Lstm { direction: l.directions[d] }, vec![Some(l.x), Some(w), Some(r), bias, hidden, cell]))
    })
}

fn gru(b: &mut Builder, s: &Step) -> Done<Vec<ValueId>> {
    let l = layer(b, s, 3, &["Sigmoid", "Tanh"])?;
    let i = b.at(l.x).shape[2];
    let reset_after = s.int("linear_before_reset", 0) != 0;
    l.emit(b, s, 1, |b, d| {
        let w = l.part(b, s.x(1)?, d, &[3 * l.h, i])?;
        let r = l.part(b, s.x(2)?, d, &[3 * l.h, l.h])?;
        let [of_w, of_r] = l.biases(b, s, d, 3 * l.h)?.map_or([None; 2], |p| p.map(Some));
        let hidden = l.initial(b, s, 5, d)?;
        Ok((Op::Gru { direction: l.directions[d], reset_after }, vec![Some(l.x), Some(w), Some(r), of_w, of_r, hidden]))
    })
}

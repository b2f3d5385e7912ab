//! Recurrent layers, gates in ONNX's order.

use super::matmul::{add_bias, dot, product};
use super::{Args, Outcome, Tensor};
use crate::graph::Direction;

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// Shape of a layer: steps, batch, inputs, hidden.
fn sizes(args: &Args) -> [usize; 4] {
    let (x, r) = (args.shape(0), args.shape(2));
    [x[0], x[1], x[2], r[1]]
}

/// Every step's product with the input weights, and the bias: [steps, n, rows].
fn inputs(args: &Args, bias: Option<&[f32]>) -> Result<Vec<f32>, String> {
    let [steps, n, i, _] = sizes(args);
    let mut all = product(args.floats(0)?, args.floats(1)?, (steps * n, i, args.shape(1)[0]), true)?;
    add_bias(&mut all, bias);
    Ok(all)
}

fn state(args: &Args, which: usize) -> Result<Vec<f32>, String> {
    let [_, n, _, h] = sizes(args);
    Ok(args.floats_if(which)?.map_or_else(|| vec![0.0; n * h], <[f32]>::to_vec))
}

fn order(steps: usize, direction: Direction) -> Vec<usize> {
    match direction {
        Direction::Forward => (0..steps).collect(),
        Direction::Reverse => (0..steps).rev().collect(),
    }
}

pub(super) fn lstm(args: &Args, direction: Direction) -> Outcome {
    let [steps, n, _, h] = sizes(args);
    let r = args.floats(2)?;
    let given = inputs(args, args.floats_if(3)?)?;
    let (mut hidden, mut cell) = (state(args, 4)?, state(args, 5)?);
    let mut y = vec![0.0; steps * n * h];
    for t in order(steps, direction) {
        for b in 0..n {
            let gates = &given[(t * n + b) * 4 * h..][..4 * h];
            let (before, cell) = (hidden[b * h..(b + 1) * h].to_vec(), &mut cell[b * h..(b + 1) * h]);
            let gate = |g: usize, j: usize| gates[g * h + j] + dot(&before, &r[(g * h + j) * h..][..h]);
            for j in 0..h {
                let (input, output, forget) = (sigmoid(gate(0, j)), sigmoid(gate(1, j)), sigmoid(gate(2, j)));
                cell[j] = forget * cell[j] + input * gate(3, j).tanh();
                hidden[b * h + j] = output * cell[j].tanh();
            }
        }
        y[t * n * h..(t + 1) * n * h].copy_from_slice(&hidden);
    }
    Ok(vec![Tensor::floats(&[steps, n, h], y), Tensor::floats(&[n, h], hidden), Tensor::floats(&[n, h], cell)])
}

pub(super) fn gru(args: &Args, direction: Direction, reset_after: bool) -> Outcome {
    let [steps, n, _, h] = sizes(args);
    let (r, bias) = (args.floats(2)?, args.floats_if(4)?);
    let given = inputs(args, args.floats_if(3)?)?;
    let mut hidden = state(args, 5)?;
    let mut y = vec![0.0; steps * n * h];
    for t in order(steps, direction) {
        for b in 0..n {
            let gates = &given[(t * n + b) * 3 * h..][..3 * h];
            let before = hidden[b * h..(b + 1) * h].to_vec();
            let again = |g: usize, j: usize, state: &[f32]| {
                dot(state, &r[(g * h + j) * h..][..h]) + bias.map_or(0.0, |bias| bias[g * h + j])
            };
            let gate = |g: usize, j: usize| sigmoid(gates[g * h + j] + again(g, j, &before));
            let reset: Vec<f32> = (0..h).map(|j| gate(1, j)).collect();
            let held: Vec<f32> = before.iter().zip(&reset).map(|(x, r)| x * r).collect();
            for j in 0..h {
                let inner = if reset_after { reset[j] * again(2, j, &before) } else { again(2, j, &held) };
                let fresh = (gates[2 * h + j] + inner).tanh();
                let update = gate(0, j);
                hidden[b * h + j] = (1.0 - update) * fresh + update * before[j];
            }
        }
        y[t * n * h..(t + 1) * n * h].copy_from_slice(&hidden);
    }
    Ok(vec![Tensor::floats(&[steps, n, h], y), Tensor::floats(&[n, h], hidden)])
}

//! How much a net multiplies: the measure that its instructions are compared by.

use crate::lower::{Dims, Lowered, Net};
use mote_runtime::Image;
use mote_runtime::image::Op;
use mote_runtime::image::program::entry;
use mote_runtime::ops;

/// Multiply-accumulates of one run of a net without tokens, as the field counts them: taps that lie in the padding are counted,
/// zero points, biases and everything that is no product of weights and inputs are not.
#[must_use]
pub fn macs(image: &Image<'_>) -> u64 {
    let ops = image.program().entry(entry::RUN).into_iter().flatten();
    let dims = |tensor| image.tensor(tensor).ok().map(|t| t.dims);
    let cols = |slot| image.slot(slot).ok().map(|s| s.cols);
    ops.map(|(_, op)| of(&op, &dims, &cols).unwrap_or(0)).sum()
}

/// As [`macs`], of a net that is not written yet.
#[must_use]
pub fn of_net(net: &Net) -> u64 {
    let Lowered { ops, slots, tensors, .. } = &net.lowered;
    let dims = |tensor: u32| tensors.get(tensor as usize).map(Dims::dims);
    let cols = |slot: u32| slots.get(slot as usize).map(|s| s.cols);
    ops.iter().map(|op| of(op, &dims, &cols).unwrap_or(0)).sum()
}

/// Elements of the output times products for each.
fn of(op: &Op, dims: &dyn Fn(u32) -> Option<[u32; 4]>, elements: &dyn Fn(u32) -> Option<u32>) -> Option<u64> {
    let weights = |which: usize| dims(op.args[which]).map(|dims| dims.map(u64::from));
    let (out, products) = match ops::find(op.code)?.name {
        "conv2d" => (1, weights(2).map(|[_, h, w, c]| h * w * c)?),
        "depthwise_conv2d" => (1, weights(2).map(|[_, h, w, _]| h * w)?),
        "fully_connected" => (1, weights(2).map(|[_, c, _, _]| c)?),
        "conv2d_coded" => (1, weights(3).map(|[_, columns, _, _]| columns)?),
        // Each output meets the taps that its place in a stride leaves: of all places together, all taps once.
        "transpose_conv2d" => {
            let [out, h, w, c] = weights(2)?;
            let pixels = u64::from(elements(op.args[0])?).checked_div(c)?;
            return Some(pixels * out * h * w * c);
        }
        // A step of one element of the batch takes both matrices whole.
        "lstm" | "gru" => {
            let ([rows, cols, _, _], [_, units, _, _]) = (weights(4)?, weights(6)?);
            let steps = u64::from(elements(op.args[0])?).checked_div(cols)?;
            return Some(steps * rows * (cols + units));
        }
        "matmul" => (3, weights(1).map(|[_, columns, _, _]| columns)?),
        "batch_matmul" => (2, u64::from(op.args[9])),
        _ => return None,
    };
    Some(u64::from(elements(op.args[out])?) * products)
}

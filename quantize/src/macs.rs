//! How much a net multiplies: the measure that its instructions are compared by.

use mote_runtime::Image;
use mote_runtime::image::Op;
use mote_runtime::image::program::entry;

/// Multiply-accumulates of one run of a net without tokens, as the field counts them: taps that lie in the padding are counted,
/// zero points, biases and everything that is no product of weights and inputs are not.
#[must_use]
pub fn macs(image: &Image<'_>) -> u64 {
    let ops = image.program().entry(entry::RUN).into_iter().flatten();
    ops.map(|(_, op)| of(image, &op).unwrap_or(0)).sum()
}

/// Elements of the output times products for each.
fn of(image: &Image<'_>, op: &Op) -> Option<u64> {
    let weights = |which: usize| image.tensor(op.args[which]).ok().map(|t| t.dims.map(u64::from));
    let (out, products) = match image.op(op.code)?.name {
        "conv2d" => (1, weights(2).map(|[_, h, w, c]| h * w * c)?),
        "depthwise_conv2d" => (1, weights(2).map(|[_, h, w, _]| h * w)?),
        "fully_connected" => (1, weights(2).map(|[_, c, _, _]| c)?),
        "batch_matmul" => (2, u64::from(op.args[9])),
        _ => return None,
    };
    Some(u64::from(image.slot(op.args[out]).ok()?.cols) * products)
}

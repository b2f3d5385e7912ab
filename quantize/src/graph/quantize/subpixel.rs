//! Transposed convolutions as convolutions, which have an op for codes.
//!
//! Output row `s q + r` of a transposed convolution of stride s, nothing cut off yet, meets tap `r + s j` of input row `q - j`, for
//! all j that there are. So for each r it is a convolution with every s-th tap, turned round; all of them together are one
//! convolution with s s times the channels (Shi et al. 2016, "Is the deconvolution layer the same as a convolutional
//! layer?"), whose result is spread over the pixels:
//!
//! ```text
//! x [1, h, w, i] -> conv, J = ceil(k / s) taps -> [1, h + J - 1, w + J - 1, (r, r', o)]
//!   -> [q, q', r, (r', o)] -> [q, r, q', (r', o)] -> [1, s q, s q', o] -> cut
//! ```
//!
//! No multiplication is added but at the edges. An input of one pixel meets every tap once: a fully connected layer.

use crate::graph::{Data, Graph, Node, Op, Tensor, Window};

/// Rewrites all transposed convolutions of floats without gaps between taps, and no longer than their windows reach.
pub fn run(graph: &mut Graph) {
    let mut index = 0;
    while index < graph.nodes.len() {
        if let Some(nodes) = rewritten(graph, index) {
            let count = nodes.len();
            graph.nodes.splice(index..=index, nodes);
            index += count;
        } else {
            index += 1;
        }
    }
}

/// The nodes in place of node `index`.
fn rewritten(graph: &mut Graph, index: usize) -> Option<Vec<Node>> {
    let node = graph.nodes[index].clone();
    let Op::ConvTranspose2d { window } = node.op else { return None };
    let (x, w, y) = (graph.input(&node, 0)?.clone(), graph.input(&node, 1)?.clone(), graph.output(&node, 0)?.clone());
    let Some(Data::F32(weights)) = &w.data else { return None };
    let bias = match graph.input(&node, 2).map(|b| &b.data) {
        None => None,
        Some(Some(Data::F32(bias))) => Some(bias.clone()),
        Some(_) => return None,
    };
    let (&[1, h, width, _], &[out, kh, kw, channels], &[1, oh, ow, _]) = (&x.shape[..], &w.shape[..], &y.shape[..])
    else {
        return None;
    };
    if window.dilation != [1, 1] || window.stride.contains(&0) {
        return None;
    }
    let pixel = h == 1 && width == 1;
    // Of one pixel, all taps are outputs.
    let stride = if pixel { [kh, kw] } else { window.stride };
    let taps = [kh.div_ceil(stride[0]), kw.div_ceil(stride[1])];
    let size = [h + taps[0] - 1, width + taps[1] - 1];
    let phases = stride[0] * stride[1];
    let mut turned = Vec::with_capacity(phases * out * taps[0] * taps[1] * channels);
    for (ry, rx) in (0..stride[0]).flat_map(|ry| (0..stride[1]).map(move |rx| (ry, rx))) {
        for o in 0..out {
            for (jy, jx) in (0..taps[0]).rev().flat_map(|jy| (0..taps[1]).rev().map(move |jx| (jy, jx))) {
                let (ky, kx) = (ry + stride[0] * jy, rx + stride[1] * jx);
                match weights.get(((o * kh + ky) * kw + kx) * channels..).filter(|_| ky < kh && kx < kw) {
                    Some(from) => turned.extend(&from[..channels]),
                    None => turned.extend(std::iter::repeat_n(0.0, channels)),
                }
            }
        }
    }
    let whole = [size[0] * stride[0], size[1] * stride[1]];
    let end = [window.before[0] + oh, window.before[1] + ow];
    // Where an output is longer than windows reach it is the bias alone: left as it is.
    if end[0] > whole[0] || end[1] > whole[1] {
        return None;
    }
    let rows = phases * out;
    let shape = if pixel { vec![rows, channels] } else { vec![rows, taps[0], taps[1], channels] };
    let weights = graph.constant(w.name, Tensor { shape, data: Data::F32(turned) });
    let mut inputs = vec![node.inputs[0], Some(weights)];
    if let Some(bias) = &bias {
        let name = graph.input(&node, 2).map(|b| b.name.clone()).unwrap_or_default();
        let bias = Tensor { shape: vec![rows], data: Data::F32(bias.repeat(phases)) };
        inputs.push(Some(graph.constant(name, bias)));
    }
    let mut nodes = Vec::new();
    let mut step = |graph: &mut Graph, op: Op, inputs: Vec<Option<usize>>, shape: &[usize]| {
        let to = graph.value(y.name.clone(), shape, y.dtype);
        let (name, kind) = (node.name.clone(), node.kind.clone());
        nodes.push(Node { name, kind, op, inputs, outputs: vec![to], clamp: None });
        to
    };
    let padding = [taps[0] - 1, taps[1] - 1];
    let conv = Window { stride: [1, 1], dilation: [1, 1], before: padding, after: padding };
    let op = if pixel { Op::FullyConnected } else { Op::Conv2d { window: conv, groups: 1 } };
    let made = if pixel { vec![1, rows] } else { vec![1, size[0], size[1], rows] };
    let mut value = step(graph, op, inputs, &made);
    if phases > 1 {
        if !pixel {
            let line = stride[1] * out;
            value = step(graph, Op::Reshape, vec![Some(value)], &[size[0], size[1], stride[0], line]);
            let op = Op::Transpose { perm: vec![0, 2, 1, 3] };
            value = step(graph, op, vec![Some(value)], &[size[0], stride[0], size[1], line]);
        }
        value = step(graph, Op::Reshape, vec![Some(value)], &[1, whole[0], whole[1], out]);
    }
    if window.before != [0, 0] || end[0] < whole[0] || end[1] < whole[1] {
        let starts = vec![0, window.before[0], window.before[1], 0];
        step(graph, Op::Slice { starts, steps: vec![1; 4] }, vec![Some(value)], &y.shape);
    }
    nodes[0].clamp = node.clamp;
    nodes.last_mut()?.outputs = node.outputs;
    Some(nodes)
}

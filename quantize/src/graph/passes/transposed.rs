//! A transposed convolution of floats, as convolutions side by side: coded weights have an op for those.
//!
//! With stride s, output pixel s m + r meets only the taps k with k = r + padding mod s: for each of the s * s remainders a
//! convolution with a part of the taps, in reverse order, whose outputs lie s pixels apart. (Shi et al., "Is the
//! deconvolution layer the same as a convolutional layer?", arXiv 1609.07009.) Over an image of one pixel every output pixel
//! has weights of its own: a fully connected layer.

use super::{float_constant, float_input, repeat, value_like};
use crate::graph::{Graph, Node, Op, ValueId, Window};

/// The pass.
pub fn run(graph: &mut Graph) -> bool {
    repeat(graph, |graph| (0..graph.nodes.len()).any(|index| rewrite(graph, index).is_some()))
}

/// The taps of one remainder along one dimension: of the convolution's tap a, the transposed one's (none: a weight of 0); and
/// the convolution's padding before.
struct Taps {
    taps: Vec<Option<usize>>,
    before: usize,
}

fn taps(kernel: usize, stride: usize, padding: usize, remainder: usize) -> Taps {
    let reach = remainder + padding;
    let (first, shift) = (reach % stride, reach / stride);
    // Input pixel m + shift - j meets tap first + stride * j; the convolution counts the other way, and begins at m - before.
    let count = kernel.saturating_sub(first).div_ceil(stride).max(shift + 1);
    let tap = |a: usize| Some(first + stride * (count - 1 - a)).filter(|k| *k < kernel);
    Taps { taps: (0..count).map(tap).collect(), before: count - 1 - shift }
}

fn rewrite(graph: &mut Graph, index: usize) -> Option<()> {
    let node = graph.nodes[index].clone();
    let Op::ConvTranspose2d { window: Window { stride, dilation: [1, 1], before, .. } } = node.op else {
        return None;
    };
    let (x, w, y) = (graph.input(&node, 0)?, graph.input(&node, 1)?, graph.output(&node, 0)?);
    let (&[n, h, width, depth], &[out, kh, kw, cin]) = (&x.shape[..], &w.shape[..]) else { return None };
    let &[_, oh, ow, _] = &y.shape[..] else { return None };
    let weights = float_input(graph, &node, 1)?.to_vec();
    let bias = match node.inputs.get(2).copied().flatten() {
        Some(_) => Some(float_input(graph, &node, 2)?.to_vec()),
        None => None,
    };
    if cin != depth || super::is_float(x) != super::is_float(y) || !super::is_float(x) {
        return None;
    }
    let (input, output) = (node.inputs[0]?, *node.outputs.first()?);
    let mut made = Maker { graph, like: node.clone(), made: vec![] };
    let at = |o: usize, ky: usize, kx: usize| &weights[((o * kh + ky) * kw + kx) * cin..][..cin];
    if (h, width) == (1, 1) {
        let rows = (0..oh * ow * out).flat_map(|row| {
            let (o, x, y) = (row % out, row / out % ow, row / out / ow);
            let inside = y + before[0] < kh && x + before[1] < kw;
            if inside { at(o, y + before[0], x + before[1]).to_vec() } else { vec![0.0; cin] }
        });
        let rows = rows.collect();
        let biases = bias.map(|b| b.iter().copied().cycle().take(oh * ow * out).collect());
        let flat =
            made.node(Op::FullyConnected, &[input], &[n, oh * ow * out], Some((&[oh * ow * out, cin], rows, biases)));
        made.last(Op::Reshape, &[flat], output);
    } else {
        if oh % stride[0] != 0 || ow % stride[1] != 0 {
            return None;
        }
        let (m, k) = (oh / stride[0], ow / stride[1]);
        let mut rows = vec![];
        for ry in 0..stride[0] {
            let mut columns = vec![];
            for rx in 0..stride[1] {
                let (y, x) = (taps(kh, stride[0], before[0], ry), taps(kw, stride[1], before[1], rx));
                let after = |m: usize, t: &Taps, size: usize| (m + t.taps.len() - 1).checked_sub(size + t.before);
                let after = [after(m, &y, h)?, after(k, &x, width)?];
                let window = Window { stride: [1, 1], dilation: [1, 1], before: [y.before, x.before], after };
                let mut part = Vec::with_capacity(out * y.taps.len() * x.taps.len() * cin);
                for o in 0..out {
                    for (ky, kx) in y.taps.iter().flat_map(|ky| x.taps.iter().map(move |kx| (ky, kx))) {
                        match ky.zip(*kx) {
                            Some((ky, kx)) => part.extend(at(o, ky, kx)),
                            None => part.extend(std::iter::repeat_n(0.0, cin)),
                        }
                    }
                }
                let shape = [out, y.taps.len(), x.taps.len(), cin];
                let op = Op::Conv2d { window, groups: 1 };
                let conv = made.node(op, &[input], &[n, m, k, out], Some((&shape, part, bias.clone())));
                columns.push(made.node(Op::Reshape, &[conv], &[n, m, 1, k, 1, out], None));
            }
            rows.push(made.node(Op::Concat { axis: 4 }, &columns, &[n, m, 1, k, stride[1], out], None));
        }
        let all = made.node(Op::Concat { axis: 2 }, &rows, &[n, m, stride[0], k, stride[1], out], None);
        made.last(Op::Reshape, &[all], output);
    }
    let Maker { made, .. } = made;
    graph.nodes.splice(index..=index, made);
    Some(())
}

/// Shape and numbers of weights, and biases.
type Layer<'l> = (&'l [usize], Vec<f32>, Option<Vec<f32>>);

/// Makes nodes in place of one.
struct Maker<'g> {
    graph: &'g mut Graph,
    like: Node,
    made: Vec<Node>,
}

impl Maker<'_> {
    fn node(&mut self, op: Op, inputs: &[ValueId], shape: &[usize], layer: Option<Layer<'_>>) -> ValueId {
        let like = self.like.outputs[0];
        let output = value_like(self.graph, like, shape);
        let mut inputs: Vec<_> = inputs.iter().copied().map(Some).collect();
        // A fused activation is the layer's; what follows only moves.
        let clamp = self.like.clamp.filter(|_| layer.is_some());
        if let Some((shape, weights, biases)) = layer {
            let name = format!("{} part {}", self.like.name, self.made.len());
            inputs.push(Some(float_constant(self.graph, name.clone(), shape, weights)));
            if let Some(biases) = biases {
                inputs.push(Some(float_constant(self.graph, format!("{name} (bias)"), &[biases.len()], biases)));
            }
        }
        let (name, kind) = (self.like.name.clone(), self.like.kind.clone());
        self.made.push(Node { name, kind, op, inputs, outputs: vec![output], clamp });
        output
    }

    /// The node whose output is the one that there was.
    fn last(&mut self, op: Op, inputs: &[ValueId], output: ValueId) {
        let inputs = inputs.iter().copied().map(Some).collect();
        let (name, kind) = (self.like.name.clone(), self.like.kind.clone());
        self.made.push(Node { name, kind, op, inputs, outputs: vec![output], clamp: None });
    }
}

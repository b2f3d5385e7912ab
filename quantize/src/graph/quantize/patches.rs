//! What a layer's weights meet: the inputs under each output, as rows of a matrix.

use crate::graph::{Data, Graph, Node, Op, Tensor, Window};

/// A layer with weights [out, .., in], seen as a product of rows of inputs with its weights.
#[derive(Clone, Debug)]
pub struct Geometry {
    /// Rows of weights.
    pub out: usize,
    /// Weights of a row: [kernel height, kernel width, in channels] or [in features].
    pub cols: usize,
    kernel: [usize; 2],
    window: Option<Window>,
    transposed: bool,
    output: Vec<usize>,
}

impl Geometry {
    /// The geometry of a node, if it is a layer without groups.
    pub fn of(graph: &Graph, node: &Node) -> Option<Self> {
        let w = graph.input(node, 1)?;
        let (out, output) = (*w.shape.first()?, graph.output(node, 0)?.shape.clone());
        let cols = w.count().checked_div(out)?;
        let (window, transposed) = match &node.op {
            Op::Conv2d { window, groups: 1 } => (Some(*window), false),
            Op::ConvTranspose2d { window } => (Some(*window), true),
            Op::FullyConnected => (None, false),
            _ => return None,
        };
        let kernel = if window.is_some() { [*w.shape.get(1)?, *w.shape.get(2)?] } else { [1, 1] };
        Some(Self { out, cols, kernel, window, transposed, output })
    }

    /// Rows of inputs in one run: pixels of the output.
    pub fn rows(&self) -> usize {
        self.output.iter().product::<usize>() / self.out.max(1)
    }

    /// Appends row `row` of the inputs in `x`.
    pub fn row(&self, x: &Tensor, row: usize, to: &mut Vec<f32>) {
        let Data::F32(values) = &x.data else { return };
        let Some(window) = &self.window else {
            to.extend(&values[row * self.cols..][..self.cols]);
            return;
        };
        let (&[_, h, w, channels], &[_, oh, ow, _]) = (&x.shape[..], &self.output[..]) else { return };
        let (image, y, z) = (row / (oh * ow), row / ow % oh, row % ow);
        for ky in 0..self.kernel[0] {
            for kx in 0..self.kernel[1] {
                match (self.tap(window, 0, y, ky, h), self.tap(window, 1, z, kx, w)) {
                    (Some(iy), Some(ix)) => to.extend(&values[((image * h + iy) * w + ix) * channels..][..channels]),
                    _ => to.extend(std::iter::repeat_n(0.0, channels)),
                }
            }
        }
    }

    /// The input that tap `tap` of output `at` meets, along dimension `d`.
    fn tap(&self, window: &Window, d: usize, at: usize, tap: usize, size: usize) -> Option<usize> {
        let offset = tap * window.dilation[d];
        let input = if self.transposed {
            let from = (at + window.before[d]).checked_sub(offset)?;
            (from.is_multiple_of(window.stride[d])).then(|| from / window.stride[d])?
        } else {
            (at * window.stride[d] + offset).checked_sub(window.before[d])?
        };
        (input < size).then_some(input)
    }
}

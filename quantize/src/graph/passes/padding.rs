//! Zeros around an image move into the window of the layer that reads it.

use super::{Links, repeat};
use crate::graph::{Graph, Op, PadMode, PoolKind, Window};

/// The pass.
pub fn run(graph: &mut Graph) -> bool {
    repeat(graph, fold)
}

fn fold(graph: &mut Graph) -> bool {
    let links = Links::of(graph);
    for index in 0..graph.nodes.len() {
        let node = &graph.nodes[index];
        let Some(maker) = links.only_maker(node, 0) else { continue };
        let pad = &graph.nodes[maker];
        let Op::Pad { before, mode: PadMode::Constant(number) } = &pad.op else { continue };
        let (Some(x), Some(padded)) = (graph.input(pad, 0), graph.output(pad, 0)) else { continue };
        let zero = *number == 0.0 && x.quant == padded.quant && before.len() == 4;
        let elsewhere = [0, 3].iter().all(|d| zero && before[*d] == 0 && x.shape[*d] == padded.shape[*d]);
        if !elsewhere || pad.inputs.len() != 1 {
            continue;
        }
        let after = [1, 2].map(|d| padded.shape[d] - x.shape[d] - before[d]);
        let before = [before[1], before[2]];
        let wider = |window: &Window, kernel: [usize; 2]| {
            let mut window = *window;
            for d in 0..2 {
                window.before[d] += before[d];
                window.after[d] += after[d];
            }
            // No window may lie outside the image altogether: the runtime's ops have none.
            let inside = |d: usize| window.before[d].max(window.after[d]) <= (kernel[d] - 1) * window.dilation[d];
            (inside(0) && inside(1)).then_some(window)
        };
        let kernel = |which| graph.input(node, which).and_then(|w| Some([*w.shape.get(1)?, *w.shape.get(2)?]));
        let op = match &node.op {
            Op::Conv2d { window, groups } => {
                kernel(1).and_then(|k| wider(window, k)).map(|window| Op::Conv2d { window, groups: *groups })
            }
            Op::Pool2d { kind: PoolKind::Average { count_padding }, kernel, window }
                if *count_padding || window.before == [0; 2] && window.after == [0; 2] =>
            {
                let kind = PoolKind::Average { count_padding: true };
                wider(window, *kernel).map(|window| Op::Pool2d { kind, kernel: *kernel, window })
            }
            _ => None,
        };
        let Some(op) = op else { continue };
        let from = pad.inputs[0];
        graph.nodes[index].op = op;
        graph.nodes[index].inputs[0] = from;
        graph.nodes.remove(maker);
        return true;
    }
    false
}

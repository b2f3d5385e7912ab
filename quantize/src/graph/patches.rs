//! Patches: a stretch of spatial nodes computed piece by piece, so that the large values inside it never lie in memory whole
//! (MCUNetV2, Lin et al. 2021).
//!
//! ```text
//! x ── conv ── add ── ... ── y      becomes, for each patch of y:
//!
//! slice of x, with the halo that the windows reach over ── conv ── add ── ... ── inserted into y
//! ```
//!
//! Every element is computed by the same op from the same elements, so nothing changes but how often some of them are
//! computed. A window that reaches over the image's border keeps its padding there; a patch's other borders have none.
//! What that cannot be said of is not cut.

use super::{Graph, Node, Op, PadMode, ValueId, Window};
use crate::quantize::PatchReport;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// What is computed in patches, and in how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patches {
    /// The image that patches are taken from; `None`: whatever lies before the spatial nodes.
    pub from: Option<ValueId>,
    /// The image that they make.
    pub to: ValueId,
    /// How many, down and across.
    pub count: [usize; 2],
}

impl Patches {
    /// By the names of the values.
    #[must_use]
    pub fn report(&self, graph: &Graph) -> PatchReport {
        let name = |id: ValueId| graph.values[id].name.clone();
        PatchReport { from: self.from.map(name), to: name(self.to), count: self.count }
    }
}

/// Nodes that can be computed in patches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// [`Patches::from`].
    pub from: Option<ValueId>,
    /// [`Patches::to`].
    pub to: ValueId,
    /// From the first of them to the last.
    pub nodes: Range<usize>,
}

/// Rows and columns of an image.
type Region = [Range<usize>; 2];

/// What a patch of a node takes of one of its operands.
enum Part {
    /// All of it.
    Whole,
    /// These rows and columns.
    Region(Region),
}

/// Height and width of an image `[1, height, width, channels]`.
fn size(graph: &Graph, value: ValueId) -> Option<[usize; 2]> {
    match graph.values[value].shape[..] {
        [1, height, width, _] => Some([height, width]),
        _ => None,
    }
}

/// Output pixels `out` of a window: the input pixels under them, and the padding before and after that remains.
fn under(window: &Window, kernel: [usize; 2], input: [usize; 2], out: &Region) -> Option<(Region, Window)> {
    let mut region = [0..0, 0..0];
    let mut rest = *window;
    for d in 0..2 {
        let (stride, before) = (window.stride[d], window.before[d]);
        // Both counted from the first pixel of the padding.
        let (first, end) =
            (out[d].start * stride, (out[d].end - 1) * stride + (kernel[d] - 1) * window.dilation[d] + 1);
        rest.before[d] = before.saturating_sub(first);
        rest.after[d] = end.saturating_sub(before + input[d]);
        region[d] = first.saturating_sub(before)..end.saturating_sub(before).min(input[d]);
        if region[d].is_empty() {
            return None; // only padding
        }
    }
    Some((region, rest))
}

/// The op that computes rows and columns `out` of a node's result, and what it takes of each operand. `None` for nodes that
/// are not spatial.
fn part(graph: &Graph, node: &Node, out: &Region) -> Option<(Op, Vec<Part>)> {
    let &[result] = &node.outputs[..] else { return None };
    let x = node.inputs.first().copied().flatten()?;
    let (from, to) = (size(graph, x), size(graph, result)?);
    let with_constants = |region: Region| {
        let constant = |id: &Option<ValueId>| id.is_none_or(|id| graph.values[id].data.is_some());
        let parts = || std::iter::once(Part::Region(region)).chain(node.inputs.iter().skip(1).map(|_| Part::Whole));
        node.inputs.iter().skip(1).all(constant).then(|| parts().collect::<Vec<_>>())
    };
    match &node.op {
        Op::Conv2d { window, groups } => {
            let &[_, height, width, _] = &graph.input(node, 1)?.shape[..] else { return None };
            let (region, window) = under(window, [height, width], from?, out)?;
            Some((Op::Conv2d { window, groups: *groups }, with_constants(region)?))
        }
        Op::Pool2d { kind, kernel, window } => {
            let (region, window) = under(window, *kernel, from?, out)?;
            Some((Op::Pool2d { kind: *kind, kernel: *kernel, window }, with_constants(region)?))
        }
        Op::Pad { before, mode: mode @ PadMode::Constant(_) } => {
            let &[0, above, left, 0] = &before[..] else { return None };
            let from = from?;
            let after = |d: usize, before: usize| to[d].checked_sub(before + from[d]);
            let after = [after(0, above)?, after(1, left)?];
            let window = Window { stride: [1; 2], dilation: [1; 2], before: [above, left], after };
            let channels = |id: ValueId| graph.values[id].shape[3];
            let (region, window) = under(&window, [1; 2], from, out).filter(|_| channels(x) == channels(result))?;
            let before = vec![0, window.before[0], window.before[1], 0];
            Some((Op::Pad { before, mode: *mode }, with_constants(region)?))
        }
        Op::Unary(_) | Op::Requantize | Op::Cast | Op::Binary(_) | Op::Concat { axis: 3 } => {
            let operand = |id: &Option<ValueId>| match size(graph, (*id)?) {
                Some(size) if size == to && graph.values[(*id)?].data.is_none() => Some(Part::Region(out.clone())),
                Some(size) if size != [1; 2] => None,
                // One for all pixels, or one a channel.
                _ if matches!(node.op, Op::Binary(_))
                    && !graph.values[(*id)?].shape.iter().rev().skip(1).any(|d| *d != 1) =>
                {
                    Some(Part::Whole)
                }
                _ => None,
            };
            Some((node.op.clone(), node.inputs.iter().map(operand).collect::<Option<_>>()?))
        }
        _ => None,
    }
}

/// All rows and columns of an image.
fn all(size: [usize; 2]) -> Region {
    size.map(|n| 0..n)
}

/// Whether a node can be computed in patches at all.
fn spatial(graph: &Graph, node: &Node) -> bool {
    let out = node.outputs.first().and_then(|o| size(graph, *o));
    out.is_some_and(|size| size.iter().all(|n| *n > 0) && part(graph, node, &all(size)).is_some())
}

/// The nodes between `from` and `to`, in their order; `None` unless they are all spatial, and nothing inside is read
/// elsewhere.
fn between(graph: &Graph, from: Option<ValueId>, to: ValueId) -> Option<Vec<usize>> {
    let mut wanted = BTreeSet::from([to]);
    let mut nodes = Vec::new();
    for (at, node) in graph.nodes.iter().enumerate().rev() {
        let &[out] = &node.outputs[..] else { continue };
        if wanted.contains(&out) && Some(out) != from && spatial(graph, node) {
            nodes.push(at);
            wanted.extend(node.inputs.iter().flatten());
        }
    }
    let met = from.is_none_or(|from| wanted.contains(&from));
    nodes.reverse();
    let inside: Vec<ValueId> = nodes.iter().map(|at| graph.nodes[*at].outputs[0]).filter(|v| *v != to).collect();
    let mut uses = graph.uses();
    nodes.iter().flat_map(|at| graph.nodes[*at].inputs.iter().flatten()).for_each(|id| uses[*id] -= 1);
    (met && !nodes.is_empty() && inside.iter().all(|id| uses[*id] == 0)).then_some(nodes)
}

/// All stretches of a graph.
#[must_use]
pub fn stretches(graph: &Graph) -> Vec<Stretch> {
    let images: Vec<ValueId> = graph.nodes.iter().filter(|n| spatial(graph, n)).map(|n| n.outputs[0]).collect();
    let mut found = Vec::new();
    for (at, to) in images.iter().copied().enumerate() {
        for from in std::iter::once(None).chain(images[..at].iter().copied().map(Some)) {
            let nodes = between(graph, from, to);
            if let Some((first, last)) = nodes.as_ref().and_then(|nodes| nodes.first().zip(nodes.last())) {
                found.push(Stretch { from, to, nodes: *first..last + 1 });
            }
        }
    }
    found
}

/// The graph with a stretch of it in patches; `None` where that cannot be.
#[must_use]
pub fn apply(graph: &Graph, patches: &Patches) -> Option<Graph> {
    let nodes = between(graph, patches.from, patches.to)?;
    let (full, count) = (size(graph, patches.to)?, patches.count);
    if count == [1; 2] || (0..2).any(|d| count[d] == 0 || count[d] > full[d]) {
        return None;
    }
    let mut patched = Graph { nodes: Vec::new(), ..graph.clone() };
    let last = *nodes.last()?;
    patched.nodes.extend((0..last).filter(|at| !nodes.contains(at)).map(|at| graph.nodes[at].clone()));
    let share = |d: usize, i: usize| full[d] * i / count[d]..full[d] * (i + 1) / count[d];
    let mut whole = None;
    for i in 0..count[0] * count[1] {
        let region = [share(0, i / count[1]), share(1, i % count[1])];
        let piece = patch(&mut patched, graph, &nodes, patches.to, &region, &format!("patch {i}"))?;
        let into = if i + 1 == count[0] * count[1] { patches.to } else { like(&mut patched, patches.to, &all(full)) };
        let op = Op::Insert { starts: vec![0, region[0].start, region[1].start, 0] };
        let (kind, name) = ("patch".to_owned(), graph.values[patches.to].name.clone());
        patched.nodes.push(Node { name, kind, op, inputs: vec![whole, Some(piece)], outputs: vec![into], clamp: None });
        whole = Some(into);
    }
    patched.nodes.extend(graph.nodes[last + 1..].iter().cloned());
    Some(patched)
}

/// A new value like `of`, of these rows and columns.
fn like(graph: &mut Graph, of: ValueId, region: &Region) -> ValueId {
    let mut value = graph.values[of].clone();
    value.shape[1..3].clone_from_slice(&[region[0].len(), region[1].len()]);
    graph.values.push(value);
    graph.values.len() - 1
}

/// Adds to `patched` the nodes that compute rows and columns `region` of `to`. Returns their value.
fn patch(
    patched: &mut Graph,
    graph: &Graph,
    nodes: &[usize],
    to: ValueId,
    region: &Region,
    name: &str,
) -> Option<ValueId> {
    // Backward: what is needed of each value.
    let mut needed: BTreeMap<ValueId, Region> = BTreeMap::from([(to, region.clone())]);
    let mut steps = Vec::new();
    for node in nodes.iter().rev().map(|at| &graph.nodes[*at]) {
        let (op, parts) = part(graph, node, needed.get(&node.outputs[0])?)?;
        for (id, part) in node.inputs.iter().zip(&parts) {
            if let (Some(id), Part::Region(region)) = (id, part) {
                let known = needed.entry(*id).or_insert_with(|| region.clone());
                *known = std::array::from_fn(|d| known[d].start.min(region[d].start)..known[d].end.max(region[d].end));
            }
        }
        steps.push((node, op, parts));
    }
    // Forward. What no step makes is there already, all of it.
    let mut made: BTreeMap<ValueId, (ValueId, Region)> = BTreeMap::new();
    for (node, op, parts) in steps.into_iter().rev() {
        let mut inputs = Vec::new();
        for (id, part) in node.inputs.iter().zip(parts) {
            inputs.push(match (*id, part) {
                (Some(id), Part::Region(region)) => {
                    let (from, has) = made.get(&id).cloned().unwrap_or((id, all(size(graph, id)?)));
                    Some(slice(patched, from, &has, &region, name))
                }
                (id, _) => id,
            });
        }
        let out = node.outputs[0];
        let region = needed.get(&out)?.clone();
        let value = like(patched, out, &region);
        patched.nodes.push(Node { op, inputs, outputs: vec![value], ..node.clone() });
        made.insert(out, (value, region));
    }
    made.get(&to).map(|(value, _)| *value)
}

/// Rows and columns `region` of a value that has those of `has`.
fn slice(graph: &mut Graph, from: ValueId, has: &Region, region: &Region, name: &str) -> ValueId {
    if has == region {
        return from;
    }
    let to = like(graph, from, region);
    let starts = vec![0, region[0].start - has[0].start, region[1].start - has[1].start, 0];
    graph.node("slice", name, Op::Slice { starts, steps: vec![1; 4] }, &[from], &[to]);
    to
}

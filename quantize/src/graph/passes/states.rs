//! A state that several layers pack into one array, such as all hidden and cell states of a network's LSTMs, becomes one
//! state a layer, so that each can be held in integers of its own.
//!
//! What moves elements is evaluated on the elements' places: those of what is written fall into parts, one for each value that
//! a node computes. Where every reader takes one whole part, in its order, the parts become states of their own.

use super::{Links, replace, value_like};
use crate::graph::{Data, Graph, Node, Op, State, Tensor, ValueId, eval};
use std::collections::HashMap;

/// The pass.
pub fn run(graph: &mut Graph) -> bool {
    // From the last on: what one falls into comes where it was.
    let split = (0..graph.states.len()).rev().filter(|index| split(graph, *index).is_some());
    split.count() > 0
}

/// Whether a node only moves elements of its first input (of all inputs, if it joins them).
fn moves(graph: &Graph, node: &Node) -> bool {
    let constant = |which: usize| graph.input(node, which).is_some_and(|v| v.data.is_some());
    node.clamp.is_none()
        && match node.op {
            Op::Reshape | Op::Transpose { .. } | Op::Slice { .. } | Op::Concat { .. } => true,
            Op::Gather { .. } => constant(1),
            _ => false,
        }
}

/// What a node that moves elements makes of the places of its inputs' elements.
fn moved(graph: &Graph, node: &Node, inputs: &[Tensor]) -> Option<Tensor> {
    let mut operands: Vec<Option<&Tensor>> = inputs.iter().map(Some).collect();
    let indices = match node.op {
        Op::Gather { .. } => eval::constant(graph.input(node, 1)?),
        _ => None,
    };
    operands.extend(indices.iter().map(Some));
    let output = graph.output(node, 0)?;
    eval::node(node, &operands, &[output]).ok()?.pop()
}

/// The inputs of a node that it moves the elements of.
fn taken(node: &Node) -> Vec<ValueId> {
    let all = node.inputs.iter().copied().flatten();
    if matches!(node.op, Op::Concat { .. }) { all.collect() } else { all.take(1).collect() }
}

/// Each element of a value as its place in the arrays that it comes from, which are put one after another in `sources`.
fn origin(graph: &Graph, links: &Links, value: ValueId, sources: &mut Vec<ValueId>) -> Option<Tensor> {
    if let Some(node) = links.makers[value].map(|m| &graph.nodes[m]).filter(|n| moves(graph, n)) {
        let inputs = taken(node).into_iter().map(|v| origin(graph, links, v, sources)).collect::<Option<Vec<_>>>()?;
        return moved(graph, node, &inputs);
    }
    let known = sources.iter().position(|s| *s == value);
    let at = known.unwrap_or_else(|| {
        sources.push(value);
        sources.len() - 1
    });
    let before: usize = sources[..at].iter().map(|s| graph.values[*s].count()).sum();
    let value = &graph.values[value];
    Some(Tensor::ints(&value.shape, (before..before + value.count()).map(|p| p as i64).collect()))
}

fn places(tensor: &Tensor) -> &[i64] {
    match &tensor.data {
        Data::Int(places) => places,
        Data::F32(_) => &[],
    }
}

/// Splits a state, if it is one of several parts.
fn split(graph: &mut Graph, index: usize) -> Option<()> {
    let State { name, read, write, initial } = graph.states[index].clone();
    let Data::F32(initial) = initial else { return None };
    if !graph.values[read].is_float() || graph.outputs.contains(&read) || initial.len() != graph.values[read].count() {
        return None;
    }
    let links = Links::of(graph);
    let mut sources = Vec::new();
    let written = origin(graph, &links, write, &mut sources)?;
    if sources.len() < 2 || sources.iter().any(|s| links.makers[*s].is_none() || !graph.values[*s].is_float()) {
        return None;
    }
    // For each source, where in the state its elements lie, in its order.
    let mut from = vec![None; sources.iter().map(|s| graph.values[*s].count()).sum()];
    for (place, element) in places(&written).iter().enumerate() {
        if from[usize::try_from(*element).ok()?].replace(place).is_some() {
            return None;
        }
    }
    let from = from.into_iter().collect::<Option<Vec<usize>>>()?;
    let mut rest = &from[..];
    let parts: Vec<&[usize]> =
        sources.iter().map(|s| rest.split_off(..graph.values[*s].count()).unwrap_or(&[])).collect();

    // What readers take, after all that only moves elements.
    let whole = Tensor::ints(&graph.values[read].shape, (0..initial.len() as i64).collect());
    let mut tracked = HashMap::from([(read, whole)]);
    let mut leaves: Vec<ValueId> = Vec::new();
    for node in &graph.nodes {
        let inputs: Option<Vec<Tensor>> = taken(node).iter().map(|i| tracked.get(i).cloned()).collect();
        match inputs.filter(|i| !i.is_empty() && moves(graph, node)) {
            Some(inputs) => drop(tracked.insert(*node.outputs.first()?, moved(graph, node, &inputs)?)),
            None => leaves.extend(node.inputs.iter().flatten().filter(|i| tracked.contains_key(i))),
        }
    }
    leaves
        .extend(graph.outputs.iter().chain(graph.states.iter().map(|s| &s.write)).filter(|v| tracked.contains_key(v)));
    leaves.sort_unstable();
    leaves.dedup();
    let part = |leaf: &ValueId| {
        let taken = places(&tracked[leaf]);
        parts.iter().position(|p| p.len() == taken.len() && p.iter().zip(taken).all(|(a, b)| *a as i64 == *b))
    };
    let of: Vec<usize> = leaves.iter().map(part).collect::<Option<_>>()?;

    let mut states = Vec::new();
    let mut reshapes = Vec::new();
    for (number, (source, places)) in sources.iter().zip(&parts).enumerate() {
        let shape = graph.values[*source].shape.clone();
        let new = value_like(graph, read, &shape);
        graph.values[new].name = format!("{name}.{number}");
        let initial = Data::F32(places.iter().map(|p| initial[*p]).collect());
        states.push(State { name: format!("{name}.{number}"), read: new, write: *source, initial });
        for leaf in leaves.iter().zip(&of).filter(|(_, p)| **p == number).map(|(leaf, _)| *leaf) {
            // A value of its own: the leaf's maker goes away when nobody reads it any more.
            let shape = graph.values[leaf].shape.clone();
            let copy = value_like(graph, leaf, &shape);
            reshapes.push((leaf, copy, new));
        }
    }
    for (leaf, copy, new) in reshapes {
        let name = graph.values[new].name.clone();
        graph.node_at(0, "Reshape", &name, Op::Reshape, &[new], &[copy]);
        replace(graph, leaf, copy);
    }
    graph.states.splice(index..=index, states);
    Some(())
}

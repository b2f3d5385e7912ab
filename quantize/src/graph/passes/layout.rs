//! Images in channels-first files: transpositions sink towards the outputs until they meet their inverse.
//!
//! An importer of channels-first files puts a transposition before and behind every op that Mote has for channels-last images
//! only. A transposition sinks through everything that can take its elements in another order; two in a row are one;
//! one before a flattening goes into the columns of the layer behind it, and one behind a fully connected layer into its
//! rows. What is left is where the file's order is truly asked for: [`channels_last`] gives up that for inputs and outputs.

use super::{Links, inverse, is_elementwise, permute, permute_data, permute_quant, repeat, replace, value_like};
use crate::graph::{Data, Graph, Node, Op, Value, ValueId};

/// The pass.
pub fn run(graph: &mut Graph) -> bool {
    repeat(graph, |graph| merge(graph) || into_columns(graph) || into_rows(graph) || raise(graph) || sink(graph))
}

/// From channels-first to channels-last.
const TO_LAST: [usize; 4] = [0, 2, 3, 1];
/// And back.
const TO_FIRST: [usize; 4] = [0, 3, 1, 2];

/// Makes images that are inputs or outputs [n, height, width, channels] where the file has [n, channels, height, width] and
/// the graph transposes them; says which, for people. The passes then find nothing left to transpose.
pub fn channels_last(graph: &mut Graph) -> Vec<ValueId> {
    let mut changed = Vec::new();
    for at in 0..graph.inputs.len() {
        let old = graph.inputs[at];
        if graph.values[old].shape.len() == 4 && reaching(graph, &TO_LAST)[old] {
            let shape: Vec<_> = TO_LAST.iter().map(|d| graph.values[old].shape[*d]).collect();
            let new = value_like(graph, old, &shape);
            graph.inputs[at] = new;
            graph.nodes.insert(0, transpose(new, old, &TO_FIRST));
            changed.push(new);
        }
    }
    for at in 0..graph.outputs.len() {
        let links = Links::of(graph);
        let old = graph.outputs[at];
        let Some(maker) = links.makers[old].filter(|_| links.uses[old] == 1) else { continue };
        let node = &graph.nodes[maker];
        if let (Op::Transpose { perm }, Some(from)) = (&node.op, node.inputs[0])
            && perm[..] == TO_FIRST
            && links.makers[from].is_some()
            && !graph.outputs.contains(&from)
        {
            graph.values[from].name = graph.values[old].name.clone();
            graph.outputs[at] = from;
            changed.push(from);
        }
    }
    graph.prune();
    changed
}

/// The values whose elements, or functions of single ones, come to a transposition by `wanted`.
fn reaching(graph: &Graph, wanted: &[usize]) -> Vec<bool> {
    let mut reaching = vec![false; graph.values.len()];
    for node in graph.nodes.iter().rev() {
        let here = match &node.op {
            Op::Transpose { perm } => perm == wanted,
            op => carries(op) && node.outputs.iter().any(|o| reaching[*o]),
        };
        if here {
            node.inputs.iter().flatten().for_each(|i| reaching[*i] = true);
        }
    }
    reaching
}

/// Ops that [`sink`] lets a transposition through.
fn carries(op: &Op) -> bool {
    matches!(
        op,
        Op::Unary(_)
            | Op::Binary(_)
            | Op::Requantize
            | Op::Cast
            | Op::Softmax { .. }
            | Op::Concat { .. }
            | Op::Pad { .. }
            | Op::Slice { .. }
    )
}

fn transpose(from: ValueId, to: ValueId, perm: &[usize]) -> Node {
    let op = Op::Transpose { perm: perm.to_vec() };
    Node {
        name: "layout".into(),
        kind: "Transpose".into(),
        op,
        inputs: vec![Some(from)],
        outputs: vec![to],
        clamp: None,
    }
}

/// The transposition that makes input `which`, what it reads, and how.
fn transposed<'g>(graph: &'g Graph, links: &Links, node: &Node, which: usize) -> Option<(ValueId, &'g [usize])> {
    match &graph.nodes[links.maker(node, which)?] {
        Node { op: Op::Transpose { perm }, inputs, .. } => Some((inputs[0]?, perm)),
        _ => None,
    }
}

/// A transposition of a transposition is one, or none.
fn merge(graph: &mut Graph) -> bool {
    let links = Links::of(graph);
    for index in 0..graph.nodes.len() {
        let node = &graph.nodes[index];
        let (Op::Transpose { perm }, Some((from, first))) = (&node.op, transposed(graph, &links, node, 0)) else {
            continue;
        };
        let perm: Vec<usize> = perm.iter().map(|d| first[*d]).collect();
        let (output, none) = (node.outputs[0], perm.is_sorted());
        if none && graph.values[output].quant == graph.values[from].quant && replace(graph, output, from) {
            graph.nodes.remove(index);
        } else {
            graph.nodes[index].op = Op::Transpose { perm };
            graph.nodes[index].inputs = vec![Some(from)];
        }
        return true;
    }
    false
}

/// The axis `axis` of the transposed array in the array before.
fn moved(perm: &[usize], axes: &[usize]) -> Vec<usize> {
    axes.iter().map(|a| perm[*a]).collect()
}

/// Numbers a dimension, put where the dimensions were before the transposition.
fn unmoved<T: Copy>(perm: &[usize], numbers: &[T]) -> Vec<T> {
    inverse(perm).iter().map(|d| numbers[*d]).collect()
}

/// f(transpose(x)) is transpose(f(x)), with what f knows of dimensions put in x's order.
fn sink(graph: &mut Graph) -> bool {
    let links = Links::of(graph);
    for index in 0..graph.nodes.len() {
        let node = &graph.nodes[index];
        let [output] = node.outputs[..] else { continue };
        let Some(first) = (0..node.inputs.len()).find_map(|i| transposed(graph, &links, node, i)) else { continue };
        let (shape, rank) = (graph.values[output].shape.clone(), first.1.len());
        let perm = first.1.to_vec();
        // Of the result; other than the input's where dimensions go away.
        let mut last = perm.clone();
        let op = match &node.op {
            Op::Unary(_) | Op::Requantize | Op::Cast | Op::Binary(_) if shape.len() == rank => node.op.clone(),
            Op::Softmax { axis, beta, log } => Op::Softmax { axis: perm[*axis], beta: *beta, log: *log },
            Op::Concat { axis } => Op::Concat { axis: perm[*axis] },
            Op::Pad { before, mode } => Op::Pad { before: unmoved(&perm, before), mode: *mode },
            Op::Slice { starts, steps } if shape.len() == rank => {
                Op::Slice { starts: unmoved(&perm, starts), steps: unmoved(&perm, steps) }
            }
            Op::Reduce { kind, axes } => {
                if shape.len() < rank {
                    // The dimensions that are left, numbered as they are in what is left of x.
                    let left: Vec<_> = (0..rank).filter(|d| !axes.contains(d)).map(|d| perm[d]).collect();
                    last = left.iter().map(|d| left.iter().filter(|e| *e < d).count()).collect();
                }
                Op::Reduce { kind: *kind, axes: moved(&perm, axes) }
            }
            Op::Reshape => {
                if !sink_reshape(graph, &links, index) {
                    continue;
                }
                return true;
            }
            _ => continue,
        };
        let Some((inputs, constants)) = inputs(graph, &links, node, &perm) else { continue };
        let inner_shape = unmoved(&last, &shape);
        let inner = value_like(graph, output, &inner_shape);
        if let Some(quant) = &graph.values[output].quant {
            graph.values[inner].quant = permute_quant(Some(quant), &inverse(&last));
        }
        let first = graph.values.len();
        graph.values.extend(constants);
        let node = &mut graph.nodes[index];
        node.inputs = inputs.into_iter().map(|i| i.map(|i| i.unwrap_or_else(|c| first + c))).collect();
        node.op = op;
        node.outputs = vec![inner];
        graph.nodes.insert(index + 1, transpose(inner, output, &last));
        return true;
    }
    false
}

/// Operands in the order before `perm`: what the same transposition is made of, and constants transposed back, which are
/// counted as errors. `None` if there are others.
type Operands = (Vec<Option<Result<ValueId, usize>>>, Vec<Value>);

fn inputs(graph: &Graph, links: &Links, node: &Node, perm: &[usize]) -> Option<Operands> {
    let mut constants = Vec::new();
    let mut operands = Vec::new();
    for (which, input) in node.inputs.iter().enumerate() {
        let Some(input) = *input else {
            operands.push(None);
            continue;
        };
        let value = &graph.values[input];
        if let Some((from, other)) = transposed(graph, links, node, which) {
            if other != perm {
                return None;
            }
            operands.push(Some(Ok(from)));
        } else if value.count() == 1 && value.data.is_some() {
            operands.push(Some(Ok(input)));
        } else {
            let data = value.data.as_ref()?;
            let mut shape = vec![1; perm.len().checked_sub(value.shape.len())?];
            shape.extend(&value.shape);
            let mut quant = value.quant.clone();
            if let Some(quant) = quant.as_mut() {
                quant.axis += shape.len() - value.shape.len();
            }
            let back = inverse(perm);
            let data = permute_data(&shape, &back, data);
            let quant = permute_quant(quant.as_ref(), &back);
            let shape = back.iter().map(|d| shape[*d]).collect();
            constants.push(Value { name: value.name.clone(), shape, dtype: value.dtype, quant, data: Some(data) });
            operands.push(Some(Err(constants.len() - 1)));
        }
    }
    Some((operands, constants))
}

/// Through a reshape that only adds or takes dimensions of one element: those that remain keep x's order before the
/// transposition, and the transposition puts them in the result's.
fn sink_reshape(graph: &mut Graph, links: &Links, index: usize) -> bool {
    let node = &graph.nodes[index];
    let Some((from, perm)) = transposed(graph, links, node, 0) else { return false };
    let (before, output) = (&graph.values[from], node.outputs[0]);
    let (Some(middle), to) = (graph.input(node, 0), &graph.values[output]) else { return false };
    let long = |shape: &[usize]| shape.iter().copied().filter(|d| *d != 1).collect::<Vec<_>>();
    let per_axis = to.quant.as_ref().is_some_and(|q| q.single().is_none());
    if long(&middle.shape) != long(&to.shape) || per_axis || middle.quant != to.quant || before.quant != to.quant {
        return false;
    }
    // Rank among the long dimensions of x, for each long dimension of the result in turn.
    let order: Vec<_> = perm.iter().filter(|d| before.shape[**d] != 1).collect();
    let rank = |d: &usize| order.iter().filter(|e| ***e < *d).count();
    let ranks: Vec<_> = order.iter().map(|d| rank(d)).collect();
    // x's long dimensions in x's order take the places of the long ones of the result; the short ones stay.
    let places: Vec<_> = (0..to.shape.len()).filter(|d| to.shape[*d] != 1).collect();
    let mut shape = to.shape.clone();
    let mut last: Vec<usize> = (0..to.shape.len()).collect();
    for (place, rank) in places.iter().zip(&ranks) {
        shape[places[*rank]] = to.shape[*place];
        last[*place] = places[*rank];
    }
    let inner = value_like(graph, output, &shape);
    graph.nodes[index].inputs = vec![Some(from)];
    graph.nodes[index].outputs = vec![inner];
    graph.nodes.insert(index + 1, transpose(inner, output, &last));
    true
}

/// Where features begin in an image that a layer sees as [rows, features]: behind the dimensions that the transposition
/// leaves where they are.
fn feature_dims(shape: &[usize], perm: &[usize], rows: usize) -> Option<usize> {
    let first = (0..=shape.len()).find(|d| shape[..*d].iter().product::<usize>() == rows)?;
    let still = (0..first).all(|d| perm[d] == d);
    let first = if rows == 1 { 0 } else { first };
    (rows == 1 || still).then_some(first)
}

/// A transposition before a flattening that fully connected layers read goes into their columns.
fn into_columns(graph: &mut Graph) -> bool {
    let links = Links::of(graph);
    for index in 0..graph.nodes.len() {
        let node = &graph.nodes[index];
        let Op::Reshape = node.op else { continue };
        let Some((from, perm)) = transposed(graph, &links, node, 0) else { continue };
        let (perm, flat) = (perm.to_vec(), node.outputs[0]);
        let Some(shape) = graph.input(node, 0).map(|v| v.shape.clone()) else { continue };
        if graph.values[from].quant != graph.values[flat].quant {
            continue;
        }
        let readers: Vec<usize> = links.readers(graph, flat).map(|(i, _)| i).collect();
        // New weights for every reader, or for none.
        let weights: Option<Vec<Value>> =
            readers.iter().map(|r| columns(graph, &graph.nodes[*r], flat, &shape, &perm)).collect();
        let Some(weights) = weights.filter(|w| !w.is_empty() && w.len() == links.uses[flat]) else { continue };
        for (reader, weights) in readers.into_iter().zip(weights) {
            graph.values.push(weights);
            let id = graph.values.len() - 1;
            graph.nodes[reader].inputs[1] = Some(id);
        }
        graph.nodes[index].inputs = vec![Some(from)];
        return true;
    }
    false
}

/// The weights of a layer that reads `flat`, with columns in the order before the transposition.
fn columns(graph: &Graph, node: &Node, flat: ValueId, shape: &[usize], perm: &[usize]) -> Option<Value> {
    let weights = graph.input(node, 1)?;
    if node.op != Op::FullyConnected || node.inputs[0] != Some(flat) || graph.coded.contains_key(&node.inputs[1]?) {
        return None;
    }
    let &[out, features] = &weights.shape[..] else { return None };
    let first = feature_dims(shape, perm, shape.iter().product::<usize>().checked_div(features)?)?;
    if shape[first..].iter().product::<usize>() != features || weights.quant.as_ref().is_some_and(|q| q.axis != 0) {
        return None;
    }
    let mut dims = vec![out];
    dims.extend(&shape[first..]);
    let inner: Vec<usize> = perm[first..].iter().map(|d| d - first).collect();
    let mut back = vec![0];
    back.extend(inverse(&inner).iter().map(|d| d + 1));
    let data = permute_data(&dims, &back, weights.data.as_ref()?);
    Some(Value { data: Some(data), ..weights.clone() })
}

/// A fully connected layer whose result becomes an image that is transposed gives its rows in the transposed order.
fn into_rows(graph: &mut Graph) -> bool {
    let (links, reaching) = (Links::of(graph), reaching(graph, &TO_LAST));
    for index in 0..graph.nodes.len() {
        let node = &graph.nodes[index];
        let Op::Transpose { perm } = &node.op else { continue };
        // One that meets its inverse further down, as `raise` makes them, goes there.
        if perm[..] == TO_FIRST && reaching[node.outputs[0]] {
            continue;
        }
        let perm = perm.clone();
        let Some(reshape) = links.only_maker(node, 0).filter(|m| graph.nodes[*m].op == Op::Reshape) else { continue };
        if permute_rows(graph, &links, reshape, &perm) {
            // The reshape makes what the transposition made.
            graph.nodes[reshape].outputs = graph.nodes[index].outputs.clone();
            graph.nodes.remove(index);
            return true;
        }
    }
    false
}

/// The same where other ops stand between the image and its transposition: the image is made as channels-last, and a
/// transposition back, which sinks to the one that is there.
fn raise(graph: &mut Graph) -> bool {
    let (links, reaching) = (Links::of(graph), reaching(graph, &TO_LAST));
    for index in 0..graph.nodes.len() {
        let node = &graph.nodes[index];
        let Some(image) = node.outputs.first().copied().filter(|o| graph.values[*o].shape.len() == 4) else { continue };
        if node.op == Op::Reshape && reaching[image] && permute_rows(graph, &links, index, &TO_LAST) {
            let shape: Vec<_> = TO_LAST.iter().map(|d| graph.values[image].shape[*d]).collect();
            let last = value_like(graph, image, &shape);
            graph.nodes[index].outputs = vec![last];
            graph.nodes.insert(index + 1, transpose(last, image, &TO_FIRST));
            return true;
        }
    }
    false
}

/// Gives the fully connected layer, whose result only the reshape `reshape` reads, its rows in the order of the transposed
/// image.
fn permute_rows(graph: &mut Graph, links: &Links, reshape: usize, perm: &[usize]) -> bool {
    // Functions of single elements may stand between.
    let mut at = reshape;
    let layer = loop {
        match links.only_maker(&graph.nodes[at], 0).map(|m| (m, &graph.nodes[m].op)) {
            Some((m, Op::FullyConnected)) => break m,
            Some((m, op)) if is_elementwise(op) => at = m,
            _ => return false,
        }
    };
    let image = graph.nodes[reshape].outputs[0];
    let Some(permuted) = rows(graph, &graph.nodes[layer], &graph.values[image].shape, perm) else { return false };
    let mut ids = Vec::new();
    for value in permuted {
        graph.values.push(value);
        ids.push(Some(graph.values.len() - 1));
    }
    let inputs = &mut graph.nodes[layer].inputs;
    inputs.truncate(1);
    inputs.extend(ids);
    true
}

/// Weights and bias of a layer with their rows in the transposed order.
fn rows(graph: &Graph, node: &Node, shape: &[usize], perm: &[usize]) -> Option<Vec<Value>> {
    let weights = graph.input(node, 1).filter(|_| !graph.coded.contains_key(&node.inputs[1].unwrap_or_default()))?;
    let &[out, cols] = &weights.shape[..] else { return None };
    let first = feature_dims(shape, perm, shape.iter().product::<usize>().checked_div(out)?)?;
    if shape[first..].iter().product::<usize>() != out {
        return None;
    }
    let dims = &shape[first..];
    let mut inner: Vec<usize> = perm[first..].iter().map(|d| d - first).collect();
    let vector = |numbers: &[f32]| permute(dims, &inner, numbers);
    let quant = |value: &Value| {
        let mut quant = value.quant.clone()?;
        if quant.single().is_none() {
            quant.scales = vector(&quant.scales);
            quant.zero_points = permute(dims, &inner, &quant.zero_points);
        }
        Some(quant)
    };
    let mut values = Vec::new();
    if let Some(bias) = graph.input(node, 2) {
        let data = permute_data(dims, &inner, bias.data.as_ref().filter(|_| bias.count() == out)?);
        values.push(Value { data: Some(data), quant: quant(bias), ..bias.clone() });
    }
    let w_quant = quant(weights);
    let mut whole = dims.to_vec();
    whole.push(cols);
    inner.push(inner.len());
    let data: Data = permute_data(&whole, &inner, weights.data.as_ref()?);
    values.insert(0, Value { data: Some(data), quant: w_quant, ..weights.clone() });
    Some(values)
}

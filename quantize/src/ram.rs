//! A net in less memory: which stretches of it are computed in patches ([`mod@patches`]), so that its arena holds what it must
//! and it multiplies as little more as possible.
//!
//! ```text
//! needs        bytes alive before and after each node: no arena is smaller
//! candidates   every stretch in every number of patches: the needs inside it, and its multiplications
//! choose       stretches side by side, none of needs above a limit, of the fewest multiplications in all: the shortest way
//!              from the first node to the last
//! plan         what is chosen is lowered and packed exactly; if the arena is larger than it may be, again with a lower limit
//! ```

use crate::graph::patches::{self, Patches, Stretch};
use crate::graph::{DType, Data, Graph, Node, Op, Value, ValueId};
use crate::lower::{self, Net};
use crate::macs;
use crate::plan::net::CHANGES;
use mote_runtime::fixed::tflite::Rounding;
use mote_runtime::image::Limits;
use rayon::prelude::*;
use std::ops::Range;

/// How large a net's arena may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ram {
    /// As large as it is without patches.
    Any,
    /// So many bytes.
    Bytes(u64),
    /// As small as can be.
    Least,
}

/// A net in its memory.
#[derive(Clone, Debug)]
pub struct Planned {
    /// The net.
    pub net: Net,
    /// Bytes of its arena.
    pub arena: u64,
    /// Multiply-accumulates of a run, as [`macs::macs`] counts them.
    pub macs: u64,
    /// What of it is computed in patches.
    pub patches: Vec<Patches>,
}

/// Why there is no plan.
#[derive(Clone, Debug)]
pub enum Unplanned {
    /// Nodes that are not supported.
    Missing(Vec<String>),
    /// No plan found is as small; the smallest, and the one without patches.
    TooLarge(Box<[Planned; 2]>),
}

/// How many patches down or across are tried.
const COUNTS: [usize; 10] = [1, 2, 3, 4, 5, 6, 8, 10, 12, 16];
/// And in all: the ops of each are in the image.
const MOST_PATCHES: usize = 64;
/// Choices that are lowered and packed from one end of the limits, at most.
const TRIES: usize = 24;

/// Plans a net for an arena of `ram`: of the plans found that fit, the one with the fewest multiply-accumulates.
///
/// # Errors
/// [`Unplanned`].
pub fn plan(graph: &Graph, rounding: Rounding, ram: Ram) -> Result<Planned, Unplanned> {
    let graph = &lower::integer_ends(graph);
    let plain = planned(graph, vec![], rounding)?;
    let room = match ram {
        Ram::Any => return Ok(plain),
        Ram::Bytes(room) if plain.arena <= room => return Ok(plain),
        Ram::Bytes(room) => room,
        Ram::Least => 0,
    };
    let search = Search::new(graph, room);
    let mut smallest = plain.clone();
    // Down from the room, where multiplications are fewest.
    let mut limit = room;
    for _ in 0..TRIES {
        let Some(choice) = search.choose(limit) else { break };
        let need = choice.need;
        let found = planned(graph, choice.patches, rounding)?;
        if found.arena <= room {
            return Ok(found);
        }
        limit = need.saturating_sub(1 + (found.arena - room) / 2);
        smallest = smaller(smallest, found);
    }
    // Up from the least that any choice needs, where arenas are smallest.
    let mut tried = vec![];
    for limit in search.limits() {
        let choice = search.choose(limit).filter(|c| !tried.contains(&c.patches));
        let Some(choice) = choice.filter(|c| c.need < smallest.arena) else { continue };
        tried.push(choice.patches.clone());
        let found = planned(graph, choice.patches, rounding)?;
        if found.arena <= room {
            return Ok(found);
        }
        smallest = smaller(smallest, found);
        if tried.len() == TRIES {
            break;
        }
    }
    if ram == Ram::Least { Ok(smallest) } else { Err(Unplanned::TooLarge(Box::new([smallest, plain]))) }
}

fn smaller(a: Planned, b: Planned) -> Planned {
    if (b.arena, b.macs) < (a.arena, a.macs) { b } else { a }
}

/// The net with these stretches in patches, lowered and packed.
fn planned(graph: &Graph, mut chosen: Vec<Patches>, rounding: Rounding) -> Result<Planned, Unplanned> {
    let mut patched = graph.clone();
    chosen.retain(|patches| match patches::apply(&patched, patches) {
        Some(graph) => {
            patched = graph;
            true
        }
        None => false,
    });
    let net = lower::planned(&patched, rounding, CHANGES).map_err(Unplanned::Missing)?;
    Ok(Planned {
        arena: net.lowered.arena(Limits { batch: 1, context: 1, threads: 1 }),
        macs: macs::of_net(&net),
        patches: chosen,
        net,
    })
}

/// Multiply-accumulates that are added (fewer than none, where a stride leaves pixels out), and patches: of two ways with the
/// same number the one with fewer ops.
type Cost = (i64, usize);

/// A stretch in patches.
struct Candidate {
    /// The nodes that it takes the place of.
    nodes: Range<usize>,
    patches: Patches,
    /// Bytes alive in it, at most.
    need: u64,
    cost: Cost,
}

/// Stretches in patches, side by side.
struct Choice {
    patches: Vec<Patches>,
    /// Bytes alive, at most.
    need: u64,
}

/// What choices are made from.
struct Search {
    /// Of each node.
    needs: Vec<u64>,
    /// In the order of their ends.
    candidates: Vec<Candidate>,
}

impl Search {
    /// For an arena of `room`.
    fn new(graph: &Graph, room: u64) -> Self {
        let shapes = &shapes(graph);
        let (needs, total) = (needs(shapes), multiplied(shapes));
        // No plan helps where less is alive than inputs or outputs take. Packed, a little more may be needed than is alive.
        let ends = [needs.first(), needs.last()].map(|need| need.copied().unwrap_or(0));
        let all = |values: &[ValueId]| values.iter().map(|v| bytes(&shapes.values[*v])).sum::<u64>();
        let floor = room.max(all(&shapes.inputs).min(ends[0])).max(all(&shapes.outputs).min(ends[1]));
        let high = |nodes: &Range<usize>| needs[nodes.clone()].iter().any(|need| *need > floor - floor / 8);
        let counts = || COUNTS.iter().flat_map(|y| COUNTS.iter().map(move |x| [*y, *x]));
        let candidate = |Stretch { from, to, nodes }: &Stretch, count| {
            let patches = Patches { from: *from, to: *to, count };
            let patched = patches::apply(shapes, &patches)?;
            let inside = nodes.start..patched.nodes.len() - (shapes.nodes.len() - nodes.end);
            let need = self::needs(&patched)[inside].iter().copied().max().unwrap_or(0);
            let cost = (multiplied(&patched) - total, count[0] * count[1]);
            Some(Candidate { nodes: nodes.clone(), patches, need, cost })
        };
        let of = |stretch: &Stretch| {
            let few = counts().filter(|count| count[0] * count[1] <= MOST_PATCHES);
            few.filter_map(|count| candidate(stretch, count)).collect::<Vec<_>>()
        };
        let stretches: Vec<Stretch> = patches::stretches(shapes).into_iter().filter(|s| high(&s.nodes)).collect();
        let mut candidates: Vec<Candidate> = stretches.par_iter().flat_map_iter(of).collect();
        candidates.sort_by_key(|c| c.nodes.end);
        Self { needs, candidates }
    }

    /// The cheapest way over all nodes none of whose parts needs more than `limit`.
    fn choose(&self, limit: u64) -> Option<Choice> {
        // To each node: the cost of the way there, and the last candidate on it.
        let mut ways: Vec<Option<(Cost, Option<&Candidate>)>> = vec![None; self.needs.len() + 1];
        ways[0] = Some(((0, 0), None));
        let mut candidates = self.candidates.iter().peekable();
        for at in 0..self.needs.len() {
            let mut best = ways[at].filter(|_| self.needs[at] <= limit).map(|(cost, _)| (cost, None));
            while let Some(c) = candidates.next_if(|c| c.nodes.end == at + 1) {
                let Some((cost, _)) = ways[c.nodes.start].filter(|_| c.need <= limit) else { continue };
                let cost = (cost.0 + c.cost.0, cost.1 + c.cost.1);
                if best.is_none_or(|(known, _)| cost < known) {
                    best = Some((cost, Some(c)));
                }
            }
            ways[at + 1] = best;
        }
        let mut choice = Choice { patches: vec![], need: 0 };
        let mut at = self.needs.len();
        while at > 0 {
            let (_, by) = ways[at]?;
            choice.need = choice.need.max(by.map_or(self.needs[at - 1], |c| c.need));
            choice.patches.extend(by.map(|c| c.patches));
            at = by.map_or(at - 1, |c| c.nodes.start);
        }
        choice.patches.reverse();
        Some(choice)
    }

    /// All limits at which the choice may change, from the least at which there is one.
    fn limits(&self) -> Vec<u64> {
        let mut limits: Vec<u64> = self.needs.iter().copied().chain(self.candidates.iter().map(|c| c.need)).collect();
        limits.sort_unstable();
        limits.dedup();
        let least = limits.partition_point(|limit| self.choose(*limit).is_none());
        limits.split_off(least)
    }
}

/// A graph's shapes, without all that is large to copy and does not count here.
fn shapes(graph: &Graph) -> Graph {
    let mut shapes = graph.clone();
    for value in &mut shapes.values {
        value.name.clear();
        value.quant = None;
        value.data = value.data.take().map(|_| Data::Int(vec![]));
    }
    shapes.nodes.iter_mut().for_each(|node| (node.name, node.kind) = Default::default());
    shapes.coded.clear();
    shapes
}

/// Bytes of a value in the arena.
fn bytes(value: &Value) -> u64 {
    let each = match value.dtype {
        DType::I8 | DType::U8 | DType::I4 | DType::Bool => 1,
        DType::I16 => 2,
        _ => 4,
    };
    (each * value.count()) as u64
}

/// Bytes of the values that live before or after each node, whichever are more. A value that lies where another does counts
/// once with it; what the kernels need beside is not counted.
fn needs(graph: &Graph) -> Vec<u64> {
    let mut place: Vec<ValueId> = (0..graph.values.len()).collect();
    let mut lives: Vec<Option<Range<usize>>> = vec![None; graph.values.len()];
    graph.inputs.iter().for_each(|v| lives[*v] = Some(0..0));
    for (at, node) in graph.nodes.iter().enumerate() {
        let same = matches!(node.op, Op::Reshape | Op::Transpose { .. } | Op::Insert { .. });
        if let (true, Some(Some(x)), [out]) = (same, node.inputs.first(), &node.outputs[..]) {
            place[*out] = place[*x];
        }
        let values = node.inputs.iter().flatten().chain(&node.outputs);
        for value in values.filter(|v| graph.values[**v].data.is_none()) {
            lives[place[*value]].get_or_insert(at + 1..at + 1).end = at + 1;
        }
    }
    for value in &graph.outputs {
        lives[place[*value]].get_or_insert(0..0).end = graph.nodes.len() + 1;
    }
    // By how much the bytes alive grow before each node, and after the last.
    let mut growth = vec![0i64; graph.nodes.len() + 2];
    for (value, life) in graph.values.iter().zip(lives) {
        let Some(Range { start, end }) = life else { continue };
        growth[start] += bytes(value) as i64;
        growth[end] -= bytes(value) as i64;
    }
    let alive: Vec<u64> = growth
        .iter()
        .scan(0, |sum, growth| {
            *sum += growth;
            Some(*sum as u64)
        })
        .collect();
    (0..graph.nodes.len()).map(|at| alive[at].max(alive[at + 1])).collect()
}

/// Multiply-accumulates of all convolutions; those of other nodes are the same in patches.
fn multiplied(graph: &Graph) -> i64 {
    let of = |node: &Node| {
        let weights = matches!(node.op, Op::Conv2d { .. }).then(|| graph.input(node, 1)).flatten()?;
        let products: usize = weights.shape[1..].iter().product();
        Some((graph.output(node, 0)?.count() * products) as i64)
    };
    graph.nodes.iter().filter_map(of).sum()
}

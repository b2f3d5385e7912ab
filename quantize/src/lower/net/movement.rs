//! Ops that move elements and change none.

use super::{Context, Lowering};
use crate::graph::Node;

/// The same bytes under another shape: no op, the same slot.
pub(super) fn reshape(c: &mut Context<'_>, node: &Node) -> Lowering<()> {
    let from = c.input(node, 0)?;
    let (x, y) = (c.value(node, 0)?, c.made(node)?);
    if c.affine(x)? != c.affine(y)? || x.count() != y.count() {
        return Err("a change of shape that changes scale or size".into());
    }
    c.slots.insert(node.outputs[0], from);
    Ok(())
}

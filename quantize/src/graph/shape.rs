//! Shapes: what an op makes of its operands' dimensions, and whether a node's stated ones fit together.
//!
//! [`infer`] gives an importer the shapes of results; [`check`] shows that kernels may index by the stated shapes. Neither
//! panics or overflows, whatever the dimensions.

use super::{NormKind, Op, PadMode, Window};

/// The dimensions of an array.
pub type Shape = Vec<usize>;

type Checked<T> = Result<T, String>;

/// More elements than this are never held in one array.
pub const MAX_ELEMENTS: usize = 1 << 28;
/// Nor are there arrays of more dimensions.
pub const MAX_RANK: usize = 16;

/// Elements of an array, if they and its dimensions are not more than [`MAX_ELEMENTS`] and [`MAX_RANK`].
#[must_use]
pub fn count(shape: &[usize]) -> Option<usize> {
    if shape.len() > MAX_RANK {
        return None;
    }
    // A dimension of 0 does not excuse the others: strides are made of them.
    let all = shape.iter().try_fold(1usize, |n, d| n.checked_mul((*d).max(1)).filter(|n| *n <= MAX_ELEMENTS))?;
    Some(if shape.contains(&0) { 0 } else { all })
}

/// The shape that two are broadcast to, as NumPy's.
#[must_use]
pub fn broadcast(a: &[usize], b: &[usize]) -> Option<Shape> {
    let rank = a.len().max(b.len());
    let of = |s: &[usize], d: usize| (d + s.len()).checked_sub(rank).map_or(1, |d| s[d]);
    let both = |d| match (of(a, d), of(b, d)) {
        (1, n) => Some(n),
        (n, m) if m == 1 || n == m => Some(n),
        _ => None,
    };
    (0..rank).map(both).collect()
}

/// Places of a window along one dimension.
#[must_use]
pub fn places(input: usize, kernel: usize, stride: usize, dilation: usize, padding: usize) -> Option<usize> {
    let extent = kernel.checked_sub(1)?.checked_mul(dilation)?.checked_add(1)?;
    input.checked_add(padding)?.checked_sub(extent)?.checked_div(stride)?.checked_add(1)
}

fn window_shape(x: &[usize], kernel: [usize; 2], window: &Window, channels: usize) -> Checked<Shape> {
    let [n, h, w, _] = four(x)?;
    let place = |input: usize, d: usize| {
        let padding = window.before[d].saturating_add(window.after[d]);
        places(input, kernel[d], window.stride[d], window.dilation[d], padding)
            .ok_or_else(|| format!("a window of {kernel:?} (stride, dilation, padding: {window:?}) on {x:?}"))
    };
    Ok(vec![n, place(h, 0)?, place(w, 1)?, channels])
}

fn four(x: &[usize]) -> Checked<[usize; 4]> {
    x.try_into().map_err(|_| format!("an image of shape {x:?} (expected four dimensions)"))
}

fn need(ok: bool, what: impl FnOnce() -> String) -> Checked<()> {
    if ok { Ok(()) } else { Err(what()) }
}

fn axis_of(axis: usize, x: &[usize]) -> Checked<usize> {
    x.get(axis).copied().ok_or_else(|| format!("dimension {axis} of {x:?}"))
}

/// The shapes of a node's results by its operands', or none where the results' own shapes say what the op does
/// ([`Op::Slice`], [`Op::Reshape`] and others).
///
/// # Errors
/// What does not fit.
pub fn infer(op: &Op, inputs: &[Option<&[usize]>]) -> Result<Option<Vec<Shape>>, String> {
    let given = |i: usize| inputs.get(i).copied().flatten();
    let get = |i: usize| given(i).ok_or_else(|| format!("operand {i} is missing"));
    // Whether an operand that may be left out has this shape.
    let fits = |i: usize, shape: &[usize]| match given(i) {
        Some(found) if found != shape => Err(format!("operand {i} of shape {found:?} (expected {shape:?})")),
        _ => Ok(()),
    };
    Ok(Some(match op {
        Op::Conv2d { window, groups } => {
            let (x, w) = (get(0)?, get(1)?);
            let ([.., c], [o, kh, kw, i]) = (four(x)?, four(w)?);
            let whole = *groups > 0 && o % groups == 0 && i.checked_mul(*groups) == Some(c);
            need(whole, || format!("weights {w:?} in {groups} groups for {x:?}"))?;
            fits(2, &[o])?;
            vec![window_shape(x, [kh, kw], window, o)?]
        }
        Op::Pool2d { kernel, window, .. } => {
            let x = get(0)?;
            vec![window_shape(x, *kernel, window, four(x)?[3])?]
        }
        Op::MatMul { transposed } => {
            let (x, y) = (get(0)?, get(1)?);
            let ([a @ .., m, k], [b @ .., k2, n]) = (x, y) else {
                return Err(format!("the product of {x:?} and {y:?}"));
            };
            let (k2, n) = if *transposed { (n, k2) } else { (k2, n) };
            need(k == k2, || format!("the product of {x:?} and {y:?}, transposed: {transposed}"))?;
            let mut shape = broadcast(a, b).ok_or_else(|| format!("the product of {x:?} and {y:?}"))?;
            shape.extend([*m, *n]);
            vec![shape]
        }
        Op::Unary(_) | Op::Function(_) | Op::Cast | Op::Requantize => vec![get(0)?.to_vec()],
        Op::Binary(_) => {
            let (x, y) = (get(0)?, get(1)?);
            vec![broadcast(x, y).ok_or_else(|| format!("operands of shapes {x:?} and {y:?}"))?]
        }
        Op::Select => {
            let (c, x, y) = (get(0)?, get(1)?, get(2)?);
            let both = broadcast(x, y).and_then(|xy| broadcast(c, &xy));
            vec![both.ok_or_else(|| format!("operands of shapes {c:?}, {x:?} and {y:?}"))?]
        }
        Op::Softmax { axis, .. } => {
            axis_of(*axis, get(0)?)?;
            vec![get(0)?.to_vec()]
        }
        Op::Concat { axis } => {
            let mut shape = get(0)?.to_vec();
            axis_of(*axis, &shape)?;
            shape[*axis] = 0;
            for i in 0..inputs.len() {
                let part = get(i)?;
                let same = |(d, (a, b)): (usize, (&usize, &usize))| d == *axis || a == b;
                let fit = part.len() == shape.len() && part.iter().zip(&shape).enumerate().all(same);
                need(fit, || format!("part {i} of shape {part:?} (the first has {:?})", inputs[0].unwrap_or(&[])))?;
                shape[*axis] = shape[*axis].saturating_add(part[*axis]);
            }
            vec![shape]
        }
        Op::Transpose { perm } => {
            let x = get(0)?;
            let mut sorted = perm.clone();
            sorted.sort_unstable();
            need(sorted.iter().copied().eq(0..x.len()), || format!("order {perm:?} of {x:?}"))?;
            vec![perm.iter().map(|d| x[*d]).collect()]
        }
        Op::Gather { axis } => {
            let (x, indices) = (get(0)?, get(1)?);
            axis_of(*axis, x)?;
            vec![[&x[..*axis], indices, &x[axis + 1..]].concat()]
        }
        Op::Norm { kind, .. } => {
            let x = get(0)?;
            let gain = match *kind {
                NormKind::Layer { axis } | NormKind::Rms { axis } => {
                    axis_of(axis, x)?;
                    x[axis..].to_vec()
                }
                NormKind::Instance | NormKind::Group { .. } => {
                    need(x.len() > 1, || format!("a norm over the dimensions between the first and last of {x:?}"))?;
                    vec![x[x.len() - 1]]
                }
            };
            if let NormKind::Group { groups } = *kind {
                need(groups > 0 && gain[0] % groups == 0, || format!("{groups} groups of {} channels", gain[0]))?;
            }
            fits(1, &gain)?;
            fits(2, &gain)?;
            vec![x.to_vec()]
        }
        Op::Lstm { .. } | Op::Gru { .. } => {
            let lstm = matches!(op, Op::Lstm { .. });
            let gates = if lstm { 4 } else { 3 };
            let (x, r) = (get(0)?, get(2)?);
            let (&[steps, n, i], &[rows, h]) = (x, r) else {
                return Err(format!("a recurrent layer over {x:?} with state weights {r:?}"));
            };
            let expected = h.checked_mul(gates) == Some(rows);
            need(expected, || format!("state weights {r:?} (expected {gates} times as many rows as columns)"))?;
            fits(1, &[rows, i])?;
            get(1)?;
            fits(3, &[rows])?;
            if lstm {
                fits(4, &[n, h])?;
            } else {
                fits(4, &[rows])?;
            }
            fits(5, &[n, h])?;
            vec![vec![steps, n, h], vec![n, h], vec![n, h]]
        }
        Op::ConvTranspose2d { .. }
        | Op::FullyConnected
        | Op::Slice { .. }
        | Op::Insert { .. }
        | Op::Reshape
        | Op::Pad { .. }
        | Op::Expand
        | Op::Reduce { .. }
        | Op::Resize { .. }
        | Op::ArgMax { .. }
        | Op::TopK { .. }
        | Op::Signal(_)
        | Op::Unsupported(_) => return Ok(None),
    }))
}

/// Checks that a node's operands and results fit its op and one another, and that none is larger than [`MAX_ELEMENTS`].
///
/// # Errors
/// What does not fit.
pub fn check(op: &Op, inputs: &[Option<&[usize]>], outputs: &[&[usize]]) -> Result<(), String> {
    for shape in inputs.iter().flatten().chain(outputs) {
        need(count(shape).is_some(), || format!("an array of shape {shape:?} is too large"))?;
    }
    let out = |i: usize| outputs.get(i).copied().ok_or_else(|| "a node without results".to_owned());
    if let Some(shapes) = infer(op, inputs)? {
        out(0)?;
        for (stated, shape) in outputs.iter().zip(&shapes) {
            need(stated == shape, || format!("a result of shape {stated:?} (expected {shape:?})"))?;
        }
        return need(outputs.len() <= shapes.len(), || format!("{} results", outputs.len()));
    }
    let get = |i: usize| inputs.get(i).copied().flatten().ok_or_else(|| format!("operand {i} is missing"));
    let (x, y) = (get(0), out(0)?);
    let fit = match op {
        Op::ConvTranspose2d { window } => {
            let ([n, h, w, c], [o, kh, kw, i], [n2, h2, w2, o2]) = (four(x?)?, four(get(1)?)?, four(y)?);
            let bias = inputs.get(2).copied().flatten().is_none_or(|b| b == [o]);
            // Past the last input pixel's window there is nothing; a few rows there are output padding.
            let reach = |d: usize, h: usize, k: usize, h2: usize| {
                let all = h.checked_mul(window.stride[d])?.checked_add(k.checked_mul(window.dilation[d])?)?;
                Some(h2.checked_add(window.before[d])? <= all.checked_add(window.stride[d])?)
            };
            bias && c == i
                && n == n2
                && o == o2
                && reach(0, h, kh, h2) == Some(true)
                && reach(1, w, kw, w2) == Some(true)
        }
        Op::FullyConnected => {
            let (x, &[o, i]) = (x?, get(1)?) else {
                return Err(format!("weights of shape {:?} (expected two dimensions)", get(1)?));
            };
            let bias = inputs.get(2).copied().flatten().is_none_or(|b| b == [o]);
            let whole = i > 0 && count(x).is_some_and(|n| n % i == 0 && count(y) == (n / i).checked_mul(o));
            bias && whole && y.last() == Some(&o)
        }
        Op::Slice { starts, steps } => {
            let x = x?;
            let ranks = [starts.len(), steps.len(), y.len()] == [x.len(); 3];
            ranks
                && (0..x.len()).all(|d| {
                    let last = i64::try_from(y[d]).ok().and_then(|n| (n - 1).checked_mul(steps[d]));
                    let last = last.and_then(|l| l.checked_add(i64::try_from(starts[d]).ok()?));
                    y[d] == 0 || (starts[d] < x[d] && last.is_some_and(|l| l >= 0 && (l as u64) < x[d] as u64))
                })
        }
        Op::Insert { starts } => {
            let (whole, part) = (x.ok(), get(1)?);
            let inside = |d: usize| starts[d].checked_add(part[d]).is_some_and(|end| end <= y[d]);
            let ranks = [starts.len(), part.len()] == [y.len(); 2];
            whole.is_none_or(|x| x == y) && ranks && (0..y.len()).all(inside)
        }
        Op::Reshape => count(x?) == count(y),
        Op::Pad { before, mode } => {
            let x = x?;
            let inside = |d: usize| before[d].checked_add(x[d]).is_some_and(|n| n <= y[d]);
            // What is repeated must be there.
            let there = |d: usize| x[d] > 0 || y[d] == 0 || matches!(mode, PadMode::Constant(_));
            [before.len(), y.len()] == [x.len(); 2] && (0..x.len()).all(|d| inside(d) && there(d))
        }
        Op::Expand => {
            let x = x?;
            y.len() >= x.len() && y[y.len() - x.len()..].iter().zip(x).all(|(y, x)| *y == 0 || (*x > 0 && y % x == 0))
        }
        Op::Reduce { axes, .. } => {
            let x = x?;
            let kept = |d: &usize| !axes.contains(d);
            let without: Shape = (0..x.len()).filter(kept).map(|d| x[d]).collect();
            let with: Shape = (0..x.len()).map(|d| if kept(&d) { x[d] } else { 1 }).collect();
            axes.iter().all(|a| *a < x.len()) && (y == without || y == with)
        }
        Op::Resize { .. } => {
            let (x, y) = (four(x?)?, four(y)?);
            x[0] == y[0] && x[3] == y[3] && (x[1] > 0 || y[1] == 0) && (x[2] > 0 || y[2] == 0)
        }
        Op::ArgMax { axis, .. } => {
            let x = x?;
            let n = axis_of(*axis, x)?;
            let (before, after) = (&x[..*axis], &x[axis + 1..]);
            n > 0 && (y == [before, after].concat() || y == [before, &[1], after].concat())
        }
        Op::TopK { axis, .. } => {
            let x = x?;
            let n = axis_of(*axis, x)?;
            let same = |d: usize| if d == *axis { y[d] <= n } else { y[d] == x[d] };
            y.len() == x.len() && (0..x.len()).all(same) && outputs.iter().all(|o| *o == y)
        }
        // All others are inferred.
        _ => true,
    };
    need(fit, || {
        let shapes: Vec<_> = inputs.iter().flatten().collect();
        format!("operands {shapes:?} do not give results {outputs:?}")
    })
}

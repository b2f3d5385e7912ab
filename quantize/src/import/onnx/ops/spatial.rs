//! Operators over images [n, channels, (height,) width]: transposed to channels last, and back.

use super::super::builder::{Builder, Done, Step, axes, axis, malformed, unsupported};
use super::Table;
use super::reduce::along;
use crate::graph::shape::{self, Shape};
use crate::graph::{
    Binary, Coordinates, Interpolation, Nearest, NormKind, Op, PadMode, PoolKind, Reduction, Unary, ValueId, Window,
};

pub(super) const OPERATORS: Table = &[
    ("AveragePool", pool),
    ("BatchNormalization", batch_norm),
    ("Conv", conv),
    ("ConvTranspose", conv_transpose),
    ("GlobalAveragePool", global_pool),
    ("GlobalMaxPool", global_pool),
    ("GroupNormalization", group_norm),
    ("InstanceNormalization", instance_norm),
    ("LayerNormalization", layer_norm),
    ("LpPool", lp_pool),
    ("MaxPool", pool),
    ("MeanVarianceNormalization", mean_variance),
    ("RMSNormalization", rms_norm),
    ("Resize", resize),
    ("Upsample", resize),
];

/// A list of one number a spatial dimension as [vertical, horizontal].
fn pair(s: &Step, name: &str, rank: usize, absent: usize) -> Done<[usize; 2]> {
    match s.sizes(name, &vec![absent; rank - 2])?[..] {
        [x] if rank == 3 => Ok([absent, x]),
        [y, x] if rank == 4 => Ok([y, x]),
        ref all => malformed(format!("{name} of {all:?} for {} spatial dimensions", rank - 2)),
    }
}

/// The four sides' padding, [top, left] and [bottom, right].
fn pads(s: &Step, rank: usize) -> Done<[[usize; 2]; 2]> {
    match s.sizes("pads", &vec![0; 2 * (rank - 2)])?[..] {
        [left, right] if rank == 3 => Ok([[0, left], [0, right]]),
        [top, left, bottom, right] if rank == 4 => Ok([[top, left], [bottom, right]]),
        ref all => malformed(format!("pads of {all:?} for {} spatial dimensions", rank - 2)),
    }
}

/// Pixels that a kernel reaches over.
fn extent(kernel: usize, dilation: usize) -> usize {
    kernel.saturating_sub(1).saturating_mul(dilation).saturating_add(1)
}

/// Stride, dilation and padding by the attributes, for an image of this height and width.
pub(super) fn window(s: &Step, image: [usize; 2], kernel: [usize; 2], rank: usize) -> Done<Window> {
    let (stride, dilation) = (pair(s, "strides", rank, 1)?, pair(s, "dilations", rank, 1)?);
    if stride.contains(&0) || dilation.contains(&0) {
        return malformed("a stride or dilation of 0");
    }
    let [mut before, mut after] = pads(s, rank)?;
    let auto = s.text("auto_pad", "NOTSET");
    match &auto[..] {
        "NOTSET" | "" => (),
        "VALID" => (before, after) = ([0; 2], [0; 2]),
        "SAME_UPPER" | "SAME_LOWER" => {
            for d in 0..2 {
                // As many places as strides; what the last window lacks is spread over both sides.
                let places = image[d].div_ceil(stride[d]);
                let all =
                    places.saturating_sub(1).saturating_mul(stride[d]).saturating_add(extent(kernel[d], dilation[d]));
                let all = all.saturating_sub(image[d]);
                let (less, more) = (all / 2, all - all / 2);
                (before[d], after[d]) = if auto == "SAME_UPPER" { (less, more) } else { (more, less) };
            }
        }
        other => return malformed(format!("auto_pad = {other:?}")),
    }
    Ok(Window { stride, dilation, before, after })
}

fn sides(shape: &[usize]) -> [usize; 2] {
    // Of an image.
    [shape[1], shape[2]]
}

fn conv(b: &mut Builder, s: &Step) -> Done<Vec<ValueId>> {
    let rank = b.rank(s.x(0)?);
    if b.rank(s.x(1)?) != rank {
        return malformed(format!("weights of shape {:?} for {:?}", b.shape(s.x(1)?), b.shape(s.x(0)?)));
    }
    let (x, w) = (b.image(s.x(0)?)?, b.image(s.x(1)?)?);
    let op = convolution(b, s, x, w, rank)?;
    let inputs: Vec<ValueId> = [x, w].into_iter().chain(s.given(2)).collect();
    let y = b.op(op, &inputs)?;
    Ok(vec![b.back(y, rank)?])
}

/// The op of a convolution, by the attributes; x and w are channels last.
pub(super) fn convolution(b: &Builder, s: &Step, x: ValueId, w: ValueId, rank: usize) -> Done<Op> {
    let kernel = sides(&b.at(w).shape);
    if s.has("kernel_shape") && pair(s, "kernel_shape", rank, 1)? != kernel {
        return malformed(format!("kernel_shape {:?} for weights of {kernel:?}", s.ints("kernel_shape")));
    }
    let groups = usize::try_from(s.int("group", 1)).map_err(|_| format!("{} groups", s.int("group", 1)))?;
    Ok(Op::Conv2d { window: window(s, sides(&b.at(x).shape), kernel, rank)?, groups })
}

fn conv_transpose(b: &mut Builder, s: &Step) -> Done<Vec<ValueId>> {
    let rank = b.rank(s.x(0)?);
    let x = b.image(s.x(0)?)?;
    // [i, o / groups, (h,) w] to [o, h, w, i].
    let w = match rank {
        _ if b.rank(s.x(1)?) != rank => return malformed(format!("weights of shape {:?}", b.shape(s.x(1)?))),
        3 => {
            let w = b.transpose(s.x(1)?, &[1, 2, 0])?;
            let shape = b.shape(w);
            b.reshape(w, &[shape[0], 1, shape[1], shape[2]])?
        }
        _ => b.transpose(s.x(1)?, &[1, 2, 3, 0])?,
    };
    let (image, weights) = (b.shape(x), b.shape(w));
    let kernel = sides(&weights);
    let mut window = window(s, sides(&image), kernel, rank)?;
    let (extra, same) = (pair(s, "output_padding", rank, 0)?, s.text("auto_pad", "NOTSET"));
    let extra = if rank == 3 { [0, extra[1]] } else { extra };
    let mut out = [0; 2];
    for d in 0..2 {
        let (n, stride) = (sides(&image)[d], window.stride[d]);
        let full = n.saturating_sub(1).saturating_mul(stride).saturating_add(extent(kernel[d], window.dilation[d]));
        let full = full.saturating_add(extra[d]);
        let wanted = match &same[..] {
            _ if s.has("output_shape") => Some(pair(s, "output_shape", rank, 1)?[d]),
            "SAME_UPPER" | "SAME_LOWER" => Some(n.saturating_mul(stride)),
            _ => None,
        };
        if let Some(wanted) = wanted {
            let Some(all) = full.checked_sub(wanted) else {
                return unsupported(format!("an output of {wanted} pixels, more than the {full} that are reached"));
            };
            let (less, more) = (all / 2, all - all / 2);
            let upper = same == "SAME_UPPER";
            (window.before[d], window.after[d]) = if upper { (less, more) } else { (more, less) };
        }
        out[d] = full
            .checked_sub(window.before[d].saturating_add(window.after[d]))
            .ok_or("more is cut off than there is".to_owned())?;
        // Rows of output padding are not cut off.
        window.after[d] = window.after[d].saturating_sub(extra[d]);
    }
    let groups = usize::try_from(s.int("group", 1)).unwrap_or(0);
    let (o, i) = (weights[0], weights[3]);
    if groups == 0 || i != image[3] || !i.is_multiple_of(groups) {
        return malformed(format!("{groups} groups of {i} channels for {:?}", b.shape(s.x(0)?)));
    }
    let mut parts = Vec::new();
    for g in 0..groups {
        let each = i / groups;
        let (mut x, mut w) = (x, w);
        if groups > 1 {
            (x, w) = (b.slice(x, 3, g * each, each)?, b.slice(w, 3, g * each, each)?);
        }
        let bias = match s.given(2) {
            Some(bias) if groups > 1 => Some(b.slice(bias, 0, g * o, o)?),
            bias => bias,
        };
        let inputs: Vec<ValueId> = [x, w].into_iter().chain(bias).collect();
        parts.push(b.shaped(Op::ConvTranspose2d { window }, &inputs, &[image[0], out[0], out[1], o])?);
    }
    let y = b.concat(&parts, 3)?;
    Ok(vec![b.back(y, rank)?])
}

/// The pool's window, and whether its last places may hang over the padding (ceil_mode).
fn pool_window(s: &Step, image: [usize; 2], rank: usize) -> Done<([usize; 2], Window, [usize; 2])> {
    let kernel = pair(s, "kernel_shape", rank, 1)?;
    let mut window = window(s, image, kernel, rank)?;
    let stated = window.after;
    if s.int("ceil_mode", 0) != 0 {
        for d in 0..2 {
            let reach = extent(kernel[d], window.dilation[d]);
            let Some(free) = (image[d] + window.before[d] + window.after[d]).checked_sub(reach) else { continue };
            let mut last = free.div_ceil(window.stride[d]) * window.stride[d];
            // A window that begins in the padding on the right is none.
            if last >= image[d] + window.before[d] {
                last = last.saturating_sub(window.stride[d]);
            }
            window.after[d] = (last + reach).saturating_sub(image[d] + window.before[d]).max(window.after[d]);
            // More padding than the last window needs would make room for another.
            if last < free / window.stride[d] * window.stride[d] {
                window.after[d] = (last + reach).saturating_sub(image[d] + window.before[d]);
            }
        }
    }
    Ok((kernel, window, stated))
}

fn pool(b: &mut Builder, s: &Step) -> Done<Vec<ValueId>> {
    if s.wants(1) {
        return unsupported("the output Indices");
    }
    let rank = b.rank(s.x(0)?);
    let mut x = b.image(s.x(0)?)?;
    let shape = b.shape(x);
    let (kernel, mut window, stated) = pool_window(s, sides(&shape), rank)?;
    let mut kind = PoolKind::Max;
    if s.kind == "AveragePool" {
        let count_padding = s.int("count_include_pad", 0) != 0;
        kind = PoolKind::Average { count_padding };
        if count_padding && window.after != stated {
            // Stated padding counts, what ceil_mode adds does not: the first is made part of the image.
            let mut padded = shape.clone();
            let mut before = vec![0; 4];
            for d in 0..2 {
                before[d + 1] = window.before[d];
                padded[d + 1] += window.before[d] + stated[d];
                window.after[d] = window.after[d].saturating_sub(stated[d]);
            }
            window.before = [0; 2];
            x = b.shaped(Op::Pad { before, mode: PadMode::Constant(0.0) }, &[x], &padded)?;
            kind = PoolKind::Average { count_padding: false };
        }
    }
    let y = b.op(Op::Pool2d { kind, kernel, window }, &[x])?;
    Ok(vec![b.back(y, rank)?])
}

/// (sum of |x|^p)^(1/p), by the mean.
fn lp_pool(b: &mut Builder, s: &Step) -> Done<Vec<ValueId>> {
    let rank = b.rank(s.x(0)?);
    let x = b.image(s.x(0)?)?;
    let (kernel, window, stated) = pool_window(s, sides(&b.shape(x)), rank)?;
    if window.after != stated {
        return unsupported("ceil_mode");
    }
    let p = s.int("p", 2) as f32;
    let absolute = b.unary(Unary::Abs, x)?;
    let (power, root) = (b.scalar(p)?, b.scalar(1.0 / p)?);
    let raised = b.binary(Binary::Pow, absolute, power)?;
    let mean = b.op(Op::Pool2d { kind: PoolKind::Average { count_padding: true }, kernel, window }, &[raised])?;
    let area = b.scalar(kernel[0] as f32 * kernel[1] as f32)?;
    let sum = b.binary(Binary::Mul, mean, area)?;
    let y = b.binary(Binary::Pow, sum, root)?;
    Ok(vec![b.back(y, rank)?])
}

fn global_pool(b: &mut Builder, s: &Step) -> Done<Vec<ValueId>> {
    let kind = if s.kind == "GlobalMaxPool" { Reduction::Max } else { Reduction::Mean };
    let rank = b.rank(s.x(0)?);
    if rank < 3 {
        return malformed(format!("{rank} dimensions"));
    }
    let x = b.channels_last(s.x(0)?)?;
    let y = along(b, kind, x, &(1..rank - 1).collect::<Vec<_>>())?;
    Ok(vec![b.channels_first(y)?])
}

/// (x - mean) / sqrt(variance + epsilon) scale + bias: a factor and a number a channel.
fn batch_norm(b: &mut Builder, s: &Step) -> Done<Vec<ValueId>> {
    if s.int("training_mode", 0) != 0 || (s.opset < 14 && (1..5).any(|i| s.wants(i))) {
        return unsupported("training");
    }
    let epsilon = b.scalar(s.float("epsilon", 1e-5))?;
    let variance = b.binary(Binary::Add, s.x(4)?, epsilon)?;
    let deviation = b.unary(Unary::Sqrt, variance)?;
    let factor = b.binary(Binary::Div, s.x(1)?, deviation)?;
    let shift = b.binary(Binary::Mul, s.x(3)?, factor)?;
    let offset = b.binary(Binary::Sub, s.x(2)?, shift)?;
    if b.rank(s.x(0)?) < 2 || b.shape(factor) != [b.shape(s.x(0)?)[1]] {
        return malformed(format!("{:?} factors for {:?}", b.shape(factor), b.shape(s.x(0)?)));
    }
    let x = b.channels_last(s.x(0)?)?;
    let scaled = b.binary(Binary::Mul, x, factor)?;
    let y = b.binary(Binary::Add, scaled, offset)?;
    Ok(vec![b.channels_first(y)?])
}

fn instance_norm(b: &mut Builder, s: &Step) -> Done<Vec<ValueId>> {
    let x = b.channels_last(s.x(0)?)?;
    let op = Op::Norm { kind: NormKind::Instance, epsilon: s.float("epsilon", 1e-5) };
    let y = b.op(op, &[x, s.x(1)?, s.x(2)?])?;
    Ok(vec![b.channels_first(y)?])
}

fn group_norm(b: &mut Builder, s: &Step) -> Done<Vec<ValueId>> {
    let groups = usize::try_from(s.int("num_groups", 0)).unwrap_or(0);
    let x = b.channels_last(s.x(0)?)?;
    let channels = b.shape(x).last().copied().unwrap_or(0);
    if groups == 0 || channels % groups != 0 {
        return malformed(format!("{groups} groups of {channels} channels"));
    }
    let mut inputs = vec![x];
    for i in [1, 2] {
        let mut each = s.x(i)?;
        // Before opset 21: a number a group.
        if s.opset < 21 && b.shape(each) == [groups] {
            each = b.reshape(each, &[groups, 1])?;
            each = b.shaped(Op::Expand, &[each], &[groups, channels / groups])?;
            each = b.reshape(each, &[channels])?;
        }
        inputs.push(each);
    }
    let op = Op::Norm { kind: NormKind::Group { groups }, epsilon: s.float("epsilon", 1e-5) };
    let y = b.op(op, &inputs)?;
    Ok(vec![b.channels_first(y)?])
}

/// Gain or bias of a norm over the dimensions from `axis` on, in just those dimensions.
fn over(b: &mut Builder, x: ValueId, shape: &[usize]) -> Done<ValueId> {
    match shape::broadcast(&b.shape(x), shape) {
        Some(to) if to == shape => match b.shape(x) == shape {
            true => Ok(x),
            false => b.shaped(Op::Expand, &[x], shape),
        },
        _ => malformed(format!("a factor of shape {:?} for {shape:?}", b.shape(x))),
    }
}

fn layer_norm(b: &mut Builder, s: &Step) -> Done<Vec<ValueId>> {
    let (x, epsilon) = (s.x(0)?, s.float("epsilon", 1e-5));
    let rank = b.rank(x);
    let axis = axis(s.int("axis", -1), rank)?;
    let shape = b.shape(x)[axis..].to_vec();
    let mut inputs = vec![x, over(b, s.x(1)?, &shape)?];
    if let Some(bias) = s.given(2) {
        inputs.push(over(b, bias, &shape)?);
    }
    let mut results = vec![b.op(Op::Norm { kind: NormKind::Layer { axis }, epsilon }, &inputs)?];
    if s.wants(1) || s.wants(2) {
        let all: Vec<usize> = (axis..rank).collect();
        let mean = along(b, Reduction::Mean, x, &all)?;
        let centred = b.binary(Binary::Sub, x, mean)?;
        let squares = b.unary(Unary::Square, centred)?;
        let variance = along(b, Reduction::Mean, squares, &all)?;
        let epsilon = b.scalar(epsilon)?;
        let sum = b.binary(Binary::Add, variance, epsilon)?;
        results.extend([mean, b.unary(Unary::Rsqrt, sum)?]);
    }
    Ok(results)
}

fn rms_norm(b: &mut Builder, s: &Step) -> Done<Vec<ValueId>> {
    let x = s.x(0)?;
    let axis = axis(s.int("axis", -1), b.rank(x))?;
    let shape = b.shape(x)[axis..].to_vec();
    let gain = over(b, s.x(1)?, &shape)?;
    Ok(vec![b.op(Op::Norm { kind: NormKind::Rms { axis }, epsilon: s.float("epsilon", 1e-5) }, &[x, gain])?])
}

fn mean_variance(b: &mut Builder, s: &Step) -> Done<Vec<ValueId>> {
    let x = s.x(0)?;
    let all = axes(s.ints("axes").unwrap_or(&[0, 2, 3]), b.rank(x))?;
    let mean = along(b, Reduction::Mean, x, &all)?;
    let centred = b.binary(Binary::Sub, x, mean)?;
    let squares = b.unary(Unary::Square, centred)?;
    let variance = along(b, Reduction::Mean, squares, &all)?;
    let (deviation, epsilon) = (b.unary(Unary::Sqrt, variance)?, b.scalar(1e-9)?);
    let divisor = b.binary(Binary::Add, deviation, epsilon)?;
    Ok(vec![b.binary(Binary::Div, centred, divisor)?])
}

fn resize(b: &mut Builder, s: &Step) -> Done<Vec<ValueId>> {
    let x = s.x(0)?;
    let from = b.shape(x);
    // Before opset 11 there was one way, and no way to say another.
    let old = s.opset < 11 || s.kind == "Upsample";
    let coordinates = match &s.text("coordinate_transformation_mode", if old { "asymmetric" } else { "half_pixel" })[..]
    {
        // The two differ only where an output is not input times scale; those are refused below.
        "half_pixel" | "half_pixel_symmetric" => Coordinates::HalfPixel,
        "pytorch_half_pixel" => Coordinates::PytorchHalfPixel,
        "align_corners" => Coordinates::AlignCorners,
        "asymmetric" => Coordinates::Asymmetric,
        other => return unsupported(format!("coordinate_transformation_mode = {other}")),
    };
    let nearest = match &s.text("nearest_mode", if old { "floor" } else { "round_prefer_floor" })[..] {
        "round_prefer_floor" => Nearest::RoundPreferFloor,
        "round_prefer_ceil" => Nearest::RoundPreferCeil,
        "floor" => Nearest::Floor,
        "ceil" => Nearest::Ceil,
        other => return malformed(format!("nearest_mode = {other}")),
    };
    let interpolation = match &s.text("mode", "nearest")[..] {
        "nearest" => Interpolation::Nearest(nearest),
        "linear" | "bilinear" => Interpolation::Linear,
        other => return unsupported(format!("mode = {other} (Mote has nearest and linear)")),
    };
    for (attribute, name) in [("antialias", "antialias"), ("exclude_outside", "exclude_outside")] {
        if s.int(attribute, 0) != 0 {
            return unsupported(name);
        }
    }
    let chosen = match s.ints("axes") {
        Some(some) => axes(some, from.len())?,
        None => (0..from.len()).collect(),
    };
    let (scales, sizes) = match (&s.kind[..], s.opset) {
        ("Upsample", ..9) => (None, None),
        ("Upsample", _) | (_, ..11) => (s.given(1), None),
        _ => (s.given(2), s.given(3)),
    };
    let nonempty = |b: &Builder, id: &ValueId| b.at(*id).count() > 0;
    let (scales, sizes) = (scales.filter(|id| nonempty(b, id)), sizes.filter(|id| nonempty(b, id)));
    let mut to = from.clone();
    if let Some(sizes) = sizes {
        let sizes = b.ints("sizes", sizes)?;
        if sizes.len() != chosen.len() {
            return malformed(format!("{} sizes for {} dimensions", sizes.len(), chosen.len()));
        }
        if s.text("keep_aspect_ratio_policy", "stretch") != "stretch" {
            return unsupported("keep_aspect_ratio_policy");
        }
        for (d, size) in chosen.iter().zip(sizes) {
            to[*d] = usize::try_from(size).map_err(|_| format!("a size of {size}"))?;
        }
    } else {
        let scales = match scales {
            Some(id) => b.floats("scales", id)?,
            None => s.floats("scales").map(<[f32]>::to_vec).ok_or("neither scales nor sizes".to_owned())?,
        };
        if scales.len() != chosen.len() {
            return malformed(format!("{} scales for {} dimensions", scales.len(), chosen.len()));
        }
        for (d, scale) in chosen.iter().zip(scales) {
            let size = from[*d] as f64 * f64::from(scale);
            // Scales are stored in 24 bits, so that a third of 9 may come out below 3.
            let whole = size.round();
            let exact = (size - whole).abs() < 1e-5 * whole.max(1.0);
            if !(0.0..=1e9).contains(&size) {
                return malformed(format!("a scale of {scale}"));
            }
            if !exact {
                return unsupported(format!(
                    "a scale of {scale}, which makes {} pixels {size} (not a whole number)",
                    from[*d]
                ));
            }
            to[*d] = whole as usize;
        }
    }
    if to == from {
        return Ok(vec![x]);
    }
    if from.len() < 3 || to[..2] != from[..2] {
        return unsupported(format!("{from:?} to {to:?} (Mote resizes the spatial dimensions of images)"));
    }
    let image = b.image(x)?;
    let shape: Shape = match to[..] {
        [n, c, w] => vec![n, 1, w, c],
        [n, c, h, w] => vec![n, h, w, c],
        _ => return unsupported("this many dimensions"),
    };
    let y = b.shaped(Op::Resize { coordinates, interpolation }, &[image], &shape)?;
    Ok(vec![b.back(y, from.len())?])
}

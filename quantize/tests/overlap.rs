//! Slots that lie on each other: the gaps that the planner works with against a byte-by-byte account of each unit, and whole
//! random nets with their planned arena against the same nets with every slot apart.

mod support;

use mote_quantize::codes::Coding;
use mote_quantize::layers::{self, Affine};
use mote_quantize::lower::{Builder, Constant, Lowered};
use mote_quantize::plan::units::{Gap, gaps};
use mote_quantize::quantize::{plan_bytes, program_bytes};
use mote_runtime::image::header::{self, ENTRY_BYTES, HEADER_BYTES, Section, Span, align_up, section};
use mote_runtime::image::plan::{Kind, Rows};
use mote_runtime::image::{Dtype, Op, Port, Ports, Slot, TensorDesc, crc, program::entry};
use mote_runtime::ops::{self, BACKWARD};
use std::ops::Range;
use support::{LIMITS, Random, run};

fn word(bytes: [i64; 4]) -> u32 {
    u32::from_le_bytes(bytes.map(|b| b as u8))
}

/// A window as its arguments have it, vertical first.
#[derive(Clone, Copy, Debug)]
struct Shape {
    input: [usize; 2],
    output: [usize; 2],
    kernel: [usize; 2],
    stride: [usize; 2],
    dilation: [usize; 2],
    pad: [usize; 2],
}

impl Shape {
    fn random(r: &mut Random, input: [usize; 2], dilated: bool) -> Self {
        let mut pair = |low, high| [r.range(low, high), r.range(low, high)];
        let (kernel, stride) = (pair(1, 4), pair(1, 3));
        let dilation = if dilated { pair(1, 3) } else { [1, 1] };
        let pad: [usize; 2] = std::array::from_fn(|i| r.range(0, (kernel[i] - 1) * dilation[i]));
        let most = |i: usize| (input[i] + pad[i] - 1) / stride[i] + 1;
        let output = std::array::from_fn(|i| r.range(most(i).div_ceil(2), most(i)));
        Self { input, output, kernel, stride, dilation, pad }
    }

    fn words(&self) -> [u32; 4] {
        let pair = |p: [usize; 2]| p[0] as u32 | (p[1] as u32) << 16;
        let steps = [self.stride[0], self.stride[1], self.dilation[0], self.dilation[1]];
        [pair(self.input), pair(self.output), word(steps.map(|s| s as i64)), pair(self.pad)]
    }

    /// As [`Shape::taps`], of a transposed convolution: the input pixels whose window covers an output pixel.
    fn transposed_taps(&self, oy: usize, ox: usize) -> Vec<usize> {
        let axis = |i: usize, at: usize| {
            let covers = |p: &usize| {
                let tap = (at + self.pad[i]).checked_sub(p * self.stride[i]);
                tap.is_some_and(|tap| tap < self.kernel[i])
            };
            (0..self.input[i]).filter(covers).collect::<Vec<_>>()
        };
        let cols = axis(1, ox);
        axis(0, oy).iter().flat_map(|y| cols.iter().map(move |x| y * self.input[1] + x)).collect()
    }

    /// Input pixels that an output pixel reads.
    fn taps(&self, oy: usize, ox: usize) -> Vec<usize> {
        let axis = |i: usize, at: usize| {
            let place = |k: usize| (at * self.stride[i] + k * self.dilation[i]).checked_sub(self.pad[i]);
            (0..self.kernel[i]).filter_map(place).filter(|p| *p < self.input[i]).collect::<Vec<_>>()
        };
        let cols = axis(1, ox);
        axis(0, oy).iter().flat_map(|y| cols.iter().map(move |x| y * self.input[1] + x)).collect()
    }

    /// As [`Shape::units`], of `together` pixels gathered at a time.
    fn tiles(&self, together: usize, channels: [usize; 2], size: usize) -> Vec<(Vec<Range<i64>>, Range<i64>)> {
        let pixels: Vec<usize> = (0..self.output[0] * self.output[1]).collect();
        let bytes = |pixel: usize, each: usize| (pixel * each * size) as i64..((pixel + 1) * each * size) as i64;
        let taps = |at: &usize| self.taps(at / self.output[1], at % self.output[1]);
        let tile = |tile: &[usize]| {
            let reads = tile.iter().flat_map(taps).map(|pixel| bytes(pixel, channels[0])).collect();
            (reads, bytes(tile[0], channels[1]).start..bytes(tile[tile.len() - 1], channels[1]).end)
        };
        pixels.chunks(together).map(tile).collect()
    }

    /// Of each unit, the bytes read and those written.
    fn units(&self, transposed: bool, channels: [usize; 2], size: usize) -> Vec<(Vec<Range<i64>>, Range<i64>)> {
        let bytes = |pixel: usize, channels: usize| {
            let each = channels * size;
            (pixel * each) as i64..((pixel + 1) * each) as i64
        };
        let taps = |y, x| if transposed { self.transposed_taps(y, x) } else { self.taps(y, x) };
        let mut units = Vec::new();
        for oy in 0..self.output[0] {
            let pixels: Vec<usize> = (0..self.output[1]).collect();
            for xs in pixels.chunks(4) {
                let reads = xs.iter().flat_map(|x| taps(oy, *x)).map(|pixel| bytes(pixel, channels[0])).collect();
                let pixel = |x: usize| oy * self.output[1] + x;
                let written = bytes(pixel(xs[0]), channels[1]).start..bytes(pixel(xs[xs.len() - 1]), channels[1]).end;
                units.push((reads, written));
            }
        }
        units
    }
}

/// Whether each unit, in this order, leaves alone what the later ones read, and it itself unless it has been gathered.
/// `shift`: output - input.
fn safe(units: &[(Vec<Range<i64>>, Range<i64>)], shift: i64, backward: bool, gathered: bool) -> bool {
    let mut order: Vec<_> = units.iter().collect();
    if backward {
        order.reverse();
    }
    order.iter().enumerate().all(|(at, (_, written))| {
        let (start, end) = (written.start + shift, written.end + shift);
        order[at + usize::from(gathered)..]
            .iter()
            .flat_map(|(reads, _)| reads)
            .all(|read| read.end <= start || end <= read.start)
    })
}

#[test]
fn gaps_are_exact() {
    let r = &mut Random(1);
    for case in 0..400 {
        let input = [r.range(1, 12), r.range(1, 12)];
        let transposed = case % 3 == 0;
        let mut shape = Shape::random(r, input, !transposed);
        let channels = [r.range(1, 4), r.range(1, 9)];
        let (def, kind, size) = if transposed {
            shape.output = [r.range(1, 12), r.range(1, 12)];
            (&ops::transpose_conv2d::OP, Kind::I16, 2)
        } else {
            (&ops::conv2d::OP, Kind::I8, 1)
        };
        let slot = |pixels: [usize; 2], channels: usize| Slot {
            kind,
            rows: Rows::One,
            frac: 0,
            cols: (pixels[0] * pixels[1] * channels) as u32,
            heads: 0,
            head_dim: 0,
            offset: [0; 4],
        };
        let slots = [slot(shape.input, channels[0]), slot(shape.output, channels[1])];
        let [i, o, steps, pads] = shape.words();
        let op = Op { code: def.code, flags: 0, args: [0, 1, 0, 0, i, o, steps, pads, 0, 0, 0] };
        let dims = |_| [channels[1] as u32, shape.kernel[0] as u32, shape.kernel[1] as u32, channels[0] as u32];
        let found = gaps(&op, &slots, &dims);
        assert_eq!((found.len(), found[0].input, found[0].output), (1, 0, 1));
        let check = |found: &Gap, units: &[(Vec<Range<i64>>, Range<i64>)], gathered: bool| {
            // Beyond these the slots do not touch.
            let bytes = |slot: &Slot| i64::from(slot.cols) * size as i64;
            let bounds = -bytes(&slots[1])..=bytes(&slots[0]);
            let lowest = bounds.clone().take_while(|shift| safe(units, *shift, false, gathered)).last();
            let highest = bounds.clone().rev().take_while(|shift| safe(units, *shift, true, gathered)).last();
            let expected = (lowest.unwrap(), highest.unwrap());
            // Only where the two touch at all does a gap mean anything.
            let within = |shift: i64| shift.clamp(*bounds.start(), *bounds.end());
            let found = (within(-found.forward), within(found.backward));
            assert_eq!(found, expected, "case {case}: {shape:?} {channels:?}, gathered: {gathered}");
        };
        check(&found[0], &shape.units(transposed, channels, size), false);
        if !transposed {
            // The same window, some of its pixels gathered at a time.
            let (together, patch) = (r.range(1, 6), shape.kernel[0] * shape.kernel[1] * channels[0]);
            let patches = Slot { cols: (together * patch.next_multiple_of(32) + 7) as u32, ..slots[0] };
            let kernel = shape.kernel[0] as u32 | (shape.kernel[1] as u32) << 16;
            let op =
                Op { code: ops::conv2d_coded::OP.code, flags: 0, args: [0, 1, 2, 0, 0, i, o, steps, pads, kernel, 0] };
            let found = gaps(&op, &[slots[0], slots[1], patches], &dims);
            assert_eq!((found.len(), found[0].input, found[0].output), (1, 0, 1));
            check(&found[0], &shape.tiles(together, channels, size), true);
        }
    }
}

/// A net under construction: tensors as (slot, height, width, channels).
struct Layers<'r> {
    r: &'r mut Random,
    b: Builder<Constant>,
    tensors: Vec<(u32, [usize; 3])>,
}

impl Layers<'_> {
    fn tensor(&mut self, shape: [usize; 3]) -> u32 {
        let slot = self.b.slot(Kind::I8, Rows::One, shape.iter().product(), 0);
        self.tensors.push((slot, shape));
        slot
    }

    fn weights(&mut self, dims: Vec<usize>) -> u32 {
        let count = dims.iter().product();
        let bytes: Vec<u8> = (0..count).map(|_| self.r.range(0, 255) as u8).collect();
        let name = format!("{}", self.r.range(0, 1 << 30));
        self.b.tensor(Constant::plain(&name, Dtype::I8, &dims, bytes))
    }

    fn channels(&mut self, count: usize) -> u32 {
        let channel = |r: &mut Random| [r.range(0, 999) as i32 - 500, (1 << 30) + r.range(0, 1 << 29) as i32, -8];
        let bytes: Vec<u8> = (0..count).flat_map(|_| channel(self.r)).flat_map(i32::to_le_bytes).collect();
        let name = format!("{}", self.r.range(0, 1 << 30));
        self.b.tensor(Constant::plain(&name, Dtype::I32, &[count, 3], bytes))
    }

    fn op(&mut self, def: &ops::OpDef, args: &[u32], reads: &[u32], write: u32) {
        self.b.op(def.code, 0, args, reads, &[write]);
    }

    /// A convolution with weights in codes.
    fn coded(&mut self, from: u32, channels: usize, shape: &Shape) {
        let (out, columns) = (self.r.range(1, 20), shape.kernel[0] * shape.kernel[1] * channels);
        let mut real = |count: usize, reach: f32| -> Vec<f32> {
            (0..count).map(|_| (self.r.range(0, 2000) as f32 / 1000.0 - 1.0) * reach).collect()
        };
        let (weights, bias) = (real(out * columns, 1.0 / (columns as f32).sqrt()), real(out, 20.0));
        let affine = |zero_point| Affine { scale: 1.0, zero_point };
        let linear = layers::conv((&weights, &bias), (affine(3), affine(-5)), Coding::N4Learned, None).linear;
        let name = format!("{}", self.r.range(0, 1 << 30));
        let bytes = linear.bias.values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let bias = Constant::plain(&name, Dtype::I32, &[out], bytes);
        let bias = self.b.tensor(Constant { exponent: linear.bias.exponent, ..bias });
        let weights = self.b.tensor(Constant::coded(&name, linear.weights));
        let patches = self.r.range(1, 5) * columns.next_multiple_of(32);
        let patches = self.b.slot(Kind::I8, Rows::One, patches, 0);
        let to = self.tensor([shape.output[0], shape.output[1], out]);
        let [i, o, steps, pads] = shape.words();
        let kernel = shape.kernel[0] as u32 | (shape.kernel[1] as u32) << 16;
        let args = [from, to, patches, weights, bias, i, o, steps, pads, kernel, word([3, -5, -128, 127])];
        self.b.op(ops::conv2d_coded::OP.code, 0, &args, &[from], &[to, patches]);
    }

    /// An op on some tensor, most often the last.
    fn layer(&mut self) {
        let last = self.tensors.len() - 1;
        let at = if self.r.range(0, 3) == 0 { self.r.range(0, last) } else { last };
        let (from, [h, w, c]) = self.tensors[at];
        let shape = Shape::random(self.r, [h, w], true);
        let numbers = word([3, -5, -128, 127]);
        match self.r.range(0, 7) {
            0 | 1 => {
                let out = if self.r.range(0, 1) == 0 { c } else { self.r.range(1, 9) };
                let [i, o, steps, pads] = shape.words();
                let weights = self.weights(vec![out, shape.kernel[0], shape.kernel[1], c]);
                let table = self.channels(out);
                let to = self.tensor([shape.output[0], shape.output[1], out]);
                let args = [from, to, weights, table, i, o, steps, pads, numbers];
                self.op(&ops::conv2d::OP, &args, &[from], to);
            }
            2 => {
                let out = c * self.r.range(1, 2);
                let [i, o, steps, pads] = shape.words();
                let weights = self.weights(vec![1, shape.kernel[0], shape.kernel[1], out]);
                let table = self.channels(out);
                let to = self.tensor([shape.output[0], shape.output[1], out]);
                let args = [from, to, weights, table, i, o, steps, pads, numbers];
                self.op(&ops::depthwise_conv2d::OP, &args, &[from], to);
            }
            3 => {
                let out = self.r.range(1, 9);
                let (weights, table) = (self.weights(vec![out, c]), self.channels(out));
                let to = self.tensor([h, w, out]);
                self.op(&ops::fully_connected::OP, &[from, to, weights, table, numbers], &[from], to);
            }
            4 => {
                let shape = Shape::random(self.r, [h, w], false);
                let [i, o, steps, pads] = shape.words();
                let size = shape.kernel[0] as u32 | (shape.kernel[1] as u32) << 16;
                let to = self.tensor([shape.output[0], shape.output[1], c]);
                let pool = [&ops::max_pool2d::OP, &ops::average_pool2d::OP][self.r.range(0, 1)];
                let args = [from, to, i, o, steps, pads, size, word([0, 0, -100, 100])];
                self.op(pool, &args, &[from], to);
            }
            5 => self.coded(from, c, &shape),
            6 => {
                let to = self.tensor([h, w, c]);
                self.op(&ops::softmax::OP, &[from, to, c as u32, 1 << 30, 20, -(100 << 6) as u32], &[from], to);
            }
            _ => {
                let same: Vec<u32> = self.tensors.iter().filter(|t| t.1 == [h, w, c]).map(|t| t.0).collect();
                let other = same[self.r.range(0, same.len() - 1)];
                let to = self.tensor([h, w, c]);
                let multiplier = 3 << 29;
                let (shifts, zeros) = (word([-1, -1, -18, 0]), word([4, -4, 0, 0]));
                let args =
                    [from, other, to, multiplier, multiplier, multiplier, shifts, zeros, word([0, 0, -128, 127])];
                self.op(&ops::add::OP, &args, &[from, other], to);
            }
        }
    }
}

fn image(lowered: &Lowered<Constant>, inputs: &[Port], outputs: &[Port]) -> Vec<u8> {
    let (mut weights, mut table, mut io) = (Vec::new(), Vec::new(), Vec::new());
    for c in &lowered.tensors {
        weights.resize(align_up(weights.len() as u64) as usize, 0);
        let span = Span { offset: weights.len() as u64, bytes: c.bytes.len() as u64 };
        let mut dims = [1; 4];
        dims.iter_mut().zip(&c.dims).for_each(|(to, from)| *to = *from as u32);
        let rank = c.dims.len() as u8;
        table.extend(
            TensorDesc { dtype: c.dtype, rank, exponent: c.exponent, dims, span, codebook: c.codebook }.to_bytes(),
        );
        weights.extend_from_slice(&c.bytes);
    }
    Ports::write(inputs, outputs, &mut |bytes| io.extend_from_slice(bytes));
    let parts = [
        (section::PROGRAM, program_bytes(lowered)),
        (section::PLAN, plan_bytes(lowered)),
        (section::TENSORS, table),
        (section::WEIGHTS, weights),
        (section::IO, io),
    ];
    let mut end = (HEADER_BYTES + parts.len() * ENTRY_BYTES) as u64;
    let section = |(kind, bytes): &(u32, Vec<u8>)| {
        let span = Span { offset: align_up(end), bytes: bytes.len() as u64 };
        end = span.offset + span.bytes;
        Section { kind: *kind, crc: crc::crc32c(bytes), span }
    };
    let sections: Vec<Section> = parts.iter().map(section).collect();
    let mut file = Vec::new();
    header::write(&sections, end, &mut |bytes| file.extend_from_slice(bytes));
    for (section, (_, bytes)) in sections.iter().zip(&parts) {
        file.resize(section.span.offset as usize, 0);
        file.extend_from_slice(bytes);
    }
    file
}

#[test]
fn planned_nets_compute_what_spread_out_ones_do() {
    let (mut planned_bytes, mut apart_bytes, mut backward, mut overlapping) = (0, 0, 0, 0);
    for case in 0..100 {
        let r = &mut Random(case);
        let (layers, shape) = (r.range(1, 10), [r.range(1, 10), r.range(1, 10), r.range(1, 6)]);
        let mut net = Layers { r, b: Builder::default(), tensors: vec![] };
        let from = net.tensor(shape);
        net.b.entry(entry::RUN);
        (0..layers).for_each(|_| net.layer());
        let mut outs = vec![net.tensors[net.tensors.len() - 1].0];
        if net.r.range(0, 2) == 0 {
            outs.push(net.tensors[net.r.range(0, net.tensors.len() - 1)].0);
        }
        outs.dedup();
        let port = |slot: u32, [h, w, c]: [usize; 3]| {
            let dims = [h as u32, w as u32, c as u32, 1];
            Port { slot, dtype: Dtype::I8, rank: 3, zero_point: 0, mantissa: 1, exponent: 0, dims }
        };
        let shape_of = |slot: u32| net.tensors.iter().find(|t| t.0 == slot).unwrap().1;
        let outputs: Vec<Port> = outs.iter().map(|slot| port(*slot, shape_of(*slot))).collect();
        let inputs = [port(from, shape)];
        let input = net.r.bytes(shape.iter().product());
        net.b.ports(vec![from], outs.clone());
        let planned = net.b.finish(1, 0, 0);
        let mut apart = planned.clone();
        let mut end = 0;
        for slot in &mut apart.slots {
            slot.offset[0] = end;
            end += slot.size()[0];
        }
        apart.ops.iter_mut().for_each(|op| op.flags &= !BACKWARD);
        let results = run(&image(&planned, &inputs, &outputs), &input);
        let expected = run(&image(&apart, &inputs, &outputs), &input);
        assert_eq!(results, expected, "case {case}: {:?}", planned.ops);
        planned_bytes += planned.slots.iter().map(|s| s.offset[0] + s.size()[0]).max().unwrap();
        apart_bytes += end;
        backward += planned.ops.iter().filter(|op| op.flags & BACKWARD != 0).count();
        let range = |slot: u32| planned.slots[slot as usize].range(LIMITS).unwrap();
        let on = |op: &&Op| {
            range(op.args[0]).start < range(op.args[1]).end && range(op.args[1]).start < range(op.args[0]).end
        };
        overlapping += planned.ops.iter().filter(on).count();
    }
    assert!(
        3 * planned_bytes < 2 * apart_bytes && backward > 50 && overlapping > 150,
        "{planned_bytes} {apart_bytes} {backward} {overlapping}"
    );
}

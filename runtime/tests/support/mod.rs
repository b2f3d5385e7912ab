//! Builds small images in memory, with the runtime's own record types, and runs single ops over them.
//!
//! It is also the shortest complete writer of the format: [`Builder::image`] is all there is to it.
#![allow(dead_code, unsafe_code, missing_docs)]

use mote_runtime::fixed::Scale;
use mote_runtime::image::header::{self, Section, Span, align_up};
use mote_runtime::image::plan::{Kind, Limits, Plan, Rows, Slot};
use mote_runtime::image::program::{ARGS, Entry, NONE, Op, entry};
use mote_runtime::image::tensors::Dtype::{N4, N5, N8, T3, T4};
use mote_runtime::image::tensors::T4_LEVELS;
use mote_runtime::image::tensors::{BLOCK, Dtype, GROUP, TensorDesc};
use mote_runtime::image::{Port, Ports, crc, section};
use mote_runtime::kernels::{self, Kernels};
use mote_runtime::ops::cost::{Part, units};
use mote_runtime::ops::{self, Run};
use mote_runtime::session::work::Progress;
use mote_runtime::view::{Pool, Single};
use mote_runtime::{Image, Session};

/// Random numbers for tests: xorshift64*.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// A number in `low..=high`.
    pub fn range(&mut self, low: i64, high: i64) -> i64 {
        low + ((u128::from(self.next()) * (high - low + 1) as u128) >> 64) as i64
    }

    /// Uniform in [-1, 1).
    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 * 2f64.powi(-52) - 1.0
    }

    /// Nearly normal: the sum of twelve uniform numbers.
    pub fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.unit()).sum::<f64>() / 2.0
    }
}

/// The types of coded matrices.
pub const CODED: [Dtype; 5] = [T3, N4, T4, N5, N8];

/// What padding is filled with. It must not matter, but for a trellis, which goes through it.
const JUNK: u8 = 0x5B;

/// What a window of T4 stands for.
fn t4_level(window: u8) -> i8 {
    let level = T4_LEVELS[usize::from(window) % 32];
    if window & 32 == 0 { level } else { -level }
}

/// A coded matrix in plain order, before it is laid out in blocks.
#[derive(Clone, Debug)]
pub struct Matrix {
    pub rows: usize,
    pub cols: usize,
    pub dtype: Dtype,
    /// T3, N4, N5: what the codes stand for; of T4 nobody asks. `None`: N8.
    pub book: Option<[i8; 16]>,
    /// [rows, cols]: 0 to 7 for T3, 0 to 15 for N4 and T4, 0 to 31 for N5 (bit 4 is the sign), int8 for N8.
    pub codes: Vec<i8>,
    /// [rows, groups].
    pub scales: Vec<u8>,
    /// [rows].
    pub mults: Vec<u16>,
    pub exponent: i32,
}

impl Matrix {
    pub fn random(random: &mut Random, rows: usize, cols: usize, book: Option<[i8; 16]>) -> Self {
        let code = |r: &mut Random| if book.is_some() { r.range(0, 15) } else { r.range(-128, 127) } as i8;
        Self {
            rows,
            cols,
            dtype: if book.is_some() { N4 } else { N8 },
            book,
            codes: (0..rows * cols).map(|_| code(random)).collect(),
            scales: (0..rows * cols.div_ceil(GROUP)).map(|_| random.range(0, 255) as u8).collect(),
            mults: (0..rows).map(|_| random.range(1 << 15, 65535) as u16).collect(),
            exponent: 24,
        }
    }

    /// Of this type, whatever levels it may have.
    pub fn any(random: &mut Random, rows: usize, cols: usize, dtype: Dtype) -> Self {
        let least = if dtype == N5 { 0 } else { -127 };
        let book = (dtype != N8).then(|| core::array::from_fn(|_| random.range(least, 127) as i8));
        let mut m = Self { dtype, ..Self::random(random, rows, cols, book) };
        if dtype == T3 {
            m.codes.iter_mut().for_each(|code| *code &= 7);
        }
        if dtype == N5 {
            m.codes.iter_mut().for_each(|code| *code |= (random.range(0, 1) as i8) << 4);
        }
        m
    }

    /// All weights of one level (of T4 the largest that a row of equal codes has), the largest scales and multipliers. Of T3 a whole number
    /// of blocks is, of T4 of eight columns, else padding has its say.
    pub fn all(rows: usize, cols: usize, dtype: Dtype, level: i8) -> Self {
        let book = if dtype == N5 { level.abs() } else { level };
        let code = match dtype {
            N8 => level,
            N5 => 5 | i8::from(book != level) << 4,
            T4 => (0..16).max_by_key(|code| t4_level(code | (code & 3) << 4).abs()).unwrap() as i8,
            _ => 4,
        };
        Self {
            rows,
            cols,
            dtype,
            book: (dtype != N8).then_some([book; 16]),
            codes: vec![code; rows * cols],
            scales: vec![255; rows * cols.div_ceil(GROUP)],
            mults: vec![65_535; rows],
            exponent: 0,
        }
    }

    /// Weights near a normal distribution with standard deviation `sigma`: what models look like.
    pub fn like_a_model(random: &mut Random, rows: usize, cols: usize, dtype: Dtype, sigma: f64) -> Self {
        let uniform = core::array::from_fn(|i| match dtype {
            // Sets of every fourth level.
            T3 => 4 * (i as i8 % 4) + i as i8 / 4 - 8,
            N5 => i as i8,
            _ => i as i8 - 8,
        });
        let book = (dtype != N8).then_some(uniform);
        let mut m = Self { dtype, ..Self::random(random, rows, cols, book) };
        let step = match dtype {
            N8 => 40.0,
            N5 => 5.0,
            T4 => (T4_LEVELS.iter().map(|l| f64::from(*l).powi(2)).sum::<f64>() / 32.0).sqrt(),
            _ => 2.5,
        };
        for code in &mut m.codes {
            let level = (random.normal() * step).round() as i8;
            *code = match dtype {
                N8 => level.max(-127),
                N5 => level.abs().min(15) | i8::from(level < 0) << 4,
                T3 => (level + 8).clamp(0, 15) / 2,
                // Levels of any codes are spread like normal weights.
                T4 => level & 15,
                _ => (level + 8).clamp(0, 15),
            };
        }
        m.scales.iter_mut().for_each(|s| *s = random.range(100, 160) as u8);
        m.mults.iter_mut().for_each(|s| *s = random.range(40_000, 60_000) as u16);
        m.exponent = (130.0 * 50_000.0 * step / sigma).log2().round() as i32;
        m
    }

    /// The code of a row and column, padding among them.
    fn code(&self, row: usize, col: usize) -> u8 {
        if row < self.rows && col < self.cols { self.codes[row * self.cols + col] as u8 } else { JUNK }
    }

    pub fn level(&self, row: usize, col: usize) -> i64 {
        let code = self.code(row, col);
        let before = |rows: usize| self.code(row / BLOCK * BLOCK + (row % BLOCK + BLOCK - rows) % BLOCK, col);
        if self.dtype == T4 {
            // A line's columns in the order of a word's nibbles, and the one behind this one, around the word's end.
            const ORDER: [usize; 8] = [0, 4, 1, 5, 2, 6, 3, 7];
            let next = ORDER[(ORDER.iter().position(|c| *c == col % 8).unwrap() + 1) % 8];
            return t4_level(code & 15 | (self.code(row, col / 8 * 8 + next) & 3) << 4).into();
        }
        let (index, negative) = match self.dtype {
            T3 => ((before(1) & 1) << 3 | ((code ^ before(2)) & 1) << 2 | (code & 7) >> 1, false),
            _ => (code & 15, self.dtype == N5 && code & 16 != 0),
        };
        let level = self.book.map_or(i64::from(code as i8), |book| book[usize::from(index)].into());
        if negative { -level } else { level }
    }

    /// The largest magnitude that a level may have, as the format counts (NUMERICS.md, "matmul").
    pub fn top(&self) -> u8 {
        match self.dtype {
            N8 => 128,
            T4 => 127,
            _ => self.book.iter().flatten().map(|level| level.unsigned_abs()).fold(1, u8::max),
        }
    }

    pub fn scale(&self, row: usize, col: usize) -> i64 {
        i64::from(self.scales[row * self.cols.div_ceil(GROUP) + col / GROUP])
    }

    /// The weight in f64.
    pub fn weight(&self, row: usize, col: usize) -> f64 {
        (self.level(row, col) * self.scale(row, col) * i64::from(self.mults[row])) as f64 * 2f64.powi(-self.exponent)
    }

    /// T3's word of a row in line `line` of the group that begins at a column.
    fn three_bits(&self, row: usize, first: usize, line: usize) -> [u8; 4] {
        let mut word = [0; 4];
        for col in 0..GROUP {
            let code = self.code(row, first + col);
            let (part, half, byte) = (col / 8, col / 4 % 2, &mut word[col % 4]);
            match line {
                2 => *byte |= (code & 1) << (part + 4 * half),
                _ if part / 2 == line => *byte |= (code >> 1 & 3) << (2 * (part % 2) + 4 * half),
                _ => {}
            }
        }
        word
    }

    /// The streams, as drawn in `image/tensors.rs`. Padding is filled with [`JUNK`].
    fn to_bytes(&self) -> Vec<u8> {
        let (blocks, groups) = (self.rows.div_ceil(BLOCK), self.cols.div_ceil(GROUP));
        let code = |row: usize, col: usize| self.code(row, col);
        let mut out = Vec::new();
        let mut places: Vec<_> = (0..blocks).flat_map(|b| (0..groups).map(move |g| (b, g))).collect();
        places.sort_by_key(|(block, group)| (*group / 64, *block, *group));
        for (block, group) in places.iter().copied() {
            if self.dtype == T3 {
                for (line, row) in (0..3).flat_map(|l| (0..BLOCK).map(move |r| (l, r))) {
                    out.extend(self.three_bits(block * BLOCK + row, group * GROUP, line));
                }
                continue;
            }
            let per_line = if self.book.is_some() { 8 } else { 4 };
            for (line, row) in (0..GROUP / per_line).flat_map(|l| (0..BLOCK).map(move |r| (l, r))) {
                let (row, col) = (block * BLOCK + row, group * GROUP + line * per_line);
                for b in 0..4 {
                    out.push(match self.book {
                        Some(_) => code(row, col + b) & 15 | code(row, col + 4 + b) << 4,
                        None => code(row, col + b),
                    });
                }
            }
        }
        let of_n5 = places.iter().filter(|_| self.dtype == N5);
        let lines = of_n5.flat_map(|(block, group)| (0..4).map(move |line| (*block, 4 * group + line)));
        for (block, line) in lines {
            for half in 0..2 {
                let sign = |at: usize| u64::from(code(block * BLOCK + at / 4, line * 8 + half * 4 + at % 4) >> 4 & 1);
                out.extend((0..64).fold(0, |word, at| word | sign(at) << at).to_le_bytes());
            }
        }
        for (block, group, row) in places.iter().flat_map(|(b, g)| (0..BLOCK).map(move |r| (*b, *g, r))) {
            out.push(self.scales.get((block * BLOCK + row) * groups + group).copied().unwrap_or(0x77));
        }
        for row in 0..blocks * BLOCK {
            out.extend(self.mults.get(row).copied().unwrap_or(0x1234).to_le_bytes());
        }
        out
    }
}

/// An image under construction. Slots are laid out one after the other, for all limits at once.
#[derive(Clone, Debug, Default)]
pub struct Builder {
    pub tensors: Vec<(TensorDesc, Vec<u8>)>,
    /// The tensors that are coded matrices, in plain order.
    pub matrices: Vec<Option<Matrix>>,
    pub slots: Vec<Slot>,
    pub body: Vec<Op>,
    pub head: Vec<Op>,
    /// Ops of a program without tokens; the entry point is there if this is not empty.
    pub run: Vec<Op>,
    /// Ops that give state its first contents; the entry point is there if this is not empty.
    pub reset: Vec<Op>,
    /// Inputs and outputs; the section is there if they are.
    pub ports: [Vec<Port>; 2],
    pub vocab: u32,
    pub logits: u32,
    pub max_context: u32,
    /// Stages of an encoder; the entry points are there if these are.
    pub encode: Vec<Vec<Op>>,
    pub source_vocab: u32,
}

impl Builder {
    pub fn new() -> Self {
        Self { max_context: 1 << 20, ..Self::default() }
    }

    pub fn tensor(&mut self, desc: TensorDesc, bytes: Vec<u8>) -> u32 {
        self.tensors.push((desc, bytes));
        self.matrices.push(None);
        self.tensors.len() as u32 - 1
    }

    fn plain(&mut self, dtype: Dtype, exponent: i32, count: usize, bytes: Vec<u8>) -> u32 {
        let dims = [count as u32, 1, 1, 1];
        let desc = TensorDesc { dtype, rank: 1, exponent, dims, span: Span::default(), codebook: [0; 16] };
        self.tensor(desc, bytes)
    }

    pub fn vector16(&mut self, values: &[i16], exponent: i32) -> u32 {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.plain(Dtype::I16, exponent, values.len(), bytes)
    }

    pub fn vector32(&mut self, values: &[i32], exponent: i32) -> u32 {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.plain(Dtype::I32, exponent, values.len(), bytes)
    }

    pub fn vector64(&mut self, values: &[u64]) -> u32 {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.plain(Dtype::U64, 0, values.len(), bytes)
    }

    pub fn matrix(&mut self, m: &Matrix) -> u32 {
        let desc = TensorDesc {
            dtype: m.dtype,
            rank: 2,
            exponent: m.exponent,
            dims: [m.rows as u32, m.cols as u32, 1, 1],
            span: Span::default(),
            codebook: m.book.unwrap_or_default(),
        };
        let index = self.tensor(desc, m.to_bytes());
        self.matrices[index as usize] = Some(m.clone());
        index
    }

    pub fn slot(&mut self, slot: Slot) -> u32 {
        let offset = self.end();
        self.slots.push(Slot { offset, ..slot });
        self.slots.len() as u32 - 1
    }

    pub fn i32_slot(&mut self, rows: Rows, cols: usize, frac: i16) -> u32 {
        let cols = cols as u32;
        self.slot(Slot { kind: Kind::I32, rows, frac, cols, heads: 0, head_dim: 0, offset: [0; 4] })
    }

    pub fn q8_slot(&mut self, rows: Rows, cols: usize) -> u32 {
        let cols = cols as u32;
        self.slot(Slot { kind: Kind::Q8, rows, frac: 0, cols, heads: 0, head_dim: 0, offset: [0; 4] })
    }

    pub fn i8_slot(&mut self, cols: usize) -> u32 {
        self.plain_slot(Kind::I8, cols)
    }

    /// One tensor of I8, I16 or I32.
    pub fn plain_slot(&mut self, kind: Kind, cols: usize) -> u32 {
        let cols = cols as u32;
        self.slot(Slot { kind, rows: Rows::One, frac: 0, cols, heads: 0, head_dim: 0, offset: [0; 4] })
    }

    /// A constant of int8, int16 or int32, as a slot of that kind would hold it.
    pub fn constant(&mut self, kind: Kind, values: &[i64], dims: &[usize]) -> u32 {
        let (dtype, size) = match kind {
            Kind::I8 => (Dtype::I8, 1),
            Kind::I16 => (Dtype::I16, 2),
            _ => (Dtype::I32, 4),
        };
        self.shaped(dtype, dims, values.iter().flat_map(|v| v.to_le_bytes()[..size].to_vec()).collect())
    }

    /// A plain tensor of bytes.
    pub fn tensor8(&mut self, values: &[i8], dims: &[usize]) -> u32 {
        let bytes = values.iter().map(|v| *v as u8).collect();
        self.shaped(Dtype::I8, dims, bytes)
    }

    /// A plain tensor of int32.
    pub fn tensor32(&mut self, values: &[i32], dims: &[usize]) -> u32 {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.shaped(Dtype::I32, dims, bytes)
    }

    fn shaped(&mut self, dtype: Dtype, dims: &[usize], bytes: Vec<u8>) -> u32 {
        let mut all = [1; 4];
        all.iter_mut().zip(dims).for_each(|(to, from)| *to = *from as u32);
        let (rank, span) = (dims.len() as u8, Span::default());
        self.tensor(TensorDesc { dtype, rank, exponent: 0, dims: all, span, codebook: [0; 16] }, bytes)
    }

    /// The same with keys and values in 4 bits.
    pub fn with_cache4(mut self) -> Self {
        self.slots.iter_mut().filter(|slot| slot.kind.is_cache()).for_each(|slot| slot.kind = Kind::Cache4);
        self
    }

    /// The same with a transform of each head after its rotation.
    pub fn with_transformed_heads(mut self) -> Self {
        let ropes = self.body.iter_mut().filter(|op| op.code == code("rope"));
        ropes.for_each(|op| op.flags |= ops::rope::TRANSFORM);
        self
    }

    pub fn cache_slot(&mut self, heads: usize, head_dim: usize) -> u32 {
        let (heads, head_dim) = (heads as u32, head_dim as u32);
        self.slot(Slot { kind: Kind::Cache, rows: Rows::Context, frac: 0, cols: 1, heads, head_dim, offset: [0; 4] })
    }

    pub fn scratch_slot(&mut self) -> u32 {
        self.i32_slot(Rows::ThreadContext, 1, 0)
    }

    /// The same place with other fraction bits, as glu's result wants it.
    pub fn again(&mut self, slot: u32, frac: i16) -> u32 {
        self.slots.push(Slot { frac, ..self.slots[slot as usize] });
        self.slots.len() as u32 - 1
    }

    /// The end of the last slot, as coefficients.
    fn end(&self) -> [u64; 4] {
        let mut end = [0; 4];
        for slot in &self.slots {
            for ((end, size), start) in end.iter_mut().zip(slot.size()).zip(slot.offset) {
                *end = start.saturating_add(size).max(*end);
            }
        }
        end
    }

    pub fn plan(&self) -> Plan {
        Plan {
            slots: self.slots.len() as u32,
            max_context: self.max_context,
            vocab: self.vocab,
            logits: self.logits,
            source_vocab: self.source_vocab,
            start: 0,
        }
    }

    /// The sections' bytes in file order.
    pub fn sections(&self) -> Vec<(u32, Vec<u8>)> {
        let mut weights = Vec::new();
        let mut table = Vec::new();
        for (desc, bytes) in &self.tensors {
            weights.resize(align_up(weights.len() as u64) as usize, 0);
            let span = Span { offset: weights.len() as u64, bytes: bytes.len() as u64 };
            table.extend(TensorDesc { span, ..*desc }.to_bytes());
            weights.extend(bytes);
        }
        let mut parts = vec![&self.body, &self.head, &self.run, &self.reset];
        let mut ids = vec![entry::BODY, entry::HEAD, entry::RUN, entry::RESET];
        parts.extend(&self.encode);
        ids.extend(self.encode.iter().map(|_| entry::ENCODE));
        let (mut entries, mut first) = (Vec::new(), 0);
        for (ops, id) in parts.iter().zip(ids) {
            let count = ops.len() as u32;
            if count > 0 || id == entry::BODY || id == entry::HEAD {
                entries.push(Entry { id, first, count });
            }
            first += count;
        }
        let mut program = Vec::new();
        for word in [entries.len() as u32, first, 0, 0] {
            program.extend(word.to_le_bytes());
        }
        program.extend(entries.iter().flat_map(Entry::to_bytes));
        program.extend(parts.into_iter().flatten().flat_map(Op::to_bytes));
        let mut plan = self.plan().to_bytes().to_vec();
        plan.extend(self.slots.iter().flat_map(Slot::to_bytes));
        let mut sections = vec![
            (section::PROGRAM, program),
            (section::PLAN, plan),
            (section::TENSORS, table),
            (section::WEIGHTS, weights),
        ];
        let [inputs, outputs] = &self.ports;
        if !inputs.is_empty() || !outputs.is_empty() {
            let mut io = Vec::new();
            Ports::write(inputs, outputs, &mut |bytes| io.extend(bytes));
            sections.push((section::IO, io));
        }
        sections
    }

    /// The image.
    pub fn image(&self) -> Vec<u8> {
        assemble(&self.sections())
    }
}

/// An image of these sections.
pub fn assemble(sections: &[(u32, Vec<u8>)]) -> Vec<u8> {
    let mut end = (header::HEADER_BYTES + sections.len() * header::ENTRY_BYTES) as u64;
    let mut table = Vec::new();
    for (kind, bytes) in sections {
        let span = Span { offset: align_up(end), bytes: bytes.len() as u64 };
        table.push(Section { kind: *kind, crc: crc::crc32c(bytes), span });
        end = span.offset + span.bytes;
    }
    let mut file = Vec::new();
    header::write(&table, end, &mut |bytes| file.extend(bytes));
    for (section, (_, bytes)) in table.iter().zip(sections) {
        file.resize(section.span.offset as usize, 0);
        file.extend(bytes);
    }
    file
}

/// An op; missing arguments are zero.
pub fn op(code: u16, args: &[u32]) -> Op {
    let mut op = Op { code, flags: 0, args: [0; ARGS] };
    op.args[..args.len()].copy_from_slice(args);
    op
}

/// A port of so many elements as they are.
pub fn port(slot: u32, dtype: Dtype, elements: u32) -> Port {
    Port { slot, dtype, rank: 1, zero_point: 0, mantissa: 1, exponent: 0, dims: [elements, 1, 1, 1] }
}

pub fn code(name: &str) -> u16 {
    ops::TABLE.iter().find(|def| def.name == name).unwrap().code
}

/// `x` as mantissa (16 bits, normalised) and exponent: `x = mant * 2^-exp`.
pub fn mant_exp(x: f64) -> (u32, u32) {
    let exp = 15 - x.log2().floor() as i32;
    let mant = (x * 2f64.powi(exp)).round();
    if mant == 65536.0 { (32768, (exp - 1) as u32) } else { (mant as u32, exp as u32) }
}

/// `rms_norm`, its constants from `eps` and `width` as the quantizer computes them; `frac` of the input.
pub fn rms_norm(input: u32, out: u32, gamma: Option<u32>, eps: f64, width: usize, frac: i16) -> Op {
    let stored = (eps * width as f64 * 2f64.powi(2 * i32::from(frac))).round() as u64;
    let (mant, exp) = mant_exp((width as f64).sqrt());
    let gamma = gamma.unwrap_or(NONE);
    op(code("rms_norm"), &[input, out, gamma, stored as u32, (stored >> 32) as u32, mant, exp, width as u32])
}

/// `layer_norm`, its constants from `eps` as the quantizer computes them; `frac` of the input.
pub fn layer_norm(input: u32, out: u32, (gamma, beta): (u32, u32), eps: f64, width: usize, frac: i16) -> Op {
    let stored = (eps * (width as f64).powi(3) * 2f64.powi(2 * i32::from(frac))).round() as u64;
    let (mant, exp) = mant_exp((width as f64).sqrt());
    op(code("layer_norm"), &[input, out, gamma, beta, stored as u32, (stored >> 32) as u32, mant, exp])
}

pub fn attention(q: u32, cache: u32, scratch: u32, out: u32, heads: usize, head_dim: usize, window: u32) -> Op {
    let (mant, exp) = mant_exp(core::f64::consts::LOG2_E / (head_dim as f64).sqrt());
    op(code("attention"), &[q, cache, scratch, out, heads as u32, mant, exp, window])
}

/// An arena with guards before and behind, 16-byte aligned.
pub struct Arena {
    words: Vec<u128>,
    bytes: usize,
}

const GUARD: u128 = 0xD0D1_D2D3_D4D5_D6D7_D8D9_DADB_DCDD_DEDF;

impl Arena {
    pub fn new(bytes: usize, fill: impl FnMut() -> u8) -> Self {
        let mut arena = Self { words: vec![GUARD; bytes.div_ceil(16) + 8], bytes };
        arena.get().fill_with(fill);
        arena
    }

    pub fn get(&mut self) -> &mut [u8] {
        &mut bytemuck::cast_slice_mut(&mut self.words)[64..64 + self.bytes]
    }

    /// True while nothing outside has been written.
    pub fn guards_hold(&self) -> bool {
        let bytes: &[u8] = bytemuck::cast_slice(&self.words);
        let guard = GUARD.to_ne_bytes();
        let outside = (0..64).chain(64 + self.bytes..bytes.len());
        outside.into_iter().all(|i| bytes[i] == guard[i % 16])
    }
}

/// Opens an image that may be wrong, and runs it once where it opens: no panic, no error once it runs, no write outside the
/// arena. `None` where the image is refused; else whether a session opened, and so ran.
pub fn try_run(file: &[u8], fill: impl FnMut() -> u8) -> Option<bool> {
    let (image, limits) = (Image::open(file).ok()?, limits(1, 1));
    let mut arena = Arena::new(image.arena_bytes(limits).unwrap() as usize, fill);
    let opened = Session::new(&image, arena.get(), limits).map(|mut session| {
        session.run().unwrap();
        let mut work = session.begin_run().unwrap();
        while work.step_for(1).unwrap() == Progress::More {}
    });
    let opened = opened.is_ok();
    assert!(arena.guards_hold());
    Some(opened)
}

/// The kernels that `MOTE_KERNEL` names, or the best: every test of an op is one of a backend, too.
fn chosen_kernels() -> &'static Kernels {
    match std::env::var("MOTE_KERNEL") {
        Ok(name) => kernels::named(&name).expect("MOTE_KERNEL"),
        Err(_) => kernels::select(),
    }
}

/// Runs single ops over an image and an arena full of garbage.
pub struct Bench {
    pub builder: Builder,
    pub file: Vec<u8>,
    pub limits: Limits,
    pub arena: Arena,
    pub kernels: &'static Kernels,
    /// Units of the last op's pieces.
    pub pieces: u64,
}

impl Bench {
    /// `body` of the builder holds the ops to be tried: so they pass the image's checks.
    pub fn new(builder: &Builder, limits: Limits) -> Self {
        let file = builder.image();
        let bytes = Image::open(&file).unwrap().arena_bytes(limits).unwrap() as usize;
        let arena = Arena::new(bytes, || 0xA5);
        Self { builder: builder.clone(), file, limits, arena, kernels: chosen_kernels(), pieces: 0 }
    }

    fn range(&self, slot: u32) -> core::ops::Range<usize> {
        let range = self.builder.slots[slot as usize].range(self.limits).unwrap();
        range.start as usize..range.end as usize
    }

    /// All bytes of a slot.
    pub fn bytes(&mut self, slot: u32) -> &mut [u8] {
        let range = self.range(slot);
        &mut self.arena.get()[range]
    }

    /// Row `row` of an I32 slot.
    pub fn row(&mut self, slot: u32, row: usize) -> &mut [i32] {
        let range = self.range(slot);
        let Slot { cols, kind, .. } = self.builder.slots[slot as usize];
        assert_eq!(kind, Kind::I32);
        let stride = (cols as usize).next_multiple_of(4);
        let all: &mut [i32] = bytemuck::cast_slice_mut(&mut self.arena.get()[range]);
        &mut all[row * stride..][..cols as usize]
    }

    /// Row `row` of a Q8 slot: scale and codes, padding included.
    pub fn q8(&mut self, slot: u32, row: usize) -> (Scale, Vec<i8>) {
        let range = self.range(slot);
        let stride = self.builder.slots[slot as usize].stride_bytes() as usize;
        let bytes = &self.arena.get()[range][row * stride..][..stride];
        let mant = u32::from(u16::from_le_bytes([bytes[0], bytes[1]]));
        let exp = i32::from(i16::from_le_bytes([bytes[2], bytes[3]]));
        assert!(bytes[4..16].iter().all(|b| *b == 0));
        (Scale { mant, exp }, bytes[16..].iter().map(|b| *b as i8).collect())
    }

    /// Writes row `row` of a Q8 slot.
    pub fn put_q8(&mut self, slot: u32, row: usize, scale: Scale, codes: &[i8]) {
        let range = self.range(slot);
        let stride = self.builder.slots[slot as usize].stride_bytes() as usize;
        let bytes = &mut self.arena.get()[range][row * stride..][..stride];
        bytes.fill(0);
        bytes[..2].copy_from_slice(&(scale.mant as u16).to_le_bytes());
        bytes[2..4].copy_from_slice(&(scale.exp as i16).to_le_bytes());
        bytes[16..16 + codes.len()].copy_from_slice(bytemuck::cast_slice(codes));
    }

    /// Writes the elements of a plain tensor's slot.
    pub fn put(&mut self, slot: u32, values: &[i64]) {
        let kind = self.builder.slots[slot as usize].kind;
        let bytes = self.bytes(slot);
        match kind {
            Kind::I8 => bytes.iter_mut().zip(values).for_each(|(to, v)| *to = *v as u8),
            Kind::I16 => bytemuck::cast_slice_mut(bytes).iter_mut().zip(values).for_each(|(to, v)| *to = *v as i16),
            _ => bytemuck::cast_slice_mut(bytes).iter_mut().zip(values).for_each(|(to, v)| *to = *v as i32),
        }
    }

    /// The elements of a plain tensor's slot.
    pub fn got(&mut self, slot: u32) -> Vec<i64> {
        let Slot { kind, cols, .. } = self.builder.slots[slot as usize];
        let (bytes, cols) = (self.bytes(slot), cols as usize);
        match kind {
            Kind::I8 => bytes[..cols].iter().map(|b| i64::from(*b as i8)).collect(),
            Kind::I16 => bytemuck::cast_slice::<u8, i16>(bytes)[..cols].iter().map(|v| i64::from(*v)).collect(),
            _ => bytemuck::cast_slice::<u8, i32>(bytes)[..cols].iter().map(|v| i64::from(*v)).collect(),
        }
    }

    /// Runs one op for `rows` rows from `position` on: whole, then in pieces of some units, which must leave the same; on one thread also
    /// on several, one after the other and the last first, and side by side, with room for copies and without.
    pub fn run_with(&mut self, op: &Op, position: u32, tokens: &[u32], rows: u32, pool: &dyn Pool) {
        let image = Image::open(&self.file).unwrap();
        let limits = self.limits;
        ops::check_arena(&image, op, 0, limits).unwrap();
        let before = self.arena.get().to_vec();
        let def = ops::find(op.code).unwrap();
        let kernels = self.kernels;
        let bytes = ops::room(&image, Limits { threads: 2, ..limits });
        let run = |arena: &mut [u8], part: Part, pool: &dyn Pool, room: usize| {
            let (room, least) = (&mut vec![0xA5; room][..], 1);
            let mut run = Run {
                image: &image,
                arena,
                room,
                least,
                limits,
                tokens,
                position,
                source: 0,
                rows,
                row: 0,
                part,
                pool,
                kernels,
            };
            let units = units(&run, op).unwrap();
            (def.run)(&mut run, op).unwrap();
            units
        };
        let units = run(self.arena.get(), Part::WHOLE, pool, 0);
        assert!(self.arena.guards_hold());
        // From one unit at a time to all but one, another number each time.
        self.pieces = self.pieces % 7 + 1;
        let (whole, mut unit) = (std::mem::replace(&mut self.arena, Arena::new(before.len(), || 0)), 0);
        self.arena.get().copy_from_slice(&before);
        while unit < units.count {
            let part = units.part(unit, units.cost * self.pieces);
            assert!((1..=self.pieces as usize).contains(&part.count()));
            run(self.arena.get(), part, pool, 0);
            unit += part.count();
        }
        assert!(self.arena.guards_hold());
        // Threads share scratch as they come.
        let (mut whole, mut kept_elsewhere) = (whole, 0..0);
        if def.code == ops::conv2d_coded::OP.code {
            // A whole one may keep its patches elsewhere.
            let patches = image.slot(op.args[2]).unwrap().range(limits).unwrap();
            kept_elsewhere = patches.start as usize..patches.end as usize;
        }
        let forget = |arena: &mut Arena| arena.get()[kept_elsewhere.clone()].fill(0);
        [&mut whole, &mut self.arena].into_iter().for_each(forget);
        if pool.threads() > 1 {
            return;
        }
        assert!(self.arena.get() == whole.get(), "{}: {units:?}", def.name);
        let pools: [(&dyn Pool, usize); 4] =
            [(&Parts(2), bytes), (&Parts(3), bytes), (&Parts(2), 0), (&Threads(3), bytes)];
        // Real ones take long to make, and much longer where the processor is emulated.
        let has_real = self.pieces == 1 && cfg!(target_arch = "x86_64");
        let count = if has_real { pools.len() } else { pools.len() - 1 };
        for (at, (pool, room)) in pools.into_iter().take(count).enumerate() {
            self.arena.get().copy_from_slice(&before);
            // The second in two pieces.
            let first = if at == 1 { units.part(0, units.cost.saturating_mul(self.pieces)) } else { Part::WHOLE };
            run(self.arena.get(), first, pool, room);
            if at == 1 && first.count() < units.count {
                run(self.arena.get(), Part::from(first.count()), pool, room);
            }
            forget(&mut self.arena);
            assert!(self.arena.get() == whole.get(), "{}: {} threads, room of {room}", def.name, pool.threads());
        }
        assert!(self.arena.guards_hold());
    }

    pub fn run(&mut self, op: &Op, rows: u32) {
        self.run_with(op, 0, &[], rows, &Single);
    }

    /// Runs a net's op `times` times, whole and no more: for those who count instructions.
    pub fn repeat(&mut self, op: &Op, times: i64) {
        let image = Image::open(&self.file).unwrap();
        let (limits, kernels, part, pool, least) = (self.limits, self.kernels, Part::WHOLE, &Single, 1);
        for _ in 0..times {
            let arena = self.arena.get();
            let (image, tokens, room) = (&image, &[][..], &mut [][..]);
            let mut run = Run {
                image,
                arena,
                room,
                least,
                limits,
                tokens,
                position: 0,
                source: 0,
                rows: 1,
                row: 0,
                part,
                pool,
                kernels,
            };
            (ops::find(op.code).unwrap().run)(&mut run, op).unwrap();
        }
    }
}

/// Real threads, a scope a call.
pub struct Threads(pub usize);

// SAFETY: each part runs once, in a scope that ends before `run` returns.
unsafe impl Pool for Threads {
    fn threads(&self) -> usize {
        self.0
    }
    fn run(&self, parts: usize, job: &(dyn Fn(usize) + Sync)) {
        if cfg!(target_family = "wasm") {
            return (0..parts).for_each(job); // there are none
        }
        std::thread::scope(|scope| {
            for thread in 0..self.0.min(parts) {
                scope.spawn(move || (thread..parts).step_by(self.0).for_each(job));
            }
        });
    }
}

/// Parts as threads would have them, one after the other.
pub struct Parts(pub usize);

// SAFETY: each part runs once, before `run` returns.
unsafe impl Pool for Parts {
    fn threads(&self) -> usize {
        self.0
    }
    fn run(&self, parts: usize, job: &(dyn Fn(usize) + Sync)) {
        (0..parts).rev().for_each(job);
    }
}

/// `integer * 2^-frac`.
pub fn real(v: i32, frac: i16) -> f64 {
    f64::from(v) * 2f64.powi(-i32::from(frac))
}

/// A small decoder with random weights: two layers, grouped heads, sliding window in the second, q/k-norm, a rotated
/// down projection. All of the op table.
pub fn small_model(seed: u64) -> Builder {
    let r = &mut Random::new(seed);
    let (vocab, dim, heads, kv_heads, head_dim, hidden) = (37usize, 40usize, 4usize, 2usize, 8usize, 48usize);
    let (q_dim, kv_dim) = (heads * head_dim, kv_heads * head_dim);
    let (res, act) = (16i16, 20i16);
    let mut b = Builder { vocab: vocab as u32, ..Builder::new() };
    let table = b.matrix(&Matrix::like_a_model(r, vocab, dim, N8, 1.0));
    let batch = Rows::Batch;
    let x = b.i32_slot(batch, dim, res);
    let normed = b.i32_slot(batch, dim, act);
    let normed8 = b.q8_slot(batch, dim);
    let (q, k, v) = (b.i32_slot(batch, q_dim, act), b.i32_slot(batch, kv_dim, act), b.i32_slot(batch, kv_dim, act));
    let q_normed = b.i32_slot(batch, q_dim, act);
    let out = b.i32_slot(batch, q_dim, act);
    let out8 = b.q8_slot(batch, q_dim);
    let scratch = b.scratch_slot();
    let (gate, up) = (b.i32_slot(batch, hidden, act), b.i32_slot(batch, hidden, act));
    let product = b.again(gate, 18);
    let product8 = b.q8_slot(batch, hidden);
    let turns = |i: usize| 10000f64.powf(-(2.0 * i as f64) / head_dim as f64) / core::f64::consts::TAU;
    let steps: Vec<u64> = (0..head_dim / 2).map(|i| (turns(i) * 2f64.powi(64)) as u64).collect();
    let steps = b.vector64(&steps);
    b.body.push(op(code("embed"), &[x, table]));
    for layer in 0..2 {
        let cache = b.cache_slot(kv_heads, head_dim);
        let mut gamma = |b: &mut Builder, n: usize| {
            let values: Vec<i16> = (0..n).map(|_| r.range(8_000, 24_000) as i16).collect();
            b.vector16(&values, 14)
        };
        let (g1, g2, gq) = (gamma(&mut b, dim), gamma(&mut b, dim), gamma(&mut b, head_dim));
        let mut linear = |b: &mut Builder, rows: usize, cols: usize, dtype: Dtype| {
            b.matrix(&Matrix::like_a_model(r, rows, cols, dtype, 1.5 / (cols as f64).sqrt()))
        };
        let (wq, wk, wv) =
            (linear(&mut b, q_dim, dim, N4), linear(&mut b, kv_dim, dim, N4), linear(&mut b, kv_dim, dim, N8));
        let (wo, wg) = (linear(&mut b, dim, q_dim, N5), linear(&mut b, hidden, dim, T4));
        let (wu, wd) = (linear(&mut b, hidden, dim, T3), linear(&mut b, dim, hidden, T4));
        let bias: Vec<i32> = (0..q_dim).map(|i| (i as i32 - 16) << 14).collect();
        let bias = b.vector32(&bias, i32::from(act));
        let window = if layer == 1 { 5 } else { 0 };
        let matmul = |from: u32, weight: u32, bias: u32, to: u32| op(code("matmul"), &[from, weight, bias, to]);
        let add = |op: Op| Op { flags: ops::matmul::ACCUMULATE, ..op };
        b.body.extend([
            rms_norm(x, normed, Some(g1), 1e-5, dim, res),
            op(code("quantize"), &[normed, normed8, 0]),
            matmul(normed8, wq, bias, q),
            matmul(normed8, wk, NONE, k),
            matmul(normed8, wv, NONE, v),
            rms_norm(q, q_normed, Some(gq), 1e-6, head_dim, act),
            op(code("rope"), &[q_normed, steps, heads as u32, head_dim as u32]),
            op(code("rope"), &[k, steps, kv_heads as u32, head_dim as u32]),
            op(code("cache"), &[k, v, cache]),
            attention(q_normed, cache, scratch, out, heads, head_dim, window),
            op(code("quantize"), &[out, out8, 3]),
            add(matmul(out8, wo, NONE, x)),
            rms_norm(x, normed, Some(g2), 1e-5, dim, res),
            op(code("quantize"), &[normed, normed8, 0]),
            matmul(normed8, wg, NONE, gate),
            matmul(normed8, wu, NONE, up),
            op(code("glu"), &[gate, up, product]),
            op(code("quantize"), &[product, product8, 4]),
            add(matmul(product8, wd, NONE, x)),
        ]);
    }
    let one = Rows::One;
    let last = b.i32_slot(one, dim, res);
    let last_normed = b.i32_slot(one, dim, act);
    let last8 = b.q8_slot(one, dim);
    b.logits = b.i32_slot(one, vocab, 16);
    b.head.extend([
        op(code("select_row"), &[x, last]),
        rms_norm(last, last_normed, None, 1e-5, dim, res),
        op(code("quantize"), &[last_normed, last8, 0]),
        op(code("matmul"), &[last8, table, NONE, b.logits]),
    ]);
    b
}

/// Four numbers in one word, the first lowest.
pub fn word(bytes: [i64; 4]) -> u32 {
    u32::from_le_bytes(bytes.map(|b| b as u8))
}

/// NUMERICS.md, section 13.1, by exact division, not by shifts.
pub fn requantize(x: i64, m: i64, shift: i64, single: bool) -> i64 {
    let away = |n: i128, d: i128| (2 * n.abs() + d) / (2 * d) * n.signum();
    let up = |n: i128, d: i128| (2 * n + d).div_euclid(2 * d);
    if single {
        return up(i128::from(x) * i128::from(m), 1 << (31 - shift)) as i32 as i64;
    }
    let moved = (x << shift.max(0)) as i32;
    let high = up(i128::from(moved) * i128::from(m), 1 << 31);
    away(high, 1 << (-shift).max(0)) as i64
}

/// The same of int64, the multiplier in 16 bits.
pub fn requantize_wide(x: i64, m: i64, shift: i64) -> i64 {
    let m = ((m as f64 / 65_536.0).round() as i128).min(32_767);
    let (n, d) = (i128::from(x) * m, 1i128 << (15 - shift));
    (2 * n + d).div_euclid(2 * d) as i32 as i64
}

/// A small GPT-2 with random weights: learned positions, layer norms, biases, GELU in its three forms a layer each.
pub fn small_gpt(seed: u64) -> Builder {
    let r = &mut Random::new(seed);
    let (vocab, dim, heads, head_dim, hidden) = (37usize, 24usize, 3usize, 8usize, 40usize);
    let (res, act) = (16i16, 20i16);
    let mut b = Builder { vocab: vocab as u32, max_context: 64, ..Builder::new() };
    let table = b.matrix(&Matrix::like_a_model(r, vocab, dim, N8, 0.3));
    let positions = b.matrix(&Matrix::like_a_model(r, 64, dim, N8, 0.5));
    let batch = Rows::Batch;
    let (x, normed) = (b.i32_slot(batch, dim, res), b.i32_slot(batch, dim, act));
    let (q, k, v) = (b.i32_slot(batch, dim, act), b.i32_slot(batch, dim, act), b.i32_slot(batch, dim, act));
    let (out, inner) = (b.i32_slot(batch, dim, act), b.i32_slot(batch, hidden, act));
    let active = b.again(inner, 18);
    let (normed8, out8, active8) = (b.q8_slot(batch, dim), b.q8_slot(batch, dim), b.q8_slot(batch, hidden));
    let scratch = b.scratch_slot();
    let (mant, exp) = mant_exp(3.7);
    b.body.push(op(code("embed"), &[x, table, mant, exp, 2]));
    b.body.push(Op { flags: ops::embed::POSITIONS, ..op(code("embed"), &[x, positions]) });
    let gains = |b: &mut Builder, r: &mut Random, frac: i16| {
        let gamma: Vec<i16> = (0..dim).map(|_| r.range(8_000, 24_000) as i16).collect();
        let beta: Vec<i32> = (0..dim).map(|_| r.range(-1 << frac, 1 << frac) as i32).collect();
        (b.vector16(&gamma, 14), b.vector32(&beta, i32::from(frac)))
    };
    for function in 0..3 {
        let cache = b.cache_slot(heads, head_dim);
        let (g1, g2) = (gains(&mut b, r, act), gains(&mut b, r, act));
        let mut linear = |b: &mut Builder, from: u32, (rows, cols): (usize, usize), to: u32| {
            let weight = b.matrix(&Matrix::like_a_model(r, rows, cols, N4, 1.5 / (cols as f64).sqrt()));
            let frac = b.slots[to as usize].frac;
            let bias: Vec<i32> = (0..rows).map(|_| r.range(-1 << frac, 1 << frac) as i32).collect();
            let bias = b.vector32(&bias, i32::from(frac));
            let flags = if to == x { ops::matmul::ACCUMULATE } else { 0 };
            Op { flags, ..op(code("matmul"), &[from, weight, bias, to]) }
        };
        let square = (dim, dim);
        let [mq, mk, mv] = [q, k, v].map(|to| linear(&mut b, normed8, square, to));
        let mo = linear(&mut b, out8, square, x);
        let (m1, m2) = (linear(&mut b, normed8, (hidden, dim), inner), linear(&mut b, active8, (dim, hidden), x));
        b.body.extend([
            layer_norm(x, normed, g1, 1e-5, dim, res),
            op(code("quantize"), &[normed, normed8, 0]),
            mq,
            mk,
            mv,
            op(code("cache"), &[k, v, cache]),
            attention(q, cache, scratch, out, heads, head_dim, 0),
            op(code("quantize"), &[out, out8, 3]),
            mo,
            layer_norm(x, normed, g2, 1e-5, dim, res),
            op(code("quantize"), &[normed, normed8, 0]),
            m1,
            op(code("activation"), &[inner, active, function]),
            op(code("quantize"), &[active, active8, 3]),
            m2,
        ]);
    }
    let one = Rows::One;
    let (last, last_normed) = (b.i32_slot(one, dim, res), b.i32_slot(one, dim, act));
    let last8 = b.q8_slot(one, dim);
    let end = gains(&mut b, r, act);
    b.logits = b.i32_slot(one, vocab, 16);
    b.head.extend([
        op(code("select_row"), &[x, last]),
        layer_norm(last, last_normed, end, 1e-5, dim, res),
        op(code("quantize"), &[last_normed, last8, 0]),
        op(code("matmul"), &[last8, table, NONE, b.logits]),
    ]);
    b
}

/// A small encoder-decoder with random weights: two layers each, sinusoidal positions, ReLU, vocabularies of 29 and 37.
pub fn small_translator(seed: u64) -> Builder {
    let r = &mut Random::new(seed);
    let (source_vocab, vocab, dim, heads, head_dim, hidden) = (29usize, 37usize, 16usize, 2usize, 8usize, 40usize);
    let (res, act) = (16i16, 20i16);
    let mut b = Builder { vocab: vocab as u32, source_vocab: source_vocab as u32, max_context: 64, ..Builder::new() };
    let table = b.matrix(&Matrix::like_a_model(r, vocab, dim, N8, 0.3));
    let source_table = b.matrix(&Matrix::like_a_model(r, source_vocab, dim, N4, 0.3));
    let steps: Vec<u64> = (0..dim / 2).map(|i| (0.3f64.powi(i as i32 + 1) * 2f64.powi(64)) as u64).collect();
    let steps = b.vector64(&steps);
    let batch = Rows::Batch;
    let kept = b.i32_slot(Rows::Context, dim, res);
    let (x, normed) = (b.i32_slot(batch, dim, res), b.i32_slot(batch, dim, act));
    let (q, k, v) = (b.i32_slot(batch, dim, act), b.i32_slot(batch, dim, act), b.i32_slot(batch, dim, act));
    let (out, inner) = (b.i32_slot(batch, dim, act), b.i32_slot(batch, hidden, act));
    let active = b.again(inner, 18);
    let (normed8, out8, active8) = (b.q8_slot(batch, dim), b.q8_slot(batch, dim), b.q8_slot(batch, hidden));
    let scratch = b.scratch_slot();
    let [encoder_cache, self_1, cross_1, self_2, cross_2] = [(); 5].map(|()| b.cache_slot(heads, head_dim));
    let norm = |b: &mut Builder, r: &mut Random, from: u32, to: u32| {
        let gamma: Vec<i16> = (0..dim).map(|_| r.range(8_000, 24_000) as i16).collect();
        let beta: Vec<i32> = (0..dim).map(|_| r.range(-1 << act, 1 << act) as i32).collect();
        let gains = (b.vector16(&gamma, 14), b.vector32(&beta, i32::from(act)));
        layer_norm(from, to, gains, 1e-5, dim, res)
    };
    let linear = |b: &mut Builder, r: &mut Random, from: u32, (rows, cols): (usize, usize), to: u32| {
        let weight = b.matrix(&Matrix::like_a_model(r, rows, cols, N4, 1.5 / (cols as f64).sqrt()));
        let frac = b.slots[to as usize].frac;
        let bias: Vec<i32> = (0..rows).map(|_| r.range(-1 << frac, 1 << frac) as i32).collect();
        let bias = b.vector32(&bias, i32::from(frac));
        let flags = if to == x { ops::matmul::ACCUMULATE } else { 0 };
        Op { flags, ..op(code("matmul"), &[from, weight, bias, to]) }
    };
    let square = (dim, dim);
    let to8 = |from: u32, to: u32, log2: u32| op(code("quantize"), &[from, to, log2]);
    let over_source = |op: Op| Op { flags: ops::attention::SOURCE, ..op };
    let (load, keep) = (op(code("kept_rows"), &[x, kept]), op(code("kept_rows"), &[x, kept]));
    let keep = Op { flags: ops::kept_rows::KEEP, ..keep };
    let (mant, exp) = mant_exp(4.0f64);
    let mut stage = vec![
        Op { flags: ops::embed::SOURCE, ..op(code("embed"), &[x, source_table, mant, exp]) },
        op(code("sinusoid"), &[x, steps, 2]),
        keep,
    ];
    for _ in 0..2 {
        let ln = norm(&mut b, r, x, normed);
        let [mk, mv] = [k, v].map(|to| linear(&mut b, r, normed8, square, to));
        stage.extend([ln, to8(normed, normed8, 0), mk, mv, op(code("cache"), &[k, v, encoder_cache])]);
        b.encode.push(std::mem::take(&mut stage));
        let mq = linear(&mut b, r, normed8, square, q);
        let mo = linear(&mut b, r, out8, square, x);
        let ln2 = norm(&mut b, r, x, normed);
        let m1 = linear(&mut b, r, normed8, (hidden, dim), inner);
        let m2 = linear(&mut b, r, active8, (dim, hidden), x);
        b.encode.push(vec![
            load,
            ln,
            to8(normed, normed8, 0),
            mq,
            over_source(attention(q, encoder_cache, scratch, out, heads, head_dim, 0)),
            to8(out, out8, 3),
            mo,
            ln2,
            to8(normed, normed8, 0),
            m1,
            op(code("activation"), &[inner, active, ops::activation::RELU]),
            to8(active, active8, 3),
            m2,
            keep,
        ]);
        stage.push(load);
    }
    stage.extend([norm(&mut b, r, x, normed), to8(normed, normed8, 0)]);
    for cross in [cross_1, cross_2] {
        let [mk, mv] = [k, v].map(|to| linear(&mut b, r, normed8, square, to));
        stage.extend([mk, mv, op(code("cache"), &[k, v, cross])]);
    }
    b.encode.push(stage);
    b.body.extend([op(code("embed"), &[x, table, mant, exp]), op(code("sinusoid"), &[x, steps, 2])]);
    for (cache, cross) in [(self_1, cross_1), (self_2, cross_2)] {
        let ln = norm(&mut b, r, x, normed);
        let [mq, mk, mv] = [q, k, v].map(|to| linear(&mut b, r, normed8, square, to));
        let mo = linear(&mut b, r, out8, square, x);
        let (ln2, mq2) = (norm(&mut b, r, x, normed), linear(&mut b, r, normed8, square, q));
        let (mo2, ln3) = (linear(&mut b, r, out8, square, x), norm(&mut b, r, x, normed));
        let m1 = linear(&mut b, r, normed8, (hidden, dim), inner);
        let m2 = linear(&mut b, r, active8, (dim, hidden), x);
        b.body.extend([
            ln,
            to8(normed, normed8, 0),
            mq,
            mk,
            mv,
            op(code("cache"), &[k, v, cache]),
            attention(q, cache, scratch, out, heads, head_dim, 0),
            to8(out, out8, 3),
            mo,
            ln2,
            to8(normed, normed8, 0),
            mq2,
            over_source(attention(q, cross, scratch, out, heads, head_dim, 0)),
            to8(out, out8, 3),
            mo2,
            ln3,
            to8(normed, normed8, 0),
            m1,
            op(code("activation"), &[inner, active, ops::activation::RELU]),
            to8(active, active8, 3),
            m2,
        ]);
    }
    let one = Rows::One;
    let (last, last_normed) = (b.i32_slot(one, dim, res), b.i32_slot(one, dim, act));
    let last8 = b.q8_slot(one, dim);
    let end = norm(&mut b, r, last, last_normed);
    b.logits = b.i32_slot(one, vocab, 16);
    let bias: Vec<i32> = (0..vocab).map(|_| r.range(-1 << 16, 1 << 16) as i32).collect();
    let bias = b.vector32(&bias, 16);
    b.head.extend([
        op(code("select_row"), &[x, last]),
        end,
        to8(last_normed, last8, 0),
        op(code("matmul"), &[last8, table, bias, b.logits]),
    ]);
    b
}

/// The encoder of [`small_translator`] alone, which gives the mean of the rows of so many positions (0: of all).
pub fn small_embedder(seed: u64, most: u32) -> Builder {
    let mut b = small_translator(seed);
    let kept = b.encode[1][0].args[1];
    let Slot { cols, frac, .. } = b.slots[kept as usize];
    b.logits = b.i32_slot(Rows::One, cols as usize, frac);
    b.head = vec![op(code("mean_rows"), &[kept, b.logits, most])];
    (b.vocab, b.body) = (0, vec![]);
    b
}

/// Asserts that a measured error is below the bound stated in NUMERICS.md, and prints it (`--nocapture`).
pub fn measured(what: &str, worst: f64, bound: f64) {
    println!("{what}: measured {worst:.4e} (2^{:.2}), bound {bound:.4e}", worst.log2());
    assert!(worst <= bound, "{what}: measured {worst:e}, bound {bound:e}");
}

/// What one op is tried with: limits of one thread.
pub fn limits(batch: u32, context: u32) -> Limits {
    Limits { batch, context, threads: 1 }
}

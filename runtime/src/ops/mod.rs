//! Ops: what programs are made of, one file each.
//!
//! An op is three functions: which slots it touches, a check made once when the image is opened (indices, types,
//! shapes), and the run. To add one: copy a neighbour's file, add a row to [`DECODER`], [`CONVNET`] or [`CODED`], define it in NUMERICS.md.
//!
//! `check` and `run` return `None` for anything amiss; after `check` has passed, `run` only fails where its own
//! `get`s cannot be proven away by the compiler, never in practice.

// Of ops that no feature names nobody asks the units.
#![cfg_attr(not(all(feature = "decoder", feature = "coded")), allow(dead_code))]

pub mod activation;
pub mod add;
pub mod arg_max;
pub mod arithmetic;
pub mod attention;
pub mod average_pool2d;
pub mod batch_matmul;
pub mod cache;
pub mod cast;
mod coded;
pub mod conv2d;
pub mod conv2d_coded;
pub mod copy;
pub mod cost;
pub mod cut;
pub mod depthwise_conv2d;
pub mod embed;
pub mod embedding_bag;
pub mod fill;
pub mod fully_connected;
pub mod gather;
pub mod gather_coded;
pub mod glu;
pub mod gru;
pub mod hypot;
pub mod kept_rows;
mod layer;
pub mod layer_norm;
pub mod lookup;
pub mod lstm;
pub mod matmul;
pub mod max_pool2d;
pub mod maximum;
pub mod mean_rows;
pub mod mul;
pub mod norm;
pub mod prelu;
pub mod quantize;
pub mod recurrent;
pub mod reduce;
pub mod requantize;
pub mod resize;
pub mod rms_norm;
pub mod rope;
pub mod select_row;
pub mod sigmoid16;
pub mod signal;
pub mod sinusoid;
pub mod softmax;
pub mod softmax16;
pub mod squared_difference;
mod tensor;
pub mod top_k;
pub mod transpose_conv2d;
pub mod window;

use core::cell::Cell;
use core::num::NonZeroUsize;

use cost::Part;
use tensor::Plain;

use crate::error::{Error, Result};
use crate::fixed::Scale;
use crate::image::plan::{Kind, Q8_HEAD, Rows, Slot};
use crate::image::program::{NONE, Op, entry};
use crate::image::{Image, Limits, TensorDesc, VOUCHED, ensure};
use crate::kernels::scalar::int8;
use crate::kernels::{Isa, Kernels, rows};
use crate::view::{self, Pool, meet};

/// A row of the op table.
#[derive(Clone, Copy, Debug)]
pub struct OpDef {
    /// Code in the program.
    pub code: u16,
    /// Name, for `mote inspect`.
    pub name: &'static str,
    /// How many arguments it takes; those beyond are zero.
    pub args: usize,
    /// Flags it knows. An image that uses another was made for a later runtime, and is refused.
    pub flags: u16,
    /// Arguments that are slots.
    pub slots: &'static [usize],
    /// Which of them may overlap in the arena; all others lie apart.
    pub overlap: Overlap,
    /// Checks an op of an image.
    pub check: fn(&Image<'_>, &Op) -> Option<()>,
    /// Runs it.
    pub run: fn(&mut Run<'_>, &Op) -> Option<()>,
}

/// Which slots of an op may overlap in the arena: pairs of arguments, an input before the output that may lie on it.
///
/// Such an op reads and writes single elements of the arena in a fixed order (`Run::cells`), so it cannot fault however its
/// slots lie. Its numbers are right if what it writes is read by no later part of it; the quantizer plans the arena so
/// (`quantize/src/plan/units.rs`), and may turn the order around ([`BACKWARD`]).
#[derive(Clone, Copy, Debug)]
pub enum Overlap {
    /// None.
    Apart,
    /// Element `i` of the output follows from elements `i` of the inputs, and is written when those have been read. (Two
    /// inputs may be a pair, too.)
    Elements(&'static [(usize, usize)]),
    /// The output is computed in *units* of at most four pixels side by side in a row, all channels; a unit may be written
    /// in any order and while it is read.
    Units(&'static [(usize, usize)]),
    /// The same of units of some number of pixels, in the order of the image, that are all read before the first is written.
    Gathered(&'static [(usize, usize)]),
}

impl Overlap {
    /// The pairs.
    #[must_use]
    pub fn pairs(self) -> &'static [(usize, usize)] {
        match self {
            Self::Apart => &[],
            Self::Elements(pairs) | Self::Units(pairs) | Self::Gathered(pairs) => pairs,
        }
    }
}

/// Flag of ops whose slots may overlap: units, or elements, from the last to the first.
pub const BACKWARD: u16 = 2;

/// Ops of language models and word vectors.
pub static DECODER: [&OpDef; 15] = [
    &embed::OP,
    &select_row::OP,
    &rms_norm::OP,
    &quantize::OP,
    &matmul::OP,
    &rope::OP,
    &cache::OP,
    &attention::OP,
    &glu::OP,
    &layer_norm::OP,
    &activation::OP,
    &embedding_bag::OP,
    &sinusoid::OP,
    &kept_rows::OP,
    &mean_rows::OP,
];

/// Ops of nets of int8 and int16, as TensorFlow Lite defines them.
pub static CONVNET: [&OpDef; 36] = [
    &conv2d::OP,
    &depthwise_conv2d::OP,
    &fully_connected::OP,
    &transpose_conv2d::OP,
    &average_pool2d::OP,
    &max_pool2d::OP,
    &add::OP,
    &softmax::OP,
    &lookup::OP,
    &copy::OP,
    &fill::OP,
    &mul::OP,
    &maximum::OP,
    &squared_difference::OP,
    &hypot::OP,
    &reduce::OP,
    &gather::OP,
    &gather::SLOT,
    &requantize::OP,
    &arg_max::OP,
    &top_k::OP,
    &resize::OP,
    &batch_matmul::OP,
    &prelu::OP,
    &sigmoid16::OP,
    &softmax16::OP,
    &arithmetic::OP,
    &cast::OP,
    &signal::window::OP,
    &signal::auto_scale::OP,
    &signal::rfft::OP,
    &signal::energy::OP,
    &signal::filter_bank::OP,
    &signal::spectral_subtraction::OP,
    &signal::pcan::OP,
    &signal::log::OP,
];

/// Ops of nets that Mote has quantized from floats, beside those of [`CONVNET`].
pub static CODED: [&OpDef; 5] = [&conv2d_coded::OP, &lstm::OP, &gru::OP, &norm::OP, &gather_coded::OP];

/// Ops of a kind, each in the file that defines it.
pub type Set = &'static [&'static OpDef];

/// Ops that an image may use.
pub type Table = &'static [OpDef];

/// The sets of ops that this build knows.
const SETS: &[Set] = &[
    #[cfg(feature = "decoder")]
    &DECODER,
    #[cfg(feature = "convnet")]
    &CONVNET,
    #[cfg(feature = "coded")]
    &CODED,
];

/// The ops that this build knows. What no feature names is not linked.
pub static TABLE: Table = &flatten::<{ count() }>();

const fn count() -> usize {
    let (mut count, mut set) = (0, 0);
    while set < SETS.len() {
        count += SETS[set].len();
        set += 1;
    }
    count
}

const fn flatten<const N: usize>() -> [OpDef; N] {
    let mut rows = [embed::OP; N];
    let (mut set, mut at, mut row) = (0, 0, 0);
    while row < N {
        if at < SETS[set].len() {
            rows[row] = *SETS[set][at];
            if VOUCHED {
                rows[row].check = |_, _| None; // is not called, and what it stands for not linked
            }
            (at, row) = (at + 1, row + 1);
        } else {
            (set, at) = (set + 1, 0);
        }
    }
    rows
}

/// The definition of an op's code.
#[must_use]
pub fn find(code: u16) -> Option<&'static OpDef> {
    find_in(TABLE, code)
}

/// The definition of an op's code in `table`.
#[inline(never)] // called from a few places, all of them cold; smaller firmware
pub(crate) fn find_in(table: Table, code: u16) -> Option<&'static OpDef> {
    table.iter().find(|def| def.code == code)
}

/// The rows of [`TABLE`] with these codes. Firmware that opens its image with a table of the ops which that image uses
/// ([`Image::open_with`]) links no others:
///
/// ```
/// use mote_runtime::ops;
/// static OPS: [ops::OpDef; 2] = ops::select([5, 9]); // matmul, glu
/// # assert_eq!(OPS.iter().map(|op| op.name).collect::<Vec<_>>(), ["matmul", "glu"]);
/// ```
///
/// # Panics
/// This build does not know a code. In a `static`, where it belongs, that is an error of compilation.
#[must_use]
pub const fn select<const N: usize>(codes: [u16; N]) -> [OpDef; N] {
    let mut rows = [embed::OP; N];
    let mut row = 0;
    while row < N {
        let mut at = 0;
        while at < TABLE.len() && TABLE[at].code != codes[row] {
            at += 1;
        }
        assert!(at < TABLE.len(), "this build knows no op of this code");
        rows[row] = TABLE[at];
        row += 1;
    }
    rows
}

/// Checks one op of an image.
#[must_use]
pub fn check(image: &Image<'_>, op: &Op) -> Option<()> {
    let def = image.op(op.code)?;
    ensure(op.flags & !def.flags == 0 && op.args.iter().skip(def.args).all(|arg| *arg == 0))?;
    (def.check)(image, op)
}

/// Checks that an op of entry point `id` works on rows which exist there: the body on the rows of a step, the head on
/// one row, to which [`select_row`] or [`mean_rows`] leads, and programs without tokens on one row. So no result depends on how tokens are cut into steps.
#[must_use]
pub fn check_rows(image: &Image<'_>, op: &Op, id: u32) -> Option<()> {
    let def = image.op(op.code)?;
    let one = |which: &usize| Some(any_slot(image, op, *which)?.rows == Rows::One);
    if def.code == embed::OP.code {
        ensure((op.flags & embed::SOURCE != 0) == (id == entry::ENCODE) || op.flags & embed::POSITIONS != 0)?;
    }
    match id {
        entry::BODY | entry::ENCODE => ensure(def.slots.iter().all(|s| one(s) == Some(false))),
        entry::HEAD if [select_row::OP.code, mean_rows::OP.code].contains(&def.code) => Some(()),
        entry::HEAD | entry::RUN | entry::RESET => ensure(def.slots.iter().all(|s| one(s) == Some(true))),
        _ => Some(()),
    }
}

/// Checks that the slots of an op lie apart from each other at these limits, but for those that may overlap. In the arena they
/// all do: it ends where the highest one does.
///
/// # Errors
/// [`Error::Op`].
pub fn check_arena(image: &Image<'_>, op: &Op, index: u32, limits: Limits) -> Result<()> {
    apart(image, op, limits).ok_or(Error::Op { index, code: op.code })
}

fn apart(image: &Image<'_>, op: &Op, limits: Limits) -> Option<()> {
    let def = image.op(op.code)?;
    for (i, first) in def.slots.iter().enumerate() {
        let a = image.place(arg(op, *first)?, limits)?;
        for second in def.slots.iter().skip(i + 1) {
            let b = image.place(arg(op, *second)?, limits)?;
            // No `ensure`: of a vouched image, too, it depends on the limits.
            (!meet(&a, &b) || def.overlap.pairs().contains(&(*first, *second))).then_some(())?;
        }
    }
    Some(())
}

/// Bytes that ops which work on several threads want behind the arena: what one thread reads and another writes is copied before. As many
/// as the largest input has that such an output lies on; none for one thread.
#[cfg(feature = "threads")]
#[must_use]
pub fn room(image: &Image<'_>, limits: Limits) -> usize {
    let mut most = 0;
    let mut index = 0;
    while let Some(op) = &image.program().op(index).filter(|_| limits.threads > 1) {
        index += 1;
        let pairs = match image.op(op.code).map(|def| def.overlap) {
            Some(Overlap::Units(pairs) | Overlap::Gathered(pairs)) => pairs,
            _ => &[],
        };
        for (input, output) in pairs {
            let place = |which: usize| arg(op, which).and_then(|slot| image.place(slot, limits));
            if let (Some(a), Some(b)) = (place(*input), place(*output)) {
                most = if meet(&a, &b) { most.max(a.len()) } else { most };
            }
        }
    }
    most
}

/// What a running op sees.
pub struct Run<'r> {
    /// The image.
    pub image: &'r Image<'r>,
    /// The arena.
    pub arena: &'r mut [u8],
    /// Bytes behind the arena for copies of inputs ([`room`]); fewer may do.
    #[cfg(feature = "threads")]
    pub room: &'r mut [u8],
    /// Products below which a piece of an op is not worth a thread of its own: [`cut::LEAST`].
    #[cfg(feature = "threads")]
    pub least: usize,
    /// What the session was opened for.
    pub limits: Limits,
    /// Tokens of this step.
    pub tokens: &'r [u32],
    /// Position of the step's first token.
    pub position: u32,
    /// Positions of the source that is encoded, or being encoded.
    pub source: u32,
    /// Rows of this step.
    pub rows: u32,
    /// Row that [`select_row`] takes.
    pub row: u32,
    /// Which units of the op are to be done ([`cost`]).
    pub part: Part,
    /// Threads.
    pub pool: &'r dyn Pool,
    /// Inner loops.
    pub kernels: &'r Kernels,
}

impl Run<'_> {
    /// The bytes of several slots at once.
    pub(crate) fn slots<const N: usize>(&mut self, slots: [&Slot; N]) -> Option<[&mut [u8]; N]> {
        split_slots(self.arena, self.limits, slots)
    }

    /// The elements of several slots at once, wherever they lie: what one slot's cells are set to is what another's there
    /// are.
    #[inline(never)]
    pub(crate) fn cells<T: bytemuck::Pod, const N: usize>(&mut self, slots: [&Plain; N]) -> Option<[&[Cell<T>]; N]> {
        let mut cells: [&[Cell<T>]; N] = [&[]; N];
        self.find_cells(&slots, &mut cells)?;
        Some(cells)
    }

    /// One copy, however many slots there are.
    #[inline(never)]
    fn find_cells<'c, T: bytemuck::Pod>(&'c mut self, slots: &[&Plain], cells: &mut [&'c [Cell<T>]]) -> Option<()> {
        let all = view::as_cells::<T>(self.arena)?;
        for (to, slot) in cells.iter_mut().zip(slots) {
            *to = all.get(slot.place(self.image, self.limits)?.start / size_of::<T>()..)?.get(..slot.cols as usize)?;
        }
        Some(())
    }

    /// Rows of a slot that this step uses.
    pub(crate) fn rows_of(&self, slot: &Slot) -> usize {
        if slot.rows == Rows::Batch { self.rows as usize } else { 1 }
    }
}

/// The bytes of several slots of an arena, which must be apart from each other.
pub(crate) fn split_slots<'a, const N: usize>(
    arena: &'a mut [u8],
    limits: Limits,
    slots: [&Slot; N],
) -> Option<[&'a mut [u8]; N]> {
    let mut ranges = [const { 0..0usize }; N];
    for (range, slot) in ranges.iter_mut().zip(slots) {
        *range = slot.place(limits)?;
    }
    arena.get_disjoint_mut(ranges).ok()
}

/// Calls `each` for all items in an op's order: the last first if its flag [`BACKWARD`] says so.
pub(crate) fn turned<T>(op: &Op, items: impl DoubleEndedIterator<Item = T>, each: impl FnMut(T)) {
    if op.flags & BACKWARD == 0 { items.for_each(each) } else { items.rev().for_each(each) }
}

/// The place of item `n` of `count` in an op's order, where [`turned`]'s closure does not do.
pub(crate) fn in_turn(op: &Op, n: usize, count: usize) -> usize {
    int8::in_turn(op.flags & BACKWARD != 0, n, count)
}

/// Argument `which` of an op.
pub(crate) fn arg(op: &Op, which: usize) -> Option<u32> {
    op.args.get(which).copied()
}

/// Argument `which` as a slot of any kind. As of all functions that give a whole record, callers borrow from the `Option`: what they take
/// out of it is copied, which was 1.6 KB of a language model's firmware.
#[inline(never)]
pub(crate) fn any_slot(image: &Image<'_>, op: &Op, which: usize) -> Option<Slot> {
    image.slot_at(arg(op, which)?)
}

/// Argument `which` as a tensor's record.
#[inline(never)]
pub(crate) fn desc_arg(image: &Image<'_>, op: &Op, which: usize) -> Option<TensorDesc> {
    image.tensor_at(arg(op, which)?)
}

/// Argument `which` as a slot of kind `kind`, neither a thread's scratch nor rows kept by position.
#[inline(never)]
pub(crate) fn slot_arg(image: &Image<'_>, op: &Op, which: usize, kind: Kind) -> Option<Slot> {
    let slot = any_slot(image, op, which)?;
    let scattered = matches!(slot.rows, Rows::ThreadContext | Rows::Context);
    (slot.kind == kind && !scattered).then_some(slot)
}

/// Argument `which` as rows kept by position.
#[inline(never)]
pub(crate) fn kept_arg(image: &Image<'_>, op: &Op, which: usize) -> Option<Slot> {
    let slot = any_slot(image, op, which)?;
    (slot.kind == Kind::I32 && slot.rows == Rows::Context).then_some(slot)
}

/// Argument `which` as a cache of keys and values.
#[inline(never)]
pub(crate) fn cache_arg(image: &Image<'_>, op: &Op, which: usize) -> Option<Slot> {
    any_slot(image, op, which).filter(|slot| slot.kind.is_cache())
}

/// Argument `which` as an int8 tensor's slot.
pub(crate) fn i8_arg(image: &Image<'_>, op: &Op, which: usize) -> Option<Slot> {
    slot_arg(image, op, which, Kind::I8)
}

/// The elements of an I8 slot.
pub(crate) fn i8_cols<'a>(slot: &Slot, bytes: &'a mut [u8]) -> Option<&'a mut [i8]> {
    view::as_i8_mut(bytes).get_mut(..slot.cols as usize)
}

/// Four numbers of a byte each, the first lowest.
pub(crate) fn bytes_arg(op: &Op, which: usize) -> Option<[u8; 4]> {
    arg(op, which).map(u32::to_le_bytes)
}

/// Argument `which` unless it is [`NONE`].
pub(crate) fn optional(op: &Op, which: usize) -> Option<u32> {
    arg(op, which).filter(|a| *a != NONE)
}

/// Input and output in rows of `len`, side by side; a rest is left out. Not `chunks` zipped with `chunks_mut`: that divides by
/// `len`, and once its code is shared the compiler does not see that `len` is not zero.
pub(crate) fn rows_of<'a, T>(
    mut input: &'a [T],
    mut output: &'a mut [T],
    len: usize,
) -> impl Iterator<Item = (&'a [T], &'a mut [T])> {
    core::iter::from_fn(move || {
        let (from, after) = input.split_at_checked(len).filter(|_| len > 0)?;
        let (to, rest) = core::mem::take(&mut output).split_at_mut_checked(len)?;
        (input, output) = (after, rest);
        Some((from, to))
    })
}

/// How many times `each` is in `all`; `None` if that is 0, or not whole.
#[inline(never)] // called from many places, all of them cold: less firmware than a product of each
pub(crate) fn times_in(each: usize, all: usize) -> Option<NonZeroUsize> {
    NonZeroUsize::new(if all.checked_rem(each)? == 0 { all / each } else { 0 })
}

/// The rows of an I32 slot.
pub(crate) struct I32Rows<'a> {
    pub data: &'a mut [i32],
    pub stride: usize,
    cols: usize,
}

impl<'a> I32Rows<'a> {
    pub(crate) fn new(slot: &Slot, bytes: &'a mut [u8]) -> Option<Self> {
        let stride = (slot.stride_bytes() / 4) as usize;
        Some(Self { data: view::as_i32(bytes)?, stride, cols: slot.cols as usize })
    }

    pub(crate) fn row(&mut self, row: usize) -> Option<&mut [i32]> {
        self.data.get_mut(row.checked_mul(self.stride)?..)?.get_mut(..self.cols)
    }
}

/// Quantizes `values` into the bytes of one row of a Q8 slot.
pub(crate) fn put_q8_row(isa: Isa, row: &mut [u8], values: &[i32], frac: i32) {
    if let Some((head, codes)) = row.split_first_chunk_mut::<Q8_HEAD>() {
        let [a, b, c, d] = pack(rows::quantize(isa, values, frac, view::as_i8_mut(codes)));
        *head = [0; Q8_HEAD];
        [head[0], head[1], head[2], head[3]] = [a, b, c, d];
    }
}

/// A scale in four bytes: mantissa u16, exponent i16. Whatever bytes are read, no arithmetic on them overflows.
pub(crate) fn pack(scale: Scale) -> [u8; 4] {
    let [m0, m1] = (scale.mant as u16).to_le_bytes();
    let [e0, e1] = (scale.exp as i16).to_le_bytes();
    [m0, m1, e0, e1]
}

pub(crate) fn unpack([m0, m1, e0, e1]: [u8; 4]) -> Scale {
    Scale { mant: u32::from(u16::from_le_bytes([m0, m1])), exp: i32::from(i16::from_le_bytes([e0, e1])) }
}

/// `slot[from .. from + len]`, row after row, as `start` offsets; used where a row holds several heads.
pub(crate) fn part<T>(row: &mut [T], start: usize, len: usize) -> Option<&mut [T]> {
    row.get_mut(start..)?.get_mut(..len)
}

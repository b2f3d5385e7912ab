//! A session: one image, one arena, one position.
//!
//! [`Session::prefill`] runs tokens through the body of the program, a batch at a time, filling the caches;
//! [`Session::logits`] runs the head for one row of the last batch. How the tokens are cut into batches changes no bit.
//!
//! A program without tokens has inputs and outputs: fill each [`Session::input`], [`Session::run`], read each
//! [`Session::output`]. What such a program keeps from one run to the next (the state of a recurrent or streaming model)
//! lies in slots that nothing else uses. The entry point RESET gives them their first contents: when the session is opened, and
//! at [`Session::reset`]. Nothing else in the arena is read before it is written.
//!
//! Models with an encoder take a source first: [`Session::encode`]. An encoder alone, without a body, gives the embedding of
//! its source: [`Session::embed`].
//!
//! Each of these can be begun and then done in pieces: [`work`].

pub mod work;

use crate::error::{Error, Result};
use crate::image::plan::{HAS_TOKENS, Kind};
use crate::image::program::entry;
use crate::image::{Element, Image, Limits, Op, Port, Slot, VOUCHED};
use crate::kernels::{self, Kernels};
use crate::ops::cost::Part;
use crate::ops::{self, Run};
use crate::view::{self, Pool, Single};
use work::Work;

/// Runs a program over an arena: a language model's by tokens, any other by inputs and outputs.
pub struct Session<'a> {
    image: &'a Image<'a>,
    arena: &'a mut [u8],
    /// What [`ops::room`] wants.
    #[cfg(feature = "threads")]
    room: &'a mut [u8],
    limits: Limits,
    pool: &'a dyn Pool,
    kernels: &'a Kernels,
    position: u32,
    rows: u32,
    /// Positions of the source that has been encoded.
    source: u32,
    /// A run was begun of a net that keeps something, and has not ended.
    #[cfg(feature = "steps")]
    unfinished: bool,
}

impl<'a> Session<'a> {
    /// Opens a session on the caller's thread. `arena` must be 16-byte aligned and hold at least
    /// [`Image::arena_bytes`] bytes; what it held before does not matter. State is as after [`Session::reset`].
    ///
    /// # Errors
    /// [`Error::Limits`], [`Error::ArenaSize`], [`Error::ArenaAlignment`], [`Error::Op`].
    pub fn new(image: &'a Image<'a>, arena: &'a mut [u8], limits: Limits) -> Result<Self> {
        Self::with_pool(image, arena, limits, &Single)
    }

    /// Opens a session that works on several threads; `pool.threads()` beyond `limits.threads` stay idle in attention. Limits of one
    /// thread leave ops of nets whose output lies on their input to one thread, too.
    ///
    /// # Errors
    /// As [`Session::new`].
    pub fn with_pool(image: &'a Image<'a>, arena: &'a mut [u8], limits: Limits, pool: &'a dyn Pool) -> Result<Self> {
        let needed = usize::try_from(image.arena_bytes(limits)?).unwrap_or(usize::MAX);
        let found = arena.len();
        if !arena.as_ptr().addr().is_multiple_of(16) {
            return Err(Error::ArenaAlignment);
        }
        let arena = arena.get_mut(..needed).ok_or(Error::ArenaSize { found, needed })?;
        #[cfg(feature = "threads")]
        let (arena, room) = arena.split_at_mut(needed.saturating_sub(ops::room(image, limits)));
        // Without tokens slots lie where they lie, whatever the limits: of a vouched image that has been seen, too.
        if HAS_TOKENS || !VOUCHED {
            let mut index = 0;
            while let Some(op) = &image.program().op(index) {
                ops::check_arena(image, op, index, limits)?;
                index += 1;
            }
        }
        let kernels = kernels::select();
        let mut session = Self {
            image,
            arena,
            #[cfg(feature = "threads")]
            room,
            limits,
            pool,
            kernels,
            position: 0,
            rows: 0,
            source: 0,
            #[cfg(feature = "steps")]
            unfinished: false,
        };
        session.reset()?;
        Ok(session)
    }

    /// Forgets everything: all positions, and what earlier runs left for later ones. Inputs have to be filled again.
    ///
    /// # Errors
    /// [`Error::Op`].
    pub fn reset(&mut self) -> Result<()> {
        self.rewind(0);
        // If there is no such entry point, nothing is kept.
        if let Ok(work) = Work::begin(self, entry::RESET, &[], 0) {
            work.finish()?;
        }
        #[cfg(feature = "steps")]
        {
            self.unfinished = false;
        }
        Ok(())
    }

    /// Uses these kernels instead of the best ones: for tests and benchmarks. No bit changes.
    pub fn set_kernels(&mut self, kernels: &'a Kernels) {
        self.kernels = kernels;
    }

    /// The kernels in use.
    #[must_use]
    pub fn kernels(&self) -> &'static str {
        self.kernels.name
    }

    /// Positions filled so far.
    #[must_use]
    pub fn position(&self) -> u32 {
        self.position
    }

    /// Forgets all positions from `position` on. Never fails: a position not yet reached changes nothing.
    pub fn rewind(&mut self, position: u32) {
        self.position = self.position.min(position);
        self.rows = 0;
    }

    /// Runs a source through the encoder, in batches, and forgets all positions of the target: [`Session::prefill`] then begins
    /// the target, which [`Session::rewind`] to 0 may do again over the same source. A source may be as long as the context.
    ///
    /// # Errors
    /// [`Error::Token`], [`Error::ContextFull`], [`Error::NoSource`] for none: the one before is still there.
    /// [`Error::Entry`] for models without an encoder.
    pub fn encode(&mut self, source: &[u32]) -> Result<()> {
        self.begin_encode(source)?.finish()
    }

    /// Begins [`Session::encode`]. The source before is forgotten.
    ///
    /// # Errors
    /// As [`Session::encode`].
    pub fn begin_encode<'w>(&'w mut self, source: &'w [u32]) -> Result<Work<'w, 'a>> {
        self.begin_source(source, false)
    }

    fn begin_source<'w>(&'w mut self, source: &'w [u32], embeds: bool) -> Result<Work<'w, 'a>> {
        let vocab = self.image.plan().source_vocab;
        if vocab == 0 || !HAS_TOKENS {
            return Err(Error::Entry { id: entry::ENCODE });
        }
        if let Some(id) = source.iter().copied().find(|t| *t >= vocab) {
            return Err(Error::Token { id, vocab });
        }
        let context = self.limits.context;
        let longer = Error::ContextFull { used: 0, context };
        let length = u32::try_from(source.len()).ok().filter(|n| *n <= context).ok_or(longer)?;
        if length == 0 {
            return Err(Error::NoSource);
        }
        (self.source, self.position, self.rows) = (0, 0, 0);
        Work::begin_source(self, source, embeds)
    }

    /// Runs a source through an encoder that has no decoder. Returns its embedding: numbers in fixed point with
    /// [`Session::logits_frac_bits`], not normalised, which are there until the next call.
    ///
    /// # Errors
    /// As [`Session::encode`]. [`Error::Entry`] for models that write, too.
    pub fn embed(&mut self, source: &[u32]) -> Result<&mut [i32]> {
        // Not the work's own slice: that would borrow the source for as long.
        self.begin_embedding(source)?.finish()?;
        self.head()
    }

    /// Begins [`Session::embed`], whose result [`Work::logits`] returns. The source before is forgotten.
    ///
    /// # Errors
    /// As [`Session::embed`].
    pub fn begin_embedding<'w>(&'w mut self, source: &'w [u32]) -> Result<Work<'w, 'a>> {
        if !self.image.plan().embeds() {
            return Err(Error::Entry { id: entry::HEAD });
        }
        self.begin_source(source, true)
    }

    /// Appends tokens to the context, in batches. Afterwards [`Session::logits`] serves the rows of the last batch.
    ///
    /// # Errors
    /// [`Error::Token`], [`Error::ContextFull`], [`Error::NoSource`]: nothing has been appended. [`Error::Entry`] for other
    /// programs.
    pub fn prefill(&mut self, tokens: &[u32]) -> Result<()> {
        self.begin_prefill(tokens)?.finish()
    }

    /// Begins [`Session::prefill`]. Until it is done there are no logits to ask for, and nothing has been appended.
    ///
    /// # Errors
    /// As [`Session::prefill`].
    pub fn begin_prefill<'w>(&'w mut self, tokens: &'w [u32]) -> Result<Work<'w, 'a>> {
        if self.image.plan().source_vocab != 0 && self.source == 0 {
            return Err(Error::NoSource);
        }
        let vocab = self.image.plan().vocab;
        if vocab == 0 || !HAS_TOKENS {
            return Err(Error::Entry { id: entry::BODY });
        }
        if let Some(id) = tokens.iter().copied().find(|t| *t >= vocab) {
            return Err(Error::Token { id, vocab });
        }
        let full = Error::ContextFull { used: self.position, context: self.limits.context };
        let end = u32::try_from(tokens.len()).ok().and_then(|n| self.position.checked_add(n)).ok_or(full)?;
        if end > self.limits.context {
            return Err(full);
        }
        if tokens.is_empty() {
            return Ok(Work::begin(self, entry::BODY, tokens, 0)?.nothing());
        }
        self.rows = 0;
        Work::begin(self, entry::BODY, tokens, 0)
    }

    /// Rows of the last batch.
    #[must_use]
    pub fn rows(&self) -> u32 {
        self.rows
    }

    /// Computes the logits of row `row` of the last batch: `vocab` values in fixed point with
    /// [`Session::logits_frac_bits`]. They may be changed (repetition penalty) until the next call.
    ///
    /// # Errors
    /// [`Error::Row`], [`Error::Entry`].
    pub fn logits(&mut self, row: u32) -> Result<&mut [i32]> {
        self.begin_logits(row)?.logits()
    }

    /// Begins [`Session::logits`], whose result [`Work::logits`] returns.
    ///
    /// # Errors
    /// As [`Session::logits`].
    pub fn begin_logits(&mut self, row: u32) -> Result<Work<'_, 'a>> {
        if row >= self.rows {
            return Err(Error::Row { row, rows: self.rows });
        }
        Work::begin(self, entry::HEAD, &[], row)
    }

    /// Computes the logits of rows `0..rows` of the last batch into `out`, `vocab` of each: those of [`Session::logits`], but if the head
    /// ends in a matrix, as heads do, its weights are read once for all rows. `room` is scratch, [`Session::head_bytes`] a row.
    ///
    /// # Errors
    /// [`Error::Row`], [`Error::Entry`]. [`Error::ArenaSize`] for scratch, counted in bytes, or results, counted in logits, that are too
    /// short.
    pub fn logits_of(&mut self, rows: u32, room: &mut [u8], out: &mut [i32]) -> Result<()> {
        if rows > self.rows {
            return Err(Error::Row { row: rows - 1, rows: self.rows });
        }
        if rows == 0 {
            return Ok(());
        }
        let (count, logits) = (rows as usize, self.logits_slot()?);
        let cols = logits.cols as usize;
        let (found, needed) = (out.len(), count.saturating_mul(cols));
        let out = count.checked_mul(cols).and_then(|n| out.get_mut(..n)).ok_or(Error::ArenaSize { found, needed })?;
        let Some((index, op, slot)) = self.last_matrix() else {
            for (row, out) in (0..rows).zip(out.chunks_exact_mut(cols.max(1))) {
                out.copy_from_slice(self.logits(row)?);
            }
            return Ok(());
        };
        let bad = Error::Op { index, code: op.code };
        let bytes = slot.stride_bytes() as usize;
        let (found, needed) = (room.len(), count.saturating_mul(bytes));
        let room =
            count.checked_mul(bytes).and_then(|n| room.get_mut(..n)).ok_or(Error::ArenaSize { found, needed })?;
        for (row, to) in (0..rows).zip(room.chunks_exact_mut(bytes.max(1))) {
            Work::begin(self, entry::HEAD, &[], row)?.but_the_last().finish()?;
            let [from] = ops::split_slots(self.arena, self.limits, [&slot]).ok_or(bad)?;
            to.copy_from_slice(from.get(..bytes).ok_or(bad)?);
        }
        let how = ops::matmul::How { pool: self.pool, kernels: self.kernels, part: Part::WHOLE };
        ops::matmul::product(self.image, &op, how, [&slot, &logits], (room, count), (out, cols)).ok_or(bad)
    }

    /// Bytes of scratch that [`Session::logits_of`] needs for a row.
    #[must_use]
    pub fn head_bytes(&self) -> usize {
        self.last_matrix().map_or(0, |(.., slot)| slot.stride_bytes() as usize)
    }

    /// The matmul at the head's end that makes the logits, with its index and its input's slot.
    fn last_matrix(&self) -> Option<(u32, Op, Slot)> {
        let (index, op) = self.image.program().entry(entry::HEAD).ok()?.last()?;
        let makes = op.code == ops::matmul::OP.code && op.flags == 0 && ops::arg(&op, 3)? == self.image.plan().logits;
        makes.then_some((index, op, ops::any_slot(self.image, &op, 0)?))
    }

    /// What the head has left in its slot.
    fn head(&mut self) -> Result<&mut [i32]> {
        let missing = Error::Slot { index: self.image.plan().logits };
        let slot = &self.image.slot_at(self.image.plan().logits);
        let slot = slot.as_ref().ok_or(missing)?;
        let [bytes] = ops::split_slots(self.arena, self.limits, [slot]).ok_or(missing)?;
        let all = view::as_i32(bytes).ok_or(missing)?;
        all.get_mut(..slot.cols as usize).ok_or(missing)
    }

    /// Logits of the last token that was appended.
    ///
    /// # Errors
    /// As [`Session::logits`].
    pub fn last_logits(&mut self) -> Result<&mut [i32]> {
        self.logits(self.rows.wrapping_sub(1))
    }

    /// Fraction bits of the logits: `logit = integer * 2^-bits`.
    #[must_use]
    pub fn logits_frac_bits(&self) -> u32 {
        self.logits_slot().map_or(0, |slot| slot.frac.max(0).unsigned_abs().into())
    }

    fn logits_slot(&self) -> Result<Slot> {
        self.image.slot(self.image.plan().logits)
    }

    /// Input `index` of a program without tokens, to be filled before [`Session::run`], which may overwrite it. `T` is
    /// the type of its elements: `session.input::<i8>(0)`.
    ///
    /// # Errors
    /// [`Error::Port`], [`Error::PortType`].
    pub fn input<T: Element>(&mut self, index: u32) -> Result<&mut [T]> {
        self.port(false, index)
    }

    /// Computes the outputs from the inputs.
    ///
    /// # Errors
    /// [`Error::Entry`] for language models.
    pub fn run(&mut self) -> Result<()> {
        self.begin_run()?.finish()
    }

    /// Begins [`Session::run`]. Until it is done the inputs may be overwritten, and the outputs are anything.
    ///
    /// # Errors
    /// As [`Session::run`]; [`Error::Unfinished`].
    pub fn begin_run(&mut self) -> Result<Work<'_, 'a>> {
        #[cfg(feature = "steps")]
        {
            if self.unfinished {
                return Err(Error::Unfinished);
            }
            self.unfinished = self.image.program().entries().any(|e| e.id == entry::RESET);
        }
        Work::begin(self, entry::RUN, &[], 0)
    }

    /// Output `index` of the last [`Session::run`], with elements of type `T`.
    ///
    /// # Errors
    /// [`Error::Port`], [`Error::PortType`].
    pub fn output<T: Element>(&mut self, index: u32) -> Result<&[T]> {
        self.port(true, index).map(|o| &*o)
    }

    /// Input `index` as bytes, whatever its type: integers in this machine's byte order.
    ///
    /// # Errors
    /// [`Error::Port`].
    pub fn input_bytes(&mut self, index: u32) -> Result<&mut [u8]> {
        self.port_bytes(false, index)
    }

    /// Output `index` of the last [`Session::run`] as bytes, whatever its type: integers in this machine's byte order.
    ///
    /// # Errors
    /// [`Error::Port`].
    pub fn output_bytes(&mut self, index: u32) -> Result<&[u8]> {
        self.port_bytes(true, index).map(|o| &*o)
    }

    fn port<T: Element>(&mut self, is_output: bool, index: u32) -> Result<&mut [T]> {
        match self.image.ports().port(is_output, index) {
            Some(Port { dtype: found, .. }) if found != T::DTYPE => {
                Err(Error::PortType { index, found, expected: T::DTYPE })
            }
            _ => view::as_elements(self.port_bytes(is_output, index)?).ok_or(Error::Port { index }),
        }
    }

    fn port_bytes(&mut self, is_output: bool, index: u32) -> Result<&mut [u8]> {
        let missing = Error::Port { index };
        let place = self.image.ports().port(is_output, index).and_then(|port| {
            // Just what its slot holds.
            let slot = &self.image.slot_at(port.slot);
            let slot = slot.as_ref()?;
            let width = match slot.kind {
                Kind::I32 => 4,
                Kind::I16 => 2,
                _ => 1,
            };
            let start = slot.place(self.limits)?.start;
            Some(start..start.checked_add(slot.cols as usize * width)?)
        });
        place.and_then(|place| self.arena.get_mut(place)).ok_or(missing)
    }

    /// What an op sees that runs for these tokens; for those that were given last, if it takes none.
    fn sight<'s>(&'s mut self, tokens: &'s [u32], (position, source): (u32, u32), row: u32) -> Run<'s> {
        let rows = if tokens.is_empty() { self.rows } else { tokens.len() as u32 };
        Run {
            image: self.image,
            arena: self.arena,
            #[cfg(feature = "threads")]
            room: self.room,
            #[cfg(feature = "threads")]
            least: ops::cut::LEAST,
            limits: self.limits,
            tokens,
            position,
            source,
            rows,
            row,
            part: Part::WHOLE,
            pool: self.pool,
            kernels: self.kernels,
        }
    }
}

//! Work that a session has begun: run to its end at once, or in pieces.
//!
//! [`Session::run`], [`Session::prefill`], [`Session::logits`], [`Session::encode`] and [`Session::embed`] are
//! [`Session::begin_run`] and so on, then [`Work::finish`]: there is one loop over the program. With the feature `steps` the same
//! loop stops where a budget ends, inside a long op if need be (`ops/cost.rs`), and goes on there later; no budget changes a bit.
//!
//! ```text
//! for each stage (one, or an encoder's several), for each batch of tokens (or once):
//!   for each op:
//!     for each piece of it
//! ```
//!
//! What the session knows (positions, rows, source) changes when work is done, not while it goes on. So work that is given up, or
//! forgotten, leaves a session that can be used: see [`Work::abandon`].

#[cfg(feature = "steps")]
use core::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use super::Session;
use crate::error::{Error, Result};
use crate::image::plan::HAS_TOKENS;
use crate::image::program::{Entry, entry};
#[cfg(feature = "steps")]
use crate::ops::cost::{Part, units};

/// Work under way; it borrows the session until it is done or given up.
#[must_use = "nothing is computed before `finish` or `step_for`"]
pub struct Work<'w, 'a> {
    session: &'w mut Session<'a>,
    /// The stage that is run: its place among the program's entry points, and it.
    at: usize,
    stage: Entry,
    /// The op that comes next, counted in the stage.
    op: u32,
    /// The unit of that op that comes next.
    #[cfg(feature = "steps")]
    unit: usize,
    /// Tokens of this batch and of those after it, and all tokens.
    rest: &'w [u32],
    tokens: &'w [u32],
    /// Position of the batch's first token, and of the source's end.
    position: u32,
    source: u32,
    /// Row whose logits are wanted.
    row: u32,
    /// Whether the head comes after the encoder.
    embeds: bool,
    done: bool,
}

/// How far work is.
#[cfg(feature = "steps")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Progress {
    /// There is more to do.
    More,
    /// All is done.
    Done,
}

impl<'w, 'a> Work<'w, 'a> {
    /// Begins at entry point `id`.
    pub(super) fn begin(session: &'w mut Session<'a>, id: u32, tokens: &'w [u32], row: u32) -> Result<Self> {
        let (at, stage) = session.image.program().stage(id, 0).ok_or(Error::Entry { id })?;
        let (position, source) = (session.position, session.source);
        Ok(Self {
            session,
            at,
            stage,
            op: 0,
            #[cfg(feature = "steps")]
            unit: 0,
            rest: tokens,
            tokens,
            position,
            source,
            row,
            embeds: false,
            done: false,
        })
    }

    /// As [`Work::begin`] of an encoder, whose positions begin at 0.
    pub(super) fn begin_source(session: &'w mut Session<'a>, source: &'w [u32], embeds: bool) -> Result<Self> {
        let mut work = Self::begin(session, entry::ENCODE, source, 0)?;
        (work.position, work.source, work.embeds) = (0, source.len() as u32, embeds);
        Ok(work)
    }

    /// Work that is done already.
    pub(super) fn nothing(mut self) -> Self {
        self.done = true;
        self
    }

    /// All but the last op.
    pub(super) fn but_the_last(mut self) -> Self {
        self.stage.count = self.stage.count.saturating_sub(1);
        self
    }

    /// Does all that is left.
    ///
    /// # Errors
    /// [`Error::Op`].
    pub fn finish(mut self) -> Result<()> {
        self.go(u64::MAX)
    }

    /// Does all that is left of [`Session::begin_logits`] or [`Session::begin_embedding`] and returns what they computed, as
    /// [`Session::logits`] does.
    ///
    /// # Errors
    /// [`Error::Op`]. [`Error::Entry`] for other work, which is finished.
    pub fn logits(mut self) -> Result<&'w mut [i32]> {
        self.go(u64::MAX)?;
        if self.stage.id != entry::HEAD {
            return Err(Error::Entry { id: entry::HEAD });
        }
        let session = self.session;
        session.head()
    }

    /// Runs ops until `budget` is used up, as [`Work::step_for`] describes, or all is done.
    fn go(&mut self, budget: u64) -> Result<()> {
        #[cfg(feature = "steps")]
        let (budget, mut left) = (budget.max(1), budget.max(1));
        #[cfg(not(feature = "steps"))]
        let _ = budget;
        let program = *self.session.image.program();
        while !self.done {
            while self.op < self.stage.count {
                let index = self.stage.first.wrapping_add(self.op);
                let op = &program.op(index);
                let op = op.as_ref().ok_or(Error::Op { index, code: 0 })?;
                let bad = Error::Op { index, code: op.code };
                let def = self.session.image.op(op.code).ok_or(bad)?;
                let mut run = self.session.sight(self.batch(), (self.position, self.source), self.row);
                #[cfg(feature = "steps")]
                let mut more = false;
                #[cfg(feature = "steps")]
                if budget == u64::MAX {
                    // What ops cost matters to nobody.
                    run.part = Part::from(self.unit);
                } else {
                    let units = units(&run, op).ok_or(bad)?;
                    // The first piece is done whatever it costs.
                    if left < units.cost && left < budget {
                        return Ok(());
                    }
                    run.part = units.part(self.unit, left);
                    left = left.saturating_sub(units.cost.saturating_mul(run.part.count() as u64));
                    self.unit += run.part.count();
                    more = self.unit < units.count;
                }
                (def.run)(&mut run, op).ok_or(bad)?;
                #[cfg(feature = "steps")]
                {
                    if more {
                        continue;
                    }
                    self.unit = 0;
                }
                self.op += 1;
            }
            self.next();
        }
        Ok(())
    }

    /// Tokens of this batch; none if the stage takes none.
    fn batch(&self) -> &'w [u32] {
        self.rest.get(..self.session.limits.batch as usize).unwrap_or(self.rest)
    }

    /// A stage has run for a batch: goes on to the next batch, the next stage, or the end, where the session learns of it.
    fn next(&mut self) {
        self.op = 0;
        if !HAS_TOKENS {
            #[cfg(feature = "steps")]
            if self.stage.id == entry::RUN {
                self.session.unfinished = false;
            }
            self.done = true;
            return;
        }
        let rows = self.batch().len();
        self.position = self.position.wrapping_add(rows as u32);
        self.rest = self.rest.get(rows..).unwrap_or_default();
        if !self.rest.is_empty() {
            return;
        }
        let session = &mut *self.session;
        let program = session.image.program();
        match self.stage.id {
            entry::ENCODE => {
                if let Some((at, stage)) = program.stage(entry::ENCODE, self.at + 1) {
                    (self.at, self.stage, self.rest, self.position) = (at, stage, self.tokens, 0);
                    return;
                }
                session.source = self.source;
                if let Some((_, head)) = program.stage(entry::HEAD, 0).filter(|_| self.embeds) {
                    (self.stage, self.position) = (head, 0);
                    return;
                }
            }
            entry::BODY => (session.position, session.rows) = (self.position, rows as u32),
            #[cfg(feature = "steps")]
            entry::RUN => session.unfinished = false,
            _ => {}
        }
        self.done = true;
    }
}

#[cfg(feature = "steps")]
impl<'w, 'a> Work<'w, 'a> {
    /// Goes on for about `budget`, counted in multiply-accumulates ([`ops::cost`](crate::ops::cost)). Something is done whatever the
    /// budget: at least one unit of an op, the least that there is; beyond that only what the budget pays for.
    ///
    /// # Errors
    /// [`Error::Op`].
    pub fn step_for(&mut self, budget: u64) -> Result<Progress> {
        self.go(budget)?;
        Ok(if self.done { Progress::Done } else { Progress::More })
    }

    /// Does all that is left, `budget` at a time, and lets other tasks run in between: the future wakes itself, so that any
    /// executor will do. Dropped before it is ready, it leaves the work where it is.
    ///
    /// ```
    /// # use mote_runtime::{Result, Session};
    /// async fn classify(session: &mut Session<'_>) -> Result<()> {
    ///     session.begin_run()?.by_steps(50_000).await
    /// }
    /// ```
    pub fn by_steps(&mut self, budget: u64) -> Steps<'_, 'w, 'a> {
        Steps { work: self, budget }
    }

    /// Gives the work up. A language model is where it was before: what was to be appended is not, and logits can be asked for after
    /// the next [`Session::prefill`]. A source that was being encoded is forgotten. Of a net the inputs have to be filled again;
    /// one that keeps something from run to run is reset.
    ///
    /// Work that is dropped is given up, too, but for the reset: such a net then refuses to run ([`Error::Unfinished`]) until
    /// [`Session::reset`].
    ///
    /// # Errors
    /// [`Error::Op`].
    pub fn abandon(self) -> Result<()> {
        if self.session.unfinished { self.session.reset() } else { Ok(()) }
    }
}

/// [`Work::by_steps`].
#[cfg(feature = "steps")]
#[must_use = "futures do nothing unless polled"]
pub struct Steps<'s, 'w, 'a> {
    work: &'s mut Work<'w, 'a>,
    budget: u64,
}

#[cfg(feature = "steps")]
impl Future for Steps<'_, '_, '_> {
    type Output = Result<()>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { work, budget } = self.get_mut();
        match work.step_for(*budget) {
            Ok(Progress::More) => {
                context.waker().wake_by_ref();
                Poll::Pending
            }
            Ok(Progress::Done) => Poll::Ready(Ok(())),
            Err(why) => Poll::Ready(Err(why)),
        }
    }
}

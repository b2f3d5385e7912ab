//! The image: one file, read in place.
//!
//! [`Image::open`] checks header, program, plan and tensor table once, without touching the weights; after it has
//! returned, every index, shape and range that the program uses is known to be good. [`Image::verify`] also sums the
//! large sections (weights, text, metadata), which is a pass over the whole file.
//!
//! Read next: [`header`] (bytes of the file), [`tensors`] (weight layout), [`plan`] (memory), [`program`] (ops).

pub mod crc;
pub mod header;
pub mod io;
pub mod plan;
pub mod program;
pub mod tensors;

pub use header::{MAGIC, VERSION, section};
pub use io::{Element, Port, Ports};
pub use plan::{Limits, Plan, Slot};
pub use program::{Entry, Op, Program};
pub use tensors::{Coded, Dtype, TensorDesc, Vector16};

use core::ops::Range;

use crate::error::{Error, Result};
use crate::ops;
use header::Section;
use plan::{HAS_TOKENS, Kind, Rows};
use program::entry;

/// Whether any op of this build works on inputs and outputs rather than tokens; if none does, their table is dead weight.
const HAS_PORTS: bool = cfg!(feature = "convnet");

/// An image that has been checked.
#[derive(Clone, Copy, Debug)]
pub struct Image<'a> {
    file: &'a [u8],
    /// The section table, checked.
    sections: &'a [[u8; header::ENTRY_BYTES]],
    program: Program<'a>,
    plan: Plan,
    plan_bytes: &'a [u8],
    tensor_table: &'a [u8],
    weights: &'a [u8],
    ports: Ports<'a>,
    ops: ops::Table,
}

impl<'a> Image<'a> {
    /// Checks an image and finds its parts. Cost: the size of program, plan and tensor table, not of the weights.
    ///
    /// # Errors
    /// Whatever is wrong with the bytes; see [`Error`].
    pub fn open(file: &'a [u8]) -> Result<Self> {
        Self::open_with(file, ops::TABLE)
    }

    /// As [`Image::open`], with the ops of `table` ([`ops::select`]) and no others: firmware then links only those.
    ///
    /// # Errors
    /// As [`Image::open`]; [`Error::Op`] for an op that the table lacks.
    pub fn open_with(file: &'a [u8], table: ops::Table) -> Result<Self> {
        let mut found = header::Found::default();
        let sections = header::read(file, &mut found)?;
        for kind in [section::PROGRAM, section::PLAN, section::TENSORS, section::WEIGHTS] {
            found.get(kind as usize).copied().flatten().ok_or(Error::Absent { section: kind })?;
        }
        let of = |kind: u32| found[kind as usize].unwrap_or_default();
        let image = Self {
            file,
            sections,
            program: Program::read(of(section::PROGRAM))?,
            plan: Plan::read(of(section::PLAN))?,
            plan_bytes: of(section::PLAN),
            tensor_table: of(section::TENSORS),
            weights: of(section::WEIGHTS),
            ports: match found[section::IO as usize] {
                Some(bytes) if HAS_PORTS => Ports::read(bytes)?,
                _ => Ports::default(),
            },
            ops: table,
        };
        image.check()?;
        Ok(image)
    }

    fn check(&self) -> Result<()> {
        if !self.tensor_table.len().is_multiple_of(tensors::RECORD_BYTES) {
            return Err(Error::Section { section: section::TENSORS });
        }
        for index in 0..self.tensor_count() {
            let inside = || self.tensor_at(index).as_ref()?.span.of(self.weights);
            inside().ok_or(Error::Tensor { index })?;
        }
        let mut index = 0;
        while let Some(op) = &self.program.op(index) {
            ops::check(self, op).ok_or(Error::Op { index, code: op.code })?;
            index += 1;
        }
        if HAS_PORTS {
            self.ports.check(self)?;
        }
        if !HAS_TOKENS {
            let Plan { vocab, source_vocab, start, .. } = self.plan;
            return if vocab | source_vocab | start == 0 { Ok(()) } else { Err(Error::Entry { id: entry::BODY }) };
        }
        for entry in self.program.entries() {
            for (index, op) in self.program.ops_of(entry) {
                ops::check_rows(self, &op, entry.id).ok_or(Error::Op { index, code: op.code })?;
            }
        }
        let Plan { vocab, logits: index, source_vocab, start, .. } = self.plan;
        let encodes = self.program.entry(entry::ENCODE).is_ok();
        if encodes != (source_vocab != 0) || (start != 0 && start >= vocab) || (start != 0 && !encodes) {
            return Err(Error::Entry { id: entry::ENCODE });
        }
        if vocab == 0 && self.program.entry(entry::HEAD).is_err() {
            return Ok(()); // no tokens, no logits
        }
        let logits = self.slot(index)?;
        let is_row = logits.kind == Kind::I32 && logits.rows == Rows::One && logits.frac >= 0;
        if is_row && (vocab == 0 || logits.cols == vocab) { Ok(()) } else { Err(Error::Slot { index }) }
    }

    /// Sums every section, weights included: reads the whole file.
    ///
    /// # Errors
    /// [`Error::Checksum`].
    pub fn verify(&self) -> Result<()> {
        for s in self.sections() {
            let bad = Error::Checksum { section: s.kind };
            if crc::crc32c(s.span.of(self.file).ok_or(bad)?) != s.crc {
                return Err(bad);
            }
        }
        Ok(())
    }

    /// Sections in file order.
    pub fn sections(&self) -> impl Iterator<Item = Section> {
        self.sections.iter().filter_map(Section::read)
    }

    /// The bytes of a section.
    ///
    /// # Errors
    /// [`Error::Absent`].
    pub fn section(&self, kind: u32) -> Result<&'a [u8]> {
        let found = self.sections().find(|s| s.kind == kind).ok_or(Error::Absent { section: kind })?;
        found.span.of(self.file).ok_or(Error::Section { section: kind })
    }

    /// The program.
    #[must_use]
    pub fn program(&self) -> &Program<'a> {
        &self.program
    }

    /// The plan's head.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The definition of an op's code, if the image was opened with that op.
    #[must_use]
    pub fn op(&self, code: u16) -> Option<&'static ops::OpDef> {
        ops::find_in(self.ops, code)
    }

    /// Inputs and outputs; none for language models.
    #[must_use]
    pub fn ports(&self) -> &Ports<'a> {
        &self.ports
    }

    /// Number of tensors.
    #[must_use]
    pub fn tensor_count(&self) -> u32 {
        (self.tensor_table.len() / tensors::RECORD_BYTES) as u32
    }

    /// Record of tensor `index`.
    ///
    /// # Errors
    /// [`Error::Tensor`].
    pub fn tensor(&self, index: u32) -> Result<TensorDesc> {
        self.tensor_at(index).ok_or(Error::Tensor { index })
    }

    /// As [`Self::tensor`].
    pub(crate) fn tensor_at(&self, index: u32) -> Option<TensorDesc> {
        TensorDesc::read(self.tensor_table, index)
    }

    /// Slot `index`.
    ///
    /// # Errors
    /// [`Error::Slot`].
    pub fn slot(&self, index: u32) -> Result<Slot> {
        self.slot_at(index).ok_or(Error::Slot { index })
    }

    /// As [`Self::slot`].
    pub(crate) fn slot_at(&self, index: u32) -> Option<Slot> {
        plan::slot(self.plan_bytes, index)
    }

    /// The bytes of slot `index` in an arena of these limits.
    #[inline(never)]
    pub(crate) fn place(&self, index: u32, limits: Limits) -> Option<Range<usize>> {
        self.slot_at(index).as_ref()?.place(limits)
    }

    /// The coded matrix `index`; `None` if it is none.
    #[must_use]
    pub fn coded(&self, index: u32) -> Option<Coded<'a>> {
        Coded::new(&self.tensor_at(index)?, self.weights)
    }

    /// The int16 vector `index`; `None` if it is none.
    #[must_use]
    pub fn vector16(&self, index: u32) -> Option<Vector16<'a>> {
        Vector16::new(&self.tensor_at(index)?, self.weights)
    }

    /// The bytes of tensor `index` if it has type `dtype`.
    #[must_use]
    pub fn raw(&self, index: u32, dtype: Dtype) -> Option<&'a [u8]> {
        let desc = &self.tensor_at(index);
        let desc = desc.as_ref()?;
        if desc.dtype == dtype { desc.span.of(self.weights) } else { None }
    }

    /// Exact bytes of arena that a session with `limits` needs: where the highest slot ends.
    ///
    /// # Errors
    /// [`Error::Limits`].
    pub fn arena_bytes(&self, limits: Limits) -> Result<u64> {
        let bad = Error::Limits { max_context: self.plan.max_context };
        let Limits { batch, context, threads } = limits;
        if batch == 0 || context == 0 || threads == 0 || context > self.plan.max_context {
            return Err(bad);
        }
        let mut most = 0;
        for index in 0..self.plan.slots {
            let range = self.slot_at(index).as_ref().and_then(|slot| slot.range(limits)).ok_or(bad)?;
            most = range.end.max(most);
        }
        Ok(most)
    }
}

//! The image: one file, read in place.
//!
//! [`Image::open`] checks header, program, plan and tensor table once, without touching the weights; after it has
//! returned, every index, shape and range that the program uses is known to be good. [`Image::verify`] also sums the
//! large sections (weights, text, metadata), which is a pass over the whole file.
//!
//! Read next: [`header`] (bytes of the file), [`tensors`] (weight layout), [`plan`] (memory), [`program`] (ops).

#[cfg(not(feature = "vouched"))]
mod check;
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

/// Whether any op of this build works on inputs and outputs rather than tokens; if none does, their table is dead weight.
const HAS_PORTS: bool = cfg!(feature = "convnet");

/// Whether firmware was built for one image, which was checked then (`Image::vouched`): nothing is asked of its records again.
pub(crate) const VOUCHED: bool = cfg!(feature = "vouched");

/// `Some` if the condition, which is one of the image's bytes, holds: checks read as a list. Of a vouched image all hold.
pub(crate) fn ensure(condition: bool) -> Option<()> {
    (VOUCHED || condition).then_some(())
}

/// `why` if the condition, which is one of the image's bytes, does not hold. Of a vouched image all hold.
pub(crate) fn ensure_or(condition: bool, why: Error) -> Result<()> {
    if VOUCHED || condition { Ok(()) } else { Err(why) }
}

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
    /// Opens the one image that this firmware was built for, which `Image::open` has checked then: whether it is that one, the checksums
    /// of header and small sections say, and nothing is asked of their records again. The checks are a sixth of a small runtime.
    ///
    /// # Safety
    /// `Image::open`, of a build with the same features but `vouched`, accepts the image whose header has the checksum `checksum`
    /// ([`header::checksum`]): kernels rely on what it has checked.
    ///
    /// # Errors
    /// [`Error::NotAnImage`]; [`Error::Checksum`] for any other image.
    #[cfg(feature = "vouched")]
    #[allow(unsafe_code)] // to declare it: there is none in it
    pub unsafe fn vouched(file: &'a [u8], table: ops::Table, checksum: u32) -> Result<Self> {
        Self::read(file, table, Some(checksum))
    }

    /// Finds the parts. `checksum`: that of the header, if it may have no other.
    fn read(file: &'a [u8], table: ops::Table, checksum: Option<u32>) -> Result<Self> {
        let mut found = header::Found::default();
        let sections = header::read(file, checksum, &mut found)?;
        for kind in [section::PROGRAM, section::PLAN, section::TENSORS, section::WEIGHTS] {
            ensure_or(found.get(kind as usize).is_some_and(Option::is_some), Error::Absent { section: kind })?;
        }
        let of = |kind: u32| found[kind as usize].unwrap_or_default();
        Ok(Self {
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
        })
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

    /// Exact bytes of arena that a session with `limits` needs: where the highest slot ends, and of a net on several threads room behind
    /// for a copy of the largest input that an output lies on.
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
        #[cfg(feature = "threads")]
        let most = most.checked_add(crate::ops::room(self, limits) as u64).ok_or(bad)?;
        Ok(most)
    }
}

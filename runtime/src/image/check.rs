//! Opening an image that is not known yet: all checks, once.
//!
//! Firmware of one image has them done when it is built, and not in it (`Image::vouched`). Records check themselves as they are read
//! (`decode` of each), by `ensure`, which a vouched image takes for granted.

use super::io::Port;
use super::plan::{HAS_TOKENS, Kind, Plan, Rows};
use super::program::entry;
use super::{Dtype, HAS_PORTS, Image, header::products, section, tensors};
use crate::error::{Error, Result};
use crate::ops;

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
        let image = Self::read(file, table, None)?;
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
            self.check_ports()?;
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

    /// Checks every input and output, and that its slot holds just what it says.
    fn check_ports(&self) -> Result<()> {
        let bad = Error::Section { section: section::IO };
        for record in self.ports.records {
            let port = &Port::decode(record);
            let port = port.as_ref().ok_or(bad)?;
            let slot = &self.slot_at(port.slot);
            let slot = slot.as_ref().ok_or(Error::Slot { index: port.slot })?;
            let bytes = if port.dtype == Dtype::U8 { Dtype::I8 } else { port.dtype };
            if slot.plain() != Some(bytes) || products(&port.dims) != Some(slot.cols.into()) {
                return Err(bad);
            }
        }
        Ok(())
    }
}

//! Flatbuffers, read in place.
//!
//! ```text
//! table   i32 back to its vtable, then its fields         vtable  u16 bytes of it, u16 bytes of the table,
//! vector  u32 length, then the elements                           u16 offset of each field in the table, 0: absent
//! offset  u32 forward from where it stands
//! ```
//!
//! Every offset is checked against the file when it is followed, and nothing is followed twice or recursively, so a damaged
//! or hostile file costs no more than its size.

/// Why a file is refused: an offset leads out of it, or a number is impossible.
#[derive(Debug)]
pub(super) struct Damaged(pub(super) &'static str);

pub(super) type Checked<T> = std::result::Result<T, Damaged>;

const OUTSIDE: Damaged = Damaged("an offset leads out of the file");

/// A table of the flatbuffer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Table<'a> {
    pub(super) file: &'a [u8],
    pub(super) at: usize,
}

fn bytes_at<const N: usize>(file: &[u8], at: usize) -> Checked<[u8; N]> {
    file.get(at..).and_then(|f| f.first_chunk()).copied().ok_or(OUTSIDE)
}

pub(super) fn follow(file: &[u8], at: usize) -> Checked<usize> {
    at.checked_add(u32::from_le_bytes(bytes_at(file, at)?) as usize).ok_or(OUTSIDE)
}

impl<'a> Table<'a> {
    /// Where field `id` lies, if the table has it.
    fn field(&self, id: usize) -> Checked<Option<usize>> {
        let back = i32::from_le_bytes(bytes_at(self.file, self.at)?);
        let vtable =
            (self.at as i64).checked_sub(i64::from(back)).and_then(|v| usize::try_from(v).ok()).ok_or(OUTSIDE)?;
        let bytes = usize::from(u16::from_le_bytes(bytes_at(self.file, vtable)?));
        if 4 + 2 * id + 2 > bytes {
            return Ok(None);
        }
        let offset = u16::from_le_bytes(bytes_at(self.file, vtable + 4 + 2 * id)?);
        Ok((offset != 0).then(|| self.at + usize::from(offset)))
    }

    fn number<const N: usize>(&self, id: usize) -> Checked<Option<[u8; N]>> {
        self.field(id)?.map(|at| bytes_at(self.file, at)).transpose()
    }

    pub(super) fn u8(&self, id: usize) -> Checked<u8> {
        Ok(self.number::<1>(id)?.map_or(0, |[b]| b))
    }

    pub(super) fn i32(&self, id: usize, absent: i32) -> Checked<i32> {
        Ok(self.number(id)?.map_or(absent, i32::from_le_bytes))
    }

    pub(super) fn f32(&self, id: usize) -> Checked<f32> {
        Ok(self.number(id)?.map_or(0.0, f32::from_le_bytes))
    }

    pub(super) fn table(&self, id: usize) -> Checked<Option<Table<'a>>> {
        self.field(id)?.map(|at| Ok(Table { file: self.file, at: follow(self.file, at)? })).transpose()
    }

    /// The elements of a vector of `N`-byte elements; empty if it is absent.
    pub(super) fn vector<const N: usize>(&self, id: usize) -> Checked<&'a [[u8; N]]> {
        let Some(at) = self.field(id)? else {
            return Ok(&[]);
        };
        let start = follow(self.file, at)?;
        let count = u32::from_le_bytes(bytes_at(self.file, start)?) as usize;
        let elements = self.file.get(start + 4..).ok_or(OUTSIDE)?.as_chunks::<N>().0;
        elements.get(..count).ok_or(OUTSIDE)
    }

    /// The tables of a vector of tables.
    pub(super) fn tables(&self, id: usize) -> Checked<Vec<Table<'a>>> {
        /// More operators or tensors than any model has.
        const MOST: usize = 1 << 16;
        let offsets = self.vector::<4>(id)?;
        if offsets.len() > MOST {
            return Err(Damaged("a list is longer than any model's"));
        }
        let start = offsets.as_ptr().addr().wrapping_sub(self.file.as_ptr().addr());
        let table = |i: usize| Ok(Table { file: self.file, at: follow(self.file, start + 4 * i)? });
        (0..offsets.len()).map(table).collect()
    }

    /// A text, cut where it is longer than any name; empty if it is absent.
    pub(super) fn text(&self, id: usize) -> Checked<String> {
        const MOST: usize = 512;
        let bytes = self.vector::<1>(id)?.as_flattened();
        Ok(String::from_utf8_lossy(&bytes[..bytes.len().min(MOST)]).into_owned())
    }

    pub(super) fn ints(&self, id: usize) -> Checked<Vec<i32>> {
        /// More inputs, outputs or dimensions than any operator has.
        const MOST: usize = 256;
        let ints = self.vector(id)?;
        if ints.len() > MOST {
            return Err(Damaged("a list is longer than any operator's"));
        }
        Ok(ints.iter().map(|b| i32::from_le_bytes(*b)).collect())
    }
}

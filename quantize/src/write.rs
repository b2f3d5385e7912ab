//! The writer: sections to a finished image, or nothing.
//!
//! Weights stream into an unnamed file beside the target as they are coded; the finished image is put together in a
//! temporary file there, synced, and renamed over the target. Whatever fails before the rename (a full disk, a crash)
//! leaves the target as it was.

use mote_runtime::image::header::{self, ALIGN, ENTRY_BYTES, HEADER_BYTES, Section, Span, align_up, section};
use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, Write};
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// What could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {path}: {why}; nothing was changed there")]
pub struct WriteError {
    /// The file.
    pub path: PathBuf,
    /// The system's reason.
    pub why: io::Error,
}

/// The weights section while it grows.
pub struct Weights {
    target: PathBuf,
    file: BufWriter<File>,
    bytes: u64,
    crc: u32,
}

/// The folder that a path's file lies in.
pub(crate) fn folder(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

impl Weights {
    /// Begins the weights of the image that `target` will be.
    ///
    /// # Errors
    /// [`WriteError`].
    pub fn begin(target: &Path) -> Result<Self, WriteError> {
        let fail = |why| WriteError { path: target.to_owned(), why };
        let file = tempfile::tempfile_in(folder(target)).map_err(fail)?;
        Ok(Self { target: target.to_owned(), file: BufWriter::new(file), bytes: 0, crc: 0 })
    }

    /// Appends a tensor at the next aligned offset.
    ///
    /// # Errors
    /// [`WriteError`].
    pub fn append(&mut self, data: &[u8]) -> Result<Span, WriteError> {
        let padding = [0; ALIGN as usize];
        let gap = (align_up(self.bytes) - self.bytes) as usize;
        for piece in [&padding[..gap], data] {
            self.file.write_all(piece).map_err(|why| WriteError { path: self.target.clone(), why })?;
            self.crc = crc32c::crc32c_append(self.crc, piece);
            self.bytes += piece.len() as u64;
        }
        Ok(Span { offset: self.bytes - data.len() as u64, bytes: data.len() as u64 })
    }

    /// Writes the image: the small sections, each with its kind, and these weights. Returns its bytes.
    ///
    /// # Errors
    /// [`WriteError`].
    pub fn finish(self, sections: &[(u32, &[u8])]) -> Result<u64, WriteError> {
        let target = self.target.clone();
        self.put_together(sections).map_err(|why| WriteError { path: target, why })
    }

    fn put_together(self, sections: &[(u32, &[u8])]) -> io::Result<u64> {
        let mut weights = self.file.into_inner().map_err(io::IntoInnerError::into_error)?;
        weights.rewind()?;
        // The weights' place among the others is by kind, as for all.
        let mut parts: Vec<(u32, u32, u64, Option<&[u8]>)> = sections
            .iter()
            .map(|(kind, bytes)| (*kind, crc32c::crc32c(bytes), bytes.len() as u64, Some(*bytes)))
            .collect();
        parts.push((section::WEIGHTS, self.crc, self.bytes, None));
        parts.sort_by_key(|(kind, ..)| *kind);

        let mut end = (HEADER_BYTES + parts.len() * ENTRY_BYTES) as u64;
        let mut table = Vec::new();
        for (kind, crc, bytes, _) in &parts {
            let offset = align_up(end);
            table.push(Section { kind: *kind, crc: *crc, span: Span { offset, bytes: *bytes } });
            end = offset + bytes;
        }
        let temporary = NamedTempFile::new_in(folder(&self.target))?;
        let mut out = BufWriter::new(temporary.as_file());
        let mut written = Ok(());
        header::write(&table, end, &mut |bytes| {
            if written.is_ok() {
                written = out.write_all(bytes);
            }
        });
        written?;
        let mut at = (HEADER_BYTES + parts.len() * ENTRY_BYTES) as u64;
        for (entry, (.., data)) in table.iter().zip(&parts) {
            let padding = [0; ALIGN as usize];
            out.write_all(&padding[..(entry.span.offset - at) as usize])?;
            match data {
                Some(bytes) => out.write_all(bytes)?,
                None => {
                    out.flush()?;
                    copy_aligned(&mut weights, temporary.as_file(), entry.span.offset)?;
                }
            }
            at = entry.span.offset + entry.span.bytes;
        }
        out.flush()?;
        drop(out);
        put(temporary, &self.target)?;
        Ok(end)
    }
}

/// Syncs a temporary file and renames it to what it is to be.
pub(crate) fn put(temporary: NamedTempFile, target: &Path) -> io::Result<()> {
    readable(temporary.as_file())?;
    temporary.as_file().sync_all()?;
    temporary.persist(target).map_err(|failed| failed.error)?;
    // The rename itself is durable once the folder is.
    #[cfg(unix)]
    File::open(folder(target))?.sync_all()?;
    Ok(())
}

/// Writes a file of these bytes, or leaves what was there.
///
/// # Errors
/// [`WriteError`].
pub fn write_file(target: &Path, bytes: &[u8]) -> Result<(), WriteError> {
    let write = || {
        let mut temporary = NamedTempFile::new_in(folder(target))?;
        temporary.write_all(bytes)?;
        put(temporary, target)
    };
    write().map_err(|why| WriteError { path: target.to_owned(), why })
}

/// Whether [`write_file`] finds a folder that it may write to: to be asked before long work.
///
/// # Errors
/// [`WriteError`].
pub fn can_write(target: &Path) -> Result<(), WriteError> {
    let made = tempfile::tempfile_in(folder(target));
    made.map(|_| ()).map_err(|why| WriteError { path: target.to_owned(), why })
}

/// Appends all of `from` to `to`, which is at `offset`, in writes that end at multiples of 2 MiB of the file: then Linux keeps
/// what it caches of it in pages of that size, and who maps the image right away has them, too.
fn copy_aligned(from: &mut impl Read, mut to: impl Write, offset: u64) -> io::Result<()> {
    const PAGE: u64 = 2 << 20;
    let mut buffer = Vec::new();
    let mut room = PAGE - offset % PAGE;
    while from.by_ref().take(room).read_to_end(&mut buffer)? > 0 {
        to.write_all(&buffer)?;
        buffer.clear();
        room = PAGE;
    }
    Ok(())
}

/// Temporary files are the owner's alone; an image is a file like any other.
fn readable(file: &File) -> io::Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        file.set_permissions(std::fs::Permissions::from_mode(0o644))?;
    }
    #[cfg(not(unix))]
    let _ = file;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_leaves_the_old_image() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("x.mote");
        std::fs::write(&target, b"old").unwrap();
        let weights = Weights::begin(&target).unwrap();
        drop(weights);
        assert_eq!(std::fs::read(&target).unwrap(), b"old");
        let mut weights = Weights::begin(&target).unwrap();
        assert_eq!(weights.append(&[1; 10]).unwrap(), Span { offset: 0, bytes: 10 });
        assert_eq!(weights.append(&[2; 3]).unwrap(), Span { offset: 64, bytes: 3 });
        let bytes = weights.finish(&[(section::META, b"{}"), (section::PROGRAM, &[7; 65])]).unwrap();
        let file = std::fs::read(&target).unwrap();
        assert_eq!(file.len() as u64, bytes);
        let sections = header::read(&file, None, &mut header::Found::default()).unwrap();
        let sections: Vec<Section> = sections.iter().map(|entry| Section::read(entry).unwrap()).collect();
        let kinds: Vec<u32> = sections.iter().map(|s| s.kind).collect();
        assert_eq!(kinds, [section::PROGRAM, section::WEIGHTS, section::META]);
        for s in &sections {
            assert_eq!(mote_runtime::image::crc::crc32c(s.span.of(&file).unwrap()), s.crc);
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file stays");
    }

    #[test]
    fn a_folder_that_is_not_there() {
        let why = Weights::begin(Path::new("/nonexistent/x.mote")).err().unwrap();
        assert!(why.to_string().contains("/nonexistent/x.mote"), "{why}");
    }
}

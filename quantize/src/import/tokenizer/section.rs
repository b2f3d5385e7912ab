//! From a [`Vocabulary`] to the bytes of a TEXT section ([`mote_runtime::text::layout`] draws them).

use super::{Class, ImportError, Piece, Result, Vocabulary};
use mote_runtime::text::layout::{HEAD_BYTES, NONE, flag, kind, pre};
use std::path::Path;

/// Checks what an importer gives, and says whether words can be merged one by one.
pub(super) fn finish(path: &Path, mut v: Vocabulary) -> Result<Vocabulary> {
    let malformed = |what: String| Err(ImportError::Malformed { path: path.to_owned(), what });
    let count = v.pieces.len();
    if count == 0 {
        return malformed("the vocabulary is empty".into());
    }
    let blob: usize = v.pieces.iter().map(|p| p.bytes.len()).sum();
    if count >= NONE as usize || u32::try_from(blob).is_err() {
        return malformed(format!("{count} pieces of {blob} bytes are more than an image can hold"));
    }
    let named = [("BOS", v.bos), ("unknown", v.unknown), ("last", v.after)].map(|(name, id)| id.map(|id| (name, id)));
    let ends = v.ends.iter().map(|id| ("end", *id));
    if let Some((name, id)) = named.into_iter().flatten().chain(ends).find(|(_, id)| *id as usize >= count) {
        return malformed(format!("its {name} token is {id}, it has {count} pieces"));
    }
    let begins_word = |p: &Piece| p.bytes.windows(2).all(|pair| pair[0] == b' ' || pair[1] != b' ');
    let normal = |p: &&Piece| p.class == Class::Normal;
    if v.pre == pre::NONE && v.pieces.iter().filter(normal).all(begins_word) {
        v.flags |= flag::WORDS;
    }
    v.ends.sort_unstable();
    v.ends.dedup();
    Ok(v)
}

impl Vocabulary {
    /// The bytes of the TEXT section.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let specials = self.longest_first(Class::Special);
        let added = self.longest_first(Class::Added);
        let sorted = self.sorted();
        let mut merges = self.merges.clone();
        merges.sort_unstable();
        let merges = merges.into_iter().map(|m| [m.left, m.right, m.rank, m.result]);
        let rules = self.rules.iter().map(|r| [r.first, r.last, r.what, r.second]);
        let merges: Vec<[u32; 4]> = merges.chain(rules).collect();
        let blob: Vec<u8> = self.pieces.iter().flat_map(|p| &p.bytes).copied().collect();
        let mut head = [0; HEAD_BYTES / 4];
        head[..12].copy_from_slice(&[
            self.kind,
            self.pieces.len() as u32,
            self.flags | if self.after.is_some() { flag::ADD_END } else { 0 },
            self.bos.unwrap_or(NONE),
            self.unknown.unwrap_or(NONE),
            self.pre,
            merges.len() as u32,
            specials.len() as u32,
            self.ends.len() as u32,
            sorted.len() as u32,
            blob.len() as u32,
            added.len() as u32,
        ]);
        let mut end = 0;
        let ends_of_pieces = self.pieces.iter().map(|p| {
            end += p.bytes.len() as u32;
            end
        });
        head[12] = self.after.unwrap_or(0);
        let mut words = head.to_vec();
        words.push(0);
        words.extend(ends_of_pieces);
        words.extend(sorted);
        if self.kind == kind::SCORES {
            words.extend(&self.ranks);
        }
        words.extend(merges.as_flattened());
        words.extend(specials);
        words.extend(&self.ends);
        words.extend(self.bytes.map(|id| id.unwrap_or(NONE)));
        words.extend(added);
        let mut section: Vec<u8> = words.into_iter().flat_map(u32::to_le_bytes).collect();
        section.extend(blob);
        section
    }

    fn ids(&self, class: Class) -> Vec<u32> {
        let of_class = |(id, piece): (u32, &Piece)| (piece.class == class && !piece.bytes.is_empty()).then_some(id);
        (0..).zip(&self.pieces).filter_map(of_class).collect()
    }

    fn bytes_of(&self, id: u32) -> &[u8] {
        &self.pieces[id as usize].bytes
    }

    fn longest_first(&self, class: Class) -> Vec<u32> {
        let mut ids = self.ids(class);
        ids.sort_by_key(|id| std::cmp::Reverse(self.bytes_of(*id).len()));
        ids
    }

    /// The normal pieces by their bytes; of equals, which no search could tell apart, the first.
    fn sorted(&self) -> Vec<u32> {
        let mut ids = self.ids(Class::Normal);
        ids.sort_by_key(|id| self.bytes_of(*id));
        ids.dedup_by_key(|id| self.bytes_of(*id));
        ids
    }
}

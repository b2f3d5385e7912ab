//! Queries of word vectors: which words are near a word, or near a sum of words (analogies).
//!
//! The image holds unit vectors in codes. Its program takes terms (indices of words, each with a weight), adds their vectors
//! ([`ops::embedding_bag`](crate::ops::embedding_bag)), and multiplies the sum with all vectors: the dot products, which are
//! the cosines times the length of the sum. Source of the query: Mikolov et al., "Linguistic Regularities in Continuous Space
//! Word Representations" (NAACL 2013), section 4.

use crate::error::{Error, Result};
use crate::session::Session;

/// A word of the image, and how near it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Neighbour {
    /// Its index.
    pub id: u32,
    /// The dot product with the query, in fixed point of the output's scale.
    pub score: i32,
}

/// Finds the words with the largest dot products with the sum of `terms` (word, weight), without those words themselves;
/// of equals the one with the lower index first. Fills `found` from the front and returns how many there are.
///
/// # Errors
/// [`Error::Terms`] for more terms than the image takes; [`Error::Port`], [`Error::PortType`] for images that are not of
/// word vectors.
pub fn nearest(session: &mut Session<'_>, terms: &[(u32, i8)], found: &mut [Neighbour]) -> Result<usize> {
    let scores = dot_products(session, terms)?;
    let mut count = 0usize;
    for (id, score) in (0u32..).zip(scores) {
        if terms.iter().any(|(term, _)| *term == id) {
            continue;
        }
        let better = |other: &Neighbour| other.score >= *score;
        let at = found.iter().take(count).take_while(|other| better(other)).count();
        count = (count + 1).min(found.len());
        let mut moved = Neighbour { id, score: *score };
        for place in found.iter_mut().take(count).skip(at) {
            core::mem::swap(place, &mut moved);
        }
    }
    Ok(count)
}

/// The dot products of all words with the sum of `terms`, in order of the words.
///
/// # Errors
/// As [`nearest`].
pub fn dot_products<'s>(session: &'s mut Session<'_>, terms: &[(u32, i8)]) -> Result<&'s [i32]> {
    let indices = session.input::<i32>(0)?;
    let most = indices.len();
    if terms.len() > most {
        return Err(Error::Terms { found: terms.len(), most });
    }
    let all = || terms.iter().copied().chain(core::iter::repeat((0, 0)));
    for (to, (id, _)) in indices.iter_mut().zip(all()) {
        *to = i32::try_from(id).unwrap_or(i32::MAX);
    }
    for (to, (_, weight)) in session.input::<i8>(1)?.iter_mut().zip(all()) {
        *to = weight;
    }
    session.run()?;
    session.output::<i32>(0)
}

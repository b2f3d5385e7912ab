//! Files of word vectors: word2vec's text and binary formats (fastText's `.vec` is the former), and GloVe's text, which has
//! no first line.
//!
//! ```text
//! text     "words dimensions\n", then a line a word: the word, and its numbers, with spaces between
//! binary   the same first line; then a word, a space, and little-endian float32; a line feed before the next word, or none
//! ```

use super::{ImportError, Result, hash_files, map};
use std::path::Path;

/// Words and their vectors.
#[derive(Clone, Debug, PartialEq)]
pub struct Vectors {
    /// Words, each once.
    pub words: Vec<Vec<u8>>,
    /// Numbers of a vector.
    pub dims: usize,
    /// All vectors, one after the other.
    pub values: Vec<f32>,
    /// Words that were there before already, and are left out.
    pub repeated: usize,
}

/// Longer words are no words: the file is of another kind.
const LONGEST_WORD: usize = 1024;
/// More dimensions than any file of vectors has.
const MOST_DIMS: usize = 1 << 16;

/// The head of a file: words and dimensions, and where the first word begins.
fn head(file: &[u8]) -> Option<(usize, usize, usize)> {
    let end = file.iter().take(64).position(|b| *b == b'\n')?;
    let mut numbers = std::str::from_utf8(&file[..end]).ok()?.split_ascii_whitespace().map(str::parse::<usize>);
    let (words, dims) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
    let fits = numbers.next().is_none() && words > 0 && (1..=MOST_DIMS).contains(&dims);
    fits.then_some((words, dims, end + 1))
}

/// The word and the numbers of a line of text; `None` if it is not such a line.
fn line(line: &[u8]) -> Option<(&[u8], Vec<f32>)> {
    let mut parts = line.split(|b| *b == b' ' || *b == b'\t').filter(|p| !p.is_empty());
    let word = parts.next().filter(|w| w.len() <= LONGEST_WORD)?;
    let numbers = parts.map(|p| std::str::from_utf8(p).ok()?.trim_end().parse().ok()).collect::<Option<Vec<f32>>>()?;
    (!numbers.is_empty() && numbers.len() <= MOST_DIMS).then_some((word, numbers))
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|b| *b == b'\n').map(<[u8]>::trim_ascii_end).filter(|l| !l.is_empty())
}

/// Whether a file begins like one of word vectors.
#[must_use]
pub fn is_vectors(path: &Path) -> bool {
    let Ok(file) = map(path) else {
        return false;
    };
    if !path.is_file() {
        return false;
    }
    if head(&file).is_some() {
        return true;
    }
    // GloVe: two lines of a word and as many numbers.
    let near = &file[..file.len().min(1 << 17)];
    let mut both = lines(near).take(2).map(line);
    match (both.next().flatten(), both.next().flatten()) {
        (Some((_, a)), Some((_, b))) => a.len() == b.len() && a.len() > 1,
        _ => false,
    }
}

/// Reads a file of word vectors, and its SHA-256.
///
/// # Errors
/// [`ImportError::Io`], [`ImportError::Malformed`].
pub fn read(path: &Path) -> Result<(Vectors, [u8; 32])> {
    let file = map(path)?;
    let malformed = |what: String| ImportError::Malformed { path: path.to_owned(), what };
    let (count, dims, start) = match head(&file) {
        Some((words, dims, start)) => (Some(words), dims, start),
        None => {
            let first = lines(&file).next().and_then(line).ok_or_else(|| malformed("no word vectors".into()))?;
            (None, first.1.len(), 0)
        }
    };
    let rest = &file[start..];
    let text = lines(&rest[..rest.len().min(1 << 20)]).next().and_then(line).is_some_and(|(_, n)| n.len() == dims);
    let mut vectors = Vectors { words: vec![], dims, values: vec![], repeated: 0 };
    let mut seen = std::collections::HashSet::new();
    let mut add = |word: &[u8], numbers: &mut dyn Iterator<Item = f32>| {
        if seen.insert(word.to_vec()) {
            vectors.words.push(word.to_vec());
            vectors.values.extend(numbers);
        } else {
            vectors.repeated += 1;
        }
    };
    let mut found = 0usize;
    if text {
        for (at, text) in lines(rest).enumerate() {
            let here = || format!("line {} of the vectors", at + 1);
            let (word, numbers) = line(text).ok_or_else(|| malformed(format!("{} is none", here())))?;
            if numbers.len() != dims {
                return Err(malformed(format!("{} has {} numbers, {dims} are expected", here(), numbers.len())));
            }
            add(word, &mut numbers.into_iter());
            found += 1;
        }
    } else {
        let mut rest = rest;
        while found < count.unwrap_or(usize::MAX) && !rest.is_empty() {
            rest = rest.strip_prefix(b"\n").unwrap_or(rest);
            let short = || malformed(format!("it ends in word {} of {}", found + 1, count.unwrap_or(0)));
            let end = rest.iter().take(LONGEST_WORD).position(|b| *b == b' ').ok_or_else(short)?;
            let numbers = rest.get(end + 1..).and_then(|r| r.get(..4 * dims)).ok_or_else(short)?;
            add(&rest[..end], &mut numbers.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)));
            rest = &rest[end + 1 + 4 * dims..];
            found += 1;
        }
    }
    if count.is_some_and(|count| count != found) || found == 0 {
        return Err(malformed(format!("its first line says {} words, it has {found}", count.unwrap_or(0))));
    }
    if let Some(at) = vectors.values.iter().position(|v| !v.is_finite()) {
        let word = String::from_utf8_lossy(&vectors.words[at / dims]).into_owned();
        return Err(malformed(format!("the vector of \"{word}\" is not finite")));
    }
    Ok((vectors, hash_files(&[path.to_owned()])?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(bytes: &[u8]) -> Result<Vectors> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("v");
        std::fs::write(&path, bytes).unwrap();
        assert!(is_vectors(&path), "{}", String::from_utf8_lossy(bytes));
        read(&path).map(|(vectors, _)| vectors)
    }

    #[test]
    fn the_same_vectors_in_all_formats() {
        let word2vec = of(b"2 3\nking 1 -2.5 3e-1\nqueen 0 1 2 \n").unwrap();
        let glove = of(b"king 1 -2.5 0.3\nqueen 0 1 2\n").unwrap();
        let mut binary = b"2 3\n".to_vec();
        for (word, numbers) in [("king", [1f32, -2.5, 0.3]), ("queen", [0.0, 1.0, 2.0])] {
            binary.extend(word.as_bytes());
            binary.push(b' ');
            binary.extend(numbers.iter().flat_map(|n| n.to_le_bytes()));
        }
        assert_eq!(word2vec.words, [b"king".to_vec(), b"queen".to_vec()]);
        assert_eq!(word2vec.values, [1.0, -2.5, 0.3, 0.0, 1.0, 2.0]);
        assert_eq!(glove, word2vec);
        assert_eq!(of(&binary).unwrap(), word2vec);
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (bytes, what) in [
            (&b"3 2\na 1 2\nb 3 4\n"[..], "says 3 words, it has 2"),
            (b"2 2\na 1 2\nb 3\n", "line 2 of the vectors has 1 numbers, 2 are expected"),
            (b"1 2\na 1 nan\n", "\"a\" is not finite"),
            (b"2 2\na \x00\x00\x80\x3F\x00\x00\x80\x3Fb \x00", "it ends in word 2 of 2"),
        ] {
            let why = of(bytes).unwrap_err().to_string();
            assert!(why.contains(what), "{what}: {why}");
        }
        assert_eq!(of(b"3 1\na 1\na 2\nb 3\n").unwrap().repeated, 1);
    }
}

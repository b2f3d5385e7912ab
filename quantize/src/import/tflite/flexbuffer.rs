//! Flexbuffers: the options of custom operators, as far as those are maps of integers and truth values.
//!
//! ```text
//! map    count keys, offset back to the keys; bytes of each of their offsets; count; values; a type byte for each value
//! keys   count; offset back to each key, a text that ends with 0; in the order of the alphabet
//! end    offset back to the map; its type byte: type * 4 + log2 of the bytes of its numbers; bytes of the offset
//! ```
//!
//! Every offset is checked when it is followed.

/// More options than any operator has.
const MOST: u64 = 64;

const INT: u8 = 1;
const UINT: u8 = 2;
const MAP: u8 = 9;
const BOOL: u8 = 26;

/// The unsigned number of `width` bytes at `at`.
fn number(file: &[u8], at: usize, width: usize) -> Option<u64> {
    let bytes = file.get(at..at.checked_add(width)?)?;
    matches!(width, 1 | 2 | 4 | 8).then(|| bytes.iter().rev().fold(0, |high, low| high << 8 | u64::from(*low)))
}

/// Where the offset at `at` leads back to.
fn back(file: &[u8], at: usize, width: usize) -> Option<usize> {
    at.checked_sub(usize::try_from(number(file, at, width)?).ok()?)
}

/// The integer (or truth value) that the map `file` has for `key`.
pub(super) fn int(file: &[u8], key: &str) -> Option<i64> {
    let (rest, &[packed, root]) = file.split_last_chunk::<2>()?;
    let root = usize::from(root);
    let values = back(file, rest.len().checked_sub(root)?, root)?;
    let width = 1 << (packed & 3);
    if packed >> 2 != MAP {
        return None;
    }
    let count = number(file, values.checked_sub(width)?, width)?;
    let key_width = usize::try_from(number(file, values.checked_sub(2 * width)?, width)?).ok()?;
    let keys = back(file, values.checked_sub(3 * width)?, width)?;
    let count = Some(count).filter(|count| *count <= MOST)? as usize;
    let is_key = |i: &usize| {
        let text = keys.checked_add(i.checked_mul(key_width)?).and_then(|at| back(file, at, key_width));
        let rest = file.get(text?..)?.strip_prefix(key.as_bytes())?;
        (rest.first() == Some(&0)).then_some(())
    };
    let at = (0..count).find(|i| is_key(i).is_some())?;
    let unused = 64 - 8 * width as u32;
    let value = number(file, values + at * width, width)?;
    match file.get(values + count * width + at)? >> 2 {
        // The sign is that of the bytes that are there.
        INT => Some((value << unused) as i64 >> unused),
        UINT | BOOL => i64::try_from(value).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::int;

    fn bytes(hex: &str) -> Vec<u8> {
        (0..hex.len() / 2).map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap()).collect()
    }

    /// Made by the `flexbuffers` module of the PyPI package `flatbuffers`: {"T": 7, "fft_length": 512}, and
    /// {"a": -3, "ab": True, "b": -70000}.
    #[test]
    fn maps() {
        let file = bytes("54006666745f6c656e67746800020e0d020001000200070000020505062501");
        assert_eq!((int(&file, "T"), int(&file, "fft_length")), (Some(7), Some(512)));
        assert_eq!((int(&file, "fft"), int(&file, "fft_lengths"), int(&file, "")), (None, None, None));
        let file = bytes("610061620062000308070500040000000100000003000000fdffffff0100000090eefeff066a060f2601");
        assert_eq!(["a", "ab", "b"].map(|key| int(&file, key)), [Some(-3), Some(1), Some(-70_000)]);
    }

    #[test]
    fn damaged() {
        let file = bytes("54006666745f6c656e67746800020e0d020001000200070000020505062501");
        for cut in 0..file.len() {
            int(&file[..cut], "fft_length");
            int(&file[cut..], "fft_length");
            for byte in 0..=255 {
                let mut damaged = file.clone();
                damaged[cut] = byte;
                int(&damaged, "fft_length");
            }
        }
    }
}

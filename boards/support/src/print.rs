//! Text and numbers onto a console, without `core::fmt` (which brings kilobytes of code and its own panics).
//!
//! Results are lines `key=value`, so that a script reads them without a parser. A console that fails is ignored: there
//! is nowhere to say so.

use embedded_io::Write;

/// Writes text as it is.
pub fn text(console: &mut impl Write, text: &str) {
    bytes(console, text.as_bytes());
}

/// Writes bytes as they are.
pub fn bytes(console: &mut impl Write, bytes: &[u8]) {
    let _ = console.write_all(bytes);
}

/// Writes an unsigned number in decimal.
pub fn decimal(console: &mut impl Write, number: u64) {
    let mut digits = [b'0'; 20];
    let mut rest = number;
    let mut used = 0;
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
        used += 1;
        if rest == 0 {
            break;
        }
    }
    bytes(console, digits.get(20 - used..).unwrap_or(&digits));
}

/// Writes a number in decimal, with its sign if it is negative.
pub fn signed(console: &mut impl Write, number: i32) {
    if number < 0 {
        text(console, "-");
    }
    decimal(console, number.unsigned_abs().into());
}

/// Writes bytes as pairs of hexadecimal digits.
pub fn hex(console: &mut impl Write, data: &[u8]) {
    let digit = |nibble: u8| if nibble < 10 { b'0' + nibble } else { b'a' - 10 + nibble };
    for byte in data {
        bytes(console, &[digit(byte >> 4), digit(byte & 15)]);
    }
}

/// Writes a line `key=value`.
pub fn field(console: &mut impl Write, key: &str, value: &str) {
    text(console, key);
    text(console, "=");
    text(console, value);
    text(console, "\n");
}

/// Writes a line `key=number`.
pub fn number(console: &mut impl Write, key: &str, value: u64) {
    text(console, key);
    text(console, "=");
    decimal(console, value);
    text(console, "\n");
}

/// Writes a line `key=1,2,3`.
pub fn list(console: &mut impl Write, key: &str, values: &[u32]) {
    text(console, key);
    let mut before = "=";
    for value in values {
        text(console, before);
        decimal(console, u64::from(*value));
        before = ",";
    }
    text(console, "\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        for n in [0u64, 9, 10, 4_294_967_296, u64::MAX] {
            let mut out = Vec::new();
            decimal(&mut out, n);
            assert_eq!(out, n.to_string().as_bytes());
        }
        let mut out = Vec::new();
        signed(&mut out, i32::MIN);
        signed(&mut out, 7);
        assert_eq!(out, b"-21474836487");
        let mut out = Vec::new();
        hex(&mut out, &[0, 0x1f, 0xab]);
        list(&mut out, "t", &[1, 20]);
        assert_eq!(out, b"001fabt=1,20\n");
    }
}

"""Writes unicode.rs: the ranges of general category L (letters), packed as start << 11 | length.

    python3 unicode_gen.py > unicode.rs
"""

import unicodedata

ranges, start = [], None
for c in range(0x110000 + 1):
    letter = c < 0x110000 and unicodedata.category(chr(c)).startswith("L")
    if letter and start is None:
        start = c
    if not letter and start is not None:
        while start < c:  # 11 bits of length
            end = min(c, start + 2047)
            ranges.append((start, end - start))
            start = end
        start = None

print("//! Letters (general category L), made by unicode_gen.py from Unicode " + unicodedata.unidata_version + ".")
print("//!")
print("//! Digits and white space need no table: `char::is_numeric` is category N, `char::is_whitespace` is White_Space.")
print()
print("/// Ranges of letters in rising order: first code point << 11 | number of code points.")
print("#[rustfmt::skip]")
print(f"pub(super) static LETTERS: [u32; {len(ranges)}] = [")
for i in range(0, len(ranges), 8):
    print("    " + " ".join(f"0x{s << 11 | n:08x}," for s, n in ranges[i : i + 8]))
print("];")

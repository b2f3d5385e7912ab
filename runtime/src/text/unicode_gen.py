"""Writes unicode.rs: the ranges of general categories L (letters) and N (digits), packed as start << 11 | length.

    pip install unicodedata2==16.0.0
    python3 unicode_gen.py > unicode.rs

Unicode 16 is what the engine behind Hugging Face's tokenizers (oniguruma 6.9.10) knows.
"""

import unicodedata2


def ranges(category):
    found, start = [], None
    for c in range(0x110000 + 1):
        belongs = c < 0x110000 and unicodedata2.category(chr(c)).startswith(category)
        if belongs and start is None:
            start = c
        if not belongs and start is not None:
            while start < c:  # 11 bits of length
                end = min(c, start + 2047)
                found.append((start, end - start))
                start = end
            start = None
    return found


def table(name, what, found):
    print()
    print(f"/// Ranges of {what} in rising order: first code point << 11 | number of code points.")
    print("#[rustfmt::skip]")
    print(f"pub(super) static {name}: [u32; {len(found)}] = [")
    for i in range(0, len(found), 8):
        print("    " + " ".join(f"0x{s << 11 | n:08x}," for s, n in found[i : i + 8]))
    print("];")


print("//! Letters (category L) and digits (category N), made by unicode_gen.py from Unicode " + unicodedata2.unidata_version + ".")
print("//!")
print("//! Digits have a table though `char::is_numeric` knows them: tokens must not depend on the compiler's version.")
print("//! White space needs none: Unicode adds no more of it.")
table("LETTERS", "letters", ranges("L"))
table("DIGITS", "digits", ranges("N"))

"""Writes unicode.rs: general categories L (letters) and N (digits), as lengths of what lies outside and inside in turn.

    pip install unicodedata2==16.0.0
    python3 unicode_gen.py > unicode.rs

Unicode 16 is what the engine behind Hugging Face's tokenizers (oniguruma 6.9.10) knows.
"""

import unicodedata2


def lengths(category):
    """Code points outside the category, inside, outside, ..., from 0 to the end of the last range inside."""
    found, inside, start = [], False, 0
    for c in range(0x110000 + 1):
        belongs = c < 0x110000 and unicodedata2.category(chr(c)).startswith(category)
        if belongs != inside:
            found.append(c - start)
            inside, start = belongs, c
    return found


def packed(number):
    """Seven bits a byte, the highest first; all bytes but the last have bit 7."""
    rest = [] if number < 128 else packed(number >> 7)
    return [byte | 128 for byte in rest] + [number & 127]


def table(name, what, found):
    data = [byte for number in found for byte in packed(number)]
    print()
    print(f"/// {what}: how many code points from 0 on are none, then are some, then are none and so on. Each byte has seven")
    print("/// bits of a number, the highest first; its bit 7 says that more follow.")
    print("#[rustfmt::skip]")
    print(f"pub(super) static {name}: [u8; {len(data)}] = [")
    for i in range(0, len(data), 24):
        print("    " + " ".join(f"{byte}," for byte in data[i : i + 24]))
    print("];")


print("//! Letters (category L) and digits (category N), made by unicode_gen.py from Unicode " + unicodedata2.unidata_version + ".")
print("//!")
print("//! Digits have a table though `char::is_numeric` knows them: tokens must not depend on the compiler's version.")
print("//! White space needs none: Unicode adds no more of it.")
table("LETTERS", "Letters", lengths("L"))
table("DIGITS", "Digits", lengths("N"))

"""Dates as people write them, beside the same in ISO 8601: what the model is trained on.

`python dates.py` prints some. Days are those from 1900 to 2099. A form is a function of a day and a source of chance.
Numbers with full stops are day.month.year, with slashes month/day/year; a year of two digits lies in 1950 to 2049, and
only such years are written with two.
"""

import datetime
import random

MONTHS = "January February March April May June July August September October November December".split()
WEEKDAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
ROMAN = "I II III IV V VI VII VIII IX X XI XII".split()
ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen \
eighteen nineteen".split()
)
TENS = "- - twenty thirty forty fifty sixty seventy eighty ninety".split()
ORDINALS = {
    "one": "first",
    "two": "second",
    "three": "third",
    "five": "fifth",
    "eight": "eighth",
    "nine": "ninth",
    "twelve": "twelfth",
    "twenty": "twentieth",
    "thirty": "thirtieth",
}

FIRST, LAST = datetime.date(1900, 1, 1), datetime.date(2099, 12, 31)


def below_hundred(n):
    return ONES[n] if n < 20 else TENS[n // 10] + ("" if n % 10 == 0 else "-" + ONES[n % 10])


def ordinal_word(n):
    head, dash, last = below_hundred(n).rpartition("-")
    return head + dash + ORDINALS.get(last, last + "th")


def ordinal(n):
    return f"{n}{'th' if n in (11, 12, 13) else {1: 'st', 2: 'nd', 3: 'rd'}.get(n % 10, 'th')}"


def year_words(y):
    century, rest = divmod(y, 100)
    if 2000 <= y < 2010:
        return "two thousand" + (f" and {ONES[rest]}" if rest else "")
    if rest == 0:
        return f"{below_hundred(century)} hundred"
    return below_hundred(century) + " " + (f"oh {ONES[rest]}" if rest < 10 else below_hundred(rest))


def month(d, r):
    """The month's name: in full, or its first three letters, with a full stop or not; September also as Sept."""
    name = MONTHS[d.month - 1]
    short = "Sept" if d.month == 9 and r.random() < 0.4 else name[:3]
    return r.choice([name, name, short, short + "." if short != name else name])


def year(d, r):
    """Four digits, or two where the century is clear, an apostrophe before them at times."""
    if 1950 <= d.year <= 2049 and r.random() < 0.3:
        return r.choice(["", "", "'"]) + f"{d.year % 100:02}"
    return str(d.year)


def day(d, r):
    return r.choice([str(d.day), str(d.day), ordinal(d.day), f"{d.day:02}"])


def weekday(d, r):
    name = WEEKDAYS[d.weekday()]
    return r.choice(["", "", "", "", f"{name}, ", f"{name} ", f"{name[:3]}, ", f"{name[:3]} "])


def digits(d, r):
    """(day, month), both with a leading zero or neither."""
    return (f"{d.day:02}", f"{d.month:02}") if r.random() < 0.5 else (str(d.day), str(d.month))


def day_first(d, r):
    return f"{weekday(d, r)}{day(d, r)} {r.choice(['', '', 'of '])}{month(d, r)}{r.choice(['', ','])} {year(d, r)}"


def month_first(d, r):
    return f"{weekday(d, r)}{month(d, r)} {day(d, r)}{r.choice([',', ',', ''])} {year(d, r)}"


def stops(d, r):
    a, b = digits(d, r)
    return f"{weekday(d, r)}{a}.{b}.{year(d, r)}" if r.random() < 0.7 else f"{a}. {b}. {d.year}"


def slashes(d, r):
    a, b = digits(d, r)
    return f"{weekday(d, r)}{b}/{a}/{year(d, r)}"


def year_first(d, r):
    mark = r.choice("/.- ")
    a, b = digits(d, r)
    return r.choice([f"{d.year}{mark}{b}{mark}{a}", f"{d.year} {month(d, r)} {a}", f"{d.year}{d.month:02}{d.day:02}"])


def dashes(d, r):
    return f"{d.day:02}-{MONTHS[d.month - 1][:3]}-{year(d, r).lstrip(chr(39))}"


def roman(d, r):
    mark = r.choice([".", ". ", " "])
    return f"{d.day}{mark}{ROMAN[d.month - 1]}{mark}{d.year}"


def in_words(d, r):
    name, n, y = MONTHS[d.month - 1], ordinal_word(d.day), r.choice([str(d.year), year_words(d.year)])
    return r.choice([f"the {n} of {name}, {y}", f"{name} the {n}, {y}", f"{n} {name} {y}", f"{name} {n}, {y}"])


FORMS = [
    (day_first, 5),
    (month_first, 5),
    (stops, 3),
    (slashes, 2),
    (year_first, 2),
    (dashes, 1),
    (roman, 1),
    (in_words, 4),
]


def write(d, r):
    """The day `d` as a person would write it, with the chance of `r`."""
    (form,) = r.choices([form for form, _ in FORMS], [weight for _, weight in FORMS])
    text = form(d, r)
    return r.choice([text] * 6 + [text.lower(), text.lower(), text.upper()])


def days(seed=1):
    """(days to train on, days held out): a tenth, drawn at random, is never trained on in any form."""
    every = [FIRST + datetime.timedelta(n) for n in range((LAST - FIRST).days + 1)]
    random.Random(seed).shuffle(every)
    return every[len(every) // 10 :], every[: len(every) // 10]


if __name__ == "__main__":
    r = random.Random(1)
    for d in r.choices(days()[0], k=40):
        print(d.isoformat(), write(d, r))

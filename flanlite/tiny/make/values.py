"""Values that fill the phrasings: numbers, dates, words and names, each drawn from a seeded generator."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, timedelta
from random import Random
from typing import Any

from flanlite.agent.builtin import COUNTRIES, COUNTRY_FIELDS, ELEMENT_FIELDS, ELEMENTS, UNITS

PERSONS = (
    "Anna", "Ben", "Clara", "David", "Emma", "Felix", "Grace", "Henry", "Ida", "Jonas", "Karen", "Leo", "Maria", "Nora",
    "Oscar", "Paula", "Robert", "Sara", "Tom", "Vera", "Walter", "Yusuf", "Zoe", "Ali", "Chen", "Mei", "Priya", "Raj",
)  # fmt: skip
CITIES = (
    "Paris", "London", "Rome", "Berlin", "Madrid", "Vienna", "Oslo", "Lima", "Tokyo", "Delhi", "Cairo", "Boston",
    "Dublin", "Prague", "Zurich", "Milan", "Lyon", "Geneva", "Seattle", "Denver", "Toronto", "Sydney", "Nairobi",
    "Hamburg", "Porto",
)  # fmt: skip
COMPANIES = ("Nokia", "Siemens", "Toyota", "Intel", "Sony", "Nestle", "Shell", "Volvo", "Adidas", "Philips")
LANGUAGES = ("French", "German", "Spanish", "Italian", "Polish", "Dutch", "Greek", "Turkish", "Hindi", "Swedish")
MONEY = ("euros", "dollars", "pounds", "yen", "francs", "pesos")
ROOMS = ("kitchen", "bedroom", "bathroom", "garage", "hall", "office", "cellar", "living room")
FOOD = ("rice", "beans", "potatoes", "chicken", "eggs", "tomatoes", "onions", "lentils", "apples", "pasta")
THINGS = (
    "lamp", "table", "phone", "chair", "book", "bag", "clock", "ball", "hat", "pen", "cup", "car", "ring", "key",
    "boat", "train", "house", "radio", "ladder", "bottle", "coat", "ticket", "letter", "mirror", "basket", "blanket",
)  # fmt: skip
WORDS = (
    "strawberry", "banana", "window", "elephant", "mississippi", "garden", "pepper", "committee", "balloon", "coffee",
    "butter", "summer", "winter", "letter", "bottle", "mountain", "river", "computer", "keyboard", "planet", "orange",
    "yellow", "purple", "giraffe", "kangaroo", "umbrella", "chocolate", "sandwich", "bicycle", "hospital", "library",
    "kitchen", "blueberry", "raspberry", "assessment", "parallel", "tomorrow", "success", "address", "necessary",
    "village", "pocket", "castle", "lantern", "whisper", "thunder", "pyramid", "volcano", "harbour", "compass",
)  # fmt: skip
ONSETS = [
    "b", "br", "c", "ch", "cl", "d", "dr", "f", "fl", "g", "gr", "h", "j", "k", "l", "m", "n", "p", "pl", "pr", "qu",
    "r", "s", "sh", "sl", "st", "t", "th", "tr", "v", "w", "y", "z",
]  # fmt: skip
VOWELS = [
    "a", "e", "i", "o", "u", "ai", "ea", "ee", "oo", "ou",
]  # fmt: skip
CODAS = ["", "", "", "l", "m", "n", "r", "s", "t", "x", "ck", "nd", "ng", "rt", "st"]
MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip
UNITS_BY_QUANTITY: dict[str, list[str]] = {}
for _unit, (_quantity, _) in UNITS.items():
    UNITS_BY_QUANTITY.setdefault(_quantity, []).append(_unit)
SPOKEN = {"plus": "+", "minus": "-", "times": "*", "divided by": "/", "multiplied by": "*"}

_OPTION = re.compile(r"\[([^\[\]]*)\]")
_SLOT = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Filled:
    """One drawing of a tool's values: as a person says them and as the tool takes them."""

    said: dict[str, str]
    arguments: dict[str, Any]


def reword(rng: Random, phrasing: str) -> str:
    """Chooses one of each `[a|b]`."""
    while _OPTION.search(phrasing):
        phrasing = _OPTION.sub(lambda match: rng.choice(match[1].split("|")), phrasing, count=1)
    return phrasing


def made_up_word(rng: Random) -> str:
    """A word nobody has seen: it can only be copied, never recalled."""
    syllables = rng.choices((1, 2, 3), (1, 5, 3))[0]
    return "".join(rng.choice(ONSETS) + rng.choice(VOWELS) + rng.choice(CODAS) for _ in range(syllables))


def word(rng: Random) -> str:
    return rng.choice(WORDS) if rng.random() < 0.4 else made_up_word(rng)


def _name(rng: Random, known: tuple[str, ...]) -> str:
    return rng.choice(known) if rng.random() < 0.5 else made_up_word(rng).capitalize()


def integer(rng: Random, low: int = 2) -> int:
    """Short and long numbers alike."""
    return rng.randint(low, 10 ** rng.choice((1, 2, 2, 3, 3, 4)) + low)


def decimal(rng: Random) -> int | float:
    whole = integer(rng, 1)
    return whole if rng.random() < 0.6 else round(whole + rng.randint(1, 99) / rng.choice((10, 100)), 2)


def some_date(rng: Random) -> date:
    return date(1930, 1, 1) + timedelta(days=rng.randrange(365 * 120))


def said_date(rng: Random, day: date) -> str:
    """A date as people write it: mostly 2024-03-15, else 15 March 2024 or March 15, 2024."""
    kind = rng.random()
    if kind < 0.6:
        return day.isoformat()
    month = MONTHS[day.month - 1]
    return f"{day.day} {month} {day.year}" if kind < 0.85 else f"{month} {day.day}, {day.year}"


def expression(rng: Random) -> tuple[str, str]:
    """A sum as said and as calculate takes it."""
    kind = rng.random()
    a, b, c = (str(decimal(rng) if rng.random() < 0.25 else integer(rng)) for _ in range(3))
    if kind < 0.3:
        name = rng.choice(tuple(SPOKEN))
        return f"{a} {name} {b}", f"{a} {SPOKEN[name]} {b}"
    if kind < 0.38:
        return f"{b}% of {a}", f"{a} * {b} / 100"
    first, second = rng.choice("+-*/"), rng.choice("+-*/")
    if kind < 0.7:
        written = f"{a} {first} {b}"
    elif kind < 0.8:
        written = f"{a} {first} {b} {second} {c}"
    elif kind < 0.9:
        written = f"({a} {first} {b}) {second} {c}" if rng.random() < 0.5 else f"{a} {first} ({b} {second} {c})"
    else:
        written = f"{a}{first}{b}"
    return written, written


def _calculate(rng: Random) -> Filled:
    said, written = expression(rng)
    return Filled({"expression": said}, {"expression": written})


def _convert(rng: Random) -> Filled:
    from_unit, to_unit = rng.sample(UNITS_BY_QUANTITY[rng.choice(tuple(UNITS_BY_QUANTITY))], 2)
    value = decimal(rng)
    said = {"value": str(value), "from_unit": from_unit, "to_unit": to_unit}
    return Filled(said, {"value": value, "from_unit": from_unit, "to_unit": to_unit})


def _days_between(rng: Random) -> Filled:
    start = some_date(rng)
    dates = {"start": said_date(rng, start), "end": said_date(rng, start + timedelta(days=integer(rng, 1)))}
    return Filled(dates, dict(dates))


def _add_days(rng: Random) -> Filled:
    """The sign is settled by the phrasing: `{days_before}` asks for a negative number."""
    day, days = said_date(rng, some_date(rng)), rng.randint(2, 10 ** rng.choice((1, 2, 3)))
    return Filled({"date": day, "days": str(days), "days_before": str(days)}, {"date": day, "days": days})


def _weekday(rng: Random) -> Filled:
    day = said_date(rng, some_date(rng))
    return Filled({"date": day}, {"date": day})


def _country(rng: Random) -> Filled:
    name = rng.choice(tuple(COUNTRIES)) if rng.random() < 0.75 else made_up_word(rng).capitalize()
    values = {"country": name, "field": rng.choice(COUNTRY_FIELDS)}
    return Filled(values, dict(values))


def _element(rng: Random) -> Filled:
    name = rng.choice(tuple(ELEMENTS)) if rng.random() < 0.85 else made_up_word(rng)
    values = {"element": name, "field": rng.choice(ELEMENT_FIELDS)}
    return Filled(values, dict(values))


def _roman(rng: Random) -> Filled:
    number = rng.randint(1, rng.choice((99, 999, 3999)))
    return Filled({"number": str(number)}, {"number": number})


def _count_letter(rng: Random) -> Filled:
    chosen = word(rng)
    letter = rng.choice(chosen) if rng.random() < 0.8 else rng.choice("abcdefghijklmnopqrstuvwxyz")
    return Filled({"word": chosen, "letter": letter}, {"word": chosen, "letter": letter})


def _reverse(rng: Random) -> Filled:
    text = " ".join(word(rng) for _ in range(rng.choices((1, 2), (5, 1))[0]))
    text = text.capitalize() if rng.random() < 0.15 else text
    return Filled({"text": text}, {"text": text})


def _number(rng: Random) -> Filled:
    number = integer(rng)
    return Filled({"number": str(number)}, {"number": number})


def _two_numbers(rng: Random) -> Filled:
    a, b = integer(rng), integer(rng)
    return Filled({"a": str(a), "b": str(b)}, {"a": a, "b": b})


FILL = {
    "calculate": _calculate, "convert_units": _convert, "days_between": _days_between, "add_days": _add_days,
    "weekday": _weekday, "country_info": _country, "element_info": _element, "to_roman": _roman,
    "count_letter": _count_letter, "reverse_text": _reverse, "prime_factors": _number, "common_divisor": _two_numbers,
}  # fmt: skip


def fill(phrasing: str, values: dict[str, str]) -> str:
    """Puts the values in; a slot without one is an error of the phrasing."""
    return _SLOT.sub(lambda match: values[match[1]], phrasing)


def anything(rng: Random, nouns: tuple[str, ...]) -> dict[str, str]:
    """Values for the slots of ordinary chat and of topics without a built-in tool."""
    city, other = _name(rng, CITIES), _name(rng, CITIES)
    money, money2 = rng.sample(MONEY, 2)
    return {
        "city": city, "city2": other, "place": rng.choice((city, _name(rng, tuple(COUNTRIES)))),
        "country": _name(rng, tuple(COUNTRIES)), "person": _name(rng, PERSONS), "company": _name(rng, COMPANIES),
        "language": rng.choice(LANGUAGES), "money": money, "money2": money2, "room": rng.choice(ROOMS),
        "food": rng.choice(FOOD), "thing": rng.choice(THINGS), "noun": rng.choice(nouns), "word": word(rng),
        "small": str(rng.randint(2, 60)), "amount": str(decimal(rng)),
        "time": f"{rng.randint(1, 23)}:{rng.choice(('00', '15', '30', '45'))}",
        "date": said_date(rng, some_date(rng)), "code": f"{rng.choice('ABCDEFGH')}{rng.randint(100, 99999)}",
    }  # fmt: skip

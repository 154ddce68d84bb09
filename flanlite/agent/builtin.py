"""The built-in tools: small, exact, and safe to run on anything a model writes.

Each is a plain typed function that returns a short string, so that the agent loop can read its signature and
docstring like any other tool's. None evaluates code, reads a clock, opens a file or reaches a network: the same
arguments give the same result on every machine. A wrong argument raises ValueError with one clear sentence, which
the model gets to read as its observation.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable
from datetime import date, datetime, timedelta
from typing import Literal

MAX_EXPRESSION_LENGTH = 200
MAX_NUMBER = 1e15
MAX_EXPONENT = 64
MAX_TEXT_LENGTH = 200

# Below the first, four decimals can be wrong by over a tenth; below the second, a number without an exponent is long.
SMALL = 0.0005
TINY = 1e-9

Number = int | float


def _sum(a: Number, b: Number) -> Number:
    """The sum, or 0 where all that is left of two floats is their rounding error, as of 0.1 + 0.2 - 0.3."""
    total = a + b
    is_error = isinstance(total, float) and abs(total) < min(SMALL, 4 * math.ulp(max(abs(a), abs(b))))
    return 0 if is_error else total


OPERATORS: dict[type[ast.AST], Callable[[Number, Number], Number]] = {
    ast.Add: _sum,
    ast.Sub: lambda a, b: _sum(a, -b),
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}

DATE_FORMATS = ("%Y-%m-%d", "%d %B %Y", "%B %d, %Y", "%B %d %Y", "%d.%m.%Y")

# Each unit as (quantity, its size in meters, kilograms, liters, seconds, meters per second, square meters or bytes).
LENGTH, MASS, VOLUME, DURATION, SPEED, AREA, DATA, TEMPERATURE = (
    "length", "mass", "volume", "duration", "speed", "area", "data", "temperature",
)  # fmt: skip
UNITS: dict[str, tuple[str, float]] = {
    "mm": (LENGTH, 0.001), "millimeters": (LENGTH, 0.001),
    "cm": (LENGTH, 0.01), "centimeters": (LENGTH, 0.01),
    "m": (LENGTH, 1), "meters": (LENGTH, 1), "metres": (LENGTH, 1),
    "km": (LENGTH, 1000), "kilometers": (LENGTH, 1000), "kilometres": (LENGTH, 1000),
    "inches": (LENGTH, 0.0254), "inch": (LENGTH, 0.0254),
    "feet": (LENGTH, 0.3048), "foot": (LENGTH, 0.3048), "ft": (LENGTH, 0.3048),
    "yards": (LENGTH, 0.9144), "miles": (LENGTH, 1609.344), "mile": (LENGTH, 1609.344),
    "mg": (MASS, 1e-6), "g": (MASS, 0.001), "grams": (MASS, 0.001),
    "kg": (MASS, 1), "kilograms": (MASS, 1), "tonnes": (MASS, 1000),
    "ounces": (MASS, 0.028349523125), "oz": (MASS, 0.028349523125),
    "pounds": (MASS, 0.45359237), "lb": (MASS, 0.45359237), "stones": (MASS, 6.35029318),
    "ml": (VOLUME, 0.001), "milliliters": (VOLUME, 0.001), "liters": (VOLUME, 1), "litres": (VOLUME, 1),
    "cups": (VOLUME, 0.2365882365), "pints": (VOLUME, 0.473176473), "gallons": (VOLUME, 3.785411784),
    "seconds": (DURATION, 1), "minutes": (DURATION, 60), "hours": (DURATION, 3600),
    "days": (DURATION, 86400), "weeks": (DURATION, 604800),
    "km/h": (SPEED, 1 / 3.6), "m/s": (SPEED, 1), "mph": (SPEED, 0.44704), "knots": (SPEED, 1852 / 3600),
    "hectares": (AREA, 10000), "acres": (AREA, 4046.8564224),
    "KB": (DATA, 1e3), "MB": (DATA, 1e6), "GB": (DATA, 1e9), "TB": (DATA, 1e12),
    "celsius": (TEMPERATURE, 1), "fahrenheit": (TEMPERATURE, 1), "kelvin": (TEMPERATURE, 1),
}  # fmt: skip

# What else a unit is called, beside an s more or less.
UNIT_NAMES: dict[str, str] = {
    "millimetre": "mm", "centimetre": "cm", "in": "inches", "yd": "yards", "mi": "miles",
    "milligram": "mg", "kilo": "kg", "t": "tonnes", "st": "stones",
    "l": "liters", "millilitre": "ml", "pt": "pints", "gal": "gallons",
    "s": "seconds", "sec": "seconds", "min": "minutes", "h": "hours", "hr": "hours", "d": "days", "wk": "weeks",
    "kmh": "km/h", "kph": "km/h", "kilometers per hour": "km/h", "kilometres per hour": "km/h",
    "meters per second": "m/s", "metres per second": "m/s", "miles per hour": "mph", "kn": "knots", "kt": "knots",
    "ha": "hectares", "kB": "KB", "kilobyte": "KB", "megabyte": "MB", "gigabyte": "GB", "terabyte": "TB",
    "c": "celsius", "°c": "celsius", "degrees c": "celsius", "degrees celsius": "celsius",
    "f": "fahrenheit", "°f": "fahrenheit", "degrees f": "fahrenheit", "degrees fahrenheit": "fahrenheit",
    "k": "kelvin",
}  # fmt: skip

# country: capital, continent, currency, language
COUNTRIES: dict[str, tuple[str, str, str, str]] = {
    "Argentina": ("Buenos Aires", "South America", "peso", "Spanish"),
    "Australia": ("Canberra", "Oceania", "dollar", "English"),
    "Austria": ("Vienna", "Europe", "euro", "German"),
    "Bangladesh": ("Dhaka", "Asia", "taka", "Bengali"),
    "Brazil": ("Brasilia", "South America", "real", "Portuguese"),
    "Bulgaria": ("Sofia", "Europe", "euro", "Bulgarian"),
    "Cambodia": ("Phnom Penh", "Asia", "riel", "Khmer"),
    "Chile": ("Santiago", "South America", "peso", "Spanish"),
    "China": ("Beijing", "Asia", "yuan", "Chinese"),
    "Colombia": ("Bogota", "South America", "peso", "Spanish"),
    "Cuba": ("Havana", "North America", "peso", "Spanish"),
    "Denmark": ("Copenhagen", "Europe", "krone", "Danish"),
    "Egypt": ("Cairo", "Africa", "pound", "Arabic"),
    "Ethiopia": ("Addis Ababa", "Africa", "birr", "Amharic"),
    "Finland": ("Helsinki", "Europe", "euro", "Finnish"),
    "France": ("Paris", "Europe", "euro", "French"),
    "Germany": ("Berlin", "Europe", "euro", "German"),
    "Ghana": ("Accra", "Africa", "cedi", "English"),
    "Greece": ("Athens", "Europe", "euro", "Greek"),
    "Hungary": ("Budapest", "Europe", "forint", "Hungarian"),
    "Iceland": ("Reykjavik", "Europe", "krona", "Icelandic"),
    "India": ("New Delhi", "Asia", "rupee", "Hindi"),
    "Indonesia": ("Jakarta", "Asia", "rupiah", "Indonesian"),
    "Iran": ("Tehran", "Asia", "rial", "Persian"),
    "Italy": ("Rome", "Europe", "euro", "Italian"),
    "Jamaica": ("Kingston", "North America", "dollar", "English"),
    "Japan": ("Tokyo", "Asia", "yen", "Japanese"),
    "Kenya": ("Nairobi", "Africa", "shilling", "Swahili"),
    "Mexico": ("Mexico City", "North America", "peso", "Spanish"),
    "Mongolia": ("Ulaanbaatar", "Asia", "tugrik", "Mongolian"),
    "Morocco": ("Rabat", "Africa", "dirham", "Arabic"),
    "Nepal": ("Kathmandu", "Asia", "rupee", "Nepali"),
    "Netherlands": ("Amsterdam", "Europe", "euro", "Dutch"),
    "Nigeria": ("Abuja", "Africa", "naira", "English"),
    "Norway": ("Oslo", "Europe", "krone", "Norwegian"),
    "Peru": ("Lima", "South America", "sol", "Spanish"),
    "Poland": ("Warsaw", "Europe", "zloty", "Polish"),
    "Portugal": ("Lisbon", "Europe", "euro", "Portuguese"),
    "Romania": ("Bucharest", "Europe", "leu", "Romanian"),
    "Russia": ("Moscow", "Europe", "ruble", "Russian"),
    "Senegal": ("Dakar", "Africa", "franc", "French"),
    "Spain": ("Madrid", "Europe", "euro", "Spanish"),
    "Sweden": ("Stockholm", "Europe", "krona", "Swedish"),
    "Thailand": ("Bangkok", "Asia", "baht", "Thai"),
    "Turkey": ("Ankara", "Asia", "lira", "Turkish"),
    "Ukraine": ("Kyiv", "Europe", "hryvnia", "Ukrainian"),
    "Uruguay": ("Montevideo", "South America", "peso", "Spanish"),
    "Vietnam": ("Hanoi", "Asia", "dong", "Vietnamese"),
}
COUNTRY_FIELDS = ("capital", "continent", "currency", "language")

# element: symbol, number, mass (standard atomic weight, shortened)
ELEMENTS: dict[str, tuple[str, str, str]] = {
    "hydrogen": ("H", "1", "1.008"), "helium": ("He", "2", "4.003"), "lithium": ("Li", "3", "6.94"),
    "carbon": ("C", "6", "12.011"), "nitrogen": ("N", "7", "14.007"), "oxygen": ("O", "8", "15.999"),
    "fluorine": ("F", "9", "18.998"), "neon": ("Ne", "10", "20.180"), "sodium": ("Na", "11", "22.990"),
    "magnesium": ("Mg", "12", "24.305"), "aluminium": ("Al", "13", "26.982"), "silicon": ("Si", "14", "28.085"),
    "phosphorus": ("P", "15", "30.974"), "sulfur": ("S", "16", "32.06"), "chlorine": ("Cl", "17", "35.45"),
    "argon": ("Ar", "18", "39.95"), "potassium": ("K", "19", "39.098"), "calcium": ("Ca", "20", "40.078"),
    "titanium": ("Ti", "22", "47.867"), "chromium": ("Cr", "24", "51.996"), "iron": ("Fe", "26", "55.845"),
    "cobalt": ("Co", "27", "58.933"), "nickel": ("Ni", "28", "58.693"), "copper": ("Cu", "29", "63.546"),
    "zinc": ("Zn", "30", "65.38"), "bromine": ("Br", "35", "79.904"), "krypton": ("Kr", "36", "83.798"),
    "silver": ("Ag", "47", "107.868"), "tin": ("Sn", "50", "118.710"), "iodine": ("I", "53", "126.904"),
    "xenon": ("Xe", "54", "131.293"), "tungsten": ("W", "74", "183.84"), "platinum": ("Pt", "78", "195.084"),
    "gold": ("Au", "79", "196.967"), "mercury": ("Hg", "80", "200.592"), "lead": ("Pb", "82", "207.2"),
    "uranium": ("U", "92", "238.029"),
}  # fmt: skip
ELEMENT_FIELDS = ("symbol", "number", "mass")

ROMAN = (
    (1000, "M"), (900, "CM"), (500, "D"), (400, "CD"), (100, "C"), (90, "XC"), (50, "L"), (40, "XL"),
    (10, "X"), (9, "IX"), (5, "V"), (4, "IV"), (1, "I"),
)  # fmt: skip


def calculate(expression: str) -> str:
    """Work out an arithmetic expression."""
    if len(expression) > MAX_EXPRESSION_LENGTH:
        raise ValueError(f"The expression is longer than {MAX_EXPRESSION_LENGTH} characters.")
    try:
        tree = ast.parse(expression.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ValueError(f"{expression} is not an arithmetic expression.") from None
    return _short(_value(tree.body))


def convert_units(value: float, from_unit: str, to_unit: str) -> str:
    """Convert a value between units."""
    known_from, known_to = _unit(from_unit), _unit(to_unit)
    if known_from is None or known_to is None:
        raise ValueError(_unknown_unit(from_unit if known_from is None else to_unit, known_from or known_to))
    (from_quantity, from_size), (to_quantity, to_size) = UNITS[known_from], UNITS[known_to]
    if from_quantity != to_quantity:
        raise ValueError(f"{from_unit} is a unit of {from_quantity} and {to_unit} one of {to_quantity}.")
    if from_quantity == TEMPERATURE:
        result = _from_kelvin(_to_kelvin(value, known_from), known_to)
    else:
        result = value * from_size / to_size
    # The sum that makes a temperature has a rounding error; sizes of data are told as the sample corpus tells them.
    if from_quantity in (TEMPERATURE, DATA):
        result = round(result, 4)
    return f"{_short(_bounded(result))} {to_unit}"


def days_between(start: str, end: str) -> str:
    """Count the days between two dates."""
    days = abs((_date(end) - _date(start)).days)
    return f"{days} day" if days == 1 else f"{days} days"


def add_days(date: str, days: int) -> str:
    """Find the date some days after or before a date."""
    try:
        return (_date(date) + timedelta(days=days)).isoformat()
    except OverflowError:
        raise ValueError("The result is outside the years 1 to 9999.") from None


def weekday(date: str) -> str:
    """Name the weekday of a date."""
    return _date(date).strftime("%A")


def country_info(country: str, field: Literal["capital", "continent", "currency", "language"]) -> str:
    """Look up a fact about a country."""
    return _look_up(COUNTRIES, COUNTRY_FIELDS, country, field, "countries")


def element_info(element: str, field: Literal["symbol", "number", "mass"]) -> str:
    """Look up a fact about a chemical element."""
    return _look_up(ELEMENTS, ELEMENT_FIELDS, element, field, "elements")


def to_roman(number: int) -> str:
    """Write a number as a Roman numeral."""
    if not 1 <= number <= 3999:
        raise ValueError("A Roman numeral needs a number from 1 to 3999.")
    numeral = ""
    for size, letters in ROMAN:
        numeral += letters * (number // size)
        number %= size
    return numeral


def count_letter(word: str, letter: str) -> str:
    """Count how often a letter is in a word."""
    if len(letter) != 1:
        raise ValueError("The letter must be one character.")
    return str(_text(word).lower().count(letter.lower()))


def reverse_text(text: str) -> str:
    """Write a text backwards."""
    return _text(text)[::-1]


def prime_factors(number: int) -> str:
    """Split a number into its prime factors."""
    if not 2 <= number <= 10**9:
        raise ValueError("The number must be from 2 to 1000000000.")
    factors: list[int] = []
    divisor = 2
    while divisor * divisor <= number:
        while number % divisor == 0:
            factors.append(divisor)
            number //= divisor
        divisor += 1
    return " * ".join(str(factor) for factor in [*factors, number] if factor > 1)


def common_divisor(a: int, b: int) -> str:
    """Find the greatest common divisor of two numbers."""
    if a == 0 and b == 0:
        raise ValueError("Zero and zero have no greatest common divisor.")
    return str(math.gcd(a, b))


BUILTIN: tuple[Callable[..., str], ...] = (
    calculate, convert_units, days_between, add_days, weekday, country_info,
    element_info, to_roman, count_letter, reverse_text, prime_factors, common_divisor,
)  # fmt: skip


def _value(node: ast.expr) -> Number:
    """Works out one node; everything that is not a number, a sign or an operator is refused."""
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float) and not isinstance(node.value, bool):
        return _bounded(node.value)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        operand = _value(node.operand)
        return -operand if isinstance(node.op, ast.USub) else operand
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        left, right = _value(node.left), _value(node.right)
        if isinstance(node.op, ast.Pow) and abs(right) > MAX_EXPONENT:
            raise ValueError(f"The exponent is over {MAX_EXPONENT}.")
        try:
            return _bounded(OPERATORS[type(node.op)](left, right))
        except ZeroDivisionError:
            raise ValueError("A division by zero has no result.") from None
        except OverflowError:
            raise ValueError("The number is too large.") from None
    raise ValueError("Only numbers, brackets and the signs + - * / // % ** are allowed.")


def _bounded(value: Number | complex) -> Number:
    if isinstance(value, complex):
        raise ValueError("The result is not a real number.")
    if not -MAX_NUMBER <= value <= MAX_NUMBER:
        raise ValueError("The number is too large.")
    return value


def _short(value: Number) -> str:
    """Four decimals, or six digits of a small number, and rarely an exponent, so that a small model can repeat it."""
    if isinstance(value, int) or value == 0:
        return str(int(value))
    if abs(value) >= SMALL:
        return f"{value:.4f}".rstrip("0").rstrip(".")
    if abs(value) < TINY:
        return f"{value:.6g}"
    decimals = 5 - math.floor(math.log10(abs(value)))
    return f"{value:.{decimals}f}".rstrip("0")


def _unit(name: str) -> str | None:
    """The name in UNITS of the unit that goes by this name, if there is one."""
    for written in (name, name.lower()):
        # Of two letters the s is no plural: ms are milliseconds, not meters.
        without_s = written.removesuffix("s") if len(written) > 2 else written
        for form in (written, f"{written}s", without_s):
            known = UNIT_NAMES.get(form, form)
            if known in UNITS:
                return known
    return None


def _unknown_unit(name: str, known: str | None) -> str:
    """What to tell of an unknown unit; the unit beside it, if known, says which units to name."""
    quantity = UNITS[known][0] if known else None
    first = {row: unit for unit, row in reversed(UNITS.items())}
    # Units of temperature differ in more than their size, and each has but one name.
    main = [unit for unit, row in UNITS.items() if unit == first[row] or row[0] == TEMPERATURE]
    named = [unit for unit in main if quantity in (None, UNITS[unit][0])]
    return f"{name} is not a known unit. The units{f' of {quantity}' if quantity else ''} are {', '.join(named)}."


def _to_kelvin(value: float, unit: str) -> float:
    return {"celsius": value + 273.15, "fahrenheit": (value - 32) / 1.8 + 273.15, "kelvin": value}[unit]


def _from_kelvin(value: float, unit: str) -> float:
    return {"celsius": value - 273.15, "fahrenheit": (value - 273.15) * 1.8 + 32, "kelvin": value}[unit]


def _date(text: str) -> date:
    for form in DATE_FORMATS:
        try:
            return datetime.strptime(text.strip(), form).date()
        except ValueError:
            continue
    raise ValueError(f"{text} is not a date like 2024-03-15 or 15 March 2024.")


def _text(text: str) -> str:
    if not text or len(text) > MAX_TEXT_LENGTH:
        raise ValueError(f"The text must have 1 to {MAX_TEXT_LENGTH} characters.")
    return text


def _look_up(
    table: dict[str, tuple[str, ...]] | dict[str, tuple[str, str, str]] | dict[str, tuple[str, str, str, str]],
    fields: tuple[str, ...],
    name: str,
    field: str,
    kind: str,
) -> str:
    if field not in fields:
        raise ValueError(f"There is no {field}; the fields are {', '.join(fields)}.")
    rows = {key.lower(): row for key, row in table.items()}
    row = rows.get(name.lower())
    if row is None:
        raise ValueError(f"{name} is not in the table of {kind}.")
    return row[fields.index(field)]

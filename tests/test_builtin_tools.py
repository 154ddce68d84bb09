"""The built-in tools: exact results, short strings, and one clear sentence for a wrong argument."""

import contextlib
import inspect
import re
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flanlite.agent.builtin import (
    BUILTIN,
    COUNTRIES,
    ELEMENTS,
    UNIT_NAMES,
    UNITS,
    add_days,
    calculate,
    common_divisor,
    convert_units,
    count_letter,
    country_info,
    days_between,
    element_info,
    prime_factors,
    reverse_text,
    to_roman,
    weekday,
)


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (calculate("12*(3+4)"), "84"),
        (calculate("7 / 2"), "3.5"),
        (calculate("2 ** 10 - 1"), "1023"),
        (calculate("-3 + 1.5"), "-1.5"),
        (calculate("17 % 5"), "2"),
        (calculate("1 / 3"), "0.3333"),
        (calculate("0.1 + 0.2 - 0.3"), "0"),
        (calculate("1000.1 + 1000.2 - 2000.3"), "0"),
        (calculate("10 ** 15 - (10 ** 15 - 1)"), "1"),
        (calculate("1e15 - 999999999999999.5"), "0.5"),
        (calculate("1 / 100000"), "0.00001"),
        (calculate("-1 / 30000"), "-0.0000333333"),
        (calculate("1 / 1900"), "0.0005"),
        (calculate("1 / 2100"), "0.00047619"),
        (calculate("1 / 10 ** 9"), "0.000000001"),
        (calculate("2 / 3 / 10 ** 15"), "6.66667e-16"),
        (convert_units(12.5, "km", "miles"), "7.7671 miles"),
        (convert_units(100, "fahrenheit", "celsius"), "37.7778 celsius"),
        (convert_units(0, "Celsius", "kelvin"), "273.15 kelvin"),
        (convert_units(2, "weeks", "days"), "14 days"),
        (convert_units(1, "mm", "km"), "0.000001 km"),
        (convert_units(-459.67, "fahrenheit", "kelvin"), "0 kelvin"),
        (convert_units(1, "pound", "kg"), "0.4536 kg"),
        (convert_units(1, "hour", "min"), "60 min"),
        (convert_units(2, "lbs", "ounce"), "32 ounce"),
        (convert_units(1, "kilometer", "metre"), "1000 metre"),
        (convert_units(1, "Litre", "mL"), "1000 mL"),
        (convert_units(100, "C", "°F"), "212 °F"),
        (convert_units(0, "degrees Celsius", "K"), "273.15 K"),
        (convert_units(36, "kph", "m/s"), "10 m/s"),
        (convert_units(1, "kB", "KB"), "1 KB"),
        (convert_units(3, "GB", "MB"), "3000 MB"),
        (days_between("2024-02-28", "2024-03-01"), "2 days"),
        (days_between("2024-03-01", "29 February 2024"), "1 day"),
        (add_days("December 25, 2023", 10), "2024-01-04"),
        (add_days("2024-03-01", -1), "2024-02-29"),
        (weekday("1969-07-20"), "Sunday"),
        (country_info("japan", "currency"), "yen"),
        (country_info("France", "capital"), "Paris"),
        (element_info("Gold", "symbol"), "Au"),
        (element_info("iron", "mass"), "55.845"),
        (to_roman(1994), "MCMXCIV"),
        (count_letter("Strawberry", "r"), "3"),
        (reverse_text("a bc"), "cb a"),
        (prime_factors(360), "2 * 2 * 2 * 3 * 3 * 5"),
        (prime_factors(999999937), "999999937"),
        (common_divisor(12, -18), "6"),
    ],
)
def test_the_result_is_exact(result: str, expected: str) -> None:
    assert result == expected


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: calculate("1 / 0"), "A division by zero has no result."),
        (lambda: calculate("2 ** 99999"), "The exponent is over 64."),
        (lambda: calculate("10 ** 60 ** 2"), "The exponent is over 64."),
        (lambda: calculate("9999999999 ** 9"), "The number is too large."),
        (lambda: calculate("(-1) ** 0.5"), "The result is not a real number."),
        (lambda: calculate("__import__('os')"), "Only numbers, brackets and the signs + - * / // % ** are allowed."),
        (lambda: calculate("True + 1"), "Only numbers, brackets and the signs + - * / // % ** are allowed."),
        (lambda: calculate("12 +"), "12 + is not an arithmetic expression."),
        (lambda: calculate("("), "( is not an arithmetic expression."),
        (lambda: calculate("1+" * 200 + "1"), "The expression is longer than 200 characters."),
        (lambda: convert_units(1, "km", "kg"), "km is a unit of length and kg one of mass."),
        (
            lambda: convert_units(1, "parsecs", "kilometer"),
            "parsecs is not a known unit. The units of length are mm, cm, m, km, inches, feet, yards, miles.",
        ),
        (
            lambda: convert_units(1, "hours", "ms"),
            "ms is not a known unit. The units of duration are seconds, minutes, hours, days, weeks.",
        ),
        (
            lambda: convert_units(1, "bits", "parsecs"),
            "bits is not a known unit. The units are mm, cm, m, km, inches, feet, yards, miles, mg, g, kg, tonnes, "
            "ounces, pounds, stones, ml, liters, cups, pints, gallons, seconds, minutes, hours, days, weeks, km/h, "
            "m/s, mph, knots, hectares, acres, KB, MB, GB, TB, celsius, fahrenheit, kelvin.",
        ),
        (lambda: convert_units(1, "foot", "lbs"), "foot is a unit of length and lbs one of mass."),
        (lambda: convert_units(1e300, "km", "mm"), "The number is too large."),
        (lambda: weekday("yesterday"), "yesterday is not a date like 2024-03-15 or 15 March 2024."),
        (lambda: add_days("2024-01-01", 10**9), "The result is outside the years 1 to 9999."),
        (lambda: country_info("Narnia", "capital"), "Narnia is not in the table of countries."),
        (lambda: element_info("iron", "taste"), "There is no taste; the fields are symbol, number, mass."),
        (lambda: to_roman(0), "A Roman numeral needs a number from 1 to 3999."),
        (lambda: count_letter("word", "rd"), "The letter must be one character."),
        (lambda: reverse_text(""), "The text must have 1 to 200 characters."),
        (lambda: prime_factors(1), "The number must be from 2 to 1000000000."),
        (lambda: common_divisor(0, 0), "Zero and zero have no greatest common divisor."),
    ],
)
def test_a_wrong_argument_raises_one_sentence(call, sentence: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        call()


@given(st.text(max_size=60))
def test_calculate_answers_or_refuses_any_text(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert len(calculate(text)) < 40


@given(st.text(alphabet="0123456789+-*/%(). ", max_size=60))
def test_calculate_ends_quickly_on_any_arithmetic(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert len(calculate(text)) < 40


@given(st.integers(2, 10**6))
def test_prime_factors_multiply_to_the_number(number: int) -> None:
    assert calculate(prime_factors(number)) == str(number)


@given(st.dates(), st.integers(-5000, 5000))
def test_days_between_undoes_add_days(day, days: int) -> None:  # type: ignore[no-untyped-def]
    try:
        later = add_days(day.isoformat(), days)
    except ValueError:
        return
    assert days_between(day.isoformat(), later).split()[0] == str(abs(days))


def test_every_unit_converts_to_itself() -> None:
    assert {convert_units(5, unit, unit) for unit in UNITS} == {f"5 {unit}" for unit in UNITS}


@pytest.mark.parametrize("unit", [*UNITS, *UNIT_NAMES])
def test_a_unit_may_have_an_s_or_lack_it(unit: str) -> None:
    other = unit.removesuffix("s") if unit.endswith("s") else f"{unit}s"
    if min(len(unit), len(other)) > 1:
        assert convert_units(5, unit, other) == f"5 {other}"


@given(st.floats(1e-9, 1e15))
def test_a_result_is_near_and_has_no_exponent(value: float) -> None:
    told = calculate(str(value))
    assert "e" not in told
    assert float(told) == pytest.approx(value, rel=0.1)
    assert float(told) == pytest.approx(value, rel=1e-5, abs=0.00005)


def test_tables_are_whole() -> None:
    assert set(UNIT_NAMES.values()) <= set(UNITS)
    assert not set(UNIT_NAMES) & set(UNITS)
    assert all(len(row) == 4 and all(row) for row in COUNTRIES.values())
    assert all(len(row) == 3 and all(row) for row in ELEMENTS.values())


def test_every_tool_has_types_and_a_one_line_docstring() -> None:
    for tool in BUILTIN:
        assert "\n" not in (inspect.getdoc(tool) or "\n")
        assert all(p.annotation is not inspect.Parameter.empty for p in inspect.signature(tool).parameters.values())


def test_importing_the_tools_imports_nothing_heavy() -> None:
    code = "import sys, flanlite.agent.builtin; print(sorted({'torch', 'numpy', 'transformers'} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"

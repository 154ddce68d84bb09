"""Tools of your own: plain functions. Each public one in this file becomes a tool of the chat.

The model reads a function's name, its docstring and its type hints, and nothing else. Write all three for it: short,
and in the words of those who will ask. Arguments that speak for themselves need no description. What a function returns
is told to the model: text as it is, anything else as JSON. A ValueError is told to it as well, so that it can mend its
call; say in one sentence what is wrong.
"""

import random
import re
from typing import Literal


def roll_dice(count: int, sides: int = 6, seed: int | None = None) -> list[int]:
    """Roll dice and give the numbers.

    Args:
        seed: the same seed gives the same numbers
    """
    if not (1 <= count <= 100 and 2 <= sides <= 1000):
        raise ValueError("Roll 1 to 100 dice with 2 to 1000 sides.")
    dice = random.Random(seed)
    return [dice.randint(1, sides) for _ in range(count)]


def compare_prices(prices: dict[str, float], amounts: dict[str, float]) -> str:
    """Find the offer that is cheapest for its amount.

    Args:
        prices: the price of each offer by its name
        amounts: the amount of each offer by the same name, all in one unit
    """
    if not prices or prices.keys() != amounts.keys():
        raise ValueError("Give a price and an amount for each offer.")
    if min(amounts.values()) <= 0:
        raise ValueError("An amount must be more than zero.")
    per_unit = {name: price / amounts[name] for name, price in prices.items()}
    cheapest = min(per_unit, key=per_unit.__getitem__)
    return f"{cheapest}, at {per_unit[cheapest]:.4g} for one unit"


def count_in_text(text: str, what: Literal["characters", "words", "sentences"]) -> int:
    """Count the characters, words or sentences of a text."""
    patterns = {"characters": r"(?s:.)", "words": r"\w+(?:['’-]\w+)*", "sentences": r"\w[^.!?]*"}
    return len(re.findall(patterns[what], text))


def scale_recipe(ingredients: list[str], servings: int, wanted_servings: int) -> list[str]:
    """Scale the ingredients of a recipe to another number of servings.

    Args:
        ingredients: each with its amount first, such as "200 g flour"
    """
    if min(servings, wanted_servings) < 1:
        raise ValueError("A recipe is for one serving at least.")

    def scaled(amount: re.Match[str]) -> str:
        return f"{float(amount[0]) * wanted_servings / servings:.4g}"

    return [re.sub(r"^\d+(\.\d+)?", scaled, ingredient.strip()) for ingredient in ingredients]

"""Every setting of a tune, declared once with its meaning; a YAML file and `key=value` pairs set them.

The resolved recipe is written into the run folder, and merge, chat and evaluation read it from there.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import operator
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from flanlite.errors import FlanliteError
from flanlite.planning.setup import Setup

Auto = Literal["auto"]
Optimizer = Literal["adamw_8bit", "paged_adamw_8bit", "adamw_torch", "adamw_torch_fused"]

MOST_TOKENS = 4096
"""The longest row that is chosen for a card: hardly a conversation of Agent-FLAN is longer."""

PLAIN_TOKENS = 2048
"""The longest row that is chosen where no card's memory is reckoned with."""

ALL_LAYERS = 999
"""More layers than any model has."""


def setting(default: Any, meaning: str) -> Any:
    """A dataclass field with its meaning beside it."""
    return field(default=default, metadata={"meaning": meaning})


@dataclass(frozen=True)
class Recipe:
    """The settings, in the order in which a newcomer meets them."""

    base: str = setting("llama2-7b-chat", "a name from `flanlite bases`, a hub name, or a folder")
    data: tuple[str, ...] = setting(
        ("internlm/Agent-FLAN",), "files, folders or hub names to train on; `sample` is the embedded corpus"
    )
    subset: tuple[str, ...] = setting((), "subsets of a hub data set to take; none named: all")
    form: Literal["auto", "agent-flan", "messages", "sharegpt"] = setting(
        "auto", "how the rows are written; auto looks at each file"
    )
    general: str = setting(
        "auto",
        "general chat mixed in: `sharegpt`, a file, folder or hub name, or `none`; auto: sharegpt beside Agent-FLAN, "
        "none beside your own data",
    )
    general_share: float = setting(0.5, "share of general chat in the trained tokens; the paper mixes 1 : 1")
    budget: str = setting(
        "auto",
        "predicted time to size the sample for, such as 3h or 40m, or `full` for every row; auto: 3h for Agent-FLAN, "
        "full for your own data",
    )
    template: Literal["base", "llama2", "agent-flan", "auto"] = setting(
        "base", "how turns become tokens; base: what the table of bases says, auto: the model's own chat template"
    )
    tool_style: Literal["react", "json"] = setting("react", "how structured tools and calls are written out as text")

    max_tokens: int | Auto = setting(
        "auto",
        f"longest conversation, and length of a packed row, in tokens; auto: what the base reads, at most "
        f"{MOST_TOKENS:,}, halved until a step fits the card; without a card at most {PLAIN_TOKENS:,}",
    )
    overlong: Literal["turns", "drop", "error"] = setting(
        "turns", "longer ones: cut at a turn's end, drop the row, or stop with an error"
    )
    validation_share: float = setting(0.02, "share of the conversations held out for the validation loss")
    epochs: float = setting(1.0, "passes over the data; the paper makes one")
    batch_tokens: int = setting(
        16_384, "tokens of packed rows in one optimizer step; the paper's 32 conversations are about as many"
    )
    micro_rows: int | Auto = setting(
        "auto", "packed rows on the card at once, the rest of a step is accumulated; auto: as the plan finds fastest"
    )
    kept_layers: int | Auto = setting(
        "auto",
        "layers that keep their activations, the others recompute them: 0 is smallest and slowest; auto: as many as "
        "the plan finds room for",
    )
    offload: bool | Auto = setting(
        "auto",
        "recomputed layers put their input into the computer's memory meanwhile; auto: only if nothing else fits",
    )

    lora_r: int = setting(16, "rank of the LoRA matrices on every linear layer")
    lora_alpha: int = setting(32, "scale of the LoRA matrices, divided by the rank")
    lora_dropout: float = setting(0.0, "dropout in front of the LoRA matrices; 0: none")
    learning_rate: float = setting(2e-4, "peak learning rate")
    schedule: Literal["cosine", "linear", "constant"] = setting("cosine", "how the rate falls after the warm-up")
    warmup_share: float = setting(0.03, "share of the steps in which the rate rises")
    weight_decay: float = setting(0.0, "decay of the LoRA matrices")
    max_grad_norm: float = setting(1.0, "gradients longer than this are shortened to it")
    optimizer: Optimizer | Auto = setting("auto", "auto: adamw_8bit on a card, adamw_torch on a CPU")

    backend: Literal["auto", "unsloth", "peft"] = setting("auto", "auto: unsloth on a card that has it, else peft")
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = setting(
        "auto", "of the compute; auto: bfloat16 from compute capability 8.0 on, else float16, float32 on a CPU"
    )
    seed: int = setting(1, "of the sample, the LoRA matrices and the order of the rows")
    save_minutes: float = setting(10.0, "minutes between checkpoints")
    report_to: str = setting("none", "a tracker that trl knows, such as tensorboard or wandb")

    @property
    def is_default_data(self) -> bool:
        """Whether no data of the user's own is named."""
        return self.data == Recipe.data

    @property
    def chosen_budget(self) -> str:
        """The budget, where it is auto by whose data it is."""
        return ("3h" if self.is_default_data else "full") if self.budget == "auto" else self.budget

    @property
    def chosen_general(self) -> str:
        """The general chat, where it is auto by whose data it is mixed with."""
        return ("sharegpt" if self.is_default_data else "none") if self.general == "auto" else self.general

    @property
    def row_tokens(self) -> int:
        """Tokens of a packed row. Raises ValueError where that is still left to the plan."""
        if self.max_tokens == "auto":
            raise ValueError("the recipe leaves the length of its rows to the plan, which has not been made")
        return self.max_tokens

    @property
    def batch_rows(self) -> int:
        """Packed rows in one optimizer step. Raises ValueError where their length is still left to the plan."""
        return self.batch_tokens // self.row_tokens

    def longest_row(self, context: int | None, most: int) -> int:
        """Tokens of the longest row that the recipe allows, with a base that reads `context`, where that is known.

        Where it leaves the length open, one that a step's tokens are a multiple of.
        """
        if self.max_tokens != "auto":
            return self.max_tokens
        return self.batch_tokens // math.ceil(self.batch_tokens / min(most, context or most))

    def with_plain_rows(self, context: int | None) -> Recipe:
        """The recipe with a length of rows, where it leaves it open: one that does not look at a card's memory."""
        return self.with_rows_of(self.longest_row(context, PLAIN_TOKENS))

    def with_rows_of(self, tokens: int) -> Recipe:
        """The recipe with rows of this length. Raises FlanliteError where they do not fit its other settings."""
        return _checked(dataclasses.replace(self, max_tokens=tokens), "The recipe")

    @property
    def setup(self) -> Setup:
        """How a step is laid out on the card. Raises ValueError where that is still left to the plan."""
        micro_rows, kept_layers, offload = self.micro_rows, self.kept_layers, self.offload
        if micro_rows == "auto" or kept_layers == "auto" or offload == "auto":
            raise ValueError("the recipe leaves its setup to the plan, which has not been made")
        return Setup(micro_rows, kept_layers, offload)

    def with_setup(self, setup: Setup) -> Recipe:
        """The recipe with this layout of a step."""
        return dataclasses.replace(self, **dataclasses.asdict(setup))

    def with_open_setup(self) -> Recipe:
        """The recipe with the layout of a step left to the plan again."""
        return dataclasses.replace(self, micro_rows="auto", kept_layers="auto", offload="auto")

    def with_settings(self, settings: Mapping[str, Any], origin: str) -> Recipe:
        """The recipe with other values. Raises FlanliteError for an unknown key or a value that does not fit."""
        hints = typing.get_type_hints(Recipe)
        unknown = next((key for key in settings if key not in hints), None)
        if unknown is not None:
            near = difflib.get_close_matches(str(unknown), hints, n=1, cutoff=0.5)
            hint = f"Did you mean {near[0]}?" if near else "`flanlite tune --dry-run` lists every key."
            raise FlanliteError(f"{origin} sets {unknown!r}, which is no setting.", hint)
        values = {key: _coerced(key, value, hints[key], origin) for key, value in settings.items()}
        return _checked(dataclasses.replace(self, **values), origin)

    def as_yaml(self) -> str:
        """Every setting with its meaning as a comment; reads back to an equal recipe."""
        import yaml

        lines = []
        for each in dataclasses.fields(self):
            value = getattr(self, each.name)
            written = yaml.safe_dump(
                list(value) if isinstance(value, tuple) else value, default_flow_style=True, width=10_000
            )
            lines += [
                f"# {each.metadata['meaning']}",
                f"{each.name}: {written.removesuffix('...' + chr(10)).strip()}",
            ]
        return "\n".join(lines) + "\n"


def meaning(key: str, settings: type = Recipe) -> str:
    """What a setting means, for help texts."""
    return str(next(each.metadata["meaning"] for each in dataclasses.fields(settings) if each.name == key))


def load_recipe(
    source: str | None,
    overrides: Iterable[str] = (),
    settings: Mapping[str, Any] | None = None,
    start: Recipe | None = None,
) -> Recipe:
    """A recipe from a YAML file or a shipped recipe's name, then `key=value` pairs, then the command's own options.

    What they leave open is as in `start`, or has its default.
    """
    recipe = Recipe() if start is None else start
    if source is not None:
        recipe = recipe.with_settings(_read(find_recipe(source)), source)
    pairs: dict[str, Any] = {}
    for pair in overrides:
        key, mark, value = pair.partition("=")
        if not mark:
            raise FlanliteError(f"{pair!r} is no setting.", "Write settings as key=value, for example epochs=2.")
        pairs[key.strip()] = value.strip()
    # At once, since some settings have to fit others.
    return recipe.with_settings(pairs | dict(settings or {}), "The command line")


def recipe_for(
    source: str | None, overrides: Iterable[str] = (), settings: Mapping[str, Any] | None = None
) -> tuple[Recipe, str]:
    """The recipe that is asked for as `load_recipe` takes it, and its name in words; tiny has one of its own."""
    pairs = list(overrides)
    if source is None and load_recipe(None, pairs, settings).base == "tiny":
        source = "tiny"
    return load_recipe(source, pairs, settings), f"Recipe {source}" if source else "The default settings"


def shipped_recipes() -> dict[str, Path]:
    """The recipes that come with the package, by name."""
    in_wheel, in_repository = Path(__file__).with_name("recipes"), Path(__file__).parents[1] / "recipes"
    folder = in_wheel if in_wheel.is_dir() else in_repository
    return {file.stem: file for file in sorted(folder.glob("*.yaml"))}


def find_recipe(source: str) -> Path:
    """A recipe's file, or the shipped recipe of that name. Raises FlanliteError naming the nearest."""
    if Path(source).is_file():
        return Path(source)
    shipped = shipped_recipes()
    if source in shipped:
        return shipped[source]
    if any(source == each.name for each in dataclasses.fields(Recipe)):
        raise FlanliteError(f"{source!r} is a setting without a value.", f"Write {source}=VALUE, without spaces.")
    near = difflib.get_close_matches(source, shipped, n=1)
    raise FlanliteError(
        f"There is no recipe {source!r}.",
        f"Did you mean {near[0]}?" if near else f"Name a YAML file or one of: {', '.join(shipped)}.",
    )


def _read(file: Path) -> Mapping[str, Any]:
    import yaml

    try:
        text = file.read_text(encoding="utf-8")
        content = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise FlanliteError(f"{file} is no YAML: {' '.join(str(error).split())}.") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise FlanliteError(f"{file} holds no settings.", "A recipe is a list of `key: value` lines.")
    # YAML itself would let the last one win.
    lines = yaml.compose(text, Loader=yaml.SafeLoader)
    assert isinstance(lines, yaml.MappingNode)
    keys = [key.value for key, _ in lines.value]
    twice = next((key for key in keys if keys.count(key) > 1), None)
    if twice is not None:
        raise FlanliteError(f"{file} sets {twice!r} twice.", "Leave one of them.")
    return _in_todays_words(content)


def _in_todays_words(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """The settings, where an older flanlite wrote them: a step was told in rows, and layers were kept all or none.

    Both come out as what they said, though another layout might be faster: whoever set them may have had a reason.
    """
    settings = dict(content)
    if "gradient_checkpointing" in settings:
        settings.setdefault("kept_layers", 0 if settings["gradient_checkpointing"] else ALL_LAYERS)
        del settings["gradient_checkpointing"]
    rows, tokens = settings.get("batch_rows"), settings.get("max_tokens", PLAIN_TOKENS)
    if isinstance(rows, int) and isinstance(tokens, int):
        settings.setdefault("max_tokens", tokens)
        settings.setdefault("batch_tokens", rows * tokens)
        del settings["batch_rows"]
    return settings


def _coerced(key: str, value: Any, hint: Any, origin: str) -> Any:
    """The value in the setting's type: YAML reads 1e-5 as text, and the command line gives nothing but text."""
    or_auto = ""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        if value == "auto":
            return value
        hint, or_auto = typing.get_args(hint)[0], " or auto"
    choices = typing.get_args(hint) if typing.get_origin(hint) is Literal else None
    try:
        if choices:
            if value not in choices:
                raise ValueError(f"one of {', '.join(choices)}")
            return value
        if typing.get_origin(hint) is tuple:
            return tuple(map(str, value if isinstance(value, (list, tuple)) else _split(value)))
        if hint is bool:
            return value if isinstance(value, bool) else _BOOLEANS[str(value).lower()]
        if hint is str:
            return "none" if value is None else str(value)
        if isinstance(value, bool) or (hint is int and isinstance(value, float) and value != int(value)):
            raise ValueError
        number = hint(value)
        if not math.isfinite(number):
            raise ValueError
        return number
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        wanted = str(error) if choices else _KINDS.get(hint, "a list")
        raise FlanliteError(f"{origin} sets {key} to {value!r}, which should be {wanted}{or_auto}.") from None


def _split(value: Any) -> list[str]:
    return [part.strip() for part in str(value).strip("[]").split(",") if part.strip()]


_BOOLEANS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
_KINDS: dict[Any, str] = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}

_AT_LEAST = {
    "max_tokens": 16,
    "batch_tokens": 16,
    "micro_rows": 1,
    "kept_layers": 0,
    "lora_r": 1,
    "lora_alpha": 1,
    "general_share": 0,
    "validation_share": 0,
    "warmup_share": 0,
    "lora_dropout": 0,
    "weight_decay": 0,
    "seed": 0,
}
_ABOVE = {"epochs": 0, "learning_rate": 0, "max_grad_norm": 0, "save_minutes": 0}
_BELOW = {"general_share": 1, "validation_share": 1, "lora_dropout": 1, "warmup_share": 1, "seed": 2**32}


def _checked(recipe: Recipe, origin: str) -> Recipe:
    """The recipe, if its numbers lie where they can. Raises FlanliteError otherwise."""
    for limits, is_right, words in (
        (_AT_LEAST, operator.ge, "at least"),
        (_ABOVE, operator.gt, "above"),
        (_BELOW, operator.lt, "below"),
    ):
        for key, limit in limits.items():
            value = getattr(recipe, key)
            if value != "auto" and not is_right(value, limit):
                raise FlanliteError(f"{origin} sets {key} to {value}, which should be {words} {limit}.")
    if recipe.budget != "auto":
        budget_seconds(recipe.budget)
    if recipe.max_tokens != "auto":
        _check_rows(recipe, origin)
    if (recipe.backend, recipe.dtype) == ("unsloth", "float32"):
        raise FlanliteError(f"{origin} asks unsloth for float32.", "Its kernels need 16 bits: take backend=peft.")
    return recipe


def _check_rows(recipe: Recipe, origin: str) -> None:
    """Raises FlanliteError where a step is less than a row, or no whole number of micro-steps."""
    if recipe.row_tokens > recipe.batch_tokens:
        raise FlanliteError(
            f"{origin} asks for rows of {recipe.row_tokens:,} tokens, and for steps of {recipe.batch_tokens:,}.",
            f"A step takes one row at the least: batch_tokens={recipe.row_tokens}, or a lower max_tokens.",
        )
    if recipe.micro_rows != "auto" and recipe.batch_rows % recipe.micro_rows:
        raise FlanliteError(
            f"{origin} asks for micro-steps of {recipe.micro_rows} rows, and a step of {recipe.batch_tokens:,} tokens "
            f"has {recipe.batch_rows} rows of {recipe.row_tokens:,}.",
            "Leave micro_rows to the plan, or take a number that divides them.",
        )


def budget_seconds(budget: str) -> float:
    """Seconds of a budget such as 3h, 40m or 90s; infinity for `full`. Raises FlanliteError for anything else."""
    if budget == "full":
        return float("inf")
    units = {"h": 3600, "m": 60, "s": 1}
    try:
        seconds = float(budget[:-1]) * units[budget[-1:]]
    except (ValueError, KeyError):
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise FlanliteError(f"budget={budget} is no time.", "Write it as 3h, 40m or 90s, or full for every row.")
    return seconds

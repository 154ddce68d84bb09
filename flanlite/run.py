"""The run folder: one tune, with all that later stages need to know of it.

    runs/<name>/recipe.yaml    the resolved recipe
                run.json       versions, seeds, hashes, data by source, what was measured
                adapter/       the LoRA weights in peft's format, and the tokenizer with the chat template
                loss.csv       the loss of every step, and the validation losses
                loss.png       the same as a picture
                README.md      the model card
                checkpoints/   what a resume starts from
                eval/          what `flanlite eval` found, and the replies

Files are written beside their names and renamed, so a reader never meets half of one.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import platform
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flanlite.errors import FlanliteError
from flanlite.recipe import Recipe, load_recipe

RUNS_DIR = Path("runs")

FREE_ON_RESUME = ("save_minutes", "report_to", "micro_rows", "kept_layers", "offload")
"""Settings that do not change what is learnt; all others must be on resume what they were."""

PACKAGES = ("torch", "transformers", "trl", "peft", "bitsandbytes", "datasets", "accelerate", "tokenizers", "unsloth")

EVALUATION_MARKS = ("<!-- evaluation -->", "<!-- end of evaluation -->")
"""The lines of the model card that an evaluation's section stands between."""


@dataclass(frozen=True)
class SourceCount:
    """One source's part of the training set, after the cut to max_tokens."""

    name: str
    rows: int
    tokens: int
    trained_tokens: int


@dataclass(frozen=True)
class Origins:
    """What a run is made from, beside its recipe.

    `base` is the base's hub name or folder for the card and the adapter; the hashes are of the tokenised rows, in
    order, of the template with its stop tokens, and of the tokenizer. `machine` and `dtype` and `backend` are what
    was chosen for it.
    """

    base: str
    data_hash: str
    template: str
    template_hash: str
    tokenizer_hash: str
    backend: str
    dtype: str
    machine: str
    sources: tuple[SourceCount, ...] = ()
    budget_tokens: float | None = None
    """The most tokens to train on, which a resume keeps; None for every row."""
    planned_peak_bytes: int | None = None
    """Memory of the card that the plan predicts at the peak; None on a CPU, or for a shape that is not known."""


@dataclass(frozen=True)
class Run:
    """A run's folder and the places in it."""

    folder: Path

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def adapter_dir(self) -> Path:
        return self.folder / "adapter"

    @property
    def checkpoints_dir(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def recipe_file(self) -> Path:
        return self.folder / "recipe.yaml"

    @property
    def record_file(self) -> Path:
        return self.folder / "run.json"

    @property
    def loss_csv(self) -> Path:
        return self.folder / "loss.csv"

    @property
    def loss_png(self) -> Path:
        return self.folder / "loss.png"

    @property
    def card_file(self) -> Path:
        return self.folder / "README.md"

    @property
    def is_finished(self) -> bool:
        """Whether the adapter is there and the record says what was measured."""
        return self.adapter_dir.is_dir() and "measured" in self.record

    @property
    def recipe(self) -> Recipe:
        """The resolved recipe. Raises FlanliteError where it is missing or cannot be read."""
        if not self.recipe_file.is_file():
            raise FlanliteError(f"{self.folder} is no whole run: it has no recipe.yaml.", "Copy the folder again.")
        return load_recipe(str(self.recipe_file))

    @property
    def record(self) -> dict[str, Any]:
        """run.json's content. Raises FlanliteError where it is missing or broken."""
        try:
            record: dict[str, Any] = json.loads(self.record_file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise FlanliteError(f"{self.record_file} cannot be read: {error}.", "Is this a run's folder?") from None
        return record

    def begin(self, recipe: Recipe, origins: Origins) -> None:
        """Write recipe.yaml and run.json, before the first step."""
        self.checkpoints_dir.mkdir(parents=True, exist_ok=True)
        record = {
            "name": self.name,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "seed": recipe.seed,
            "versions": installed_versions(),
            **dataclasses.asdict(origins),
        }
        write_text(self.recipe_file, recipe.as_yaml())
        write_json(self.record_file, record)

    def differences(self, recipe: Recipe, origins: Origins) -> list[str]:
        """What a resume with this recipe and these origins would change, each as `what: before -> now`."""
        before, now = dataclasses.asdict(self.recipe), dataclasses.asdict(recipe)
        found = [
            f"{key}: {before[key]} -> {now[key]}"
            for key in before
            # What an older flanlite left open is chosen by what is compared below.
            if before[key] not in (now[key], "auto") and key not in FREE_ON_RESUME
        ]
        stored, current = self.record, dataclasses.asdict(origins)
        for key, words in _COMPARED_ORIGINS.items():
            if stored.get(key) != current[key]:
                found.append(f"{words}: {stored.get(key)} -> {current[key]}")
        return found

    @property
    def budget_tokens(self) -> float:
        """The most tokens that the run was sized for; infinity for every row."""
        stored = self.record.get("budget_tokens")
        return float("inf") if stored is None else float(stored)

    def check_unfinished(self) -> None:
        """Raises FlanliteError where there is nothing to resume."""
        if self.is_finished:
            raise FlanliteError(f"{self.folder} is finished: there is nothing to resume.", "Start a new run.")

    def check_resumable(self, recipe: Recipe, origins: Origins) -> list[str]:
        """The package versions that differ from those the run began with, which is worth a warning.

        Raises FlanliteError where the run is finished, or where data, template or settings are others than before.
        """
        self.check_unfinished()
        differences = self.differences(recipe, origins)
        if differences:
            raise FlanliteError(
                f"{self.folder} cannot go on, since this is no longer the same run ({'; '.join(differences)}).",
                "Put it back as it was, or start a new run without --resume.",
            )
        stored, current = self.record["versions"], installed_versions()
        return [
            f"{name}: {stored.get(name)} -> {current.get(name)}"
            for name in sorted({*stored, *current})
            if stored.get(name) != current.get(name)
        ]

    def finish(self, measured: Mapping[str, Any]) -> None:
        """Add what was measured to run.json, and write the model card."""
        record = self.record | {"finished": datetime.now(UTC).isoformat(timespec="seconds"), "measured": dict(measured)}
        write_text(self.card_file, model_card(self.recipe, record))
        write_json(self.record_file, record)

    def show_evaluation(self, section: str) -> None:
        """Put the section into a finished run's model card, in the place of an earlier one; all else stays as it is."""
        begin_mark, end_mark = EVALUATION_MARKS
        has_card = self.card_file.is_file()
        card = self.card_file.read_text(encoding="utf-8") if has_card else model_card(self.recipe, self.record)
        head, end, tail = card.rpartition(end_mark)
        head, begin, _ = head.rpartition(begin_mark)
        if not (begin and end):
            head, tail = f"{card.rstrip()}\n\n", "\n"
        write_text(self.card_file, f"{head}{begin_mark}\n\n{section}\n{end_mark}{tail}")

    def replace_adapter(self, write: Callable[[Path], None]) -> None:
        """Let `write` fill a folder, and give it the adapter's name when all of it is on the disk."""
        fresh, old = self.folder / "adapter.partial", self.folder / "adapter.old"
        for leftover in (fresh, old):
            shutil.rmtree(leftover, ignore_errors=True)
        fresh.mkdir(parents=True)
        write(fresh)
        sync_folder(fresh)
        if self.adapter_dir.exists():
            self.adapter_dir.rename(old)
        fresh.rename(self.adapter_dir)
        shutil.rmtree(old, ignore_errors=True)
        sync_directory(self.folder)


_COMPARED_ORIGINS = {
    "base": "base",
    "data_hash": "training data (hash)",
    "template": "template",
    "template_hash": "template (hash)",
    "tokenizer_hash": "tokenizer (hash)",
    "backend": "backend",
    "dtype": "compute type",
}


def create_run(base: str, runs_dir: Path = RUNS_DIR, name: str | None = None) -> Run:
    """A fresh folder `<base>-<date>-<n>`, or one of that name. Raises FlanliteError where that name is taken."""
    if name is not None:
        folder = runs_dir / name
        if folder.exists():
            raise FlanliteError(f"{folder} is there already.", "Choose another name, or go on with it: --resume.")
        folder.mkdir(parents=True)
        return Run(folder)
    stem = re.sub(r"[^\w.-]+", "-", Path(base).name).strip("-.") or "run"
    stem = f"{stem}-{datetime.now().astimezone():%Y-%m-%d}"
    number = 1
    while True:
        folder = runs_dir / f"{stem}-{number}"
        try:
            folder.mkdir(parents=True)
            return Run(folder)
        except FileExistsError:
            number += 1


def open_run(path: str | Path | None = None, runs_dir: Path = RUNS_DIR) -> Run:
    """The run in a folder, of that name, or the newest one. Raises FlanliteError where there is none."""
    if path is None:
        return newest_run(runs_dir)
    for folder in (Path(path), runs_dir / path):
        if (folder / "run.json").is_file():
            return Run(folder)
    raise FlanliteError(f"{path} is no run: it has no run.json.", f"The runs are the folders in {runs_dir}.")


def newest_run(runs_dir: Path = RUNS_DIR) -> Run:
    """The run that began last. Raises FlanliteError where there is none."""
    begun = list(runs_dir.glob("*/run.json"))
    if not begun:
        raise FlanliteError(f"There is no run in {runs_dir} yet.", "`flanlite tune` makes one.")
    # recipe.yaml is written once, at the beginning; run.json again at the end.
    return Run(max(begun, key=lambda file: (file.with_name("recipe.yaml").stat().st_mtime_ns, file)).parent)


def installed_versions() -> dict[str, str]:
    """The versions of flanlite, Python and the packages that training rests on; those that are missing are left out."""
    versions = {"python": platform.python_version()}
    for package in ("flanlite", *PACKAGES):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def model_card(recipe: Recipe, record: Mapping[str, Any]) -> str:
    """The run's README.md, from the template beside this file."""
    import jinja2

    environment = jinja2.Environment(
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, undefined=jinja2.StrictUndefined
    )
    template = environment.from_string(Path(__file__).with_name("card.md.jinja").read_text(encoding="utf-8"))
    return template.render(recipe=recipe, evaluation_marks=EVALUATION_MARKS, **record)


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    """Write beside, then rename."""
    write_text(file, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def write_text(file: Path, text: str) -> None:
    """Write beside, then rename: the file is the old one or the new one at every moment."""
    beside = file.with_name(file.name + ".partial")
    with beside.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    beside.replace(file)
    sync_directory(file.parent)


def sync_folder(folder: Path) -> None:
    """Wait until every file in the folder is on the disk."""
    for file in folder.rglob("*"):
        if file.is_file():
            # Windows syncs only what is open for writing.
            with file.open("rb+") as stream:
                os.fsync(stream.fileno())
    sync_directory(folder)


def sync_directory(folder: Path) -> None:
    """Wait until the folder's own entries are on the disk; Windows has no such call."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""What `data=` and `general=` name: the embedded corpus, local files and folders, data sets on the hub."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from flanlite.bases import HUB_NAME
from flanlite.corpus.rows import SUFFIXES, data_files
from flanlite.errors import FlanliteError

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Source:
    """One data file, and the name it has in reports: its own without the endings."""

    name: str
    file: Path


def find_sources(names: Sequence[str], subsets: Sequence[str] = (), *, say: Say) -> list[Source]:
    """The files behind the names, downloaded first where they are on the hub. Raises FlanliteError."""
    found = [file for name in names for file in _files(name, subsets, say)]
    if subsets and not any(_is_on_hub(name) for name in names):
        raise FlanliteError(
            f"{', '.join(names)} has no subsets.", "Leave them out: only a data set on the hub (owner/name) has some."
        )
    return [Source(_stem(file), file) for file in dict.fromkeys(found)]


def check_outside(out: Path, names: Sequence[str]) -> None:
    """Raises FlanliteError where `out` lies in a folder that is read: it would be read as data the next time."""
    for name in names:
        source = Path(name).expanduser()
        if source.is_dir() and out.resolve().is_relative_to(source.resolve()):
            raise FlanliteError(
                f"{out} lies inside the source {source}; the next time it would be read.", "Name another --out."
            )


def _files(name: str, subsets: Sequence[str], say: Say) -> list[Path]:
    if name == "sample":
        return data_files(Path(str(files("flanlite.tiny"))) / "corpus")
    if Path(name).expanduser().exists():
        return data_files(Path(name).expanduser())
    if name == "sharegpt" or _is_on_hub(name):
        from flanlite import hub

        return [hub.general_file(say=say)] if name == "sharegpt" else hub.data_files(name, subsets, say=say)
    raise FlanliteError(
        f"There is no data {name!r}.", "Name a file, a folder, a data set on the hub (owner/name), or `sample`."
    )


def _is_on_hub(name: str) -> bool:
    if Path(name).expanduser().exists() or name.startswith("."):
        return False
    return bool(HUB_NAME.fullmatch(name)) and not name.endswith(SUFFIXES)


def _stem(file: Path) -> str:
    return file.name.removesuffix(".gz").removesuffix(".jsonl").removesuffix(".json").removesuffix(".parquet")

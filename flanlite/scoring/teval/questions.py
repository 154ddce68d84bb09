"""T-Eval's question files: their names, their questions, and predictions in a file that T-Eval itself can score.

A file is one JSON object from keys to questions:

    origin_prompt   the turns, as role and content; tools are told of in their text
    ground_truth    the right answer, in a form of its own in each kind of file
    template        in instruct: the keys or the marks that a reply has to use
    meta_data       says in `response_format` how replies are written; plan files have `meta` and `prompt_type`
    prediction      the reply, cut; whoever asks the questions adds it
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flanlite.conversation import ROLES, Turn
from flanlite.errors import FlanliteError
from flanlite.run import write_text
from flanlite.scoring.teval.reading import CALL_PARTS, call_pattern

NAMES = (
    "instruct",
    "plan_json",
    "plan_str",
    "reason_str",
    "retrieve_str",
    "understand_str",
    "reason_retrieve_understand_json",
    "review_str",
)
"""The eight forms of T-Eval's files; each but instruct says in its name how replies are written."""

HINT = "T-Eval's own files are the data set lovesnowbest/T-Eval on the hub."

_FILE_NAME = re.compile(rf"({'|'.join(NAMES)})(?:_v(\d+))?((?:_subset|_zh)*)(?:\.json)?")
_KINDS: Mapping[type, str] = {dict: "an object", list: "a list", str: "a text"}


@dataclass(frozen=True, slots=True)
class Form:
    """What a question file's name says of it. `version` is None where the name gives none."""

    name: str
    version: int | None = None
    is_subset: bool = False
    is_zh: bool = False

    @property
    def needs_embeddings(self) -> bool:
        """Whether some of the scores compare sentences."""
        return "plan" in self.name or "reason" in self.name

    @property
    def embedding_model(self) -> str:
        """The sentence embeddings, by their hub name, that T-Eval compares with."""
        return "thenlper/gte-large-zh" if self.is_zh else "sentence-transformers/all-mpnet-base-v2"

    @property
    def response_formats(self) -> tuple[str, ...]:
        """How replies are written; only instruct has both ways in one file."""
        return ("json", "string") if self.name == "instruct" else (self.name.rpartition("_")[2],)


def form_of(file_name: str) -> Form:
    """The form of a file named as T-Eval names its own, such as plan_json_v2_subset.json.

    Raises FlanliteError for any other name.
    """
    found = _FILE_NAME.fullmatch(file_name)
    if not found:
        raise FlanliteError(
            f"{file_name} is not named like a question file of T-Eval.",
            f"A name begins with {', '.join(NAMES[:-1])} or {NAMES[-1]}, as plan_json_v2_subset.json does.",
        )
    name, version, suffixes = found.groups()
    return Form(name, int(version) if version else None, "_subset" in suffixes, "_zh" in suffixes)


def read_questions(file: Path) -> dict[str, dict[str, Any]]:
    """A file's questions by their keys, each fit to be asked and scored.

    Raises FlanliteError that names the file and, where one question is broken, its key.
    """
    form = form_of(file.name)
    try:
        questions = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise FlanliteError(f"{file} cannot be read: {error.strerror or error}.", HINT) from error
    except (ValueError, RecursionError) as error:
        raise FlanliteError(f"{file} is no JSON: {error}.", HINT) from error
    if not isinstance(questions, dict) or not questions:
        raise FlanliteError(f"{file} holds no questions.", HINT)
    for key, question in questions.items():
        try:
            _check(form, question)
        except ValueError as error:
            raise FlanliteError(f"{file}: question {key} {error}.", HINT) from error
    return questions


def turns_of(question: Mapping[str, Any]) -> list[Turn]:
    """The turns to ask a question with. A tool's result is an observation.

    The first version of T-Eval gave tools' results in system turns: behind the first turn, such a turn is an
    observation too. Raises ValueError with a clause that says what is wrong with the question.
    """
    turns: list[Turn] = []
    for turn in _part(question, "origin_prompt", list):
        name = _part(turn, "role", str)
        if name not in ROLES:
            raise ValueError(f"has a turn of the unknown role {name!r}")
        role = "observation" if turns and ROLES[name] == "system" else ROLES[name]
        turns.append(Turn(role, _part(turn, "content", str)))
    if not turns:
        raise ValueError("has no turns")
    return turns


def write_predictions(file: Path, questions: Mapping[str, Mapping[str, Any]]) -> None:
    """Write questions with their predictions as T-Eval does: the same JSON, which escapes all that is not ASCII.

    The file is the old one or the new one at every moment.
    """
    write_text(file, json.dumps(questions))


def _check(form: Form, question: Any) -> None:
    """Raise ValueError with a clause that says what a question lacks."""
    turns_of(question)
    _part(question, "ground_truth", object)
    written = _response_format(form, question)
    if written not in form.response_formats:
        raise ValueError(f"is to be answered in the format {written!r}, not in {' or '.join(form.response_formats)}")
    if form.name == "plan_str":
        if not all(isinstance(name, str) for name in _part(question, "meta.API_list", list)):
            raise ValueError("needs a list of names as its meta.API_list")
    elif form.name == "review_str":
        _part(question, "ground_truth.answer", str)
    elif form.name == "instruct":
        _check_call(question, written)


def _response_format(form: Form, question: Mapping[str, Any]) -> str:
    """What the question says of it, or else what the file's name does; instruct's questions have to say it."""
    place = "meta.prompt_type" if form.name.startswith("plan") else "meta_data.response_format"
    where, _, key = place.partition(".")
    if form.name != "instruct" and key not in _part({where: {}, **question}, where, dict):
        return form.response_formats[0]
    return str(_part(question, place, str))


def _check_call(question: Mapping[str, Any], written: str) -> None:
    """A template gives each part of a call its key in JSON, or a mark before and one behind it."""
    _part(question, "ground_truth.action", str)
    _part(question, "ground_truth.args", dict)
    for part in CALL_PARTS:
        for key in [part] if written == "json" else [f"{part}_start", f"{part}_end"]:
            _part(question, f"template.{key}", str)
    if written == "string":
        try:
            call_pattern(question["template"])
        except re.error as error:
            raise ValueError(f"has a template that is no regular expression: {error}") from None


def _part(question: Any, path: str, kind: type) -> Any:
    """What lies at a dotted path. Raises ValueError where nothing does, or nothing of that kind."""
    found = question
    for name in path.split("."):
        if not isinstance(found, dict) or name not in found:
            raise ValueError(f"has no {path}")
        found = found[name]
    if not isinstance(found, kind):
        raise ValueError(f"needs {_KINDS[kind]} as its {path}")
    return found

"""lm-evaluation-harness, where it is installed: its tasks, prompts and scores, asked of a model that is loaded already.

The harness's own defaults stand: prompts are plain text without a chat template, with its few-shot examples and its
stop texts. So the figures can be set beside those that `lm_eval --model hf` gives elsewhere.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from numbers import Real
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx

from flanlite.conversation import Conversation, Turn
from flanlite.engine.local import LocalModel
from flanlite.errors import FlanliteError
from flanlite.scoring.results import Example, Measure
from flanlite.scoring.suites import Verdicts

SUITE = "lm-eval"

CODE_SWITCH = "HF_ALLOW_CODE_EVAL"
"""The environment variable that the harness's own scorer of code asks for; only the value 1 allows it."""

CPU_BATCH = 8
"""Prompts at once on a CPU; on a card the harness finds out itself how many fit."""

ACCOUNT = ("results", "versions", "n-shot", "n-samples", "lm_eval_version")
"""What of the harness's own findings goes into report.json, as it stands."""


def open_tasks(names: Sequence[str]) -> list[Any]:
    """The harness's tasks and groups of these names, or of YAML files in its form, with their questions loaded.

    Raises FlanliteError where the harness is missing, has no such task, cannot load it, or would run a model's code
    that HF_ALLOW_CODE_EVAL=1 does not allow.
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise FlanliteError("--lm-eval needs lm-evaluation-harness.", "pip install -e '.[eval]'")
    from lm_eval.tasks import TaskManager

    manager = TaskManager()
    _check_names(names, manager.all_tasks)
    try:
        loaded = manager.load(list(dict.fromkeys(names)))
    except (ImportError, OSError, ValueError, httpx.HTTPError) as error:
        raise _not_loaded(names, error) from error
    if not _may_run_code() and any(getattr(task, "UNSAFE_CODE", False) for task in loaded["tasks"].values()):
        raise _code_refused(names)
    parts = {part for children in loaded["group_map"].values() for part in children}
    return [found for name, found in (loaded["groups"] | loaded["tasks"]).items() if name not in parts]


def harness_measures(model: LocalModel, tasks: Sequence[Any], limit: int | None) -> Verdicts:
    """What the harness finds of the model in tasks that `open_tasks` gave; `limit` takes the first so many of each.

    Raises FlanliteError where a task's replies are longer than the model's context.
    """
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    with _as_harness_model(model) as asked:
        try:
            found = simple_evaluate(
                asked,
                tasks=list(tasks),
                limit=limit,
                task_manager=TaskManager(include_defaults=False),
                confirm_run_unsafe_code=_may_run_code(),
            )
        except AssertionError as error:
            raise FlanliteError(f"lm-evaluation-harness cannot ask {model.name}: {error}") from error
    return verdicts_of(found)


def verdicts_of(found: Mapping[str, Any]) -> Verdicts:
    """The harness's findings as measures, with a value for each document, and its documents as people read them.

    A group such as mmlu is one measure, as the harness sums it up; what it is made of is in the details.
    """
    groups = found["group_subtasks"]
    parts = {part for name, children in groups.items() if _figures(found, name) for part in children}
    measures = [measure for name in found["results"] if name not in parts for measure in _measures(found, name)]
    details = {key: found[key] for key in ACCOUNT if key in found}
    return Verdicts(tuple(measures), details, dict(_examples(found)))


def _check_names(names: Iterable[str], known: Sequence[str]) -> None:
    unknown = next((name for name in names if name not in known and not Path(name).is_file()), None)
    if unknown is not None:
        near = get_close_matches(unknown, known, n=1)
        hint = f"Did you mean {near[0]}?" if near else "`lm_eval ls tasks` lists them."
        raise FlanliteError(f"lm-evaluation-harness has no task {unknown!r}.", hint)


def _may_run_code() -> bool:
    return os.environ.get(CODE_SWITCH) == "1"


def _code_refused(names: Iterable[str]) -> FlanliteError:
    return FlanliteError(
        f"{', '.join(names)}: a task of these runs the code that the model writes, on this machine.",
        f"In a container, or where you trust the model, allow it: {CODE_SWITCH}=1 flanlite eval ...",
    )


def _not_loaded(names: Iterable[str], error: Exception) -> FlanliteError:
    if CODE_SWITCH in str(error):
        return _code_refused(names)
    is_away = isinstance(error, (OSError, httpx.HTTPError))
    reason = " ".join(str(error).split())[:200].rstrip(".")
    return FlanliteError(
        f"lm-evaluation-harness cannot load {', '.join(names)}: {reason}.",
        "Its questions come from the hub: check the connection, and that HF_HUB_OFFLINE is not set." if is_away else "",
    )


@contextlib.contextmanager
def _as_harness_model(model: LocalModel) -> Iterator[Any]:
    """The loaded model in the harness's own class, with its adapter or without, while the block lasts."""
    from lm_eval.models.huggingface import HFLM

    tokenizer = _harness_tokenizer(model)
    with model.shared.adapted(model.uses_adapter) as loaded:
        # A batch goes on until its last reply is over, and what a model writes behind an end that its settings do not
        # name is scored as well. A model loaded here names none: flanlite's own replies bring theirs along.
        loaded.generation_config.eos_token_id = [*model.template.stop_ids, tokenizer.eos_token_id]
        with _without_warnings("lm_eval.models.huggingface"):  # it advises against a model that is loaded already
            asked = HFLM(
                pretrained=loaded,
                tokenizer=tokenizer,
                max_length=model.context_tokens,
                batch_size="auto" if loaded.device.type == "cuda" else CPU_BATCH,
            )
        yield asked


def _harness_tokenizer(model: LocalModel) -> Any:
    """The model's tokenizer for transformers; BOS stands before a text where it does before the model's own prompts."""
    from transformers import AutoTokenizer

    with TemporaryDirectory() as folder:
        model.tokenizer.save(Path(folder))
        tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    bos = model.tokenizer.bos_token
    if bos and model.prompt_text(Conversation((Turn("user", "Hello"),))).startswith(bos):
        tokenizer.add_bos_token = True
    return tokenizer


@contextlib.contextmanager
def _without_warnings(logger_name: str) -> Iterator[None]:
    logger = logging.getLogger(logger_name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _figures(found: Mapping[str, Any], name: str) -> dict[str, float]:
    """A task's or group's figures by the harness's keys, which are a metric and a filter: `acc,none`."""
    return {
        key: float(value)
        for key, value in found["results"][name].items()
        if "," in key and "_stderr," not in key and isinstance(value, Real)
    }


def _measures(found: Mapping[str, Any], name: str) -> Iterator[Measure]:
    for key, value in _figures(found, name).items():
        metric, filter_name = key.split(",", 1)
        items = dict(_items(found, name, metric, filter_name))
        is_better_high = found["higher_is_better"].get(name, {}).get(metric) is not False
        yield Measure(
            SUITE,
            f"{name} {metric}" if filter_name == "none" else f"{name} {metric} ({filter_name})",
            value,
            items,
            # The harness does not say so; sums, perplexities and percentages leave this range or have no values.
            is_share=is_better_high and bool(items) and all(0 <= item <= 1 for item in items.values()),
            is_better_high=is_better_high,
        )


def _items(found: Mapping[str, Any], name: str, metric: str, filter_name: str) -> Iterator[tuple[str, float]]:
    """A metric's value for each document, by its id; none where the metric is of all documents together, as BLEU is."""
    for task in _tasks_in(found, name):
        for sample in found["samples"][task]:
            if sample["filter"] == filter_name and isinstance(sample.get(metric), Real):
                yield _document_id(task, sample), float(sample[metric])


def _tasks_in(found: Mapping[str, Any], name: str) -> list[str]:
    parts = found["group_subtasks"].get(name)
    return [name] if parts is None else [task for part in parts for task in _tasks_in(found, part)]


def _document_id(task: str, sample: Mapping[str, Any]) -> str:
    return f"{task}/{sample['doc_id']}"


def _examples(found: Mapping[str, Any]) -> Iterator[tuple[str, Example]]:
    """The documents that are choices or texts to write, scored by the task's first filter and first share."""
    for task, samples in found["samples"].items():
        config = found["configs"][task]
        first = [sample for sample in samples if sample["filter"] == samples[0]["filter"]]
        for sample in first:
            scores = [sample[metric] for metric in sample["metrics"] if isinstance(sample[metric], Real)]
            score = next((float(score) for score in scores if 0 <= score <= 1), None)
            if score is not None and config["output_type"] in ("multiple_choice", "generate_until"):
                yield _document_id(task, sample), _example(sample, config, score)


def _example(sample: Mapping[str, Any], config: Mapping[str, Any], score: float) -> Example:
    question, target = sample["arguments"][0][0], sample["target"]
    if config["num_fewshot"]:
        question = question.rsplit(config["fewshot_delimiter"], 1)[-1]
    if config["output_type"] == "generate_until":
        return Example(question, str(target), sample["resps"][0][0], score)
    choices = [choice.strip() for _, choice in sample["arguments"]]
    likelihoods = [likelihood for likelihood, _ in sample["filtered_resps"]]
    wanted = choices[target] if isinstance(target, int) and target in range(len(choices)) else str(target)
    return Example(question, wanted, choices[likelihoods.index(max(likelihoods))], score)

"""flanlite eval: is a model better at tools than its base, does it invent fewer calls, and has it lost anything?"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal, get_args

from flanlite import __version__
from flanlite.agent.model import ChatStyle, Respondent
from flanlite.corpus.forms import detect_form, read_row
from flanlite.corpus.rows import parse_row, read_blocks
from flanlite.corpus.sources import Source, find_sources
from flanlite.embedding import load_embedder
from flanlite.errors import FlanliteError
from flanlite.reply_store import ReplyStore, hash_of
from flanlite.scoring import teval
from flanlite.scoring.agent_h import agent_h_cases
from flanlite.scoring.comparison import Row
from flanlite.scoring.earlier import read_earlier
from flanlite.scoring.report import card_section, write_report
from flanlite.scoring.results import Measure, Results
from flanlite.scoring.sample import general_conversations, sample_cases
from flanlite.scoring.suites import Replies, Suite, judge_teval, teval_predictions, teval_suite, tool_use_suite
from flanlite.scoring.table import table
from flanlite.scoring.teval.questions import HINT
from flanlite.terminal import console, in_time, say, step_progress

if TYPE_CHECKING:
    from flanlite.engine.local import LocalModel
    from flanlite.opening import Opened
    from flanlite.prompt.template import Tokens
    from flanlite.run import Run

SuiteName = Literal["t-eval", "agent-h", "sample", "general"]
Variant = Literal["whole", "subset", "zh", "zh-subset"]

VARIANTS: tuple[Variant, ...] = get_args(Variant)
"""T-Eval's questions: all in English, a fifth of them, and both in Chinese."""

TEVAL_REPO = "lovesnowbest/T-Eval"
GLAIVE_REPO = "llamafactory/glaive_toolcall_en"

SEED = 1
"""Of the cases' choice and of the bootstrap: everybody gets the same ones."""

SAMPLE_CASES = 60
"""Of the embedded corpus, for each kind of phrasing."""

MOST_NATS = 700.0
"""A mean loss above this has no perplexity that a float can hold."""

GENERAL_ROWS = 100
"""Conversations of general chat, none of them trained on, that the perplexity is taken over."""


QUICK_LOOK = "quick"
"""The folder, in the evaluation's own, for the report of one with a limit."""


@dataclass(frozen=True)
class Options:
    """What is asked, and where the questions come from. `limit` takes the first so many cases of each file.

    `harness` names tasks of lm-evaluation-harness.
    """

    suites: Sequence[SuiteName] = ()
    teval: Sequence[str] = (TEVAL_REPO,)
    variant: Variant = "whole"
    glaive: str = GLAIVE_REPO
    general: str | None = None
    embedder: str | None = None
    harness: Sequence[str] = ()
    limit: int | None = None
    save_predictions: Path | None = None
    out: Path | None = None


def names_in(names: str | None) -> list[str]:
    """The names of a list such as `mmlu,gsm8k`; none where there is no list."""
    return [name.strip() for name in (names or "").split(",") if name.strip()]


def suites_named(names: str | None) -> list[SuiteName]:
    """The suites of a list such as `t-eval,agent-h`. Raises FlanliteError that names the nearest."""
    known: dict[str, SuiteName] = {name: name for name in get_args(SuiteName)}
    wanted = names_in(names)
    unknown = next((name for name in wanted if name not in known), None)
    if unknown is not None:
        near = get_close_matches(unknown, known, n=1)
        hint = f"Did you mean {near[0]}?" if near else f"The suites are {', '.join(known)}."
        raise FlanliteError(f"There is no suite {unknown!r}.", hint)
    return [known[name] for name in wanted]


def evaluate(source: str | None, options: Options, *, tool_style: ChatStyle | None, against_base: bool) -> None:
    """Ask a run, a merged model or a base what the suites ask, and the run's base too; write and print the findings."""
    from flanlite.opening import open_model

    began = time.monotonic()
    harness_tasks = _harness_tasks(options)  # a mistake is told before anything is asked
    _check_folders(options)
    opened = open_model(source, tool_style)
    is_tiny = opened.base_name == "tiny"
    names = options.suites or (("sample", "general") if is_tiny else ("t-eval", "agent-h", "general"))
    folder = options.out or (opened.run.folder / "eval" if opened.run else Path("eval") / Path(opened.model.name).name)
    suites = _build(names, options, opened.run)
    chat, note = _general_rows(opened, options.general, is_tiny=is_tiny) if "general" in names else ([], "")
    found = []
    for label, model, identity in _models(opened, against_base=against_base):
        results = _measure(model, identity, suites, folder / "replies" / label, options)
        if "general" in names:
            results = _with_perplexity(results, model, chat, note)
        found.append(_with_harness(results, model, harness_tasks, options.limit) if harness_tasks else results)
    *bases, after = found
    before = bases[0] if bases else None
    rows = _finish(before, after, folder, options, began)
    if opened.run is not None and options.limit is None and options.out is None:
        opened.run.show_evaluation(card_section(rows, before.model if before else None, after.model))
    elif opened.run is not None:
        say("The model card is as it was: it shows the full evaluations in the run's own folder.")


def evaluate_endpoint(url: str, model: str | None, options: Options, *, tool_style: ChatStyle | None) -> None:
    """The same for a model behind an OpenAI-compatible server, many requests at a time."""
    from flanlite.endpoint import Endpoint

    began = time.monotonic()
    endpoint = Endpoint(url, model, tool_style or "react")
    folder = options.out or Path("eval") / endpoint.name.replace("/", "-")
    suites = _build(options.suites or ("t-eval", "agent-h"), options)
    results = _measure(endpoint, f"{endpoint.url} {endpoint.name}", suites, folder / "replies" / "model", options)
    if "general" in options.suites:
        note = "A server tells no losses, so there is no perplexity."
        results = replace(results, notes=(*results.notes, note))
    _finish(None, _without_harness(results, options), folder, options, began)


def evaluate_predictions(path: Path, options: Options) -> None:
    """Score saved T-Eval predictions, a file or a folder of them, without a model."""
    _check_folders(options)
    if not path.exists():
        raise FlanliteError(f"{path} is not there.", "Name a file or folder of T-Eval predictions.")
    files = sorted(file for file in path.glob("*.json") if _is_teval(file)) if path.is_dir() else [path]
    if not files:
        hint = "They are JSON files named as T-Eval's, such as plan_json_v2.json."
        raise FlanliteError(f"{path} holds no predictions.", hint)
    predicted = {file.name: teval.read_questions(file) for file in files}
    for file in files:
        missing = next((key for key, question in predicted[file.name].items() if "prediction" not in question), None)
        if missing is not None:
            raise FlanliteError(f"{file}: question {missing} has no prediction.", "Ask a model first.")
    began = time.monotonic()
    embed, notes = _embedder(predicted, options)
    verdicts = judge_teval(predicted, embed)
    seconds = time.monotonic() - began
    name = path.resolve().stem
    found = ({"t-eval": verdicts.details}, {"t-eval": verdicts.examples})
    results = Results(name, verdicts.measures, *found, notes, seconds, _settings(options), str(path.resolve()))
    _finish(None, _without_harness(results, options), options.out or Path("eval") / name, options, began)


def _check_folders(options: Options) -> None:
    """Raises FlanliteError, before anything is asked, where a folder that is to be written is a file."""
    for folder in (options.out, options.save_predictions):
        if folder is not None and folder.exists() and not folder.is_dir():
            raise FlanliteError(f"{folder} is a file.", "Name a folder.")


def _models(opened: Opened, *, against_base: bool) -> list[tuple[str, LocalModel, str]]:
    """The base, if it is wanted and there is one, and then the model: label, model and identity."""
    models = [("model", opened.model, opened.identity)]
    if against_base and opened.base is not None:
        models.insert(0, ("base", opened.base, f"without adapter: {opened.base.name}"))
    return models


def _build(names: Sequence[SuiteName], options: Options, run: Run | None = None) -> list[Suite]:
    """The suites that ask for replies; the run is the one that is evaluated, for a note where it knows the answers."""
    suites = []
    for name in dict.fromkeys(names):
        if name == "sample":
            suites.append(tool_use_suite("sample", sample_cases(SEED, options.limit or SAMPLE_CASES)))
        elif name == "agent-h":
            suite = tool_use_suite("agent-h", _agent_h_cases(options))
            suites.append(replace(suite, notes=_trained_on(options.glaive, run)))
        elif name == "t-eval":
            files = _teval_files(options)
            embed, notes = _embedder([file.name for file in files], options)
            suites.append(replace(teval_suite(files, options.limit, embed), notes=notes))
    return suites


def _agent_h_cases(options: Options) -> list[Any]:
    sources = _sources([options.glaive], "Agent-H's rows", "--glaive")
    cases = agent_h_cases((row for source in sources for row in _rows_of(source.file)), SEED, options.limit)
    if not cases:
        hint = "It takes rows in glaive's ShareGPT form, with tools."
        raise FlanliteError(f"{options.glaive} gives no case of Agent-H.", hint)
    return cases


def _trained_on(name: str, run: Run | None) -> tuple[str, ...]:
    """A note where the run was tuned on the data of that name, or on a part of it, or on a folder that holds it."""
    asked, *tuned = (Path(each).expanduser().resolve() for each in (name, *(run.recipe.data if run else ())))
    if not any(each.is_relative_to(asked) or asked.is_relative_to(each) for each in tuned):
        return ()
    return (f"agent-h: the run was tuned on {name}, so it may know these answers. Give other rows: --glaive FILE",)


def _sources(names: Sequence[str], what: str, option: str) -> list[Source]:
    """The files behind the names. Raises FlanliteError that says what they are for, and how to give others."""
    try:
        return find_sources(names, say=say)
    except FlanliteError as error:
        hint = f"{error.hint} Or give a file or folder: {option} PATH".strip()
        raise FlanliteError(f"{what} cannot be had: {error.message}", hint) from error


def _rows_of(file: Path) -> Iterable[Any]:
    for block in read_blocks(file):
        for number, row in block.numbered():
            try:
                yield parse_row(row)
            except ValueError as error:
                raise FlanliteError(f"{file}:{number}: {error}.") from error


def _teval_files(options: Options) -> list[Path]:
    """T-Eval's question files, one of each form, of the wanted variant where there is one, and the newest version.

    Others are passed over.
    """
    found = [source.file for source in _sources(options.teval, "T-Eval's questions", "--t-eval")]
    files = [file for file in found if _is_teval(file)]
    if not files:
        raise FlanliteError(f"{', '.join(options.teval)} holds no question file of T-Eval.", HINT)
    by_form: dict[str, Path] = {}
    for file in sorted(files, key=lambda file: _preference(file, options.variant)):
        chosen = by_form.setdefault(teval.form_of(file.name).name, file)
        if chosen != file:
            say(f"{file.name} is passed over for {chosen.name}.")
    if len({teval.form_of(file.name).is_zh for file in by_form.values()}) > 1:
        raise FlanliteError("The question files are of two languages.", "Give those of one.")
    return list(by_form.values())


def _variant(file: Path) -> Variant:
    form = teval.form_of(file.name)
    return VARIANTS[form.is_subset + 2 * form.is_zh]


def _preference(file: Path, wanted: Variant) -> tuple[bool, int, int]:
    variant = _variant(file)
    return variant != wanted, VARIANTS.index(variant), -(teval.form_of(file.name).version or 0)


def _is_teval(file: Path) -> bool:
    try:
        teval.form_of(file.name)
    except FlanliteError:
        return False
    return True


def _embedder(names: Iterable[str], options: Options) -> tuple[teval.Embed | None, tuple[str, ...]]:
    """The sentence embeddings that plan and reason are scored with, or a note that they are left out."""
    forms = [form for form in map(teval.form_of, names) if form.needs_embeddings]
    if not forms:
        return None, ()
    return load_embedder(options.embedder, forms[0].embedding_model)


def _measure(model: Respondent, identity: str, suites: Sequence[Suite], folder: Path, options: Options) -> Results:
    """The model's replies to all suites, and what they are worth."""
    began = time.monotonic()
    measures: list[Measure] = []
    details: dict[str, Mapping[str, Any]] = {}
    examples: dict[str, Any] = {}
    notes: list[str] = []
    for suite in suites:
        replies, too_long = _replies(model, identity, suite, ReplyStore(folder / f"{suite.name}.jsonl"))
        verdicts = suite.judge(replies, model.style)
        measures += verdicts.measures
        details[suite.name], examples[suite.name] = verdicts.details, verdicts.examples
        notes += suite.notes
        if too_long:
            share = f"{too_long} of {len(suite.conversations)} questions"
            notes.append(f"{suite.name}: {share} are too long for the context, were not asked and {suite.unasked}.")
        if suite.name == "t-eval" and options.save_predictions:
            _save(suite, replies, options.save_predictions / folder.name)
    seconds = time.monotonic() - began
    asked = hash_of(identity, model.style)
    return Results(model.name, tuple(measures), details, examples, tuple(notes), seconds, _settings(options), asked)


def _settings(options: Options) -> dict[str, Any]:
    """The options as report.json keeps them."""
    kept = {name: value for name, value in vars(options).items() if name not in ("out", "save_predictions")}
    return {"flanlite": __version__, **kept}


def _replies(model: Respondent, identity: str, suite: Suite, store: ReplyStore) -> tuple[Replies, int]:
    """Replies by case, those of an earlier evaluation first, and how many cases were too long: they have none."""
    asked = {
        case: hash_of(identity, model.style, suite.max_new_tokens, model.prompt_text(conversation))
        for case, conversation in suite.conversations.items()
    }
    replies = store.known(asked)
    missing = [case for case in asked if case not in replies]
    if replies:
        say(f"{suite.name}: {len(replies):,} of {len(asked):,} replies are there already, in {store.file}")
    try:
        with step_progress(f"{suite.name}, {model.name}") as on_progress:
            conversations = [suite.conversations[case] for case in missing]
            for index, reply in model.answer_all(conversations, suite.max_new_tokens):
                if reply is not None:
                    store.add(missing[index], asked[missing[index]], reply)
                    replies[missing[index]] = reply
                on_progress(len(replies), len(asked))
    except KeyboardInterrupt:
        say(f"Interrupted: {len(replies):,} of {len(asked):,} replies are kept. The same command goes on from there.")
        raise
    return replies, len(asked) - len(replies)


def _save(suite: Suite, replies: Replies, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, questions in teval_predictions(suite.questions, replies).items():
        teval.write_predictions(folder / name, questions)
    say(f"Wrote T-Eval's predictions to {folder}.")


def _general_rows(opened: Opened, general: str | None, *, is_tiny: bool) -> tuple[list[Tokens], str]:
    """Conversations of general chat that the model was not tuned on, as tokens; or a note on why there are none."""
    if general is not None:
        return _rows_that_fit(opened.model, general), ""
    if is_tiny:
        return [opened.model.tokens(conversation) for conversation in general_conversations(SEED, GENERAL_ROWS)], ""
    if opened.run is None or opened.run.recipe.general == "none":
        return [], "No perplexity: name conversations of general chat with --general FILE."
    return _untaken_rows(opened)


def _rows_that_fit(model: LocalModel, general: str) -> list[Tokens]:
    """The first rows of the named data that can be read and fit the model's context."""
    rows: list[Tokens] = []
    passed_over = 0
    for row in (row for source in find_sources([general], say=say) for row in _rows_of(source.file)):
        form = detect_form(row)
        try:
            tokens = model.tokens(read_row(row, form)) if form else None
        except ValueError:
            tokens = None
        if tokens is not None and len(tokens.ids) <= model.context_tokens:
            rows.append(tokens)
        else:
            passed_over += 1
        if len(rows) == GENERAL_ROWS:
            break
    if not rows:
        raise FlanliteError(f"{general} holds no conversation that fits.", "It takes rows as `flanlite convert` does.")
    if passed_over:
        say(f"{general}: {passed_over} rows in no known form, or too long, were passed over.")
    return rows


def _untaken_rows(opened: Opened) -> tuple[list[Tokens], str]:
    """Rows of the run's general chat that it did not take, or why there are none; data that is gone is fetched anew."""
    from flanlite.tune import gather

    assert opened.run is not None
    try:
        mixture = gather(opened.run.recipe, opened.run.budget_tokens)
    except FlanliteError as error:
        return [], f"No perplexity, for the run's data cannot be had: {error.message}"
    if mixture.general is None or mixture.data_hash != opened.run.record["data_hash"]:
        return [], "No perplexity: the run's data is no longer what it was tuned on. Name other chat: --general FILE."
    taken = set(mixture.general_rows.tolist())
    free = [row for row in range(len(mixture.general)) if row not in taken]
    step = max(1, len(free) // GENERAL_ROWS)
    return [mixture.general.tokens(row) for row in free[::step][:GENERAL_ROWS]], ""


def _with_perplexity(results: Results, model: LocalModel, rows: Sequence[Tokens], note: str) -> Results:
    """The results with the perplexity of the rows' trained tokens."""
    if note or not rows:
        return replace(results, notes=(*results.notes, note or "No perplexity: no general chat is left untrained."))
    items: dict[str, float] = {}
    total = count = 0.0
    with step_progress(f"general, {model.name}") as on_progress:
        for number, (loss, tokens) in enumerate(model.losses(rows), 1):
            if tokens:
                items[str(number)] = loss / tokens
            total, count = total + loss, count + tokens
            on_progress(number, len(rows))
    perplexity = math.exp(min(total / count, MOST_NATS))
    # A perplexity is no mean over conversations, so the interval stands beside it, in nats.
    found = (
        Measure("general", "perplexity", perplexity, {}, is_share=False, is_better_high=False),
        Measure(
            "general", "loss of a conversation", fmean(items.values()), items, is_share=False, is_better_high=False
        ),
    )
    details = {"perplexity": perplexity, "conversations": len(items), "tokens": int(count)}
    return replace(results, measures=(*results.measures, *found), details={**results.details, "general": details})


def _harness_tasks(options: Options) -> list[Any]:
    if not options.harness:
        return []
    from flanlite.harness import open_tasks

    return open_tasks(options.harness)


def _with_harness(results: Results, model: LocalModel, tasks: Sequence[Any], limit: int | None) -> Results:
    """The results with what lm-evaluation-harness finds of the model."""
    from flanlite.harness import SUITE, harness_measures

    began = time.monotonic()
    found = harness_measures(model, tasks, limit)
    return replace(
        results,
        measures=(*results.measures, *found.measures),
        details={**results.details, SUITE: found.details},
        examples={**results.examples, SUITE: found.examples},
        seconds=results.seconds + time.monotonic() - began,
    )


def _without_harness(results: Results, options: Options) -> Results:
    """The results with a note, where lm-evaluation-harness was wanted and there are no weights to give it."""
    note = "lm-eval is left out: here it asks models whose weights are on this machine."
    return replace(results, notes=(*results.notes, note)) if options.harness else results


def _finish(before: Results | None, after: Results, folder: Path, options: Options, began: float) -> list[Row]:
    """Write the report, print what is new in it, and give its rows. A quick look gets a folder of its own."""
    is_quick_look = options.limit is not None and options.out is None
    folder = folder / QUICK_LOOK if is_quick_look else folder
    if not after.measures:
        raise FlanliteError("Nothing was measured.", next(iter(after.notes), "Name a suite: --suite sample"))
    earlier = read_earlier(folder, before, after)
    rows = write_report(folder, before, after, SEED, earlier)
    console.print(table(rows[len(earlier.rows) :], before.model if before else None, after.model))
    for note in dict.fromkeys((*(before.notes if before else ()), *after.notes)):
        say(note)
    if earlier.gone:
        why = "of another model or base, or of cases that were not asked again"
        say(f"The report loses earlier figures of {', '.join(earlier.gone)}: they are {why}.")
    what = "The report, with the replies that changed" if before else "The report"
    say(f"Took {in_time(time.monotonic() - began)}. {what}: {folder / 'report.md'}")
    if earlier.suites:
        say(f"It also keeps {', '.join(earlier.suites)}, of an earlier evaluation.")
    if is_quick_look:
        say("A quick look: the report without --limit is as it was.")
    return rows

"""Agent-FLAN's data pipeline: raw trajectories and general chat in, a corpus in Agent-FLAN's schema and subsets out.

The raw rows are read on every core and kept in a spool; duplicates and test questions go; what is left is drawn for its
forms, written on every core, and mixed with general chat. The same rows, settings and seed give the same bytes on any
number of cores. Nothing vanishes silently: the manifest counts every row that cannot be used, by its reason, and
rejects.jsonl names it.

    <out>/data/<subset>.jsonl   the corpus
          manifest.json         settings, counts, trained tokens by capability and source, drops by reason, hashes
          rejects.jsonl         file, row and reason of every row that is not used
          replies.jsonl         a model's replies to negatives, where it was asked; a rebuild takes them from here
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

from rich.table import Table

from flanlite import __version__, hub
from flanlite.agent.model import Respondent
from flanlite.bases import Base, resolve
from flanlite.build_page import Example, frequent_reasons, write_page
from flanlite.corpus.flan.assembly import Assembly
from flanlite.corpus.flan.contamination import Contamination
from flanlite.corpus.flan.material import Materials, Origin, RawSource, Reject, read_materials
from flanlite.corpus.flan.negative_replies import model_replies, written_replies
from flanlite.corpus.flan.negatives import NegativeKind
from flanlite.corpus.flan.phrases import load_phrases
from flanlite.corpus.flan.plan import is_chat
from flanlite.corpus.flan.rendering import Rendering
from flanlite.corpus.flan.row import CAPABILITIES, PLAIN
from flanlite.corpus.flan.settings import BuildSettings
from flanlite.corpus.flan.weights import parse_weights
from flanlite.corpus.raw.reading import Kind, raw_turns
from flanlite.corpus.rows import MANIFEST, parse_row, read_blocks, read_manifest
from flanlite.corpus.sources import check_outside, find_sources
from flanlite.errors import FlanliteError
from flanlite.prompt.tokenizer import Tokenizer
from flanlite.run import write_json
from flanlite.terminal import byte_progress, console, say, step_progress
from flanlite.workers import cpu_count

REJECTS, REPLIES = "rejects.jsonl", "replies.jsonl"
FILES = {MANIFEST, REJECTS, REPLIES}
"""All that a corpus's folder holds beside its data."""

IN_PROCESS_BYTES = 2_000_000
"""Smaller inputs are done before a worker process has started."""


@dataclass(frozen=True)
class Inputs:
    """What the command was given: names of sources by kind, test files, and how a model for replies is named."""

    agent_instruct: Sequence[str] = ()
    toolbench: Sequence[str] = ()
    trajectories: Sequence[str] = ()
    sharegpt: Sequence[str] = ()
    tests: Sequence[Path] = ()
    phrases: Path | None = None
    model: str | None = None

    def sources(self) -> list[RawSource]:
        """The files behind the names, agent data first. Raises FlanliteError where there is no agent data."""
        named: dict[Kind, Sequence[str]] = {
            "agent_instruct": self.agent_instruct,
            "toolbench": self.toolbench,
            "trajectories": self.trajectories,
            "sharegpt": self.sharegpt,
        }
        if not any(names for kind, names in named.items() if kind != "sharegpt"):
            raise FlanliteError(
                "There is no agent data to build from.", "Name some: --agent-instruct, --toolbench or --trajectories."
            )
        return [
            RawSource(kind, name, tuple(source.file for source in find_sources([name], say=say)))
            for kind, names in named.items()
            for name in names
        ]


def build(
    inputs: Inputs, settings: BuildSettings, out: Path, html: Path | None = None, processes: int | None = None
) -> dict[str, Any]:
    """Build the corpus in `out`, beside first and renamed at the end; its manifest. Raises FlanliteError.

    `html` is the page to write, outside of `out`; without `processes` every core is used where it is worth it.
    """
    out = out.resolve()
    sources = inputs.sources()
    _check_places(out, html, [source.name for source in sources])
    weights, phrases = parse_weights(settings.weights), load_phrases(inputs.phrases)
    contamination = Contamination(inputs.tests) if inputs.tests else None
    base, tokenizer = _base(settings)
    respondent = _respondent(settings, inputs.model)
    rendering = Rendering(settings.seed, settings.tool_style, phrases, weights, tokenizer, base.template or "auto")
    if processes is None:
        processes = 1 if sum(source.n_bytes for source in sources) < IN_PROCESS_BYTES else cpu_count()
    out.parent.mkdir(parents=True, exist_ok=True)
    # A name of its own, since another build may be at it too.
    beside = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        (beside / "data").mkdir()
        with byte_progress("reading") as on_progress:
            materials = read_materials(sources, beside / "spool", contamination, processes, on_progress)
        assembly = Assembly(materials, settings, rendering, beside / "data", processes)
        with step_progress("writing") as on_progress:
            assembly.write_trajectories(on_progress)
        replied = _write_negatives(assembly, settings, respondent, out)
        with step_progress("mixing") as on_progress:
            assembly.write_general(on_progress)
        rejects = [*materials.rejects, *assembly.rejects]
        manifest = _manifest(inputs, settings, materials, assembly, _tests(contamination)) | replied
        _write_rejects(beside / REJECTS, materials, rejects)
        _check_rows(manifest, rejects, beside / REJECTS, out)
        write_json(beside / MANIFEST, manifest)
        examples = list(_examples(materials, assembly)) if html is not None else []
        (beside / "spool").unlink()
        _put_in_place(beside, out)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    if html is not None:
        write_page(html, manifest, examples)
    return manifest


def _check_places(out: Path, html: Path | None, named: Sequence[str]) -> None:
    """Raises FlanliteError where `out` holds anything but an older corpus, or a source holds `out`, or it the page."""
    manifest = read_manifest(out)
    if out.exists() and not (out.is_dir() and (manifest or not any(out.iterdir()))):
        raise FlanliteError(f"{out} exists and is no corpus.", "Name another --out.")
    if manifest:
        known = FILES | {subset["file"] for subset in manifest["subsets"]}
        strange = [file for file in _all_below(out) if file not in known]
        if strange:
            raise FlanliteError(f"{out} holds {strange[0]}, which no build wrote.", "Move it, or name another --out.")
    check_outside(out, named)
    if html is not None and (html.is_dir() or not html.resolve().parent.is_dir()):
        raise FlanliteError(f"{html} cannot be written: its folder is missing, or it is one.", "Name another --html.")
    if html is not None and html.resolve().is_relative_to(out):
        raise FlanliteError(f"{html} lies inside the corpus.", "Name a place outside of --out.")


def _all_below(folder: Path) -> Iterator[str]:
    return (str(file.relative_to(folder).as_posix()) for file in folder.rglob("*") if not file.is_dir())


def _base(settings: BuildSettings) -> tuple[Base, Tokenizer]:
    """The base whose tokenizer counts."""
    base = resolve(settings.base)
    try:
        return base, Tokenizer.load(hub.model_dir(base, weights=False, say=say))
    except FlanliteError as error:
        hint = f"{error.hint} It only counts tokens here: --base tiny needs no download.".strip()
        raise FlanliteError(error.message, hint) from error


def _respondent(settings: BuildSettings, name: str | None) -> tuple[Respondent, str] | None:
    """The model that writes replies, and what tells it from any other; None where written wordings do."""
    if name is not None and not settings.replies.startswith("http"):
        raise FlanliteError("--model is a server's.", "Name the server: --replies http://127.0.0.1:8080/v1")
    if settings.replies == "written" or not settings.negatives:
        return None
    if settings.replies == "base":
        from flanlite.opening import open_model

        opened = open_model(settings.base, settings.tool_style)
        return opened.model, opened.identity
    from flanlite.endpoint import Endpoint

    endpoint = Endpoint(settings.replies, name, settings.tool_style)
    return endpoint, f"{endpoint.url} {endpoint.name}"


def _write_negatives(
    assembly: Assembly, settings: BuildSettings, respondent: tuple[Respondent, str] | None, out: Path
) -> dict[str, Any]:
    """Write the built negatives; what the manifest says of them."""
    drawn = assembly.drawn_negatives()
    negatives = [each.negative for each in drawn]
    kinds = Counter(negative.kind for negative in negatives)
    counts = {"negatives": {kind: kinds[kind] for kind in get_args(NegativeKind)}}
    if respondent is None:
        assembly.write_negatives(drawn, written_replies(negatives, settings.seed))
        return counts
    model, identity = respondent
    kept = _kept_replies(out)
    if not kept.exists() and (out / REPLIES).is_file():
        shutil.copy(out / REPLIES, kept)
        say(f"Replies in {out / REPLIES} are used again, by the model's name; delete it to ask anew.")
    with step_progress("replies") as on_progress:
        replies, unusable = model_replies(negatives, settings.seed, model, identity, kept, on_progress)
    assembly.write_negatives(drawn, replies)
    return counts | {"replies": {"model": model.name, "not_plain": unusable}}


def _kept_replies(out: Path) -> Path:
    """Where a model's replies are kept while a corpus is built; they are asked for once, whatever happens."""
    return out.with_name(f"{out.name}.{REPLIES}")


def _manifest(
    inputs: Inputs, settings: BuildSettings, materials: Materials, assembly: Assembly, tests: Mapping[str, Any]
) -> dict[str, Any]:
    """The corpus's account. It holds nothing of the machine or the time, so that equal corpora have equal manifests."""
    subsets = assembly.subsets.close()
    digest = hashlib.sha256("".join(f"{subset['name']} {subset['sha256']}\n" for subset in subsets).encode())
    return {
        "flanlite": __version__,
        "sha256": digest.hexdigest(),
        "settings": asdict(settings),
        "phrases_sha256": _hash_of([inputs.phrases]) if inputs.phrases else None,
        "tests": tests,
        "sources": [
            {
                "name": _shown_name(source),
                "kind": source.kind,
                "files": len(source.files),
                "sha256": _hash_of(source.files),
                "rows": tally.rows,
                "usable": tally.kept,
                "dropped": dict(sorted(tally.dropped.items())),
                "not_needed": unneeded,
                "trained_tokens": dict(sorted(trained.items())),
            }
            for source, tally, trained, unneeded in zip(
                materials.sources, materials.tallies, assembly.trained, assembly.not_needed(), strict=True
            )
        ],
        "subsets": subsets,
        "mix": _mix(subsets),
    }


def _tests(contamination: Contamination | None) -> dict[str, Any]:
    """The test files that were looked for, and how many of their texts were too short for that."""
    if contamination is None:
        return {}
    files = [{"name": file.name, "sha256": _hash_of([file])} for file in contamination.files]
    return {"files": files, "texts": contamination.texts, "too_short": contamination.too_short}


def _shown_name(source: RawSource) -> str:
    """The source's name without the way to it; of a data set on the hub the whole."""
    path = Path(source.name).expanduser()
    return path.resolve().name if path.exists() else source.name


def _mix(subsets: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    """Rows and tokens of agent data and of general chat, to which the plain chats among the logs belong."""
    return {
        name: {key: sum(subset[key] for subset in subsets if is_chat(subset["name"]) == is_general) for key in KEYS}
        for name, is_general in {"agent": False, "general": True}.items()
    }


KEYS = ("rows", "tokens", "trained_tokens")


def _hash_of(files: Iterable[Path]) -> str:
    """A hash of the files' bytes, in their order."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def _write_rejects(file: Path, materials: Materials, rejects: Sequence[Reject]) -> None:
    with file.open("w", encoding="utf-8") as stream:
        for origin, reason, detail in sorted(rejects):
            source = materials.sources[origin.source]
            row = {"source": _shown_name(source), "file": _file_name(source, origin.file), "row": origin.row}
            row |= {"reason": reason} | ({"detail": detail} if detail else {})
            stream.write(json.dumps(row) + "\n")


def _file_name(source: RawSource, number: int) -> str:
    """The file's name, below the folder that was named: the same wherever the folder lies."""
    file, root = source.files[number], Path(source.name).expanduser()
    return file.relative_to(root).as_posix() if root.is_dir() and file.is_relative_to(root) else file.name


def _check_rows(manifest: Mapping[str, Any], rejects: Sequence[Reject], written: Path, out: Path) -> None:
    """Raises FlanliteError where no agent data is left; the rejects stay beside `out`."""
    if manifest["mix"]["agent"]["rows"]:
        return
    rows = sum(source["rows"] for source in manifest["sources"])
    if not rejects:
        what = "The data holds no rows." if not rows else "There are queries or chats, and no trajectory."
        raise FlanliteError(what, "Name agent data with --agent-instruct, --toolbench or --trajectories.")
    kept = written.replace(out.with_name(f"{out.name}.{REJECTS}"))
    reason, _ = Counter(reject.reason for reject in rejects).most_common(1)[0]
    raise FlanliteError(f"None of {rows:,} rows can be used, most often for this: {reason}.", f"All reasons: {kept}.")


def _put_in_place(beside: Path, out: Path) -> None:
    """Rename the finished folder; the replies kept outside of it while it was built go into it."""
    kept = _kept_replies(out)
    if kept.exists():
        shutil.copy(kept, beside / REPLIES)
    if out.exists():
        shutil.rmtree(out)
        say(f"The older corpus in {out} is replaced.")
    beside.chmod(0o755)  # a temporary folder is its owner's alone
    beside.rename(out)
    kept.unlink(missing_ok=True)


def _examples(materials: Materials, assembly: Assembly) -> Iterator[Example]:
    """The rows to be looked at, with the raw rows that they were made of."""
    wanted = {materials.items[shown.number].origin for rows in assembly.shown.values() for shown in rows}
    raw = dict(_raw_rows(materials.sources, wanted))
    for subset in sorted(assembly.shown):
        for shown in assembly.shown[subset]:
            row = json.loads(shown.line)
            before = raw_turns(raw[materials.items[shown.number].origin])
            yield Example(subset, row["id"], before, row, shown.note)


def _raw_rows(sources: Sequence[RawSource], wanted: set[Origin]) -> Iterator[tuple[Origin, Any]]:
    """The raw rows that stand at the wanted places, from a second look into their files."""
    for number, file_number in sorted({origin[:2] for origin in wanted}):
        rows = {origin.row for origin in wanted if origin[:2] == (number, file_number)}
        for block in read_blocks(sources[number].files[file_number]):
            for row, value in block.numbered():
                if row in rows:
                    yield Origin(number, file_number, row), parse_row(value)
            if block.first_row + len(block.rows) > max(rows):
                break


def show_manifest(manifest: Mapping[str, Any]) -> None:
    """Print what came in, what was dropped and why, and what the corpus holds."""
    console.print(_source_table(manifest["sources"]))
    console.print(_subset_table(manifest["subsets"]))
    console.print(_capability_table(manifest["sources"]))
    for line in _notes(manifest):
        say(line)
    say(f"SHA-256 of the corpus: {manifest['sha256'][:16]}")


def _notes(manifest: Mapping[str, Any]) -> Iterator[str]:
    """In sentences: what could not be written, what was not needed, and where a share is not what was asked for."""
    settings, mix = manifest["settings"], manifest["mix"]
    for subset in manifest["subsets"]:
        for reason, count in subset["rejected"].items():
            yield f"{count:,} rows could not be written for {subset['name']}: {reason}."
    for source in manifest["sources"]:
        if source["not_needed"]:
            yield f"{source['not_needed']:,} usable rows of {source['name']} were not needed."
    if tests := manifest["tests"]:
        yield f"{tests['texts']:,} texts of tests were looked for; {tests['too_short']:,} were too short for that."
    built = manifest["negatives"]
    if settings["negatives"]:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in built.items())
        yield f"Negatives built: {kinds}."
    if replies := manifest.get("replies"):
        yield f"{replies['not_plain']:,} replies of {replies['model']} were not plain; written ones stand in for them."
    key = "rows" if settings["mix_by"] == "rows" else "trained_tokens"
    general, agent = mix["general"][key], mix["agent"][key]
    share, words = general / (agent + general), key.replace("_", " ")
    yield f"Agent to general: {agent:,} to {general:,} {words}, {share:.0%} general."
    if share < settings["general_share"] - 0.01:
        yield f"That is less than the share of {settings['general_share']:.0%}: there is no more general chat."
    if share > settings["general_share"] + 0.01:
        wanted = f"{settings['general_share']:.0%}"
        yield f"That is more than the share of {wanted}: chats are taken whole, and those among the logs all of them."


def _source_table(sources: Sequence[Mapping[str, Any]]) -> Table:
    """Each source's rows, and below them those that are dropped, by reason."""
    table = _table("source", "rows", "usable", "dropped", "")
    for source in sources:
        dropped = sum(source["dropped"].values())
        table.add_row(source["name"], *(f"{number:,}" for number in (source["rows"], source["usable"], dropped)), "")
        for count, reason in frequent_reasons(source["dropped"]):
            table.add_row("", "", "", f"{count:,}", reason)
    return table


def _subset_table(subsets: Sequence[Mapping[str, Any]]) -> Table:
    table = _table("subset", "rows", "tokens", "trained")
    for subset in subsets:
        table.add_row(subset["name"], *(f"{subset[key]:,}" for key in KEYS))
    return table


def _capability_table(sources: Sequence[Mapping[str, Any]]) -> Table:
    heads = (*CAPABILITIES, PLAIN)
    table = _table("trained tokens", *heads)
    for source in sources:
        table.add_row(source["name"], *(f"{source['trained_tokens'].get(head, 0):,}" for head in heads))
    return table


def _table(*heads: str) -> Table:
    table = Table(*heads, box=None, header_style="bold", padding=(0, 1))
    table.columns[0].overflow = "fold"
    for column, head in zip(table.columns[1:], heads[1:], strict=True):
        column.justify = "right" if head else "left"
    return table

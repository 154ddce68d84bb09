"""The only place that talks to the model hub: what a base or a data set would cost, its files, and its failures.

What is in the Hugging Face cache is used as it is, without a question to the hub, so a second run needs no network.
Only *.json, *.safetensors, chat_template.jinja and tokenizer.model are fetched; never code, and pickled .bin weights
from the one repository that has nothing else (Agent-FLAN-7b). HF_ENDPOINT, HF_HOME, HF_TOKEN and HF_HUB_OFFLINE mean
what they mean to huggingface_hub.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path, PurePosixPath
from typing import Literal

import httpx
from huggingface_hub import HfApi, constants, get_token, hf_hub_url, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)
from huggingface_hub.file_download import http_get, repo_folder_name
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # its own way in, though it marks no exports
    WeakFileLock,
    build_hf_headers,
    filter_repo_objects,
    get_session,
)

from flanlite.bases import Base
from flanlite.errors import FlanliteError

log = logging.getLogger(__name__)

Kind = Literal["model", "dataset"]
Say = Callable[[str], None]

# The data set of the paper (Apache-2.0), one JSONL file for each subset: huggingface.co/datasets/internlm/Agent-FLAN.
AGENT_FLAN_REPO = "internlm/Agent-FLAN"
AGENT_FLAN_SUBSETS = (
    "agent_instruct_react",
    "agent_instruct_tflan",
    "toolbench_instruct_j1s1_3k",
    "toolbench_negative",
    "toolbench_react_10p",
    "toolbench_tflan_60p_r10r5u7",
    "toolbench_tflan_cot_30p",
)

# General chat, ungated, one JSON array in FastChat's form (Apache-2.0 on its hub page); the file is the one that
# vLLM's benchmarks/README.md downloads, by the same name. Some 670 MB.
GENERAL_REPO = "anon8231489123/ShareGPT_Vicuna_unfiltered"
GENERAL_FILE = "ShareGPT_V3_unfiltered_cleaned_split.json"

# By prefix, since some repositories hold the weights a second time (mistralai's consolidated.safetensors: 14.5 GB).
WEIGHT_FILES = {"safetensors": "model*.safetensors", "bin": "pytorch_model*.bin"}
WEIGHT_STEM = {"safetensors": "model.safetensors", "bin": "pytorch_model.bin"}
TEXT_FILES = ("*.json", "tokenizer.model", "chat_template.jinja")
DATA_FILES = ["*.json", "*.jsonl", "*.json.gz", "*.jsonl.gz", "*.parquet"]
CARD_FILES = ["*dataset_info.json", "*dataset_infos.json", "manifest.json", "rejects.jsonl", "replies.jsonl"]

ANSWER_TIMEOUT_S = 15  # a firewall that swallows packets would otherwise hold the first question for minutes


@dataclass(frozen=True)
class Download:
    """What fetching `repo` takes, in bytes; `measured` where it was read off files, else it follows from the shape."""

    repo: str
    total_bytes: int
    missing_bytes: int
    measured: bool = True

    def __str__(self) -> str:
        if not self.missing_bytes:
            return f"{self.repo}: nothing to download"
        return f"{self.repo}: {in_words(self.missing_bytes)} to download"


class _UnreachableError(FlanliteError):
    """The hub does not answer, so what the cache or the table knows has to do."""


@dataclass(frozen=True)
class _File:
    name: str
    commit: str
    n_bytes: int
    sha256: str | None  # of files in large-file storage; None for the small ones
    cached: bool


def in_words(n_bytes: int) -> str:
    """A size as people say it, decimal as on hub pages: 13.5 GB, 7.3 MB, 12 kB."""
    for unit, size in (("GB", 10**9), ("MB", 10**6)):
        if n_bytes >= size:
            return f"{n_bytes / size:.3g} {unit}"
    return f"{max(1, round(n_bytes / 1000))} kB" if n_bytes else "0 kB"


def model_dir(base: Base, *, quantised: bool = False, weights: bool = True, say: Say = log.info) -> Path:
    """The folder with the files of `base`, downloaded first where they are missing.

    `quantised` takes the 4-bit repository where there is one, else the 16-bit one, to be quantised on load; without
    `weights` only config and tokenizer. Raises FlanliteError: no disk, no access, no hub, no such files.
    """
    if base.folder is not None:
        _check_folder(base, weights)
        return base.folder
    repo = _repo(base, quantised)
    folder = _cached_model(base, repo, weights)
    if folder is None:
        folder = _obtain(repo, "model", _patterns(base, weights), say, base.ungated)
        if not _is_whole(folder, base, weights):
            raise _unusable(repo, base, weights)
    return folder


def model_download(base: Base, *, quantised: bool = False) -> Download:
    """What `model_dir` would download; from the shape where the hub does not answer. Raises FlanliteError."""
    if base.folder is not None:
        return Download(base.where, _folder_bytes(base.folder), 0)
    repo = _repo(base, quantised)
    folder = _cached_model(base, repo, weights=True)
    if folder is not None:
        return Download(repo, _folder_bytes(folder), 0)
    try:
        with _explained(repo, "model", base.ungated):
            files = _listing(repo, "model", _patterns(base, weights=True))
    except _UnreachableError:
        if base.shape is None:
            raise
        return expected_download(base, quantised=quantised)
    missing = [file for file in files if not file.cached]
    return Download(repo, sum(file.n_bytes for file in files), sum(file.n_bytes for file in missing))


def expected_download(base: Base, *, quantised: bool = False) -> Download:
    """What `model_dir` would download, reckoned from the shape of a base on the hub, without asking there."""
    repo = _repo(base, quantised)
    if _cached_model(base, repo, weights=True) is not None:
        return model_download(base, quantised=quantised)
    estimate = base.bytes_4bit if repo == base.repo_4bit else base.bytes_16bit
    return Download(repo, estimate, estimate, measured=False)


def described(base: Base) -> Base:
    """`base` with shape and context length read from its config.json, fetched if need be. Raises FlanliteError."""
    if base.shape is not None and base.context_length is not None:
        return base
    folder = model_dir(base, weights=False)
    return base.with_config(json.loads((folder / "config.json").read_text(encoding="utf-8")))


def parameters_of(base: Base) -> int:
    """How many parameters a base has: by its shape or, for an architecture not counted here, by its 16-bit files."""
    return base.parameters if base.shape is not None else model_download(base).total_bytes // 2


def data_files(repo: str, subsets: Sequence[str] = (), *, say: Say = log.info) -> list[Path]:
    """The JSON files of a data set on the hub: of the `subsets` in their order, or all. Raises FlanliteError.

    Agent-FLAN's are read as files, since the features its card declares do not fit every row. Of another data set a
    subset is a file's name without its ending, or a folder.
    """
    if repo == AGENT_FLAN_REPO:
        names = [f"data/{_known_subset(subset, AGENT_FLAN_SUBSETS)}.jsonl" for subset in subsets or AGENT_FLAN_SUBSETS]
    else:
        names = _chosen_files(_data_file_names(repo, whole=not subsets), subsets)
    return _data_paths(repo, names, say)


def general_file(*, say: Say = log.info) -> Path:
    """The default general-chat file (ShareGPT), downloaded first where it is missing. Raises FlanliteError."""
    return _data_paths(GENERAL_REPO, [GENERAL_FILE], say)[0]


def reach(timeout_s: float = 5.0) -> str:
    """One line that says the hub answers and whether a token is set. Raises FlanliteError where it does not."""
    if constants.is_offline_mode():
        raise _UnreachableError("HF_HUB_OFFLINE is set, so the hub is not asked.", "Unset it to download.")
    with _explained("", "model"):
        response = get_session().head(constants.ENDPOINT, timeout=timeout_s)
    if response.status_code >= 500:
        raise _UnreachableError(f"The hub answers with an error ({response.status_code}).", "Try again later.")
    token = "a token is set" if get_token() else "no token is set (gated models need one)"
    return f"{constants.ENDPOINT} answers; {token}"


def cache_dir() -> Path:
    """The folder downloads go to (HF_HOME or HF_HUB_CACHE move it); it need not exist yet."""
    return Path(constants.HF_HUB_CACHE)


def own_cache_dir() -> Path:
    """Where what flanlite makes of downloads is kept between runs; the environment's FLANLITE_CACHE names another."""
    return Path(os.environ.get("FLANLITE_CACHE") or "~/.cache/flanlite").expanduser()


def free_bytes(folder: Path) -> int:
    """Free space on the disk that holds `folder`, which need not exist yet."""
    folder = folder.expanduser().absolute()
    return shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists())).free


def _repo(base: Base, quantised: bool) -> str:
    return base.repo_4bit if quantised and base.repo_4bit else base.where


def _patterns(base: Base, weights: bool) -> tuple[str, ...]:
    return (*TEXT_FILES, WEIGHT_FILES[base.weights]) if weights else TEXT_FILES


def _cached_model(base: Base, repo: str, weights: bool) -> Path | None:
    config = try_to_load_from_cache(repo, "config.json")
    if not isinstance(config, str):
        return None
    folder = Path(config).parent
    return folder if _is_whole(folder, base, weights) else None


def _is_whole(folder: Path, base: Base, weights: bool) -> bool:
    """Whether config, a tokenizer and, if asked for, every weight file of the index lie in the folder."""
    if not (folder / "config.json").is_file():
        return False
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
        return False
    if not weights:
        return True
    stem = WEIGHT_STEM[base.weights]
    index = folder / f"{stem}.index.json"
    if not index.is_file():
        return (folder / stem).is_file()
    shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    return all((folder / shard).is_file() for shard in shards)


def _unusable(repo: str, base: Base, weights: bool) -> FlanliteError:
    if weights and base.weights == "safetensors":
        hint = "flanlite loads no pickled .bin weights: pick a repository with *.safetensors and a tokenizer."
    else:
        hint = "Pick a repository that holds config.json and tokenizer.json or tokenizer.model."
    return FlanliteError(f"{repo} lacks files that a base model needs.", hint)


def _check_folder(base: Base, weights: bool) -> None:
    assert base.folder is not None
    if not _is_whole(base.folder, base, weights):
        raise FlanliteError(
            f"{base.folder} is not a whole base model.",
            "It needs config.json, tokenizer.json or tokenizer.model, and model.safetensors (or the index and every "
            "file it names).",
        )


def _folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir() if path.is_file())


def _known_subset(subset: str, known: Collection[str]) -> str:
    if subset in known:
        return subset
    nearest = get_close_matches(subset, known, n=1, cutoff=0.3)
    guess = f"Did you mean {nearest[0]}? " if nearest else ""
    raise FlanliteError(f"There is no subset {subset!r}.", f"{guess}The subsets are: {', '.join(sorted(known))}.")


def _data_file_names(repo: str, whole: bool) -> list[str]:
    """The JSON files of a data set, asked of the hub, or of the cache where the hub does not answer.

    Without `whole` the cache may hold some of them only: enough where subsets are named.
    """
    try:
        with _explained(repo, "dataset"):
            siblings = HfApi().dataset_info(repo, timeout=ANSWER_TIMEOUT_S).siblings or []
        names = [sibling.rfilename for sibling in siblings]
    except _UnreachableError:
        folder = _cached_snapshot(repo, DATA_FILES if whole else [])
        if folder is None:
            raise
        names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    names = sorted(filter_repo_objects(names, allow_patterns=DATA_FILES, ignore_patterns=CARD_FILES))
    if not names:
        hint = "flanlite reads .json, .jsonl, their .gz and .parquet: export the data set with datasets' to_json first."
        raise FlanliteError(f"The data set {repo} holds no file of rows.", hint)
    return names


def _cached_snapshot(repo: str, needed: list[str]) -> Path | None:
    """The cached folder of a data set; None where it, or a file known to match `needed`, is absent."""
    try:
        folder = snapshot_download(
            repo, repo_type="dataset", allow_patterns=needed, ignore_patterns=CARD_FILES, local_files_only=True
        )
        return Path(folder)
    except LocalEntryNotFoundError:
        return None


def _chosen_files(names: list[str], subsets: Sequence[str]) -> list[str]:
    if not subsets:
        return names
    by_subset: dict[str, list[str]] = {}
    for name in names:
        path = PurePosixPath(name)
        # A split may lie in parts: os-00000-of-00002.parquet.
        stem = re.split(r"(?:-\d+-of-\d+[^.]*)?\.(?:jsonl?|parquet)", path.name)[0]
        for subset in {stem, *path.parts[:-1]}:
            by_subset.setdefault(subset, []).append(name)
    chosen = [name for subset in subsets for name in by_subset[_known_subset(subset, by_subset)]]
    return list(dict.fromkeys(chosen))


def _data_paths(repo: str, names: list[str], say: Say) -> list[Path]:
    cached = [try_to_load_from_cache(repo, name, repo_type="dataset") for name in names]
    paths = [Path(path) for path in cached if isinstance(path, str)]
    if len(paths) == len(names):
        return paths
    folder = _obtain(repo, "dataset", names, say)
    absent = [name for name in names if not (folder / name).is_file()]
    if absent:
        raise FlanliteError(f"{repo} has no file {absent[0]}.", f"See https://huggingface.co/datasets/{repo}.")
    return [folder / name for name in names]


def _obtain(repo: str, kind: Kind, patterns: Sequence[str], say: Say, ungated: str | None = None) -> Path:
    """Download what matches the patterns and is missing; the snapshot's folder."""
    with _explained(repo, kind, ungated):
        files = _listing(repo, kind, patterns)
        missing = [file for file in files if not file.cached]
        if missing:
            n_bytes = _check_disk(repo, kind, missing)
            say(f"downloading {in_words(n_bytes)} from {repo} to {cache_dir()}")
        for file in missing:
            if file.sha256 is not None:
                _fetch(repo, kind, file, file.sha256)
        names = [file.name for file in files]
        return Path(snapshot_download(repo, repo_type=kind, allow_patterns=names))


def _listing(repo: str, kind: Kind, patterns: Sequence[str]) -> list[_File]:
    """The files of the repository's top folder (a data set's: anywhere) that match, with size and state."""
    api = HfApi()
    ask = api.model_info if kind == "model" else api.dataset_info
    info = ask(repo, files_metadata=True, timeout=ANSWER_TIMEOUT_S)
    if info.gated:
        api.auth_check(repo, repo_type=kind)
    siblings = {sibling.rfilename: sibling for sibling in info.siblings or ()}
    ignored = ["*/*"] if kind == "model" else None
    files = []
    for name in filter_repo_objects(siblings, allow_patterns=list(patterns), ignore_patterns=ignored):
        lfs = siblings[name].lfs
        sha256 = lfs.sha256 if lfs else None
        known = try_to_load_from_cache(repo, name, repo_type=kind, revision=info.sha)
        cached = isinstance(known, str) or (sha256 is not None and _blob(repo, kind, sha256).exists())
        files.append(_File(name, info.sha or "main", siblings[name].size or 0, sha256, cached))
    return files


def _blob(repo: str, kind: Kind, sha256: str) -> Path:
    return cache_dir() / repo_folder_name(repo_id=repo, repo_type=kind) / "blobs" / sha256


def _partial(repo: str, kind: Kind, sha256: str) -> Path:
    return _blob(repo, kind, sha256).with_suffix(".partial")


def _check_disk(repo: str, kind: Kind, missing: list[_File]) -> int:
    """Bytes still to come; raises FlanliteError where the disk of the cache has less."""
    needed = sum(file.n_bytes for file in missing)
    partials = (_partial(repo, kind, file.sha256) for file in missing if file.sha256)
    needed -= sum(partial.stat().st_size for partial in partials if partial.exists())
    free = free_bytes(cache_dir())
    if free < needed:
        raise FlanliteError(
            f"Downloading {repo} takes {in_words(needed)}, and {cache_dir()} has {in_words(free)} free.",
            "Free some space, or set HF_HOME to a folder on a larger disk.",
        )
    return needed


def _fetch(repo: str, kind: Kind, file: _File, sha256: str) -> None:
    """Download one large file into the cache's blobs, going on where an earlier run was stopped.

    huggingface_hub alone resumes a broken connection, but since 1.18 starts a file anew in a new process (its issue
    4196), which costs up to 10 GB of a 7B model. It finds the blob laid down here and only links it.
    """
    blob, partial = _blob(repo, kind, sha256), _partial(repo, kind, sha256)
    lock = cache_dir() / ".locks" / blob.parents[1].name / f"{sha256}.lock"  # the one huggingface_hub takes too
    for folder in (blob.parent, lock.parent):
        folder.mkdir(parents=True, exist_ok=True)
    headers = build_hf_headers() | {"Accept-Encoding": "identity"}  # a compressed answer would ignore the range
    with WeakFileLock(lock):
        if blob.exists():
            return
        with partial.open("ab") as handle:
            if handle.tell() > file.n_bytes:
                handle.truncate(0)
            start = handle.tell()
            url = hf_hub_url(repo, file.name, repo_type=kind, revision=file.commit, endpoint=constants.ENDPOINT)
            http_get(
                url,
                handle,
                resume_size=start,
                headers=headers,
                expected_size=file.n_bytes,
                displayed_filename=file.name,
            )
        if start and _sha256(partial) != sha256:
            partial.unlink()
            raise FlanliteError(f"The resumed download of {file.name} is damaged.", "Run the command again.")
        partial.replace(blob)


def _sha256(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


@contextmanager
def _explained(repo: str, kind: Kind, ungated: str | None = None) -> Iterator[None]:
    """Turn what huggingface_hub raises into one sentence and one hint."""
    try:
        yield
    except FlanliteError:
        raise
    except (OSError, EntryNotFoundError, HFValidationError, httpx.HTTPError) as error:
        cause = error.__cause__ if isinstance(error, LocalEntryNotFoundError) and error.__cause__ else error
        raise _explanation(cause, repo, kind, ungated) from error


def _explanation(error: BaseException, repo: str, kind: Kind, ungated: str | None) -> FlanliteError:
    if isinstance(error, GatedRepoError):
        return _gated(repo, kind, ungated)
    if isinstance(error, HfHubHTTPError):
        return _refused(error, repo, kind)
    if isinstance(error, HFValidationError):
        return FlanliteError(f"{repo!r} is not a hub name.", "Hub names read organisation/name.")
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        hint = "Free some space, or set HF_HOME to a folder on a larger disk; the download goes on where it stopped."
        return FlanliteError(f"The disk of {cache_dir()} is full.", hint)
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EROFS):
        return FlanliteError(f"{cache_dir()} cannot be written.", "Set HF_HOME to a folder of your own.")
    if constants.is_offline_mode():
        hint = "Unset HF_HUB_OFFLINE to download it, or copy it over from a machine that has it."
        return _UnreachableError(f"{repo} is not in the cache, and HF_HUB_OFFLINE is set.", hint)
    if isinstance(error, (httpx.HTTPError, LocalEntryNotFoundError)):
        hint = "Check the connection or the proxy; what was downloaded is kept, so run the command again."
        if not repo:
            return _UnreachableError(f"The hub ({constants.ENDPOINT}) cannot be reached.", hint)
        without = " Without a hub: --base tiny." if kind == "model" else ""
        missing = f"{repo} is not in the cache, and the hub ({constants.ENDPOINT}) cannot be reached."
        return _UnreachableError(missing, hint + without)
    return FlanliteError(f"The download of {repo} failed: {error}.", "Run the command again.")


def _gated(repo: str, kind: Kind, ungated: str | None) -> FlanliteError:
    page = f"https://huggingface.co/{'datasets/' if kind == 'dataset' else ''}{repo}"
    if get_token():
        sentence = f"{repo} is gated, and your token has not been given access."
        hint = f"Accept the licence at {page} (approval can take a day; a fine-grained token must allow gated reads)"
    else:
        sentence = f"{repo} is gated, and no token is set."
        hint = f"Accept the licence at {page}, then run: hf auth login (or set HF_TOKEN)"
    other = f", or use {ungated}, a copy that asks for neither." if ungated else "."
    return FlanliteError(sentence, hint + other)


def _refused(error: HfHubHTTPError, repo: str, kind: Kind) -> FlanliteError:
    status = error.response.status_code
    if status == 401 and "Invalid credentials" in (error.server_message or ""):
        return FlanliteError("The hub does not accept your token.", "Make a new one and run: hf auth login.")
    if isinstance(error, RepositoryNotFoundError) or status == 401:
        what = "model" if kind == "model" else "data set"
        hint = "Check the spelling; if it is private, run: hf auth login."
        return FlanliteError(f"The hub has no {what} {repo}, or hides it.", hint)
    if isinstance(error, EntryNotFoundError):
        return FlanliteError(f"{repo} lacks a file that is needed: {error.response.url.path}.", "Check the name.")
    if status == 403:
        hint = "Check on its hub page that your account may read it, and that your token has the right to."
        return FlanliteError(f"The hub refuses access to {repo} (403).", hint)
    if status == 429:
        return FlanliteError("The hub asks for a pause (429).", "Wait some minutes, or log in: hf auth login.")
    hint = "Try again later; what was downloaded is kept."
    return _UnreachableError(f"The hub answers with an error ({status}).", hint)

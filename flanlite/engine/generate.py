"""Text out of a model, as token ids: many prompts at once, or one prompt token by token.

Generation ends at any of the template's stop ids, which never appear in a result. A model generates for one caller at a
time per call; calls from several threads may run at once.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

PAD_ID = 0
"""Fills up short prompts, under an attention mask of zeros: any id would do."""

ROUND_TOKENS = 96
"""New tokens of a batch before the replies that are over leave it; the others are read anew, which is cheap."""

LEAST_SHARED_TOKENS = 32
"""A common beginning shorter than this is not worth a pass of its own."""


def generate(
    model: Any,
    prompts: Sequence[Sequence[int]],
    stop_ids: Sequence[int],
    max_new_tokens: int,
    *,
    temperature: float = 0.0,
    top_p: float = 1.0,
    batch_tokens: int = 8192,
) -> list[list[int]]:
    """The replies to prompts of token ids, in their order; see `replies_as_they_come`."""
    replies: list[list[int]] = [[] for _ in prompts]
    for index, reply in replies_as_they_come(
        model, prompts, stop_ids, max_new_tokens, temperature=temperature, top_p=top_p, batch_tokens=batch_tokens
    ):
        replies[index] = reply
    return replies


def replies_as_they_come(
    model: Any,
    prompts: Sequence[Sequence[int]],
    stop_ids: Sequence[int],
    max_new_tokens: int,
    *,
    temperature: float = 0.0,
    top_p: float = 1.0,
    batch_tokens: int = 8192,
) -> Iterator[tuple[int, list[int]]]:
    """(a prompt's index, its reply without the stop token), batch after batch, the longest prompts first.

    temperature 0 is greedy. A batch holds up to `batch_tokens` tokens, new ones counted, and is halved where the card's
    memory runs out; what its prompts begin with in common is computed once. Long replies are written in rounds, so that
    a batch does not wait for the longest of them.
    """
    waiting = [_Reply(index, list(prompt)) for index, prompt in enumerate(prompts)]
    while waiting:
        waiting.sort(key=lambda reply: len(reply.ids), reverse=True)
        new_tokens = min(ROUND_TOKENS, max_new_tokens - waiting[0].new_tokens)
        alike = [reply for reply in waiting if max_new_tokens - reply.new_tokens >= new_tokens]
        size = max(1, min(len(alike), batch_tokens // (len(alike[0].ids) + new_tokens)))
        config = _config(stop_ids, new_tokens, temperature, top_p)
        try:
            rows = _generate_batch(model, [reply.ids for reply in alike[:size]], config)
        except torch.OutOfMemoryError:
            if size == 1:
                raise
            torch.cuda.empty_cache()
            batch_tokens = (len(alike[0].ids) + new_tokens) * (size // 2)
            continue
        for reply, row in zip(alike[:size], rows, strict=True):
            written = _until_stop(row, stop_ids)
            reply.ids += written
            reply.new_tokens += len(written)
            if len(written) < len(row) or reply.new_tokens == max_new_tokens:
                waiting.remove(reply)
                yield reply.index, reply.ids[len(reply.ids) - reply.new_tokens :]


@dataclass(eq=False)
class _Reply:
    """A reply on its way: the prompt's ids with those written so far."""

    index: int
    ids: list[int]
    new_tokens: int = 0


def _generate_batch(model: Any, prompts: Sequence[Sequence[int]], config: GenerationConfig) -> list[list[int]]:
    """What the model writes behind each prompt, with stop tokens and the padding behind them."""
    shared = _common_prefix(prompts) if len(prompts) > 1 else 0
    ids, mask = _padded(prompts, shared if shared >= LEAST_SHARED_TOKENS else 0, model.device)
    with torch.inference_mode():
        known = {}
        if shared >= LEAST_SHARED_TOKENS:
            begun = model(input_ids=ids[:1, :shared], use_cache=True).past_key_values
            begun.batch_repeat_interleave(len(prompts))
            known = {"past_key_values": begun}
        output = model.generate(input_ids=ids, attention_mask=mask, generation_config=config, **known)
    rows: list[list[int]] = output[:, ids.shape[1] :].tolist()
    return rows


def _common_prefix(prompts: Sequence[Sequence[int]]) -> int:
    """How many ids all prompts begin with in common, each keeping at least one of its own."""
    first, last = min(map(list, prompts)), max(map(list, prompts))
    shortest = min(map(len, prompts)) - 1
    return next((index for index in range(shortest) if first[index] != last[index]), shortest)


def token_losses(model: Any, ids: Sequence[int], labels: Sequence[int]) -> tuple[float, int]:
    """The sum of the cross-entropies, in nats, of the tokens whose label is not -100, and how many those are."""
    wanted = torch.tensor(labels[1:], device=model.device)
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([list(ids)], device=model.device), use_cache=False).logits[0, :-1]
        total = torch.nn.functional.cross_entropy(logits.float(), wanted, reduction="sum")
    return float(total), int((wanted != -100).sum())


class Stream:
    """One reply, id by id as the model writes it; `cancel` ends it early, and so does leaving the `with` block.

    An error of the model is raised where the ids are read.
    """

    def __init__(
        self,
        model: Any,
        prompt: Sequence[int],
        stop_ids: Sequence[int],
        max_new_tokens: int,
        *,
        temperature: float = 0.0,
        top_p: float = 1.0,
    ) -> None:
        self._model = model
        self._prompt = prompt
        self._stop_ids = stop_ids
        self._config = _config(stop_ids, max_new_tokens, temperature, top_p)
        self._cancelled = threading.Event()
        self._ids: queue.SimpleQueue[int | BaseException | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.cancel()
        self._thread.join()

    def __iter__(self) -> Iterator[int]:
        while (item := self._ids.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            if item in self._stop_ids:
                return
            yield item

    def cancel(self) -> None:
        """Stop after the token that is being computed."""
        self._cancelled.set()

    def _work(self) -> None:
        try:
            ids = torch.tensor([list(self._prompt)], device=self._model.device)
            with torch.inference_mode():
                self._model.generate(
                    input_ids=ids,
                    attention_mask=torch.ones_like(ids),
                    generation_config=self._config,
                    streamer=_Queue(self._ids),
                    stopping_criteria=StoppingCriteriaList([_Cancelled(self._cancelled)]),
                )
        except BaseException as error:  # the reader gets it: left here, it would wait for ever
            self._ids.put(error)
        finally:
            self._ids.put(None)


class _Queue:
    """transformers' streamer protocol: the prompt first, then ids as they come."""

    def __init__(self, ids: queue.SimpleQueue[int | BaseException | None]) -> None:
        self._ids = ids
        self._is_prompt = True

    def put(self, value: Tensor) -> None:
        if self._is_prompt:
            self._is_prompt = False
            return
        for token in value.flatten().tolist():
            self._ids.put(token)

    def end(self) -> None:
        """The worker ends the stream itself, whether the model ended well or not."""


class _Cancelled(StoppingCriteria):
    def __init__(self, cancelled: threading.Event) -> None:
        self._cancelled = cancelled

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        return torch.full((len(input_ids),), self._cancelled.is_set(), device=input_ids.device)


def _config(stop_ids: Sequence[int], max_new_tokens: int, temperature: float, top_p: float) -> GenerationConfig:
    """Everything that decides the choice of tokens."""
    is_sampled = temperature > 0
    sampling = {"temperature": temperature, "top_p": top_p, "top_k": 0} if is_sampled else {}
    return GenerationConfig(  # type: ignore[no-untyped-call]
        max_new_tokens=max_new_tokens,
        eos_token_id=list(stop_ids),
        pad_token_id=PAD_ID,
        use_cache=True,
        do_sample=is_sampled,
        **sampling,
    )


def _padded(prompts: Sequence[Sequence[int]], shared: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Prompts as one [rows, longest] tensor whose rows end with the prompts' last ids, and its attention mask.

    The first `shared` ids, which are the same in all, stay in front; padding stands behind them.
    """
    longest = max(map(len, prompts))
    ids = torch.full((len(prompts), longest), PAD_ID)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        own = torch.tensor(list(prompt[shared:]))
        ids[row, :shared] = torch.tensor(list(prompt[:shared]), dtype=ids.dtype)
        ids[row, longest - len(own) :] = own
        mask[row, :shared] = mask[row, longest - len(own) :] = 1
    return ids.to(device), mask.to(device)


def _until_stop(ids: list[int], stop_ids: Sequence[int]) -> list[int]:
    """The ids before the first stop id; behind it stands padding."""
    end = next((index for index, token in enumerate(ids) if token in stop_ids), len(ids))
    return ids[:end]

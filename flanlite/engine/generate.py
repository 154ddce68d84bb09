"""Text out of a model, as token ids: many prompts at once, or one prompt token by token.

Generation ends at any of the template's stop ids, which never appear in a result. A model generates for one caller at a
time per call; calls from several threads may run at once.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

PAD_ID = 0
"""Stands left of short prompts, under an attention mask of zeros: any id would do."""


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
    """The replies to prompts of token ids, in their order, without the stop token.

    temperature 0 is greedy. Prompts are batched by length; a batch holds up to `batch_tokens` tokens, new ones counted.
    """
    config = _config(stop_ids, max_new_tokens, temperature, top_p)
    replies: list[list[int]] = [[] for _ in prompts]
    by_length = sorted(range(len(prompts)), key=lambda index: len(prompts[index]), reverse=True)
    while by_length:
        longest = len(prompts[by_length[0]]) + max_new_tokens
        size = max(1, batch_tokens // longest)
        batch, by_length = by_length[:size], by_length[size:]
        ids, mask = _left_padded([prompts[index] for index in batch], model.device)
        with torch.inference_mode():
            output = model.generate(input_ids=ids, attention_mask=mask, generation_config=config)
        for index, row in zip(batch, output[:, ids.shape[1] :].tolist(), strict=True):
            replies[index] = _until_stop(row, stop_ids)
    return replies


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


def _left_padded(prompts: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Prompts as one [rows, longest] tensor that ends with each prompt's last id, and its attention mask."""
    longest = max(map(len, prompts))
    ids = torch.full((len(prompts), longest), PAD_ID)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.tensor(list(prompt))
        mask[row, longest - len(prompt) :] = 1
    return ids.to(device), mask.to(device)


def _until_stop(ids: list[int], stop_ids: Sequence[int]) -> list[int]:
    """The ids before the first stop id; behind it stands padding."""
    end = next((index for index, token in enumerate(ids) if token in stop_ids), len(ids))
    return ids[:end]

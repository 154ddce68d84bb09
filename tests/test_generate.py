"""Replies from token ids: batched, sampled, streamed and cancelled."""

import functools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from random_llama import make_rows, write_base

from flanlite.engine.device import Machine
from flanlite.engine.generate import Stream, generate
from flanlite.engine.load import load_for_generation
from flanlite.errors import FlanliteError

CPU = Machine("cpu", "CPU", "peft", "float32")
NEVER = [319]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    torch.set_num_threads(1)
    return load_for_generation(write_base(tmp_path_factory.mktemp("base")), None, CPU)


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    return [row["input_ids"] for row in make_rows(9, seed=3, shortest=3, longest=40)]


def step_by_step(model: Any, prompt: list[int], count: int) -> list[int]:
    """Greedy decoding without cache, padding or `generate`."""
    ids = list(prompt)
    with torch.inference_mode():
        for _ in range(count):
            ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(prompt) :]


def test_replies_come_in_the_prompts_order_and_do_not_depend_on_the_batch(model: Any, prompts: list[list[int]]) -> None:
    expected = [step_by_step(model, prompt, 12) for prompt in prompts]
    assert generate(model, prompts, NEVER, 12) == expected
    assert generate(model, prompts, NEVER, 12, batch_tokens=1) == expected
    assert generate(model, [], NEVER, 12) == []


def test_a_common_beginning_is_computed_once_and_changes_nothing(
    model: Any, prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    beginning = [3 + index % 200 for index in range(50)]
    # One prompt is the whole beginning of all others.
    begun = [beginning, *([*beginning, *prompt] for prompt in prompts)]
    expected = [step_by_step(model, prompt, 12) for prompt in begun]
    lengths: list[int] = []
    forward = model.forward

    @functools.wraps(forward)  # transformers asks the signature whether it takes positions
    def counting(*arguments: Any, **named: Any) -> Any:
        lengths.append(named["input_ids"].shape[1])
        return forward(*arguments, **named)

    monkeypatch.setattr(model, "forward", counting)
    assert generate(model, begun, NEVER, 12) == expected
    assert lengths[0] == len(beginning) - 1
    assert lengths[1] == max(map(len, begun)) - lengths[0]


def test_a_batch_for_which_memory_runs_out_is_halved(
    model: Any, prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = generate(model, prompts, NEVER, 4)
    whole, sizes = model.generate, []

    def generate_a_few(**arguments: Any) -> Any:
        sizes.append(len(arguments["input_ids"]))
        if sizes[-1] > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(**arguments)

    monkeypatch.setattr(model, "generate", generate_a_few)
    assert generate(model, prompts, NEVER, 4) == expected
    assert sizes[:3] == [9, 4, 2]


def test_a_reply_ends_before_the_first_of_the_stop_ids(model: Any, prompts: list[list[int]]) -> None:
    whole = generate(model, prompts, NEVER, 12)
    stops = [whole[0][4], whole[1][7]]
    for reply, full in zip(generate(model, prompts, stops, 12), whole, strict=True):
        cut = next((index for index, token in enumerate(full) if token in stops), len(full))
        assert reply == full[:cut]


def test_a_bases_own_generation_settings_have_no_say(
    model: Any, prompts: list[list[int]], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    base = write_base(tmp_path / "base")
    settings = {"do_sample": True, "temperature": 9.0, "repetition_penalty": 9.0, "eos_token_id": 5, "max_length": 30}
    (base / "generation_config.json").write_text(json.dumps(settings))
    capfd.readouterr()
    other = load_for_generation(base, None, CPU)
    assert generate(other, prompts, NEVER, 12) == generate(model, prompts, NEVER, 12)
    assert capfd.readouterr().err == ""


def test_sampling_differs_from_greedy_and_repeats_under_a_seed(model: Any, prompts: list[list[int]]) -> None:
    torch.manual_seed(1)
    first = generate(model, prompts, NEVER, 12, temperature=5.0)
    torch.manual_seed(1)
    assert generate(model, prompts, NEVER, 12, temperature=5.0) == first
    assert first != generate(model, prompts, NEVER, 12)
    assert generate(model, prompts, NEVER, 12, temperature=5.0, top_p=1e-6) == generate(model, prompts, NEVER, 12)


def test_a_stream_gives_the_same_ids_as_a_batch(model: Any, prompts: list[list[int]]) -> None:
    whole = generate(model, prompts[:1], NEVER, 12)[0]
    assert list(Stream(model, prompts[0], NEVER, 12)) == whole
    stop = whole[5]
    assert list(Stream(model, prompts[0], [stop], 12)) == whole[: whole.index(stop)]


def test_a_stream_can_be_cancelled(model: Any, prompts: list[list[int]]) -> None:
    with Stream(model, prompts[0], NEVER, 1500) as stream:
        ids = iter(stream)
        first = next(ids)
        stream.cancel()
        rest = list(ids)
    assert first == generate(model, prompts[:1], NEVER, 1)[0][0]
    assert len(rest) < 1000


def test_an_error_of_the_model_reaches_the_reader_of_a_stream(model: Any) -> None:
    with pytest.raises(IndexError):
        list(Stream(model, [1, 10**6], NEVER, 5))


def test_two_streams_at_once_do_not_mix(model: Any, prompts: list[list[int]]) -> None:
    expected = generate(model, prompts[:2], NEVER, 12)
    with Stream(model, prompts[0], NEVER, 12) as one, Stream(model, prompts[1], NEVER, 12) as other:
        assert [list(one), list(other)] == expected


def test_a_folder_without_safetensors_or_adapter_is_named(tmp_path: Path, model: Any) -> None:
    with pytest.raises(FlanliteError, match=r"config\.json is missing"):
        load_for_generation(tmp_path, None, CPU)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(FlanliteError, match="has no weights in safetensors"):
        load_for_generation(tmp_path, None, CPU)

"""Real 4-bit training on whatever card is there, with random models: no network, nothing to download.

Every tune runs in a process of its own, and those of all tests that were chosen side by side; what follows a tune runs
here, where unsloth is never imported.
"""

import csv
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import scenarios as made
import torch
from planned_step import CASES
from random_llama import make_rows
from safetensors.torch import load_file
from scenarios import BACKENDS, LAYERS, SETUPS, STEPS, Bases, Outcomes, write_down
from test_protocol_stop import assert_answers_are_learnt

from flanlite.engine.device import BFLOAT16_CAPABILITY, Machine, choose_machine
from flanlite.engine.generate import generate
from flanlite.engine.load import load_for_generation
from flanlite.recipe import Recipe
from flanlite.run import Run

WITHOUT_MARGIN = (0.9, 1.1)
"""Between which the peak lies that was measured, in parts of what is planned before the margin."""

WAITS_A_STEP, WAITS_A_MICRO_STEP = 1, {"peft": 2, "unsloth": 4}
"""How often the card is waited for at most: for a step's figures once, the rest is told in PackedTrainer."""

OPERATIONS = {
    "SDPA with a mask": ("_efficient_attention", "_cudnn_attention"),
    "SDPA by document": ("_flash_attention", "_cudnn_attention", "_efficient_attention"),
    "torch varlen": ("_varlen_attn", "_flash_attention_forward"),
    "xformers": ("xformers", "flash_fwd", "efficient_attention_forward"),
    "flash-attn": ("flash_attn",),
}
"""What the operations of attention are called, one of them, where a kernel is chosen."""

SEGMENT_BYTES = 20 * 2**20
"""In such pieces torch takes memory, and it looks at a cap before it rounds up to them."""

FLOAT32_KERNELS = ("sgemm", "tf32", "f32f32")


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Bases:
    found = Bases.write(tmp_path_factory.mktemp("bases"))
    torch.cuda.empty_cache()
    return found


@pytest.fixture(scope="module")
def outcome(request: pytest.FixtureRequest, bases: Bases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The scenarios' outcomes; those that the chosen tests need are all under way."""
    outcomes = Outcomes(tmp_path_factory.mktemp("outcomes"), bases)
    for item in request.session.items:
        if item.path == request.path and item.get_closest_marker("skip") is None:
            for mark in item.iter_markers("needs"):
                for scenario in mark.args:
                    outcomes.start(scenario, **item.callspec.params)
    yield outcomes
    outcomes.close()


def distance(gradients: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """The length of the difference, in lengths of what is expected."""
    assert gradients.keys() == expected.keys()
    difference = sum(float((gradients[name] - each).square().sum()) for name, each in expected.items())
    return math.sqrt(difference / sum(float(each.square().sum()) for each in expected.values()))


def losses(run: Run, column: str = "loss") -> list[float]:
    with run.loss_csv.open(newline="") as stream:
        return [float(row[column]) for row in csv.DictReader(stream) if row[column]]


def adapter(run: Run) -> dict[str, torch.Tensor]:
    return load_file(run.adapter_dir / "adapter_model.safetensors")


def test_the_card_is_found_and_its_compute_type_follows_its_capability() -> None:
    machine = choose_machine(Recipe())
    capability = torch.cuda.get_device_capability(0)
    assert (machine.kind, machine.capability) == ("cuda", capability)
    assert machine.dtype == ("bfloat16" if capability >= BFLOAT16_CAPABILITY else "float16")
    assert machine.memory_bytes > 10**9


@pytest.mark.needs.with_args(made.finished)
@pytest.mark.parametrize("backend", BACKENDS)
def test_fifty_packed_steps_lower_the_loss_and_leave_float32_adapters(outcome: Outcomes, backend: str) -> None:
    run, _ = outcome(made.finished, backend=backend)
    curve = losses(run)
    assert len(curve) == STEPS
    assert all(map(math.isfinite, curve))
    assert curve[-1] < 0.9 * curve[0]
    validation = losses(run, "validation_loss")
    assert validation[-1] < validation[0]
    assert {tensor.dtype for tensor in adapter(run).values()} == {torch.float32}
    assert run.record["backend"] == backend
    assert run.record["measured"]["peak_memory_of"] == "card"


@pytest.mark.needs.with_args(made.finished, made.offloaded)
@pytest.mark.parametrize("backend", BACKENDS)
def test_stdout_holds_the_progress_and_nothing_else(outcome: Outcomes, backend: str) -> None:
    _, said = outcome(made.finished, backend=backend)
    for out in (said, outcome(made.offloaded, backend=backend)):
        assert out
        assert all(line.startswith("step ") for line in out.splitlines()), out


@pytest.mark.needs.with_args(made.finished)
@pytest.mark.parametrize("backend", BACKENDS[:1])
def test_both_backends_see_the_same_rows_and_take_the_same_losses_over_fifty_steps(
    outcome: Outcomes, backend: str
) -> None:
    (mine, _), (other, _) = outcome(made.finished, backend=backend), outcome(made.finished, backend="peft")
    for key in ("tokens", "trained_tokens"):
        assert mine.record["measured"][key] == other.record["measured"][key]
    assert adapter(mine).keys() == adapter(other).keys()
    # The first loss is the base's own, before any update: only the arithmetic of 16 bits lies between the two.
    assert losses(mine)[0] == pytest.approx(losses(other)[0], rel=5e-3)
    assert losses(mine) == pytest.approx(losses(other), rel=3e-2)
    assert losses(mine, "validation_loss")[-1] == pytest.approx(losses(other, "validation_loss")[-1], rel=3e-2)


@pytest.mark.needs.with_args(made.float16, made.finished)
@pytest.mark.parametrize("backend", BACKENDS)
def test_float16_with_its_loss_scaling_trains_on_any_card_and_resumes(outcome: Outcomes, backend: str) -> None:
    run, has_scale = outcome(made.float16, backend=backend)
    assert has_scale
    curve = losses(run)
    assert len(curve) == STEPS
    assert all(map(math.isfinite, curve))
    # The scaler skips the first steps until its scale fits, so the curves are alike and not the same.
    assert curve[0] == pytest.approx(losses(outcome(made.finished, backend=backend)[0])[0], rel=1e-2)
    assert curve[-1] < 0.95 * curve[0]
    assert {tensor.dtype for tensor in adapter(run).values()} == {torch.float32}


@pytest.mark.needs.with_args(made.killed, made.finished)
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_killed_run_resumes_to_the_losses_of_an_uninterrupted_one(outcome: Outcomes, backend: str) -> None:
    run, whole = outcome(made.killed, backend=backend), outcome(made.finished, backend=backend)[0]
    # The kernels of a card add in no fixed order, so this is close and not equal to the bit.
    assert losses(run) == pytest.approx(losses(whole), rel=1e-2)


@pytest.mark.needs.with_args(made.finished)
@pytest.mark.parametrize("backend", BACKENDS)
def test_merging_and_generating_after_it(outcome: Outcomes, bases: Bases, tmp_path: Path, backend: str) -> None:
    from flanlite.engine.merging import MergeInputs, merge

    run, machine = outcome(made.finished, backend=backend)[0], choose_machine(Recipe(backend="peft"))
    prompts = [row["input_ids"] for row in make_rows(6, seed=4)]
    inputs = MergeInputs(bases.small, run.adapter_dir, nf4_dtype=machine.dtype)
    report = merge(inputs, tmp_path / "merged", stop_ids=[2], token_rows=prompts[:4], pad_id=0)
    assert report.passed, report.parity
    tuned = load_for_generation(bases.small, run.adapter_dir, machine)
    replies = generate(tuned, prompts, [2], 16)
    assert [len(reply) <= 16 for reply in replies] == [True] * len(prompts)
    merged = load_for_generation(report.folder, None, machine, is_4bit=False)
    assert len(generate(merged, prompts, [2], 16)) == len(prompts)


@pytest.mark.needs.with_args(made.laid_out)
@pytest.mark.parametrize("backend", BACKENDS)
def test_kept_and_offloaded_layers_change_neither_loss_nor_gradients(outcome: Outcomes, backend: str) -> None:
    whole, *others = outcome(made.laid_out, backend=backend)
    for setup, each in zip(SETUPS[1:], others, strict=True):
        assert each.loss == pytest.approx(whole.loss, rel=1e-5)
        # Attention's backward on a card adds in no fixed order.
        assert distance(each.gradients, whole.gradients) < 1e-2
        kept = int(setup.split(",")[1])
        assert sorted(each.forwards.values()) == [1] * kept + [2] * (LAYERS - kept)


@pytest.mark.needs.with_args(made.one_by_one)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", ["auto", "float16"])
def test_layers_hand_on_16_bits_and_packed_rows_give_what_their_conversations_give(
    outcome: Outcomes, backend: str, dtype: str
) -> None:
    step = outcome(made.one_by_one, backend=backend, dtype=dtype)
    expected = choose_machine(Recipe()).dtype if dtype == "auto" else dtype
    assert step.types == {f"torch.{expected}"}
    assert math.isfinite(step.loss)
    assert step.loss == pytest.approx(step.single_loss, rel=5e-3)
    assert distance(step.gradients, step.single_gradients) < 5e-2


@pytest.mark.needs.with_args(made.capped)
@pytest.mark.parametrize("backend", BACKENDS)
def test_under_a_cap_the_ladder_finds_a_setup_that_fits_and_the_losses_stay(outcome: Outcomes, backend: str) -> None:
    found = outcome(made.capped, backend=backend)
    assert found.least_bytes < 0.8 * found.whole.record["measured"]["peak_memory_bytes"]
    assert "The card ran out of memory before step 1; goes on with " in found.said
    measured = found.capped.record["measured"]
    assert measured["setup"]["kept_layers"] < LAYERS
    assert measured["peak_memory_bytes"] <= found.cap_bytes + SEGMENT_BYTES
    assert losses(found.capped) == pytest.approx(losses(found.whole), rel=1e-2)


@pytest.mark.needs.with_args(made.capped)
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_card_that_shrinks_in_the_middle_costs_nothing_but_speed(outcome: Outcomes, backend: str) -> None:
    found = outcome(made.capped, backend=backend)
    assert "The card ran out of memory at step 4; goes on with " in found.said_when_shrunk
    measured, whole = found.shrunk.record["measured"], found.whole.record["measured"]
    assert measured["setup"]["kept_layers"] < LAYERS
    assert measured["peak_memory_bytes"] <= found.cap_bytes + SEGMENT_BYTES
    for key in ("steps", "tokens", "trained_tokens"):
        assert measured[key] == whole[key]
    assert losses(found.shrunk) == pytest.approx(losses(found.whole), rel=1e-2)


@pytest.mark.needs.with_args(made.planned)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", CASES)
def test_a_plan_is_never_below_what_is_used_and_near_it_before_the_margin(
    outcome: Outcomes, backend: str, case: str
) -> None:
    found = outcome(made.planned, backend=backend, case=case)
    used, of_the_parts, of_all = (found[key] for key in ("measured", "of_the_parts", "of_all"))
    print(f"{backend}, {case}: {used / 2**20:.0f} MiB, {of_the_parts:.2f} of the parts, {of_all:.2f} of all")
    assert math.isfinite(found["last_loss"])
    assert of_all <= 1
    least, most = WITHOUT_MARGIN
    assert least <= of_the_parts <= most


@pytest.mark.needs.with_args(made.profiled)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("micro_rows", ["1", "4"])
def test_a_step_waits_for_the_card_seldom_and_computes_in_16_bits(
    outcome: Outcomes, backend: str, micro_rows: str
) -> None:
    found = outcome(made.profiled, backend=backend, micro_rows=micro_rows)
    write_down("steps.jsonl", {"backend": backend, "micro_rows": micro_rows} | found)
    waits = sum(found["waits"].values())
    # The profiler sees the card at all, and the one wait that is ours.
    assert found["kernels"]
    assert found["waits"]["cudaEventSynchronize"] >= 1
    print(f"{backend}, {micro_rows} rows at once: {found['waits']}; {found['attention']}: {found['operations']}")
    assert waits <= WAITS_A_STEP + WAITS_A_MICRO_STEP[backend] * 4 // int(micro_rows)
    assert not found["products"]
    in_float32 = sum(us for name, us in found["kernels"].items() if any(word in name for word in FLOAT32_KERNELS))
    assert in_float32 <= 0.02 * sum(found["kernels"].values())
    assert any(word in name for name in found["operations"] for word in OPERATIONS[found["attention"]])


@pytest.mark.needs.with_args(made.talked)
@pytest.mark.parametrize("backend", BACKENDS)
def test_agent_flans_end_of_turn_is_learnt_and_generation_stops_on_it(outcome: Outcomes, backend: str) -> None:
    run, base = outcome(made.talked, backend=backend)
    assert_answers_are_learnt(run.adapter_dir, base, choose_machine(Recipe(backend="peft")))


def test_a_base_stored_in_4_bits_computes_in_the_type_of_this_machine(bases: Bases, tmp_path: Path) -> None:
    card: Any = choose_machine(Recipe(backend="peft"))
    load_for_generation(bases.small, None, card).save_pretrained(tmp_path)
    forced = Machine("cuda", card.name, "peft", "float16", card.capability, card.memory_bytes)
    stored = load_for_generation(tmp_path, None, forced)
    layers = [module for module in stored.modules() if type(module).__name__ == "Linear4bit"]
    assert {layer.compute_dtype for layer in layers} == {torch.float16}
    ids = torch.tensor([make_rows(1)[0]["input_ids"]], device="cuda")
    with torch.inference_mode():
        assert stored(input_ids=ids).logits.isfinite().all()

"""The agent loop, with a scripted model and real tools."""

from __future__ import annotations

import json
import threading
import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_model import ScriptedModel

from flanlite.agent.events import (
    Answer,
    Asked,
    Event,
    Exchange,
    Failure,
    Observation,
    Stopped,
    Thought,
    Waiting,
    as_agent_flan,
    as_conversation,
)
from flanlite.agent.loop import Settings, work, work_side_by_side
from flanlite.agent.model import Sampling
from flanlite.agent.tools import Toolbox, tool_from
from flanlite.conversation import Turn
from flanlite.corpus.forms import read_row
from flanlite.errors import FlanliteError
from flanlite.prompt.replies import parse_reply
from flanlite.prompt.toolcalls import write_out


def add(a: int, b: int) -> str:
    """Add two numbers."""
    return str(a + b)


def fail(reason: str) -> str:
    """Fail for a reason."""
    raise ValueError(reason)


def nap(seconds: float) -> str:
    """Sleep for some seconds."""
    time.sleep(seconds)
    return "rested"


TOOLS = Toolbox([tool_from(function, "test") for function in (add, fail, nap)])

CALL = 'Thought: Add them.\nAction: add\nAction Input: {"a": 2, "b": 3}'
ANSWER = "Thought: I have it.\nFinal Answer: It is 5."


def run(
    model: ScriptedModel, question: str = "2 + 3?", past: tuple[Exchange, ...] = (), settings: Settings | None = None
) -> Exchange:
    exchange = Exchange(question)
    for event in work(model, TOOLS, past, question, settings or Settings(), threading.Event()):
        exchange = exchange.with_event(event)
    return exchange


def of_kind(exchange: Exchange, kind: type[Event]) -> list[Event]:
    return [event for event in exchange.events if isinstance(event, kind)]


def test_a_call_is_run_and_its_result_goes_back_until_there_is_an_answer() -> None:
    model = ScriptedModel(CALL, ANSWER)
    exchange = run(model)
    assert exchange.answer == "It is 5."
    (call,) = exchange.calls()
    assert (call.status, call.call.name, call.call.arguments) == ("done", "add", {"a": 2, "b": 3})
    assert call.seconds is not None
    assert [event.text for event in of_kind(exchange, Observation)] == ["5"]
    assert [event.text for event in of_kind(exchange, Thought)] == ["Add them.", "I have it."]
    assert model.asked[1].turns == (
        Turn("user", "2 + 3?"),
        Turn("assistant", CALL),
        Turn("observation", "5"),
    )


def test_texts_grow_piece_by_piece() -> None:
    events = list(work(ScriptedModel(ANSWER), TOOLS, (), "?", Settings(), threading.Event()))
    answers = [event.text for event in events if isinstance(event, Answer)]
    assert len(answers) > 2
    assert all(longer.startswith(shorter) for shorter, longer in pairwise(answers))
    assert [event.is_done for event in events if isinstance(event, Answer)] == [False] * (len(answers) - 1) + [True]


def test_an_earlier_exchange_is_part_of_what_is_asked() -> None:
    first = run(ScriptedModel(CALL, ANSWER))
    model = ScriptedModel("Hello.")
    run(model, "Hi", (first,), Settings(system="Be kind."))
    assert [turn.role for turn in model.asked[0].turns] == [
        "system", "user", "assistant", "observation", "assistant", "user",
    ]  # fmt: skip


def test_calls_of_one_reply_run_at_the_same_time_and_keep_their_order() -> None:
    calls = "".join(f'Action: nap\nAction Input: {{"seconds": {s}}}\n' for s in (0.4, 0.3, 0.2))
    began = time.monotonic()
    model = ScriptedModel(calls, "Done.")
    exchange = run(model)
    assert time.monotonic() - began < 0.8
    assert [call.index for call in exchange.calls("done")] == [0, 1, 2]
    assert [turn.role for turn in model.asked[1].turns] == ["user", "assistant"] + ["observation"] * 3


def test_an_invented_tool_is_marked_and_the_model_told_which_there_are() -> None:
    model = ScriptedModel("Action: fly\nAction Input: {}", "I cannot.")
    exchange = run(model)
    assert [call.call.name for call in exchange.calls("invented")] == ["fly"]
    observed = model.asked[1].turns[-1].text
    assert observed.startswith("Error: There is no tool fly.")
    assert "add" in observed


def test_a_failing_tool_is_an_observation() -> None:
    model = ScriptedModel('Action: fail\nAction Input: {"reason": "No luck."}', "Sorry.")
    exchange = run(model)
    assert [call.status for call in exchange.calls()] == ["failed"]
    assert model.asked[1].turns[-1].text == "Error: No luck."
    assert exchange.answer == "Sorry."


@pytest.mark.parametrize("reply", ['Action: add\nAction Input: {"a": 2,', 'Action: add\nAction Input: {"a": 2}'])
def test_a_malformed_call_is_told_once(reply: str) -> None:
    model = ScriptedModel(reply, CALL, ANSWER)
    exchange = run(model)
    assert [call.status for call in exchange.calls()] == ["malformed", "done"]
    assert model.asked[1].turns[-1].text.startswith("Error: ")
    assert exchange.answer == "It is 5."


def test_a_second_malformed_call_in_a_row_ends_the_work() -> None:
    model = ScriptedModel('Action: add\nAction Input: {"a": 2,')
    exchange = run(model)
    assert len(model.asked) == 2
    assert [call.status for call in exchange.calls()] == ["malformed"] * 2
    assert "twice in a row" in of_kind(exchange, Failure)[0].text


def test_a_model_that_only_calls_is_ended_at_the_step_limit() -> None:
    exchange = run(ScriptedModel(CALL), settings=Settings(max_steps=3))
    assert len(exchange.steps) == 3
    assert "No answer after 3 steps." in of_kind(exchange, Failure)[0].text


def test_a_result_that_the_model_makes_up_is_cut_off() -> None:
    model = ScriptedModel(f"{CALL}\nObservation: 77\nThought: I have it.\nFinal Answer: 77", ANSWER)
    exchange = run(model)
    assert exchange.answer == "It is 5."
    assert model.asked[1].turns[1].text.strip() == CALL


def test_a_reply_at_the_limit_of_tokens_says_that_it_is_cut() -> None:
    exchange = run(ScriptedModel("A long answer."), settings=Settings(sampling=Sampling(max_new_tokens=6)))
    assert [(event.text, event.is_cut) for event in of_kind(exchange, Answer)] == [("A long", True)]


@pytest.mark.parametrize(
    "call",
    ["Action: fail\nAction Input: /home/me/pro", "```bash\nfail --reason /home/me/pro", 'Action: fail(reason="/home")'],
)
def test_a_call_that_was_cut_at_the_limit_of_tokens_is_not_run(call: str) -> None:
    model = ScriptedModel(f"{CALL}\n{call}jects", "I stop.")
    exchange = run(model, settings=Settings(sampling=Sampling(max_new_tokens=len(f"{CALL}\n{call}"))))
    assert [call.status for call in exchange.calls()] == ["done", "malformed"]
    assert "Error: The reply was cut at the limit of new tokens." in model.asked[1].turns[-1].text


def test_a_whole_call_is_run_though_what_follows_it_was_cut() -> None:
    text = f"{CALL}\nNow I wait for the sum."
    exchange = run(ScriptedModel(text, ANSWER), settings=Settings(sampling=Sampling(max_new_tokens=len(text) - 3)))
    assert [call.status for call in exchange.calls()] == ["done"]


def test_stop_ends_a_reply_and_a_running_tool() -> None:
    for model in (
        ScriptedModel("word " * 1000, pause_s=0.01),
        ScriptedModel('Action: nap\nAction Input: {"seconds": 9}'),
    ):
        stop, exchange = threading.Event(), Exchange("?")
        threading.Timer(0.3, stop.set).start()
        began = time.monotonic()
        for event in work(model, TOOLS, (), "?", Settings(), stop):
            exchange = exchange.with_event(event)
        assert time.monotonic() - began < 3
        assert of_kind(exchange, Stopped)
        assert exchange.is_over


def test_what_a_model_cannot_be_asked_is_a_failure_with_a_hint() -> None:
    class Refusing(ScriptedModel):
        def ask(self, *_: object) -> object:  # type: ignore[override]
            raise FlanliteError("Too long.", "Ask for less.")

    assert of_kind(run(Refusing("")), Failure) == [Failure(1, "Too long.", "Ask for less.")]


def test_two_models_work_on_one_question_at_once_and_apart() -> None:
    models = [ScriptedModel("I am one.", pause_s=0.01), ScriptedModel(CALL, ANSWER, pause_s=0.01)]
    exchanges, order = [Exchange("?"), Exchange("?")], []
    for index, event in work_side_by_side(models, TOOLS, [(), ()], "?", Settings(), threading.Event()):
        exchanges[index] = exchanges[index].with_event(event)
        order.append(index)
    assert [exchange.answer for exchange in exchanges] == ["I am one.", "It is 5."]
    assert order != sorted(order)


def test_leaving_the_work_of_many_stops_it() -> None:
    stop = threading.Event()
    working = work_side_by_side([ScriptedModel("word " * 1000, pause_s=0.01)], TOOLS, [()], "?", Settings(), stop)
    next(working)
    working.close()
    assert stop.is_set()


def test_a_good_chat_becomes_training_data_and_a_bad_reply_in_it_is_not_trained() -> None:
    exchange = run(ScriptedModel("Action: fly\nAction Input: {}", CALL, ANSWER))
    conversation = as_conversation([exchange], "", TOOLS.tools)
    row = json.loads(json.dumps(as_agent_flan(conversation, "react", "x")))
    read = read_row(row, "agent-flan")
    assert [turn.role for turn in read.turns] == ["system", "user"] + ["assistant", "user"] * 2 + ["assistant"]
    assert [turn.trained for turn in read.turns if turn.role == "assistant"] == [False, True, True]
    # What is trained is what was asked: the same texts.
    assert [turn.text for turn in read.turns] == [turn.text for turn in write_out(conversation, "react")]


def test_an_answer_that_was_cut_is_not_trained() -> None:
    exchange = run(ScriptedModel("A long answer."), settings=Settings(sampling=Sampling(max_new_tokens=6)))
    assert not any(turn.trained for turn in as_conversation([exchange], "", TOOLS.tools).turns)


def test_a_reply_that_was_cut_behind_its_call_is_not_trained() -> None:
    text = f"{CALL}\nNow I wait for the sum."
    exchange = run(ScriptedModel(text, ANSWER), settings=Settings(sampling=Sampling(max_new_tokens=len(text) - 3)))
    turns = as_conversation([exchange], "", TOOLS.tools).turns
    assert [turn.trained for turn in turns if turn.role == "assistant"] == [False, True]


def test_a_chat_without_an_answer_trains_nothing() -> None:
    exchange = run(ScriptedModel(CALL), settings=Settings(max_steps=1))
    assert not any(turn.trained for turn in as_conversation([exchange], "", TOOLS.tools).turns)


def test_a_call_of_a_tool_that_was_switched_off_since_is_not_trained() -> None:
    exchange = run(ScriptedModel(CALL, ANSWER))
    trained = [turn.trained for turn in as_conversation([exchange], "", ()).turns if turn.role == "assistant"]
    assert trained == [False, True]


def test_a_question_that_failed_is_no_part_of_what_follows() -> None:
    failed = run(ScriptedModel(CALL), "An odd one", settings=Settings(max_steps=1))
    model = ScriptedModel("Hello.")
    run(model, "Hi", (failed,))
    assert [turn.text for turn in model.asked[0].turns] == ["Hi"]


def test_a_reply_may_make_so_many_calls_and_no_more() -> None:
    calls = 'Action: add\nAction Input: {"a": 1, "b": 2}\n' * 300
    model = ScriptedModel(calls, "Enough.")
    exchange = run(model, settings=Settings(sampling=Sampling(max_new_tokens=10**6)))
    assert len(exchange.calls("done")) == len(exchange.calls()) == 8
    assert "292 more calls were not run" in model.asked[1].turns[-1].text


def test_half_characters_and_endless_nesting_do_not_reach_the_events() -> None:
    deep = '{"a": ' * 900 + "1" + "}" * 900
    replies = ('Action: add\nAction Input: {"a": "\\ud800"}', CALL, f"Action: add\nAction Input: {deep}", "Over.")
    model = ScriptedModel(*replies)
    exchange = run(model, "Odd \ud800?", settings=Settings(sampling=Sampling(max_new_tokens=10**6)))
    assert exchange.answer == "Over."
    for call in exchange.calls():
        json.dumps(call.call.arguments).encode()
        call.call.arguments_json().encode()
    model.asked[0].turns[0].text.encode()


def test_a_fault_of_the_models_engine_is_a_failure(caplog) -> None:
    class Broken(ScriptedModel):
        def ask(self, *_: object) -> object:  # type: ignore[override]
            raise RuntimeError("CUDA out of memory")

    (failure,) = of_kind(run(Broken("")), Failure)
    assert "CUDA out of memory" in failure.text


def test_waiting_and_prompt_are_told() -> None:
    exchange = run(ScriptedModel(ANSWER))
    assert of_kind(exchange, Waiting) == [Waiting(1, 0)]
    (asked,) = of_kind(exchange, Asked)
    assert asked.prompt.text == "2 + 3?"


@given(st.lists(st.text(alphabet='{}":,aAction Input\n`Thought', max_size=80), min_size=1, max_size=4))
def test_whatever_a_model_writes_the_work_ends_in_one_way(replies: list[str]) -> None:
    exchange = run(ScriptedModel(*replies), settings=Settings(max_steps=3))
    assert exchange.is_over
    endings = [event for event in exchange.events if isinstance(event, Failure | Stopped)]
    assert len(endings) == (exchange.answer is None)


def test_every_prefix_of_a_reply_can_be_shown() -> None:
    for reply in (CALL, ANSWER):
        for end in range(len(reply)):
            parse_reply(reply[:end], TOOLS.tools, is_whole=False)

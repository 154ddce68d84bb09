"""A model behind an endpoint, against small servers on loopback that misbehave as real ones do, and one real server."""

import importlib.util
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai_server import BREAK_OFF, SILENCE, Reply, Server, call_piece, delta, says, serve

from flanlite.agent.model import ChatStyle, Sampling
from flanlite.conversation import Conversation, Tool, ToolCall, Turn
from flanlite.endpoint import Endpoint, reply
from flanlite.endpoint.messages import as_messages
from flanlite.errors import FlanliteError
from flanlite.prompt.replies import parse_reply
from flanlite.prompt.toolcalls import json_calls, offer_tools

WEATHER = Tool("weather", "The weather in a city.", {"type": "object", "properties": {"city": {"type": "string"}}})
GREEDY = Sampling()
QUESTION = Conversation((Turn("user", "Is it warm in Rome?"),), (WEATHER,))
ROME, OSLO = ToolCall("weather", {"city": "Rome"}), ToolCall("weather", {"city": "Oslo"})
CALLED = json_calls("I look it up.", [ROME, OSLO])


@pytest.fixture
def server() -> Iterator[Server]:
    with serve() as server:
        yield server


def ask(
    server: Server,
    conversation: Conversation = QUESTION,
    style: ChatStyle = "react",
    sampling: Sampling = GREEDY,
) -> str:
    """The whole reply."""
    return "".join(Endpoint(server.url, None, style).ask(conversation, sampling, threading.Event()))


def error_of(act: Callable[[], object]) -> FlanliteError:
    with pytest.raises(FlanliteError) as caught:
        act()
    return caught.value


def test_the_only_model_needs_no_name(server: Server) -> None:
    assert Endpoint(server.url, None, "react").name == "small"


def test_a_url_may_lack_v1(server: Server) -> None:
    server.replies = [says("Hello.")]
    model = Endpoint(f"{server.root}/", None, "react")
    assert model.url == server.url
    assert "".join(model.ask(QUESTION, GREEDY, threading.Event())) == "Hello."
    assert server.paths == ["/models", "/v1/models", "/v1/chat/completions"]


@pytest.mark.parametrize(
    "models",
    [{"data": [{"id": "small"}, {"id": "large"}]}, [{"id": "small"}, {"id": "large"}]],
    ids=["as the API has it", "as a bare list"],
)
def test_one_of_several_models_must_be_named(server: Server, models: object) -> None:
    server.models = models
    error = error_of(lambda: Endpoint(server.url, None, "react"))
    assert error.message == f"The server at {server.url} has several models: small, large."
    assert "--model NAME" in error.hint
    assert Endpoint(server.url, "large", "react").name == "large"


def test_a_server_without_models_says_so(server: Server) -> None:
    server.models = {"data": None}
    assert "lists no model" in error_of(lambda: Endpoint(server.url, None, "react")).message


def test_a_named_model_need_not_be_listed(server: Server) -> None:
    server.models, server.models_status = "Internal Server Error", 500
    assert Endpoint(server.root, "large", "react").name == "large"
    assert "500: Internal Server Error" in error_of(lambda: Endpoint(server.url, None, "react")).message


@pytest.mark.parametrize("models", ["<html>Welcome</html>", {"error": "Unexpected endpoint"}])
def test_what_lists_no_models_is_no_server(server: Server, models: object) -> None:
    server.models = models
    error = error_of(lambda: Endpoint(server.root, None, "react"))
    assert error.message == f"There is no OpenAI-compatible server at {server.root}: it lists no models."


def test_an_unreachable_server_is_named_and_a_way_to_start_one() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
        error = error_of(lambda: Endpoint(url, None, "react"))
    assert error.message.startswith(f"The connection to {url} failed: ")
    assert "llama-server" in error.hint


@pytest.mark.parametrize("url", ["127.0.0.1:8080", "localhost", "http://", "http://[", "http://a:port/v1"])
def test_what_is_no_web_address_is_refused(url: str) -> None:
    assert error_of(lambda: Endpoint(url, None, "react")).message == f"{url!r} is no web address."


def test_the_key_comes_from_the_environment(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.replies = [says("Hello.")]
    monkeypatch.setenv("OPENAI_API_KEY", "secret\n")
    ask(server)
    assert [headers["authorization"] for headers in server.headers] == ["Bearer secret"] * 2
    monkeypatch.setenv("OPENAI_API_KEY", "\u201csecret\u201d")
    assert "secret" not in error_of(lambda: ask(server)).message


def test_a_wrong_key_is_told_with_the_servers_sentence(server: Server) -> None:
    server.models, server.models_status = {"error": {"message": "Invalid key."}}, 401
    error = error_of(lambda: Endpoint(server.url, None, "react"))
    assert error.message == f"The server at {server.url} answers 401: Invalid key."
    assert "OPENAI_API_KEY" in error.hint


@pytest.mark.parametrize("style", ["react", "json"])
def test_tools_and_observations_are_sent_as_the_text_of_training(server: Server, style: ChatStyle) -> None:
    server.replies = [says("Yes.")]
    turns = (
        Turn("system", "Be brief."),
        *QUESTION.turns,
        Turn("assistant", "Action: weather\nAction Input: {}"),
        Turn("observation", "29 degrees"),
        Turn("user", "So?"),
    )
    ask(server, Conversation(turns, (WEATHER,)), style)
    assert server.requests[0]["messages"] == [
        {"role": "system", "content": f"Be brief.\n\n{offer_tools(style, [WEATHER])}"},
        {"role": "user", "content": "Is it warm in Rome?"},
        {"role": "assistant", "content": "Action: weather\nAction Input: {}"},
        {"role": "user", "content": "Observation: 29 degrees\nSo?"},
    ]
    assert "tools" not in server.requests[0]


def test_sampling_is_sent(server: Server) -> None:
    server.replies = [says("Yes.")]
    ask(server, sampling=Sampling(0.7, 0.9, 99))
    sent = {key: value for key, value in server.requests[0].items() if key not in ("messages", "stream_options")}
    assert sent == {"model": "small", "temperature": 0.7, "top_p": 0.9, "max_tokens": 99, "stream": True}


def test_the_style_openai_sends_tools_calls_and_results_natively(server: Server) -> None:
    server.replies = [says("Yes.")]
    turns = (
        *QUESTION.turns,
        Turn("assistant", CALLED),
        Turn("observation", "29 degrees"),
        Turn("observation", "2 degrees"),
    )
    ask(server, Conversation(turns, (WEATHER,)), "openai")
    request = server.requests[0]
    assert request["tools"] == [
        {
            "type": "function",
            "function": {
                "name": "weather",
                "description": "The weather in a city.",
                "parameters": WEATHER.parameters,
            },
        }
    ]
    assert request["messages"] == [
        {"role": "user", "content": "Is it warm in Rome?"},
        {
            "role": "assistant",
            "content": "I look it up.",
            "tool_calls": [
                {
                    "id": "call00000",
                    "type": "function",
                    "function": {"name": "weather", "arguments": '{"city": "Rome"}'},
                },
                {
                    "id": "call00001",
                    "type": "function",
                    "function": {"name": "weather", "arguments": '{"city": "Oslo"}'},
                },
            ],
        },
        {"role": "tool", "tool_call_id": "call00000", "content": "29 degrees"},
        {"role": "tool", "tool_call_id": "call00001", "content": "2 degrees"},
    ]


def test_without_tools_the_style_openai_sends_none(server: Server) -> None:
    server.replies = [says("Yes.")]
    ask(server, Conversation(QUESTION.turns), "openai")
    assert "tools" not in server.requests[0]


def test_calls_and_observations_need_not_match() -> None:
    turns = (
        Turn("user", "Rome and Oslo?"),
        Turn("assistant", CALLED),
        Turn("observation", "29 degrees"),
        Turn("user", "And now?"),
        Turn("assistant", json_calls("", [ROME])),
        Turn("observation", "30 degrees"),
        Turn("observation", "31 degrees"),
        Turn("user", "So?"),
    )
    assert [(message["role"], message["content"]) for message in as_messages(Conversation(turns, (WEATHER,)))] == [
        ("user", "Rome and Oslo?"),
        ("assistant", "I look it up."),
        ("tool", "29 degrees"),
        ("tool", "No result."),
        ("user", "And now?"),
        ("assistant", ""),
        ("tool", "30 degrees"),
        ("user", "Observation: 31 degrees\nSo?"),
    ]


@pytest.mark.parametrize("call", [ToolCall("weather", "{city: Rome}"), ToolCall("search web", {"city": "Rome"})])
def test_a_past_call_that_servers_would_refuse_stays_text(call: ToolCall) -> None:
    text = json_calls("I look it up.", [call])
    turns = (*QUESTION.turns, Turn("assistant", text), Turn("observation", "Error: there is no such call."))
    assert as_messages(Conversation(turns, (WEATHER,)))[1:] == [
        {"role": "assistant", "content": text},
        {"role": "user", "content": "Observation: Error: there is no such call."},
    ]


@given(
    st.lists(
        st.sampled_from(
            [Turn("user", "So?"), Turn("observation", "warm"), Turn("assistant", "Yes."), Turn("assistant", CALLED)]
        )
    )
)
def test_every_request_keeps_the_rules_of_the_api(turns: list[Turn]) -> None:
    messages = as_messages(Conversation((*turns, Turn("user", "Well?")), (WEATHER,)))
    called = [call["id"] for message in messages for call in message.get("tool_calls", ())]
    assert [message["tool_call_id"] for message in messages if message["role"] == "tool"] == called
    for message, following in pairwise(messages):
        assert message["role"] != following["role"] or message["role"] == "tool"
        if message.get("tool_calls"):
            assert following["role"] == "tool"
        if following["role"] == "tool":
            assert message["role"] == "tool" or message.get("tool_calls")


def test_a_reply_streams_in_pieces(server: Server) -> None:
    server.replies = [says("It ", "is", " warm.")]
    generation = Endpoint(server.url, None, "react").ask(QUESTION, GREEDY, threading.Event())
    assert list(generation) == ["It ", "is", " warm."]
    assert (generation.is_cut, generation.ahead) == (False, 0)


def test_a_piece_is_there_before_the_next_one_is_written(server: Server) -> None:
    server.replies = [Reply([delta(content="It "), SILENCE])]
    assert next(iter(Endpoint(server.url, None, "react").ask(QUESTION, GREEDY, threading.Event()))) == "It "


def test_a_reply_at_the_limit_is_cut(server: Server) -> None:
    server.replies = [says("It is", finish="length")]
    generation = Endpoint(server.url, None, "react").ask(QUESTION, GREEDY, threading.Event())
    assert list(generation) == ["It is"]
    assert generation.is_cut


def test_reasoning_that_is_sent_apart_is_left_out(server: Server) -> None:
    server.replies = [Reply([delta(reasoning_content="Hm."), delta(content="Yes."), delta("stop")])]
    assert ask(server) == "Yes."


def test_a_last_chunk_may_lack_its_delta(server: Server) -> None:
    server.replies = [Reply([delta(content="Yes."), {"choices": [{"index": 0, "finish_reason": "stop"}]}])]
    assert ask(server) == "Yes."


def test_the_prompt_tells_what_was_sent_and_its_tokens(server: Server) -> None:
    reply = says("Yes.")
    server.replies = [Reply([*reply.events, {"choices": [], "usage": {"prompt_tokens": 42}}])]
    turns = (Turn("system", "Be brief."), *QUESTION.turns, Turn("assistant", CALLED), Turn("observation", "warm"))
    generation = Endpoint(server.url, None, "openai").ask(Conversation(turns, (WEATHER,)), GREEDY, threading.Event())
    assert generation.prompt.tokens is None
    list(generation)
    assert generation.prompt.tokens == 42
    assert [owner for owner, _ in generation.prompt.pieces] == [
        "template",
        "system",
        "user",
        "assistant",
        "observation",
        "observation",
    ]
    assert '"The weather in a city."' in generation.prompt.text
    assert "Is it warm in Rome?\nI look it up.\n{" in generation.prompt.text


def test_a_server_that_does_not_know_stream_options_is_asked_without(server: Server) -> None:
    server.knows_stream_options = False
    server.replies = [says("Yes."), says("No.")]
    model = Endpoint(server.url, None, "react")
    for _ in range(2):
        list(model.ask(QUESTION, GREEDY, threading.Event()))
    assert len(server.paths) == 1 + 2 + 1  # the list, refused and asked again, asked
    assert all("stream_options" not in request for request in server.requests)


@pytest.mark.parametrize("style", ["react", "json", "openai"])
def test_native_calls_come_back_as_text_that_the_parser_reads(server: Server, style: ChatStyle) -> None:
    events = [
        delta(content="I look it up."),
        call_piece(0, "a", "weather", ""),
        call_piece(0, None, None, '{"city": '),
        call_piece(1, "b", "weather", '{"city": "Oslo"}'),
        call_piece(0, None, None, '"Rome"}'),
        delta("tool_calls"),
    ]
    server.replies = [Reply(events)]
    text = ask(server, style=style)
    assert text == CALLED
    assert parse_reply(text, (WEATHER,)).calls == (ROME, OSLO)


def test_calls_that_all_have_index_0_are_told_apart_by_their_ids(server: Server) -> None:
    events = [call_piece(0, id, "weather", json.dumps(call.arguments)) for id, call in (("a", ROME), ("b", OSLO))]
    server.replies = [Reply([*events, delta("stop")])]
    assert parse_reply(ask(server), (WEATHER,)).calls == (ROME, OSLO)


def test_a_name_that_comes_with_every_piece_is_one_name(server: Server) -> None:
    events = [call_piece(0, "a", "weather", '{"city": '), call_piece(0, "a", "weather", '"Rome"}')]
    server.replies = [Reply([*events, delta("tool_calls")])]
    assert parse_reply(ask(server), (WEATHER,)).calls == (ROME,)


def test_a_call_without_arguments_has_none(server: Server) -> None:
    server.replies = [Reply([call_piece(0, "a", "weather", ""), delta("tool_calls")])]
    assert parse_reply(ask(server), (WEATHER,)).calls == (ToolCall("weather"),)


@pytest.mark.parametrize("arguments", ['{"city": "Ro', "{city: Rome}", '{"city": ' * 10_000])
def test_arguments_that_are_no_json_come_through_as_malformed(server: Server, arguments: str) -> None:
    server.replies = [Reply([call_piece(0, "a", "weather", arguments), delta("length")])]
    reply = parse_reply(ask(server), (WEATHER,))
    assert reply.calls == (ToolCall("weather", arguments.strip()),)
    assert reply.problems


@pytest.mark.parametrize("arguments", ["Rome", '["Rome"]', '"Rome"', "7", "[" * 100_000])
def test_arguments_that_are_no_json_object_stay_the_text_that_they_are(server: Server, arguments: str) -> None:
    server.replies = [Reply([call_piece(0, "a", "weather", arguments), delta("tool_calls")])]
    assert ask(server) == json_calls("", [ToolCall("weather", arguments)])


def test_a_call_survives_however_it_is_cut_into_pieces(server: Server) -> None:
    model = Endpoint(server.url, None, "react")

    @settings(max_examples=30, deadline=None)
    @given(arguments=st.dictionaries(st.text(), st.text() | st.integers() | st.lists(st.text())), data=st.data())
    def check(arguments: dict[str, Any], data: st.DataObject) -> None:
        text = json.dumps(arguments)
        cuts = sorted({0, len(text), *data.draw(st.lists(st.integers(0, len(text))))})
        events = [call_piece(0, "a", "weather")] + [call_piece(0, arguments=text[i:j]) for i, j in pairwise(cuts)]
        server.replies = [Reply([*events, delta("tool_calls")])]
        reply = "".join(model.ask(QUESTION, GREEDY, threading.Event()))
        assert parse_reply(reply, (WEATHER,)).calls == (ToolCall("weather", arguments),)

    check()


@pytest.mark.parametrize(
    "events", [[SILENCE], [delta(content="It "), SILENCE]], ids=["before the first token", "after"]
)
def test_stop_closes_the_connection_at_once(server: Server, events: list[Any]) -> None:
    server.replies = [Reply(events)]
    stop = threading.Event()
    generation = Endpoint(server.url, None, "react").ask(QUESTION, GREEDY, stop)
    threading.Thread(target=lambda: (server.arrived.wait(5), time.sleep(0.1), stop.set())).start()
    begin = time.monotonic()
    assert "".join(generation) == "It " * (len(events) - 1)
    assert server.hung_up.wait(1)
    assert time.monotonic() - begin < 2
    assert not generation.is_cut


def test_leaving_the_iteration_closes_the_connection(server: Server) -> None:
    server.replies = [Reply([delta(content="It "), SILENCE])]
    for _ in Endpoint(server.url, None, "react").ask(QUESTION, GREEDY, threading.Event()):
        break
    assert server.hung_up.wait(1)


def test_replies_can_be_read_side_by_side(server: Server) -> None:
    server.replies = [says("one ", "two") for _ in range(8)]
    model, texts = Endpoint(server.url, None, "react"), []
    threads = [
        threading.Thread(target=lambda: texts.append("".join(model.ask(QUESTION, GREEDY, threading.Event()))))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert texts == ["one two"] * 8


@pytest.mark.parametrize(
    ("reply", "message", "hint"),
    [
        (
            Reply(status=400, body={"error": {"message": "This exceeds the context size."}}),
            "answers 400: This exceeds the context size.",
            "Begin a new conversation",
        ),
        (Reply(status=400, body={"detail": "Pinned to another model."}), "answers 400: Pinned to another model.", ""),
        (Reply(status=400, body={"error": "Input is too long."}), "answers 400: Input is too long.", ""),
        (
            Reply(status=422, body={"detail": [{"loc": ["body", "top_p"], "msg": "Too large."}]}),
            'answers 422: [{"loc": ["body", "top_p"], "msg": "Too large."}]',
            "",
        ),
        (Reply(status=404, body={"error": {"message": "No such model."}}), "answers 404: No such model.", "--model"),
        (
            Reply(status=502, body="<html><h1>Bad Gateway</h1></html>", headers={"x-should-retry": "false"}),
            "answers 502: Bad Gateway",
            "own log",
        ),
        (Reply([delta(content="It "), {"error": {"message": "Out of memory."}}]), "says: Out of memory.", ""),
        (Reply([delta(content="It "), {"error": "Worker died."}]), "says: Worker died.", ""),
        (Reply([delta(content="It ")]), "broke off its reply.", ""),
        (Reply(["{no JSON"]), "does not answer in JSON.", ""),
    ],
)
def test_a_failing_server_speaks_for_itself(server: Server, reply: Reply, message: str, hint: str) -> None:
    server.replies = [reply]
    error = error_of(lambda: ask(server))
    assert error.message == f"The server at {server.url} {message}"
    assert hint in error.hint


def test_a_connection_that_breaks_in_mid_stream_is_told(server: Server) -> None:
    server.replies = [Reply([delta(content="It "), BREAK_OFF])]
    assert error_of(lambda: ask(server)).message.startswith(f"The connection to {server.url} failed: ")


def test_a_server_that_falls_silent_is_told(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reply, "SILENCE_S", 0.2)
    server.replies = [Reply([delta(content="It "), SILENCE])]
    assert error_of(lambda: ask(server)).message == f"The server at {server.url} did not answer in time."


def test_a_busy_server_is_asked_again(server: Server) -> None:
    busy = Reply(status=429, body={"error": {"message": "Busy."}}, headers={"retry-after-ms": "1"})
    server.replies = [busy, says("Yes.")]
    assert ask(server) == "Yes."


TINY = Path(__file__).parent.parent / "flanlite" / "tiny" / "base"


@pytest.fixture(scope="module")
def transformers_serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a real server, `transformers serve`, with the embedded base model."""
    for package in ("fastapi", "uvicorn"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is missing: pip install 'transformers[serving]'")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("serve")
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(TINY)]
    options = ["--device", "cpu", "--host", "127.0.0.1", "--port", str(port)]
    # One thread is the fastest for a model this small, and does not wait for cores that other work has.
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hub"), "OMP_NUM_THREADS": "1"}
    log = folder / "log"
    with log.open("w") as output:
        process = subprocess.Popen(command + options, env=environment, stdout=output, stderr=subprocess.STDOUT)
    try:
        _wait_for(f"http://127.0.0.1:{port}", process, log)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(300):
        assert process.poll() is None, log.read_text()
        try:
            return httpx.get(f"{url}/health").raise_for_status() and None
        except httpx.TransportError:
            time.sleep(0.1)
    pytest.fail(f"transformers serve did not begin in 30 s: {log.read_text()}")


def test_a_real_server_answers_a_question_with_tools(transformers_serve: str) -> None:
    model = Endpoint(transformers_serve, str(TINY), "react")
    fields = {"type": "string", "enum": ["capital", "continent", "currency", "language"]}
    properties = {"country": {"type": "string"}, "field": fields}
    tool = Tool(
        "country_info", "Look up a fact about a country.", {"properties": properties, "required": [*properties]}
    )
    question = Conversation((Turn("user", "What is the capital of Kenya?"),), (tool,))
    generation = model.ask(question, GREEDY, threading.Event())
    pieces = list(generation)
    assert len(pieces) > 5
    assert "country_info" in "".join(pieces)
    assert generation.prompt.tokens is not None
    assert not generation.is_cut


def test_a_real_server_is_stopped_and_still_answers(transformers_serve: str) -> None:
    model = Endpoint(transformers_serve, str(TINY), "openai")
    greeting = Conversation((Turn("user", "How are you today?"),))
    stop = threading.Event()
    stopped = []
    for piece in model.ask(greeting, GREEDY, stop):
        stopped.append(piece)
        stop.set()
    assert len(stopped) == 1
    assert "I am fine" in "".join(model.ask(greeting, GREEDY, threading.Event()))
    cut = model.ask(greeting, Sampling(max_new_tokens=3), threading.Event())
    assert list(cut)
    assert cut.is_cut


def test_a_real_server_refuses_in_its_own_words(transformers_serve: str) -> None:
    model = Endpoint(transformers_serve, "another", "react")
    error = error_of(lambda: list(model.ask(QUESTION, GREEDY, threading.Event())))
    assert "Server is pinned to" in error.message


def test_what_no_longer_fits_the_servers_context_is_left_out_whole(server: Server) -> None:
    refusal = Reply(status=400, body={"error": {"message": "This exceeds the context size."}})
    server.replies = [refusal, refusal, says("Fine.")]
    turns = [Turn("system", "Be kind.")]
    for number in range(3):
        turns += [Turn("user", f"Question {number}"), Turn("assistant", f"Answer {number}")]
    turns.append(Turn("user", "Last"))
    asked = Endpoint(server.url, None, "react").ask(Conversation(tuple(turns)), GREEDY, threading.Event())
    assert "".join(asked) == "Fine."
    assert asked.prompt.dropped_turns == 4
    sent = [message["content"] for message in server.requests[-1]["messages"]]
    assert sent == ["Be kind.", "Question 2", "Answer 2", "Last"]


def test_an_evaluation_leaves_nothing_out(server: Server) -> None:
    server.replies = [Reply(status=400, body={"error": {"message": "This exceeds the context size."}})]
    turns = (Turn("user", "One"), Turn("assistant", "Two"), Turn("user", "Three"))
    assert list(Endpoint(server.url, None, "react").answer_all([Conversation(turns)], 8)) == [(0, None)]
    assert len(server.requests) == 1

"""Tools of MCP servers: real ones, started here or on a port of this machine, that answer, fail, cling and die."""

import json
import os
import shlex
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from scripted_model import ScriptedModel

from flanlite.agent import mcp as mcp_tools
from flanlite.agent.events import Exchange
from flanlite.agent.loop import Settings, work
from flanlite.agent.mcp import McpServer
from flanlite.agent.tools import Toolbox
from flanlite.conversation import ToolCall
from flanlite.errors import FlanliteError

pytest.importorskip("mcp")

PROGRAM = Path(__file__).parent / "mcp_server.py"
COMMAND = shlex.join([sys.executable, str(PROGRAM)])
GONE = ("failed", "Error: The MCP server arithmetic has ended.")


def python(code: str) -> str:
    return shlex.join([sys.executable, "-c", code])


def call(server: McpServer, name: str, /, **arguments: Any) -> tuple[str, str]:
    outcome = Toolbox(server.tools).call(ToolCall(name, arguments), threading.Event())
    return outcome.status, outcome.text


def is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture(scope="module")
def started() -> Iterator[McpServer]:
    with McpServer(COMMAND) as server:
        yield server


@pytest.fixture(params=["stdio", "streamable-http", "sse"])
def server(request: pytest.FixtureRequest) -> Iterator[McpServer]:
    if request.param == "stdio":
        yield request.getfixturevalue("started")
        return
    with (
        served(request.param) as port,
        McpServer(f"http://127.0.0.1:{port}/{'sse' if request.param == 'sse' else 'mcp'}") as server,
    ):
        yield server


@contextmanager
def served(transport: str) -> Iterator[int]:
    """The port of this machine where the server answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([sys.executable, str(PROGRAM), transport, str(port)])
    try:
        wait_for(port)
        yield port
    finally:
        process.kill()
        process.wait()


def wait_for(port: int) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise TimeoutError


def test_a_servers_tools_are_offered_and_answer(server: McpServer) -> None:
    assert server.name == "arithmetic"
    assert {bound.origin for bound in server.tools} == {"arithmetic"}
    add = server.tools[0].tool
    assert (add.name, add.description, sorted(add.parameters["properties"])) == ("add", "Add two numbers.", ["a", "b"])
    assert call(server, "add", a=1, b=2) == ("done", "3")
    assert call(server, "add", a=1)[0] == "malformed"
    assert server.problems == []
    assert call(server, "divide", a=1, b=0) == ("failed", "Error: A division by zero has no result.")


def test_a_result_is_told_as_text(started: McpServer) -> None:
    assert call(started, "divide", a=1, b=2) == ("done", '{"quotient": 0.5}')
    assert call(started, "draw") == ("done", "Here it is.\n[image image/png, 12 kB]\nA white square.")


def test_calls_come_from_many_threads_and_do_not_wait_for_each_other(started: McpServer) -> None:
    told: list[tuple[str, str]] = []
    threads = [threading.Thread(target=lambda: told.append(call(started, "wait", seconds=0.5))) for _ in range(8)]
    begun = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert told == [("done", "I have waited.")] * 8
    assert time.monotonic() - begun < 3


def test_a_slow_call_ends_and_the_server_goes_on(started: McpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mcp_tools, "TIMEOUT_S", 0.2)
    assert call(started, "wait", seconds=2) == ("failed", "Error: wait took longer than 0.2 seconds.")
    assert call(started, "add", a=1, b=2) == ("done", "3")


def test_a_server_that_dies_fails_its_calls_with_a_sentence() -> None:
    with McpServer(COMMAND) as server:
        assert call(server, "leave") == GONE
        assert call(server, "add", a=1, b=2) == GONE


def test_closing_ends_the_process_and_the_calls_that_run() -> None:
    server = McpServer(COMMAND)
    process = int(call(server, "process")[1])
    told: list[tuple[str, str]] = []
    waiting = threading.Thread(target=lambda: told.append(call(server, "wait", seconds=30)))
    waiting.start()
    time.sleep(0.2)
    server.close()
    waiting.join()
    assert told == [GONE]
    assert not is_running(process)
    assert call(server, "add", a=1, b=2) == GONE
    server.close()


def test_a_server_that_clings_ends_with_the_program() -> None:
    program = f"""
import threading
from flanlite.agent.mcp import McpServer
tools = {{bound.tool.name: bound for bound in McpServer({COMMAND!r}).tools}}
print(tools["process"].run({{}}), tools["cling"].run({{}}))
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    process, said = run.stdout.split(maxsplit=1)
    assert (said, run.stderr, run.returncode) == ("I stay.\n", "", 0)
    assert not is_running(int(process))


@pytest.mark.parametrize(
    ("spec", "message", "hint"),
    [
        ("no-such-command --fast", "There is no command no-such-command.", "Install it"),
        (python("import sys; sys.exit('No key.')"), "ended before it answered.", "It said: No key."),
        (python("print('Hello')"), "ended before it answered.", "Run it by itself"),
        ("cat", "does not answer as MCP servers do: Method not found.", "Run it by itself"),
        ("python 'x", "The MCP server's command cannot be read: No closing quotation.", "Close its quotes."),
        (" ", "The MCP server has no command.", "Give a command line or a URL."),
        ("http://127.0.0.1:9/mcp", "cannot be reached: All connection attempts failed.", "Check the address"),
    ],
)
def test_what_is_no_mcp_server_is_refused_in_a_sentence(spec: str, message: str, hint: str) -> None:
    with pytest.raises(FlanliteError) as caught:
        McpServer(spec)
    assert caught.value.message.endswith(message)
    assert caught.value.hint.startswith(hint)


@pytest.mark.parametrize(
    ("spec", "shown"),
    [
        ("env API_KEY=sekret false --fast", "env API_KEY=... false --fast ended"),
        ("http://me:sekret@127.0.0.1:9/mcp?key=sekret", "http://...@127.0.0.1:9/mcp?key=... cannot be reached"),
        ("http://me:sek@se/kret@127.0.0.1:9/mcp", "http://...@127.0.0.1:9/mcp "),
        ("false --api-token sekret --fast", "false --api-token ... --fast ended"),
        ("false -H 'Authorization: Bearer sekret'", "false -H Authorization:... ended"),
        ("false -H 'X-Key: sekret'", "false -H X-Key: ... ended"),
        ("env API_KEY='sekret", "The MCP server's command cannot be read"),
    ],
)
def test_a_secret_that_a_server_is_given_is_not_told(spec: str, shown: str) -> None:
    with pytest.raises(FlanliteError) as caught:
        McpServer(spec)
    assert caught.value.message.startswith(shown)
    assert "sekret" not in caught.value.message


def test_a_server_without_a_name_is_called_by_its_host_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mcp.Client.server_info", None)
    with served("streamable-http") as port, McpServer(f"http://me:sekret@127.0.0.1:{port}/mcp") as server:
        assert server.name == f"127.0.0.1:{port}"


def test_a_silent_server_is_given_up_and_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mcp_tools, "START_S", 0.5)
    note = tmp_path / "process"
    silent = f"import os, pathlib, time; pathlib.Path({str(note)!r}).write_text(str(os.getpid())); time.sleep(60)"
    with pytest.raises(FlanliteError, match=r"did not answer within 0\.5 seconds\."):
        McpServer(python(silent))
    assert not is_running(int(note.read_text()))


def test_without_the_package_the_way_to_install_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mcp", None)
    with pytest.raises(FlanliteError) as caught:
        McpServer(COMMAND)
    assert caught.value.hint == "pip install -e '.[mcp]'"


RAW_SERVER = """
import json, sys
tools = [{"name": name, "inputSchema": schema} for name, schema in json.loads(sys.argv[1]).items()]
about = {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}}, "serverInfo": {"name": "raw", "version": "1"}}
results = {"initialize": about, "tools/list": {"tools": tools}, "tools/call": {"content": []}}
for line in sys.stdin:
    request = json.loads(line)
    if request.get("method") in results:
        print(json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": results[request["method"]]}), flush=True)
    elif "id" in request:
        error = {"code": -32601, "message": "Method not found."}
        print(json.dumps({"jsonrpc": "2.0", "id": request["id"], "error": error}), flush=True)
"""


def test_a_tool_with_a_broken_schema_is_left_out_and_named() -> None:
    schemas = {
        "fine": {"type": "object", "properties": {"a": {"enum": [5]}}},
        "odd": {"type": "object", "properties": {"a": {"enum": 5}}},
        "nested": {"type": "object", "properties": {"a": {"type": "array", "items": [{}]}}},
    }
    with McpServer(f"{python(RAW_SERVER)} {shlex.quote(json.dumps(schemas))}") as server:
        assert [bound.tool.name for bound in server.tools] == ["fine"]
        assert server.problems == [
            "The tool odd of raw is left out, for its schema is broken: "
            "5 is not of type 'array', at properties.a.enum.",
            "The tool nested of raw is left out, for its schema is broken: "
            "[{}] is not of type 'object', 'boolean', at properties.a.items.",
        ]
        assert call(server, "fine", a=5) == ("done", "(no result)")


def test_a_chat_uses_a_servers_tool(started: McpServer) -> None:
    model = ScriptedModel('Action: add\nAction Input: {"a": 2, "b": 3}', "It is 5.")
    exchange = Exchange("2 + 3?")
    for event in work(model, Toolbox(started.tools), (), "2 + 3?", Settings(), threading.Event()):
        exchange = exchange.with_event(event)
    assert [call.status for call in exchange.calls()] == ["done"]
    assert model.asked[1].turns[-1].text == "5"
    assert exchange.answer == "It is 5."

"""A small OpenAI-compatible server on loopback: the model list, and chat completions that stream what a test scripts.

It records every request, and can refuse, fall silent, break off, and tell when its client hung up.
"""

import json
import select
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SILENCE = "silence"
"""In a reply: say nothing more until the client hangs up."""

BREAK_OFF = "break off"
"""In a reply: close the connection in the middle of the stream."""


@dataclass(frozen=True)
class Reply:
    """What is answered to one request: the events of a stream, or a status with a body."""

    events: Sequence[Mapping[str, Any] | str] = ()  # chunks, SILENCE, BREAK_OFF, or an event's data as it is
    status: int = 200
    body: object = None  # JSON; a str is sent as an HTML page
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Server:
    url: str = ""  # with /v1
    models: object = field(default_factory=lambda: {"data": [{"id": "small"}]})
    models_status: int = 200
    replies: list[Reply] = field(default_factory=list)  # one for each request, in order
    knows_stream_options: bool = True
    requests: list[dict[str, Any]] = field(default_factory=list)  # the bodies of chat completions
    headers: list[Mapping[str, str]] = field(default_factory=list)  # of every request
    paths: list[str] = field(default_factory=list)  # of every request
    arrived: threading.Event = field(default_factory=threading.Event)  # a chat completion is asked for
    hung_up: threading.Event = field(default_factory=threading.Event)  # the client closed during SILENCE

    @property
    def root(self) -> str:
        """The URL without /v1."""
        return self.url.removesuffix("/v1")


def delta(finish: str | None = None, **fields: object) -> dict[str, Any]:
    """One chunk with these fields in its delta."""
    return {"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": fields, "finish_reason": finish}]}


def says(*pieces: str, finish: str = "stop") -> Reply:
    """A reply of these pieces."""
    return Reply([delta(role="assistant"), *(delta(content=piece) for piece in pieces), delta(finish)])


def call_piece(index: int | None, id: str | None = None, name: str | None = None, arguments: str | None = None) -> Any:
    """One chunk with a piece of a native tool call."""
    return delta(tool_calls=[{"index": index, "id": id, "function": {"name": name, "arguments": arguments}}])


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server_state: Server

    def log_message(self, format: str, *args: object) -> None:
        """Keep the test's output clean."""

    def do_GET(self) -> None:
        self._record()
        if self.path != "/v1/models":
            return self._send(404, {"detail": "Not Found"})
        return self._send(self.server_state.models_status, self.server_state.models)

    def do_POST(self) -> None:
        self._record()
        state = self.server_state
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path != "/v1/chat/completions":
            return self._send(404, {"detail": "Not Found"})
        if not state.knows_stream_options and "stream_options" in request:
            return self._send(422, {"detail": [{"loc": ["body", "stream_options"], "msg": "Extra inputs"}]})
        state.requests.append(request)
        state.arrived.set()
        reply = state.replies.pop(0)
        return (
            self._stream(reply.events) if reply.status == 200 else self._send(reply.status, reply.body, reply.headers)
        )

    def _record(self) -> None:
        self.server_state.paths.append(self.path)
        self.server_state.headers.append({name.lower(): value for name, value in self.headers.items()})

    def _send(self, status: int, body: object, headers: Mapping[str, str] | None = None) -> None:
        content = (body if isinstance(body, str) else json.dumps(body)).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Type", "text/html" if isinstance(body, str) else "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _stream(self, events: Sequence[Mapping[str, Any] | str]) -> None:
        has_begun = False
        for event in (*events, "[DONE]"):
            if event == SILENCE:
                return self._wait_for_hang_up()
            if not has_begun:
                self._begin_stream()
                has_begun = True
            if event == BREAK_OFF:
                self.close_connection = True
                return None
            self._send_chunk(f"data: {event if isinstance(event, str) else json.dumps(event)}\n\n".encode())
        return self._send_chunk(b"")

    def _begin_stream(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def _send_chunk(self, content: bytes) -> None:
        self.wfile.write(b"%x\r\n%b\r\n" % (len(content), content))

    def _wait_for_hang_up(self) -> None:
        """Until the client closes its side, as a server learns that nobody reads any more; 10 s at most."""
        self.close_connection = True
        if select.select([self.connection], [], [], 10)[0] and not self.connection.recv(1, socket.MSG_PEEK):
            self.server_state.hung_up.set()


@contextmanager
def serve(**state: Any) -> Iterator[Server]:
    """A server on a free port of 127.0.0.1, until the block ends."""
    server_state = Server(**state)
    handler = type("Handler", (_Handler,), {"server_state": server_state})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    server_state.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server_state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

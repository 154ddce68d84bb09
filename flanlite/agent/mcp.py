"""Tools of MCP servers: programs that are started here and talk over stdin and stdout, or services at a URL.

The `mcp` package is asynchronous and the agent is not, so each server has an event loop of its own, in a thread.
"""

from __future__ import annotations

import asyncio
import atexit
import json
import logging
import math
import re
import shlex
import tempfile
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

import anyio

from flanlite.agent.arguments import problem_with_schema
from flanlite.agent.tools import NO_RESULT, TIMEOUT_S, BoundTool
from flanlite.conversation import Tool
from flanlite.errors import FlanliteError
from flanlite.hub import in_words

if TYPE_CHECKING:
    import mcp
    import mcp_types

START_S = 20.0
CLOSE_S = 10.0

SECRETS = re.compile(r"(?<==).+|(?<=//)[^?#]+(?=@)|(?<=: ).+|(?<=authorization:).+", re.DOTALL | re.IGNORECASE)
"""What a word of a command or a URL may hide: a value behind `NAME=` or `Header: `, name and password before a host."""

SECRET_OPTION = re.compile(r"-[^=]*(?:key|token|secret|passw|auth|bearer)[^=]*", re.IGNORECASE)
"""An option whose value, the next word, is hidden as a whole."""

# What goes wrong is said by the errors; without a handler, Python would print the package's log beside them.
logging.getLogger("mcp").addHandler(logging.NullHandler())
logging.getLogger("client").addHandler(logging.NullHandler())


class McpServer:
    """An MCP server that runs, or is reached, until `close`; its tools may be called from any thread.

    `spec` is a URL (streamable HTTP, or the older SSE) or a command line, which is run without a shell. The command
    gets PATH, HOME and the like of the environment and no secrets: give it those by `env NAME=value command`. A tool
    whose schema is broken is left out, with a sentence in `problems`. Raises FlanliteError where there is no MCP server
    within 20 seconds.
    """

    name: str
    tools: list[BoundTool]
    problems: list[str]

    def __init__(self, spec: str) -> None:
        try:
            from mcp import Client  # noqa: F401  # version 1 has none
        except ImportError as error:
            raise FlanliteError(
                "MCP servers need the mcp package, version 2 or newer.", "pip install -e '.[mcp]'"
            ) from error
        self._spec = spec
        self._command = [] if spec.startswith(("http://", "https://")) else _split(spec)
        self._shown = _without_secrets(self._command or [spec])
        # Opened to append, so that reading it does not move the place where the server writes.
        self._stderr = tempfile.TemporaryFile("a+", encoding="utf-8", errors="replace")  # noqa: SIM115
        self._loop = asyncio.new_event_loop()
        self._scope: Future[anyio.CancelScope] = Future()
        self._is_ready: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name=f"MCP server {self._shown}", daemon=True)
        self._thread.start()
        atexit.register(self.close)
        try:
            self._is_ready.result()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the connection, and the server's process if it was started here, by force if need be."""
        atexit.unregister(self.close)
        with suppress(RuntimeError):  # the loop has ended by itself, with the server
            self._loop.call_soon_threadsafe(self._scope.result().cancel)
        self._thread.join(CLOSE_S)
        self._stderr.close()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        """Hold the connection open; whatever ends it before the tools are known is told to `__init__`."""
        failure: BaseException = TimeoutError()
        with anyio.CancelScope(deadline=anyio.current_time() + START_S) as scope:
            self._scope.set_result(scope)
            try:
                await self._connect()
            except Exception as error:
                failure = error
        # After that, calls fail with a sentence of their own.
        if not self._is_ready.done():
            self._is_ready.set_exception(self._explained(failure))

    async def _connect(self) -> None:
        from mcp import Client, StdioServerParameters
        from mcp.client.sse import sse_client
        from mcp.client.stdio import stdio_client

        if self._command:
            parameters = StdioServerParameters(command=self._command[0], args=self._command[1:])
            return await self._use(Client(stdio_client(parameters, errlog=self._stderr)))
        try:
            await self._use(Client(self._spec))
        except Exception:
            if self._is_ready.done():
                raise
            await self._use(Client(sse_client(self._spec)))

    async def _use(self, client: mcp.Client) -> None:
        async with client:
            listed = await client.list_tools()
            tools = listed.tools
            while listed.next_cursor:
                listed = await client.list_tools(cursor=listed.next_cursor)
                tools += listed.tools
            self._client = client
            self.name = client.server_info.name if client.server_info else self._place()
            broken = {tool.name: problem for tool in tools if (problem := problem_with_schema(tool.input_schema))}
            self.tools = [self._bound(tool) for tool in tools if tool.name not in broken]
            self.problems = [
                f"The tool {name} of {self.name} is left out, for its schema is broken: {problem}."
                for name, problem in broken.items()
            ]
            self._scope.result().deadline = math.inf
            self._is_ready.set_result(None)
            await anyio.sleep_forever()

    def _place(self) -> str:
        return Path(self._command[0]).name if self._command else urlsplit(self._shown).netloc.rpartition("@")[2]

    def _bound(self, tool: mcp_types.Tool) -> BoundTool:
        return BoundTool(
            Tool(tool.name, tool.description or "", tool.input_schema),
            lambda arguments: self._call(tool.name, arguments),
            self.name,
        )

    def _call(self, tool: str, arguments: Mapping[str, Any]) -> str:
        from mcp import MCPError
        from mcp_types import CONNECTION_CLOSED, REQUEST_TIMEOUT

        gone = f"The MCP server {self.name} has ended."
        problems = {CONNECTION_CLOSED: gone, REQUEST_TIMEOUT: f"{tool} took longer than {TIMEOUT_S:g} seconds."}
        if not self._thread.is_alive():
            raise ValueError(gone)
        request = self._client.call_tool(tool, dict(arguments), read_timeout_seconds=TIMEOUT_S)
        try:
            result = asyncio.run_coroutine_threadsafe(request, self._loop).result(TIMEOUT_S + 1)
        except CancelledError as error:
            raise ValueError(gone) from error
        except MCPError as error:
            raise ValueError(problems.get(error.code, str(error))) from error
        text = _as_text(result)
        if result.is_error:
            raise ValueError(text)
        return text

    def _explained(self, failure: BaseException) -> FlanliteError:
        import httpx2
        from mcp import MCPError
        from mcp_types import CONNECTION_CLOSED

        while isinstance(failure, BaseExceptionGroup):
            failure = failure.exceptions[0]
        if isinstance(failure, FileNotFoundError):
            return FlanliteError(f"There is no command {self._command[0]}.", "Install it, or give its whole path.")
        if isinstance(failure, TimeoutError):
            problem = f"did not answer within {START_S:g} seconds"
        elif isinstance(failure, OSError):
            problem = f"cannot be started: {failure.strerror}"
        elif isinstance(failure, httpx2.TransportError):
            problem = f"cannot be reached: {failure}"
        elif isinstance(failure, MCPError) and failure.code == CONNECTION_CLOSED:
            problem = "ended before it answered"
        else:
            said = next(iter(str(failure).splitlines()), "").replace(self._spec, self._shown)
            problem = f"does not answer as MCP servers do: {said}"
        return FlanliteError(f"{self._shown} {problem.rstrip('.')}.", self._hint())

    def _hint(self) -> str:
        if not self._command:
            return "Check the address; many servers want /mcp or /sse at its end."
        self._stderr.seek(0)
        said = [line.strip() for line in self._stderr if line.strip()]
        return f"It said: {said[-1]}" if said else "Run it by itself: it must be an MCP server on stdin and stdout."


def _split(command: str) -> list[str]:
    try:
        parts = shlex.split(command)
    except ValueError as error:
        raise FlanliteError(f"The MCP server's command cannot be read: {error}.", "Close its quotes.") from error
    if not parts:
        raise FlanliteError("The MCP server has no command.", "Give a command line or a URL.")
    return parts


def _without_secrets(words: Sequence[str]) -> str:
    """The words in a line, with `...` for what they may hide."""
    return " ".join(
        "..." if SECRET_OPTION.fullmatch(before) else SECRETS.sub("...", word)
        for before, word in zip(["", *words], words, strict=False)
    )


def _as_text(result: mcp_types.CallToolResult) -> str:
    """What a result says; its parts that are no text are named, and its structure counts where it has no text."""
    texts = [_part_as_text(part) for part in result.content]
    has_text = any(part.type == "text" for part in result.content)
    if result.structured_content is not None and not has_text:
        texts.append(json.dumps(result.structured_content, ensure_ascii=False))
    return "\n".join(texts) or NO_RESULT


def _part_as_text(part: mcp_types.ContentBlock) -> str:
    match part.type:
        case "text":
            return part.text
        case "image" | "audio":
            return f"[{part.type} {part.mime_type}, {in_words(len(part.data) * 3 // 4)}]"
        case "resource":
            return getattr(part.resource, "text", f"[resource {part.resource.uri}]")
        case "resource_link":
            return f"[link to {part.uri}]"

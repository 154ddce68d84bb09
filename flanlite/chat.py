"""flanlite chat: watch the agent think, call and answer, in a browser or in the terminal."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from flanlite.agent.loop import Settings
from flanlite.agent.model import ChatModel, ChatStyle
from flanlite.agent.tools import BoundTool, Toolbox, builtin_tools, load_tools
from flanlite.errors import FlanliteError
from flanlite.terminal import say

LOOPBACKS = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Given:
    """The tools that the user gives, beside those built in."""

    files: Sequence[Path] = ()
    folder: Path | None = None
    csv: Sequence[Path] = ()
    servers: Sequence[str] = ()


@dataclass(frozen=True)
class Address:
    """Where the page is served, and to whom."""

    host: str = LOOPBACKS[0]
    port: int | None = None
    share: bool = False
    password: str | None = None
    opens_browser: bool = True


def chat(
    source: str | None,
    *,
    endpoint: str | None,
    model: str | None,
    tool_style: ChatStyle | None,
    given: Given,
    compare: bool,
    in_terminal: bool,
    address: Address,
) -> None:
    """Open the model and its tools, and chat until the user ends it."""
    _check_address(address, in_terminal=in_terminal)
    with ExitStack() as stack:
        toolbox = open_toolbox(given, stack)
        models = open_models(source, endpoint, model, tool_style, compare=compare)
        if in_terminal:
            from flanlite.terminal import console
            from flanlite.terminal_chat import TerminalChat

            TerminalChat(models, toolbox, Settings(), console).run()
        else:
            serve(models, toolbox, address)


def _check_address(address: Address, *, in_terminal: bool) -> None:
    """Raises FlanliteError, before anything is loaded, where the page could not be served so."""
    if in_terminal and address != Address(opens_browser=address.opens_browser):
        raise FlanliteError("--terminal serves no page.", "Leave out --host, --port, --share and --password.")
    if address.password == "":
        raise FlanliteError("The password is empty.", "Give one: --password WORD")
    try:
        socket.getaddrinfo(address.host, address.port)
    except OSError as error:
        raise FlanliteError(f"{address.host} is no address: {error.strerror}.", "Leave out --host.") from error


def open_toolbox(given: Given, stack: ExitStack) -> Toolbox:
    """The built-in tools and those given; the stack ends the servers that were started."""
    tools: list[BoundTool] = []
    for file in given.files:
        tools += load_tools(file)
    if given.folder:
        from flanlite.agent.files import search_text

        tools.append(search_text(given.folder))
    if given.csv:
        from flanlite.agent.files import query_csv

        tools += query_csv(given.csv)
    for spec in given.servers:
        from flanlite.agent.mcp import McpServer

        server = stack.enter_context(McpServer(spec))
        tools += server.tools
        for problem in server.problems:
            say(problem)
    return Toolbox([*builtin_tools(), *tools])


def open_models(
    source: str | None,
    endpoint: str | None,
    model: str | None,
    tool_style: ChatStyle | None,
    *,
    compare: bool,
) -> list[ChatModel]:
    """The model to chat with, or base and tuned model over one set of weights."""
    if endpoint:
        if compare or source:
            raise FlanliteError("An endpoint has one model, the server's.", "Leave out --compare and the run.")
        from flanlite.endpoint import Endpoint

        return [Endpoint(endpoint, model, tool_style or "react")]
    if model:
        raise FlanliteError("--model names a model of a server.", "Give the server too: --endpoint URL")
    from flanlite.opening import open_model

    opened = open_model(source, tool_style)
    if not compare:
        return [opened.model]
    if opened.base is None:
        raise FlanliteError(
            f"{opened.model.name} has no adapter to switch off, so there is nothing to compare.",
            "Name a run: its base is the same weights without the adapter.",
        )
    return [opened.base, opened.model]


def serve(models: Sequence[ChatModel], toolbox: Toolbox, address: Address) -> None:
    """Serve the page until Ctrl-C."""
    from flanlite.page.app import Page

    page = Page(models, toolbox, Settings())
    addresses = page.serve(**vars(address))
    for warning in warnings_for(toolbox, address):
        say(warning)
    if address.share and len(addresses) < 2:
        say("There is no public link: Gradio's servers could not be reached.")
    for url in addresses:
        say(f"Chat with {' and '.join(model.name for model in models)}: {url}   (Ctrl-C ends it)")
    page.blocks.block_thread()


def warnings_for(toolbox: Toolbox, address: Address) -> list[str]:
    """Sentences on who can reach the tools, where that is more than this machine."""
    if not address.share and address.host in LOOPBACKS:
        return []
    who = "Everybody who has the link" if address.share else f"Everybody who reaches this machine at {address.host}"
    names = ", ".join(bound.tool.name for bound in toolbox.bound if not bound.is_builtin)
    warning = f"{who} can chat with the model and make its tools run on this machine{': ' + names if names else ''}."
    return [warning] if address.password else [warning, "No password is set: --password WORD asks for one."]

"""An MCP server for the tests: on stdin and stdout, or with arguments such as `streamable-http 8000` on a port."""

import os
import signal
import sys
import threading
import time

from mcp.server import MCPServer
from mcp.types import CallToolResult, ContentBlock, EmbeddedResource, ImageContent, TextContent, TextResourceContents

server = MCPServer("arithmetic", log_level="CRITICAL")


@server.tool(structured_output=False)
def add(a: int, b: int) -> str:
    """Add two numbers."""
    return str(a + b)


@server.tool(structured_output=False)
def divide(a: float, b: float) -> CallToolResult:
    """Divide a number by another."""
    if b == 0:
        text = TextContent(text="A division by zero has no result.")
        return CallToolResult(content=[text], is_error=True)
    return CallToolResult(content=[], structured_content={"quotient": a / b})


@server.tool(structured_output=False)
def draw() -> list[ContentBlock]:
    """Draw a picture."""
    note = TextResourceContents(uri="note://1", text="A white square.")
    picture = ImageContent(data="A" * 16000, mime_type="image/png")
    return [TextContent(text="Here it is."), picture, EmbeddedResource(resource=note)]


@server.tool(structured_output=False)
def wait(seconds: float) -> str:
    """Answer after some seconds."""
    time.sleep(seconds)
    return "I have waited."


@server.tool(structured_output=False)
def process() -> str:
    """Tell the server's process id."""
    return str(os.getpid())


@server.tool(structured_output=False)
async def cling() -> str:
    """Ignore every polite request to end."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=time.sleep, args=(60,)).start()
    return "I stay."


@server.tool(structured_output=False)
def leave() -> str:
    """End the server at once."""
    os._exit(3)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        server.run(sys.argv[1], port=int(sys.argv[2]))
    else:
        server.run()

"""A small model hub on loopback: as much of the real one's HTTP interface as huggingface_hub asks for.

Repositories are dictionaries of made-up files under their real names. It answers ranges, can cut one answer in
mid-file, and refuses as the hub does: 401 or 403 with X-Error-Code GatedRepo, 401 for what does not exist.
"""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

GOOD_TOKEN = "hf_good"
LARGE_SUFFIXES = (".safetensors", ".bin", ".model", ".jsonl", ".gz")


@dataclass
class Repo:
    files: dict[str, bytes]
    gated: bool = False
    forbidden: bool = False

    def listing(self, name_key: str, oid_key: str) -> list[dict[str, object]]:
        entries: list[dict[str, object]] = []
        for name, content in self.files.items():
            entry = {name_key: name, "size": len(content), oid_key: hashlib.sha1(content).hexdigest(), "type": "file"}
            if name.endswith(LARGE_SUFFIXES):
                sha256 = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"sha256": sha256, "oid": sha256, "size": len(content), "pointerSize": 130}
            entries.append(entry)
        return entries


@dataclass
class Hub:
    endpoint: str = ""
    repos: dict[str, Repo] = field(default_factory=dict)  # by "models/org/name" or "datasets/org/name"
    requests: list[str] = field(default_factory=list)  # "GET /path", with " from N" where a range was asked for
    cut_after: dict[str, int] = field(default_factory=dict)  # file name -> bytes after which one answer breaks off
    stall: threading.Event | None = None  # set it to let a cut answer hang instead, until then
    broken: bool = False  # 503 for everything
    accepted_tokens: set[str] = field(default_factory=set)  # those that gated repositories let in

    def ranges(self) -> list[str]:
        return [request for request in self.requests if " from " in request]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    hub: Hub

    def log_message(self, format: str, *args: object) -> None:
        """Keep the test's output clean."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0])
        path = urlsplit(self.path).path
        self.hub.requests.append(f"{self.command} {path}" + (f" from {start}" if start else ""))
        if self.hub.broken:
            return self._send(503, b"")
        if path == "/":
            return self._send(200, b"hub")
        if path.startswith("/api/"):
            return self._answer_api(path.removeprefix("/api/").split("/"))
        key, _, rest = path.removeprefix("/").partition("/resolve/")
        key = key if key.startswith("datasets/") else f"models/{key}"
        repo = self._readable(key, for_files=True)
        return self._send_file(repo, key, rest.partition("/")[2], start) if repo else None

    def _answer_api(self, parts: list[str]) -> None:
        key, action = "/".join(parts[:3]), parts[3] if len(parts) > 3 else "revision"
        repo = self._readable(key, for_files=action == "auth-check")
        if repo is None:
            return None
        if action == "tree":
            return self._send_json(repo.listing("path", "oid"))
        siblings = repo.listing("rfilename", "blobId")
        return self._send_json(
            {"id": "/".join(parts[1:3]), "sha": commit(key), "siblings": siblings, "gated": repo.gated}
        )

    def _readable(self, key: str, *, for_files: bool) -> Repo | None:
        repo, token = self.hub.repos.get(key), self.headers.get("authorization", "").removeprefix("Bearer ")
        if token and token != GOOD_TOKEN:
            self._send(401, b"", {"X-Error-Message": "Invalid credentials in Authorization header"})
        elif repo is None and token:
            self._send(404, b"", {"X-Error-Code": "RepoNotFound"})
        elif repo is None:
            self._send(401, b"", {"X-Error-Message": "Invalid username or password."})
        elif repo.forbidden:
            self._send(403, b"", {"X-Error-Message": "Forbidden"})
        elif repo.gated and for_files and token not in self.hub.accepted_tokens:
            self._send(403 if token else 401, b"", {"X-Error-Code": "GatedRepo"})
        else:
            return repo
        return None

    def _send_file(self, repo: Repo, key: str, name: str, start: int) -> None:
        if name not in repo.files:
            return self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit(key)})
        content = repo.files[name]
        algorithm = "sha256" if name.endswith(LARGE_SUFFIXES) else "sha1"
        etag = f'"{hashlib.new(algorithm, content).hexdigest()}"'
        headers = {"ETag": etag, "X-Repo-Commit": commit(key), "Accept-Ranges": "bytes"}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        cut = self.hub.cut_after.pop(name, None) if self.command == "GET" else None
        return self._send(206 if start else 200, content[start:], headers, cut)

    def _send_json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None, cut: int | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[:cut])
        if cut is not None:
            self.wfile.flush()
            if self.hub.stall is not None:
                self.hub.stall.wait(20)
            self.close_connection = True


def commit(key: str) -> str:
    """The one commit of a repository."""
    return hashlib.sha1(key.encode()).hexdigest()


@contextmanager
def serve(repos: dict[str, Repo]) -> Iterator[Hub]:
    """A hub on a free port of 127.0.0.1, until the block ends."""
    hub = Hub(repos=repos)
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        if hub.stall is not None:
            hub.stall.set()
        server.shutdown()
        server.server_close()
        thread.join()

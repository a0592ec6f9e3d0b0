"""A made-up Hub on this machine, for huggingface_hub's own client: commits, listings, resumable files."""

from __future__ import annotations

import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from huggingface_hub import constants


def commit_name(number: int) -> str:
    """40 hexadecimal digits."""
    return hashlib.sha1(str(number).encode()).hexdigest()


@dataclass
class HubServer:
    """Attributes:

    repositories: name -> list of commits, the last one is the newest; a commit is path -> contents.
    cut_after: the next file is broken off after so many bytes.
    asked: method and path of every request.
    """

    repositories: dict[str, list[dict[str, bytes]]] = field(default_factory=dict)
    cut_after: int | None = None
    asked: list[str] = field(default_factory=list)
    ranges: list[str] = field(default_factory=list)

    def commits(self, repository: str) -> dict[str, dict[str, bytes]]:
        rows = self.repositories[repository]
        named = {commit_name(number): files for number, files in enumerate(rows)}
        return {**named, "main": rows[-1]}

    def newest(self, repository: str) -> str:
        return commit_name(len(self.repositories[repository]) - 1)


def handler_of(hub: HubServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *arguments: object) -> None:
            """Silence."""

        def do_HEAD(self) -> None:
            self.answer()

        def do_GET(self) -> None:
            self.answer()

        def answer(self) -> None:
            path = urlsplit(self.path).path
            hub.asked.append(f"{self.command} {path}")
            parts = path.strip("/").split("/")
            try:
                if parts[:2] == ["api", "models"]:
                    self.listing("/".join(parts[2:4]), parts[4:])
                else:
                    self.file("/".join(parts[:2]), parts[3], "/".join(parts[4:]))
            except KeyError:
                self.reply(404, b"{}", {"X-Error-Code": "EntryNotFound"})

        def listing(self, repository: str, rest: list[str]) -> None:
            if repository not in hub.repositories:
                return self.reply(404, b"{}", {"X-Error-Code": "RepoNotFound"})
            if not rest or rest[0] == "revision":
                return self.json({"id": repository, "sha": hub.newest(repository), "siblings": []})
            if rest[1] not in hub.commits(repository):
                return self.reply(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
            files = hub.commits(repository)[rest[1]]
            return self.json(
                [
                    {
                        "type": "file",
                        "path": path,
                        "oid": hashlib.sha1(content).hexdigest(),
                        "size": len(content),
                        "lfs": {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 1},
                    }
                    for path, content in files.items()
                ]
            )

        def file(self, repository: str, revision: str, path: str) -> None:
            content = hub.commits(repository)[revision][path]
            commit = hub.newest(repository) if revision == "main" else revision
            headers = {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha256(content).hexdigest()}"'}
            start, code = 0, 200
            if self.headers.get("Range"):
                hub.ranges.append(self.headers["Range"])
                start, code = int(self.headers["Range"].removeprefix("bytes=").split("-")[0]), 206
                headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            self.reply(code, content[start:], headers)

        def json(self, data: object) -> None:
            self.reply(200, json.dumps(data).encode(), {"Content-Type": "application/json"})

        def reply(self, code: int, body: bytes, headers: dict[str, str]) -> None:
            self.send_response(code)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "HEAD":
                return
            if hub.cut_after is not None and len(body) > hub.cut_after and "resolve" in self.path:
                body, hub.cut_after = body[: hub.cut_after], None
                self.close_connection = True
            self.wfile.write(body)

    return Handler


@pytest.fixture
def hub_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A running HubServer that huggingface_hub is pointed at, with an empty cache."""
    hub = HubServer()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler_of(hub))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.split("/{repo_id}", 1)[1]
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}" + template)
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf" / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    yield hub
    server.shutdown()
    server.server_close()

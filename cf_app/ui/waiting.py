"""A page that says how far a download is, at the address where the app will be; the app's own page takes its place.

Python's own server, so that there is nothing to load first: the page asks `/progress` every second, and goes to the app
once that answers there.
"""

from __future__ import annotations

import html
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from cf_app.hub import Progress

ASSETS = Path(__file__).resolve().parents[2] / "assets"
FIRST_PORT, PORTS = 7860, 100  # as Gradio has them


@contextmanager
def waiting_page(title: str, host: str | None, port: int | None) -> Iterator[Callable[[Progress], None]]:
    """Serve the page within the block; yields what has to hear of progress.

    Args:
        host, port: as for the app; None: this machine only, the first free port from 7860 on.

    Raises:
        OSError: the port is in use.
    """
    state: list[Progress] = [Progress("starting")]
    server = _bind(host or "127.0.0.1", port, _handler(title, state))
    thread = threading.Thread(target=server.serve_forever, name="cf-waiting", daemon=True)
    thread.start()
    try:
        yield lambda progress: state.__setitem__(0, progress)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # The app listens at the same port right after.
    allow_reuse_address = True


def _bind(host: str, port: int | None, handler: type[BaseHTTPRequestHandler]) -> _Server:
    ports = [port] if port is not None else range(FIRST_PORT, FIRST_PORT + PORTS)
    for number in ports:
        # With the address reusable, binding alone succeeds beside a server that listens on all addresses.
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1" if host == "0.0.0.0" else host, number)) == 0:
                continue
        try:
            return _Server((host, number), handler)
        except OSError:
            continue
    raise OSError(f"no free port among {ports[0]} to {ports[-1]}")


def _handler(title: str, state: list[Progress]) -> type[BaseHTTPRequestHandler]:
    style = (ASSETS / "app.css").read_text(encoding="utf-8")
    page = (ASSETS / "waiting.html").read_text(encoding="utf-8")
    body = page.replace("@title@", html.escape(title)).replace("@style@", style).encode()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *arguments: object) -> None:
            """Silence."""

        def do_GET(self) -> None:
            if self.path == "/progress":
                now = state[0]
                answer = json.dumps({"label": now.label, "done": now.done, "total": now.total}).encode()
                self._reply(200, answer, "application/json")
            elif self.path == "/":
                self._reply(200, body, "text/html; charset=utf-8")
            else:
                self._reply(404, b"", "text/plain")

        def _reply(self, code: int, content: bytes, kind: str) -> None:
            self.send_response(code)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            self.wfile.write(content)

    return Handler

"""Starts the app as a Space would and waits until it answers: on a CPU, and on ZeroGPU as far as that goes without one.

As a Space: no arguments, settings from variables, a fresh home without a cache, no way to the Hub. The embedded model
needs none.
"""

from __future__ import annotations

import http.server
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cf_app.space.settings import OPTIONS

PATIENCE = 900.0  # seconds; a free Space has two slow cores
_LAST_LINES = 3


def started(root: Path, *, zero_gpu: bool = False, model: str | None = None) -> str:
    """Start it, look at the page's configuration, end it. Returns what was seen.

    Args:
        zero_gpu: with CUDA as the ``spaces`` package imitates it, up to its report that the app has started.
        model: instead of the embedded one.

    Raises:
        ValueError: it ended, or did not answer, with its last words.
    """
    with tempfile.TemporaryDirectory(prefix="space-check-") as home, _scheduler() as (address, reports):
        port = _free_port()
        environment = _environment(Path(home), port, model)
        if zero_gpu:
            offload = str(Path(home) / "tensors")
            environment |= {
                "SPACES_ZERO_GPU": "true",
                "SPACES_ZERO_DEVICE_API_URL": address,
                "ZEROGPU_OFFLOAD_DIR": offload,
            }
        log = Path(home) / "log"
        with open(log, "wb") as sink:
            program = ["-m", "cf_app.space.imitation"] if zero_gpu else ["app.py"]
            command = [sys.executable, *program]
            server = subprocess.Popen(command, cwd=root, env=environment, stdout=sink, stderr=sink)
            begun = time.monotonic()
            try:
                parts = _wait(server, f"http://127.0.0.1:{port}/config", log)
            finally:
                _end(server)
        seconds = time.monotonic() - begun
        if zero_gpu and not reports:
            raise ValueError("ZeroGPU was not told that the app has started: is a function decorated with spaces.GPU?")
        return f"answers after {seconds:.0f} s, {parts} components"


def _environment(home: Path, port: int, model: str | None) -> dict[str, str]:
    own = {"GRADIO_", "HF_", "SPACE", "CF_", "ZEROGPU"}
    kept = {name: value for name, value in os.environ.items() if not any(name.startswith(start) for start in own)}
    assert not {option.variable for option in OPTIONS} & set(kept)
    said = {} if model is None else {"CF_MODEL": model}
    return (
        kept
        | said
        | {
            "HOME": str(home),
            "HF_HOME": str(home / "hub"),
            "HF_HUB_OFFLINE": "1",
            "SPACE_ID": "check/check",
            "SYSTEM": "spaces",
            "GRADIO_SERVER_NAME": "127.0.0.1",
            "GRADIO_SERVER_PORT": str(port),
            "GRADIO_ANALYTICS_ENABLED": "False",
            "GRADIO_TEMP_DIR": str(home / "gradio"),
            "PYTHONUNBUFFERED": "1",
        }
    )


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


def _wait(server: subprocess.Popen[bytes], address: str, log: Path) -> int:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(address, timeout=10) as answer:
                components = json.load(answer)["components"]
            if not any(component["props"].get("elem_id") == "cf-player" for component in components):
                raise ValueError("it answers, but its page has no player")
            return len(components)
        except (urllib.error.URLError, OSError) as error:
            if server.poll() is not None:
                raise ValueError(f"it ended with code {server.returncode}: {_words(log)}") from error
            time.sleep(0.3)
    raise ValueError(f"no answer within {PATIENCE:.0f} s: {_words(log)}")


def _words(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return " / ".join(lines[-_LAST_LINES:]) or "it said nothing"


def _end(server: subprocess.Popen[bytes]) -> None:
    server.terminate()
    try:
        server.wait(20)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


@contextmanager
def _scheduler() -> Iterator[tuple[str, list[str]]]:
    """The address of a stand-in for ZeroGPU's scheduler, and what has been reported to it. It has no GPU to give."""
    reports: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            if self.path == "/startup-report":
                reports.append(self.path)
            self.send_response(200 if self.path == "/startup-report" else 503)
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None:
            """Nothing: standard error belongs to the report."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", reports
    finally:
        server.shutdown()
        server.server_close()

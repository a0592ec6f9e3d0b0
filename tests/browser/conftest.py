"""A server of its own process, Debian's Chromium, and pages that fail a test on any error in their console."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")
FLAGS += ("--disable-component-update", "--disable-sync")
INSTALL = "apt-get install -y chromium && pip install playwright"


def missing(what: str) -> None:
    """Skips with the command that helps; where CI is set a skip is a failure."""
    reason = f"{what} is missing; install it with: {INSTALL}"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def chromium() -> Iterator:
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        missing("Chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing("playwright")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(FLAGS))
        yield browser
        browser.close()


@contextmanager
def serve(*command: str, seconds: float = 120) -> Iterator[str]:
    """Runs `python <command> --port <free port>` and gives its address once it answers; ends it by its id."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}/"
    environment = {**os.environ, "GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    server = subprocess.Popen([sys.executable, *command, "--port", str(port)], cwd=ROOT, env=environment)
    try:
        deadline = time.monotonic() + seconds
        while True:
            try:
                urllib.request.urlopen(address + "config", timeout=2).close()
                break
            except (urllib.error.URLError, OSError):
                assert server.poll() is None, f"{' '.join(command)} ended with code {server.returncode}"
                assert time.monotonic() < deadline, f"{' '.join(command)} did not answer within {seconds} s"
                time.sleep(0.2)
        yield address
    finally:
        server.terminate()
        try:
            server.wait(15)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


@pytest.fixture
def open_page(chromium) -> Iterator[Callable]:
    """`open_page(address, width=, height=, script=)` -> a tab in a context of its own.

    Errors in its console and requests to other hosts fail the test.
    """
    contexts, troubles = [], []

    def watch(page, address: str) -> None:
        page.on("console", lambda message: troubles.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: troubles.append(str(error)))
        own = (address.split("?")[0], "blob:", "data:")
        page.on("request", lambda r: None if r.url.startswith(own) else troubles.append(f"another host: {r.url}"))

    def make(address: str, width: int = 1280, height: int = 860, script: str = ""):
        context = chromium.new_context(viewport={"width": width, "height": height}, accept_downloads=True)
        contexts.append(context)
        page = context.new_page()
        page.add_init_script(script)
        watch(page, address)
        page.goto(address, wait_until="domcontentloaded")
        page.wait_for_selector(".cf-chip", timeout=60_000)
        return page

    yield make
    for context in contexts:
        context.close()
    assert troubles == []

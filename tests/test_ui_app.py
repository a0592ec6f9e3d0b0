"""`python app.py` as a program: it starts, and bad input ends in one line that says what to do."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import urllib.request

from tests.browser.conftest import ROOT, serve
from tests.test_weights import model  # noqa: F401  a fixture: a folder with tiny random weights


def run(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "app.py", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )


def test_it_starts_with_a_model_folder_and_answers(model):  # noqa: F811
    with serve("app.py", "--model", str(model), seconds=300) as address:
        with urllib.request.urlopen(address + "config", timeout=10) as answer:
            config = json.load(answer)
        names = {component["props"].get("elem_id") for component in config["components"]}
        assert {"cf-player", "cf-prompt", "cf-timeline"} <= names


def test_a_model_that_is_not_there_is_one_line():
    ended = run("--model", "/no/such/folder")
    assert ended.returncode == 2
    assert ended.stderr.splitlines() == [ended.stderr.strip()] and "/no/such/folder" in ended.stderr


def test_a_port_in_use_is_one_line(model):  # noqa: F811
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ended = run("--model", str(model), "--host", "127.0.0.1", "--port", str(port))
    assert ended.returncode == 2
    assert ended.stderr.splitlines() == [f"app.py: port {port} is in use; choose another with --port"]

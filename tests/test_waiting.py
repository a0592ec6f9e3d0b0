"""The page that stands in for the app while weights are downloaded, and how the app's own takes its place."""

from __future__ import annotations

import json
import socket
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from cf_app.hub import Progress
from cf_app.terminal import told
from cf_app.ui.waiting import waiting_page
from cf_app.weights import to_be_fetched
from tests.hub_server import HubServer, hub_server

__all__ = ["hub_server"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def get(port: int, path: str) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
        return answer.read()


def test_it_says_how_far_and_leaves_the_port() -> None:
    port = free_port()
    with waiting_page("context-<b>", None, port) as tell:
        page = get(port, "/").decode()
        assert "context-&lt;b&gt;" in page and "--cf-bg" in page and "http://" not in page.replace("http://www.w3", "")
        assert json.loads(get(port, "/progress"))["label"] == "starting"
        tell(Progress("model.pt", 5, 10))
        assert json.loads(get(port, "/progress")) == {"label": "model.pt", "done": 5, "total": 10}
        with pytest.raises(urllib.error.HTTPError):  # the app's configuration is not there yet
            get(port, "/config")
        with pytest.raises(OSError, match="no free port"), waiting_page("x", None, port):
            pass
        with waiting_page("x", None, None):  # the next free one
            pass
    with socket.socket() as app:
        app.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        app.bind(("127.0.0.1", port))
        app.listen()


def test_only_what_is_not_here_is_waited_for(hub_server: HubServer, tmp_path: Path) -> None:
    assert to_be_fetched("context-forcing")
    assert not to_be_fetched(None) and not to_be_fetched(tmp_path) and not to_be_fetched("no-such-model")


def test_the_terminal_tells_choices_only(capsys: pytest.CaptureFixture[str]) -> None:
    told(Progress("model.pt", 5, 10))
    told(Progress("int8 on cuda"))
    assert capsys.readouterr().err == "int8 on cuda\n"

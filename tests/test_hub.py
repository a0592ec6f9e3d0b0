"""Downloads through huggingface_hub's own client from a made-up Hub: one commit, resumed, checked, offline after."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from huggingface_hub import constants

from cf_app import hub
from tests.hub_server import HubServer, commit_name, hub_server

__all__ = ["hub_server"]
BIG = bytes(range(256)) * 4000
FIRST = {"model.pt": BIG, "vae/config.json": b"{}", "vae/weights.safetensors": b"1234", "README.md": b"no"}


@pytest.fixture
def server(hub_server: HubServer) -> HubServer:
    hub_server.repositories["a/b"] = [FIRST]
    return hub_server


def test_what_was_downloaded_first_is_held_to(server: HubServer) -> None:
    told: list[hub.Progress] = []
    folder = hub.download("a/b", ["model.pt", "vae/"], tell=told.append)
    assert folder.name == commit_name(0)
    assert sorted(path.name for path in folder.rglob("*") if path.is_file()) == [
        "config.json",
        "model.pt",
        "weights.safetensors",
    ]
    total = len(BIG) + 6
    assert told[0] == hub.Progress("model.pt", 0, total) and told[-1] == hub.Progress(told[-1].label, total, total)
    assert [progress.done for progress in told] == sorted(progress.done for progress in told)
    hub.verify("a/b", "model.pt")
    server.repositories["a/b"].append({**FIRST, "model.pt": b"new", "extra/x": b"x"})
    server.asked.clear()
    assert hub.download("a/b", ["model.pt", "vae/"]) == folder and not server.asked
    assert hub.missing_bytes("a/b", ["model.pt"]) == 0
    with pytest.raises(ValueError, match="has no extra/ any more"):  # in the commit that is held to
        hub.download("a/b", ["extra/"])
    assert (hub.download("a/b", ["README.md"]) / "README.md").read_bytes() == b"no"
    hub.records().unlink()
    assert hub.download("a/b", ["model.pt"], pinned=commit_name(1)).name == commit_name(1)


def test_a_pinned_commit_wins(server: HubServer) -> None:
    server.repositories["a/b"].append({"model.pt": b"new"})
    assert hub.download("a/b", ["model.pt"], pinned=commit_name(0)).name == commit_name(0)
    assert hub.download("a/b", ["model.pt"], pinned=commit_name(1)).name == commit_name(1)
    with pytest.raises(ValueError, match=r"no longer has the commit.*downloads\.json"):
        hub.download("a/b", ["model.pt"], pinned="0" * 40)


def test_a_broken_download_resumes(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.cut_after = 600_000
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 100_000)
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
    told: list[hub.Progress] = []
    folder = hub.download("a/b", ["model.pt"], tell=told.append)
    assert (folder / "model.pt").read_bytes() == BIG
    assert server.ranges and not server.ranges[0].startswith("bytes=0-")
    assert told[-1].done == told[-1].total == len(BIG)


def test_an_interrupted_download_is_not_taken_for_complete(server: HubServer) -> None:
    def stop(progress: hub.Progress) -> None:
        if progress.label == "vae/weights.safetensors":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        hub.download("a/b", ["vae/"], tell=stop)
    assert hub.local("a/b", ["vae/"]) is None and hub.missing_bytes("a/b", ["vae/"]) == 4
    assert hub.download("a/b", ["vae/"]) == hub.local("a/b", ["vae/"])


def test_offline_once_there(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = hub.download("a/b", ["model.pt"])
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    server.asked.clear()
    assert hub.download("a/b", ["model.pt"]) == folder
    with pytest.raises(ValueError, match=r"vae/.*HF_HUB_OFFLINE"):
        hub.download("a/b", ["vae/"])
    hub.records().unlink()  # as if another program had downloaded it
    (folder.parent.parent / "refs").mkdir(exist_ok=True)
    (folder.parent.parent / "refs" / "main").write_text(folder.name)
    assert hub.download("a/b", ["model.pt"]) == folder and not server.asked


def test_a_hub_that_is_away_or_lacks_it(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"a/c has no model.pt any more"):
        hub.download("a/c", ["model.pt"])
    with pytest.raises(ValueError, match=r"a/b has no other.pt any more"):
        hub.missing_bytes("a/b", ["other.pt"])
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ValueError, match="check the connection") as caught:
        hub.download("a/b", ["model.pt"])
    assert "\n" not in str(caught.value)


def test_too_little_room_is_said_before_anything_is_fetched(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = hub.shutil.disk_usage("/")._replace(free=1000)
    monkeypatch.setattr(hub.shutil, "disk_usage", lambda place: usage)
    with pytest.raises(ValueError, match="make room, or set HF_HOME"):
        hub.download("a/b", ["model.pt"])
    assert not any("resolve" in request for request in server.asked)
    with pytest.raises(ValueError, match="GB are needed"):  # together they are too much
        hub.check_disk({Path("/"): 600, Path("/nowhere/else"): 600})


def test_a_corrupt_cache_is_named(server: HubServer) -> None:
    folder = hub.download("a/b", ["model.pt", "vae/"])
    blob = (folder / "model.pt").resolve()
    blob.write_bytes(BIG[:-1] + b"?")
    with pytest.raises(ValueError, match=f"{blob}.*delete this file"):
        hub.verify("a/b", "model.pt")
    blob.write_bytes(BIG[:1000])
    with pytest.raises(ValueError, match=f"{blob}.*1000 bytes.*delete this file"):
        hub.download("a/b", ["model.pt"])
    blob.unlink()
    assert (hub.download("a/b", ["model.pt"]) / "model.pt").read_bytes() == BIG
    hub.records().write_text("{ no json")
    with pytest.raises(ValueError, match=r"downloads\.json is damaged.*delete it"):
        hub.download("a/b", ["model.pt"])
    hub.records().write_text(json.dumps({"a/b": {"commit": 1}}))
    with pytest.raises(ValueError, match="damaged"):
        hub.known("a/b")


def test_what_another_program_left_half_done_is_completed(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = hub.download("a/b", ["vae/"])
    hub.records().unlink()
    (folder / "vae" / "weights.safetensors").unlink()
    refs = folder.parent.parent / "refs"
    refs.mkdir(exist_ok=True)
    (refs / "main").write_text(folder.name)
    real = constants.ENDPOINT
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert hub.download("a/b", ["vae/"]) == folder and not (folder / "vae" / "weights.safetensors").exists()
    monkeypatch.setattr(constants, "ENDPOINT", real)
    assert (hub.download("a/b", ["vae/"]) / "vae" / "weights.safetensors").read_bytes() == b"1234"

"""Pictures and clips that visitors bring along: what is kept, and what is said about bad files."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cf_app import media
from cf_app.export import Mp4Writer
from cf_app.ui import starts
from cf_app.ui.player import bring_start_with
from cf_app.ui.tabs import Tabs
from tests.fake_worker import FakeEngine, FakeWorker

PROMPT = "a red ball hops through the meadow at sunset"


@pytest.fixture
def tabs() -> Iterator[Tabs]:
    worker = FakeWorker(FakeEngine())
    made = Tabs(FakeEngine(), worker)
    yield made
    made.close_all()
    worker.shutdown()


def picture(width: int, height: int, kind: str = "PNG") -> str:
    sink = io.BytesIO()
    Image.new("RGB", (width, height), (20, 200, 90)).save(sink, kind)
    return base64.b64encode(sink.getvalue()).decode()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
def test_a_picture_begins_a_film(tabs: Tabs, kind: str) -> None:
    answer = bring_start_with(tabs)({"name": f"green.{kind}", "b64": picture(400, 300, kind)})
    assert answer["ok"] and answer["seconds"] == 0.75 and answer["picture"].startswith("data:image/jpeg;base64,")
    run = tabs.start("tab", {"prompt": PROMPT, "start": answer["start"]})
    kept = tabs.worker.sessions[run.session].start  # type: ignore[attr-defined]
    assert kept.shape == (1, 96, 128, 3), "just as large as covers 128 x 80"
    assert np.abs(kept.astype(int) - (20, 200, 90)).max() < 12
    assert tabs.worker.sessions[tabs.start("tab", {"prompt": PROMPT}).session].start is None  # type: ignore[attr-defined]


def test_a_clip_begins_a_film(tabs: Tabs, tmp_path: Path) -> None:
    with Mp4Writer(tmp_path / "clip.mp4", 16) as video:
        video.write(np.full((30, 64, 96, 3), 128, np.uint8))
    data = base64.b64encode((tmp_path / "clip.mp4").read_bytes()).decode()
    answer = bring_start_with(tabs)({"name": "clip.mp4", "b64": data})
    assert answer["ok"] and answer["seconds"] == 2.25
    kept = tabs.starts.of(answer["start"])
    assert kept is not None and kept.shape == (30, 64, 96, 3), "small ones stay as they are"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (base64.b64encode(b"just some text, no picture").decode(), "no picture or video"),
        (picture(64, 64)[:60] + "=" * (-60 % 4), "no picture or video"),
        ("", "is empty"),
        ("no base 64!", "Send it again"),
        (None, "is empty"),
    ],
)
def test_bad_files_are_refused_in_one_sentence(tabs: Tabs, data: object, reason: str) -> None:
    answer = bring_start_with(tabs)({"name": "notes.txt", "b64": data})
    assert not answer["ok"] and reason in answer["error"] and "“notes.txt”" in answer["error"]
    assert "\n" not in answer["error"] and "/" not in answer["error"] and "Errno" not in answer["error"]


def test_huge_files_and_pictures_are_refused(tabs: Tabs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starts, "MOST_BYTES", 100)
    assert "at most 0 MB" in bring_start_with(tabs)({"name": "a", "b64": "AAAA" * 100})["error"]
    monkeypatch.undo()
    monkeypatch.setattr(media, "MOST_PIXELS", 1e4)
    assert "200 x 100" in bring_start_with(tabs)({"name": "a", "b64": picture(200, 100)})["error"]


def test_only_the_newest_are_kept(tabs: Tabs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starts, "_KEPT", 2)
    tokens = [tabs.starts.take("a", picture(64, 64))[0] for _ in range(3)]
    assert tabs.starts.of(None) is None and tabs.starts.of(tokens[2]) is not None
    with pytest.raises(ValueError, match="Choose it again"):
        tabs.start("tab", {"prompt": PROMPT, "start": tokens[0]})

"""The command line: files that are complete or not there, one line for what is wrong."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from cf_app import weights
from cf_app.cli import main
from cf_app.engine.engine import Engine
from cf_app.export import Mp4Writer
from cf_app.media import read_start
from tests.tiny import EXAMPLES, tiny_engine


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loads a tiny model, whatever is asked for."""
    monkeypatch.setattr(weights, "load", lambda *arguments: tiny_engine())


def pictures(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as file:
        return [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]


@pytest.mark.usefixtures("tiny")
def test_generate_writes_a_video(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "clip.mp4"
    prompt = f"{EXAMPLES[0]} zebra"
    assert main(["generate", "--prompt", prompt, "--seconds", "2", "--seed", "5", "--out", str(out)]) == 0
    frames = pictures(out)
    assert len(frames) == 36 and frames[0].shape == (64, 96, 3)
    shown = capsys.readouterr()
    assert "zebra" in shown.err and "2.25 s" in shown.out and "names nothing" not in shown.err
    expected = tiny_engine().new_session(prompt, seed=5).stream(chunks=1)
    assert np.abs(frames[0].astype(int) - next(expected).frames[0]).mean() < 12  # H.264, chroma at half size
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]


@pytest.mark.usefixtures("tiny")
def test_generate_follows_a_timeline(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    story, out = tmp_path / "story.txt", tmp_path / "clip.mp4"
    story.write_text(f"{EXAMPLES[0]}[1.5s] | the snow at night[1.5s#]")
    assert main(["generate", "--timeline", str(story), "--out", str(out), "--policy", "fifo"]) == 0
    assert "'the snow at night' names nothing to show, expected one of: ball, box" in capsys.readouterr().err
    assert len(pictures(out)) == 48


@pytest.mark.usefixtures("tiny")
def test_generate_begins_with_a_clip_or_a_picture(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(picture).save(tmp_path / "start.png")
    with Mp4Writer(tmp_path / "start.mp4", 8) as video:
        video.write(np.stack([picture] * 10))
    assert read_start(tmp_path / "start.png", 16).shape == (1, 40, 60, 3)
    assert read_start(tmp_path / "start.mp4", 16).shape == (19, 40, 60, 3)
    for name in ("start.png", "start.mp4"):
        out = tmp_path / f"{name}.out.mp4"
        start = ["--start", str(tmp_path / name)]
        assert main(["generate", "--prompt", EXAMPLES[0], "--seconds", "3", *start, "--out", str(out)]) == 0
        assert len(pictures(out)) == 48


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--prompt", ""], "empty"),
        (["--prompt", "x" * 10_000], "10000 characters"),
        ([], "--prompt or --timeline"),
        (["--prompt", "a", "--timeline", "b.json"], "--prompt or --timeline"),
        (["--timeline", "missing.json"], "missing.json"),
        (["--prompt", "a", "--seconds", "-1"], "seconds"),
        (["--prompt", "a", "--seconds", "nan"], "seconds"),
        (["--prompt", "a", "--seed", "-4"], "seed"),
        (["--prompt", "a", "--out", "clip.avi"], ".mp4"),
        (["--prompt", "a", "--start", "missing.png"], "missing.png"),
        (["--prompt", "a", "--start", __file__], "no picture or video"),
        (["--prompt", "a", "--out", "no/such/folder/clip.mp4"], "does not exist"),
        (["--prompt", "a", "--policy", "fifo", "--seconds", "100000"], "room for"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["generate", *arguments]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert says in lines[-1] and not any("Traceback" in line for line in lines)
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("tiny")
def test_out_of_memory_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*arguments: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(Engine, "step", full)
    assert main(["generate", "--prompt", EXAMPLES[0], "--out", str(tmp_path / "clip.mp4")]) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert "ran out of memory (quant none)" in last and "--vram" in last and not list(tmp_path.iterdir())


def test_unknown_model_and_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "--prompt", "a", "--model", "no-such-model"]) == 2
    assert "no-such-model" in capsys.readouterr().err
    with pytest.raises(SystemExit) as caught:
        main(["dance"])
    assert caught.value.code == 2
    assert main(["models"]) == 0


def test_an_interrupted_export_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError), Mp4Writer(path, 16) as video:
        video.write(np.zeros((12, 64, 96, 3), np.uint8))
        raise RuntimeError
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]

"""Curves of a run, and stages under names of their own."""
from __future__ import annotations

from pathlib import Path

import pytest
from accelerate import Accelerator
from PIL import Image

from cf_app.cli import main
from cf_app.training import dmd, rollouts
from cf_app.training.curves import draw_curves, read_log, smoothed
from cf_app.training.loop import Budget, Run


def test_a_run_leaves_its_curves(tmp_path: Path) -> None:
    run = Run(Accelerator(cpu=True), tmp_path, Budget(steps=4))
    for step in run.steps():
        run.log(loss=4.0 - step, note="text is no curve")
    curves = read_log(tmp_path / "log.jsonl")
    assert [value for _, value in curves["loss"]] == [4, 3, 2, 1] and set(curves) == {"loss"}
    with Image.open(tmp_path / "curves.png") as picture:
        assert len(set(picture.convert("RGB").getdata())) > 2


def test_half_a_line_and_no_log_do_no_harm(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    draw_curves(log, tmp_path / "curves.png")
    log.write_text('{"step": 0, "minutes": 0.1, "loss": 2}\n{"step": 1, "minu')
    draw_curves(log, tmp_path / "curves.png")
    assert read_log(log) == {"loss": [(0.1, 2.0)]} and not (tmp_path / "curves.png").exists()


def test_smoothing_keeps_a_constant_and_follows_a_step() -> None:
    assert smoothed([3.0, 3.0, 3.0]) == pytest.approx([3, 3, 3])
    step = smoothed([0.0] * 20 + [1.0] * 40)
    assert step[19] == 0 and step[25] < step[35] < 1 and step[-1] > 0.95


def test_only_stages_that_can_be_varied_take_a_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "data", "--name", "other", "--out", str(tmp_path)]) == 2
    assert "expected with one of rollouts, teacher, distill, context, merge" in capsys.readouterr().err
    assert main(["train", "context", "--start", "best", "--out", str(tmp_path)]) == 2
    assert "best" in capsys.readouterr().err


def test_ablations_reach_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = dict[str, tuple[object, ...]]()
    monkeypatch.setattr(rollouts, "train_rollouts", lambda *given: asked.update(rollouts=given))
    monkeypatch.setattr(dmd, "train_distillation", lambda *given: asked.update(context=given))
    (tmp_path / "flow" / "student").mkdir(parents=True)
    train = ["train", "--out", str(tmp_path), "--name", "bare", "--start", "flow", "--teacher", "flow"]
    assert main([*train, "rollouts", "--no-recycling"]) == 0
    _, start, folder, config = asked["rollouts"]
    assert (start, folder) == (tmp_path / "flow" / "student", tmp_path / "bare")
    assert isinstance(config, rollouts.RolloutTraining) and (config.own, config.recycle, config.free) == (0, 0, 0)
    assert main([*train, "context", "--streaming", "--longest", "4", "--teacher-window", "21", "--no-curriculum"]) == 0
    *_, config, weak = asked["context"]
    assert isinstance(config, dmd.Distillation) and weak is None
    assert (config.first, config.last, config.window, config.ramp) == (4, 4, 21, 1)
    assert main([*train, "context", "--streaming", "--weak", "flow"]) == 0
    assert asked["context"][-1] == tmp_path / "flow" / "student"


def test_rollouts_without_a_chunk_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "context", "--longest", "2", "--out", str(tmp_path)]) == 2
    assert "rollouts of 2 chunks: expected at least 4" in capsys.readouterr().err

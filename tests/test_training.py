"""Training: losses that point the right way, rollouts that read what the memory reads, and all stages end to end."""
from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from PIL import Image
from torch import nn

from cf_app.cli import main
from cf_app.memory.policy import SlowFast
from cf_app.model.patch_vae import PatchVideoAutoencoder
from cf_app.training.data import (
    CHUNK_SECONDS,
    LONGEST_GAP,
    LatentVideos,
    look_away_starts,
    make_shard,
    sample_cues,
    shared_cues,
)
from cf_app.training.grammar import CAMERAS
from cf_app.training.loop import Budget, Ema, Run, learning_rate_factor
from cf_app.training.losses import flow_matching, noised, predicted_x0, sample_sigmas, shifted
from cf_app.training.muon import Muon, orthogonalise, split_parameters
from cf_app.training.rollout import Rollout, rollout_flow
from cf_app.training.rollouts import least_noisy, look_away_promotions, own_predictions
from cf_app.training.student import Student, student_levels


def test_the_true_flow_leads_back_to_the_clean_latents() -> None:
    x0, noise, sigma = torch.randn(4, 2, 3), torch.randn(4, 2, 3), torch.tensor([0.1, 0.4, 0.9, 1.0])
    x = noised(x0, noise, sigma)
    torch.testing.assert_close(predicted_x0(x, noise - x0, sigma), x0)
    assert float(flow_matching(noise - x0, x0, noise)) == 0


def test_flow_matching_pulls_a_constant_flow_to_the_mean_of_noise_minus_data() -> None:
    x0 = torch.full((256, 4), 3.0)
    noise = torch.randn(256, 4)
    flow = torch.zeros(4, requires_grad=True)
    optimizer = torch.optim.SGD([flow], 1.0)
    for _ in range(50):
        optimizer.zero_grad()
        flow_matching(flow.expand(256, 4), x0, noise).backward()
        optimizer.step()
    torch.testing.assert_close(flow.detach(), (noise - x0).mean(0), atol=1e-3, rtol=0)


def test_noise_levels_follow_shift_and_focus() -> None:
    assert student_levels(5.0) == pytest.approx((1.0, 0.9375, 0.8333333, 0.625))
    assert shifted(torch.tensor([0.0, 0.5, 1.0]), 3.0).tolist() == pytest.approx([0, 0.75, 1])
    levels = torch.tensor(student_levels())
    focused = sample_sigmas(200, 2.0, student_levels(), 1.0)
    assert torch.isin(focused, levels).all()
    spread = sample_sigmas(200, 2.0, student_levels(), 0.0)
    assert 0 < float(spread.min()) < 0.2
    assert float(spread.max()) <= 1


def test_muon_steps_along_the_orthogonalised_gradient() -> None:
    matrix = torch.randn(8, 24)
    near = orthogonalise(matrix)
    assert torch.linalg.svdvals(near.float()).sub(1).abs().max() < 0.4
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8, 2))
    matrices, rest = split_parameters(model, ("2.",))
    assert [p.ndim for p in matrices] == [4]
    assert len(rest) == 3
    target = torch.randn(8, 3, 3, 3)
    kernel = nn.Parameter(torch.zeros(8, 3, 3, 3))
    optimizer = Muon([kernel], lr=0.05)
    first = float((kernel.detach() - target).square().mean())
    for _ in range(80):
        optimizer.zero_grad()
        (kernel - target).square().mean().backward()
        optimizer.step()
    assert float((kernel.detach() - target).square().mean()) < first / 4


def test_own_predictions_replace_the_truth_of_the_same_video() -> None:
    truth = torch.arange(200.0)[:, None]
    assert own_predictions(truth, None, 1.0, random.Random(0)) is truth
    mixed = own_predictions(truth, truth + 0.5, 0.5, random.Random(0)) - truth
    assert set(mixed.flatten().tolist()) == {0.0, 0.5}
    assert 0.35 < float((mixed > 0).float().mean()) < 0.65


def test_of_every_video_the_prediction_from_the_least_noise_is_kept() -> None:
    predicted = torch.arange(6.0)[:, None]      # copies of three videos: 0 1 2, 3 4 5
    best = least_noisy(predicted, torch.tensor([.9, .2, .5, .3, .8, .6]), 3)
    assert best.flatten().tolist() == [3.0, 1.0, 2.0]


def test_a_budget_shapes_the_learning_rate_and_a_run_resumes(tmp_path: Path) -> None:
    assert learning_rate_factor(0.0) == 0
    assert learning_rate_factor(0.3) == 1
    assert learning_rate_factor(0.9) == pytest.approx(0.25)

    def train(steps: int) -> tuple[Run, Ema, nn.Linear]:
        accelerator, model = Accelerator(cpu=True), nn.Linear(2, 2)
        run, ema = Run(accelerator, tmp_path, Budget(steps=steps)), Ema(model, 0.9)
        prepared = accelerator.prepare(model)
        accelerator.register_for_checkpointing(run, ema)
        run.resume()
        for _ in run.steps():
            with torch.no_grad():
                model.weight.add_(1)
            ema.update(model)
        assert prepared is not None
        return run, ema, model

    first, _, before = train(3)
    assert first.step == 3
    second, ema, after = train(5)
    assert second.step == 5
    assert ema.count == 5
    torch.testing.assert_close(after.weight, before.weight + 2)


def test_a_rollout_reads_what_the_memory_of_its_policy_reads() -> None:
    """The later chunk's flow depends on the clean pass before it, carries its gradient, and never sees the future."""
    torch.manual_seed(0)
    student = Student.embedded()
    nn.init.normal_(student.transformer.proj_out.weight, std=0.02)
    latents = torch.randn(2, 16, 9 * 3, 4, 4)
    rollout = Rollout(latents, [["a red ball"] * 9] * 2, [True] * 9, SlowFast())
    for chunk in range(8):
        clean = rollout.truth(chunk - 1).requires_grad_() if chunk else None
        noisy = torch.randn(4, 16, 3, 4, 4)
        flow = rollout_flow(student, rollout, clean, noisy, torch.full((4,), 0.5))
        assert flow.shape == noisy.shape
        if clean is not None:
            gradient, = torch.autograd.grad(flow.square().sum(), clean)
            assert float(gradient.abs().sum()) > 0
        rollout.advance()
    assert set(rollout.stored) == {read.cell.latent for reads, _ in rollout.plan[7:9] for read in reads} - {21, 22, 23}


def test_every_stage_runs_small_and_the_student_generates(tmp_path: Path) -> None:
    AcceleratorState._reset_state(reset_partial_state=True)  # as in a process of its own
    out = tmp_path / "run"
    assert main(["train", "all", "--tiny", "--out", str(out), "--threads", "1", "--steps", "2"]) == 0
    for stage in ("rollouts", "teacher", "distill", "context"):
        first = json.loads((out / stage / "log.jsonl").read_text().splitlines()[0])
        losses = [first[name] for name in ("loss", "dmd", "critic") if name in first]
        # In the first step the critic is the teacher still, and DMD is 0.
        assert losses[-1] > 0 and all(0 <= loss < 100 for loss in losses), stage
    for stage in ("teacher", "distill", "context"):
        with Image.open(out / stage / "strip.png") as strip:
            assert strip.size == (2 * 128, 3 * 80)
    target = out / "weights"
    clip = tmp_path / "clip.mp4"
    arguments = ["generate", "--model", str(target), "--prompt", "a red ball", "--seconds", "0.7", "--out", str(clip)]
    assert main(arguments) == 0
    assert clip.stat().st_size > 0
    (out / "rollouts" / "curves.png").write_bytes(b"curves")  # longer trainings draw them
    assert main(["train", "export", "--tiny", "--out", str(out), "--tau", "0.9"]) == 0
    assert (target / "curves" / "rollouts.png").read_bytes() == b"curves"
    config = json.loads((target / "cf_config.json").read_text())
    assert {"star", "cube"} < set(config["subjects"]) < set(config["vocabulary"])
    assert config["memory"]["tau"] == 0.9 and len(config["sampler"]["timesteps"]) == 8
    stream = ["train", "context", "--streaming", "--tiny", "--out", str(out), "--threads", "1", "--name", "stream"]
    assert main([*stream, "--start", "rollouts", "--teacher", "rollouts", "--anchored", "1", "--weak", "pictures"]) == 0
    assert '"error"' in (out / "stream" / "log.jsonl").read_text(), "held to a truth that is known"
    export = ["train", "export", "--tiny", "--out", str(out), "--student", "stream", "--passes", "4", "--tau", "1"]
    assert main(export) == 0
    assert json.loads((target / "cf_config.json").read_text())["sampler"]["timesteps"] == [1000, 750, 500, 250]


def test_some_cameras_pan_for_long_and_then_stand_where_they_are() -> None:
    firsts = [sample_cues(random.Random(seed), 27)[:2] for seed in range(300)]
    long = [begin for (_, scene), *rest in firsts for begin, after in rest
            if scene.camera in ("right", "left") and after == replace(scene, camera="still")
            and begin > LONGEST_GAP * CHUNK_SECONDS]
    assert 10 < len(long) < 60 and max(long) > 20 * CHUNK_SECONDS
    short = [sample_cues(random.Random(seed), LONGEST_GAP) for seed in range(300)]
    assert all(begin < LONGEST_GAP * CHUNK_SECONDS for cues in short for begin, _ in cues)


def test_a_stage_without_its_forerunner_says_what_to_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "data", "--out", str(tmp_path)]) == 2
    assert "train it first (python -m cf_app train autoencoder)" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["any", "away"])
@pytest.mark.parametrize("chunks", [1, 2, 7, 30])
def test_cues_of_every_kind_can_be_drawn_for_any_length(kind: str, chunks: int) -> None:
    for seed in range(20):
        cues_of, turns = shared_cues(kind, random.Random(seed), chunks)
        assert cues_of(random.Random(seed))[0][0] == 0
        assert all(0 < turn < chunks for turn in turns)


def test_cameras_that_sweep_away_are_walked_together_and_their_new_views_promoted(tmp_path: Path) -> None:
    vae = PatchVideoAutoencoder(latent_channels=4, width=8, blocks=1)
    make_shard(tmp_path / "a.safetensors", vae, 2, 9, seed=1)
    make_shard(tmp_path / "b.safetensors", vae, 3, 9, seed=2, kind="away")
    videos = LatentVideos(tmp_path)
    (members, turns), = videos.together
    assert list(members) == [2, 3, 4] and turns == look_away_starts(random.Random(2), 9)
    away = CAMERAS.index("away")
    for video in members:
        looks = [labels[-1] == away for labels in videos.labels[video].tolist()]
        assert looks == [sum(turn <= chunk for turn in turns) % 2 == 1 for chunk in range(9)]
    rng = random.Random(0)
    draws = [look_away_promotions((4,), 9, rng) for _ in range(400)]
    rates = [sum(draw[chunk] for draw in draws) / 400 for chunk in range(9)]
    assert rates[4] > 0.8 > rates[5] > 0.6 > 0.25 > max(rates[:4] + rates[6:])

"""The distillation's machinery: one context for all networks, gradients where they belong, teachers that see far."""
from __future__ import annotations

import random
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.state import AcceleratorState
from torch import Tensor, nn

from cf_app.cli import main
from cf_app.model.patch_vae import PatchVideoAutoencoder
from cf_app.training import dmd
from cf_app.training.autoencoder import load_autoencoder
from cf_app.training.data import CHUNK_SECONDS, LatentVideos, draw_video
from cf_app.training.dmd import (
    Distillation,
    Stream,
    Trio,
    distill_step,
    shortened,
    stage_two,
    streamed,
    without_curriculum,
)
from cf_app.training.full_size import LORA_TARGETS, FullScale, networks
from cf_app.training.grammar import Scene
from cf_app.training.loop import Budget
from cf_app.training.rollout import Rollout
from cf_app.training.self_rollout import (
    beside,
    blank_rollout,
    denoise,
    glance,
    known_rollout,
    news,
    remember,
    rollout_prompts,
)
from cf_app.training.setup import Learner, Rates
from cf_app.training.student import Student
from cf_app.training.teacher import ErrorBank, TeacherTraining, many_levels, teacher_walk
from cf_app.training.world import FPS, REACH, WIDTH, World

SIZE = (16, 4, 4)
CPU = torch.device("cpu")


class Bare:
    """What a step asks of accelerate, on one device."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.others = device, 0.0

    def reduce(self, number: Tensor) -> Tensor:
        return number + self.others

    def autocast(self) -> AbstractContextManager[None]:
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def clip_grad_norm_(self, parameters, most: float) -> Tensor:
        return nn.utils.clip_grad_norm_(parameters, most)


def lively(seed: int) -> Student:
    """A student whose head says something."""
    torch.manual_seed(seed)
    student = Student.embedded()
    nn.init.normal_(student.transformer.proj_out.weight, std=0.05)
    return student


def filled(chunks: int, videos: int = 1) -> Rollout:
    rollout = blank_rollout(videos, chunks, SIZE, 3, random.Random(0), CPU)
    rollout.latents.normal_()
    return rollout


def test_all_networks_score_in_the_context_that_the_student_made() -> None:
    student, mine = lively(0), filled(4)
    theirs = beside(mine)
    x, sigma = torch.randn(1, 16, 3, 4, 4), torch.tensor([0.5])
    with torch.no_grad():
        alone = glance(student, mine, rollout_prompts(mine), x, sigma)
        for rollout in (mine, theirs):
            remember(student, rollout)
            rollout.advance()
        assert mine.stored.keys() == theirs.stored.keys()
        ours = glance(student, mine, rollout_prompts(mine), x, sigma)
        assert torch.equal(ours, glance(student, theirs, rollout_prompts(theirs), x, sigma))
        assert not torch.allclose(ours, alone)
        before = len(mine.stored)
        mine.latents.zero_()  # the other one sees what this one writes
        assert float(theirs.truth(1).abs().sum()) == 0 and len(mine.stored) == before
        assert not torch.allclose(ours, glance(lively(1), theirs, rollout_prompts(theirs), x, sigma))


def test_a_short_context_teacher_reads_the_newest_latent_frames_only() -> None:
    rollout = filled(12)
    far = {read.cell.latent for read in rollout.plan[11][0]}
    near = {read.cell.latent for read in beside(rollout, 9).plan[11][0]}
    assert near == {27, 28, 29, 30, 31, 32}
    assert {0, 1, 2} <= far


def test_only_the_last_pass_of_a_target_carries_a_gradient() -> None:
    weight, asked = torch.ones(1, requires_grad=True), []

    def flow(x: Tensor, sigma: Tensor) -> Tensor:
        asked.append((float(sigma[0]), torch.is_grad_enabled()))
        return weight * x

    noise = torch.randn(2, 4)
    x0 = denoise(flow, noise, (1.0, 0.75, 0.5), gradient=True)
    assert asked == [(1.0, False), (0.75, False), (0.5, True)]
    assert x0.requires_grad and not denoise(flow, noise, (1.0, 0.5)).requires_grad
    truth = torch.randn(2, 4)
    found = denoise(lambda x, s: (x - truth) / s[:, None], noise, (1.0, 0.8, 0.3))
    torch.testing.assert_close(found, truth, atol=1e-5, rtol=1e-4)


def trio(device: torch.device = CPU) -> Trio:
    def learner(network: Student) -> Learner:
        optimizers = [torch.optim.SGD(network.parameters(), 0.1)]
        return Learner(network, network, optimizers, optimizers, Rates(0.0, 0.1), None)

    teacher = lively(2).requires_grad_(False)
    return Trio(Bare(device), learner(lively(0)), learner(lively(1)), teacher)  # type: ignore[arg-type]


def test_the_critic_learns_in_every_step_and_the_student_in_some() -> None:
    three = trio()
    config = Distillation(Budget(steps=2), videos=1, targets=1, first=2, last=2, critic_updates=2, size=SIZE)

    def weights() -> list[Tensor]:
        nets = (three.student.network, three.critic.network, three.teacher)
        return [net.transformer.blocks[0].attn1.to_q.weight.detach().clone() for net in nets]

    first = weights()
    losses = distill_step(three, config, 0, random.Random(0))
    second = weights()
    assert losses["chunks"] == 2 and float(losses["dmd"]) > 0 and float(losses["critic"]) > 0
    assert [torch.equal(a, b) for a, b in zip(first, second, strict=True)] == [False, False, True]
    losses = distill_step(three, config, 1, random.Random(0))
    assert "dmd" not in losses
    assert [torch.equal(a, b) for a, b in zip(second, weights(), strict=True)] == [True, False, True]
    assert three.student.network.transformer.proj_out.weight.grad is None


def test_a_stream_makes_every_chunk_a_target_and_then_context() -> None:
    three = trio()
    config = Distillation(Budget(steps=4), videos=2, first=2, last=2, critic_updates=2, size=SIZE, streaming=True)
    stream = Stream(three, config, random.Random(0))

    def student() -> Tensor:
        return three.student.network.transformer.blocks[0].attn1.to_q.weight.detach().clone()

    before = student()
    first = stream.step(0)
    mine = stream.rollouts[0]
    made = mine.truth(0).clone()
    assert first["chunk"] == 0 and "dmd" in first and made.abs().sum() > 0 and not mine.truth(1).any()
    assert all(rollout.latents is mine.latents and set(rollout.stored) == {0, 1, 2} for rollout in stream.rollouts)
    keys = [rollout.stored[0][0][0] for rollout in stream.rollouts]
    assert not torch.allclose(keys[0], keys[1]) and not keys[0].requires_grad  # each network's own
    after = student()
    second = stream.step(1)
    assert second["chunk"] == 1 and "dmd" not in second and torch.equal(mine.truth(0), made) and mine.truth(1).any()
    assert not torch.equal(before, after) and torch.equal(after, student())
    third = stream.step(2)
    assert third["chunk"] == 0 and stream.rollouts[0] is not mine


def test_a_teacher_is_guided_away_from_a_worse_version_of_itself() -> None:
    rollout = blank_rollout(1, 2, SIZE, 3, random.Random(0), CPU)
    worse, x, sigma = beside(rollout), torch.randn(1, 16, 3, 4, 4), torch.tensor([.5])
    three, weak = trio(), lively(5).requires_grad_(False)
    config = Distillation(Budget(steps=1), autoguidance=2.0)
    for network, theirs in ((three.teacher, rollout), (weak, worse)):   # each over keys and values of its own
        remember(network, theirs)
        theirs.advance()

    def led(config: Distillation, other: Student | None) -> Tensor:
        return dmd._guided_flow(replace(three, weak=other), config, rollout, worse)(x, sigma)

    asked, wrong = led(config, None), glance(weak, worse, rollout_prompts(worse), x, sigma)
    torch.testing.assert_close(led(config, weak), asked + 2 * (asked - wrong))
    blind = glance(three.teacher, rollout, [""], x, sigma)
    both = asked + 0.5 * (asked - blind) + 2 * (asked - wrong)
    torch.testing.assert_close(led(replace(config, guidance=0.5), weak), both)


def test_a_worse_teacher_remembers_for_itself_in_a_stream() -> None:
    config = Distillation(Budget(steps=4), videos=2, first=2, last=2, critic_updates=1, size=SIZE, streaming=True)
    stream = Stream(replace(trio(), weak=lively(5).requires_grad_(False)), config, random.Random(0))
    losses = stream.step(0)
    assert "dmd" in losses and len(stream.rollouts) == 4
    keys = [rollout.stored[0][0][0] for rollout in stream.rollouts]
    assert not any(torch.allclose(one, other) for i, one in enumerate(keys) for other in keys[:i])
    assert stream.step(1)["chunk"] == 1


def test_a_streamed_chunk_is_finished_wherever_its_target_left() -> None:
    """With a student that knows the answer at every level, the chunk that becomes context is that answer."""
    three = trio()
    config = Distillation(Budget(steps=9), videos=1, first=1, last=1, critic_updates=99, size=SIZE, streaming=True)
    answer = torch.randn(1, 16, 3, 4, 4)

    class Knowing(nn.Module):
        def forward(self, function: object, rollout: Rollout, *rest: object) -> Tensor | None:
            if function is remember:
                return remember(three.student.network, rollout)
            x, sigma = rest[-2:]
            return (x - answer) / sigma.view(-1, 1, 1, 1, 1)  # type: ignore[operator,union-attr]

    three.student.model = Knowing()
    stream, passes = Stream(three, config, random.Random(0)), set()
    for step in range(1, 10):
        passes.add(stream.step(step)["passes"])
        torch.testing.assert_close(stream.rollouts[0].truth(0), answer, atol=1e-4, rtol=1e-3)
    assert len(passes) > 2


def weights_vae() -> PatchVideoAutoencoder:
    return load_autoencoder(Path(__file__).parents[1] / "weights" / "vae").float()


def test_of_a_known_rollout_all_follows_from_what_is_given() -> None:
    vae, kinds, pans = weights_vae(), set[int](), set[tuple[bool, bool]]()
    for seed in range(12):
        rollout = known_rollout(vae, 2, 12, random.Random(seed), CPU, pans=0.5)
        assert rollout.latents.shape == (2, 16, 36, 10, 16) and len(rollout.plan) == rollout.chunks == 12
        assert rollout.given is not None and rollout.given.shape == (2, 36, 16)
        whole = [chunk for chunk in range(12) if bool(rollout.given[:, 3 * chunk:3 * chunk + 3].all())]
        assert whole == [0, *rollout.turns[:1]] if rollout.turns else whole[0] == 0
        said = " ".join(prompt for row in rollout.prompts for prompt in row)
        moves = bool({"pans", "moves", "panning"} & set(said.replace(",", "").split()))
        partly = rollout.given.any(2) & ~rollout.given.all(2)
        assert moves == bool(partly.any())
        pans.add((moves, bool(rollout.turns)))
        kinds.add(min(2, len(rollout.turns)))
        if rollout.turns[1:]:  # the leftmost landmarks, where no subject comes: away, and home again
            edge = rollout.latents[..., 5:8, :3]
            home, away, back = (edge[:, :, 3 * chunk + 2] for chunk in (rollout.turns[0] - 1, *rollout.turns[:2]))
            assert float((home - back).square().mean()) < float((home - away).square().mean())
    assert {0, 2} <= kinds and len(pans) == 4, "cameras that stand or pan, and such that came home"


def test_a_view_is_given_once_and_remembered_where_the_camera_comes_back_to_it() -> None:
    home, away, left = (Scene("red", "ball", "hops", "snow", "day", camera) for camera in ("still", "away", "left"))
    scenes = (home, away, home, away, left, home, away)     # one a chunk; the pan goes on to a view of its own
    cues = tuple((chunk * CHUNK_SECONDS, scene) for chunk, scene in enumerate(scenes))
    given = news(World.sample(random.Random(0), cues), len(scenes)).unflatten(0, (-1, 3))
    assert given.all((1, 2)).tolist() == [True, True, False, False, True, False, True]
    assert not given[2:4].any() and not given[5, :, 1:].any(), "of a pan's last step, one column"


@pytest.mark.parametrize("camera", ["right", "left"])
def test_what_comes_in_under_a_pan_is_given_and_nothing_else(camera: str) -> None:
    """Landmarks that no chunk before could see change only the columns that are given; of what the encoder's blocks add
    to a cell's own pixels, which sees its neighbours, next to nothing is elsewhere."""
    vae, rng, chunk = weights_vae(), random.Random(3), 4
    side, there, elsewhere = 1 if camera == "right" else -1, 0.0, 0.0
    for _ in range(8):
        cues = ((0.0, replace(Scene.sample(rng), camera=camera)),)
        world = World.sample(rng, cues, 5 * CHUNK_SECONDS)
        middle = world.camera(chunk * CHUNK_SECONDS - 1 / FPS) + WIDTH / 2
        seen = tuple(mark for mark in world.landmarks if side * (mark.x - middle) < WIDTH / 2 + REACH)
        given = news(world, chunk + 1)[3 * chunk:]
        assert [int(row.sum()) for row in given] == [1, 2, 3] and bool(news(world, 1).all())
        videos = [draw_video(each, chunk + 1) for each in (world, replace(world, landmarks=seen))]
        with torch.no_grad():
            own, whole = ((encode(videos[0]) - encode(videos[1]))[0, :, 3 * chunk:].square().sum((0, 2))
                          for encode in (vae.projected, vae.encode))
        assert not ((own > 1e-8) & ~given).any()
        there, elsewhere = there + float(whole[given].sum()), elsewhere + float(whole[~given].sum())
    assert there > 1, "some landmark came in"
    assert elsewhere < 1e-4 * there


def test_an_anchored_stream_is_given_what_it_cannot_know_and_held_to_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    three, vae = trio(), weights_vae()
    config = Distillation(Budget(steps=9), videos=1, first=6, last=6, critic_updates=1, streaming=True, anchored=1.0)
    turning = [known_rollout(vae, 1, 6, random.Random(seed), CPU) for seed in range(9)]
    truth = next(rollout for rollout in turning if rollout.turns and rollout.turns[0] < 5)
    known = truth.latents.clone()
    monkeypatch.setattr(dmd, "known_rollout", lambda *_: truth)
    stream, made = Stream(three, config, random.Random(0), vae), []
    for step in range(4):
        losses = stream.step(step)
        made.append(int(losses["chunk"]))
        assert float(losses["error"]) > 0 and float(losses["dmd"]) > 0
    given = [0, truth.turns[0]]
    assert made == [chunk for chunk in range(6) if chunk not in given]
    for chunk in range(6):
        part = slice(3 * chunk, 3 * chunk + 3)
        assert torch.equal(truth.latents[:, :, part], known[:, :, part]) == (chunk in given)

    held = {}
    for anchor in (0.0, 1e4):
        learner = trio()
        monkeypatch.setattr(dmd, "known_rollout", lambda *_: known_rollout(vae, 1, 6, random.Random(2), CPU))
        torch.manual_seed(0)
        stream = Stream(learner, replace(config, anchor=anchor), random.Random(0), vae)
        stream.step(0)
        held[anchor] = learner.student.network.transformer.proj_out.weight.detach().clone()
    assert not torch.allclose(held[0.0], held[1e4]), "the truth is in the gradient"


def test_the_truth_teaches_in_every_step_and_in_every_process_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    vae = weights_vae()
    config = Distillation(Budget(steps=9), videos=1, first=6, last=6, critic_updates=99, streaming=True, anchored=1.0)
    monkeypatch.setattr(dmd, "known_rollout", lambda *_: known_rollout(vae, 1, 6, random.Random(2), CPU))

    def steps(config: Distillation, others: float) -> list[tuple[dict, bool]]:
        three, taken = trio(), []
        three.accelerator.others = others  # type: ignore[attr-defined]
        stream = Stream(three, config, random.Random(0), vae)
        for step in range(2):
            before = three.student.network.transformer.proj_out.weight.detach().clone()
            losses = stream.step(step)
            taken.append((losses, not torch.equal(before, three.student.network.transformer.proj_out.weight)))
        return taken

    for losses, moved in steps(config, 0.0):
        assert moved and float(losses["error"]) > 0
    alone, joined = steps(replace(config, anchored=0.0), 0.0)[1], steps(replace(config, anchored=0.0), 1.0)[1]
    for losses, moved in (alone, joined):
        assert not moved and "error" not in losses and "dmd" not in losses
    assert "student_norm" not in alone[0] and float(joined[0]["student_norm"]) == 0, "it joins with nothing to add"


def test_anchored_streams_want_the_autoencoder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = replace(streamed(Budget(steps=1)), anchored=0.5)
    with pytest.raises(ValueError, match=r"0\.5 of the streams anchored to the truth: that needs the autoencoder"):
        Stream(trio(), config, random.Random(0))
    assert main(["train", "context", "--out", str(tmp_path), "--anchored", "0.5"]) == 2
    assert "--anchored 0.5: expected 0 to 1, and --streaming" in capsys.readouterr().err


def test_stage_two_grows_and_its_ablation_does_not_wait() -> None:
    config = stage_two(Budget(steps=10))
    assert config.last * 0.75 > 20 and config.first > config.targets
    assert without_curriculum(config).ramp == 1


def test_stage_one_alone_never_sees_more_than_its_window() -> None:
    config = shortened(streamed(Budget(steps=10)), 4)
    three, lengths = trio(), set()
    stream = Stream(three, replace(config, videos=1, size=SIZE), random.Random(0))
    for step in range(6):
        stream.step(step)
        lengths.add(stream.rollouts[0].chunks)
    assert lengths == {4}
    with pytest.raises(ValueError, match="at least 4"):
        shortened(stage_two(Budget(steps=10)), 3)
    with pytest.raises(ValueError, match="rollouts of 0 chunks"):
        shortened(streamed(Budget(steps=10)), 0)


def test_the_error_bank_keeps_the_newest_by_noise_level() -> None:
    bank, rng = ErrorBank(grids=4, size=2), random.Random(0)
    like = torch.zeros(3, 2)
    assert torch.equal(bank.draw(like, rng), like)
    bank.add(torch.tensor([[1.0, 1], [2, 2], [3, 3], [9, 9]]), torch.tensor([0.1, 0.1, 0.1, 0.9]))
    assert len(bank) == 2
    drawn = torch.cat([bank.draw(like, rng) for _ in range(20)])
    assert set(drawn[:, 0].tolist()) == {2.0, 3.0}


def test_teachers_see_contexts_of_every_length(monkeypatch: pytest.MonkeyPatch) -> None:
    class Videos:
        chunks = 27

        def __len__(self) -> int:
            return 2

        def clip(self, video: int, chunk: int, count: int) -> Tensor:
            return torch.zeros(1, 3 * count, 1, 1)

        def prompt(self, *_: object) -> str:
            return "a red ball"

    videos: LatentVideos = Videos()  # type: ignore[assignment]
    config = TeacherTraining(Budget(), videos=3)
    walks = [teacher_walk(videos, config, random.Random(i), CPU) for i in range(60)]
    lengths = {walk.chunks for walk in walks}
    assert min(lengths) * 0.75 >= 5 and max(lengths) == 27 and len(lengths) > 10
    said = [prompt for walk in walks for row in walk.prompts for prompt in row]
    assert 0.05 < said.count("") / len(said) < 0.15
    levels = many_levels(32)
    assert levels[0] == 1 and 0 < levels[-1] < 0.1 and sorted(levels, reverse=True) == list(levels)


def test_the_full_size_fits_together_on_the_meta_device() -> None:
    """Student, critic and teacher of 1.3B, a memory of 21 latent frames, one step of stage 2: every shape fits."""
    meta, scale = torch.device("meta"), FullScale()
    student, critic, teacher = networks(scale, meta)
    assert sum(p.numel() for p in student.parameters()) / 1e9 == pytest.approx(1.42, rel=0.01)
    assert student.transformer.gradient_checkpointing
    wide, inner = 1536, 8960
    adapters = 30 * 128 * (8 * 2 * wide + 2 * (wide + inner))
    assert sum(p.numel() for p in teacher.parameters() if p.requires_grad) == adapters
    assert len(LORA_TARGETS) == 6
    for network in (student, critic, teacher):  # the blocks are all alike: one of them says as much as thirty
        network.transformer.blocks = network.transformer.blocks[:1]
    stage = scale.distillation
    assert (stage.first * 3, stage.last * 3, stage.targets * 3) == (84, 105, 21)
    config = Distillation(Budget(steps=1), videos=1, targets=1, first=8, last=8, guidance=stage.guidance,
                          shift=stage.shift, size=stage.size)
    learners = []
    for network in (student, critic):
        optimizers = [torch.optim.SGD(network.parameters(), 1e-6)]
        learners.append(Learner(network, network, optimizers, optimizers, Rates(0.0, 1e-6), None))
    three = Trio(Bare(meta), *learners, teacher.requires_grad_(False))  # type: ignore[arg-type]
    losses = distill_step(three, config, 0, random.Random(0))
    assert losses["chunks"] == 8 and isinstance(losses["dmd"], Tensor) and losses["dmd"].shape == ()


def test_one_full_step_at_toy_size_reports_its_memory(capsys: pytest.CaptureFixture[str]) -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    assert main(["train", "full-step", "--tiny", "--threads", "1"]) == 0
    out = capsys.readouterr().out
    assert "peak of the step, GiB" in out and "dmd" in out
    assert main(["train", "full-step", "--tiny", "--chunks", "0"]) == 2
    assert "expected at least its 1 targets" in capsys.readouterr().err


def test_stages_without_their_forerunners_say_what_to_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "context", "--out", str(tmp_path)]) == 2
    assert "python -m cf_app train distill" in capsys.readouterr().err


@pytest.mark.parametrize(("share", "gained"), [((), 0.5), (("--share", "0.25"), 0.125)], ids=["all", "a quarter"])
def test_what_was_learnt_is_carried_over_to_other_weights(tmp_path: Path, share: tuple[str, ...],
                                                          gained: float) -> None:
    torch.manual_seed(0)
    students = {name: Student.embedded() for name in ("new", "old", "distilled")}
    students["distilled"].load_state_dict(students["old"].state_dict())
    with torch.no_grad():
        students["distilled"].transformer.proj_out.bias.add_(0.5)
    for name, student in students.items():
        student.save(tmp_path / name / "student")
    arguments = ["train", "merge", "--out", str(tmp_path), "--start", "new", "--teacher", "old", *share]
    assert main([*arguments, "--student", "distilled", "--name", "both"]) == 0
    new, both = (Student.load(tmp_path / name / "student").state_dict() for name in ("new", "both"))
    for name, weight in both.items():
        moved = name == "transformer.proj_out.bias"
        torch.testing.assert_close(weight, new[name] + moved * gained, rtol=0, atol=2e-2 if moved else 0)
    assert main([*arguments, "--student", "nobody"]) == 2


def test_a_share_beyond_all_of_it_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Student.embedded().save(tmp_path / "one" / "student")
    same = [word for option in ("--start", "--teacher", "--student") for word in (option, "one")]
    assert main(["train", "merge", "--out", str(tmp_path), *same, "--share", "1.5"]) == 2
    assert "a share of 1.5 of what was learnt: expected above 0 and at most 1" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["fsdp", "zero2"])
def test_accelerate_reads_its_configurations(name: str) -> None:
    path = Path("cf_app/training/accelerate") / f"{name}.yaml"
    config = load_config_from_file(str(path))
    assert config.num_processes == 8 and config.mixed_precision == "bf16"
    assert yaml.safe_load(path.read_text())["distributed_type"] in {"FSDP", "DEEPSPEED"}

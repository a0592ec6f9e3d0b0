"""The measures of memory, prompts, switches and drift: the truth scores what it must, and so does its opposite."""
from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import cf_app
from cf_app.cli import main
from cf_app.config import Geometry
from cf_app.evaluation import clips, drift, landmarks, likeness, prompts, revisit
from cf_app.evaluation.films import Film, Studio, Take, draw, go_on, recoded, shoot, with_steps, world_of
from cf_app.evaluation.probe import Probe, save_probe
from cf_app.evaluation.proofs import policies, tau_sweep
from cf_app.evaluation.report import table
from cf_app.memory.policy import SlowFast
from cf_app.training.data import CHUNK_FRAMES, CHUNK_SECONDS
from cf_app.training.grammar import ATTRIBUTES, Scene
from cf_app.training.world import FPS, GRID, WIDTH
from tests.tiny import tiny_engine

SMALL = Geometry(latent_channels=4, latent_height=10, latent_width=16)


def view_path(take: Take) -> list[float]:
    world = world_of(take)
    return [world.view(i / FPS) for i in range(take.chunks * CHUNK_FRAMES)]


def test_revisits_of_the_sweep_are_where_its_camera_was_before() -> None:
    course = revisit.sweep_course(2, 8.0)
    path = view_path(course.takes[0])
    (_, rows), = course.plan.items()
    for r in rows:
        assert {path[i] for i in revisit.window(r.back)} == {path[r.left]}, "it is there again"
        assert abs(path[r.left] - path[r.away]) >= WIDTH, "and was out of sight"
        assert r.left < r.away < r.back and r.gap == pytest.approx(8, abs=CHUNK_SECONDS / 2)
        assert max(revisit.window(r.back)) < course.takes[0].chunks * CHUNK_FRAMES


@pytest.fixture(scope="module")
def truth():
    course = revisit.sweep_course(12, 8.0)
    takes = [replace(take, keep=revisit.wanted(course.plan)) for take in course.takes]
    revisits, = course.plan.values()
    return takes, [revisit.group_of(take) for take in takes], revisits, [draw(take) for take in takes]


def test_the_truth_scores_one_and_its_camera_has_moved(truth) -> None:
    _, groups, revisits, films = truth
    result = revisit.score(revisit.compare(films, groups, revisits))
    assert result.mean == pytest.approx(1, abs=1e-3) and result.low == pytest.approx(1, abs=1e-3)
    assert result.recognised == 1
    assert 0.5 < result.moved < 4
    assert result.contrast > 10


def test_another_random_world_scores_zero(truth) -> None:
    takes, groups, revisits, films = truth
    strangers = [draw(replace(take, seed=take.seed + 500)) for take in takes]
    came_back = {i for r in revisits for i in revisit.window(r.back)}
    mixed = [Film({i: (other if i in came_back else film).frames[i] for i in film.frames})
             for film, other in zip(films, strangers, strict=True)]
    rows = revisit.compare(mixed, groups, revisits)
    result = revisit.score(rows)
    assert abs(result.mean) < 0.3 and result.low < 0 < result.high
    assert 0.2 < result.recognised < 0.8
    above, low, _ = revisit.difference(revisit.compare(films, groups, revisits), rows)
    assert above == pytest.approx(1 - result.mean) and low > 0.4


def test_small_misalignment_is_forgiven_and_a_still_camera_is_found_out(truth) -> None:
    takes, groups, revisits, films = truth
    came_back = {i for r in revisits for i in revisit.window(r.back)}
    late = [Film({i: film.frames.get(i + revisit.STRIDE, film.frames[i]) if i in came_back else film.frames[i]
                  for i in film.frames}) for film in films]
    assert revisit.score(revisit.compare(late, groups, revisits)).mean > 0.9
    still = [draw(replace(take, cues=tuple((at, replace(scene, camera="still")) for at, scene in take.cues)))
             for take in takes]
    result = revisit.score(revisit.compare(still, groups, revisits))
    assert result.moved < 0.1 and result.mean == 0
    rows = [revisit.Distances(0.3, (1.0,), 0.3 + 0.01 * i) for i in range(4)]  # it stays, and its pictures flicker
    assert revisit.score(rows).mean == pytest.approx(0, abs=0.1)


def test_blank_worlds_score_nothing(truth) -> None:
    _, groups, revisits, films = truth
    blank = [Film({i: np.full_like(picture, 90) for i, picture in film.frames.items()}) for film in films]
    result = revisit.score(revisit.compare(blank, groups, revisits))
    assert (result.mean, result.moved, result.contrast) == (0, 0, 0)


@pytest.mark.parametrize("gap", [4.0, 16.0, 24.0])
def test_other_gaps_come_back_too(gap: float) -> None:
    course = revisit.sweep_course(4, gap)
    assert all(abs(r.gap - gap) <= CHUNK_SECONDS / 2 for r in course.plan[gap])
    films = [draw(replace(take, keep=revisit.wanted(course.plan))) for take in course.takes]
    groups = [revisit.group_of(take) for take in course.takes]
    result = revisit.score(revisit.compare(films, groups, course.plan[gap]))
    assert result.mean == pytest.approx(1, abs=1e-3)


def test_the_first_chunk_shows_nothing_of_what_comes_back() -> None:
    """Otherwise an attention sink would remember it for every policy."""
    course = revisit.sweep_course(2, 8.0)
    path = view_path(course.takes[0])
    revisits, = course.plan.values()
    assert min(path[r.left] for r in revisits) - path[CHUNK_FRAMES - 1] >= WIDTH


def test_too_few_seeds_and_unknown_gaps_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        revisit.sweep_course(1, 8.0)
    with pytest.raises(ValueError, match="expected at least"):
        revisit.sweep_course(4, 0.5)


def test_a_switch_shows_when_it_is_read_twice() -> None:
    assert prompts.first_shown([False, True, False, True, True]) == 3
    assert prompts.first_shown([True, True]) == 0
    assert prompts.first_shown([False, False, True]) == 2
    assert prompts.first_shown([False, True, False]) is None


def test_latencies_go_to_the_attribute_that_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    takes = prompts.switch_takes(6)
    changed = [[n for n in ATTRIBUTES if getattr(t.cues[0][1], n) != getattr(t.cues[1][1], n)] for t in takes]
    assert changed == [[name] for name in ATTRIBUTES]

    def two_chunks_late(_: object, film: Film, chunks) -> torch.Tensor:
        take = takes[film.promotions]
        at, ((_, before), (_, after)) = prompts.SWITCH_AT + 2, take.cues
        unchanged, late = replace(take, cues=take.cues[:1]), replace(take, cues=((0, before), (at, after)))
        return torch.cat([prompts.expected(unchanged if chunk < at else late, (chunk,)) for chunk in chunks])

    monkeypatch.setattr(prompts, "readings", two_chunks_late)
    rows = prompts.latencies(Probe(), takes, [Film({}, promotions=i) for i in range(6)])
    assert rows["all"] == prompts.Latency(6, 1.0, 2.0, 2.0)
    assert rows["colour"].count == 1


def test_a_sweep_that_never_comes_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it has gone, a camera that has swept away stands: only on its way can it be told from one that stayed."""
    take = next(take for take in prompts.switch_takes(60) if take.cues[1][1].camera == "away" != take.cues[0][1].camera)
    stays = replace(take, cues=((0, replace(take.cues[0][1], camera="still")),))
    for shown, seen in ((1.0, take), (0.0, stays)):
        monkeypatch.setattr(prompts, "readings", lambda _, film, chunks, seen=seen: prompts.expected(seen, chunks))
        assert prompts.latencies(Probe(), [take], [Film({})])["camera"].shown == shown


def test_drift_sees_a_change_of_colour_and_of_sharpness(monkeypatch: pytest.MonkeyPatch) -> None:
    take = drift.drift_takes(1, 2)[0]
    texture = np.random.default_rng(0).integers(80, 120, (8, 8, 3)).astype(np.uint8)
    second = drift.MINUTE * 12
    film = Film({i: texture if i < second else texture // 2 + 60 for i in take.keep})

    def forgets_the_colour(_: object, film: Film, chunks) -> torch.Tensor:
        late = [[int(chunk >= drift.MINUTE), 0, 0, 0, 0, 0] for chunk in chunks]
        return prompts.expected(take, chunks) + torch.tensor(late)

    monkeypatch.setattr(drift, "readings", forgets_the_colour)
    first, then = drift.minute_by_minute(Probe(), [take], [film])
    assert (first.shift, first.contrast, first.sharpness, first.accuracy) == (0, 1, 1, 1)
    assert then.shift == pytest.approx(10, abs=2)
    assert then.contrast == pytest.approx(0.5, abs=0.05) and then.sharpness == pytest.approx(0.5, abs=0.05)
    assert then.accuracy == pytest.approx(5 / 6)


def test_films_depend_on_seed_policy_and_steps_alone() -> None:
    engine = tiny_engine(geometry=SMALL)
    take = replace(prompts.prompt_takes(1)[0], chunks=3, keep=(0, 30))
    film = shoot(engine, take)
    assert sorted(film.frames) == [0, 30] and film.frames[30].shape == (80, 128, 3)
    assert np.array_equal(film.frames[30], shoot(engine, take).frames[30])
    assert not np.array_equal(film.frames[30], shoot(engine, replace(take, seed=1)).frames[30])
    assert not np.array_equal(film.frames[30], shoot(engine, replace(take, steps=2)).frames[30])
    assert len(engine.schedule) == 4 and with_steps(engine, 7).config.sampler.timesteps[-1] == 143
    with pytest.raises(ValueError, match="1 to 100"):
        with_steps(engine, 0)
    studio = Studio(lambda: engine)
    assert np.array_equal(next(studio.films([take])).frames[30], film.frames[30])
    through = next(studio.films([take], recoded)).frames[30]
    assert through.shape == (80, 128, 3) and np.array_equal(through, recoded(engine, take).frames[30])


def test_a_tau_sweep_promotes_evenly_spaced_parts() -> None:
    rng = random.Random(0)
    films = [Film({}, tuple(rng.random() for _ in range(200)))]
    swept = tau_sweep(SlowFast(), films, 2)
    parts = [np.mean([value < policy.tau for value in films[0].similarities]) for policy in swept.values()]
    assert [float(part) for part in parts] == pytest.approx([0.25, 0.75], abs=0.02)
    assert tau_sweep(SlowFast(), [Film({})], 2) == {}


@pytest.mark.parametrize("size", [3, 6])
def test_compared_policies_have_the_same_room(size: int) -> None:
    compared = policies(SlowFast(tau=0.9), size)
    names = ("slow-fast", "fifo", "fifo-bounded", "sink-window", "infinity-rope", "uniform-1", "uniform-2")
    assert {compared[name].rule(3).slots for name in names} == {3 + size + 6}
    assert compared["slow-fast"] == SlowFast(slow=size, tau=0.9)


def test_the_table_lines_up() -> None:
    lines = table({"a": {"x": 0.5, "y": [1.0, 0.5, 1.5]}, "long": {"x": 3}}).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert "1.00 [0.50, 1.50]" in lines[1] and lines[2].endswith("-")


def test_a_clip_shows_films_side_by_side_with_the_prompt_in_force(tmp_path: Path) -> None:
    take = replace(clips.steering(), chunks=5, keep=(0, 24, 48))
    red, blue = (np.full((80, 128, 3), colour, np.uint8) for colour in ((200, 30, 30), (30, 30, 200)))
    films = {"one": Film(dict.fromkeys(take.keep, red)), "two": Film(dict.fromkeys(take.keep, blue))}
    row = clips.write_clip(tmp_path / "clip.webp", take, films)
    assert row["seconds"] == pytest.approx(3.75)
    with Image.open(tmp_path / "clip.webp") as clip:
        assert clip.n_frames == 2 and clip.info["loop"] == 0     # equal pictures are one that stands longer
        first = np.asarray(clip.convert("RGB")).astype(int)
        clip.seek(1)
        last = np.asarray(clip.convert("RGB")).astype(int)
    height, width = first.shape[:2]
    assert first[height // 2, width // 4, 0] > 150 and first[height // 2, 3 * width // 4, 2] > 150
    assert np.abs(first - last)[:height - clips.BAR].max() < 40 < np.abs(first - last)[height - clips.BAR:].max()


def test_what_clips_film_leaves_and_comes_back_and_changes() -> None:
    cameras = [scene.camera for _, scene in clips.looking_away().cues]
    assert cameras == ["right", "still", "away", "still"]
    changes = [prompt for _, prompt in clips.steering().prompts()]
    assert len(set(changes)) == len(changes) == 6


def gradient_film(blur: int) -> Film:
    """An upright edge, spread over `blur` pixels, in every picture of the last chunk."""
    ramp = np.clip((np.arange(64) - 32) / blur, 0, 1) * 200
    picture = np.broadcast_to(ramp[None, :, None], (8, 64, 3)).astype(np.uint8)
    return Film(dict.fromkeys(range(36), picture))


def test_crispness_is_of_edges_and_likeness_of_everything() -> None:
    sharp, soft = gradient_film(1), gradient_film(4)
    assert likeness.crispness([sharp], [sharp], 2) == 1 and likeness.psnr([sharp], [sharp], 2) > 100
    assert likeness.crispness([soft], [sharp], 2) == pytest.approx(1 / 4, rel=0.01)
    off = Film({i: picture + 10 for i, picture in sharp.frames.items()})
    assert likeness.crispness([off], [sharp], 2) == 1
    assert likeness.psnr([off], [sharp], 2) == pytest.approx(20 * np.log10(255 / 10))


def test_films_that_go_on_begin_with_the_truth_and_are_compared_later() -> None:
    takes = likeness.held_takes(3)
    assert {take.cues[0][1].camera for take in takes} == {"still"} and len({take.seed for take in takes}) == 3
    assert min(takes[0].keep) >= CHUNK_FRAMES
    engine = tiny_engine(geometry=SMALL)
    take = replace(takes[0], chunks=2, keep=tuple(range(2 * CHUNK_FRAMES)))
    film, coded, free = go_on(engine, take), recoded(engine, take), shoot(engine, take)

    def apart(one: Film, other: Film, frames: range) -> float:
        return float(np.mean([np.abs(one.frames[i].astype(int) - other.frames[i]).mean() for i in frames]))

    first, second = range(CHUNK_FRAMES), range(CHUNK_FRAMES, 2 * CHUNK_FRAMES)
    assert apart(film, coded, first) == 0 < apart(free, coded, first)
    assert apart(film, coded, second) > 0


def test_landmarks_of_the_world_are_found_and_what_only_resembles_them_is_not() -> None:
    takes = landmarks.pan_takes(6)
    assert {take.cues[0][1].camera for take in takes} == {"left", "right"}
    assert all(world_of(take).view(frame / FPS) % GRID == 0 for take in takes for frame in take.keep)
    truth, bare = [draw(take) for take in takes], [landmarks.draw_without(take) for take in takes]
    assert 1.5 < landmarks.landmarks_per_picture(takes, truth) < WIDTH / (5 * GRID), "some are behind the subject"
    assert landmarks.landmarks_per_picture(takes, bare) < 0.1

    def altered(change: Callable[[np.ndarray], np.ndarray]) -> float:
        films = [Film({at: change(picture.astype(np.float32)) for at, picture in film.frames.items()})
                 for film in truth]
        return landmarks.landmarks_per_picture(takes, films)

    there = landmarks.landmarks_per_picture(takes, truth)
    assert altered(lambda picture: picture) == there
    assert altered(lambda picture: np.roll(picture, 4, 1)) < 0.5 * there, "beside the grid"
    assert altered(lambda picture: picture[..., ::-1]) < 0.3 * there, "in other colours"
    assert altered(lambda picture: sum(np.roll(picture, i, 1) for i in range(-6, 7)) / 13) < 0.3 * there, "blurred"


def test_a_landmark_is_counted_once_and_not_where_a_subject_hides_it() -> None:
    scene = Scene("red", "ball", "floats", "snow", "day", "still")
    shapes, free = landmarks.shapes_of(scene), np.zeros((80, 128), bool)
    house, tower = shapes[0], shapes[-1]
    assert landmarks.found(house.picture, shapes, free) == landmarks.found(tower.picture, shapes, free) == 1
    assert landmarks.found(house.picture, shapes, house.inside) == 0


def test_autoencoder_and_shapes_get_tables_and_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cf_app, "load", lambda *_, **__: tiny_engine(geometry=SMALL))
    monkeypatch.setattr(likeness, "HELD_CHUNKS", (1, 2))
    few = ["--clips", "2", "--held", "3", "--out", str(tmp_path), "--workers", "1"]
    assert main(["prove", "autoencoder", "hold", *few]) == 0
    data = json.loads((tmp_path / "proof.json").read_text())
    assert set(data["autoencoder"]["rows"]) == {"camera stands", "camera pans"}
    assert set(data["hold"]["rows"]["student, all"]) == {"dB in chunk 2", "dB in chunk 3"}
    for name in ("autoencoder.png", "hold.png"):
        with Image.open(tmp_path / name) as picture:
            assert picture.width > 128
    assert main(["prove", "hold", "--held", "0", *few[4:]]) == 2
    assert main(["prove", "landmarks", "--pans", "1", *few[4:]]) == 0
    rows = json.loads((tmp_path / "proof.json").read_text())["landmarks"]["rows"]
    assert list(rows) == ["truth without landmarks", "truth", "truth, autoencoder", "student"]
    with Image.open(tmp_path / "landmarks.png") as picture:
        assert picture.width > 128


def test_one_command_writes_tables_numbers_and_pictures(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(cf_app, "load", lambda *_, **__: tiny_engine(geometry=SMALL))
    monkeypatch.setattr(drift, "MINUTE", 8)
    save_probe(Probe().eval(), tmp_path / "probe.safetensors")
    common = ["--probe", str(tmp_path / "probe.safetensors"), "--out", str(tmp_path / "proof"), "--workers", "1"]
    small = ["--seeds", "2", "--policies", "slow-fast", "fifo", "--taus", "0", "--prompts", "1", "--switches", "1",
             "--films", "1", "--minutes", "1", "--steps", "1"]
    monkeypatch.setattr(clips, "AWAY_CHUNKS", 2)
    assert main(["prove", "prompts", "revisit", "switch", "drift", "steps", "clips", *common, *small]) == 0
    data = json.loads((tmp_path / "proof" / "proof.json").read_text())
    rows = data["revisit"]["rows"]
    assert list(rows) == ["truth", "truth, autoencoder", "slow-fast", "fifo"]
    assert rows["truth"]["8 s"][0] > 0.99 > rows["fifo"]["8 s"][0]
    assert data["switch"]["rows"]["truth: all"]["count"] == 1
    assert set(data["drift"]["rows"]) == {"truth, minute 1", "student, minute 1"}
    for name in ("revisit.png", "switch_keep.png", "drift.png", "remember.webp", "steer.webp"):
        with Image.open(tmp_path / "proof" / name) as picture:
            assert picture.width > 128
    assert "slow-fast is above at 8 s" in capsys.readouterr().out
    sized = ["--seeds", "2", "--sizes", "3", "6", "--policies", "slow-fast", "uniform-1"]
    assert main(["prove", "sizes", *common, *sized]) == 0
    rows = json.loads((tmp_path / "proof" / "proof.json").read_text())["sizes"]["rows"]
    assert list(rows) == [f"slow {size}: {name}" for size in (3, 6) for name in ("slow-fast", "uniform-1")]
    assert "slow-fast is above at 8 s" in rows["slow 3: uniform-1"]
    for tau in ("0", "1"):   # a gate that lets in nothing, and everything
        assert main(["prove", "sizes", *common, "--seeds", "2", "--sizes", "3", "--policies", "slow-fast",
                     "--tau", tau]) == 0
        measured = json.loads((tmp_path / "proof" / "proof.json").read_text())["sizes"]
        row, = measured["rows"].values()
        assert measured["settings"]["memory"]["tau"] == float(tau), "the record says which"
        assert row["promoted"] == 0 if tau == "0" else row["promoted"] > 0.5
    assert main(["prove", "sizes", *common, "--tau", "2"]) == 2
    assert main(["prove", "sizes", *common, "--sizes", "0"]) == 2
    assert main(["prove", "memory", *common]) == 2
    assert main(["prove", "revisit", *common, "--policies", "best"]) == 2

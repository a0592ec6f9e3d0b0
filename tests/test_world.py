"""The procedural world: pictures are functions of world and time, prompts say what is drawn, cameras come back."""
from __future__ import annotations

import itertools
import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cf_app.training.grammar import ATTRIBUTES, Scene, describe, vocabulary
from cf_app.training.world import AWAY, FPS, SWEEP_SECONDS, World, render

SCENE = Scene("red", "ball", "rolls", "meadow", "day", "still")


def world(scene: Scene, seed: int = 1) -> World:
    return World.sample(random.Random(seed), ((0.0, scene),))


def test_a_picture_depends_on_its_time_alone() -> None:
    w, times = world(SCENE), torch.tensor([0.0, 3.5, 7.25])
    together = render(w, times)
    assert together.shape == (3, 3, 80, 128)
    assert 0 <= float(together.min()) <= float(together.max()) <= 1
    torch.testing.assert_close(render(w, times[1:2])[0], together[1])


@pytest.mark.parametrize(("name", "channel"), [("red", 0), ("green", 1), ("blue", 2)])
def test_the_subject_has_its_colour(name: str, channel: int) -> None:
    scene = Scene(name, "box", "hops", "snow", "day", "still")
    other = Scene("white", "box", "hops", "snow", "day", "still")
    times = torch.arange(4) / 4
    a, b = (render(World.sample(random.Random(5), ((0.0, s),)), times) for s in (scene, other))
    changed = (a - b).abs().sum(1) > .3
    mean = torch.stack([a[:, c][changed].mean() for c in range(3)])
    assert int(mean.argmax()) == channel


def test_a_change_of_prompt_fades_and_leaves_the_landmarks() -> None:
    cues = ((0.0, SCENE), (3.0, Scene("red", "ball", "rolls", "meadow", "night", "still")))
    w = World.sample(random.Random(2), cues)
    light = render(w, torch.tensor([2.9, 3.5, 4.5])).mean((1, 2, 3))
    assert light[0] > light[1] > light[2]
    assert w.scene_at(2.9).time == "day"
    assert w.scene_at(3.0).time == "night"


def test_the_camera_never_jumps() -> None:
    cues = ((0.0, Scene("red", "ball", "rolls", "meadow", "day", "right")),
            (5.0, Scene("red", "ball", "rolls", "meadow", "day", "away")),
            (11.0, Scene("red", "ball", "rolls", "meadow", "day", "left")))
    w = World.sample(random.Random(3), cues)
    path = [w.view(t / 16) for t in range(320)]
    assert max(abs(a - b) for a, b in itertools.pairwise(path)) <= 1.5 * AWAY / SWEEP_SECONDS / FPS + 2
    assert max(abs(a - b) for a, b in itertools.pairwise(path[:80])) < 3, "a pan is much slower"


@pytest.mark.parametrize("camera", ["still", "right", "left"])
def test_a_sweep_goes_by_a_whole_picture_and_the_sweep_back_to_where_it_stood(camera: str) -> None:
    stands, away = (Scene("red", "ball", "rolls", "meadow", "day", name) for name in (camera, "away"))
    w = World.sample(random.Random(1), ((0.0, stands), (3.0, away), (9.0, SCENE)))
    home, rest = w.camera(3.0), SWEEP_SECONDS - 1 / FPS
    assert w.view(3.0 + rest) == w.view(9.0 - 1 / FPS) == home + AWAY
    assert w.view(9.0 + rest) == w.view(12.0) == home
    there = [w.view(3.0 + i / FPS) for i in range(5)]
    assert home < there[0] < there[1] < there[2] < there[3] < there[4]
    assert [w.view(9.0 + i / FPS) for i in range(5)] == pytest.approx([2 * home + AWAY - x for x in there])
    before, gone, back = render(w, torch.tensor([2.9999, 4.0, 10.0]))[:, :, :56, :15]
    assert float((before - gone).abs().max()) > 0.2
    assert float((before - back).abs().max()) < 1e-2


def test_a_film_may_begin_away_and_stay_so_while_something_else_changes() -> None:
    away = Scene("red", "ball", "rolls", "meadow", "day", "away")
    w = World.sample(random.Random(1), ((0.0, away), (3.0, Scene("blue", "ball", "rolls", "meadow", "day", "away"))))
    assert {w.view(t / 8) for t in range(60)} == {AWAY}


@pytest.mark.parametrize("motion", ATTRIBUTES["motion"])
def test_a_motion_starts_in_the_middle_whenever_its_prompt_begins(motion: str) -> None:
    """What a prompt's first chunk shows of its subject does not depend on the world's seed, nor on when it begins."""
    before = Scene("red", "ball", "hops" if motion != "hops" else "rolls", "meadow", "day", "still")
    after = Scene("red", "ball", motion, "meadow", "day", "still")
    early = World.sample(random.Random(1), ((0.0, after),))
    late = World.sample(random.Random(1), ((0.0, before), (6.0, after)))
    assert late.motion_clock(motion, 7.5) == pytest.approx(1.5) == pytest.approx(early.motion_clock(motion, 1.5))
    torch.testing.assert_close(render(late, torch.tensor([7.5, 8.0])), render(early, torch.tensor([1.5, 2.0])))


def test_a_motion_goes_on_when_only_its_colour_changes() -> None:
    cues = ((0.0, SCENE), (3.0, Scene("blue", "ball", "rolls", "meadow", "day", "still")))
    w = World.sample(random.Random(2), cues)
    assert w.motion_clock("rolls", 5.0) == pytest.approx(5.0)


@given(st.randoms(use_true_random=False), st.floats(0, 0.5))
def test_prompts_use_known_words_only(rng: random.Random, drop: float) -> None:
    text = describe(Scene.sample(rng), rng, drop)
    assert set(text.replace(",", "").split()) <= set(vocabulary())


def test_an_undropped_prompt_tells_scenes_apart() -> None:
    rng = random.Random(0)
    seen: dict[str, Scene] = {}
    for _ in range(300):
        scene = Scene.sample(rng)
        assert seen.setdefault(describe(scene), scene) == scene


def test_changed_changes_exactly_what_it_names() -> None:
    rng = random.Random(0)
    for name in ATTRIBUTES:
        other = SCENE.changed(rng, (name,))
        assert [n for n in ATTRIBUTES if getattr(other, n) != getattr(SCENE, n)] == [name]

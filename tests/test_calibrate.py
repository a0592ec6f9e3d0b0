"""The gate's threshold as measured on a student."""
from __future__ import annotations

import random

import pytest

from cf_app.config import Geometry
from cf_app.training.calibrate import CHUNKS, SCENES, TURNS, measure, threshold
from tests.tiny import tiny_engine


def test_the_threshold_lies_between_new_views_and_the_rest() -> None:
    tau = threshold([0.97, 0.98], [0.999, 0.9998], 0)
    assert 0.98 < tau < 0.999
    assert 1 - tau == pytest.approx((0.02 * 0.001) ** 0.5, abs=1e-4), "in the middle of the gap, on a logarithmic scale"


def test_some_overlap_costs_as_little_as_possible() -> None:
    rng = random.Random(0)
    turning = [0.9 + 0.05 * rng.random() for _ in range(50)] + [0.99]
    going_on = [0.96 + 0.04 * rng.random() for _ in range(50)] + [0.91]
    assert 0.949 < threshold(turning, going_on, 0) < 0.962


def test_of_the_rest_the_most_surprising_part_is_taken_too() -> None:
    going_on = [0.99 + 0.0001 * i for i in range(100)]
    tau = threshold([0.9, 0.95], going_on, 0.2)
    assert sum(value < tau for value in going_on) == 20
    assert threshold([0.9, 0.95, 0.991], going_on, 0.05) > 0.991, "new views come first"


def test_students_that_are_never_surprised_get_a_threshold_too_and_nothing_measured_is_refused() -> None:
    assert 0.9 < threshold([1.0, 1.0], [1.0]) <= 1
    with pytest.raises(ValueError, match="expected some of new views"):
        threshold([], [0.9])


def test_every_chunk_but_the_first_is_measured() -> None:
    engine = tiny_engine(geometry=Geometry(latent_channels=4, latent_height=10, latent_width=16))
    turning, going_on = measure(engine, SCENES[:1])
    assert len(turning) == len(TURNS)
    assert CHUNKS - len(TURNS) - 4 <= len(going_on) < CHUNKS - len(TURNS)
    assert all(-1 <= value <= 1 + 1e-6 for value in turning + going_on)

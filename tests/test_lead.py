"""How many chunks are made before anyone asks."""

from __future__ import annotations

from cf_app.engine.lead import Lead


def after(seconds: list[float], sharing: int = 1) -> int:
    lead = Lead(3, 0.75)
    lead.took(9.0)  # the first one says nothing
    for value in seconds:
        lead.took(value)
    return lead.chunks(sharing)


def test_a_fast_engine_makes_chunks_when_they_are_asked_for() -> None:
    assert after([]) == 3, "its pace is not known"
    assert after([0.3]) == 0 and after([0.59]) == 0
    assert after([0.65]) == 1
    assert after([0.74]) == 3


def test_sessions_that_take_turns_share_the_time() -> None:
    assert [after([0.22], sharing) for sharing in (1, 2, 3, 4)] == [0, 0, 1, 3]


def test_it_follows_the_mean_and_not_single_chunks() -> None:
    assert after([0.3] * 8 + [1.2]) == 0
    assert after([0.3] * 8 + [0.8] * 40) == 3
    assert after([0.8] * 8 + [0.3] * 40) == 0


def test_it_can_be_fixed() -> None:
    lead = Lead(2, 0.75, adaptive=False)
    for _ in range(9):
        lead.took(0.1)
    assert lead.chunks() == 2

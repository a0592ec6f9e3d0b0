"""The timeline model: the prompt of a chunk, blends, loops, markers."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cf_app.engine.timeline import CUT, PromptCue, Timeline, Transition
from cf_app.engine.timeline_history import unrolled
from cf_app.engine.timeline_markers import EndMark, LoopMark, MemoryMark, PauseMark, SeedMark
from tests.timelines import timelines


def weights(timeline: Timeline, chunk: int) -> dict[str, float]:
    return {prompt: pytest.approx(share) for prompt, share in timeline.prompt_at(chunk).parts}


@settings(max_examples=1000, deadline=None)
@given(timelines(cuts=True, loop=False))
def test_a_cue_at_chunk_n_counts_exactly_from_n_on(timeline: Timeline) -> None:
    for index, cue in enumerate(timeline.cues):
        stop = timeline.cues[index + 1].start if index + 1 < len(timeline.cues) else cue.start + 5
        for chunk in {cue.start, stop - 1}:
            now = timeline.prompt_at(chunk)
            assert (now.cue, now.parts, now.steps) == (index, cue.shares, 0)
        assert timeline.prompt_at(cue.start).switched == (index > 0)
        assert timeline.prompt_at(cue.start).memory == cue.memory


@given(timelines(), st.integers(0, 400))
def test_shares_sum_to_one_and_folds_begin_with_one(timeline: Timeline, chunk: int) -> None:
    now = timeline.prompt_at(chunk)
    assert sum(share for _, share in now.parts) == pytest.approx(1)
    folds = list(now.folds())
    assert folds[0][1] == 1
    assert [prompt for prompt, _ in folds] == [prompt for prompt, _ in now.parts]
    mean: dict[str, float] = {}
    for prompt, t in folds:  # folding with lerp is the weighted mean
        mean = {p: (1 - t) * w for p, w in mean.items()}
        mean[prompt] = mean.get(prompt, 0) + t
    assert mean == {prompt: pytest.approx(share) for prompt, share in now.parts}


def test_step_i_of_n_weighs_i_plus_1_over_n() -> None:
    timeline = Timeline((PromptCue.of(0, "a"), PromptCue.of(10, "b", Transition(4, "spherical"))))
    assert [timeline.prompt_at(c).parts for c in (9, 10, 12)] == [
        (("a", 1.0),),
        (("a", 0.75), ("b", 0.25)),
        (("a", 0.25), ("b", 0.75)),
    ]
    assert timeline.prompt_at(13).parts == (("b", 1.0),)
    assert [(timeline.prompt_at(c).step, timeline.prompt_at(c).steps) for c in (10, 13, 14)] == [(0, 4), (3, 4), (0, 0)]
    assert [timeline.prompt_at(c).switched for c in (9, 10, 11)] == [False, True, False]


def test_a_blend_over_one_chunk_arrives_at_once() -> None:
    timeline = Timeline((PromptCue.of(0, "a"), PromptCue.of(3, "b", Transition(1))))
    assert timeline.prompt_at(3).parts == (("b", 1.0),)


def test_a_new_cue_during_a_blend_starts_from_what_is_in_force() -> None:
    timeline = Timeline(
        (PromptCue.of(0, "a"), PromptCue.of(4, "b", Transition(4)), PromptCue.of(6, "c", Transition(2)))
    )
    assert weights(timeline, 5) == {"a": 0.5, "b": 0.5}
    assert weights(timeline, 6) == {"a": 0.25, "b": 0.25, "c": 0.5}
    assert weights(timeline, 7) == {"c": 1.0}


def test_a_mix_of_prompts_blends_as_a_whole() -> None:
    mixed = PromptCue(2, (("b", 3.0), ("c", 1.0)), Transition(2))
    timeline = Timeline((PromptCue.of(0, "a"), mixed))
    assert weights(timeline, 2) == {"a": 0.5, "b": 0.375, "c": 0.125}
    assert timeline.prompt_at(3).caption == "75% b + 25% c"


def test_the_first_cue_has_nothing_to_blend_from() -> None:
    timeline = Timeline((PromptCue.of(0, "a", Transition(8)),))
    assert timeline.prompt_at(0).parts == (("a", 1.0),)


def test_a_loop_goes_back_and_switches_there() -> None:
    cues = (PromptCue.of(0, "a"), PromptCue.of(4, "b", memory="flush"), PromptCue.of(8, "c"))
    timeline = Timeline(cues, (SeedMark(5, 9), LoopMark(10, 4)))
    assert [timeline.prompt_at(c).caption for c in range(8, 18)] == list("ccbbbbccbb")
    assert timeline.prompt_at(10).switched
    assert timeline.prompt_at(10).memory == "flush"
    assert timeline.markers_at(11) == (SeedMark(5, 9),)
    assert timeline.end is None


def test_a_loop_into_the_middle_of_a_cue_cuts_and_keeps_the_memory() -> None:
    cues = (PromptCue.of(0, "a"), PromptCue.of(2, "b", Transition(4), "reset"), PromptCue.of(8, "c"))
    timeline = Timeline(cues, (LoopMark(9, 3),))
    now = timeline.prompt_at(9)
    assert (now.parts, now.switched, now.memory, now.steps) == ((("b", 1.0),), True, "keep", 0)


@settings(max_examples=300, deadline=None)
@given(timelines(loop=True), st.integers(0, 150))
def test_a_written_out_loop_is_the_same_film(timeline: Timeline, generated: int) -> None:
    written = unrolled(timeline, generated)
    assert written.loop is not None
    assert written.end == timeline.end or timeline.end is None
    for chunk in range(0, 200, 3):
        if timeline.end is not None and chunk >= timeline.end:
            break
        before, after = timeline.prompt_at(chunk), written.prompt_at(chunk)
        assert dict(after.parts) == pytest.approx(dict(before.parts))
        assert (after.switched, after.memory, after.steps) == (before.switched, before.memory, before.steps)
        kinds = [(m.kind, type(m)) for m in timeline.markers_at(chunk)]
        assert [(m.kind, type(m)) for m in written.markers_at(chunk)] == kinds


def test_markers_act_at_their_chunk() -> None:
    marks = (SeedMark(0, 3), MemoryMark.of(4, {"policy": "fifo"}), PauseMark(4), EndMark(9))
    timeline = Timeline((PromptCue.of(0, "a"),), marks)
    assert timeline.markers_at(4) == marks[1:3]
    assert timeline.markers_at(9) == (EndMark(9),)
    assert timeline.end == 9
    assert timeline.stop_of(0) == 9


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: Timeline(()), "0 cues"),
        (lambda: Timeline((PromptCue.of(1, "a"),)), "starts at chunk 1"),
        (lambda: Timeline((PromptCue.of(0, "a"), PromptCue.of(0, "b"))), "rising"),
        (lambda: PromptCue.of(0, "  "), "empty"),
        (lambda: PromptCue.of(0, "a" * 10_000), "10000 characters"),
        (lambda: PromptCue.of(-1, "a"), "-1"),
        (lambda: PromptCue(0, (("a", 0.0),)), "weight"),
        (lambda: PromptCue(0, (("a", float("nan")),)), "weight"),
        (lambda: PromptCue(0, ()), "0 prompts"),
        (lambda: Transition(65), "65"),
        (lambda: Transition(1, "cubic"), "linear, spherical"),  # type: ignore[arg-type]
        (lambda: PromptCue.of(0, "a", CUT, "burn"), "keep, recache"),  # type: ignore[arg-type]
        (lambda: LoopMark(4, 4), "earlier"),
        (lambda: SeedMark(0, 2**32), "4294967296"),
        (lambda: MemoryMark(0, ()), "changes nothing"),
        (lambda: Timeline((PromptCue.of(0, "a"),), (EndMark(0),)), "one chunk"),
        (lambda: Timeline((PromptCue.of(0, "a"),), (EndMark(3), EndMark(4))), "two end"),
        (lambda: Timeline((PromptCue.of(0, "a"),), (PauseMark(3), PauseMark(1))), "sorted"),
    ],
)
def test_what_can_not_be_is_named(build: object, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        build()  # type: ignore[operator]

"""Edits are pure, keep the invariants, never touch the past, and can be undone."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cf_app.engine import timeline_edits as edits
from cf_app.engine.timeline import PromptCue, Timeline, Transition
from cf_app.engine.timeline_history import History, PastError, first_change, spliced, unrolled
from cf_app.engine.timeline_markers import EndMark, LoopMark, PauseMark, SeedMark
from tests.timelines import timelines

ABC = Timeline((PromptCue.of(0, "a"), PromptCue.of(10, "b"), PromptCue.of(20, "c")))


def starts(timeline: Timeline) -> list[int]:
    return [cue.start for cue in timeline.cues]


def prompts(timeline: Timeline) -> str:
    return "".join(cue.caption for cue in timeline.cues)


@st.composite
def any_edit(draw: st.DrawFn, timeline: Timeline, generated: int) -> Callable[[], Timeline]:
    """One random edit of the timeline, often one that is refused."""
    cue = draw(st.sampled_from(starts(timeline)))
    chunk = draw(st.integers(0, 130))
    mark = draw(st.sampled_from([*timeline.markers, PauseMark(chunk)]))
    to = draw(st.integers(0, 100))
    now = {"generated": generated}
    choices: dict[str, Callable[[], Timeline]] = {
        "add": lambda: edits.add(timeline, chunk, "new", transition=Transition(2), memory="flush", **now),
        "live": lambda: edits.live(timeline, "new", **now),
        "split": lambda: edits.split(timeline, chunk, **now),
        "delete": lambda: edits.delete(timeline, cue, **now),
        "move": lambda: edits.move(timeline, cue, chunk, **now),
        "resize": lambda: edits.resize(timeline, cue, chunk, **now),
        "reorder": lambda: edits.reorder(timeline, cue, 1, **now),
        "duplicate": lambda: edits.duplicate(timeline, cue, **now),
        "change": lambda: edits.change(timeline, cue, parts=(("x", 1.0), ("y", 2.0)), memory="reset", **now),
        "rename": lambda: edits.rename(timeline, cue, "name", **now),
        "put": lambda: edits.put_marker(timeline, SeedMark(chunk, 4), **now),
        "loop": lambda: edits.put_marker(timeline, LoopMark(to + 1 + chunk, to), **now),
        "remove": lambda: edits.remove_marker(timeline, mark.kind, mark.chunk, **now),
        "move mark": lambda: edits.move_marker(timeline, mark.kind, mark.chunk, chunk, **now),
        "clear": lambda: edits.clear(timeline, **now),
        "placed": lambda: edits.placed(timeline, ABC, **now),
    }
    return choices[draw(st.sampled_from(sorted(choices)))]


@settings(max_examples=1000, deadline=None)
@given(timelines(), st.integers(0, 100), st.data())
def test_edits_keep_the_past_and_undo_is_identity(timeline: Timeline, generated: int, data: st.DataObject) -> None:
    if timeline.end is not None:
        generated = min(generated, timeline.end)
    timeline = unrolled(timeline, generated)
    history, seen = History(timeline), [timeline]
    for _ in range(data.draw(st.integers(1, 5))):
        edit = data.draw(any_edit(history.timeline, generated))
        try:
            new = edit()
        except PastError as error:
            assert error.branch_at < generated
            continue
        except ValueError:
            continue
        assert starts(new) == sorted(set(starts(new)))
        assert [m.chunk for m in new.markers] == sorted(m.chunk for m in new.markers)
        if new != history.timeline:
            seen.append(new)
        history = history.edited(new)
    last = history.timeline
    for chunk in range(generated):
        assert last.prompt_at(chunk).parts == timeline.prompt_at(chunk).parts
        assert last.markers_at(chunk) == timeline.markers_at(chunk)
    for expected in reversed(seen[:-1]):
        history = history.undone(generated)
        assert history.timeline == expected
    for expected in seen[1:]:
        history = history.redone(generated)
        assert history.timeline == expected


@settings(max_examples=500, deadline=None)
@given(timelines(), st.integers(0, 120))
def test_a_split_changes_no_picture(timeline: Timeline, at: int) -> None:
    try:
        halves = edits.split(timeline, at)
    except ValueError:
        return
    for chunk in range(at - 3 if at > 3 else 0, at + 30):
        if timeline.end is None or chunk < timeline.end:
            assert dict(halves.prompt_at(chunk).parts) == pytest.approx(dict(timeline.prompt_at(chunk).parts))


@settings(max_examples=500, deadline=None)
@given(timelines(loop=False), timelines(loop=False), st.integers(0, 100))
def test_a_late_edit_keeps_the_past_and_takes_the_future(old: Timeline, new: Timeline, at: int) -> None:
    result = spliced(old, new, at)
    for chunk in range(at):
        assert result.prompt_at(chunk).parts == old.prompt_at(chunk).parts
    for chunk in range(at + 80, at + 90):  # after the longest blend
        assert result.prompt_at(chunk).parts == new.prompt_at(chunk).parts
    starts_ahead = {cue.start for cue in new.cues if cue.start > at}
    assert starts_ahead == {cue.start for cue in result.cues if cue.start > at}


def test_a_cue_missed_by_a_moment_begins_at_once() -> None:
    late = edits.live(ABC, "x", generated=4)
    result = spliced(ABC, late, 6)
    assert (starts(result), prompts(result)) == ([0, 6, 10, 20], "axbc")
    late = edits.put_marker(ABC, SeedMark(5, 3), generated=5)
    assert spliced(ABC, late, 6).markers == (SeedMark(6, 3),)


def test_move_slides_between_the_neighbours_and_keeps_its_length() -> None:
    assert starts(edits.move(ABC, 10, 13)) == [0, 13, 23]
    with pytest.raises(ValueError, match="chunk 1 or later"):
        edits.move(ABC, 10, 0)
    with pytest.raises(ValueError, match="first block"):
        edits.move(ABC, 0, 3)
    ended = edits.resize(ABC, 20, 30)
    assert edits.move(ended, 20, 25).end == 35
    with pytest.raises(ValueError, match="chunk 1 to 19"):
        edits.move(ended, 10, 20)


def test_resize_moves_the_neighbour_or_the_end() -> None:
    assert starts(edits.resize(ABC, 0, 4)) == [0, 4, 20]
    ended = edits.resize(ABC, 20, 26)
    assert ended.end == 26
    assert edits.resize(ended, 20, None) == ABC
    with pytest.raises(ValueError, match="chunk 11 or later"):
        edits.resize(ABC, 10, 5)
    with pytest.raises(ValueError, match="open-ended"):
        edits.resize(ABC, 0, None)


def test_duplicate_pushes_what_comes_later() -> None:
    marked = edits.put_marker(edits.put_marker(ABC, EndMark(24)), LoopMark(22, 12))
    twice = edits.duplicate(marked, 10)
    assert (starts(twice), prompts(twice)) == ([0, 10, 20, 30], "abbc")
    assert twice.markers == (LoopMark(32, 12), EndMark(34))


def test_reorder_swaps_with_lengths() -> None:
    swapped = edits.reorder(ABC, 0, 1)
    assert (starts(swapped), prompts(swapped)) == ([0, 10, 20], "bac")
    assert (starts(edits.reorder(ABC, 20, -1)), prompts(edits.reorder(ABC, 20, -1))) == ([0, 10, 18], "acb")
    with pytest.raises(ValueError, match="no neighbour after"):
        edits.reorder(ABC, 20, 1)


def test_delete_lets_the_one_before_go_on() -> None:
    assert prompts(edits.delete(ABC, 10)) == "ac"
    assert starts(edits.delete(ABC, 0)) == [0, 20]
    with pytest.raises(ValueError, match="only block"):
        edits.delete(Timeline.single("a"), 0)


def test_live_and_the_timeline_are_one_thing() -> None:
    assert prompts(edits.live(ABC, "x", generated=5)) == "axbc"
    assert prompts(edits.live(ABC, "x", generated=10)) == "axc"


def test_the_past_offers_a_branch() -> None:
    for edit in (
        lambda: edits.change(ABC, 10, parts=(("x", 1.0),), generated=12),
        lambda: edits.add(ABC, 11, "x", generated=12),
        lambda: edits.resize(ABC, 0, 11, generated=12),
        lambda: edits.delete(ABC, 10, generated=12),
        lambda: edits.put_marker(ABC, PauseMark(10), generated=12),
    ):
        with pytest.raises(PastError, match=r"branch at chunk 1[01]") as caught:
            edit()
        assert caught.value.branch_at in (10, 11)
    assert edits.rename(ABC, 0, " dawn ", generated=12).cues[0].name == "dawn"
    assert starts(edits.resize(ABC, 10, 12, generated=12)) == [0, 10, 12]
    assert prompts(edits.clear(ABC, generated=12)) == "ab"


def test_undo_into_the_past_is_refused() -> None:
    history = History(ABC).edited(edits.add(ABC, 5, "x"))
    with pytest.raises(PastError):
        history.undone(6)
    assert history.undone(5).timeline == ABC
    with pytest.raises(ValueError, match="nothing to redo"):
        history.redone(5)
    with pytest.raises(ValueError, match="nothing to undo"):
        History(ABC).undone()
    assert History(ABC).edited(ABC) == History(ABC)


def test_an_import_into_a_running_film_begins_at_the_next_chunk() -> None:
    result = edits.placed(Timeline.single("z"), edits.put_marker(ABC, EndMark(30)), generated=7)
    assert (starts(result), prompts(result), result.end) == ([0, 7, 17, 27], "zabc", 37)
    assert edits.placed(Timeline.single("z"), ABC) == ABC


def test_first_change_ignores_names() -> None:
    assert first_change(ABC, edits.rename(ABC, 10, "n")) is None
    assert first_change(ABC, edits.move(ABC, 10, 13)) == 10


def test_a_looping_film_can_be_edited_ahead() -> None:
    looped = edits.put_marker(ABC, LoopMark(30, 0))
    edited = edits.change(looped, 40, parts=(("x", 1.0),), generated=35)
    assert edited.loop == LoopMark(60, 30)
    assert "".join(edited.prompt_at(c).caption for c in (31, 41, 51, 61, 71, 81)) == "axcaxc"


@pytest.mark.parametrize(("call", "says"), [
    (lambda: edits.delete(ABC, 7), "cues start at 0, 10, 20"),
    (lambda: edits.add(ABC, 10, "x"), "starts at chunk 10 already"),
    (lambda: edits.split(ABC, 10), "inside it"),
    (lambda: edits.split(ABC, 0), "inside it"),
    (lambda: edits.remove_marker(ABC, "seed", 3), "no 'seed' marker at chunk 3"),
])  # fmt: skip
def test_what_can_not_be_is_named(call: Callable[[], Timeline], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        call()

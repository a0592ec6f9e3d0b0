"""Timelines as files: round trip, the text and list forms, and files that are broken in a thousand ways."""

from __future__ import annotations

import copy
import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings

from cf_app.engine.timeline import Timeline
from cf_app.engine.timeline_io import TimelineFormatError, dumps, loads, parse_list, parse_text, read, to_text
from cf_app.engine.timeline_markers import EndMark
from tests.timelines import timelines

LIBRARY = sorted((Path(__file__).parent.parent / "assets" / "timelines").glob("*.json"))
HEAD = {"format": "context-forcing-timeline", "version": 1}


@settings(max_examples=300, deadline=None)
@given(timelines())
def test_json_round_trip(timeline: Timeline) -> None:
    assert loads(dumps(timeline)) == timeline
    assert read(dumps(timeline), 0.75) == timeline


@pytest.mark.parametrize("path", LIBRARY, ids=lambda path: path.stem)
def test_the_library_reads(path: Path) -> None:
    timeline = loads(path.read_bytes())
    assert timeline.title
    assert len(timeline.cues) >= 2
    assert dumps(timeline) == path.read_text()


def test_the_library_has_examples_for_both_models() -> None:
    real = [path for path in LIBRARY if path.stem.startswith("real-")]
    assert (len(LIBRARY) - len(real), len(real)) == (5, 3)


def _broken(rng: random.Random) -> str | bytes:
    """A valid file with one to three things broken."""
    data = json.loads(rng.choice(LIBRARY).read_text())
    junk: list[Any] = [None, True, -1, 10**400, 1.5, "", "x", [], {}, [[1]], {"chunk": 0}, 2**40, " \n", "keep", 65]
    for _ in range(rng.randint(1, 3)):
        where: Any = data
        while rng.random() < 0.75 and isinstance(where, dict | list) and where:
            inner = where[rng.choice(list(where))] if isinstance(where, dict) else rng.choice(where)
            if not isinstance(inner, dict | list) or not inner:
                break
            where = inner
        keys = list(where) if isinstance(where, dict) else list(range(len(where)))
        key = rng.choice(keys) if keys else "x"
        act = rng.randrange(4)
        if act == 0 and len(where) > 0:
            del where[key]
        elif act == 1 and isinstance(where, dict):
            where[rng.choice(["promt", "start", "x" * 50, "kind"])] = copy.deepcopy(rng.choice(junk))
        elif where:
            where[key] = copy.deepcopy(rng.choice(junk))
    text = json.dumps(data)
    act = rng.randrange(6)
    if act == 0:
        return text[: rng.randrange(len(text))]
    if act == 1:
        at = rng.randrange(len(text))
        return text[:at].encode() + bytes(rng.randrange(256) for _ in range(3)) + text[at:].encode()
    return text


def test_a_thousand_broken_files_give_named_errors() -> None:
    rng = random.Random(6)
    refused = 0
    for _ in range(1000):
        text = _broken(rng)
        try:
            assert isinstance(loads(text), Timeline)  # some breaks leave a valid file
        except TimelineFormatError as error:
            refused += 1
            assert 10 < len(str(error)) < 2000
    assert refused > 800


@pytest.mark.parametrize(("change", "says"), [
    ({"version": 2}, "version is 2; this program reads version 1"),
    ({"version": True}, "version is True"),
    ({"format": "scope-workflow"}, "'scope-workflow'"),
    ({"cues": []}, "cues"),
    ({"cues": [{"chunk": 0, "prompt": "a", "promt": "b"}]}, r"cues\[0\]\.promt: unknown field"),
    ({"cues": [{"prompt": "a"}]}, r"cues\[0\]\.chunk: missing"),
    ({"cues": [{"chunk": "0", "prompt": "a"}]}, r"cues\[0\]\.chunk: .*got '0'"),
    ({"cues": [{"chunk": 0}]}, "neither"),
    ({"cues": [{"chunk": 0, "prompt": "a", "blend": [{"prompt": "b"}]}]}, "both"),
    ({"cues": [{"chunk": 0, "prompt": " "}]}, r"cues\[0\]: the prompt is empty"),
    ({"cues": [{"chunk": 0, "prompt": "a"}, {"chunk": 0, "prompt": "b"}]}, "rising"),
    ({"cues": [{"chunk": 5, "prompt": "a"}]}, "expected chunk 0"),
    ({"markers": [{"kind": "explode", "chunk": 1}]}, r"markers\[0\]"),
    ({"markers": [{"kind": "loop", "chunk": 4, "to": 9}]}, "earlier chunk"),
    ({"cues": [{"chunk": 0, "prompt": "\ud800"}]}, "half a character"),
    ({"title": "\ud800"}, "half a character"),
    ({"extra": 1}, "extra: unknown field"),
])  # fmt: skip
def test_what_is_wrong_is_named(change: dict[str, Any], says: str) -> None:
    with pytest.raises(TimelineFormatError, match=says):
        loads(json.dumps({**HEAD, "cues": [{"chunk": 0, "prompt": "a"}], **change}))


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", "[" * 100_000, '{"a":' * 50_000, b"\xff\xfe{", " " * 5_000_000, "9" * 5000]
)
def test_hostile_bytes_are_refused(text: str | bytes) -> None:
    with pytest.raises(TimelineFormatError):
        loads(text)


def test_the_text_form() -> None:
    timeline = parse_text("a red ball[10s] | a blue star, night [7.5s#] | a box[3]", 0.75)
    assert [(cue.start, cue.caption, cue.memory) for cue in timeline.cues] == [
        (0, "a red ball", "keep"), (13, "a blue star, night", "reset"), (23, "a box", "keep"),
    ]  # fmt: skip
    assert timeline.markers == (EndMark(27),)
    assert parse_text("just this", 0.75) == Timeline.single("just this")
    assert parse_text("a[1s] | b", 0.75).end is None
    assert read("a[1s] | b", 0.75) == parse_text("a[1s] | b", 0.75)


@pytest.mark.parametrize(("text", "says"), [
    ("a | b[3s]", "scene 1"), ("a[3s] | [4s]", "scene 2 has no words"), ("a[x]", "scene 1"), ("", "no words"),
    ("a[3s] | ", "scene 2"), ("a[99999999999s]", "seconds"),
])  # fmt: skip
def test_a_wrong_text_is_named(text: str, says: str) -> None:
    with pytest.raises(TimelineFormatError, match=says):
        parse_text(text, 0.75)


def test_the_list_form() -> None:
    timeline = parse_list([(0, "a"), (10, "b"), (19.9, "c")], 0.75)
    assert [cue.start for cue in timeline.cues] == [0, 13, 27]
    assert read('[[0, "a"], [10, "b"]]', 0.75) == parse_list([(0, "a"), (10, "b")], 0.75)


@pytest.mark.parametrize(("text", "says"), [
    ("[]", "empty"), ("[[1]]", "entry 1"), ('[["0", "a"]]', "number"), ('[[0, "a"], [0.1, "b"]]', "rising"),
    ('[[4, "a"]]', "chunk 0"), ("[[0, 3]]", "entry 1"), ('[[0, "a"]', "not JSON"), ('[[1e999, "a"]]', "seconds"),
    ('[[true, "a"]]', "entry 1"), ('[[0, ""]]', "empty"),
])  # fmt: skip
def test_a_wrong_list_is_named(text: str, says: str) -> None:
    with pytest.raises(TimelineFormatError, match=says):
        read(text, 0.75)


@settings(max_examples=200, deadline=None)
@given(timelines())
def test_as_text_nothing_is_lost(timeline: Timeline) -> None:
    assert read(to_text(timeline, 0.75), 0.75) in (timeline, replace(timeline, title=""))


def test_as_text_is_text_where_that_says_it_all() -> None:
    text = "a red ball[9.75s] | a blue star[7.5s#] | a box"
    assert to_text(parse_text(text, 0.75), 0.75) == text

"""Random timelines for the property tests."""

from __future__ import annotations

from hypothesis import strategies as st

from cf_app.engine.timeline import CUT, PromptCue, Timeline, Transition
from cf_app.engine.timeline_markers import EndMark, LoopMark, Marker, MemoryMark, PauseMark, SeedMark

BALLS = st.sampled_from([f"a {colour} ball" for colour in ("red", "green", "blue", "pink", "white")])
PROMPTS = BALLS | st.text("ab é🦊|[#", min_size=1).filter(str.strip)
MIXES = st.lists(st.tuples(PROMPTS, st.floats(0.1, 5)), min_size=1, max_size=3).map(tuple)
PARTS = MIXES | PROMPTS.map(lambda prompt: ((prompt, 1.0),))
MEMORY = st.sampled_from(["keep", "recache", "flush", "reset"])
TRANSITIONS = st.builds(Transition, st.integers(0, 12), st.sampled_from(["linear", "spherical"]))


@st.composite
def timelines(draw: st.DrawFn, cuts: bool = False, loop: bool | None = None) -> Timeline:
    """A valid timeline within about 100 chunks. `cuts`: no blends. `loop`: with one, without, or (None) either."""
    starts = [0, *sorted(draw(st.sets(st.integers(1, 90), max_size=10)))]
    transition = st.just(CUT) if cuts else TRANSITIONS
    cues = [PromptCue(s, draw(PARTS), draw(transition), draw(MEMORY), draw(st.text(max_size=5))) for s in starts]
    marks: list[Marker] = []
    for chunk in draw(st.sets(st.integers(0, 90), max_size=3)):
        memory = MemoryMark.of(chunk, {"policy": "fifo", "tau": 0.5})
        marks.append(draw(st.sampled_from([SeedMark(chunk, 5), memory, PauseMark(chunk)])))
    if draw(st.booleans()):
        marks.append(EndMark(draw(st.integers(1, 120))))
    if loop or (loop is None and draw(st.booleans())):
        chunk = draw(st.integers(1, 100))
        marks.append(LoopMark(chunk, draw(st.integers(0, chunk - 1))))
    return Timeline(tuple(cues), tuple(sorted(marks, key=lambda m: m.chunk)), draw(st.text(max_size=8)))

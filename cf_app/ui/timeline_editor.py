"""The timeline editor: a `gr.HTML` that draws a plan and sends edits of it. The plan itself is kept by
`timeline_plans.py`.

**DOM events** besides those of `player.py`: `cf:timeline` {timeline, story} after every change of the plan
(a timeline file as JSON; `story`: it is more than one prompt); `cf:axis` {origin, scale, left, width}: the
time axis of the page, chunk `c` stands at `left + (c - origin) * scale` pixels of the page, for rows that
stand under it; `cf:axis-please` asks for it. `cf.story()` is the timeline file that the play button should
play, or undefined when the plan is a single prompt and the prompt box has its way.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from cf_app.engine import timeline_io

from .player import ASSETS, asset
from .tabs import Tabs
from .timeline_plans import Answer, Plans

STYLES = ("timeline.css",)
SCRIPTS = ("timeline_axis.js", "timeline_view.js", "timeline_inspector.js", "timeline_drag.js")  # in the head
_ON_LOAD = ("timeline.js", "timeline_keys.js", "timeline_page.js")  # one script in three files


class TimelineEditor(gr.HTML):
    """Blocks on a ruler, with an inspector under it."""

    def __init__(self, tabs: Tabs, policies: tuple[str, ...] = (), *, elem_id: str = "cf-timeline-editor") -> None:
        """`policies`: names of memory policies that a memory marker may choose."""
        super().__init__(
            html_template=asset("timeline.html"),
            js_on_load="\n".join(asset(name) for name in _ON_LOAD),
            apply_default_css=False,
            elem_id=elem_id,
            server_functions=[edit_with(Plans(tabs))],
            setup={
                "chunkSeconds": tabs.engine.geometry.chunk_seconds,
                "policies": list(policies),
                "library": library(real=tabs.engine.vocabulary is None),
            },
        )

    def api_info(self) -> dict[str, Any]:
        return {"type": "object"}


def edit_with(plans: Plans) -> Any:
    """The server function of the editor."""

    def edit(request: Answer) -> Answer:
        return plans.answer(request)

    return edit


def library(*, real: bool) -> list[dict[str, Any]]:
    """The example timelines for this kind of model: {name, title, timeline}."""
    paths = sorted(Path(ASSETS / "timelines").glob("*.json"))
    chosen = [path for path in paths if path.stem.startswith("real-") == real]
    films = [(path.stem, timeline_io.loads(path.read_bytes())) for path in chosen]
    return [{"name": name, "title": film.title, "timeline": timeline_io.to_dict(film)} for name, film in films]

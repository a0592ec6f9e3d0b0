"""The page: layout and wiring only. The look is in `assets/`, the live path in `player.py`.

Places for other components: `Places.memory` (a column at the right) and `Places.timeline` (a strip under
the player, over the full width). Each is a function that is called within its column and makes its
components there; without one the place is not shown. They speak to the player through the DOM events listed
in `player.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gradio as gr

from .encoder import h264_for
from .gate import NO_LIMITS, Gate, Limits
from .model_line import ModelLine
from .palette import css_variables
from .player import ASSETS, LivePlayer, asset
from .prompt_box import PromptBox
from .tabs import Tabs

if TYPE_CHECKING:
    from cf_app.engine.engine import Engine
    from cf_app.engine.reception import Reception

STYLES = ("app.css", "player.css", "prompt.css")
SCRIPTS = (
    "cf.js",
    "film.js",
    "inbox.js",
    "feed.js",
    "pace.js",
    "player_view.js",
    "player_controls.js",
)  # in the document's head; the components' own scripts need them


@dataclass(frozen=True)
class Places:
    """What fills the places that the layout keeps for others."""

    memory: Callable[[Tabs], object] | None = None
    timeline: Callable[[Tabs], object] | None = None
    styles: tuple[str, ...] = ()  # their style sheets and head scripts, names in `assets/`
    scripts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Page:
    """The page and what `demo.launch` has to be told so that it looks and works as meant."""

    demo: gr.Blocks
    tabs: Tabs
    launch: dict[str, Any]

    def close(self) -> None:
        """Ends all runs and the worker; for the end of the program."""
        self.tabs.close_all()
        self.tabs.worker.shutdown()


def build_page(
    engine: Engine, worker: Reception, *, cushion: float = 0.3, places: Places = Places(), limits: Limits = NO_LIMITS
) -> Page:
    """The whole page around a loaded engine.

    `cushion`: least seconds of unseen video at which a tab asks for the next chunk. `limits`: for many visitors.
    """
    tabs, gate = Tabs(engine, worker), Gate(limits)
    with gr.Blocks(title=f"{engine.title} - Context Forcing, live", fill_width=True, analytics_enabled=False) as demo:
        ModelLine(engine, h264_for(engine.geometry))  # chosen before the first film, and while nothing else is busy
        with gr.Row(elem_id="cf-page", elem_classes=[] if places.memory else ["cf-alone"]):
            with gr.Column(elem_id="cf-stage", min_width=0):
                LivePlayer(tabs, cushion, gate)
                PromptBox(tabs)
            for fill, name in ((places.memory, "cf-memory"), (places.timeline, "cf-timeline")):
                if fill is not None:
                    with gr.Column(elem_id=name, min_width=0):
                        fill(tabs)
        demo.unload(_closes_tab(tabs))
    return Page(demo, tabs, _launch_options(tabs, places))


def _closes_tab(tabs: Tabs) -> Callable[[gr.Request], None]:
    def closed(request: gr.Request) -> None:
        tabs.close(str(request.session_hash))

    return closed


def _launch_options(tabs: Tabs, places: Places) -> dict[str, Any]:
    geometry = tabs.engine.geometry
    aspect = f":root{{--cf-aspect:{geometry.width / geometry.height:.4f}}}\n"
    style = aspect + css_variables() + "\n".join(asset(name) for name in STYLES + places.styles)
    system = ["system-ui", "sans-serif"]  # names of fonts that are there: nothing is fetched
    return {
        "theme": gr.themes.Base(font=system, font_mono=["ui-monospace", "monospace"]),
        "css": style,  # Gradio rewrites the rules and drops container queries: use attributes set by a script
        "head": "".join(f"<script>{asset(name)}</script>" for name in SCRIPTS + places.scripts),
        "favicon_path": str(ASSETS / "favicon.svg"),
        "allowed_paths": [str(tabs.folder)],
        "footer_links": [],
        "run_history": False,  # would store the last chunk in the browser
        "ssr_mode": False,
        "max_threads": 120,  # every playing tab holds one thread while it waits for its next chunk
    }

"""The prompt box: text, examples, and a line that names the words which the model does not know."""

from __future__ import annotations

from typing import Any

import gradio as gr

from .player import asset, bring_start_with, check_prompt_with
from .starts import MOST_BYTES
from .tabs import Tabs


class PromptBox(gr.HTML):
    """Sends a prompt as the DOM event `cf:prompt` (see `player.py`);

    `cf.prompt()` in the page reads what is typed.
    """

    def __init__(self, tabs: Tabs, *, elem_id: str = "cf-prompt") -> None:
        engine = tabs.engine
        super().__init__(
            html_template=asset("prompt.html"),
            js_on_load=asset("prompt.js"),
            apply_default_css=False,
            elem_id=elem_id,
            server_functions=[check_prompt_with(tabs), bring_start_with(tabs)],
            setup={
                "examples": list(engine.example_prompts),
                "vocabulary": sorted(engine.vocabulary or ()),
                "most": MOST_BYTES,
            },
        )

    def api_info(self) -> dict[str, Any]:
        return {"type": "object"}

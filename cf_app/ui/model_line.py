"""The head of the page: name, what it runs on and what that takes, theme, help."""

from __future__ import annotations

import html
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import gradio as gr

from cf_app.usage import facts, usage

from .codecs import NAMES
from .player import Answer, asset

if TYPE_CHECKING:
    from cf_app.engine.engine import Engine


class ModelLine(gr.HTML):
    """Says the memory in use as it is while a film is made: the page asks now and then when chunks come."""

    def __init__(self, engine: Engine, encoder: str, *, elem_id: str = "cf-top") -> None:
        """`encoder`: what makes H.264 here, as in `codecs.py`."""
        words = {
            "title": engine.title,
            "description": engine.config.description,
            "facts": facts(engine),
            "use": usage(engine.device).text,
            "encoder": f"H.264 by {NAMES[encoder]}",
        }
        page = asset("head.html")
        for name, text in words.items():
            # Gradio fills in ${...} and {{...}} of a template; a model's description is no template.
            safe = html.escape(str(text)).replace("{", "&#123;").replace("$", "&#36;")
            page = page.replace(f"@{name}@", safe)
        super().__init__(
            html_template=page,
            js_on_load=asset("model_line.js"),
            apply_default_css=False,
            elem_id=elem_id,
            server_functions=[memory_in_use(engine)],
        )

    def api_info(self) -> dict[str, Any]:
        return {"type": "object"}


def memory_in_use(engine: Engine) -> Callable[[Answer], Answer]:
    """The server function of the line."""

    def in_use(request: Answer) -> Answer:
        """{}: answers {ok, text}, such as "9.8 of 24.0 GB VRAM"."""
        return {"ok": True, "text": usage(engine.device).text}

    return in_use

"""What stands beside the player on the full page; `layout.py` says where. A new component is one line here."""

from __future__ import annotations

from cf_app.memory.policy import POLICIES

from . import timeline_editor
from .layout import Places


def all_places() -> Places:
    """The timeline editor in the strip under the player."""
    return Places(
        timeline=lambda tabs: timeline_editor.TimelineEditor(tabs, tuple(POLICIES)),
        styles=timeline_editor.STYLES,
        scripts=timeline_editor.SCRIPTS,
    )

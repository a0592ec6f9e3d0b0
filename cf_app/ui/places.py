"""What stands beside the player on the full page; `layout.py` says where. A new component is one line here."""

from __future__ import annotations

from cf_app.memory.policy import POLICIES

from . import memory_panel, timeline_editor
from .layout import Places
from .tabs import Tabs


def all_places() -> Places:
    """The memory panel at the right; the row of surprisal and the timeline editor in the strip under the player."""
    return Places(
        memory=_memory,
        timeline=_timeline,
        styles=timeline_editor.STYLES + memory_panel.STYLES,
        scripts=timeline_editor.SCRIPTS + memory_panel.SCRIPTS,
    )


def _memory(tabs: Tabs) -> None:
    memory_panel.MemoryPanel(tabs)
    memory_panel.add_memory_api(tabs)


def _timeline(tabs: Tabs) -> None:
    memory_panel.SurprisalRow(tabs)  # above, so that the ruler below is its axis too
    timeline_editor.TimelineEditor(tabs, tuple(POLICIES))

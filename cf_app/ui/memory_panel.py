"""The memory panel and the row of surprisal: what the model remembers, beside and under the picture.

Both are `gr.HTML` components without a value: they listen to the player's DOM events (`player.py`), which bring a
`MemorySnapshot` and small pictures with every chunk, and send commands through it. `cf.memory` in the page
(`assets/memory_store.js`) is their common store. The server has two things to do for them: a KV snapshot as a file, and
`memory_history`, the same data for programs.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any, get_args, get_type_hints

import gradio as gr

from cf_app.memory.export import history_to_dict
from cf_app.memory.policy import POLICIES, Policy, policy_to_dict

from .player import Answer, asset
from .tabs import Tabs

STYLES = ("memory.css",)
SCRIPTS = (
    "memory_store.js",
    "memory_tips.js",
    "memory_lanes.js",
    "memory_strip.js",
    "memory_handle.js",
    "memory_curve.js",
    "memory_layers.js",
    "memory_policy.js",
    "memory_card.js",
    "memory_export.js",
)

# What the fields of policies are called, and what they do.
_LABELS: dict[str, tuple[str, str]] = {
    "policy": ("Policy", ""),
    "sink": ("Attention sink", "Latent frames at the start of the film that are kept for ever"),
    "slow": ("Slow memory", "Latent frames of room for what is promoted"),
    "fast": ("Fast memory", "Newest latent frames, the current chunk included"),
    "tau": ("τ", "A chunk is promoted when the similarity of its keys lies below this, 0 to 1"),
    "timing": ("Decided", "Once, on clean keys; or in every denoising pass, as the released code does"),
    "decision": ("By", "All layers together, or each layer alone as in the released students"),
    "gate": ("Promoted", "What promotes the first latent frame of a chunk"),
    "interval": ("Interval", "In latent frames, where promotion is regular"),
    "every": ("Every n chunks", "Promotes each n-th chunk, whatever happens"),
    "window": ("Window", "Slots in all, sink and current chunk included"),
    "bounded": ("Bounded positions", "RoPE time index = slot, Φ = 0 … slots − 1 (eq. 8), so that it never grows"),
    "global_sink": ("Sink stays", "A re-cache after a change of prompt leaves the sink as it is"),
    "cut": ("RoPE cut", "Latent frames by which a flush moves what is left away in time"),
    "recent": ("In full", "Newest latent frames that are not packed"),
    "level": ("Per level", "Latent frames that are packed by 2, then by 4, ..."),
    "levels": ("Levels", "How often the packing doubles"),
    "switch": ("Change of prompt", "What it does to the memory"),
}
_CHOICES = {
    "clean": "once, on clean keys",
    "as_released": "in every pass, as released",
    "shared": "all layers together",
    "per_layer": "each layer alone",
    "sim": "on surprisal",
    "uniform": "regularly",
    "none": "never",
}


class MemoryPanel(gr.HTML):
    """Lanes, time machine, layers, attention, policy, history, export."""

    def __init__(self, tabs: Tabs, *, elem_id: str = "cf-memory-panel") -> None:
        engine = tabs.engine
        rule = engine.policy.rule(engine.geometry.chunk_latents)
        super().__init__(
            html_template=asset("memory.html"),
            js_on_load=asset("memory.js"),
            apply_default_css=False,
            elem_id=elem_id,
            server_functions=[kv_snapshot_with(tabs)],
            setup={
                "title": engine.title,
                "policies": [describe_policy(kind) for kind in POLICIES.values()],
                "own": policy_to_dict(engine.policy),
                "sizes": {"sink": rule.sink, "slow": rule.slow, "fast": rule.fast},
                "labels": {name: label for name, (label, _) in _LABELS.items()},
            },
        )

    def api_info(self) -> dict[str, Any]:
        return {"type": "object"}


class SurprisalRow(gr.HTML):
    """Surprisal over time under the timeline, with the threshold to drag."""

    def __init__(self, tabs: Tabs, *, elem_id: str = "cf-surprisal") -> None:
        rule = tabs.engine.policy.rule(tabs.engine.geometry.chunk_latents)
        super().__init__(
            html_template=asset("memory_curve.html"),
            js_on_load=asset("memory_row.js"),
            apply_default_css=False,
            elem_id=elem_id,
            setup={"tau": rule.tau, "gate": rule.gate},
        )

    def api_info(self) -> dict[str, Any]:
        return {"type": "object"}


def describe_policy(kind: type[Policy]) -> dict[str, Any]:
    """A policy for the form: {name, title, about, fields: [{name, label, about, kind, usual, choices?}]}."""
    hints = get_type_hints(kind)
    rows = []
    for field in fields(kind):
        label, about = _LABELS.get(field.name, (field.name, ""))
        row: dict[str, Any] = {"name": field.name, "label": label, "about": about, "usual": field.default}
        if hints[field.name] is bool:
            row["kind"] = "yes"
        elif hints[field.name] in (int, float):
            row["kind"] = "number"
        else:
            row["kind"] = "choice"
            row["choices"] = [(choice, _CHOICES.get(choice, choice)) for choice in get_args(hints[field.name])]
        rows.append(row)
    about = " ".join((kind.__doc__ or "").split("\n\n")[0].split())
    return {"name": kind.name, "title": kind.title, "about": about, "fields": rows}


def kv_snapshot_with(tabs: Tabs) -> Any:
    """The server function that writes a session with its keys and values, between two chunks."""

    def kv_snapshot(request: Answer) -> Answer:
        """{run}: answers {path, name, bytes, chunk}; `Engine.load_session` reads the file."""
        try:
            run = tabs.run(request["run"])
            chunk = run.worker.state(run.session).chunk
            path = run.folder / f"context-forcing-memory-chunk{chunk}.safetensors"
            saved = run.worker.save(run.session, path)
            return {"ok": True, "path": str(path), "name": path.name, "bytes": path.stat().st_size, "chunk": saved}
        except (ValueError, KeyError) as error:
            return {"ok": False, "error": str(error)}

    return kv_snapshot


def add_memory_api(tabs: Tabs) -> None:
    """The endpoint `/memory_history`, within the page's blocks."""

    def memory_history(run: str, since: int = 0) -> dict:
        """Memory of a running film after every chunk from `since` on, as `cf_app.memory.export.read_history` takes it.

        Args:
            run: token of the run; the memory panel shows it under History.
            since: first chunk that is wanted.
        """
        try:
            found = tabs.run(run)
            snapshots = found.worker.history(found.session)
        except ValueError as error:
            raise gr.Error(str(error)) from error
        geometry = tabs.engine.geometry
        facts = {"fps": geometry.fps, "chunk_frames": geometry.chunk_frames, "chunk_latents": geometry.chunk_latents}
        return history_to_dict([one for one in snapshots if one.chunk >= since], facts)

    gr.api(memory_history, api_name="memory_history")

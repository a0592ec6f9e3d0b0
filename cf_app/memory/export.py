"""A memory's history as JSON: what the memory panel saves, and what the page's API answers as `memory_history`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cf_app.memory.snapshot import MemorySnapshot

FORMAT = "context-forcing-memory"
VERSION = 1


@dataclass(frozen=True)
class History:
    """Attributes:

    snapshots: rising in chunk; long films have gaps in the past (older ones are thinned out).
    facts: seed, fps, chunk_frames, chunk_latents, prompts (one per snapshot), log (commands that took effect).
    """

    snapshots: tuple[MemorySnapshot, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)


def history_to_dict(snapshots: Iterable[MemorySnapshot], facts: Mapping[str, Any]) -> dict[str, Any]:
    """A dictionary that ``json.dumps`` takes; ``facts`` as in ``History``."""
    return {"format": FORMAT, "version": VERSION, **facts, "snapshots": [one.to_dict() for one in snapshots]}


def read_history(text: str) -> History:
    """Inverse of ``json.dumps(history_to_dict(...))``.

    Raises:
        ValueError: not JSON, not such a file, another version, or a damaged snapshot.
    """
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"the memory history is no JSON: {error}") from error
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise ValueError(f'this is no memory history, expected an object with "format": "{FORMAT}"')
    if data.get("version") != VERSION:
        raise ValueError(f"the memory history has version {data.get('version')!r}, this program reads {VERSION}")
    rows = data.get("snapshots")
    if not isinstance(rows, list):
        raise ValueError('the memory history lacks its list of "snapshots"')
    facts = {key: value for key, value in data.items() if key not in ("format", "version", "snapshots")}
    return History(_snapshots(rows), facts)


def _snapshots(rows: Sequence[Mapping[str, Any]]) -> tuple[MemorySnapshot, ...]:
    snapshots = []
    for index, row in enumerate(rows):
        try:
            snapshots.append(MemorySnapshot.from_dict(row))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"snapshot {index} of the memory history is damaged: {error!r}") from error
    return tuple(snapshots)

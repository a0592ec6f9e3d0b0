"""What a memory holds at one chunk, as plain data for panels, exports and tests. No tensors, no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

SNAPSHOT_VERSION = 1
LANES = ("sink", "slow", "fast")


@dataclass(frozen=True, slots=True)
class EntryView:
    """One latent frame that the memory holds.

    Attributes:
        slot: index in slot order (sink, slow, fast) of the first layer that holds it there.
        lane: "sink", "slow" or "fast".
        latent: index of the latent frame since the start of the video.
        chunk: chunk that the latent frame belongs to.
        prompt: prompt that its keys and values were made under.
        surprisal: 1 - cosine similarity when it was promoted (mean over the layers that hold it), None if it was not.
        promoted_at: chunk at which it was promoted, None if it was not.
        agreement: number of layers that hold it in this lane.
        pinned: it is never evicted.
        position: RoPE time index that its keys are read at.
    """

    slot: int
    lane: str
    latent: int
    chunk: int
    prompt: str
    surprisal: float | None
    promoted_at: int | None
    agreement: int
    pinned: bool
    position: int


@dataclass(frozen=True)
class AttentionView:
    """How much the chunk's clean pass looked at one latent frame, as it was read: before the chunk changed the memory.

    Attributes:
        lane, latent: as in ``EntryView``; the chunk's own latent frames are not listed.
        mass: per layer, share of attention 0..1, mean over heads and a sample of queries; 0 where a layer lacks it.
    """

    lane: str
    latent: int
    mass: tuple[float, ...]


@dataclass(frozen=True)
class MemorySnapshot:
    """The memory after a chunk, the chunk's own latent frames included (they are the newest of the fast lane).

    Attributes:
        policy: registry name of the policy.
        sink, slow, fast: sizes in latent frames; fast includes the current chunk.
        tau: a latent frame is promoted when its similarity is below tau.
        timing: "clean" or "as_released".
        decision: "shared" (one for all layers) or "per_layer".
        layers: number of transformer layers L.
        entries: one view per latent frame and lane, in slot order.
        layer_slots: L x slots, source latent frame of every slot, -1 where it is empty.
        similarities: per layer, of this chunk; empty when none was computed. Several passes: the lowest.
        similarity: mean of ``similarities``, None when empty.
        promoted: latent frames promoted at this chunk in any layer.
        evicted: latent frames that no layer holds any more since this chunk.
        bytes_held: bytes of keys and values that this session has reserved.
        memory_ms: milliseconds of this chunk that went into memory management.
        gate: what promotes: "sim" (similarity below tau), "uniform" or "none".
        eligible: the chunk could be promoted at all; the first ones of a film can not.
        settings: registry name of the policy under "policy", and all its fields.
        attention: where the chunk looked; empty unless attention is watched.
    """

    chunk: int
    policy: str
    sink: int
    slow: int
    fast: int
    tau: float
    timing: str
    decision: str
    layers: int
    entries: tuple[EntryView, ...]
    layer_slots: tuple[tuple[int, ...], ...]
    similarities: tuple[float, ...] = ()
    similarity: float | None = None
    promoted: tuple[int, ...] = ()
    evicted: tuple[int, ...] = ()
    bytes_held: int = 0
    memory_ms: float = 0.0
    gate: str = "sim"
    eligible: bool = True
    settings: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    attention: tuple[AttentionView, ...] = ()
    version: int = SNAPSHOT_VERSION

    def to_dict(self) -> dict[str, Any]:
        """A dictionary that ``json.dumps`` takes."""
        return asdict(self)

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> MemorySnapshot:
        """Inverse of ``to_dict``, also after a trip through JSON.

        Raises:
            ValueError: another version, or a field that is missing or unknown.
        """
        if data.get("version") != SNAPSHOT_VERSION:
            raise ValueError(f"memory snapshot has version {data.get('version')!r}, expected {SNAPSHOT_VERSION}")
        known = {one.name for one in fields(MemorySnapshot)}
        if set(data) != known:
            raise ValueError(f"memory snapshot fields differ: {sorted(set(data) ^ known)}")
        return MemorySnapshot(
            **{
                **data,
                "entries": tuple(EntryView(**entry) for entry in data["entries"]),
                "layer_slots": tuple(tuple(row) for row in data["layer_slots"]),
                "similarities": tuple(data["similarities"]),
                "promoted": tuple(data["promoted"]),
                "evicted": tuple(data["evicted"]),
                "settings": dict(data["settings"]),
                "attention": tuple(
                    AttentionView(view["lane"], view["latent"], tuple(view["mass"])) for view in data["attention"]
                ),
            }
        )

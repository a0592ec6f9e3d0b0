"""What another tau would have kept, from recorded similarities. Pure functions; `assets/memory_store.js` does the same.

First order: another memory would have made slightly other keys, and pins and evictions by hand are left out. With the
tau that was in force and no hand in it, the answer is what the slow memory really holds.
"""

from __future__ import annotations

from collections.abc import Sequence

from cf_app.memory.snapshot import MemorySnapshot


def would_promote(snapshot: MemorySnapshot, tau: float) -> frozenset[int]:
    """Layers that would have promoted the snapshot's chunk, had tau been ``tau``.

    Raises:
        ValueError: tau lies outside 0..1.
    """
    if not 0 <= tau <= 1:
        raise ValueError(f"tau is {tau!r}, expected a cosine similarity from 0 to 1")
    similarities = snapshot.similarities
    if not snapshot.eligible or not similarities:
        return frozenset()
    if snapshot.decision == "shared":
        mean = sum(similarities) / len(similarities)
        return frozenset(range(len(similarities))) if mean < tau else frozenset()
    return frozenset(layer for layer, similarity in enumerate(similarities) if similarity < tau)


def would_keep(history: Sequence[MemorySnapshot], tau: float, chunk_latents: int) -> dict[int, int]:
    """Latent frames that slow memory would hold after the last snapshot, and in how many layers.

    Args:
        history: snapshots of successive chunks from 0 on.
        chunk_latents: latent frames of a chunk.
    """
    rows: dict[int, list[int]] = {}
    for snapshot in history:
        for layer in would_promote(snapshot, tau):
            rows.setdefault(layer, []).append(snapshot.chunk * chunk_latents)
    size = history[-1].slow if history else 0
    kept: dict[int, int] = {}
    for row in rows.values():
        for latent in row[-size:] if size else []:
            kept[latent] = kept.get(latent, 0) + 1
    return kept

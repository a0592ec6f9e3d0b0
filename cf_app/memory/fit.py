"""Whether a memory of other sizes has room: for what is pinned, and on the device."""

from __future__ import annotations

from pathlib import Path

import torch

from cf_app.memory.kv_cache import KVShape
from cf_app.memory.policy import Rule
from cf_app.memory.state import MemoryState

_MEMINFO = Path("/proc/meminfo")


def check_fit(rule: Rule, now: Rule, state: MemoryState, shape: KVShape) -> None:
    """Refuse a change from the rule ``now`` to ``rule`` that would lose what is pinned, or exhaust the device.

    The old keys and values are still held while the new ones are laid out, and what a chunk reads lies ready a second
    time.

    Raises:
        ValueError: says how much is missing and what to do.
    """
    pinned = {cell.latent for row in state.lanes for cell in row.slow} & state.pins
    if rule.slow < len(pinned):
        raise ValueError(
            f"slow memory of {rule.slow} can not hold the {len(pinned)} latent frames that are pinned; "
            "unpin some, or choose a larger one"
        )
    if rule.slots == now.slots:
        return
    needed = (rule.slots + max(0, rule.slots - now.slots)) * shape.latent_bytes
    free = free_bytes(shape.device)
    if free is not None and needed > free:
        raise ValueError(
            f"{rule.slots} slots need {needed / 1e9:.1f} GB of keys and values more, {shape.device} has "
            f"{free / 1e9:.1f} GB free; choose smaller sizes"
        )


def free_bytes(device: torch.device) -> int | None:
    """Bytes that can still be reserved on ``device``; None where that can not be known."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    if device.type != "cpu" or not _MEMINFO.exists():
        return None
    rows = dict(line.split(":", 1) for line in _MEMINFO.read_text().splitlines() if ":" in line)
    return 1024 * int(rows["MemAvailable"].split()[0]) if "MemAvailable" in rows else None

"""A session on its way to another process: everything but keys, values and the decoder's state, which are made again.

Megabytes instead of gigabytes. ``pack`` takes it from a session between two chunks, ``unpack`` makes the session again.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from cf_app.engine.parts import DecoderState
from cf_app.engine.rebuild import rebuild
from cf_app.engine.session import Session
from cf_app.engine.storage import plain, session_of, undecoded_of
from cf_app.memory.lanes import Cell, Lanes
from cf_app.memory.policy import policy_from_dict
from cf_app.memory.state import MemoryState
from cf_app.memory.storage import state_of

if TYPE_CHECKING:
    from cf_app.engine.engine import Engine

PRIMING = 6  # latent frames that are decoded again so that the decoder knows what came before
Arrays = Mapping[int, np.ndarray]


@dataclass(frozen=True, eq=False)
class Handover:
    """Attributes:

    data: timeline, seed, position, settings and lanes as plain data.
    latents: latent frame -> clean latents [B, C, Y, X], float32.
    references: per layer pooled keys [B, H * D] of the last chunk; empty before the first.
    start: chunk -> given latents [B, C, F, Y, X] that have not been used yet.
    undecoded: clean latents [B, C, F, Y, X] of chunks whose pictures have failed.
    token: names this state of the session, in all processes.
    """

    data: Mapping[str, Any]
    latents: Arrays
    references: tuple[np.ndarray, ...] = ()
    start: Arrays = field(default_factory=dict)
    undecoded: tuple[np.ndarray, ...] = ()
    token: str = field(default_factory=lambda: secrets.token_hex(8))

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        arrays = (*self.latents.values(), *self.references, *self.start.values(), *self.undecoded)
        return sum(array.nbytes for array in arrays)


def pack(session: Session) -> Handover:
    """What ``unpack`` needs; the session stays as it is. Evictions by hand can not be taken back afterwards."""
    state = session.memory.state
    data = {"id": session.id, "watch_attention": session.watch_attention, **plain(session)}
    return Handover(
        data,
        {latent: _array(clean) for latent, clean in state.latents.items()},
        tuple(_array(pooled) for pooled in state.references or ()),
        {chunk: _array(given) for chunk, given in session.start.items() if chunk >= session.chunk},
        tuple(_array(item.latents) for item in session.undecoded),
    )


def unpack(engine: Engine, handover: Handover, *, paper: bool = False) -> Session:
    """The session again.

    Args:
        paper: without keys and values: what commands can be checked against, in a process that has no GPU.

    Raises:
        ValueError: it belongs to another model.
    """
    data = handover.data
    if data["model"] != engine.name:
        raise ValueError(f"the session is of the model {data['model']!r}, this is {engine.name!r}")
    memory = engine.new_memory(policy_from_dict(data["memory"]["policy"]), paper=paper)
    session, state = session_of(engine, data, memory, data["id"]), _state(handover, memory.shape.device)
    session.watch_attention = data["watch_attention"]
    if paper:
        memory.state = state
        return session
    rebuild(memory, state, session.timeline, engine.clean_pass)
    session.start = {chunk: _tensor(array, engine.device) for chunk, array in handover.start.items()}
    session.undecoded = undecoded_of(data, [_tensor(array, engine.device) for array in handover.undecoded])
    session.decoder = _primed(engine, handover, session.chunk - len(session.undecoded))
    return session


def _primed(engine: Engine, handover: Handover, chunk: int) -> DecoderState:
    """The decoder's state before ``chunk``: the last latent frames before it, as far as they are known, once more."""
    end = chunk * engine.geometry.chunk_latents
    known: list[np.ndarray] = []
    while len(known) < PRIMING and end - len(known) - 1 in handover.latents:
        known.append(handover.latents[end - len(known) - 1])
    state = engine.vae.initial_state(1)
    if known:
        with torch.inference_mode():
            _, state = engine.vae.decode(_tensor(np.stack(known[::-1], 2), engine.device), state)
    return state


def _state(handover: Handover, device: torch.device) -> MemoryState:
    data = handover.data["memory"]
    return state_of(
        data,
        [Lanes(*(tuple(Cell(**cell) for cell in lane) for lane in lanes)) for lanes in data["lanes"]],
        [_tensor(array, device) for array in handover.references],
        {latent: _tensor(array, device) for latent, array in handover.latents.items()},
    )


def _array(tensor: Tensor) -> np.ndarray:
    array: np.ndarray = tensor.detach().float().cpu().numpy()
    return array.copy()


def _tensor(array: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(array).to(device)

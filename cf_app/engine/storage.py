"""Sessions on disk: one .safetensors file, its metadata the plain data as JSON. Never half-written."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from cf_app.engine import timeline_io
from cf_app.engine.parts import Clock, DecoderState
from cf_app.engine.session import Generated, Session
from cf_app.memory import storage as memory_storage
from cf_app.memory.manager import SlowFastMemory
from cf_app.memory.snapshot import MemorySnapshot

if TYPE_CHECKING:
    from cf_app.engine.engine import Engine

FORMAT = 1


def save_session(session: Session, path: str | Path) -> None:
    """Write a session to ``path``, replacing what is there once the new file is complete.

    Raises:
        ValueError: the folder does not exist or can not be written to.
    """
    target = Path(path)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    tensors = memory_storage.tensors(session.memory)
    for index, tensor in enumerate(session.decoder or ()):
        if tensor is not None:
            tensors[f"decoder.{index}"] = tensor.clone()
    for index, item in enumerate(session.undecoded):
        tensors[f"undecoded.{index}"] = item.latents.clone()
    for chunk, latents in session.start.items():
        if chunk >= session.chunk:
            tensors[f"start.{chunk}"] = latents.clone()
    decoder = None if session.decoder is None else len(session.decoder)
    data = {"format": FORMAT, **plain(session), "decoder": decoder}
    contiguous = {name: tensor.contiguous().cpu() for name, tensor in tensors.items()}
    try:
        save_file(contiguous, part, {"session": json.dumps(data)})
        os.replace(part, target)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{target} can not be written: {error}") from error
    finally:
        part.unlink(missing_ok=True)


def load_session(engine: Engine, path: str | Path, id: str | None = None) -> Session:
    """Read what ``save_session`` wrote.

    Raises:
        ValueError: the file is missing, damaged, of another version or of another model.
    """
    tensors, data = _read(Path(path))
    if data.get("format") != FORMAT:
        raise ValueError(f"{path} has format {data.get('format')!r}, this version reads {FORMAT}")
    if data.get("model") != engine.name:
        raise ValueError(f"{path} is a session of the model {data.get('model')!r}, this is {engine.name!r}")
    try:
        memory = engine.new_memory()
        memory_storage.restore(memory, tensors, data["memory"])
        starts = {int(name.split(".")[1]): tensor for name, tensor in tensors.items() if name.startswith("start.")}
        undecoded = [tensors[f"undecoded.{index}"].to(engine.device) for index in range(len(data["undecoded"]))]
        session = session_of(engine, data, memory, id)
        session.start = {chunk: latents.to(engine.device) for chunk, latents in starts.items()}
        session.undecoded = undecoded_of(data, undecoded)
        session.decoder = _decoder(tensors, data["decoder"], engine)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged or of another model ({error})") from error
    return session


def plain(session: Session) -> dict[str, Any]:
    """All of a session but its tensors, as data that ``json.dumps`` takes."""
    return {
        "model": session.model,
        "timeline": timeline_io.to_dict(session.timeline),
        "seed": session.seed,
        "switch_memory": session.switch_memory,
        "chunk": session.chunk,
        "marked": session.marked,
        "memory": memory_storage.plain(session.memory),
        "undecoded": [_generated_data(item) for item in session.undecoded],
    }


def session_of(engine: Engine, data: Mapping[str, Any], memory: SlowFastMemory, id: str | None) -> Session:
    """The session that ``plain`` has described, without what was kept as tensors."""
    timeline = timeline_io.from_dict(data["timeline"])
    session = Session(engine, timeline, data["seed"], data["switch_memory"], memory, None, id)
    session.chunk, session.marked = data["chunk"], data["marked"]
    return session


def undecoded_of(data: Mapping[str, Any], latents: Sequence[Tensor]) -> tuple[Generated, ...]:
    """The chunks without pictures that ``plain`` has described; ``latents`` are theirs [B, C, F, Y, X]."""
    return tuple(_generated(item, tensor) for item, tensor in zip(data["undecoded"], latents, strict=True))


def _generated_data(item: Generated) -> dict[str, Any]:
    values = {name: item.__dict__[name] for name in ("chunk", "prompt", "seed")}
    return {**values, "timings": item.clock.settle(), "snapshot": asdict(item.snapshot)}


def _generated(data: Mapping[str, Any], latents: Tensor) -> Generated:
    snapshot, clock = MemorySnapshot.from_dict(data["snapshot"]), Clock(data["timings"])
    return Generated(data["chunk"], data["prompt"], data["seed"], latents, snapshot, clock)


def _decoder(tensors: dict[str, Tensor], length: int | None, engine: Engine) -> DecoderState:
    if length is None:
        return None
    found = (tensors.get(f"decoder.{index}") for index in range(length))
    state = tuple(None if tensor is None else tensor.to(engine.device) for tensor in found)
    engine.vae.check_state(state)
    return state


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        with safe_open(path, "pt") as file:
            data = json.loads((file.metadata() or {}).get("session", "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dictionary
    except (OSError, SafetensorError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is missing or damaged ({error})") from error
    if not isinstance(data, dict):
        raise ValueError(f"{path} is no session file")
    return tensors, data

"""The memory asks the device for nothing while a chunk is made, and its work does not grow with the layers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from cf_app.engine.engine import Engine
from cf_app.engine.messages import ChunkReady
from cf_app.engine.parts import Observer
from cf_app.memory import context as context_module
from cf_app.memory.kv_cache import KVCache, KVShape
from cf_app.memory.lanes import Cell, Read
from cf_app.memory.policy import SlowFast
from cf_app.memory.swap import Swap, swap_of
from cf_app.memory.workspace import Workspace
from tests.test_fast_paths import HostReads
from tests.tiny import tiny_engine

RED = "a red ball hops"
RELEASED = SlowFast(slow=4, tau=0.9995, timing="as_released", decision="per_layer")


def film(engine: Engine, chunks: int, *, disturb: bool = False) -> list[ChunkReady]:
    """With ``disturb`` another session uses the workspace between the passes of every chunk."""
    session = engine.new_session(RED, 2, policy=RELEASED)
    other = engine.new_session("a blue star floats", 5, policy=RELEASED)
    found = []
    for _ in range(chunks):
        draft = engine.draft(session)
        if disturb:
            engine.step(other)
        engine.remember(session, draft)
        found.append(engine.decode(session))
    return found


def test_what_the_device_decides_is_what_the_host_would_have(monkeypatch: pytest.MonkeyPatch) -> None:
    """In place while slow memory fills, in place of the oldest once it is full; between two sessions; and lean."""
    device = film(tiny_engine(), 10)
    disturbed = film(tiny_engine(), 10, disturb=True)
    lean = tiny_engine()
    lean._workspace = Workspace(lean.kv_shape, lean=True)
    monkeypatch.setattr(context_module, "swap_of", lambda *_: None)  # then every layer asks
    asked = film(tiny_engine(), 10)
    monkeypatch.undo()
    assert sum(bool(chunk.snapshot.promoted) for chunk in asked) >= 6
    assert any(sum(entry.promoted_at is not None for entry in chunk.snapshot.entries) == 4 for chunk in asked)
    for other in (device, disturbed, film(lean, 10)):
        for one, two in zip(asked, other, strict=True):
            assert one.snapshot.layer_slots == two.snapshot.layer_slots
            assert one.snapshot.promoted == two.snapshot.promoted
            assert one.snapshot.similarities == pytest.approx(two.snapshot.similarities, abs=1e-5)
            assert np.abs(one.frames.astype(int) - two.frames.astype(int)).max() <= 1


def test_as_released_waits_for_the_device_once_a_chunk() -> None:
    engine = tiny_engine()
    session = engine.new_session(RED, policy=RELEASED)
    for _ in range(8):
        engine.step(session)
    with HostReads() as reads:
        draft = engine.draft(session)
        generated = engine._clean_pass(session, draft, Observer())
        assert reads.seen == []
        engine._commit(session, generated, draft.context)
    assert len(reads.seen) <= 5 * engine.kv_shape.layers  # the numbers of one fetched tensor, on a CPU one by one
    before = len(reads.seen)
    draft.context.settle()
    assert len(reads.seen) == before


def test_a_swap_says_what_a_promotion_changes() -> None:
    cells = [Cell(write, write) for write in range(1, 6)]
    before = [Read(cell, at) for at, cell in enumerate(cells)]
    new = Cell(9, 9)
    in_place = [*before[:2], Read(new, 2), *before[3:]]
    assert swap_of(before, in_place, 9) == Swap(2, 2)
    shifted = [before[0], Read(cells[2], 1), Read(cells[3], 2), Read(new, 3), before[4]]
    assert swap_of(before, shifted, 9) == Swap(1, 3, ((2, 4, -1),))
    assert swap_of(before, [*before, Read(new, 5)], 9) is None and swap_of(before, before, 9) is None


class Work(TorchDispatchMode):
    """Counts operations that compute or copy."""

    FREE = ("aten.slice", "aten.select", "aten.view", "aten.reshape", "aten._unsafe_view", "aten.unsqueeze",
            "aten.detach", "aten.alias", "aten.transpose", "aten.expand", "aten.as_strided", "aten.permute",
            "aten._reshape_alias", "aten.split", "aten.empty", "aten._local_scalar_dense", "aten.view_as")  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not str(func).startswith(self.FREE)
        return func(*args, **(kwargs or {}))


def test_the_work_of_the_memory_does_not_grow_with_the_layers() -> None:
    counts = []
    for layers in (2, 5):
        engine = tiny_engine(layers=layers)
        session = engine.new_session(RED, 1)
        for _ in range(8):
            engine.step(session)
        address = engine._workspace._keys.data_ptr()
        for _ in range(2):  # a steady chunk, its neighbour's promotion or not
            with torch.inference_mode(), Work() as work:
                memory = session.memory
                memory.context(memory.state, RED, session.chunk, engine._workspace)
            laid_out = work.count
            draft = engine.draft(session)
            generated = engine._clean_pass(session, draft, Observer())
            with Work() as work:
                engine._commit(session, generated, draft.context)
        assert engine._workspace._keys.data_ptr() == address
        counts.append((laid_out, work.count))
    assert counts[0] == counts[1] and all(counts[0]), counts


def shape(stored: torch.dtype | None = None) -> KVShape:
    return KVShape(3, 1, 1, 2, 1, 6, torch.float32, torch.device("cpu"), stored)


@pytest.mark.parametrize("stored", [None, torch.float8_e4m3fn])
def test_what_all_layers_take_in_at_once_is_what_each_would_have(stored: torch.dtype | None) -> None:
    torch.manual_seed(0)
    one, all_at_once = KVCache(shape(stored), 4), KVCache(shape(stored), 4)
    keys, values = ([torch.randn(1, 2, 1, 6) for _ in range(3)] for _ in range(2))
    for layer in range(3):
        one.store(layer, (), {7: (keys[layer], values[layer])})
    assert all_at_once.store_all({7: (keys, values)})
    assert not all_at_once.store_all(dict.fromkeys((1, 2, 3, 4), (keys, values)))
    whole = all_at_once.read_all(7)
    assert whole is not None
    for layer in range(3):
        for ours, theirs, part in zip(one.read(layer, 7), all_at_once.read(layer, 7), whole, strict=True):
            assert torch.equal(ours, theirs) and torch.equal(ours, part[layer])
    all_at_once.retain(1, ())
    assert all_at_once.read_all(7) is None and all_at_once.holds(0, 7)

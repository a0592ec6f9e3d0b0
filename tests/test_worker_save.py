"""A session is written between two chunks while it plays, and goes on from the file as it would have."""
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from cf_app.engine.messages import Evict, Play, Restore
from cf_app.engine.worker import Worker
from tests.tiny import EXAMPLES, tiny_engine
from tests.worker_events import next_chunks


@pytest.fixture
def worker() -> Iterator[Worker]:
    worker = Worker(tiny_engine())
    yield worker
    worker.shutdown()


def test_a_playing_session_is_saved_between_two_chunks(worker: Worker, tmp_path: Path) -> None:
    session = worker.open(EXAMPLES[0], 3)
    worker.send(session, Play())
    first = next_chunks(worker, session, 2)
    path = tmp_path / "memory.safetensors"
    at = worker.save(session, path)
    again = worker.engine.load_session(path)
    assert again.chunk == at >= 2
    rest = next_chunks(worker, session, at + 2 - len(first))
    while (there := worker.engine.step(again)).chunk < at:
        pass
    assert there.chunk == at
    assert np.array_equal(there.frames, rest[-2].frames)
    assert worker.engine.step(again).snapshot.entries == rest[-1].snapshot.entries


def test_commands_that_came_first_are_in_the_file(worker: Worker, tmp_path: Path) -> None:
    session = worker.open(EXAMPLES[0], 3)
    worker.send(session, Play())
    last = next_chunks(worker, session, 3)[-1]
    latent = next(entry.latent for entry in last.snapshot.entries if entry.lane == "slow")
    worker.send(session, Evict(latent))
    worker.save(session, tmp_path / "a")
    assert latent not in held(worker, tmp_path / "a")
    worker.send(session, Restore(latent))
    worker.save(session, tmp_path / "b")
    assert latent in held(worker, tmp_path / "b")


def held(worker: Worker, path: Path) -> set[int]:
    return {entry.latent for entry in worker.engine.load_session(path).memory.snapshot().entries}


def test_what_can_not_be_saved_is_refused(worker: Worker, tmp_path: Path) -> None:
    session = worker.open(EXAMPLES[0], 3)
    with pytest.raises(ValueError, match="can not be written"):
        worker.save(session, tmp_path / "missing" / "file")
    worker.close(session)
    with pytest.raises(ValueError, match="closed"):
        worker.save(session, tmp_path / "file")
    assert not list(tmp_path.iterdir())

"""ZeroGPU: whether this is such a Space, and the call that it lends its GPU to.

On ZeroGPU ``import spaces`` has to come before torch (``app.py`` sees to it). Models are moved to "cuda" while the app
is imported; the package keeps them on disk and brings them to the GPU when a call begins. torch.compile does not exist
there.
"""

from __future__ import annotations

import os
from collections.abc import Generator

from cf_app.engine.engine import Engine
from cf_app.engine.messages import Event
from cf_app.space.segment import Order, Parting, play_segment
from cf_app.space.segmented import Call, SegmentedWorker

SPARE = 12  # seconds on top of a segment: a process is forked, weights go to the GPU


def on_zero_gpu() -> bool:
    """Whether the Space has ZeroGPU hardware; the test that the ``spaces`` package makes."""
    return os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true")


def lent_gpu(engine: Engine, seconds: float) -> Call:
    """``play_segment`` of ``engine`` in a process with a GPU; elsewhere it simply runs here."""
    import spaces

    def call(order: Order) -> Generator[Event | Parting]:
        yield from play_segment(engine, order)

    lent: Call = spaces.GPU(duration=round(seconds) + SPARE)(call)
    return lent


def segmented_worker(engine: Engine, *, seconds: float, lead: int) -> SegmentedWorker:
    """A worker for ZeroGPU. Has to be made while the app is imported: the package looks for its calls then."""
    return SegmentedWorker(engine, lent_gpu(engine, seconds), seconds=seconds, lead=lead)

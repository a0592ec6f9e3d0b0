"""What ZeroGPU does to a GPU call, without a GPU: another process for it, pickles both ways, a queue without bounds.

``reuse`` keeps a process for the next call, as ZeroGPU does when nobody else wants the GPU meanwhile.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import queue
import threading
from collections.abc import Callable, Generator
from typing import Any

import torch

_fork = multiprocessing.get_context("fork")
Task = Callable[[Any], Generator[Any]]


class FakeZeroGPU:
    """Attributes:

    calls: per call the process that it ran in.
    orders: what each call was asked.
    """

    def __init__(self, *, reuse: bool = False) -> None:
        self.reuse = reuse
        self.calls: list[int] = []
        self.orders: list[Any] = []
        self._free: list[tuple[Any, Any]] = []

    def __call__(self, task: Task) -> Task:
        """Decorate a generator function of one argument."""

        def call(order: Any) -> Generator[Any]:
            self.orders.append(order)
            process, pipe = self._free.pop() if self._free else self._begin(task)
            self.calls.append(process.pid)
            pipe.send_bytes(pickle.dumps(order))
            items: queue.Queue[bytes | None] = queue.Queue()
            threading.Thread(target=_pump, args=(pipe, items), daemon=True).start()
            try:
                while (item := items.get()) is not None:
                    kind, value = pickle.loads(item)
                    if kind == "end":
                        if self.reuse:
                            self._free.append((process, pipe))
                            process = None
                        return
                    if kind == "error":
                        raise RuntimeError(value)
                    yield value
                raise RuntimeError("GPU task aborted")
            finally:
                if process is not None:
                    process.terminate()
                    process.join()

        return call

    def close(self) -> None:
        """End processes that are kept."""
        for process, _ in self._free:
            process.terminate()
            process.join()

    def _begin(self, task: Task) -> tuple[Any, Any]:
        ours, theirs = _fork.Pipe()
        process = _fork.Process(target=_serve, args=(task, theirs), daemon=True)
        process.start()
        theirs.close()
        return process, ours


def _pump(pipe: Any, items: queue.Queue[bytes | None]) -> None:
    with contextlib.suppress(EOFError, OSError):
        while True:
            item = pipe.recv_bytes()
            items.put(item)
            if pickle.loads(item)[0] != "item":
                return
    items.put(None)


def _serve(task: Task, pipe: Any) -> None:
    torch.set_num_threads(1)  # threads of the parent do not survive a fork
    with contextlib.suppress(EOFError, OSError):
        while True:
            order = pickle.loads(pipe.recv_bytes())
            try:
                for item in task(order):
                    pipe.send_bytes(pickle.dumps(("item", item)))
                pipe.send_bytes(pickle.dumps(("end", None)))
            except Exception as error:  # noqa: BLE001
                pipe.send_bytes(pickle.dumps(("error", repr(error))))
    os._exit(0)

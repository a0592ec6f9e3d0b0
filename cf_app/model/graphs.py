"""Passes recorded once and played back: a GPU then gets one command instead of some thousand.

A recording reads and writes fixed places, so all that changes is copied into such places first: latents, timestep, the
prompt's keys and values, the rotation of the queries. The memory's workspace lies at a fixed place anyway. There is one
recording a shape: while a memory fills, each chunk reads more; once it is full, all read the same. A pass that keeps
its keys and values (the clean one) is another recording than one that does not.

Recordings share a pool for what they need in passing. That is safe because one thread plays them one after another.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from cf_app.model.attention import KVContext, TextKV
from cf_app.model.causal_wan import WanTransformer3DModel, causal_forward

WARM = 2  # runs before a recording: libraries choose their kernels, compilers compile


class Recordable(Protocol):
    """A context whose passes can be recorded."""

    query_rope: Tensor

    def recording(self) -> Hashable | None:
        """What a recording depends on besides shapes; None where this pass can not be recorded."""
        ...

    def prepare(self) -> None:
        """Lay out what will be read, so that the pass does nothing but compute."""
        ...

    def fixed(self, query_rope: Tensor) -> KVContext:
        """A context that reads and writes the same places as this one, for ever."""
        ...

    def passed(self) -> None:
        """The pass is over; take what it has kept."""
        ...


class Recorder(Protocol):
    """Makes recordings."""

    def record(self, work: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], object]]:
        """What ``work`` gives, and what to call to have it computed again into the same tensor."""
        ...


class CudaRecorder:
    """CUDA graphs. Other threads may use the GPU meanwhile, on streams of their own."""

    def __init__(self) -> None:
        self._pool: Any = None

    def record(self, work: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], object]]:
        """See ``Recorder``.

        Raises:
            ValueError: something in the pass can not be recorded.
        """
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        here, aside = torch.cuda.current_stream(), torch.cuda.Stream()
        aside.wait_stream(here)
        with torch.cuda.stream(aside):
            for _ in range(WARM):
                work()
        here.wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                out = work()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            line = str(error).strip().splitlines()[0]
            raise ValueError(f'a pass can not be recorded, leave "graphs" out of --speed ({line})') from error
        return out, graph.replay


class EagerRecorder:
    """No recordings: plays back by computing again. Shows on any machine that nothing but fixed places is read."""

    def record(self, work: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], object]]:
        """See ``Recorder``."""
        out = work()
        return out, lambda: out.copy_(work())


@dataclass
class _Recording:
    latents: Tensor
    timestep: Tensor
    query_rope: Tensor
    text: _FixedText
    flow: Tensor
    replay: Callable[[], object]


class _FixedText:
    """Room for a prompt's keys and values."""

    def __init__(self, text: TextKV) -> None:
        self.here = TextKV(tuple(map(torch.clone, text.keys)), tuple(map(torch.clone, text.values)))
        self._holds = text

    def take(self, text: TextKV) -> None:
        """Copy another prompt's there."""
        if text is not self._holds:
            for mine, theirs in zip((*self.here.keys, *self.here.values), (*text.keys, *text.values), strict=True):
                mine.copy_(theirs)
            self._holds = text


class RecordedPasses:
    """``causal_forward`` by recordings, for one transformer. One thread at a time."""

    def __init__(self, transformer: WanTransformer3DModel, recorder: Recorder) -> None:
        self._transformer, self._recorder = transformer, recorder
        self._recordings: dict[Hashable, _Recording] = {}
        self._texts: dict[Hashable, _FixedText] = {}

    def __len__(self) -> int:
        """Recordings so far."""
        return len(self._recordings)

    def __call__(
        self, latents: Tensor, timestep: float, text: TextKV, context: Recordable, recording: Hashable
    ) -> Tensor:
        """Flow of a chunk; see ``causal_forward``. ``recording`` is the context's, not None."""
        context.prepare()
        shape = (text.keys[0].shape, text.keys[0].dtype)
        key = (recording, latents.shape, latents.dtype, shape)
        if key not in self._recordings:
            self._recordings[key] = self._record(latents, timestep, text, context, shape)
        found = self._recordings[key]
        found.latents.copy_(latents)
        found.timestep.fill_(timestep)
        found.query_rope.copy_(context.query_rope)
        found.text.take(text)
        found.replay()
        context.passed()
        return found.flow.clone()

    def _record(
        self, latents: Tensor, timestep: float, text: TextKV, context: Recordable, shape: Hashable
    ) -> _Recording:
        fixed_text = self._texts.setdefault(shape, _FixedText(text))
        fixed_text.take(text)
        here = latents.clone()
        time = torch.full((), timestep, dtype=torch.float32, device=latents.device)
        rope = context.query_rope.clone()
        reads = context.fixed(rope)

        def work() -> Tensor:
            return causal_forward(self._transformer, here, time, fixed_text.here, reads)

        flow, replay = self._recorder.record(work)
        return _Recording(here, time, rope, fixed_text, flow, replay)

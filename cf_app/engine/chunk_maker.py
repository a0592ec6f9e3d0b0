"""How a chunk is made, in parts that a worker can run beside each other.

``draft`` finds the chunk's latents, ``remember`` runs the clean pass over them and commits it to the memory,
``develop`` makes pictures of them, ``deliver`` puts everything into one event. Pictures need only the draft, so they
are made while the clean pass runs. Nothing of a session changes before ``remember`` commits, and only ``deliver`` moves
its decoder on: what fails can be repeated, and gives what it would have given.
"""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from cf_app.config import Geometry, ModelConfig
from cf_app.engine.messages import ChunkReady
from cf_app.engine.noise import NoiseAhead
from cf_app.engine.parts import Clock, DecoderState, Observer, VideoAutoencoder, to_pictures
from cf_app.engine.preview import first_snapshot
from cf_app.engine.sampler import Schedule, denoise_chunk
from cf_app.engine.session import Generated, Session
from cf_app.engine.texts import Texts
from cf_app.engine.timeline import Prompting
from cf_app.memory.attention_mass import AttentionProbe
from cf_app.memory.context import ChunkContext
from cf_app.memory.kv_cache import KVShape
from cf_app.memory.snapshot import MemorySnapshot
from cf_app.memory.state import MemoryState
from cf_app.memory.workspace import Workspace
from cf_app.model.attention import KVContext, TextKV, WatchedContext
from cf_app.model.causal_wan import WanTransformer3DModel, causal_forward
from cf_app.model.graphs import RecordedPasses


@dataclass(frozen=True, eq=False)
class Draft:
    """A chunk whose latents exist; the session does not know of it yet.

    Attributes:
        latents: clean latents [1, C, F, Y, X].
        ready: on a GPU, the moment at which they are there.
    """

    chunk: int
    prompt: str
    seed: int
    latents: Tensor
    text: TextKV
    context: ChunkContext
    clock: Clock
    ready: torch.cuda.Event | None = None


@dataclass(frozen=True, eq=False)
class Developed:
    """Pictures of a chunk: uint8 [P, H, W, 3], thumbnails uint8 [F, h, w, 3], and the decoder's next state."""

    frames: np.ndarray
    thumbnails: np.ndarray
    after: DecoderState
    clock: Clock


class ChunkMaker:
    """The models of an engine and what all its sessions share.

    One thread at a time drafts and remembers, another one may develop meanwhile.
    """

    def __init__(
        self,
        config: ModelConfig,
        transformer: WanTransformer3DModel,
        vae: VideoAutoencoder,
        texts: Texts,
        shape: KVShape,
        *,
        lean: bool,
    ) -> None:
        self.config, self.transformer, self.vae, self.kv_shape = config, transformer, vae, shape
        self.schedule = Schedule.of(config.sampler)
        self._texts = texts
        self._workspace = Workspace(shape, lean=lean)
        self._recorded: RecordedPasses | None = None
        self._lock = threading.RLock()

    @property
    def geometry(self) -> Geometry:
        """Sizes of the video."""
        return self.config.geometry

    @property
    def device(self) -> torch.device:
        """Where the transformer runs."""
        device: torch.device = self.transformer.patch_embedding.weight.device
        return device

    def step(self, session: Session, *, noise: Tensor | None = None, observer: Observer | None = None) -> ChunkReady:
        """Generate, decode and commit the next chunk. If anything fails, the session is as it was.

        Args:
            noise: [steps, 1, C, F, Y, X] to use instead of the seed's, to replay a recording.
            observer: sees every pass.
        """
        with self._lock:
            if session.undecoded:
                return self.decode(session)
            draft = self.draft(session, noise=noise, observer=observer)
            generated = self._clean_pass(session, draft, observer or Observer())
            developed = self.develop(session, draft)
            self._commit(session, generated, draft.context)
            return self.deliver(session, developed)

    def generate(self, session: Session) -> None:
        """First half of a step: latents and memory, committed."""
        with self._lock:
            self.remember(session, self.draft(session))

    def decode(self, session: Session) -> ChunkReady:
        """Second half of a step: pictures of the oldest undecoded chunk. If it fails, it can be repeated."""
        return self.deliver(session, self.develop(session, session.undecoded[0]))

    @torch.inference_mode()
    def draft(self, session: Session, *, noise: Tensor | None = None, observer: Observer | None = None) -> Draft:
        """Latents of the next chunk, not committed."""
        with self._lock:
            session.act_on_markers()
            session.memory.check_room()
            clock, observer = Clock(device=self.device), observer or Observer()
            prompting = session.timeline.prompt_at(session.chunk)
            text = self._prompt_kv(prompting)
            clock.lap("text")
            state = self._switched(session, prompting, text, observer)
            context = session.memory.context(state, prompting.caption, session.chunk, self._workspace)
            clock.lap("memory")
            latents = session.start.get(session.chunk)
            if latents is None:
                drawn = self._noise(session.seed, session.chunk) if noise is None else noise.to(self.device)
                latents = self._denoise(drawn, text, context, observer)
            clock.lap("denoise")
            ready = torch.cuda.Event() if self._on_gpu else None
            if ready is not None:
                ready.record()
            return Draft(session.chunk, prompting.caption, session.seed, latents, text, context, clock, ready)

    def remember(self, session: Session, draft: Draft) -> None:
        """The clean pass over a draft, and its commit to the session's memory."""
        with self._lock:
            draft.clock.restart()
            self._commit(session, self._clean_pass(session, draft, Observer()), draft.context)

    @torch.inference_mode()
    def clean_pass(self, latents: Tensor, prompting: Prompting, context: KVContext) -> None:
        """Run clean latents [1, C, F, Y, X] so that ``context`` gets their keys and values."""
        with self._lock:
            level, text = self.config.sampler.context_timestep, self._prompt_kv(prompting)
            causal_forward(self.transformer, latents, level, text, context)

    def _prompt_kv(self, prompting: Prompting) -> TextKV:
        return self._texts(prompting, self.device, self.kv_shape.dtype)

    @torch.inference_mode()
    def develop(self, session: Session, chunk: Draft | Generated) -> Developed:
        """Pictures of the chunk after the last one that was delivered; changes nothing."""
        ready = chunk.ready if isinstance(chunk, Draft) else None
        with self._aside(chunk.latents, ready):
            clock, geometry = chunk.clock.apart(), self.geometry
            frames, after = self.vae.decode(chunk.latents, session.decoder)
            expected = (1, 3, geometry.chunk_frames, geometry.height, geometry.width)
            if tuple(frames.shape) != expected:
                raise ValueError(
                    f"the autoencoder made pictures of shape {tuple(frames.shape)}, expected {expected}: "
                    "vae and cf_config.json belong to different models"
                )
            pictures, thumbnails = to_pictures(frames[0], geometry)
            clock.lap("decode")
            return Developed(pictures, thumbnails, after, clock)

    def deliver(self, session: Session, developed: Developed) -> ChunkReady:
        """The oldest undecoded chunk with its pictures; the session goes on behind it."""
        done = session.undecoded[0]
        session.decoded(developed.after)
        done.clock.join(developed.clock)
        spent = done.clock.settle()
        snapshot = replace(done.snapshot, memory_ms=spent["memory"])
        timings = {**spent, "total": sum(spent.values())}
        pictures, small = developed.frames, developed.thumbnails
        return ChunkReady(session.id, done.chunk, pictures, done.prompt, done.seed, snapshot, timings, small)

    def early(self, session: Session, draft: Draft) -> MemorySnapshot | None:
        """The memory as it will be after ``draft``, where that is known before its clean pass; see ``preview.py``."""
        return None if session.watch_attention else first_snapshot(session.memory, draft.context)

    def deliver_early(
        self, session: Session, draft: Draft, developed: Developed, snapshot: MemorySnapshot
    ) -> ChunkReady:
        """``draft`` with its pictures before its clean pass is over; nothing of the session changes."""
        clock = draft.clock.copy()
        clock.join(developed.clock)
        timings = {"context": 0.0, **clock.spent, "total": sum(clock.spent.values())}
        pictures, small = developed.frames, developed.thumbnails
        return ChunkReady(session.id, draft.chunk, pictures, draft.prompt, draft.seed, snapshot, timings, small)

    @torch.inference_mode()
    def _clean_pass(self, session: Session, draft: Draft, observer: Observer) -> Generated:
        last, level, clock = len(self.schedule), self.config.sampler.context_timestep, draft.clock
        draft.context.begin(last, clean=True)
        probe = AttentionProbe(draft.context) if session.watch_attention else None
        reads = draft.context if probe is None else WatchedContext(draft.context, probe.watch)
        flow = self._pass(draft.latents, level, draft.text, reads)
        if observer.on_pass is not None:
            observer.on_pass(last, flow, None, draft.context)
        clock.lap("context")
        if probe is not None:
            clock.move("context", "attention", probe.ms)
        attention = () if probe is None else probe.views()
        snapshot = replace(session.memory.snapshot(), attention=attention)  # the rest follows with the commit
        return Generated(draft.chunk, draft.prompt, draft.seed, draft.latents, snapshot, clock)

    def _commit(self, session: Session, generated: Generated, context: ChunkContext) -> None:
        clock = generated.clock
        clock.restart()
        with torch.inference_mode():
            session.memory.commit(context, generated.latents)
        clock.lap("memory")
        # Its milliseconds follow in ``deliver``: asking for them here would wait for the copies to be done.
        snapshot = replace(session.memory.snapshot(), attention=generated.snapshot.attention)
        session.advance(replace(generated, snapshot=snapshot))

    def _denoise(self, noise: Tensor, text: TextKV, context: ChunkContext, observer: Observer) -> Tensor:
        def predict(x: Tensor, step: int) -> Tensor:
            context.begin(step)
            return self._pass(x, self.schedule.timesteps[step], text, context)

        def observe(step: int, flow: Tensor, x0: Tensor) -> None:
            if observer.on_pass is not None:
                observer.on_pass(step, flow, x0, context)

        return denoise_chunk(predict, noise, self.schedule, observe)

    def _pass(self, latents: Tensor, timestep: float, text: TextKV, context: KVContext) -> Tensor:
        if self._recorded is not None and isinstance(context, ChunkContext):
            recording = context.recording()
            if recording is not None:
                return self._recorded(latents, timestep, text, context, recording)
        return causal_forward(self.transformer, latents, timestep, text, context)

    def _switched(self, session: Session, prompting: Prompting, text: TextKV, observer: Observer) -> MemoryState:
        """The memory's state for this chunk: what a change of prompt does to it."""
        memory = session.memory
        if not prompting.switched:
            return memory.state
        state = memory.switched(prompting.memory)
        if prompting.memory != "recache":
            return state
        context = memory.recache(state, prompting.caption, len(self.schedule) + 1, self._workspace)
        if not context.latents:
            return state
        clean = torch.stack([state.latents[latent] for latent in context.latents], 2)
        flow = causal_forward(self.transformer, clean, self.config.sampler.context_timestep, text, context)
        if observer.on_recache is not None:
            observer.on_recache(context.latents, flow)
        return context.result()

    @cached_property
    def _noise(self) -> NoiseAhead:
        steps, shape = len(self.schedule), self.geometry.latent_shape
        return NoiseAhead(steps, shape, self.device, ahead=self._on_gpu)

    @property
    def _on_gpu(self) -> bool:
        return self.device.type == "cuda"

    @cached_property
    def _side_stream(self) -> torch.cuda.Stream:
        return torch.cuda.Stream(self.device)

    def _aside(self, latents: Tensor, ready: torch.cuda.Event | None) -> AbstractContextManager[object]:
        """On a GPU, a queue of its own for decoding: pictures must not wait for the clean pass that follows them."""
        if not self._on_gpu:
            return nullcontext()
        if ready is None:
            self._side_stream.wait_stream(torch.cuda.current_stream())
        else:
            self._side_stream.wait_event(ready)
        latents.record_stream(self._side_stream)  # their memory is free only when both queues are done with them
        return torch.cuda.stream(self._side_stream)

"""Models, shared and immutable, and the step that advances a session by a chunk.

A step computes everything and commits once. All randomness of a chunk comes from (seed, chunk index), so a step that
failed can be repeated and gives what it would have given.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cf_app.config import SWITCH_MODES, Geometry, ModelConfig
from cf_app.engine.messages import ChunkReady
from cf_app.engine.parts import Clock, DecoderState, Observer, VideoAutoencoder, marked_policy, to_pictures
from cf_app.engine.sampler import Schedule, check_seed, chunk_noise, denoise_chunk
from cf_app.engine.session import Generated, Session
from cf_app.engine.start import encode_start
from cf_app.engine.texts import Texts
from cf_app.engine.timeline import Prompting, Timeline
from cf_app.engine.timeline_markers import MemoryMark
from cf_app.memory.attention_mass import AttentionProbe
from cf_app.memory.context import ChunkContext
from cf_app.memory.kv_cache import KVShape, Workspace
from cf_app.memory.manager import SlowFastMemory
from cf_app.memory.policy import Policy, check_policy, policy_from_dict
from cf_app.memory.state import MemoryState
from cf_app.model.attention import Attend, TextKV, WatchedContext, attend
from cf_app.model.causal_wan import WanTransformer3DModel, causal_forward, make_causal, token_grid
from cf_app.model.text_encoder import PromptEncoder


class Engine:
    """Runs sessions of one model, one chunk at a time.

    Args:
        config: sizes, schedule and defaults of the model.
        transformer: diffusers' WanTransformer3DModel; gets our attention processors.
        vae: decoder with its state outside.
        text: prompt encoder.
        kernel: attention.
        quantization: name of the scheme, for display.
        kv_stored: type that sessions keep keys and values in, such as torch.float8_e4m3fn; None for the transformer's.
        lean: one workspace for all layers, see ``Workspace``.
    """

    def __init__(
        self,
        config: ModelConfig,
        transformer: WanTransformer3DModel,
        vae: VideoAutoencoder,
        text: PromptEncoder,
        *,
        kernel: Attend = attend,
        quantization: str = "none",
        kv_stored: torch.dtype | None = None,
        lean: bool = False,
    ) -> None:
        self.config, self.quantization = config, quantization
        self.transformer = make_causal(transformer, kernel).eval().requires_grad_(False)
        self.vae, self.text = vae, text
        self.schedule = Schedule.of(config.sampler)
        geometry = config.geometry
        wan: Any = transformer.config
        if wan.in_channels != geometry.latent_channels:
            raise ValueError(
                f"the transformer takes {wan.in_channels} latent channels, cf_config.json says "
                f"{geometry.latent_channels}: the files belong to different models"
            )
        rows, columns = token_grid(transformer, geometry.latent_height, geometry.latent_width)
        heads, width = wan.num_attention_heads, wan.attention_head_dim
        dtype = transformer.patch_embedding.weight.dtype
        self.kv_shape = KVShape(wan.num_layers, 1, rows, columns, heads, width, dtype, self.device, kv_stored)
        self.policy: Policy = policy_from_dict(config.memory)
        self._positions: int = wan.rope_max_seq_len
        check_policy(self.policy, geometry.chunk_latents, self._positions)
        self._workspace = Workspace(self.kv_shape, lean=lean)
        self._texts = Texts(self.transformer, text)
        self._lock = threading.RLock()

    @property
    def geometry(self) -> Geometry:
        """Sizes of the video."""
        return self.config.geometry

    @property
    def name(self) -> str:
        """Short name of the model."""
        return self.config.name

    @property
    def title(self) -> str:
        """Name of the model for people."""
        return self.config.title or self.config.name

    @property
    def description(self) -> str:
        """What the model is, in a sentence or two."""
        return self.config.description

    @property
    def device(self) -> torch.device:
        """Where the transformer runs."""
        device: torch.device = self.transformer.patch_embedding.weight.device
        return device

    @property
    def vocabulary(self) -> frozenset[str] | None:
        """Words that the model knows, None if it takes free text."""
        return self.config.vocabulary

    @property
    def example_prompts(self) -> tuple[str, ...]:
        """Prompts to start from."""
        return self.config.example_prompts

    def unknown_words(self, prompt: str) -> list[str]:
        """Words of ``prompt`` that the model does not know, in order, each once; empty for free text."""
        if self.vocabulary is None:
            return []
        cleaned = "".join(letter if letter.isalnum() or letter in "_" else " " for letter in prompt.lower())
        return list(dict.fromkeys(word for word in cleaned.split() if word not in self.vocabulary))

    def new_session(
        self,
        prompt: str | None = None,
        seed: int = 0,
        *,
        timeline: Timeline | None = None,
        policy: Policy | None = None,
        switch_memory: str | None = None,
        start: np.ndarray | None = None,
        id: str | None = None,
    ) -> Session:
        """A session at chunk 0.

        Args:
            prompt: what to show; or give a ``timeline``.
            seed: 0 .. 2**32 - 1.
            policy: memory policy, the model's own by default.
            switch_memory: what a change of prompt does to the memory, the model's own way by default.
            start: a picture or a clip that the video begins with, uint8 [P, h, w, 3], see ``start.py``.

        Raises:
            ValueError: no or two prompts, a bad prompt, seed, policy, mode or start.
        """
        if (prompt is None) == (timeline is None):
            raise ValueError("expected a prompt or a timeline, and not both")
        if timeline is None:
            timeline = Timeline.single(prompt or "")
        check_seed(seed)
        mode = self.config.switch_memory if switch_memory is None else switch_memory
        if mode not in SWITCH_MODES:
            raise ValueError(f"switch_memory is {mode!r}, expected one of {', '.join(SWITCH_MODES)}")
        memory = self.new_memory(policy)
        self.check_timeline(timeline, memory)
        session = Session(self, timeline, seed, mode, memory, self.vae.initial_state(1), id)
        if start is not None:
            session.start = dict(enumerate(encode_start(self.vae, self.geometry, start, self.device)))
        return session

    def new_memory(self, policy: Policy | None = None) -> SlowFastMemory:
        """An empty memory of this model's shape."""
        frames = self.geometry.chunk_latents
        return SlowFastMemory(self.policy if policy is None else policy, self.kv_shape, frames, self._positions)

    def check_timeline(self, timeline: Timeline, memory: SlowFastMemory) -> None:
        """Raise ValueError if a memory marker asks for what this model can not do, or the end is out of reach."""
        policy = memory.policy
        for marker in timeline.markers:
            if isinstance(marker, MemoryMark):
                policy = marked_policy(marker, policy)
                check_policy(policy, self.geometry.chunk_latents, memory.most_positions)

    def load_session(self, path: str | Path, id: str | None = None) -> Session:
        """A session as ``Session.save`` wrote it; ValueError if the file is damaged or of another model."""
        from cf_app.engine.storage import load_session

        return load_session(self, path, id)

    def step(self, session: Session, *, noise: Tensor | None = None, observer: Observer | None = None) -> ChunkReady:
        """Generate, decode and commit the next chunk. If anything fails, the session is as it was.

        Args:
            noise: [steps, 1, C, F, Y, X] to use instead of the seed's, to replay a recording.
            observer: sees every pass.
        """
        with self._lock:
            if session.undecoded:
                return self.decode(session)
            generated, context = self._generate(session, noise, observer)
            pictures = self._decode(generated, session.decoder)
            self._commit(session, generated, context)
            return self._deliver(session, pictures)

    def generate(self, session: Session) -> None:
        """First half of a step, for a worker that decodes in a second thread: latents and memory, committed."""
        with self._lock:
            generated, context = self._generate(session, None, None)
            self._commit(session, generated, context)

    def decode(self, session: Session) -> ChunkReady:
        """Second half of a step: pictures of the oldest undecoded chunk. If it fails, it can be repeated."""
        return self._deliver(session, self._decode(session.undecoded[0], session.decoder))

    @torch.inference_mode()
    def _generate(
        self, session: Session, noise: Tensor | None, observer: Observer | None
    ) -> tuple[Generated, ChunkContext]:
        session.act_on_markers()
        session.memory.check_room()
        clock, observer = Clock(), observer or Observer()
        prompting = session.timeline.prompt_at(session.chunk)
        text = self._texts(prompting, self.device, self.kv_shape.dtype)
        clock.lap("text")
        state = self._switched(session, prompting, text, observer)
        context = session.memory.context(state, prompting.caption, session.chunk, self._workspace)
        clock.lap("memory")
        latents = session.start.get(session.chunk)
        if latents is None:
            if noise is None:
                noise = chunk_noise(session.seed, session.chunk, len(self.schedule), self.geometry.latent_shape)
            latents = self._denoise(noise.to(self.device), text, context, observer)
        clock.lap("denoise")
        last, level = len(self.schedule), self.config.sampler.context_timestep
        context.begin(last, clean=True)
        probe = AttentionProbe(context) if session.watch_attention else None
        reads = context if probe is None else WatchedContext(context, probe.watch)
        flow = causal_forward(self.transformer, latents, level, text, reads)
        if observer.on_pass is not None:
            observer.on_pass(last, flow, None, context)
        clock.lap("context")
        if probe is not None:
            clock.move("context", "attention", probe.ms)
        attention = () if probe is None else probe.views()
        snapshot = replace(session.memory.snapshot(), attention=attention)  # the rest follows with the commit
        generated = Generated(session.chunk, prompting.caption, session.seed, latents, snapshot, clock.spent)
        return generated, context

    def _denoise(self, noise: Tensor, text: TextKV, context: ChunkContext, observer: Observer) -> Tensor:
        def predict(x: Tensor, step: int) -> Tensor:
            context.begin(step)
            return causal_forward(self.transformer, x, self.schedule.timesteps[step], text, context)

        def observe(step: int, flow: Tensor, x0: Tensor) -> None:
            if observer.on_pass is not None:
                observer.on_pass(step, flow, x0, context)

        return denoise_chunk(predict, noise, self.schedule, observe)

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

    def _commit(self, session: Session, generated: Generated, context: ChunkContext) -> None:
        clock = Clock(generated.timings)
        with torch.inference_mode():
            session.memory.commit(context, generated.latents)
        clock.lap("memory")
        snapshot = session.memory.snapshot(generated.timings["memory"])
        snapshot = replace(snapshot, attention=generated.snapshot.attention)
        session.advance(replace(generated, snapshot=snapshot))

    @torch.inference_mode()
    def _decode(self, generated: Generated, state: DecoderState) -> tuple[np.ndarray, np.ndarray, DecoderState]:
        """uint8 pictures [P, H, W, 3], thumbnails [F, h, w, 3], the decoder's next state."""
        clock, geometry = Clock(generated.timings), self.geometry
        frames, after = self.vae.decode(generated.latents, state)
        expected = (1, 3, geometry.chunk_frames, geometry.height, geometry.width)
        if tuple(frames.shape) != expected:
            raise ValueError(
                f"the autoencoder made pictures of shape {tuple(frames.shape)}, expected {expected}: "
                "vae and cf_config.json belong to different models"
            )
        pictures, thumbnails = to_pictures(frames[0], geometry)
        clock.lap("decode")
        return pictures, thumbnails, after

    def _deliver(self, session: Session, pictures: tuple[np.ndarray, np.ndarray, DecoderState]) -> ChunkReady:
        frames, thumbnails, after = pictures
        done = session.undecoded[0]
        session.decoded(after)
        timings: Mapping[str, float] = {**done.timings, "total": sum(done.timings.values())}
        return ChunkReady(
            session.id, done.chunk, frames, done.prompt, done.seed, done.snapshot, timings, thumbnails
        )


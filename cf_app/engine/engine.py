"""Models, shared and immutable, and the sessions that they are for.

A step (``chunk_maker.py``) computes everything and commits once. All randomness of a chunk comes from (seed, chunk
index), so a step that failed can be repeated and gives what it would have given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cf_app.config import SWITCH_MODES, Geometry, ModelConfig
from cf_app.engine.chunk_maker import ChunkMaker
from cf_app.engine.parts import VideoAutoencoder, marked_policy
from cf_app.engine.sampler import check_seed
from cf_app.engine.session import Session
from cf_app.engine.start import encode_start
from cf_app.engine.texts import Texts
from cf_app.engine.timeline import Timeline
from cf_app.engine.timeline_markers import MemoryMark
from cf_app.memory.kv_cache import KVShape
from cf_app.memory.manager import SlowFastMemory
from cf_app.memory.policy import Policy, check_policy, policy_from_dict
from cf_app.model.causal_wan import WanTransformer3DModel, make_causal, token_grid
from cf_app.model.graphs import CudaRecorder, RecordedPasses, Recorder
from cf_app.model.kernels import Kernel, choose, eight_bit
from cf_app.model.speed import accelerate, attend_by, compiled_rotation
from cf_app.model.text_encoder import PromptEncoder


def _words(prompt: str) -> list[str]:
    return "".join(letter if letter.isalnum() or letter == "_" else " " for letter in prompt.lower()).split()


class Engine(ChunkMaker):
    """Runs sessions of one model, one chunk at a time.

    Args:
        config: sizes, schedule and defaults of the model.
        transformer: diffusers' WanTransformer3DModel; gets our attention processors.
        vae: decoder with its state outside.
        text: prompt encoder.
        kernel: attention; None for the one that suits the device, see ``model.kernels``.
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
        kernel: Kernel | None = None,
        quantization: str = "none",
        kv_stored: torch.dtype | None = None,
        lean: bool = False,
    ) -> None:
        self.quantization, self.text = quantization, text
        self.speedups: tuple[str, ...] = ()
        self.kernel = choose(transformer.patch_embedding.weight.device) if kernel is None else kernel
        transformer = make_causal(transformer, self.kernel.attend).eval().requires_grad_(False)
        shape = _kv_shape(config.geometry, transformer, kv_stored)
        super().__init__(config, transformer, vae, Texts(transformer, text), shape, lean=lean)
        self.policy: Policy = policy_from_dict(config.memory)
        wan: Any = transformer.config
        self._positions: int = wan.rope_max_seq_len
        check_policy(self.policy, config.geometry.chunk_latents, self._positions)

    def accelerate(self, names: Sequence[str]) -> None:
        """Use faster forms of the transformer, see ``model.speed``; ValueError if one can not be, nothing changes then.

        "graphs" leaves some passes as they are: those of a memory that is decided layer by layer ("as_released"), a
        re-cache, and the clean pass while attention is watched.
        """
        if "graphs" in names and not self._on_gpu:
            raise ValueError(f'speed "graphs" needs a CUDA GPU, the model is on {self.device}: leave it out')
        if "graphs" in names and self._workspace.lean:
            raise ValueError('speed "graphs" needs a workspace for every layer: leave it out, or "lean" of --quant')
        kernel = eight_bit(self.device) if "attention8" in names else self.kernel
        accelerate(self.transformer, names)
        if kernel is not self.kernel:
            self.kernel = kernel
            attend_by(self.transformer, kernel.attend)
        if "compiled" in names:
            self._workspace.rotate = compiled_rotation()
        if "graphs" in names:
            self.record(CudaRecorder())
        self.speedups = tuple(names)

    @property
    def running_by(self) -> str:
        """Attention kernel and speed-ups in use, for people: such as "cuDNN SDPA, fused, compiled, graphs"."""
        return ", ".join((self.kernel.name, *self.speedups))

    def record(self, recorder: Recorder) -> None:
        """Make passes by recordings from now on."""
        self._recorded = RecordedPasses(self.transformer, recorder)

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
        return list(dict.fromkeys(word for word in _words(prompt) if word not in self.vocabulary))

    def subjects_for(self, prompt: str) -> list[str]:
        """What the model can make a film of, if ``prompt`` names none of it; else, and for free text, empty."""
        subjects = self.config.subjects
        return [] if set(_words(prompt)) & set(subjects) else list(subjects)

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
        paper: bool = False,
    ) -> Session:
        """A session at chunk 0.

        Args:
            prompt: what to show; or give a ``timeline``.
            seed: 0 .. 2**32 - 1.
            policy: memory policy, the model's own by default.
            switch_memory: what a change of prompt does to the memory, the model's own way by default.
            start: a picture or a clip that the video begins with, uint8 [P, h, w, 3], see ``start.py``.
            paper: it can not be played, only checked against and handed over (``handover.py``); takes no GPU.

        Raises:
            ValueError: no or two prompts, a bad prompt, seed, policy, mode or start.
        """
        if (prompt is None) == (timeline is None):
            raise ValueError("expected a prompt or a timeline, and not both")
        if prompt is not None and not isinstance(prompt, str):
            raise ValueError(f"prompt is {prompt!r}, expected one text: a session makes one video, open one for each")
        if timeline is None:
            timeline = Timeline.single(prompt or "")
        check_seed(seed)
        mode = self.config.switch_memory if switch_memory is None else switch_memory
        if mode not in SWITCH_MODES:
            raise ValueError(f"switch_memory is {mode!r}, expected one of {', '.join(SWITCH_MODES)}")
        memory = self.new_memory(policy, paper=paper)
        self.check_timeline(timeline, memory)
        session = Session(self, timeline, seed, mode, memory, None if paper else self.vae.initial_state(1), id)
        if start is not None:
            session.start = dict(enumerate(encode_start(self.vae, self.geometry, start, self.device)))
        return session

    def new_memory(self, policy: Policy | None = None, *, paper: bool = False) -> SlowFastMemory:
        """An empty memory of this model's shape; ``paper``: without room for keys and values, to check commands."""
        shape = replace(self.kv_shape, device=torch.device("meta")) if paper else self.kv_shape
        frames = self.geometry.chunk_latents
        return SlowFastMemory(self.policy if policy is None else policy, shape, frames, self._positions)

    def check_timeline(self, timeline: Timeline, memory: SlowFastMemory) -> None:
        """Raise ValueError if a memory marker asks for what this model can not do, or the end is out of reach."""
        policy = memory.policy
        for marker in timeline.markers:
            if isinstance(marker, MemoryMark):
                policy = marked_policy(marker, policy)
                check_policy(policy, self.geometry.chunk_latents, memory.most_positions)
        if timeline.end is not None and policy is memory.policy and not memory.state.seen:
            resets = [cue.start for cue in timeline.cues if cue.memory == "reset" and cue.start < timeline.end]
            memory.check_room(max(after - before for before, after in pairwise([0, *resets, timeline.end])))

    def load_session(self, path: str | Path, id: str | None = None) -> Session:
        """A session as ``Session.save`` wrote it; ValueError if the file is damaged or of another model."""
        from cf_app.engine.storage import load_session

        return load_session(self, path, id)


def _kv_shape(geometry: Geometry, transformer: WanTransformer3DModel, stored: torch.dtype | None) -> KVShape:
    wan: Any = transformer.config
    if wan.in_channels != geometry.latent_channels:
        raise ValueError(
            f"the transformer takes {wan.in_channels} latent channels, cf_config.json says "
            f"{geometry.latent_channels}: the files belong to different models"
        )
    rows, columns = token_grid(transformer, geometry.latent_height, geometry.latent_width)
    weight = transformer.patch_embedding.weight
    heads, width = wan.num_attention_heads, wan.attention_head_dim
    return KVShape(wan.num_layers, 1, rows, columns, heads, width, weight.dtype, weight.device, stored)

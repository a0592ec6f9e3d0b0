"""The released students that this app can run, as data: where they are, how they are laid out, how they remember.

Licences are as known when this was written; where sources disagree it says so. Read them before you use the weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cf_app.config import Geometry, ModelConfig, SamplerConfig
from cf_app.memory.policy import Fifo, Policy, SinkWindow, SlowFast, policy_to_dict

WAN_BASE = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"
WAN_BASE_REVISION: str | None = None  # as Student.revision
BASE_PARTS = ("vae", "text_encoder", "tokenizer")
BASE_GB = 11.6  # of these parts, to download
WAN_GEOMETRY = Geometry(latent_channels=16, latent_height=60, latent_width=104)
WAN_TEXT_LENGTH = 512
WAN_TEXT_GB, WAN_VAE_GB = 11.4, 0.25  # in bfloat16
WAN_1_3B = {
    "patch_size": (1, 2, 2),
    "num_attention_heads": 12,
    "attention_head_dim": 128,
    "in_channels": 16,
    "out_channels": 16,
    "text_dim": 4096,
    "freq_dim": 256,
    "ffn_dim": 8960,
    "num_layers": 30,
}
WAN_14B = {**WAN_1_3B, "num_attention_heads": 40, "ffn_dim": 13824, "num_layers": 40}
PROMPTS = (
    "A corgi runs along a beach at sunset, waves rolling in behind it, cinematic, warm light.",
    "A drone flies over snow-covered mountains at dawn, low clouds in the valleys.",
    "A blue tram drives through a rainy city at night, neon signs reflected on the wet street.",
)


@dataclass(frozen=True)
class Student:
    """One released checkpoint.

    Attributes:
        repository, file: on the Hugging Face Hub.
        lora: a LoRA file to merge, None for none; its alpha equals its rank.
        revision: commit to download, 40 hexadecimal digits; None holds to the one that the first download finds:
            the hashes were not known where this was written.
        ema: take the exponential moving average where the file has both.
        policy: the memory that the student was trained with.
        licence: as known.
        parameters: of the transformer, in units of 1e9.
        gigabytes: of the files to download, roughly; the base model's parts are shared and not counted.
    """

    name: str
    title: str
    repository: str
    file: str
    policy: Policy
    licence: str
    lora: str | None = None
    revision: str | None = None
    ema: bool = True
    switch_memory: str = "keep"
    parameters: float = 1.42
    gigabytes: float = 5.7
    note: str = ""

    @property
    def wan(self) -> dict[str, Any]:
        """Sizes of its transformer, as diffusers' class takes them."""
        return WAN_14B if self.parameters > 10 else WAN_1_3B

    @property
    def files(self) -> tuple[str, ...]:
        """What to download."""
        return (self.file,) if self.lora is None else (self.file, self.lora)

    def config(self) -> ModelConfig:
        """What its converted folder says."""
        return ModelConfig(
            name=self.name,
            title=self.title,
            description=self.note,
            geometry=WAN_GEOMETRY,
            sampler=SamplerConfig(),
            memory=policy_to_dict(self.policy),
            text_length=WAN_TEXT_LENGTH,
            example_prompts=PROMPTS,
            switch_memory=self.switch_memory,
            base=WAN_BASE,
        )


_RELEASED = SlowFast(timing="as_released", decision="per_layer")
STUDENTS: dict[str, Student] = {
    student.name: student
    for student in (
        Student(
            "context-forcing",
            "Context Forcing 1.3B",
            "ShuoChen20/context_forcing",
            "model.pt",
            _RELEASED,
            "not stated",
            note="The paper's student, with the memory of its released code.",
        ),
        Student(
            "self-forcing",
            "Self-Forcing 1.3B",
            "gdhe17/Self-Forcing",
            "checkpoints/self_forcing_dmd.pt",
            Fifo(21),
            "Apache-2.0",
        ),
        Student(
            "longlive",
            "LongLive 1.3B",
            "Efficient-Large-Model/LongLive-1.3B",
            "models/longlive_base.pt",
            SinkWindow(3, 12),
            "CC-BY-NC-SA-4.0 on the Hub, Apache-2.0 on GitHub",
            lora="models/lora.pt",
            gigabytes=7.1,
            ema=False,
            switch_memory="recache",
        ),
        Student(
            "causal-forcing",
            "Causal-Forcing 1.3B, chunkwise",
            "zhuhz22/Causal-Forcing",
            "chunkwise/causal_forcing.pt",
            Fifo(21),
            "Apache-2.0",
        ),
        Student(
            "reward-forcing",
            "Reward-Forcing 1.3B",
            "JaydenLu666/Reward-Forcing-T2V-1.3B",
            "rewardforcing.pt",
            SinkWindow(3, 9),
            "Apache-2.0 (of the repository)",
            note="Its sink is a moving average of what leaves the window; here the sink stays as it is.",
        ),
        Student(
            "memflow",
            "MemFlow 1.3B",
            "KlingTeam/MemFlow",
            "base.pt",
            SinkWindow(3, 12),
            "Apache-2.0 (of the repository)",
            lora="lora.pt",
            gigabytes=7.1,
            ema=False,
            switch_memory="recache",
            note="Runs as LongLive does: its retrieval from a bank of past frames is not here.",
        ),
        Student(
            "krea-14b",
            "Krea realtime 14B",
            "krea/krea-realtime-video",
            "krea-realtime-video-14b.safetensors",
            Fifo(6),
            "CC-BY-NC-SA-4.0",
            parameters=14.3,
            gigabytes=28.6,
            note="40 layers; for cards with 40 GB and more. Unlike its code, recomputes no keys and values.",
        ),
    )
}

"""A complete engine with tiny random weights: everything is real but the picture, which is noise of some colour.

::

    from tests.tiny import tiny_engine
    worker = Worker(tiny_engine())
"""

from __future__ import annotations

import hashlib

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor

from cf_app.config import Geometry, ModelConfig, SamplerConfig
from cf_app.engine.engine import Engine
from cf_app.model.vae import TinyVideoAutoencoder

EXAMPLES = ("a red ball hops through the meadow at sunset", "a blue star floats over the beach at night")
WORDS = frozenset(word for prompt in EXAMPLES for word in prompt.split())
TEXT_LENGTH, TEXT_DIM = 8, 16


class HashedText:
    """Text states that depend on the prompt and on nothing else."""

    def encode(self, prompt: str) -> Tensor:
        """[1, TEXT_LENGTH, TEXT_DIM], zero rows after one row per word."""
        seed = int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:4], "big")
        states = torch.randn(1, TEXT_LENGTH, TEXT_DIM, generator=torch.Generator().manual_seed(seed))
        states[:, len(prompt.split()) :] = 0
        return states


def tiny_transformer(channels: int = 4, layers: int = 2, seed: int = 0) -> WanTransformer3DModel:
    """2 layers, 48 wide."""
    torch.manual_seed(seed)
    return WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=24,
        in_channels=channels,
        out_channels=channels,
        text_dim=TEXT_DIM,
        freq_dim=32,
        ffn_dim=64,
        num_layers=layers,
    )


def tiny_vae(channels: int = 4, seed: int = 0) -> TinyVideoAutoencoder:
    """8 x 8 pixels a latent cell, 4 pixel frames a latent frame."""
    torch.manual_seed(seed)
    return TinyVideoAutoencoder(
        latent_channels=channels,
        encoder_widths=(8, 8, 8),
        encoder_blocks=(1, 1, 1),
        decoder_widths=(12, 8, 8),
        decoder_blocks=(1, 1, 1),
        decoder_out=8,
    ).eval()


def tiny_config(**changes: object) -> ModelConfig:
    """Pictures of 64 x 96."""
    settings: dict[str, object] = {
        "name": "tiny",
        "title": "Tiny random weights",
        "geometry": Geometry(latent_channels=4, latent_height=8, latent_width=12),
        "sampler": SamplerConfig(),
        "memory": {"policy": "slow_fast", "tau": 0.9},
        "text_length": TEXT_LENGTH,
        "vocabulary": WORDS,
        "subjects": ("ball", "box"),
        "example_prompts": EXAMPLES,
    }
    return ModelConfig(**{**settings, **changes})


def tiny_engine(*, layers: int = 2, seed: int = 0, **changes: object) -> Engine:
    """``changes`` go into the configuration."""
    return Engine(tiny_config(**changes), tiny_transformer(layers=layers, seed=seed), tiny_vae(seed=seed), HashedText())

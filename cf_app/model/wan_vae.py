"""Wan's own video autoencoder behind the interface of the tiny one: state outside, every latent frame four pictures.

The state is what diffusers calls ``feat_cache``: the last frames that each causal convolution has seen, as a tuple of
tensors (an empty one where diffusers notes "repeat"). It is handed in and out and never changed, so sessions can share
the module, and be forked and saved. Wan makes one picture of the first latent frame and four of each other one; the
first is held for four, so that a chunk always lasts the same time.
"""

from __future__ import annotations

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan, unpatchify
from torch import Tensor

_REPEAT = "Rep"
State = tuple[Tensor | None, ...] | None


class WanVideoAutoencoder:
    """Adapter around ``AutoencoderKLWan``."""

    def __init__(self, vae: AutoencoderKLWan) -> None:
        self.vae = vae.eval().requires_grad_(False)
        self.temporal_scale: int = vae.config.scale_factor_temporal
        self.spatial_scale: int = vae.config.scale_factor_spatial

    def initial_state(self, batch: int = 1) -> State:
        """Before the first latent frame."""
        return None

    @torch.no_grad()
    def encode(self, frames: Tensor) -> Tensor:
        """Pixel frames [B, 3, P, H, W] in [-1, 1] to normalised latents [B, C, P / 4, Y, X], float32.

        The first latent frame shows one picture, the last of the first four.

        Raises:
            ValueError: P is not a multiple of the temporal scale.
        """
        if frames.shape[2] % self.temporal_scale:
            raise ValueError(f"{frames.shape[2]} pixel frames, expected a multiple of {self.temporal_scale}")
        shown = frames[:, :, self.temporal_scale - 1 :].to(self.vae.dtype)
        latents = self.vae.encode(shown).latent_dist.mode().float()
        mean, std = self._statistics(latents)
        return (latents - mean) / std

    @torch.no_grad()
    def decode(self, latents: Tensor, state: State = None) -> tuple[Tensor, State]:
        """Normalised latents [B, C, F, Y, X] to pixel frames [B, 3, 4 F, H, W] in [-1, 1], and the next state."""
        mean, std = self._statistics(latents)
        z = self.vae.post_quant_conv((latents * std + mean).to(self.vae.dtype))
        cache = self._cache(state)
        pictures = []
        for index in range(z.shape[2]):
            first = state is None and index == 0
            part = self.vae.decoder(z[:, :, index : index + 1], feat_cache=cache, feat_idx=[0], first_chunk=first)
            pictures.append(part.repeat_interleave(self.temporal_scale, 2) if first else part)
        x = torch.cat(pictures, 2)
        if self.vae.config.patch_size is not None:
            x = unpatchify(x, self.vae.config.patch_size)
        after = tuple(z.new_empty(0) if isinstance(item, str) else item for item in cache)
        return x.float().clamp(-1, 1), after

    def _cache(self, state: State) -> list[Tensor | str | None]:
        if state is None:
            # diffusers counts its causal convolutions when the module is made.
            return [None] * self.vae._cached_conv_counts["decoder"]
        return [_REPEAT if item is not None and item.numel() == 0 else item for item in state]

    def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        config = self.vae.config
        mean = torch.tensor(config.latents_mean, device=like.device).view(1, -1, 1, 1, 1)
        return mean, torch.tensor(config.latents_std, device=like.device).view(1, -1, 1, 1, 1)


__all__ = ["AutoencoderKLWan", "WanVideoAutoencoder"]

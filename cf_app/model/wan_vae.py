"""Wan's own video autoencoder behind the interface of the tiny one: state outside, every latent frame four pictures.

The state is what diffusers calls ``feat_cache``: the last frames that each causal convolution has seen, as a tuple of
tensors (an empty one where diffusers notes "repeat"). It is handed in and out and never changed, so sessions can share
the module, and be forked and saved. Wan makes one picture of the first latent frame and four of each other one; the
first is held for four, so that a chunk always lasts the same time.
"""

from __future__ import annotations

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import (
    CACHE_T,
    AutoencoderKLWan,
    WanCausalConv3d,
    WanUpBlock,
    WanUpsample,
    unpatchify,
)
from torch import Tensor, nn

_REPEAT = "Rep"
State = tuple[Tensor | None, ...] | None


class WanVideoAutoencoder:
    """Adapter around ``AutoencoderKLWan``."""

    def __init__(self, vae: AutoencoderKLWan) -> None:
        self.vae = _without_casts(vae).eval().requires_grad_(False)
        self.temporal_scale: int = vae.config.scale_factor_temporal
        self.spatial_scale: int = vae.config.scale_factor_spatial

    def initial_state(self, batch: int = 1) -> State:
        """Before the first latent frame."""
        return None

    def check_state(self, state: State) -> None:
        """Raises ValueError where ``state`` is not one of this decoder's."""
        keeps: int = self.vae._cached_conv_counts["decoder"]
        if state is not None and len(state) != keeps:
            raise ValueError(f"its decoder keeps frames of {len(state)} convolutions, this one of {keeps}")

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
            part = self._latent_frame(z[:, :, index : index + 1], cache, first)
            pictures.append(part.repeat_interleave(self.temporal_scale, 2) if first else part)
        x = torch.cat(pictures, 2)
        if self.vae.config.patch_size is not None:
            x = unpatchify(x, self.vae.config.patch_size)
        after = tuple(z.new_empty(0) if isinstance(item, str) else item for item in cache)
        return x.float().clamp(-1, 1), after

    def _latent_frame(self, z: Tensor, cache: list[Tensor | str | None], first: bool) -> Tensor:
        """One latent frame [B, C, 1, Y, X] through the decoder.

        As the decoder's own ``forward`` does, but its last block, where a picture is largest, makes one picture after
        the other (everything is causal in time, so that is the same).
        """
        decoder = self.vae.decoder
        last = decoder.up_blocks[-1]
        if type(last) is not WanUpBlock or last.upsamplers is not None:
            return decoder(z, feat_cache=cache, feat_idx=[0], first_chunk=first)
        x = _cached_conv(decoder.conv_in, z, cache, 0)
        place = [1]
        x = decoder.mid_block(x, feat_cache=cache, feat_idx=place)
        for block in decoder.up_blocks[:-1]:
            x = block(x, feat_cache=cache, feat_idx=place, first_chunk=first)
        pictures = []
        for picture in x.split(1, dim=2):
            after = place.copy()
            y = last(picture, feat_cache=cache, feat_idx=after, first_chunk=first)
            pictures.append(_cached_conv(decoder.conv_out, decoder.nonlinearity(decoder.norm_out(y)), cache, after[0]))
        return torch.cat(pictures, 2)

    def _cache(self, state: State) -> list[Tensor | str | None]:
        if state is None:
            # diffusers counts its causal convolutions when the module is made.
            return [None] * self.vae._cached_conv_counts["decoder"]
        return [_REPEAT if item is not None and item.numel() == 0 else item for item in state]

    def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        config = self.vae.config
        mean = torch.tensor(config.latents_mean, device=like.device).view(1, -1, 1, 1, 1)
        return mean, torch.tensor(config.latents_std, device=like.device).view(1, -1, 1, 1, 1)


def _without_casts(vae: AutoencoderKLWan) -> AutoencoderKLWan:
    """diffusers enlarges in float32, which makes the peak of memory; copying neighbours is exact in every type."""
    for parent in list(vae.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is WanUpsample:
                setattr(parent, name, nn.Upsample(scale_factor=child.scale_factor, mode=child.mode))
    return vae


def _cached_conv(conv: WanCausalConv3d, x: Tensor, cache: list[Tensor | str | None], index: int) -> Tensor:
    """A causal convolution whose past is ``cache[index]``; leaves its own last frames there."""
    past = cache[index]
    assert not isinstance(past, str)
    own = x[:, :, -CACHE_T:].clone()
    cache[index] = own if past is None or own.shape[2] == CACHE_T else torch.cat((past[:, :, -1:], own), 2)
    return conv(x, past)


__all__ = ["AutoencoderKLWan", "WanVideoAutoencoder"]

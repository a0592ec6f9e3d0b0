"""A small causal video autoencoder of the taehv kind: 2-D convolutions, each block sees one past frame.

The layer order and parameter names are those of TAEHV (github.com/madebyollin/taehv), so a config with its
sizes loads `taew2_1` weights. (The embedded model has an autoencoder of its own: `patch_vae`.) Pixel values are in
[-1, 1]; latents leave normalised per channel. Four pixel frames make one latent frame, the first too.
State (the past frames of a decode) is handed in and out and never changed in place, so a session can be forked.
"""
from __future__ import annotations

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional as F

State = tuple[Tensor, ...]


def _conv(n_in: int, n_out: int, stride: int = 1, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(n_in, n_out, 3, stride, padding=1, bias=bias)


class MemBlock(nn.Module):
    """Residual block over [B*T, C, H, W] that also sees each frame's predecessor."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.channels = n_in
        self.conv = nn.Sequential(
            _conv(2 * n_in, n_out), nn.ReLU(), _conv(n_out, n_out), nn.ReLU(), _conv(n_out, n_out))
        self.skip = nn.Conv2d(n_in, n_out, 1, bias=False) if n_in != n_out else nn.Identity()

    def forward(self, x: Tensor, past: Tensor) -> Tensor:
        return F.relu(self.conv(torch.cat([x, past], 1)) + self.skip(x))


class TPool(nn.Module):
    """Joins `stride` consecutive frames into one."""

    def __init__(self, n: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv2d(n * stride, n, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x.reshape(-1, self.stride * x.shape[1], *x.shape[2:]))


class TGrow(nn.Module):
    """Makes `stride` consecutive frames of one."""

    def __init__(self, n: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(n, n * stride, 1, bias=False)
        self.channels = n

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).reshape(-1, self.channels, *x.shape[2:])


class Clamp(nn.Module):
    """Soft limit to (-3, 3) of what the decoder reads."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x / 3) * 3


def _run(layers: nn.Sequential, x: Tensor, batch: int, state: State | None) -> tuple[Tensor, State]:
    """Runs `layers` over x [B*T, C, H, W]; `state` holds each MemBlock's last frame [B, C, H, W], None = zeros."""
    after: list[Tensor] = []
    for layer in layers:
        if not isinstance(layer, MemBlock):
            x = layer(x)
            continue
        frames = x.reshape(batch, -1, *x.shape[1:])
        first = torch.zeros_like(frames[:, 0]) if state is None else state[len(after)].to(x.dtype)
        past = torch.cat([first[:, None], frames[:, :-1]], 1).reshape(x.shape)
        after.append(frames[:, -1].clone())
        x = layer(x, past.to(memory_format=torch.channels_last))
    return x, tuple(after)


class StreamingAutoencoder(ModelMixin, ConfigMixin):
    """What our own autoencoders share: how pixel frames come in, and a decoder's state, which is None before the first.

    `channel_axis` is that of the frames in the state.
    """

    channel_axis: int

    @property
    def temporal_scale(self) -> int:
        """Pixel frames that make one latent frame."""
        raise NotImplementedError

    @property
    def kept_channels(self) -> list[int]:
        """How many channels of each of its frames the state has."""
        raise NotImplementedError

    def _pictures(self, frames: Tensor) -> Tensor:
        """Pixel frames [B, 3, P, H, W] as a batch of pictures [B * P, 3, H, W].

        Raises:
            ValueError: P is not a multiple of the temporal scale.
        """
        _, _, count, height, width = frames.shape
        if count % self.temporal_scale:
            scale = self.temporal_scale
            raise ValueError(f"{count} pixel frames: expected a multiple of {scale}; drop or repeat the last ones")
        return frames.transpose(1, 2).reshape(-1, 3, height, width).to(self.dtype)

    def initial_state(self, batch: int = 1) -> State | None:
        """The decoder's state before the first latent frame (None stands for zeros)."""
        return None

    def check_state(self, state: State | None) -> None:
        """Raises ValueError where `state` is not one of this decoder's, as after a change of its sizes."""
        keeps = self.kept_channels
        if state is not None and (has := [part.shape[self.channel_axis] for part in state]) != keeps:
            raise ValueError(f"its decoder keeps frames of {has} channels, this one of {keeps}")


class TinyVideoAutoencoder(StreamingAutoencoder):
    """Video autoencoder with a streaming decoder.

    Args:
        latent_channels: C of the latents.
        patch_size: pixels are folded into channels by this factor before the first and after the last layer.
        encoder_widths, encoder_time, encoder_space, encoder_blocks: one number a stage: channels after the stage,
            how many frames it joins, its spatial stride, its MemBlocks.
        decoder_widths, decoder_time, decoder_space, decoder_blocks: the same for the decoder, whose stages come
            before their upsampling; `decoder_out` is the width before the last layer.
        latents_mean, latents_std: statistics over training videos, per channel (None: 0 and 1).
    """

    channel_axis = 1

    @register_to_config
    def __init__(
        self, latent_channels: int = 16, patch_size: int = 1,
        encoder_widths: tuple[int, ...] = (64, 64, 64), encoder_time: tuple[int, ...] = (2, 2, 1),
        encoder_space: tuple[int, ...] = (2, 2, 2), encoder_blocks: tuple[int, ...] = (3, 3, 3),
        decoder_widths: tuple[int, ...] = (256, 128, 64), decoder_time: tuple[int, ...] = (1, 2, 2),
        decoder_space: tuple[int, ...] = (2, 2, 2), decoder_blocks: tuple[int, ...] = (3, 3, 3), decoder_out: int = 64,
        latents_mean: tuple[float, ...] | None = None, latents_std: tuple[float, ...] | None = None,
    ) -> None:
        super().__init__()
        folded = 3 * patch_size**2
        width = encoder_widths[0]
        layers: list[nn.Module] = [_conv(folded, width), nn.ReLU()]
        for n, time, space, blocks in zip(encoder_widths, encoder_time, encoder_space, encoder_blocks, strict=True):
            layers += [TPool(width, time), _conv(width, n, space, bias=False)]
            layers += [MemBlock(n, n) for _ in range(blocks)]
            width = n
        self.encoder = nn.Sequential(*layers, _conv(width, latent_channels))
        width = decoder_widths[0]
        layers = [Clamp(), _conv(latent_channels, width), nn.ReLU()]
        after = (*decoder_widths[1:], decoder_out)
        stages = zip(decoder_widths, after, decoder_time, decoder_space, decoder_blocks, strict=True)
        for n, following, time, space, blocks in stages:
            layers += [MemBlock(n, n) for _ in range(blocks)]
            layers += [nn.Upsample(scale_factor=space), TGrow(n, time), _conv(n, following, bias=False)]
        self.decoder = nn.Sequential(*layers, nn.ReLU(), _conv(decoder_out, folded))

    @property
    def temporal_scale(self) -> int:
        """Pixel frames that make one latent frame."""
        product = 1
        for stride in self.config.decoder_time:
            product *= stride
        return product

    @property
    def spatial_scale(self) -> int:
        """Pixels of the decoded picture along one side of a latent cell."""
        product = self.config.patch_size
        for scale in self.config.decoder_space:
            product *= scale
        return product

    def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        zeros, ones = (0.0,) * self.config.latent_channels, (1.0,) * self.config.latent_channels
        mean = torch.tensor(self.config.latents_mean or zeros, device=like.device)
        std = torch.tensor(self.config.latents_std or ones, device=like.device)
        return mean.view(1, -1, 1, 1, 1), std.view(1, -1, 1, 1, 1)

    def encode(self, frames: Tensor) -> Tensor:
        """Pixel frames [B, 3, P, H, W] in [-1, 1] to normalised latents [B, C, P / 4, Y, X], float32.

        Raises:
            ValueError: P is not a multiple of the temporal scale.
        """
        batch, x = len(frames), self._pictures(frames)
        folded = F.pixel_unshuffle(x, self.config.patch_size).contiguous(memory_format=torch.channels_last)
        z, _ = _run(self.encoder, folded, batch, None)
        z = z.float().reshape(batch, -1, *z.shape[1:]).transpose(1, 2)
        mean, std = self._statistics(z)
        return (z - mean) / std

    @property
    def kept_channels(self) -> list[int]:
        """Of each MemBlock's past frame."""
        return [layer.channels for layer in self.decoder if isinstance(layer, MemBlock)]

    def decode(self, latents: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Normalised latents [B, C, F, Y, X] to (pixel frames [B, 3, 4 F, H, W] in [-1, 1], the next state).

        Decoding parts with the state handed on equals decoding the whole.
        """
        batch = latents.shape[0]
        mean, std = self._statistics(latents)
        z = (latents * std + mean).transpose(1, 2).flatten(0, 1).to(self.dtype)
        x, after = _run(self.decoder, z.contiguous(memory_format=torch.channels_last), batch, state)
        x = F.pixel_shuffle(x.float(), self.config.patch_size)
        return x.reshape(batch, -1, *x.shape[1:]).transpose(1, 2).clamp(-1, 1), after

"""The embedded model's video autoencoder: blocks of 4 x 8 x 8 pixels to 16 numbers and back.

The encoder is one projection of each block (for flat pictures and little training, principal components beat a
convolutional encoder by far) and what a few residual blocks on the grid of latent cells add to it: where in the block
an edge is, which 16 linear numbers say badly where it moves. They see one latent frame alone, so that what stands
still has the same latents at any time. The decoder adds to the projection's transpose what it learns on the same
grid: residual blocks of a depthwise convolution and two dense layers (as ConvNeXt's, arXiv 2201.03545), each of which
sees the latent frame before too, and one dense layer from a cell to all of its pixels. All of the work is at 1/64 of
the pixels and a quarter of the frames, so it sees whole shapes and costs little.
State (the past frames of a decode) is handed in and out and never changed in place, so a session can be forked.
"""
from __future__ import annotations

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn import functional as F

from .vae import State, StreamingAutoencoder


class LinearCode(nn.Module):
    """Blocks of `time` x `space` x `space` pixels to `channels` numbers and back, both linear."""

    def __init__(self, channels: int, time: int, space: int) -> None:
        super().__init__()
        self.time, self.space = time, space
        size = 3 * time * space**2
        self.to_latent, self.to_pixels = nn.Linear(size, channels), nn.Linear(channels, size)

    def blocks(self, frames: Tensor) -> Tensor:
        """Pixel frames [N * time, 3, H, W] to one row of numbers per block: [N, Y, X, 3 * time * space^2]."""
        x = F.pixel_unshuffle(frames, self.space)
        return x.reshape(-1, self.time * x.shape[1], *x.shape[2:]).movedim(1, -1)

    def frames(self, blocks: Tensor) -> Tensor:
        """The inverse of `blocks`."""
        x = blocks.movedim(-1, 1)
        return F.pixel_shuffle(x.reshape(-1, x.shape[1] // self.time, *x.shape[2:]), self.space)

    def decode(self, latents: Tensor) -> Tensor:
        """[N, channels, Y, X] to pixel frames [N * time, 3, H, W]."""
        return self.frames(self.to_pixels(latents.movedim(1, -1)))


def _convolved(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """`conv` over the rows and columns of [B, F, Y, X, C], without a copy of it."""
    y: Tensor = conv(x.flatten(0, 1).permute(0, 3, 1, 2))
    return y.permute(0, 2, 3, 1).unflatten(0, x.shape[:2])


class GridBlock(nn.Module):
    """Residual block over [B, F, Y, X, C]: 3 x 3 cells of a latent frame and the one before, then each cell alone.

    One that is not `causal` sees no latent frame before.
    """

    def __init__(self, width: int, expansion: int, causal: bool = True) -> None:
        super().__init__()
        self.now = nn.Conv2d(width, width, 3, padding=1, groups=width)
        if causal:
            self.past = nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, expansion * width), nn.Linear(expansion * width, width)
        nn.init.zeros_(self.down.weight)
        nn.init.zeros_(self.down.bias)

    def forward(self, x: Tensor, before: Tensor | None = None) -> Tensor:
        """`before` [B, Y, X, C] is this block's input of the latent frame before the first, if it is causal."""
        seen = _convolved(self.now, x)
        if before is not None:
            seen = seen + _convolved(self.past, torch.cat([before[:, None], x[:, :-1]], 1))
        changed: Tensor = self.down(F.relu(self.up(self.norm(seen))))
        return x + changed


class GridEncoder(nn.Module):
    """What to add to a projection's latents [B, F, Y, X, channels], of the same shape; zero until trained.

    It reads those, and of `size` pixel values a cell what the projection loses, `LOUDER` times as loud: that is where
    an edge is, and a tenth of the rest. On the pixels themselves it learns a third as fast.
    """

    LOUDER = 10

    def __init__(self, channels: int, size: int, width: int, blocks: int, expansion: int) -> None:
        super().__init__()
        self.enter = nn.Linear(size + channels, width)
        self.blocks = nn.ModuleList(GridBlock(width, expansion, causal=False) for _ in range(blocks))
        self.norm, self.leave = nn.LayerNorm(width), nn.Linear(width, channels)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, lost: Tensor, latents: Tensor) -> Tensor:
        x = self.enter(torch.cat([self.LOUDER * lost, latents], -1))
        for block in self.blocks:
            x = block(x)
        added: Tensor = self.leave(self.norm(x))
        return added


class GridDecoder(nn.Module):
    """Latents [B, F, Y, X, channels] to rows of `size` numbers, one a cell; zero until trained."""

    def __init__(self, channels: int, size: int, width: int, blocks: int, expansion: int) -> None:
        super().__init__()
        self.enter = nn.Conv2d(channels, width, 3, padding=1)
        self.blocks = nn.ModuleList(GridBlock(width, expansion) for _ in range(blocks))
        self.norm, self.leave = nn.LayerNorm(width), nn.Linear(width, size)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, latents: Tensor, state: State | None) -> tuple[Tensor, State]:
        """Rows [B, F, Y, X, size], and each block's last input [B, Y, X, width]."""
        x, after = _convolved(self.enter, latents), list[Tensor]()
        for index, block in enumerate(self.blocks):
            before = torch.zeros_like(x[:, 0]) if state is None else state[index].to(x.dtype)
            after.append(x[:, -1].clone())
            x = block(x, before)
        return self.leave(self.norm(x)), tuple(after)


class PatchVideoAutoencoder(StreamingAutoencoder):
    """Video autoencoder with a nearly linear encoder and a streaming decoder.

    Args:
        latent_channels: C of the latents.
        time, space: pixel frames, and pixels along one side, of a latent cell.
        width, blocks, expansion: channels and residual blocks of the decoder, and how much wider its inner layers are.
        encoder_blocks: residual blocks of the encoder, of the same sizes; with none it is the projection alone.
    """

    channel_axis = -1

    @register_to_config
    def __init__(self, latent_channels: int = 16, time: int = 4, space: int = 8, width: int = 192, blocks: int = 9,
                 expansion: int = 3, encoder_blocks: int = 0) -> None:
        super().__init__()
        self.code = LinearCode(latent_channels, time, space)
        sizes = latent_channels, 3 * time * space**2, width
        self.encoder = GridEncoder(*sizes, encoder_blocks, expansion) if encoder_blocks else None
        self.decoder = GridDecoder(*sizes, blocks, expansion)

    @property
    def temporal_scale(self) -> int:
        """Pixel frames that make one latent frame."""
        return self.code.time

    @property
    def spatial_scale(self) -> int:
        """Pixels of the decoded picture along one side of a latent cell."""
        return self.code.space

    def encode(self, frames: Tensor) -> Tensor:
        """Pixel frames [B, 3, P, H, W] in [-1, 1] to latents [B, C, P / time, H / space, W / space], float32.

        Raises:
            ValueError: P is not a multiple of the temporal scale.
        """
        projected = self.projected(frames)
        return projected + self.added(frames, projected)

    def projected(self, frames: Tensor) -> Tensor:
        """The part of `encode` that is the projection's, of the same shape."""
        return self.code.to_latent(self._rows(frames)).float().movedim(-1, 1)

    def added(self, frames: Tensor, projected: Tensor) -> Tensor:
        """What the encoder's blocks add to it, of the same shape; without any, nothing."""
        if self.encoder is None:
            return torch.zeros_like(projected)
        latents = projected.movedim(1, -1).to(self.dtype)
        added: Tensor = self.encoder(self._rows(frames) - self.code.to_pixels(latents), latents)
        return added.float().movedim(-1, 1)

    def _rows(self, frames: Tensor) -> Tensor:
        """Pixel values of every cell: [B, F, Y, X, 3 time space^2]."""
        return self.code.blocks(self._pictures(frames)).unflatten(0, (len(frames), -1))

    @property
    def kept_channels(self) -> list[int]:
        """Of each block's past frame."""
        return [self.config.width] * self.config.blocks

    def forward(self, latents: Tensor) -> Tensor:
        """`decode` from the start, pictures alone: wrappers for many devices hook in here."""
        return self.decode(latents)[0]

    def decode(self, latents: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Latents [B, C, F, Y, X] to (pixel frames [B, 3, time F, H, W] in [-1, 1], the next state).

        Decoding parts with the state handed on equals decoding the whole.
        """
        z = latents.movedim(1, -1).to(self.dtype).contiguous()
        rows, after = self.decoder(z, state)
        frames = self.code.frames((rows + self.code.to_pixels(z)).float().flatten(0, 1))
        return frames.unflatten(0, (len(z), -1)).transpose(1, 2).clamp(-1, 1), after

"""A picture or a clip as the beginning of a video: encoded, remembered chunk by chunk, then continued."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cf_app.config import Geometry
from cf_app.engine.parts import VideoAutoencoder

MOST_CHUNKS = 80  # a minute


@torch.no_grad()
def encode_start(
    vae: VideoAutoencoder, geometry: Geometry, frames: np.ndarray, device: torch.device
) -> tuple[Tensor, ...]:
    """Clean latents [1, C, F, Y, X] per chunk.

    Args:
        frames: uint8 [P, h, w, 3] at the model's frame rate, any size: scaled to cover the picture, cut at the centre;
            the last one is repeated until a chunk is full. A single picture makes one still chunk.

    Raises:
        ValueError: no pictures, another layout or type, or more than a minute.
    """
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or 0 in frames.shape:
        raise ValueError(f"the start has {frames.dtype} pictures of shape {frames.shape}, expected uint8 [P, h, w, 3]")
    if frames.shape[0] > MOST_CHUNKS * geometry.chunk_frames:
        seconds, most = frames.shape[0] / geometry.fps, MOST_CHUNKS * geometry.chunk_seconds
        raise ValueError(f"the start has {seconds:.0f} s, expected at most {most:.0f}: cut it")
    pictures = torch.from_numpy(frames).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
    scale = max(geometry.height / pictures.shape[2], geometry.width / pictures.shape[3])
    own = (geometry.height, geometry.width)
    size = [max(least, round(scale * have)) for least, have in zip(own, pictures.shape[2:], strict=True)]
    pictures = F.interpolate(pictures, size, mode="bilinear", antialias=True).clamp(-1, 1)
    top, left = (size[0] - geometry.height) // 2, (size[1] - geometry.width) // 2
    pictures = pictures[:, :, top : top + geometry.height, left : left + geometry.width]
    missing = -len(pictures) % geometry.chunk_frames
    pictures = torch.cat((pictures, pictures[-1:].expand(missing, -1, -1, -1)))
    latents = vae.encode(pictures.transpose(0, 1)[None]).float()
    return tuple(part.contiguous() for part in latents.split(geometry.chunk_latents, dim=2))

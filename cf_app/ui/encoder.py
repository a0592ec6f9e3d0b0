"""Chunk -> a self-contained fragmented MP4 that Media Source Extensions take: one IDR frame at its start,
times from 0 on.

PyAV's wheel brings libx264 and libvpx, so no ffmpeg program is needed. A new encoder for every chunk costs
a few milliseconds and makes chunks independent: any of them can be lost, sent again, or played first.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from cf_app.config import Geometry

from .codecs import fragment, h264_encoder
from .picture import Picture

Codec = Literal["h264", "vp9"]


def h264_for(geometry: Geometry) -> str:
    """The H.264 encoder of all runs of a model on this machine."""
    picture = Picture(geometry.height, geometry.width)
    return h264_encoder(picture.shown_width, picture.shown_height, geometry.fps)


class ChunkEncoder:
    """Encodes the chunks of one run;

    all have the same codec parameters, so that they can be joined without re-encoding. ``encoder`` says by what, such
    as "libx264".
    """

    def __init__(self, height: int, width: int, fps: int, codec: Codec = "h264") -> None:
        if codec not in get_args(Codec):
            raise ValueError(f"codec is {codec!r}; expected one of {', '.join(get_args(Codec))}")
        self.picture = Picture(height, width)
        self.fps = fps
        self.codec = codec
        size = (self.picture.shown_width, self.picture.shown_height)
        self.encoder = h264_encoder(*size, fps) if codec == "h264" else "libvpx-vp9"

    def encode(self, rgb: np.ndarray) -> bytes:
        """uint8 [P, height, width, 3] -> MP4 bytes:

        initialisation and one fragment, P pictures at `fps`.
        """
        picture = self.picture
        return fragment(self.encoder, picture.frames(rgb), picture.shown_width, picture.shown_height, self.fps)


def mime_type(mp4: bytes) -> str:
    """The type that `MediaSource.isTypeSupported` wants, read from the file itself (RFC 6381:

    avc1 + profile, flags, level).
    """
    at = mp4.find(b"avcC")
    if at >= 0:
        return f'video/mp4; codecs="avc1.{mp4[at + 5 : at + 8].hex()}"'
    at = mp4.find(b"vpcC")
    if at >= 0:
        profile, level, depth = mp4[at + 8], mp4[at + 9], mp4[at + 10] >> 4
        return f'video/mp4; codecs="vp09.{profile:02d}.{level:02d}.{depth:02d}"'
    raise ValueError("this MP4 holds neither H.264 nor VP9; expected the output of ChunkEncoder.encode")

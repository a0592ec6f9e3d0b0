"""Chunk -> a self-contained fragmented MP4 that Media Source Extensions take: one IDR frame at its start,
times from 0 on.

PyAV's wheel brings libx264 and libvpx, so no ffmpeg program is needed. A new encoder for every chunk costs
a few milliseconds and makes chunks independent: any of them can be lost, sent again, or played first.
"""

from __future__ import annotations

import io
from fractions import Fraction
from typing import Literal

import av
import numpy as np

from .picture import Picture

Codec = Literal["h264", "vp9"]

_FRAGMENTED = {"movflags": "empty_moov+default_base_moof+frag_keyframe"}
# One thread each: the cores belong to the model. No look-ahead and no B-frames: the last picture of a chunk
# must leave with it.
_OPTIONS: dict[Codec, tuple[str, dict[str, str]]] = {
    "h264": (
        "libx264",
        {"preset": "ultrafast", "tune": "zerolatency", "crf": "20", "x264-params": "threads=1:scenecut=0"},
    ),
    "vp9": ("libvpx-vp9", {"deadline": "realtime", "cpu-used": "8", "lag-in-frames": "0", "crf": "30", "b": "0"}),
}


class ChunkEncoder:
    """Encodes the chunks of one run;

    all have the same codec parameters, so that they can be joined without re-encoding.
    """

    def __init__(self, height: int, width: int, fps: int, codec: Codec = "h264") -> None:
        if codec not in _OPTIONS:
            raise ValueError(f"codec is {codec!r}; expected one of {', '.join(_OPTIONS)}")
        self.picture = Picture(height, width)
        self.fps = fps
        self.codec = codec

    def encode(self, rgb: np.ndarray) -> bytes:
        """uint8 [P, height, width, 3] -> MP4 bytes:

        initialisation and one fragment, P pictures at `fps`.
        """
        name, options = _OPTIONS[self.codec]
        sink = io.BytesIO()
        with av.open(sink, "w", format="mp4", options=_FRAGMENTED) as container:
            stream = container.add_stream(name, rate=self.fps, options=options)
            stream.width, stream.height = self.picture.shown_width, self.picture.shown_height
            stream.pix_fmt = "yuv420p"
            stream.gop_size = len(rgb)
            stream.time_base = Fraction(1, self.fps)
            for index, frame in enumerate(self.picture.frames(rgb)):
                frame.pts, frame.time_base = index, Fraction(1, self.fps)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        return sink.getvalue()


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

"""Which encoder makes H.264: the GPU's own (NVENC) where there is one that works and is quicker, else libx264.

PyAV's wheel knows NVENC everywhere; whether it runs here says only an attempt (data-centre cards such as H100 and A100
have none). A new encoder for every chunk costs NVENC more than libx264, so the attempt is timed against it.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Collection
from fractions import Fraction
from functools import lru_cache
from typing import cast

import av
import numpy as np

CPU, GPU = "libx264", "h264_nvenc"
NAMES = {CPU: "libx264", GPU: "NVENC"}  # for people
# No look-ahead and no B-frames: the last picture of a chunk must leave with it. libx264 gets one thread: the cores
# belong to the model.
OPTIONS: dict[str, dict[str, str]] = {
    CPU: {"preset": "ultrafast", "tune": "zerolatency", "crf": "20", "x264-params": "threads=1:scenecut=0"},
    GPU: {"preset": "p2", "tune": "ull", "rc": "constqp", "qp": "20", "bf": "0", "delay": "0", "zerolatency": "1"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8", "lag-in-frames": "0", "crf": "30", "b": "0"},
}
_FRAGMENTED = {"movflags": "empty_moov+default_base_moof+frag_keyframe"}
_TRIED = 12  # pictures of an attempt, about a chunk


def fragment(encoder: str, frames: list[av.VideoFrame], width: int, height: int, fps: int) -> bytes:
    """MP4 with initialisation and one fragment, which starts with a key picture; frames are yuv420p.

    Raises:
        av.FFmpegError: the encoder does not run here.
    """
    sink = io.BytesIO()
    with av.open(sink, "w", format="mp4", options=_FRAGMENTED) as container:
        stream = cast(av.VideoStream, container.add_stream(encoder, rate=fps, options=OPTIONS[encoder]))
        stream.width, stream.height = width, height
        stream.pix_fmt = "yuv420p"
        stream.gop_size = len(frames)
        stream.time_base = Fraction(1, fps)
        for index, frame in enumerate(frames):
            frame.pts, frame.time_base = index, Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return sink.getvalue()


@lru_cache(maxsize=16)
def h264_encoder(width: int, height: int, fps: int) -> str:
    """The encoder for pictures of this size on this machine.

    Tried at the first call: a fraction of a second with NVENC, milliseconds without.
    """
    return chosen(av.codecs_available, lambda encoder: seconds(encoder, width, height, fps))


def chosen(known: Collection[str], attempt: Callable[[str], float]) -> str:
    """NVENC where it is ``known`` and ``attempt`` (seconds for a chunk) succeeds, and sooner than with libx264."""
    if GPU not in known:
        return CPU
    try:
        attempt(GPU)  # the first one pays for starting the driver
        quick = attempt(GPU)
    except (av.FFmpegError, OSError):
        return CPU
    return GPU if quick < attempt(CPU) else CPU


def seconds(encoder: str, width: int, height: int, fps: int) -> float:
    """What a chunk of moving noise takes."""
    noise = np.random.default_rng(0).integers(0, 255, (height * 3 // 2, width), dtype=np.uint8)
    frames = [av.VideoFrame.from_ndarray(np.roll(noise, 4 * index, 1), format="yuv420p") for index in range(_TRIED)]
    begun = time.perf_counter()
    fragment(encoder, frames, width, height, fps)
    return time.perf_counter() - begun

"""The choice between NVENC and libx264, from imitated lists of codecs and attempts."""

from __future__ import annotations

import io
from collections.abc import Callable

import av
import numpy as np
import pytest

from cf_app.ui.codecs import CPU, GPU, chosen, h264_encoder, seconds
from cf_app.ui.encoder import ChunkEncoder, mime_type


def taking(gpu: float | Exception, cpu: float = 0.05) -> tuple[Callable[[str], float], list[str]]:
    asked: list[str] = []

    def attempt(encoder: str) -> float:
        asked.append(encoder)
        if encoder == GPU and isinstance(gpu, Exception):
            raise gpu
        return cpu if encoder == CPU else float(gpu)  # type: ignore[arg-type]

    return attempt, asked


def test_nvenc_where_it_is_known_works_and_is_quicker() -> None:
    quick, asked = taking(0.01)
    assert chosen({"libx264", "h264_nvenc"}, quick) == GPU and asked == [GPU, GPU, CPU]
    slow, _ = taking(0.2)
    assert chosen({"libx264", "h264_nvenc"}, slow) == CPU
    for error in (av.error.PermissionError(1, "no driver"), av.error.ExternalError(1, "no NVENC on this card")):
        broken, asked = taking(error)
        assert chosen({"libx264", "h264_nvenc"}, broken) == CPU and asked == [GPU]
    unknown, asked = taking(0.01)
    assert chosen({"libx264", "libvpx-vp9"}, unknown) == CPU and asked == []


def test_this_machine_makes_chunks_by_what_it_has_chosen() -> None:
    encoder = ChunkEncoder(80, 128, 16)
    assert encoder.encoder == h264_encoder(768, 480, 16) and encoder.encoder in (CPU, GPU)
    assert ChunkEncoder(80, 128, 16, "vp9").encoder == "libvpx-vp9"
    assert seconds(CPU, 256, 256, 16) > 0


def test_nvenc_makes_the_same_kind_of_chunk() -> None:
    try:
        seconds(GPU, 768, 480, 16)
    except (av.FFmpegError, OSError):
        pytest.skip("needs a GPU with NVENC")
    encoder = ChunkEncoder(80, 128, 16)
    encoder.encoder = GPU
    films = [encoder.encode(np.full((12, 80, 128, 3), shade, np.uint8)) for shade in (40, 200)]
    for film in films:
        with av.open(io.BytesIO(film)) as container:
            packets = [packet for packet in container.demux(video=0) if packet.size]
        assert [packet.is_keyframe for packet in packets] == [True] + [False] * 11
        assert [packet.pts for packet in packets] == [packet.dts for packet in packets]
    assert mime_type(films[0]) == mime_type(films[1])

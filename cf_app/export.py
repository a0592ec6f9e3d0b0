"""Pictures to an MP4 file that is either complete or not there."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType

import av
import numpy as np


class Mp4Writer:
    """H.264 in MP4, written beside its target and moved there at the end. Use it in a ``with`` statement.

    Args:
        path: file to write; an existing one is replaced only when the new one is complete.
        fps: pictures a second.
        quality: x264's constant rate factor, 0 (lossless) to 51.
    """

    def __init__(self, path: Path, fps: int, quality: int = 14) -> None:
        self.path = path
        self._part = path.with_name(f".{path.name}.{os.getpid()}.part")
        self._fps, self._quality = fps, quality
        self._container: av.container.OutputContainer | None = None
        self._stream: av.VideoStream | None = None

    def __enter__(self) -> Mp4Writer:
        try:
            self._container = av.open(str(self._part), "w", format="mp4", options={"movflags": "faststart"})
        except OSError as error:
            raise ValueError(f"{self.path} can not be written: {error}") from error
        return self

    def write(self, frames: np.ndarray) -> None:
        """Append uint8 [P, H, W, 3], RGB; height and width are even and the same every time."""
        container = self._container
        assert container is not None, "use Mp4Writer in a with statement"
        if self._stream is None:
            options = {"crf": str(self._quality), "preset": "medium"}
            stream = container.add_stream("libx264", rate=self._fps, options=options)
            stream.height, stream.width = frames.shape[1:3]
            stream.pix_fmt = "yuv420p"
            self._stream = stream
        for picture in frames:
            for packet in self._stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                container.mux(packet)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        container = self._container
        assert container is not None
        try:
            if kind is None and self._stream is not None:
                for packet in self._stream.encode():
                    container.mux(packet)
            container.close()
            if kind is None:
                os.replace(self._part, self.path)
        finally:
            self._part.unlink(missing_ok=True)

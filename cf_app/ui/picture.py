"""Small pictures shown well: from RGB frames to the planes that the encoder takes, enlarged without blur.

A model that makes 80 rows would look soft at 480 when enlarged by any linear filter, and like building
blocks when each pixel is repeated. So: enlarge to half the final size, and there pull every sample away
from the middle of what its source neighbourhood spans, but never out of that span: steep edges without
jags, and no halos. A linear ramp, such as a sky, stays as it is. Then double the luma; chroma needs half
the size only (4:2:0).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import av
import numpy as np
from av.video.reformatter import VideoReformatter

TARGET_ROWS = 480
_STEEPER = 5  # slope of an edge, in halves: more turns noise into grain, less is soft


@dataclass(frozen=True)
class Picture:
    """From frames of `height` x `width` to pictures `factor` times as large, even in both directions."""

    height: int
    width: int
    target_rows: int = TARGET_ROWS
    # Each keeps the tables of one conversion, which cost more than converting a small picture. For one thread.
    _scalers: dict[tuple[object, ...], VideoReformatter] = field(default_factory=dict, repr=False, compare=False)

    @property
    def factor(self) -> int:
        """Whole, so that pixels stay square and straight; even from 4 on, for the half-size step."""
        factor = max(1, round(self.target_rows / self.height))
        return factor - factor % 2 if factor >= 4 else factor

    @property
    def shown_height(self) -> int:
        return self.height * self.factor // 2 * 2

    @property
    def shown_width(self) -> int:
        return self.width * self.factor // 2 * 2

    def frames(self, rgb: np.ndarray) -> list[av.VideoFrame]:
        """uint8 [P, height, width, 3] -> P frames of format yuv420p at the shown size."""
        if rgb.dtype != np.uint8 or rgb.shape[1:] != (self.height, self.width, 3):
            raise ValueError(f"frames are {rgb.dtype} {rgb.shape}; expected uint8 [P, {self.height}, {self.width}, 3]")
        sources = [av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24") for picture in rgb]
        if self.factor < 4:
            return [
                self._scaled(source, self.shown_height, self.shown_width, "yuv420p", "LANCZOS") for source in sources
            ]
        planes = np.stack(
            [self._scaled(s, self.height, self.width, "yuv444p", "BILINEAR").to_ndarray() for s in sources]
        )
        low, high = _spread(planes, np.minimum), _spread(planes, np.maximum)  # [P, 3, Y, X]
        steep = steepened(
            self._halfway(planes, "BICUBIC"), self._halfway(low, "BILINEAR"), self._halfway(high, "BILINEAR")
        )
        return [self._assembled(one) for one in steep]

    def _halfway(self, planes: np.ndarray, interpolation: str) -> np.ndarray:
        """[P, 3, Y, X] -> the same at half the shown size."""
        frames = (av.VideoFrame.from_ndarray(np.ascontiguousarray(one), format="yuv444p") for one in planes)
        height, width = self.shown_height // 2, self.shown_width // 2
        return np.stack([self._scaled(frame, height, width, "yuv444p", interpolation).to_ndarray() for frame in frames])

    def _assembled(self, planes: np.ndarray) -> av.VideoFrame:
        half_luma = av.VideoFrame.from_ndarray(np.ascontiguousarray(planes[0]), format="gray")
        luma = self._scaled(half_luma, self.shown_height, self.shown_width, "gray", "BICUBIC")
        flat = np.concatenate([luma.to_ndarray().reshape(-1), planes[1].reshape(-1), planes[2].reshape(-1)])
        return av.VideoFrame.from_ndarray(flat.reshape(-1, self.shown_width), format="yuv420p")

    def _scaled(self, frame: av.VideoFrame, height: int, width: int, pixel_format: str, way: str) -> av.VideoFrame:
        key = (frame.format.name, frame.height, frame.width, height, width, pixel_format, way)
        scaler = self._scalers.setdefault(key, VideoReformatter())
        return scaler.reformat(frame, width=width, height=height, format=pixel_format, interpolation=way)


def steepened(planes: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Every sample further from the middle of `low` and `high`, but not beyond them; uint8, all of one shape."""
    middle = (low.astype(np.int16) + high) >> 1
    steep = planes.astype(np.int16)
    steep -= middle
    steep *= _STEEPER
    steep >>= 1
    steep += middle
    np.clip(steep, low, high, out=steep)
    return steep.astype(np.uint8)


def _spread(planes: np.ndarray, op: np.ufunc) -> np.ndarray:
    """Minimum or maximum of every 3 x 3 neighbourhood over the last two axes, edges repeated."""
    for axis in (-1, -2):
        rows = np.moveaxis(planes, axis, 0)
        padded = np.concatenate([rows[:1], rows, rows[-1:]])
        planes = np.moveaxis(op(op(padded[:-2], padded[1:-1]), padded[2:]), 0, axis)
    return planes

"""Small pictures shown well: from RGB frames to the planes that the encoder takes, enlarged without blur.

A model that makes 80 rows would look soft at 640 when enlarged by any linear filter, and like building blocks when each
pixel is repeated. So: Lanczos to half the final size, there pull every sample away from the middle of its
neighbourhood, but never beyond the neighbourhood's darkest and brightest sample (a steeper edge without ringing; a linear
ramp, such as a sky, is left as it is), and then double the luma. Chroma needs half the size only (4:2:0).
"""
from __future__ import annotations

from dataclasses import dataclass

import av
import numpy as np

TARGET_ROWS = 640
_WINDOW = 2  # samples to each side at half size: one source pixel when the picture is enlarged by 4 to 8
_STEEPER = 3


@dataclass(frozen=True)
class Picture:
    """From frames of `height` x `width` to pictures `factor` times as large, even in both directions."""

    height: int
    width: int
    target_rows: int = TARGET_ROWS

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
            return [self._scaled(source, self.shown_width, self.shown_height, "yuv420p") for source in sources]
        half = [self._scaled(source, self.shown_width // 2, self.shown_height // 2, "yuv444p") for source in sources]
        planes = steepen(np.stack([frame.to_ndarray() for frame in half]))  # [P, 3, Y/2, X/2]
        return [self._assembled(one) for one in planes]

    def _assembled(self, planes: np.ndarray) -> av.VideoFrame:
        half_luma = av.VideoFrame.from_ndarray(np.ascontiguousarray(planes[0]), format="gray")
        luma = half_luma.reformat(width=self.shown_width, height=self.shown_height, format="gray", interpolation="BICUBIC")
        flat = np.concatenate([luma.to_ndarray().reshape(-1), planes[1].reshape(-1), planes[2].reshape(-1)])
        return av.VideoFrame.from_ndarray(flat.reshape(-1, self.shown_width), format="yuv420p")

    @staticmethod
    def _scaled(frame: av.VideoFrame, width: int, height: int, pixel_format: str) -> av.VideoFrame:
        return frame.reformat(width=width, height=height, format=pixel_format, interpolation="LANCZOS")


def steepen(planes: np.ndarray) -> np.ndarray:
    """uint8 [..., Y, X] -> the same shape with steeper edges, every sample kept within its 5 x 5 neighbourhood's range."""
    low = _extreme(_extreme(planes, np.minimum, -1), np.minimum, -2)
    high = _extreme(_extreme(planes, np.maximum, -1), np.maximum, -2)
    middle = (low.astype(np.int16) + high) >> 1
    steeper = planes.astype(np.int16)
    steeper -= middle
    steeper *= _STEEPER
    steeper += middle
    np.clip(steeper, low, high, out=steeper)
    return steeper.astype(np.uint8)


def _extreme(planes: np.ndarray, op: np.ufunc, axis: int) -> np.ndarray:
    """Sliding minimum or maximum of 2 * _WINDOW + 1 samples along `axis`, edges repeated; by pairs, then by pairs of pairs."""
    size = planes.shape[axis]
    padding = [(0, 0)] * planes.ndim
    padding[axis] = (_WINDOW, _WINDOW)
    padded = np.moveaxis(np.pad(planes, padding, mode="edge"), axis, 0)
    pairs = op(padded[:-1], padded[1:])
    fours = op(pairs[:-2], pairs[2:])
    return np.moveaxis(op(fours[:size], padded[2 * _WINDOW : 2 * _WINDOW + size]), 0, axis)

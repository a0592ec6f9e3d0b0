"""Pictures and clips from files, as the beginning of a video."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np

MOST_SECONDS = 60.0
MOST_PIXELS = 40e6  # of one picture: a photograph, and no file of a few bytes that unpacks to gigabytes


def read_start(path: Path, fps: int, cover: tuple[int, int] | None = None) -> np.ndarray:
    """uint8 [P, h, w, 3] at ``fps``: the pictures of a clip, or the one of a picture.

    Args:
        cover: (height, width) that is wanted; larger pictures are made smaller while they are read, so that they just
            cover it. None leaves them as they are.

    Raises:
        ValueError: the file is missing, no picture or video, longer than a minute, or its pictures are huge.
    """
    pictures: list[np.ndarray] = []
    try:
        with av.open(str(path)) as file:
            size = file.streams.video[0]
            if size.width * size.height > MOST_PIXELS:
                most = f"{MOST_PIXELS / 1e6:.0f} million pixels"
                raise ValueError(f"{path} has pictures of {size.width} x {size.height}, expected at most {most}")
            for frame in file.decode(video=0):
                seconds = 0.0 if frame.time is None else float(frame.time)
                if seconds > MOST_SECONDS:
                    raise ValueError(f"{path} is longer than {MOST_SECONDS:.0f} s, expected a short clip: cut it")
                picture = _covering(frame, cover).to_ndarray(format="rgb24")
                # A picture stays until the time of the next one.
                pictures += [picture] * (round(seconds * fps) + 1 - len(pictures))
    except (av.FFmpegError, OSError, IndexError) as error:
        raise ValueError(f"{path} is missing, or no picture or video that can be read ({error})") from error
    if not pictures:
        raise ValueError(f"{path} has no pictures")
    return np.stack(pictures)


def _covering(frame: av.VideoFrame, cover: tuple[int, int] | None) -> av.VideoFrame:
    if cover is None:
        return frame
    scale = max(cover[0] / frame.height, cover[1] / frame.width)
    if scale >= 1:
        return frame
    width, height = max(cover[1], round(scale * frame.width)), max(cover[0], round(scale * frame.height))
    return frame.reformat(width, height, interpolation="AREA")

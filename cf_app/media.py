"""Pictures and clips from files, as the beginning of a video."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np

MOST_SECONDS = 60.0


def read_start(path: Path, fps: int) -> np.ndarray:
    """uint8 [P, h, w, 3] at ``fps``: the pictures of a clip, or the one of a picture.

    Raises:
        ValueError: the file is missing, no picture or video, or longer than a minute.
    """
    pictures: list[np.ndarray] = []
    try:
        with av.open(str(path)) as file:
            for frame in file.decode(video=0):
                seconds = 0.0 if frame.time is None else float(frame.time)
                if seconds > MOST_SECONDS:
                    raise ValueError(f"{path} is longer than {MOST_SECONDS:.0f} s, expected a short clip: cut it")
                picture = frame.to_ndarray(format="rgb24")
                # A picture stays until the time of the next one.
                pictures += [picture] * (round(seconds * fps) + 1 - len(pictures))
    except (av.FFmpegError, OSError, IndexError) as error:
        raise ValueError(f"{path} is missing, or no picture or video that can be read ({error})") from error
    if not pictures:
        raise ValueError(f"{path} has no pictures")
    return np.stack(pictures)

"""What a run has shown, on disk: one file with the encoded chunks one behind another, and their places in
it.

An hour is some hundred megabytes, too much to hold in memory for every tab. Serves the player's jumps back
and the download.
"""

from __future__ import annotations

import io
import threading
from fractions import Fraction
from pathlib import Path

import av


class Recording:
    """Chunks by index from 0 on. Thread-safe: the run's generator writes while requests read."""

    def __init__(self, path: Path, fps: int) -> None:
        self.path = path
        self.fps = fps
        self._lock = threading.Lock()
        self._file = path.open("w+b")
        self._places: list[tuple[int, int, int]] = []  # offset, size, size of the note behind it

    def __len__(self) -> int:
        return len(self._places)

    def add(self, mp4: bytes, note: bytes = b"") -> None:
        """Appends the next chunk, with whatever should be known of it;

        does nothing once closed (the tab went while the chunk was being encoded).
        """
        with self._lock:
            if self._file.closed:
                return
            offset = self._file.seek(0, io.SEEK_END)
            self._file.write(mp4 + note)
            self._places.append((offset, len(mp4), len(note)))

    def read(self, chunk: int) -> bytes:
        """The bytes that were added as number `chunk`."""
        return self.both(chunk)[0]

    def both(self, chunk: int) -> tuple[bytes, bytes]:
        """The bytes that were added as number `chunk`, and its note."""
        with self._lock:
            if self._file.closed or not 0 <= chunk < len(self._places):
                raise ValueError(f"chunk {chunk} is not recorded; this run has {len(self._places)}, counted from 0")
            offset, size, more = self._places[chunk]
            self._file.seek(offset)
            return self._file.read(size), self._file.read(more)

    def export(self, path: Path, upto: int) -> Path:
        """Writes chunks 0 to `upto` (inclusive) to `path` as one ordinary MP4, the pictures as they
        are (not encoded again).
        """
        partial = path.with_suffix(".part")
        with av.open(str(partial), "w", format="mp4", options={"movflags": "faststart"}) as container:
            stream = None
            shift = 0
            for chunk in range(min(upto + 1, len(self))):
                with av.open(io.BytesIO(self.read(chunk)), "r") as source:
                    video = source.streams.video[0]
                    stream = stream or container.add_stream_from_template(video)
                    frames = 0
                    for packet in source.demux(video):
                        if packet.size == 0:
                            continue
                        packet.stream = stream
                        packet.time_base = Fraction(1, self.fps)
                        packet.pts = packet.dts = shift + frames  # without B-frames both count pictures
                        packet.duration = 1
                        container.mux(packet)
                        frames += 1
                    shift += frames
            if stream is None:
                raise ValueError("nothing has been shown yet; press play first")
        partial.replace(path)
        return path

    def close(self) -> None:
        """Removes the file. Reading afterwards is an error, closing twice is not."""
        with self._lock:
            self._file.close()
            self._places.clear()
            self.path.unlink(missing_ok=True)

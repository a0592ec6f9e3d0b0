"""Pictures and clips that visitors bring along for their films to begin with.

The browser sends a file once and gets a token and a small picture; the wish to play names the token. Only the pictures
are kept, at the size of the film, and only the newest few of all visitors.
"""

from __future__ import annotations

import base64
import binascii
import secrets
import tempfile
import threading
from collections import OrderedDict
from pathlib import Path

import numpy as np

from cf_app.config import Geometry
from cf_app.media import read_start

MOST_BYTES = 24_000_000
_KEPT = 16  # files


class Starts:
    """What was brought, by token."""

    def __init__(self, geometry: Geometry) -> None:
        self.geometry = geometry
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, np.ndarray] = OrderedDict()

    def take(self, name: object, b64: object) -> tuple[str, np.ndarray]:
        """A file as its token and its pictures, uint8 [P, h, w, 3].

        Raises:
            ValueError: it is too large, no picture or video, or too long; says what to do.
        """
        shown = _shown(name)
        try:
            data = base64.b64decode(b64 if isinstance(b64, str) else "", validate=True)
        except (binascii.Error, ValueError) as error:
            raise ValueError(f"{shown} did not arrive whole. Send it again.") from error
        if not data:
            raise ValueError(f"{shown} is empty. Choose a picture or a short clip.")
        if len(data) > MOST_BYTES:
            most = f"{MOST_BYTES / 1e6:.0f} MB"
            raise ValueError(f"{shown} has {len(data) / 1e6:.0f} MB. Choose a picture or a clip of at most {most}.")
        with tempfile.TemporaryDirectory(prefix="context-forcing-start-") as folder:
            path = Path(folder) / "file"
            path.write_bytes(data)
            try:
                pictures = read_start(path, self.geometry.fps, (self.geometry.height, self.geometry.width))
            except ValueError as error:
                reason = str(error).replace(str(path), shown)
                raise ValueError(f"{_first_line(reason)}. Choose another picture or clip.") from error
        token = secrets.token_urlsafe(12)
        with self._lock:
            self._kept[token] = pictures
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return token, pictures

    def of(self, token: object) -> np.ndarray | None:
        """The pictures of a token; None for no token. ValueError if they are not kept any more."""
        if not token:
            return None
        with self._lock:
            if token not in self._kept:
                raise ValueError("The picture that the film should begin with is not kept any more. Choose it again.")
            return self._kept[str(token)]


def _shown(name: object) -> str:
    text = "".join(letter for letter in str(name or "") if letter.isprintable())
    return f"“{text[:60]}”" if text else "The file"


def _first_line(text: str) -> str:
    """Without what the library adds about its files and numbers."""
    return text.splitlines()[0].split(" (", 1)[0].rstrip(". ")

"""One playing of one tab: the worker's events as numbered messages for the player, at the pace at which the
player shows them.

The flow is like credit on a pipe. The browser grants chunks (`grant(upto)`: chunks below `upto` may come)
as it shows what it has; the generator `messages` fetches the next event from the worker's outbox only when
a grant is open; the outbox is bounded, so the worker waits. A browser that stops asking (paused, hidden,
gone) therefore stops the generation.

Knows nothing of Gradio and nothing of HTML; tested without either. The messages are described in
`player.py`.
"""

from __future__ import annotations

import base64
import io
import json
import math
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from cf_app.engine.messages import Applied, ChunkReady, Command, Ended, Event, Failed, StateChanged, Stop

from .commands import describe
from .encoder import ChunkEncoder, mime_type
from .palette import PromptColors
from .recording import Recording

if TYPE_CHECKING:
    from cf_app.engine.reception import Reception

Message = dict[str, Any]

FIRST_GRANT = 2  # chunks that are sent unasked, so that the first one shows without a round trip
_KEPT = 16  # messages that can be sent again when the browser lost some
_POLL = 0.2  # seconds after which a waiting generator looks whether its tab is still there
_SPEED_OVER = 8  # chunks over which the generation speed is averaged


class Run:
    """A session of the worker, its encoder and its recording.

    Made by `tabs.Tabs`; `messages` may be iterated once. A branch begins with the `shared` first chunks of the run
    `origin`, as they were, before its session goes on.
    """

    def __init__(
        self,
        worker: Reception,
        session: str,
        encoder: ChunkEncoder,
        colors: PromptColors,
        folder: Path,
        opening: Message,
        origin: Run | None = None,
        shared: int = 0,
    ) -> None:
        self.token = secrets.token_urlsafe(12)  # what a browser must know to speak to this run
        self.worker = worker
        self.session = session
        self.encoder = encoder
        self.colors = colors
        self.folder = folder / self.token
        self.folder.mkdir(parents=True)
        self.recording = Recording(self.folder / "chunks.bin", encoder.fps)
        self._shared = 0 if origin is None else shared
        if origin is not None:
            for chunk in range(shared):
                self.recording.add(*origin.recording.both(chunk))
        self._opening = opening
        self._wake = threading.Condition()
        self._granted = FIRST_GRANT
        self._sent = 0
        self._stopping = False
        self._closed = False
        self._over: Callable[[], bool] = lambda: False
        self._frames = 0
        self._sequence = 0
        self._recent: deque[Message] = deque(maxlen=_KEPT)
        self._speeds: deque[tuple[int, float]] = deque(maxlen=_SPEED_OVER)
        self._of: dict[type, Callable[[Any], Message]] = {
            ChunkReady: self._chunk,
            Applied: self._applied,
            StateChanged: lambda e: {"type": "state", "state": e.state},
            Failed: lambda e: {"type": "failed", "message": e.message, "fatal": e.fatal},
            Ended: lambda e: {"type": "ended", "reason": e.reason},
        }

    # For the browser's requests, from any thread.

    def grant(self, upto: int) -> None:
        """The browser has room for all chunks below `upto`."""
        with self._wake:
            self._granted = max(self._granted, upto)
            self._wake.notify_all()

    def send(self, command: Command) -> int:
        """Passes a command on; returns the chunk from which it holds."""
        chunk = self.worker.send(self.session, command)
        if isinstance(command, Stop):
            with self._wake:
                self._stopping = True
                self._wake.notify_all()
        return chunk

    def queued(self) -> int:
        """Chunks that are generated and wait at the worker."""
        try:
            return self.worker.state(self.session).queued
        except ValueError:  # the session has been given back
            return 0

    def again(self, sequence: int) -> list[Message]:
        """Messages from number `sequence` on that are still kept, oldest first."""
        with self._wake:
            return [message for message in self._recent if message["seq"] >= sequence]

    def export(self, upto: int, name: str) -> Path:
        """An ordinary MP4 of chunks 0 to `upto`."""
        return self.recording.export(self.folder / name, upto)

    @property
    def closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        """Gives the worker's session back.

        What has been shown stays readable until `forget`. Closing twice is fine.
        """
        with self._wake:
            first, self._closed = not self._closed, True
            self._wake.notify_all()
        if first:
            self.worker.close(self.session)

    def forget(self) -> None:
        """Closes, and removes the recording and all exports."""
        self.close()
        self.recording.close()
        for path in self.folder.iterdir():
            path.unlink(missing_ok=True)
        self.folder.rmdir()

    # The stream, on the thread of the Gradio event.

    def messages(self) -> Iterator[Message]:
        """Messages until the session ends or its tab goes; frees the session in any case."""
        try:
            yield self.numbered({"type": "run", "granted": self._granted, **self._opening})
            yield from self._shared_chunks()
            while (event := self._next()) is not None:
                if isinstance(event, ChunkReady) and self._stopping:
                    continue  # nobody waits for it any more
                yield self.numbered(self._of[type(event)](event))
                if isinstance(event, Ended) or (isinstance(event, Failed) and event.fatal):
                    break
        finally:
            self.close()

    def _shared_chunks(self) -> Iterator[Message]:
        for chunk in range(self._shared):
            if not self._has_room() or self._stopping:
                return
            mp4, note = self.recording.both(chunk)
            message = json.loads(note)
            self._frames += message["frames"]
            self._sent = chunk + 1
            yield self.numbered({**message, "b64": base64.b64encode(mp4).decode(), "queued": 0})

    def _has_room(self) -> bool:
        """Waits until the browser has room for a chunk; False when the run is over."""
        while not self._closed and not self._over():
            with self._wake:
                if self._wake.wait_for(self._open, _POLL):
                    return not self._closed
        return False

    def _next(self) -> Event | None:
        """The worker's next event, when the browser has room for it; None when the run is over."""
        while self._has_room():
            try:
                event = self.worker.events(self.session, timeout=_POLL)
            except ValueError:  # the session has been given back meanwhile
                break
            if event is not None:
                return event
        return None

    def _open(self) -> bool:
        return self._sent < self._granted or self._stopping or self._closed

    def ends_when(self, over: Callable[[], bool]) -> None:
        """`messages` ends as soon as `over()` says so; asked several times a second."""
        self._over = over

    def numbered(self, message: Message) -> Message:
        """A message as the next one of this run."""
        message = {"run": self.token, "seq": self._sequence, **message}
        with self._wake:
            self._sequence += 1
            self._recent.append(message)
        return message

    def _chunk(self, event: ChunkReady) -> Message:
        begun = time.perf_counter()
        mp4 = self.encoder.encode(event.frames)
        encode_ms = 1000 * (time.perf_counter() - begun)
        start, frames, fps = self._frames / self.encoder.fps, len(event.frames), self.encoder.fps
        self._frames += frames
        self._sent = event.chunk + 1
        self._speeds.append((frames, event.timings["total"]))
        message = {
            "type": "chunk",
            "chunk": event.chunk,
            "start": start,
            "end": self._frames / fps,
            "frames": frames,
            "mime": mime_type(mp4),
            "prompt": event.prompt,
            "color": self.colors.number(event.prompt),
            "seed": event.seed,
            "timings": _finite({**event.timings, "encode": encode_ms}),
            "fps": round(1000 * sum(n for n, _ in self._speeds) / max(1e-3, sum(ms for _, ms in self._speeds)), 2),
            "queued": self.queued(),
            "first_latent": event.chunk * len(event.thumbnails),
            "thumbnails": [jpeg_url(picture) for picture in event.thumbnails],
            "snapshot": event.snapshot.to_dict(),
        }
        self.recording.add(mp4, json.dumps(message).encode())
        return {**message, "b64": base64.b64encode(mp4).decode()}

    def _applied(self, event: Applied) -> Message:
        described = describe(event.command)
        color = {"color": self.colors.number(described["prompt"])} if "prompt" in described else {}
        return {"type": "applied", "chunk": event.chunk, **described, **color}


def jpeg_url(picture: np.ndarray) -> str:
    """uint8 [h, w, 3] -> a data URL."""
    sink = io.BytesIO()
    Image.fromarray(picture).save(sink, "JPEG", quality=85, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(sink.getvalue()).decode()


def _finite(numbers: Mapping[str, float]) -> dict[str, float]:
    """JSON has no NaN; one would end the whole event stream."""
    return {name: round(float(value), 3) for name, value in numbers.items() if math.isfinite(value)}

"""An engine and a worker without a model, with the real ones' interface: a coloured ball moves over a
coloured ground.

The colours are those that the prompt names, else they come from the prompt's letters and the seed; so tests
can measure in the pixels which prompt and seed made a picture. `speed` is chunks a second (0: as fast as it
is fetched). For tests of the page and for looking at it; run `python -m tests.fake_worker` to open the page
with it.
"""

from __future__ import annotations

import queue
import signal
import sys
import threading
import time
import zlib
from dataclasses import dataclass, field

import numpy as np

from cf_app.config import Geometry, ModelConfig
from cf_app.engine import messages as m
from cf_app.engine.timeline import check_prompt
from cf_app.memory.policy import policy_from_dict
from cf_app.memory.snapshot import EntryView, MemorySnapshot

COLORS = {
    "red": (214, 58, 52),
    "green": (60, 170, 75),
    "blue": (52, 92, 214),
    "yellow": (240, 208, 70),
    "white": (240, 240, 240),
    "pink": (230, 120, 170),
    "purple": (130, 70, 180),
    "orange": (235, 140, 40),
}
SKIES = {"day": (120, 180, 235), "sunset": (240, 130, 80), "night": (20, 26, 66), "dawn": (170, 150, 220)}
_OTHER = (
    "a an the in at on by over through ball star box heart hops rolls floats meadow desert snow beach camera sweeps"
)
WORDS = {*COLORS, *SKIES, *_OTHER.split()}


class FakeEngine:
    config = ModelConfig(
        name="fake",
        title="A coloured ball",
        description="No model: a ball on a ground, for tests.",
        geometry=Geometry(latent_channels=4, latent_height=10, latent_width=16),
    )
    geometry = config.geometry
    name = config.name
    title = config.title
    policy = policy_from_dict(config.memory)
    device = "cpu"
    quantization = "none"
    running_by = "no attention"
    vocabulary = frozenset(WORDS)
    example_prompts = (
        "a red ball hops through the meadow at sunset",
        "a blue star floats over the beach at night, the camera sweeps",
        "a yellow box rolls through the desert by day",
        "a white heart floats through the snow at dawn",
        "a pink ball hops on the beach at sunset",
    )

    def subjects_for(self, prompt: str) -> list[str]:
        return [] if set(prompt.split()) & {"ball", "box", "heart", "star"} else ["ball", "box", "heart", "star"]

    def unknown_words(self, prompt: str) -> list[str]:
        words = ["".join(c for c in word.lower() if c.isalnum()) for word in prompt.split()]
        return list(dict.fromkeys(word for word in words if word and word not in WORDS))


def _named(prompt: str, table: dict, salt: int) -> tuple[int, int, int]:
    for word in prompt.lower().replace(",", " ").split():
        if word in table:
            return table[word]
    return list(table.values())[(zlib.crc32(prompt.encode()) + salt) % len(table)]


def paint(geometry: Geometry, prompt: str, seed: int, chunk: int) -> np.ndarray:
    """uint8 [chunk_frames, height, width, 3]"""
    height, width, count = geometry.height, geometry.width, geometry.chunk_frames
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    sky, ball = np.array(_named(prompt, SKIES, seed), np.float32), np.array(_named(prompt, COLORS, seed), np.float32)
    out = np.empty((count, height, width, 3), np.float32)
    hill = height * 0.62 + 6 * np.sin((x + 37 * (seed % 7)) / width * 6.28)
    base = sky * (1.1 - 0.5 * (y / height))[..., None]
    for i in range(count):
        t = (chunk * count + i) / geometry.fps
        picture = base.copy()
        land = np.clip(y - hill, 0, 1)[..., None]
        picture = picture * (1 - land) + (sky * 0.45 + 30) * land
        cx = width * (0.5 + 0.3 * np.sin(0.9 * t + seed))
        cy = height * 0.68 - abs(np.sin(3.1 * t)) * height * 0.3
        cover = np.clip(11.5 - np.hypot(x - cx, y - cy), 0, 1)[..., None]
        out[i] = picture * (1 - cover) + ball * cover
    return np.clip(out, 0, 255).astype(np.uint8)


def snapshot(chunk: int, prompts: list[str]) -> MemorySnapshot:
    entries, newest = [], chunk * 3 + 2
    held = [("sink", i) for i in range(min(3, newest + 1))]
    held += [("slow", n) for n in range(5, max(5, newest - 5), 7)][-12:]
    held += [("fast", n) for n in range(max(0, newest - 5), newest + 1)]
    for slot, (lane, latent) in enumerate(held):
        surprisal = 0.05 + (latent * 37 % 50) / 100 if lane == "slow" else None
        entries.append(
            EntryView(
                slot,
                lane,
                latent,
                latent // 3,
                prompts[latent // 3],
                surprisal,
                latent // 3 if surprisal else None,
                8,
                False,
                slot,
            )
        )
    similarity = 0.9 + 0.09 * np.sin(chunk)
    return MemorySnapshot(
        chunk=chunk,
        policy="slow_fast",
        sink=3,
        slow=12,
        fast=6,
        tau=0.95,
        timing="clean",
        decision="shared",
        layers=8,
        entries=tuple(entries),
        layer_slots=tuple(tuple(e.latent for e in entries) for _ in range(8)),
        similarities=(float(similarity),) * 8,
        similarity=float(similarity),
        promoted=(newest,) if similarity < 0.95 else (),
        bytes_held=1_000_000,
        memory_ms=1.0,
    )


@dataclass
class _Session:
    prompt: str
    seed: int
    outbox: queue.Queue
    state: str = "paused"
    chunk: int = 0
    busy: int = 0
    closed: bool = False
    paused_at: int = -1
    start: np.ndarray | None = None  # pictures, the first chunk has their mean colour
    prompts: list[str] = field(default_factory=list)
    inbox: list = field(default_factory=list)
    wake: threading.Condition = field(default_factory=threading.Condition)


class FakeWorker:
    """Follows `cf_app.engine.worker.Worker`; one thread a session instead of one for all."""

    def __init__(self, engine: FakeEngine, buffer_chunks: int = 1, speed: float = 0.0) -> None:
        self.engine, self.buffer, self.speed = engine, buffer_chunks, speed
        self.sessions: dict[str, _Session] = {}
        self.fail_at: int | None = None  # chunk at which the next session fails for good
        self._count = 0

    def open(self, prompt=None, seed=0, *, chunks=None, timeline=None, policy=None, start=None) -> str:
        prompt = timeline.prompt_at(0).caption if timeline else prompt
        check_prompt(prompt)
        self._count += 1
        name = f"session-{self._count}"
        session = self.sessions[name] = _Session(prompt, seed, queue.Queue(), start=start)
        threading.Thread(target=self._work, args=(name, session, chunks), daemon=True).start()
        return name

    def branch(self, session_id: str, chunk: int, timeline) -> None:
        return None  # nothing is kept: a branch is made again from the start

    def _session(self, session_id: str) -> _Session:
        if session_id not in self.sessions:
            raise ValueError(f"session {session_id!r} is not open")
        return self.sessions[session_id]

    def send(self, session_id: str, command) -> int:
        session = self._session(session_id)
        if isinstance(command, m.SetPrompt):
            check_prompt(command.prompt)
        with session.wake:
            session.inbox.append(command)
            session.wake.notify_all()
            return session.chunk + session.busy

    def events(self, session_id: str, timeout: float | None = None):
        session = self.sessions.get(session_id)
        if session is None:
            return m.Ended(session_id, "closed")
        try:
            event = session.outbox.get(timeout=timeout)
        except queue.Empty:
            return None
        with session.wake:
            session.wake.notify_all()
        return event

    def state(self, session_id: str) -> m.SessionStatus:
        s = self._session(session_id)
        return m.SessionStatus(s.state, s.chunk, s.prompt, s.seed, s.outbox.qsize())

    def close(self, session_id: str) -> None:
        session = self.sessions.pop(session_id, None)
        if session:
            with session.wake:
                session.closed = True
                session.wake.notify_all()

    def shutdown(self) -> None:
        for name in list(self.sessions):
            self.close(name)

    def _work(self, name: str, s: _Session, chunks: int | None) -> None:
        while True:
            with s.wake:
                s.wake.wait_for(
                    lambda: s.closed or s.inbox or (s.state == "playing" and s.outbox.qsize() < self.buffer)
                )
                if s.closed:
                    return
                commands, s.inbox = s.inbox, []
                s.busy = 1  # what is sent from now on counts from the next chunk
            for command in commands:
                self._apply(name, s, command)
            if s.state == "stopped":
                s.outbox.put(m.Ended(name, "stopped"))
                return
            if s.state != "playing" or s.outbox.qsize() >= self.buffer:
                s.busy = 0
                continue
            if self.fail_at == s.chunk:
                s.outbox.put(
                    m.Failed(name, "The model ran out of memory at chunk 3. Close other tabs and play again.", True)
                )
                return
            self._step(name, s)
            if chunks is not None and s.chunk >= chunks:
                s.outbox.put(m.Ended(name, "finished"))
                return

    def _apply(self, name: str, s: _Session, command) -> None:
        states = {m.Play: "playing", m.Resume: "playing", m.Pause: "paused", m.Stop: "stopped"}
        if type(command) in states:
            s.state = states[type(command)]
            s.outbox.put(m.StateChanged(name, s.state))
        elif isinstance(command, m.SetPrompt):
            s.prompt = command.prompt
        elif isinstance(command, m.SetSeed):
            s.seed = command.seed
        s.outbox.put(m.Applied(name, command, s.chunk))

    def _step(self, name: str, s: _Session) -> None:
        begun = time.perf_counter()
        frames = paint(self.engine.geometry, s.prompt, s.seed, s.chunk)
        if s.start is not None and s.chunk == 0:
            frames[:] = s.start.mean((0, 1, 2)).astype(np.uint8)
        if self.speed:
            time.sleep(max(0.0, 1 / self.speed - (time.perf_counter() - begun)))
        s.prompts.append(s.prompt)
        total = 1000 * (time.perf_counter() - begun)
        timings = {
            "text": 0.2,
            "denoise": 0.62 * total,
            "context": 0.14 * total,
            "decode": 0.2 * total,
            "memory": 0.8,
            "total": total,
        }
        thumbnails = np.ascontiguousarray(frames[2::4, ::2, ::2])
        s.outbox.put(
            m.ChunkReady(name, s.chunk, frames, s.prompt, s.seed, snapshot(s.chunk, s.prompts), timings, thumbnails)
        )
        with s.wake:
            s.chunk, s.busy = s.chunk + 1, 0


def main() -> None:
    import argparse

    from cf_app.ui.gate import Limits
    from cf_app.ui.layout import build_page

    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=7860)
    parser.add_argument("--speed", type=float, default=3.0)
    parser.add_argument("--fail-at", type=int)
    parser.add_argument("--sessions", type=int, default=0, help="as of app.py")
    parser.add_argument("--turn", type=float, default=0, help="as of app.py")
    parser.add_argument("--report", action="store_true", help="tell the number of open sessions to whoever asks")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # so that temporary files go
    engine = FakeEngine()
    worker = FakeWorker(engine, speed=options.speed)
    worker.fail_at = options.fail_at
    page = build_page(engine, worker, limits=Limits(sessions=options.sessions, turn=options.turn))
    extra = {"app_kwargs": {"routes": [_report_route(worker)]}} if options.report else {}
    page.demo.launch(server_name="127.0.0.1", server_port=options.port, quiet=True, **page.launch, **extra)


def _report_route(worker: FakeWorker):
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    return Route("/gradio_api/sessions-for-tests", lambda _: JSONResponse(len(worker.sessions)))


if __name__ == "__main__":
    main()

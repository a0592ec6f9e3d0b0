"""All open tabs: each has its prompts' colours and at most one run.

A closed tab frees everything it held.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cf_app.engine import timeline_io
from cf_app.engine.messages import Play

from .commands import read_prompt, read_seed
from .encoder import ChunkEncoder
from .palette import PromptColors
from .run import Run
from .starts import Starts

if TYPE_CHECKING:
    from cf_app.engine.engine import Engine
    from cf_app.engine.reception import Reception
    from cf_app.engine.timeline import Timeline


@dataclass
class _Tab:
    colors: PromptColors
    run: Run | None = None


class Tabs:
    """Finds runs by the token that only their own browser knows, and tabs by Gradio's session hash."""

    def __init__(self, engine: Engine, worker: Reception) -> None:
        self.engine = engine
        self.worker = worker
        self.starts = Starts(engine.geometry)
        self.folder = Path(tempfile.mkdtemp(prefix="context-forcing-"))
        atexit.register(shutil.rmtree, self.folder, ignore_errors=True)
        self._tabs: dict[str, _Tab] = {}
        self._runs: dict[str, Run] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._tabs)

    def start(self, tab: str, request: Mapping[str, Any]) -> Run:
        """A new run from chunk 0 in place of the tab's last one; not yet playing until its messages are
        read.

        `request`: prompt, seed, timeline? (JSON of a timeline file), start? (token of `starts.py`), codec? ("h264" or
        "vp9"), nonce? (comes back in the first message), branch? ({run, chunk}: what `timeline` branches from, and
        where; the chunks before come from that run as far as they can). ValueError says what to change.
        """
        timeline = timeline_io.from_dict(request["timeline"]) if request.get("timeline") else None
        prompt = timeline.prompt_at(0).caption if timeline else read_prompt(request.get("prompt"))
        seed = read_seed(request.get("seed", 0))
        geometry = self.engine.geometry
        encoder = ChunkEncoder(geometry.height, geometry.width, geometry.fps, request.get("codec") or "h264")
        origin, branch = self._branch(tab, encoder, timeline, request)
        if branch is None:
            start = self.starts.of(request.get("start"))
            branch = self.worker.open(None if timeline else prompt, seed, timeline=timeline, start=start), 0
        session, shared = branch
        opening = {
            "nonce": request.get("nonce"),
            "prompt": prompt,
            "seed": seed,
            "fps_played": geometry.fps,
            "chunk_frames": geometry.chunk_frames,
            "chunk_latents": geometry.chunk_latents,
            "width": encoder.picture.shown_width,
            "height": encoder.picture.shown_height,
            **self.words_of(prompt),
        }
        with self._lock:
            place = self._tabs.setdefault(tab, _Tab(PromptColors(self.engine.example_prompts)))
            opening["color"] = place.colors.number(prompt)
        try:
            run = Run(self.worker, session, encoder, place.colors, self.folder, opening, origin, shared)
        except ValueError:  # its origin has just gone
            self.worker.close(session)
            raise
        with self._lock:
            old, place.run = place.run, run
            self._tabs[tab] = place
            self._runs[run.token] = run
        if old is not None:
            self._forget(old)
        self.worker.send(session, Play())
        return run

    def words_of(self, prompt: str) -> dict[str, list[str]]:
        """{unknown, subjects}: words of a prompt that the model does not know, and what it could name if it names
        nothing to make a film of."""
        return {"unknown": self.engine.unknown_words(prompt), "subjects": self.engine.subjects_for(prompt)}

    def _branch(
        self, tab: str, encoder: ChunkEncoder, timeline: Timeline | None, request: Mapping[str, Any]
    ) -> tuple[Run | None, tuple[str, int] | None]:
        """The tab's own run that is branched from, and what `Reception.branch` has made of it."""
        wish = request.get("branch")
        if timeline is None or not isinstance(wish, Mapping) or not isinstance(wish.get("chunk"), int):
            return None, None
        with self._lock:
            place = self._tabs.get(tab)
            origin = None if place is None else place.run
        if origin is None or origin.token != wish.get("run") or origin.encoder.codec != encoder.codec:
            return None, None
        return origin, self.worker.branch(origin.session, min(wish["chunk"], len(origin.recording)), timeline)

    def run(self, token: object) -> Run:
        """The run that `token` opens."""
        with self._lock:
            if not isinstance(token, str) or token not in self._runs:
                raise ValueError("This run is over. Press play to start a new one.")
            return self._runs[token]

    def close(self, tab: str) -> None:
        """The tab has gone; unknown tabs are fine."""
        with self._lock:
            place = self._tabs.pop(tab, None)
        if place is not None and place.run is not None:
            self._forget(place.run)

    def close_all(self) -> None:
        """For the end of the program: no run and no file stays."""
        for tab in list(self._tabs):
            self.close(tab)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _forget(self, run: Run) -> None:
        with self._lock:
            self._runs.pop(run.token, None)
        run.forget()

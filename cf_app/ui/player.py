"""The live player: a `gr.HTML` whose value is the newest message of a run, shown with Media Source Extensions.

Everything travels in-band. Gradio's own event stream carries the messages, so there is no extra route, and
it works behind the proxy of a Space. A hidden tab may miss values (Gradio hands over the newest), so
messages are numbered, and the browser asks for the missing ones again (server function `fetch`).

**Messages** (server to browser). All have `run` (token), `seq` (0, 1, 2, ... within the run) and `type`:

- `run`: first of a run. nonce, prompt, color, seed, fps_played, chunk_frames, chunk_latents, width, height,
  unknown (words), subjects (words that could be named, if none is), granted (chunks that come unasked).
- `chunk`: chunk (index), start and end (seconds in the film), frames, mime, b64 (self-contained fragmented
  MP4), prompt, color (number of the palette), seed, timings (ms: text, denoise, context, decode, memory,
  total, encode), fps (generated, over the last 8 chunks), queued (chunks that wait at the worker), snapshot
  (`MemorySnapshot.to_dict()` after this chunk), first_latent, thumbnails (one JPEG data URL per latent
  frame of this chunk: latent `first_latent + i`; each is sent this once, keep them).
- `applied`: a command took effect at `chunk`: kind and fields as in `commands.py`, color if there is a
  prompt.
- `state`: state ("playing", "paused", "stopped"). `failed`: message, fatal. `ended`: reason ("stopped",
  "finished", "closed").
- `refused`: message; there is no run. `waiting`: position (1 is next), seconds (an estimate, or null): all places
  are taken. Their run is null. A run that had to make room ends with the reason "turn" or "budget".

**DOM events** on `document`, for the other components of the page (`detail` is a plain object; `cf.on(name,
f)` of `assets/cf.js` hands over the detail):

- from the player: `cf:run`, `cf:chunk` (the message without b64), `cf:applied`, `cf:state`, `cf:failed`,
  `cf:ended`, `cf:refused` (the messages, but no `state` that a command of the page has overtaken); `cf:shown`
  for every picture that comes to the screen: {run, chunk, frame (within the chunk), time (s), generated (s, end
  of what exists), playing, live (near the end of what exists)}; `cf:mode` {mode}: "idle", "starting",
  "playing", "paused", "stopped".
- to the player: `cf:seek` {time} or {chunk}: jump there (fetched again when the browser has dropped it);
  `cf:live`: back to the newest; `cf:play` {prompt?, seed?, timeline?}: a new run from chunk 0;
  `cf:branch` {chunk, timeline}: one that is the same up to this chunk and waits there; `cf:command`
  {kind, ..., reply?: f(answer)}: send a command of `commands.py`; the answer is {ok: true, chunk, ...} or
  {ok: false, error}; `cf:prompt` {prompt, reply?}: play it, or change to it.

**In the page** `assets/cf.js` also has `cf.color(prompt)` (a number of the palette, style with `var(--cf-p3)`),
`cf.clock`, `cf.download`, and `cf.typing(event)` for keys: an element with the attribute `data-cf-keys` keeps its
keys from the player. Gradio rewrites style sheets and drops container queries: set an attribute by script instead.

**Pace**: chunk messages come only as far as the browser has granted them (`credit`); see `run.py`.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from cf_app.engine.messages import SetPrompt

from .commands import command_from, read_prompt
from .gate import Gate
from .run import jpeg_url
from .tabs import Tabs
from .visit import visit, visitor_of

_ON_LOAD = ("player.js", "player_screen.js")  # one script in two files
ASSETS = Path(__file__).resolve().parents[2] / "assets"

Answer = dict[str, Any]


def asset(name: str) -> str:
    """The text of a file in `assets/`."""
    return (ASSETS / name).read_text(encoding="utf-8")


class LivePlayer(gr.HTML):
    """Screen, transport and status line.

    Starts runs through its event `play`; everything else are requests to the server.
    """

    def __init__(self, tabs: Tabs, cushion: float, gate: Gate, *, elem_id: str = "cf-player") -> None:
        """`cushion`: least seconds of unseen video at which the browser asks for the next chunk."""
        super().__init__(
            html_template=asset("player.html"),
            js_on_load="\n".join(asset(name) for name in _ON_LOAD),
            apply_default_css=False,
            elem_id=elem_id,
            server_functions=requests(tabs, gate),
            setup={"cushion": cushion, "title": tabs.engine.title},
        )
        self.play(
            player_stream(tabs, gate),
            outputs=[self],
            show_progress="hidden",
            trigger_mode="multiple",  # a new run may start while the last one's generator is still on its way out
            concurrency_limit=None,
            api_visibility="private",
        )

    def api_info(self) -> dict[str, Any]:
        return {"type": "object"}


def player_stream(tabs: Tabs, gate: Gate) -> Callable[..., Iterator[Answer]]:
    """The generator behind the `play` event: one run of the tab that asked."""

    def play(event: gr.EventData, request: gr.Request) -> Iterator[Answer]:
        host = request.client.host if request.client else None
        proxied = gate.limits.proxied
        visitor = visitor_of(dict(request.headers), host, request.username, behind_proxy=proxied)
        yield from visit(tabs, gate, str(request.session_hash), visitor, event._data or {})

    return play


def requests(tabs: Tabs, gate: Gate) -> list[Callable[[Answer], Answer]]:
    """The server functions of the player.

    Each takes one object with the `run` token and answers {ok, ...}.
    """

    def credit(request: Answer) -> Answer:
        """{run, upto}: chunks below `upto` may come."""
        return _answer(lambda: _credit(tabs, request))

    def command(request: Answer) -> Answer:
        """{run, kind, ...}: a command of `commands.py`; answers the chunk from which it holds."""
        return _answer(lambda: _command(tabs, request))

    def fetch(request: Answer) -> Answer:
        """{run, seq}: the messages from number `seq` on, as far as they are still kept."""
        return _answer(lambda: {"messages": tabs.run(request["run"]).again(int(request["seq"]))})

    def chunk(request: Answer) -> Answer:
        """{run, chunk}: the video of one chunk again."""
        return _answer(lambda: _chunk(tabs, request))

    def export(request: Answer) -> Answer:
        """{run, upto, name}: one MP4 of chunks 0 to `upto`; answers the path to download."""
        return _answer(lambda: _export(tabs, request))

    def leave(request: Answer) -> Answer:
        """{nonce}: who pressed play does not want to wait any longer."""
        def left() -> Answer:
            gate.forget(str(request["nonce"]))
            return {}

        return _answer(left)

    return [credit, command, fetch, chunk, export, leave]


def _answer(work: Callable[[], Answer]) -> Answer:
    try:
        return {"ok": True, **work()}
    except (ValueError, KeyError) as error:
        return {"ok": False, "error": str(error)}


def _credit(tabs: Tabs, request: Answer) -> Answer:
    run = tabs.run(request["run"])
    run.grant(int(request["upto"]))
    return {"queued": run.queued(), "closed": run.closed}


def _command(tabs: Tabs, request: Answer) -> Answer:
    run = tabs.run(request["run"])
    command = command_from(request)
    answer: Answer = {"chunk": run.send(command)}
    if isinstance(command, SetPrompt):
        answer |= {
            "prompt": command.prompt,
            "color": run.colors.number(command.prompt),
            **tabs.words_of(command.prompt),
        }
    return answer


def _chunk(tabs: Tabs, request: Answer) -> Answer:
    mp4 = tabs.run(request["run"]).recording.read(int(request["chunk"]))
    return {"chunk": int(request["chunk"]), "b64": base64.b64encode(mp4).decode()}


def _export(tabs: Tabs, request: Answer) -> Answer:
    upto = int(request["upto"])
    path = tabs.run(request["run"]).export(upto, f"context-forcing-{upto + 1}-chunks.mp4")
    return {"path": str(path), "name": path.name}


def bring_start_with(tabs: Tabs) -> Callable[[Answer], Answer]:
    """The server function that takes a picture or clip for films to begin with."""

    def bring(request: Answer) -> Answer:
        """{name, b64}: answers its token for `cf:play`, a small picture of it, and how many seconds of film it is."""
        return _answer(lambda: _bring(tabs, request))

    return bring


def _bring(tabs: Tabs, request: Answer) -> Answer:
    token, pictures = tabs.starts.take(request.get("name"), request.get("b64"))
    geometry = tabs.engine.geometry
    chunks = -(-len(pictures) // geometry.chunk_frames)
    return {"start": token, "picture": jpeg_url(pictures[0]), "seconds": chunks * geometry.chunk_seconds}


def check_prompt_with(tabs: Tabs) -> Callable[[Answer], Answer]:
    """The server function of the prompt box:

    what is wrong with a prompt, which of its words the model does not know, and what it should name.
    """

    def check(request: Answer) -> Answer:
        return _answer(lambda: tabs.words_of(read_prompt(request["prompt"])))

    return check

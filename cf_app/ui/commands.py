"""What the page asks for, as JSON, to and from the engine's commands. One line per kind in each of the two
tables.

A request is `{"kind": ..., fields}`: `pause`, `resume`, `stop`; `prompt` (prompt, at_chunk?, memory?); `seed` (seed);
`memory` (changes); `pin`, `unpin`, `evict`, `restore` (latent); `attention` (on); `timeline` (timeline: the JSON of a
timeline file).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from cf_app.engine import timeline_io
from cf_app.engine.messages import (
    Command,
    Evict,
    Pause,
    Pin,
    Play,
    Restore,
    Resume,
    SetMemory,
    SetPrompt,
    SetSeed,
    SetTimeline,
    Stop,
    Unpin,
    WatchAttention,
)
from cf_app.engine.timeline import check_prompt

MAX_SEED = 2**32 - 1

Request = Mapping[str, Any]

_BUILD: dict[str, Callable[[Request], Command]] = {
    "pause": lambda _: Pause(),
    "resume": lambda _: Resume(),
    "stop": lambda _: Stop(),
    "prompt": lambda r: SetPrompt(read_prompt(r["prompt"]), _optional_whole(r, "at_chunk"), r.get("memory")),
    "seed": lambda r: SetSeed(read_seed(r["seed"])),
    "memory": lambda r: SetMemory(dict(r["changes"])),
    "pin": lambda r: Pin(_whole(r, "latent")),
    "unpin": lambda r: Unpin(_whole(r, "latent")),
    "evict": lambda r: Evict(_whole(r, "latent")),
    "restore": lambda r: Restore(_whole(r, "latent")),
    "attention": lambda r: WatchAttention(r["on"]),
    "timeline": lambda r: SetTimeline(timeline_io.from_dict(r["timeline"])),
}

_DESCRIBE: dict[type, Callable[[Any], dict[str, Any]]] = {
    Play: lambda _: {"kind": "play"},
    Pause: lambda _: {"kind": "pause"},
    Resume: lambda _: {"kind": "resume"},
    Stop: lambda _: {"kind": "stop"},
    SetPrompt: lambda c: {"kind": "prompt", "prompt": c.prompt},
    SetSeed: lambda c: {"kind": "seed", "seed": c.seed},
    SetMemory: lambda c: {"kind": "memory", "changes": dict(c.changes)},
    Pin: lambda c: {"kind": "pin", "latent": c.latent},
    Unpin: lambda c: {"kind": "unpin", "latent": c.latent},
    Evict: lambda c: {"kind": "evict", "latent": c.latent},
    Restore: lambda c: {"kind": "restore", "latent": c.latent},
    WatchAttention: lambda c: {"kind": "attention", "on": c.on},
    SetTimeline: lambda c: {"kind": "timeline", "timeline": timeline_io.to_dict(c.timeline)},
}


def command_from(request: Request) -> Command:
    """The command that `request` asks for; ValueError names what is wrong with it."""
    kind = request.get("kind")
    if kind not in _BUILD:
        raise ValueError(f"kind is {kind!r}; expected one of {', '.join(_BUILD)}")
    try:
        return _BUILD[kind](request)
    except KeyError as missing:
        raise ValueError(f"the request {kind!r} lacks {missing}; send it along") from None


def describe(command: Command) -> dict[str, Any]:
    """The command as JSON for the page."""
    return _DESCRIBE[type(command)](command)


def read_prompt(text: object) -> str:
    """A prompt typed by a person:

    trimmed, on one line, with at least one letter; ValueError says what is missing.
    """
    if not isinstance(text, str) or not text.strip():
        raise ValueError("The prompt is empty. Describe a scene in a few words.")
    prompt = " ".join(text.split())
    check_prompt(prompt)
    if not any(letter.isalpha() for letter in prompt):
        raise ValueError("There are no words in this prompt, only signs. Describe a scene in a few words.")
    return prompt


def read_seed(value: object) -> int:
    """A whole number from 0 to 2**32 - 1, also as the text of an input field."""
    text = str(value).strip()
    if not text.isascii() or not text.isdecimal() or int(text) > MAX_SEED:
        raise ValueError(f"The seed is {text[:40]!r}. It has to be a whole number from 0 to {MAX_SEED}.")
    return int(text)


def _whole(request: Request, name: str) -> int:
    value = request[name]
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{name} is {value!r}; expected a whole number")
    return value


def _optional_whole(request: Request, name: str) -> int | None:
    return None if request.get(name) is None else _whole(request, name)

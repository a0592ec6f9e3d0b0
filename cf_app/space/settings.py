"""How the app is told what to do: by arguments, or by the variables of a Space where nobody types arguments.

Every option has a variable of its own; an argument wins. No option is secret.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

SPACE_PLACES, SPACE_TURN = 4, 300  # what holds on a Space where nothing is said: strangers come


@dataclass(frozen=True)
class Option:
    """One option.

    Attributes:
        kind: str, int or float.
        default: None for nothing said.
        on_space: what holds on a Space instead of ``default``.
    """

    name: str
    kind: type
    help: str
    default: Any = None
    on_space: Any = None

    @property
    def variable(self) -> str:
        """Name of its environment variable."""
        return f"CF_{self.name.upper()}"


OPTIONS = (
    Option("model", str, "folder or name of a model (default: the one that comes along)"),
    Option("quant", str, "auto, none, int8, nf4, fp8, or a choice per component (default: what fits the card)", "auto"),
    Option("vram", float, "gigabytes of the card to use (default: what is free)"),
    Option("decoder", str, "file of taehv weights (taew2_1) to decode with: faster"),
    Option("lora", str, "LoRA file to put beside the weights"),
    Option("lora_scale", float, "its strength (default: 1)", 1.0),
    Option("device", str, "cpu, cuda, ... (default: a GPU where there is one)"),
    Option("speed", str, "faster forms: some of fused,compiled,graphs,attention8 (default: none)", ""),
    Option("buffer", int, "chunks made ahead of the browser (default: as few as the engine's speed allows, at most 2)"),
    Option("sessions", int, "visitors that play at once, 0 for no limit (default: 0; on a Space 4)", 0, SPACE_PLACES),
    Option("waiting", int, "visitors that may wait for a place (default: 20)", 20),
    Option(
        "turn",
        float,
        "seconds after which a visitor makes room for one who waits, 0 for never (default: 0; on a Space 300)",
        0.0,
        SPACE_TURN,
    ),
    Option("budget", float, "seconds that a visitor may play in an hour, 0 for no limit (default: 0)", 0.0),
    Option("segment", float, "seconds of one GPU call on ZeroGPU (default: 25)", 25.0),
    Option("port", int, "port to listen on (default: the first free one from 7860 on)"),
    Option("host", str, "address to listen on (default: this machine only; 0.0.0.0 for all)"),
)


def on_space(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this is a Hugging Face Space."""
    return bool(environment.get("SPACE_ID"))


def parse(arguments: Sequence[str], environment: Mapping[str, str] = os.environ) -> argparse.Namespace:
    """The options of ``app.py``; ends the program with one line where one is wrong."""
    parser = argparse.ArgumentParser(
        prog="app.py",
        description="Context Forcing, live: steerable video in the browser.",
        epilog="Every option can be given as a variable, too: CF_MODEL for --model, and so on. Arguments win.",
    )
    for option in OPTIONS:
        default = environment.get(option.variable) or _default(option, environment)
        parser.add_argument(f"--{option.name.replace('_', '-')}", type=option.kind, help=option.help, default=default)
    random = "a released student's sizes with random weights, without a download (to measure; --decoder wan or tiny)"
    parser.add_argument("--random-weights", action="store_true", help=random)
    parser.add_argument("--share", action="store_true", help="make a public link through Gradio's servers")
    parsed = parser.parse_args(list(arguments))
    if parsed.buffer is not None and parsed.buffer < 1:
        parser.error(f"--buffer is {parsed.buffer}, expected at least 1")
    for name in ("sessions", "waiting", "turn", "budget"):
        if vars(parsed)[name] < 0:
            parser.error(f"--{name} is {vars(parsed)[name]}, expected 0 (no limit) or more")
    if not 10 <= parsed.segment <= 100:
        parser.error(f"--segment is {parsed.segment:g}, expected 10 to 100 seconds")
    return parsed


def _default(option: Option, environment: Mapping[str, str]) -> Any:
    return option.on_space if option.on_space is not None and on_space(environment) else option.default

"""``python -m cf_app quantization``: what every choice of ``--quant`` takes and what it costs in accuracy.

Each choice makes the same film with the same seed as the unquantized model. Said are the gigabytes that weights and
memory really have, the error of the first flow (same input: root mean square of the difference over that of the
reference), how far the last chunk's pictures are from the unquantized ones, and on a GPU the milliseconds of a chunk.
Pictures drift apart although both are good films: small errors are fed back, as another seed would do.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

    from cf_app.engine.engine import Engine

CHOICES = ("none", "int8", "nf4", "fp8", "transformer=none,kv=fp8")
_WARM = 1  # chunks that are not timed


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options."""
    parser.add_argument("--model", help="folder or name of a model (default: the one that comes along)")
    parser.add_argument("--device", help="cpu, cuda, ... (default: a GPU where there is one)")
    parser.add_argument("--quant", nargs="+", default=list(CHOICES), help="choices to compare (default: one a scheme)")
    parser.add_argument("--prompt", help="what to show (default: the model's first example)")
    parser.add_argument("--chunks", type=int, default=3, help="chunks of every film (default: %(default)s)")
    parser.add_argument("--random-weights", action="store_true", help="a released student's sizes, no download")
    parser.add_argument("--json", type=Path, help="write the numbers to this file, too")


@dataclass(frozen=True)
class Film:
    """What one choice made: its first flow, the last chunk's pictures, gigabytes by component, milliseconds a chunk."""

    flow: Tensor
    pictures: np.ndarray
    gigabytes: dict[str, float]
    chunk_ms: float | None


def run(arguments: argparse.Namespace) -> int:
    """Measure and print; ValueError on bad input."""
    if arguments.chunks < 1:
        raise ValueError(f"--chunks is {arguments.chunks}, expected at least 1")
    rows = compare(arguments)
    sys.stdout.write("\n".join(table(rows)) + "\n")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    return 0


def compare(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """A row a choice; the unquantized one comes first."""
    from cf_app.model.quantize import relative_error
    from cf_app.placement import placement_of

    choices = list(dict.fromkeys(["none", *arguments.quant]))
    for choice in choices:
        placement_of(choice)
    reference: Film | None = None
    rows: list[dict[str, Any]] = []
    for choice in choices:
        try:
            film = _film(arguments, choice)
        except ValueError as error:
            if reference is None:
                raise
            rows.append({"quant": choice, "error": str(error)})  # such as a GPU that is too old for fp8
            continue
        reference = film if reference is None else reference
        first, found = reference.flow, film.flow
        rows.append(
            {
                "quant": choice,
                **film.gigabytes,
                "flow_error": relative_error(lambda: first, lambda: found),  # noqa: B023  called at once
                "picture_db": _decibels(reference.pictures, film.pictures),
                "chunk_ms": film.chunk_ms,
            }
        )
    return rows


def _film(arguments: argparse.Namespace, quant: str) -> Film:
    import torch

    import cf_app
    from cf_app.engine.parts import Observer

    engine = cf_app.load(
        arguments.model, device=arguments.device, quant=quant, random_weights=arguments.random_weights
    )
    flows: list[Tensor] = []
    watch = Observer(lambda step, flow, x0, context: flows.append(flow.float().cpu()) if not flows else None)
    session = engine.new_session(arguments.prompt or engine.example_prompts[0], seed=1)
    times = []
    for _ in range(arguments.chunks):
        begun = time.perf_counter()
        chunk = engine.step(session, observer=watch)
        times.append(1000 * (time.perf_counter() - begun))  # pictures have left the device: all is done
    gigabytes = parts_gb(engine) | {"memory": session.memory.cache.bytes_held / 1e9}
    timed = times[_WARM:] if engine.device.type != "cpu" else []
    film = Film(flows[0], chunk.frames, gigabytes, float(np.median(timed)) if timed else None)
    del engine, session
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return film


def parts_gb(engine: Engine) -> dict[str, float]:
    """GB of weights by component, as they are stored."""
    from cf_app.model.text_encoder import TextEncoder
    from cf_app.usage import stored_bytes

    text = stored_bytes(engine.text.encoder) if isinstance(engine.text, TextEncoder) else 0
    return {"transformer": stored_bytes(engine.transformer) / 1e9, "text": text / 1e9}


def _decibels(expected: np.ndarray, found: np.ndarray) -> float:
    """Peak signal-to-noise ratio of uint8 pictures; infinity for equal ones."""
    error = float(np.square(expected.astype(np.float64) - found).mean())
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def table(rows: list[dict[str, Any]]) -> list[str]:
    """The rows as text."""
    lines = [
        f"{'--quant':<30}{'transformer':>14}{'text':>10}{'memory':>10}{'flow error':>12}{'pictures':>11}{'a chunk':>11}"
    ]
    for row in rows:
        if "error" in row:
            lines.append(f"{row['quant']:<30}{row['error']}")
            continue
        sizes = f"{row['transformer']:>11.4f} GB{row['text']:>7.3f} GB{row['memory']:>7.3f} GB"
        pictures = "the same" if math.isinf(row["picture_db"]) else f"{row['picture_db']:.1f} dB"
        speed = "-" if row["chunk_ms"] is None else f"{row['chunk_ms']:.0f} ms"
        lines.append(f"{row['quant']:<30}{sizes}{100 * row['flow_error']:>10.2f} %{pictures:>11}{speed:>11}")
    return lines

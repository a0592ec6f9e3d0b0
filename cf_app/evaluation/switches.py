"""What each choice for speed pays on this machine: `python -m cf_app benchmark --table`.

Every switch is measured by turns with what is shipped, in one process: shipped, switched, shipped, switched. Said are
medians of pictures a second and of the time to the first picture, and their ratios; more than 1 means that the switch
is faster. What a machine does meanwhile falls on both alike.
"""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .benchmark import speed

if TYPE_CHECKING:
    from torch import Tensor

    from cf_app.engine.engine import Engine
    from cf_app.memory.kv_cache import KVShape

ROUNDS = 3
Change = Callable[["Engine"], None]


@dataclass(frozen=True)
class Switch:
    """A choice that differs from what is shipped in one thing.

    Attributes:
        dtype: of the transformer; None as shipped.
        threads: "one", "all" (cores), or "" as shipped, which is half of them.
        change: what to do to an engine.
        overlap: decode in a second thread, as shipped.
    """

    name: str
    dtype: str | None = None
    threads: str = ""
    change: Change | None = None
    overlap: bool = True


def available() -> tuple[Switch, ...]:
    """The switches of this machine: compiling needs a compiler."""
    compiled = (Switch("compiled blocks", change=lambda engine: engine.accelerate(["compiled"])),)
    return (
        Switch("one thread for the transformer", threads="one"),
        Switch("all cores for the transformer", threads="all"),
        Switch("transformer in bfloat16", dtype="bfloat16"),
        Switch("decoder in the other precision", change=_other_precision),
        Switch("decoder not channels-last", change=_rows_first),
        Switch("fused queries, keys, values", change=lambda engine: engine.accelerate(["fused"])),
        Switch("decoding after denoising, not beside it", overlap=False),
        Switch("first picture after its clean pass", change=_never_early),
        *(compiled if shutil.which("c++") or shutil.which("g++") else ()),
    )


def _other_precision(engine: Engine) -> None:
    import torch

    vae: Any = engine.vae
    vae.to(torch.float32 if vae.dtype == torch.bfloat16 else torch.bfloat16)


def _rows_first(engine: Engine) -> None:
    import torch

    vae: Any = engine.vae
    vae.to(memory_format=torch.contiguous_format)


def _never_early(engine: Engine) -> None:
    engine.early = lambda session, draft: None  # type: ignore[method-assign]  # as if it were not known


def compare(
    model: str | None, switches: Sequence[Switch], chunks: int, rounds: int = ROUNDS
) -> Iterator[dict[str, Any]]:
    """A row a switch: {name, shipped: {fps, first_chunk_s}, switched: the same, faster, first_sooner} or {problem}.

    Args:
        chunks: of every run, at least 8.
        rounds: runs of each side.
    """
    shipped = Switch("as shipped")
    for switch in switches:
        try:
            pair = (_made(model, shipped), _made(model, switch))
            runs: tuple[list[dict[str, Any]], ...] = ([], [])
            for _ in range(rounds):
                for side, (engine, threads), found in zip((shipped, switch), pair, runs, strict=True):
                    found.append(_run(engine, threads, chunks, overlap=side.overlap))
        except (ValueError, RuntimeError) as error:
            yield {"name": switch.name, "problem": str(error).strip().splitlines()[0]}
            continue
        before, after = map(_medians, runs)
        yield {
            "name": switch.name,
            "threads": [threads for _, threads in pair],
            "shipped": before,
            "switched": after,
            "faster": after["fps"] / before["fps"],
            "first_sooner": before["first_chunk_s"] / after["first_chunk_s"],
        }


def joined_pass(model: str | None, rounds: int = 40) -> dict[str, float]:
    """What it could save at most to run a chunk's clean pass and the next chunk's first step as one pass.

    The joined pass is timed as what it would be, a batch of two chunks over a full memory; rotations and masks, which
    would differ between the two, and the gate, whose decision it would have to wait for, are left out.

    Returns:
        medians in milliseconds: apart (two passes), joined (one).
    """
    import torch

    from cf_app.model.causal_wan import causal_forward, encode_text

    engine, _ = _made(model, Switch("as shipped"))
    shape, geometry, wan = engine.kv_shape, engine.config.geometry, engine.transformer
    times: dict[int, list[float]] = {1: [], 2: []}
    with torch.inference_mode():
        def timed(batch: int) -> None:
            states = torch.zeros(batch, engine.config.text_length, wan.config.text_dim, dtype=shape.dtype)
            text = encode_text(wan, states.to(shape.device))
            latents = torch.randn(batch, *geometry.latent_shape, device=shape.device, dtype=shape.dtype)
            begun = time.perf_counter()
            float(causal_forward(wan, latents, 500.0, text, _FullMemory(shape, geometry.chunk_latents, batch)).sum())
            times[batch].append(1000 * (time.perf_counter() - begun))

        for _ in range(rounds):
            timed(1)
            timed(2)
    return {"apart": 2 * statistics.median(times[1]), "joined": statistics.median(times[2])}


class _FullMemory:
    """A `KVContext` over 18 latent frames of noise, for each of a batch."""

    mask: Tensor | None = None

    def __init__(self, shape: KVShape, own: int, batch: int, latents: int = 18) -> None:
        import torch

        from cf_app.model.rope import rope_table

        self.batch = batch
        self.query_rope = rope_table(shape.head_dim, list(range(latents, latents + own)), shape.rows, shape.columns,
                                     device=shape.device)
        past = torch.randn(1, latents * shape.tokens, shape.heads, shape.head_dim, device=shape.device)
        self._past = past.to(shape.dtype).expand(batch, -1, -1, -1)

    def extend(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        import torch

        from cf_app.model.rope import rotate

        return torch.cat([self._past, rotate(key, self.query_rope)], 1), torch.cat([self._past, value], 1)


def _made(model: str | None, switch: Switch) -> tuple[Engine, int]:
    """An engine, and the CPU threads that it shall run with."""
    import os

    import torch

    import cf_app

    counts = {"": None, "one": 1, "all": os.cpu_count() or 1}
    engine = cf_app.load(model, dtype=switch.dtype, threads=counts[switch.threads])
    if switch.change is not None:
        switch.change(engine)
    return engine, torch.get_num_threads()


def _run(engine: Engine, threads: int, chunks: int, *, overlap: bool) -> dict[str, Any]:
    import torch

    torch.set_num_threads(threads)
    return speed(engine, chunks, overlap=overlap)


def _medians(runs: Sequence[dict[str, Any]]) -> dict[str, float]:
    return {name: statistics.median(run[name] for run in runs) for name in ("fps", "first_chunk_s")}


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The rows as text."""
    lines = [f"{'':<42}{'FPS shipped':>12}{'switched':>10}{'ratio':>8}{'first picture':>20}{'ratio':>8}"]
    for row in rows:
        if "problem" in row:
            lines.append(f"{row['name']:<42}  {row['problem']}")
            continue
        before, after = row["shipped"], row["switched"]
        first = f"{before['first_chunk_s']:.2f} -> {after['first_chunk_s']:.2f} s"
        speeds = f"{before['fps']:>12.1f}{after['fps']:>10.1f}{row['faster']:>8.2f}"
        lines.append(f"{row['name']:<42}{speeds}{first:>20}{row['first_sooner']:>8.2f}")
    return lines

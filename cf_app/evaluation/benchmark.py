"""`python -m cf_app benchmark`: measures what the README claims, and prints it with the hardware it was measured on.

Engine: start, steady speed through the worker with decoding and encoding, milliseconds a stage, chunk 600 against
chunk 30, growth of memory. `--page`: the same things as a visitor meets them, in Chromium. `--table`: what each choice
for the CPU pays. Numbers are never asserted.
"""
from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import cf_app

if TYPE_CHECKING:
    from cf_app.engine.engine import Engine

PRECISIONS = ("bf16", "fp8", "int8", "nf4")
PROMPT = "a red ball hops through the meadow by day, the camera pans right"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the `benchmark` command."""
    parser.add_argument("--model", help="folder or name of a model (default: the one that comes along)")
    parser.add_argument("--quant", default="auto", help="quantization of the weights (default: the best that fits)")
    parser.add_argument("--chunks", type=int, default=80, help="chunks of the speed run (default %(default)s)")
    parser.add_argument("--long", action="store_true",
                        help="also late chunks against early ones: 600 against 30, at full size 1,000")
    parser.add_argument("--page", action="store_true", help="also measure the page in Chromium")
    parser.add_argument("--play", type=float, default=120, help="seconds of playback that --page watches for stalls")
    parser.add_argument("--table", action="store_true",
                        help="instead, what every choice for speed pays: each switch by turns with what is shipped")
    parser.add_argument("--json", type=Path, help="write the numbers to this file, too")
    full = parser.add_argument_group("at full size, on a GPU, without downloads")
    full.add_argument("--random-weights", action="store_true", help="a released student's sizes, random parameters")
    full.add_argument("--peers", type=Path, nargs="+", default=[], metavar="PATH",
                      help="checkouts of Self-Forcing, Context Forcing or FlashDreams (or its wheel) to time, too")
    full.add_argument("--precisions", nargs="+", default=["bf16", "fp8"], choices=PRECISIONS, help="what to compare")
    full.add_argument("--seconds", type=float, default=570, help="end after so long (default %(default)s)")
    full.add_argument("--tiny", action="store_true", help="sizes that a CPU runs at once: checks the benchmark itself")


def run(arguments: argparse.Namespace) -> int:
    """Measures and prints; returns the exit code."""
    from tqdm import tqdm

    if arguments.random_weights:
        return full_size_run(arguments)
    if arguments.chunks < 8:
        raise ValueError(f"--chunks is {arguments.chunks}, expected at least 8: the first ones only warm up")
    if arguments.table:
        return table_run(arguments)
    result: dict[str, object] = {"hardware": hardware()}
    begun = time.perf_counter()
    engine = cf_app.load(arguments.model, quant=arguments.quant)
    result["load_s"] = time.perf_counter() - begun
    dtype = str(engine.kv_shape.dtype).removeprefix("torch.")
    result["model"] = f"{engine.name}, {dtype}, quantization {engine.quantization}, {engine.running_by}"
    result |= speed(engine, arguments.chunks)
    if arguments.long:
        result |= endurance(engine, 610, tqdm)
    if arguments.page:
        from .page_benchmark import measure_page

        result |= measure_page(arguments.model, arguments.play)
    tqdm.write(table(result))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")
    return 0


def table_run(arguments: argparse.Namespace) -> int:
    """The table of `switches.py`."""
    from tqdm import tqdm

    from . import switches

    machine = hardware()
    rows = []
    chosen = switches.available()
    for row in tqdm(switches.compare(arguments.model, chosen, arguments.chunks), total=len(chosen), unit="switch"):
        rows.append(row)
        if arguments.json:
            arguments.json.write_text(json.dumps({"hardware": machine, "switches": rows}, indent=2) + "\n")
    joined = switches.joined_pass(arguments.model)
    if arguments.json:
        found = {"hardware": machine, "switches": rows, "joined_pass_ms": joined}
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")
    tqdm.write("\n".join([*(f"{name:<8}{value}" for name, value in machine.items()), *switches.table(rows)]))
    tqdm.write("clean pass and next first step: {apart:.1f} ms apart, {joined:.1f} ms as one pass".format(**joined))
    return 0


def full_size_run(arguments: argparse.Namespace) -> int:
    """The benchmark of `full_size.py`; results are written after every case, so that nothing is lost."""
    from tqdm import tqdm

    from cf_app.random_weights import student_named

    from . import full_size

    model = "context-forcing" if arguments.model is None else arguments.model
    student_named(model)
    if "bf16" not in arguments.precisions:
        raise ValueError(f"--precisions are {' '.join(arguments.precisions)}, expected bf16 among them")
    precisions = sorted(set(arguments.precisions), key=PRECISIONS.index)
    options = {"tiny": arguments.tiny, "chunks": min(arguments.chunks, 12), "long": arguments.long}
    cases = full_size.plan(model, precisions, arguments.peers, **options)
    results = []
    for row in tqdm(full_size.run(cases, arguments.seconds), total=len(cases), unit="case"):
        results.append(row)
        if arguments.json:
            found = {"hardware": hardware(), "versions": full_size.versions(), "cases": results}
            arguments.json.write_text(json.dumps(found, indent=2) + "\n")
    tqdm.write(full_size.table(results))
    return 0 if any("fps" in row["found"] for row in results if row["kind"] == "ours") else 1


def hardware() -> dict[str, str]:
    """Processor, cores, GPU and versions."""
    import torch

    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text().splitlines()
        name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), name)
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {"cpu": f"{name}, {os.cpu_count()} cores", "gpu": gpu, "python": platform.python_version(),
            "torch": torch.__version__}


def resident_mb() -> float:
    """Resident memory of this process now (Linux), or its peak elsewhere."""
    pages = Path("/proc/self/statm")
    if pages.exists():
        return int(pages.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def speed(engine: Engine, chunks: int, *, overlap: bool = True) -> dict[str, object]:
    """Frames a second through the worker, decoding and encoding included, and the median of every stage.

    "panel" is what the server does a chunk for the memory panel: the snapshot as JSON, the thumbnails as JPEG.
    """
    from cf_app.engine.messages import ChunkReady, Play
    from cf_app.engine.worker import Worker
    from cf_app.ui.encoder import ChunkEncoder
    from cf_app.ui.run import jpeg_url

    geometry = engine.geometry
    encoder, worker = ChunkEncoder(geometry.height, geometry.width, geometry.fps), Worker(engine, overlap=overlap)
    session = worker.open(PROMPT, 1, chunks=chunks)
    begun, marks, stages = time.perf_counter(), [], []
    worker.send(session, Play())
    while (event := worker.events(session)) is not None:
        if isinstance(event, ChunkReady):
            before = time.perf_counter()
            encoder.encode(event.frames)
            encoded = time.perf_counter()
            json.dumps([event.snapshot.to_dict(), [jpeg_url(picture) for picture in event.thumbnails]])
            marks.append(time.perf_counter())
            panel = 1000 * (marks[-1] - encoded)
            stages.append({**event.timings, "encode": 1000 * (encoded - before), "panel": panel})
    worker.shutdown()
    warm = 4
    seconds = (marks[-1] - marks[warm - 1]) / (len(marks) - warm)
    medians = {name: statistics.median(s[name] for s in stages[warm:]) for name in stages[-1]}
    return {"first_chunk_s": marks[0] - begun, "fps": geometry.chunk_frames / seconds,
            "times_real_time": geometry.chunk_seconds / seconds, "chunk_ms": 1000 * seconds,
            "panel_share": medians["panel"] / (1000 * seconds), "stage_ms": medians}


def endurance(engine: Engine, chunks: int, progress: Callable) -> dict[str, object]:
    """Chunk 600 against chunk 30: medians over 20 chunks around them, and the growth of resident memory."""
    session = engine.new_session(PROMPT, seed=1)
    times, memory = [], []
    for _ in progress(range(chunks), desc="long run", unit="chunk"):
        before = time.perf_counter()
        engine.step(session)
        times.append(time.perf_counter() - before)
        memory.append(resident_mb())
    early, late = statistics.median(times[20:40]), statistics.median(times[-20:])
    return {"late_over_early": late / early, "memory_growth_mb": memory[-1] - memory[30], "resident_mb": memory[-1]}


def table(result: dict[str, object]) -> str:
    """The numbers as text, one a line."""
    lines = []
    for name, value in result.items():
        if isinstance(value, dict):
            lines += [f"{name}:"] + [f"  {k:<14}{_number(v)}" for k, v in value.items()]
        else:
            lines.append(f"{name:<18}{_number(value)}")
    return "\n".join(lines)


def _number(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) and value < 100 else (
        f"{value:.0f}" if isinstance(value, float) else str(value))

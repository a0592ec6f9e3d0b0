"""``python -m cf_app generate``: a prompt or a timeline becomes an MP4 file."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from cf_app.config import Geometry
from cf_app.engine import timeline_io
from cf_app.engine.timeline import Timeline
from cf_app.export import Mp4Writer
from cf_app.media import read_start
from cf_app.memory.policy import POLICIES, policy_from_dict
from cf_app.terminal import told
from cf_app.wish import Wish

DEFAULT_SECONDS = 20.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options."""
    parser.add_argument("--prompt", help="what to show; or give --timeline")
    parser.add_argument("--timeline", type=Path, help="a story: JSON file, or text like 'a cat[10s] | a dog[8s]'")
    parser.add_argument("--start", type=Path, help="picture or clip that the video begins with")
    parser.add_argument("--seconds", type=float, help=f"length (default: the timeline's, or {DEFAULT_SECONDS:g})")
    parser.add_argument("--seed", type=int, default=0, help="0 to 4294967295 (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("clip.mp4"), help="file to write (default: %(default)s)")
    parser.add_argument("--model", help="folder or name of a model (default: the one that comes along)")
    parser.add_argument("--device", help="cpu, cuda, ... (default: a GPU where there is one)")
    parser.add_argument("--policy", choices=list(POLICIES), help="what is remembered (default: the model's own)")
    parser.add_argument("--quant", default="auto", help="auto, none, int8, nf4, fp8 (default: what fits the card)")
    parser.add_argument("--decoder", help="file of taehv weights (taew2_1) to decode with: faster")
    parser.add_argument("--lora", type=Path, help="LoRA file to put beside the weights")
    parser.add_argument("--lora-scale", type=float, default=1.0, help="its strength (default: %(default)s)")
    parser.add_argument("--vram", type=float, help="gigabytes of the card to use (default: what is free)")


def run(arguments: argparse.Namespace) -> int:
    """Generate; ValueError on bad input, before anything is written."""
    if (arguments.prompt is None) == (arguments.timeline is None):
        raise ValueError("give either --prompt or --timeline")
    if arguments.out.suffix.lower() != ".mp4":
        raise ValueError(f"--out is {str(arguments.out)!r}, expected a name that ends in .mp4")
    if not arguments.out.resolve().parent.is_dir():
        raise ValueError(f"--out: the folder {arguments.out.resolve().parent} does not exist, make it first")
    plan = None if arguments.prompt is None else Timeline.single(arguments.prompt)
    policy = None if arguments.policy is None else policy_from_dict({"policy": arguments.policy})
    import torch
    from tqdm import tqdm

    from cf_app import weights

    engine = weights.load(Wish.told(arguments), told)
    timeline = _read(arguments.timeline, engine.geometry.chunk_seconds) if plan is None else plan
    chunks = _chunks(arguments.seconds, timeline, engine.geometry)
    prompts = list(dict.fromkeys(prompt for cue in timeline.cues for prompt, _ in cue.parts))
    if unknown := sorted({word for prompt in prompts for word in engine.unknown_words(prompt)}):
        sys.stderr.write(f"words that this model does not know: {', '.join(unknown)}\n")
    for prompt in prompts:
        if subjects := engine.subjects_for(prompt):
            sys.stderr.write(f"{prompt!r} names nothing to show, expected one of: {', '.join(subjects)}\n")
    start = None if arguments.start is None else read_start(arguments.start, engine.geometry.fps)
    session = engine.new_session(timeline=timeline, seed=arguments.seed, policy=policy, start=start)
    stream = session.stream(chunks=chunks)
    try:
        with Mp4Writer(arguments.out, engine.geometry.fps) as video:
            for chunk in tqdm(stream, total=chunks, unit="chunk", desc=engine.title):
                video.write(chunk.frames)
    except torch.OutOfMemoryError as error:
        raise ValueError(
            f"{engine.device} ran out of memory (quant {engine.quantization}): close other programs, choose a smaller "
            "--vram or --quant, or decode with --decoder (taehv weights)"
        ) from error
    sys.stdout.write(f"{arguments.out}: {chunks * engine.geometry.chunk_seconds:g} s, seed {arguments.seed}\n")
    return 0


def _read(path: Path, chunk_seconds: float) -> Timeline:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--timeline {path} can not be read: {error}") from error
    return timeline_io.read(text, chunk_seconds)


def _chunks(seconds: float | None, timeline: Timeline, geometry: Geometry) -> int:
    if seconds is None and timeline.end is not None:
        return timeline.end
    wanted = geometry.chunks_for(DEFAULT_SECONDS if seconds is None else seconds)
    return wanted if timeline.end is None else min(wanted, timeline.end)

"""`python -m cf_app evaluate`: does the embedded student show what the prompt names? Read back from its pixels.

For each of many random scenes a session runs some chunks; the probe reads the attributes from the last ones. Beside it
stands the probe's own accuracy on held-out renders (the most that could be read) and chance.
"""
from __future__ import annotations

import argparse
import json
import math
import random
import statistics
from pathlib import Path

import numpy as np

import cf_app


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the `evaluate` command."""
    parser.add_argument("--model", help="folder or name of a model (default: the one that comes along)")
    parser.add_argument("--prompts", type=int, default=100, help="random scenes to ask for (default %(default)s)")
    parser.add_argument("--chunks", type=int, default=11, help="chunks of each session (default %(default)s)")
    parser.add_argument("--probe", type=Path, default=Path("runs/probe.safetensors"),
                        help="the probe's weights; trained (minutes) and written there first where there are none")
    parser.add_argument("--json", type=Path, help="write the numbers to this file, too")


def run(arguments: argparse.Namespace) -> int:
    """Evaluates and prints; returns the exit code."""
    import torch
    from tqdm import tqdm

    from ..training.data import CHUNK_SECONDS
    from ..training.grammar import ATTRIBUTES, Scene, describe
    from ..training.world import World
    from .probe import accuracy, draw_batch, from_bytes, probe_looks, read, visible_labels
    from .proofs import ready_probe

    if arguments.prompts < 1 or arguments.chunks < 3:
        raise ValueError(f"--prompts {arguments.prompts} --chunks {arguments.chunks}: expected at least 1 and 3")
    probe = ready_probe(arguments.probe)
    looks, labels = draw_batch(random.Random(1_000_000), 400)
    truth = accuracy(read(probe, from_bytes(looks)), labels)
    engine, rng = cf_app.load(arguments.model), random.Random(7)
    seen, wanted = [], []
    for seed in tqdm(range(arguments.prompts), unit="prompt"):
        scene = Scene.sample(rng)
        session = engine.new_session(prompt=describe(scene, rng), seed=seed)
        frames = [chunk.frames for chunk in session.stream(chunks=arguments.chunks)][-2:]
        pixels = from_bytes(torch.from_numpy(np.concatenate(frames)).permute(3, 0, 1, 2)[None])
        seen.append(read(probe, probe_looks(pixels)))
        world, at = World.sample(random.Random(seed), ((0.0, scene),)), (arguments.chunks - 2) * CHUNK_SECONDS
        wanted.append(torch.tensor([visible_labels(world, at)]))
    student = accuracy(torch.cat(seen), torch.cat(wanted))
    rows = {name: {"student": student[name], "truth": truth[name], "chance": 1 / len(values)}
            for name, values in ATTRIBUTES.items()}
    rows["mean"] = {key: statistics.mean(row[key] for row in rows.values()) for key in ("student", "truth", "chance")}
    tqdm.write(f"{arguments.prompts} prompts, read from the last two of {arguments.chunks} chunks; "
               f"95 % interval of the mean: +-{interval(student, arguments.prompts):.0%}")
    tqdm.write(f"{'':<8} student  probe on renders  chance")
    for name, row in rows.items():
        tqdm.write(f"{name:<8} {row['student']:>7.0%}  {row['truth']:>16.0%}  {row['chance']:>6.0%}")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")
    return 0


def interval(student: dict[str, float], prompts: int) -> float:
    """Half the width of the 95 % interval of the mean over attributes (normal approximation, prompts independent)."""
    variance = sum(p * (1 - p) for p in student.values()) / len(student) ** 2 / prompts
    return 1.96 * math.sqrt(variance)

"""`python -m cf_app train STAGE`: every stage of the embedded student as one command, resumable where it stopped.

Stages, in order: autoencoder, data, pictures, rollouts, export. Each reads what the one before it left in `--out`.
"""
from __future__ import annotations

import argparse
import os
from pathlib import Path

STAGES = ("autoencoder", "data", "pictures", "rollouts", "export", "all")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the `train` command."""
    parser.add_argument("stage", choices=STAGES, help="which stage to run; `all` runs every one in order")
    parser.add_argument("--out", type=Path, default=Path("runs/embedded"), help="folder of the run")
    parser.add_argument("--minutes", type=float, help="budget of the stage (default: that of the shipped student)")
    parser.add_argument("--steps", type=int, default=10**9, help="end after this many steps, if the minutes last")
    parser.add_argument("--videos", type=int, default=1024, help="data: videos of 20 s to draw (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the worlds and the training")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="CPU threads (default: all)")
    parser.add_argument("--tau", type=float, default=0.95, help="export: threshold of the memory's gate")
    parser.add_argument("--target", type=Path, default=Path("weights"), help="export: folder to write")


def run(arguments: argparse.Namespace) -> int:
    """Runs the stage(s); returns the exit code."""
    import torch

    if arguments.minutes is not None and arguments.minutes <= 0:
        raise ValueError(f"--minutes is {arguments.minutes}, expected more than 0")
    torch.set_num_threads(arguments.threads)
    stages = STAGES[:-1] if arguments.stage == "all" else (arguments.stage,)
    for stage in stages:
        _STAGES[stage](arguments)
    return 0


def _budget(arguments: argparse.Namespace, minutes: float):
    from .loop import Budget

    return Budget(minutes if arguments.minutes is None else arguments.minutes, arguments.steps)


def _autoencoder(arguments: argparse.Namespace) -> None:
    from .autoencoder import AutoencoderTraining, train_autoencoder

    train_autoencoder(arguments.out / "autoencoder", AutoencoderTraining(_budget(arguments, 27), seed=arguments.seed))


def _data(arguments: argparse.Namespace) -> None:
    from tqdm import tqdm

    from .autoencoder import load_autoencoder
    from .data import make_shard, openings

    vae, per_shard = load_autoencoder(arguments.out / "autoencoder" / "vae"), 16
    data, seed = arguments.out / "data", arguments.seed * 100_000
    work = [(openings(data), 24 * per_shard, 1, seed + 50_000), (data, per_shard, 27, seed + 1000)]
    for folder, videos, chunks, first in work:
        for index in tqdm(range(-(-arguments.videos // per_shard)), desc=f"shards of {chunks} chunks"):
            path = folder / f"shard_{index:04d}.safetensors"
            if not path.exists():
                make_shard(path, vae, videos, chunks, first + index)


def _pictures(arguments: argparse.Namespace) -> None:
    from .pictures import PictureTraining, train_pictures

    train_pictures(arguments.out / "data", arguments.out / "pictures",
                   PictureTraining(_budget(arguments, 20), seed=arguments.seed))


def _rollouts(arguments: argparse.Namespace) -> None:
    from .rollouts import RolloutTraining, train_rollouts

    train_rollouts(arguments.out / "data", arguments.out / "pictures" / "student", arguments.out / "rollouts",
                   RolloutTraining(_budget(arguments, 75), seed=arguments.seed))


def _export(arguments: argparse.Namespace) -> None:
    from .export import export

    out = arguments.out
    export(out / "autoencoder" / "vae", out / "rollouts" / "student", arguments.target, arguments.tau)


_STAGES = {"autoencoder": _autoencoder, "data": _data, "pictures": _pictures, "rollouts": _rollouts, "export": _export}

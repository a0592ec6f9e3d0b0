"""`python -m cf_app train STAGE`: every stage as one command, resumable where it stopped.

Stages, in order: autoencoder, data, pictures, rollouts (the embedded student by flow matching), then as in Context
Forcing teacher, distill (stage 1), context (stage 2), then decoder (which learns to undo what the student leaves in its
latents), and export. Each reads what the ones before it left in `--out`.
`merge` and `full-step` stand apart: what a distillation has learnt carried over to a start that was trained on, and one
step of stage 2 at the paper's size with random weights, and its memory.
"""
from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from .dmd import Distillation
    from .loop import Budget

Config = TypeVar("Config", bound="DataclassInstance")

STAGES = ("autoencoder", "data", "pictures", "rollouts", "teacher", "distill", "context", "decoder", "export")
NAMED = ("rollouts", "teacher", "distill", "context", "merge")     # stages that are run in variants, for ablations
TINY_STEPS = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the `train` command."""
    parser.add_argument("stage", choices=(*STAGES, "all", "merge", "full-step"),
                        help="which stage to run; `all` runs every one in order")
    parser.add_argument("--out", type=Path, default=Path("runs/embedded"), help="folder of the run")
    parser.add_argument("--minutes", type=float, help="budget of the stage (default: that of the shipped student)")
    parser.add_argument("--steps", type=int, help="end after this many steps, if the minutes last")
    parser.add_argument("--tiny", action="store_true", help="a few steps on a few videos: does everything run here?")
    parser.add_argument("--videos", type=int, default=1024, help="data: videos of 20 s to draw (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the worlds and the training")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="CPU threads (default: all)")
    parser.add_argument("--name", help="rollouts, teacher, distill, context, merge: folder in --out "
                        "(default: the stage's own name)")
    parser.add_argument("--start", metavar="NAME", help="rollouts, distill, context, merge: whose weights the "
                        "student begins with (default: that of the stage before)")
    parser.add_argument("--teacher", metavar="NAME", default="teacher", help="distill, context: against whom; "
                        "merge: whose weights --student began with")
    parser.add_argument("--student", metavar="NAME", default="rollouts",
                        help="decoder, export, merge: whose weights (default: %(default)s)")
    parser.add_argument("--share", type=float, default=1.0, help="merge: of what was learnt, above 0 to 1 (default: "
                        "all; less, with --teacher the same as --start, is a point between two students)")
    parser.add_argument("--passes", type=int, choices=(4, 8), default=8, help="decoder, export: denoising steps of a "
                        "chunk: 8 after rollouts, 4 after distill and context (default: %(default)s)")
    parser.add_argument("--guidance", type=float, help="distill, context: of the teacher (default: 0.6 with "
                        "--streaming, else none)")
    parser.add_argument("--weak", metavar="NAME", help="distill, context: a worse version of the teacher (earlier, or "
                        "of a wider world) that it is guided away from, by 1.2 (default: none)")
    parser.add_argument("--streaming", action="store_true", help="context: rollouts that go on from step to step, "
                        "every chunk a target and then context (how the shipped student was made)")
    parser.add_argument("--anchored", type=float, metavar="SHARE", help="context with --streaming: of the rollouts "
                        "are of worlds whose truth is known, and held to it (default: 0)")
    parser.add_argument("--no-recycling", action="store_true",
                        help="ablation, rollouts, teacher: no errors in the context")
    parser.add_argument("--no-curriculum", action="store_true", help="ablation, context: longest rollouts at once")
    parser.add_argument("--teacher-window", type=int, metavar="LATENTS",
                        help="ablation, context: latent frames that the teacher sees (default: the student's memory)")
    parser.add_argument("--longest", type=int, metavar="CHUNKS",
                        help="ablation, context: of the longest rollout; 4 is stage 1's window (default: 14 or 34)")
    parser.add_argument("--chunks", type=int, help="full-step: length of the rollout (default: 28)")
    parser.add_argument("--tau", type=float, help="export: threshold of the memory's gate (default: measured on the "
                        "student, where its camera sweeps away and back)")
    parser.add_argument("--target", type=Path,
                        help="export: folder to write (default: weights; with --tiny inside --out)")


def run(arguments: argparse.Namespace) -> int:
    """Runs the stage(s); returns the exit code."""
    import torch

    if arguments.minutes is not None and arguments.minutes <= 0:
        raise ValueError(f"--minutes is {arguments.minutes}, expected more than 0")
    torch.set_num_threads(arguments.threads)
    if arguments.name and arguments.stage not in NAMED:
        raise ValueError(f"--name {arguments.name}: expected with one of {', '.join(NAMED)}, which can vary")
    stages = STAGES if arguments.stage == "all" else (arguments.stage,)
    for stage in stages:
        _STAGES[stage](arguments)
    return 0


def _budget(arguments: argparse.Namespace, minutes: float) -> Budget:
    from .loop import Budget

    steps = arguments.steps if arguments.steps is not None else TINY_STEPS if arguments.tiny else 10**9
    return Budget(minutes if arguments.minutes is None else arguments.minutes, steps)


def _autoencoder(arguments: argparse.Namespace) -> None:
    from .autoencoder import AutoencoderTraining, train_autoencoder

    clips = {"fit_clips": 24, "held_out": 4} if arguments.tiny else {}
    train_autoencoder(arguments.out / "autoencoder",
                      AutoencoderTraining(_budget(arguments, 60), seed=arguments.seed, **clips))


def _data(arguments: argparse.Namespace) -> None:
    from tqdm import tqdm

    from .autoencoder import load_autoencoder
    from .data import make_shard, openings

    vae, per_shard, chunks = load_autoencoder(arguments.out / "autoencoder" / "vae"), 16, 27
    videos = arguments.videos
    if arguments.tiny:
        videos, per_shard, chunks = 2, 2, 8
    data, seed = arguments.out / "data", arguments.seed * 100_000
    work = [(openings(data), 24 * per_shard, 1, seed + 50_000), (data, per_shard, chunks, seed + 1000)]
    for folder, count, length, first in work:
        for index in tqdm(range(-(-videos // per_shard)), desc=f"shards of {length} chunks"):
            path = folder / f"shard_{index:04d}.safetensors"
            if not path.exists():
                # In two of three shards of long videos the cameras sweep away and back.
                kind = "away" if folder == data and index % 3 else "any"
                make_shard(path, vae, count, length, first + index, kind)


def _pictures(arguments: argparse.Namespace) -> None:
    from .pictures import PictureTraining, train_pictures

    config = PictureTraining(_budget(arguments, 20), seed=arguments.seed)
    config = _changed(config, batch=4) if arguments.tiny else config
    train_pictures(arguments.out / "data", arguments.out / "pictures", config)


def _rollouts(arguments: argparse.Namespace) -> None:
    from .rollouts import RolloutTraining, train_rollouts

    out, config = arguments.out, RolloutTraining(_budget(arguments, 75), seed=arguments.seed)
    config = _changed(config, videos=2, copies=1, pictures=2) if arguments.tiny else config
    config = _changed(config, own=0.0, recycle=0.0, free=0) if arguments.no_recycling else config
    start = _student(out, arguments.start or "pictures")
    train_rollouts(out / "data", start, out / (arguments.name or "rollouts"), config)


def _teacher(arguments: argparse.Namespace) -> None:
    from .teacher import TeacherTraining, train_teacher

    out, config = arguments.out, TeacherTraining(_budget(arguments, 60), seed=arguments.seed)
    config = _changed(config, videos=2, copies=1, passes=2, strip_chunks=2) if arguments.tiny else config
    config = _changed(config, recycle=0.0) if arguments.no_recycling else config
    train_teacher(out / "data", _student(out, "pictures"), out / (arguments.name or "teacher"),
                  out / "autoencoder" / "vae", config)


def _distill(arguments: argparse.Namespace) -> None:
    from .dmd import Distillation

    _distillation(arguments, "distill", "rollouts", Distillation(_budget(arguments, 30)))


def _context(arguments: argparse.Namespace) -> None:
    from .dmd import shortened, stage_two, streamed, without_curriculum

    config = (streamed if arguments.streaming else stage_two)(_budget(arguments, 60))
    config = _changed(config, window=arguments.teacher_window)
    if arguments.anchored is not None:
        if not (arguments.streaming and 0 <= arguments.anchored <= 1):
            raise ValueError(f"--anchored {arguments.anchored:g}: expected 0 to 1, and --streaming")
        config = _changed(config, anchored=arguments.anchored)
    if arguments.longest is not None:
        config = shortened(config, arguments.longest)
    _distillation(arguments, "context", "distill", without_curriculum(config) if arguments.no_curriculum else config)


def _distillation(arguments: argparse.Namespace, name: str, before: str, config: Distillation) -> None:
    from .dmd import train_distillation

    out = arguments.out
    config = _changed(config, seed=arguments.seed)
    if arguments.guidance is not None:
        config = _changed(config, guidance=arguments.guidance)
    if arguments.tiny:
        long = 3 if name == "context" else 1
        config = _changed(config, videos=1, targets=1, first=long, last=long, critic_updates=2, strip_chunks=2)
    train_distillation(_student(out, arguments.start or before), _student(out, arguments.teacher),
                       out / (arguments.name or name), out / "autoencoder" / "vae", config,
                       _student(out, arguments.weak) if arguments.weak else None)


def _decoder(arguments: argparse.Namespace) -> None:
    from .decoder import DecoderTraining, train_decoder
    from .student import student_levels

    levels = student_levels(timesteps=_timesteps(arguments))
    config, out = DecoderTraining(_budget(arguments, 60), levels, seed=arguments.seed), arguments.out
    config = _changed(config, clips=2, held_out=2, first=2, longest=3) if arguments.tiny else config
    train_decoder(out / "autoencoder" / "vae", _student(out, arguments.student), out / "decoder", config)


def _timesteps(arguments: argparse.Namespace) -> tuple[int, ...]:
    from .student import TIMESTEPS, TRAINED_TIMESTEPS

    return TIMESTEPS if arguments.passes == len(TIMESTEPS) else TRAINED_TIMESTEPS


def _export(arguments: argparse.Namespace) -> None:
    from tqdm import tqdm

    import cf_app

    from ..memory.policy import SlowFast
    from . import calibrate
    from .export import export

    out, timesteps = arguments.out, _timesteps(arguments)
    target = arguments.target or (out / "weights" if arguments.tiny else Path("weights"))
    vae, student = out / "decoder" / "vae", _student(out, arguments.student)
    vae = vae if vae.is_dir() else out / "autoencoder" / "vae"
    export(vae, student, target, SlowFast().tau if arguments.tau is None else arguments.tau, timesteps)
    if arguments.tau is None:
        scenes = calibrate.SCENES[:1] if arguments.tiny else calibrate.SCENES
        tau = calibrate.threshold(*calibrate.measure(cf_app.load(str(target), device="cpu"), scenes))
        tqdm.write(f"tau {tau:g}")
        export(vae, student, target, tau, timesteps)


def _merge(arguments: argparse.Namespace) -> None:
    from .merge import carry_over

    out = arguments.out
    start, teacher, student = (
        _student(out, name) for name in (arguments.start or "rollouts", arguments.teacher, arguments.student))
    carry_over(start, teacher, student, out / (arguments.name or "merge") / "student", arguments.share)


def _full_step(arguments: argparse.Namespace) -> None:
    from tqdm import tqdm

    from .full_size import FullScale, measure_step, tiny_scale

    scale = tiny_scale() if arguments.tiny else FullScale()
    for name, value in measure_step(scale, arguments.chunks, arguments.tiny).items():
        tqdm.write(f"{name:<24}{value if isinstance(value, str) else f'{value:.3g}'}")


def _changed(config: Config, **changes: Any) -> Config:
    from dataclasses import replace

    return replace(config, **changes)


def _student(out: Path, stage: str) -> Path:
    """Where a stage left its weights; ValueError names the stage to run where it left none."""
    folder = out / stage / "student"
    if not folder.is_dir():
        raise ValueError(f"no weights in {folder}: train them first (python -m cf_app train {stage})")
    return folder


_STAGES = {"autoencoder": _autoencoder, "data": _data, "pictures": _pictures, "rollouts": _rollouts,
           "teacher": _teacher, "distill": _distill, "context": _context, "decoder": _decoder, "export": _export,
           "merge": _merge, "full-step": _full_step}

"""`python -m cf_app prove`: does the student remember, follow, switch and last? Tables, JSON and pictures.

Measures: `prompts` (following), `revisit` (memory policies on a camera that sweeps away for 8 s), `gaps` (shorter and
longer absences), `sizes` (smaller memories), `switch` (latency of a change of prompt), `drift` (minutes), `steps` (few
against many), `autoencoder` (what it keeps of held-out worlds), `hold` (do shapes last? films that go on from a true
first chunk, against the truth), `landmarks` (does what a panning camera brings in look like things of the world?),
`clips` (two short ones to look at). The same seeds for every policy. The truth, rendered, goes through every measure
first: what it scores is the most that can be read.
"""
from __future__ import annotations

import argparse
import os
from pathlib import Path

MEASURES = ("prompts", "revisit", "gaps", "sizes", "switch", "drift", "steps", "autoencoder", "hold",
            "landmarks", "clips")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the `prove` command."""
    parser.add_argument("measures", nargs="*", metavar="measure",
                        help=f"{', '.join(MEASURES)}, or all (default: prompts revisit switch)")
    parser.add_argument("--model", help="folder or name of a model (default: the one that comes along)")
    parser.add_argument("--device", help="cpu, cuda, ... (default: a GPU where there is one)")
    parser.add_argument("--teacher", help="steps: folder of a teacher's model, measured beside the student")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1,
                        help="processes that film side by side, one thread each (default: all cores)")
    parser.add_argument("--seeds", type=int, default=24,
                        help="revisit, gaps, sizes: films (default %(default)s)")
    parser.add_argument("--policies", nargs="+", metavar="NAME",
                        help="revisit, gaps, sizes: only these (slow-fast, fifo, ...)")
    parser.add_argument("--tau", type=float, help="revisit, gaps, sizes: Slow-Fast's threshold (default: the model's)")
    parser.add_argument("--gaps", type=float, nargs="+", default=[4.0, 16.0, 24.0], metavar="SECONDS",
                        help="gaps: how long the camera is away (default: 4 16 24)")
    parser.add_argument("--sizes", type=int, nargs="+", default=[6, 3], metavar="LATENTS",
                        help="sizes: latent frames of slow memory (default: 6 3; the student has 12)")
    parser.add_argument("--taus", type=int, default=3, help="revisit: thresholds in the sweep (default %(default)s)")
    parser.add_argument("--prompts", type=int, default=100, help="prompts: scenes (default %(default)s)")
    parser.add_argument("--switches", type=int, default=60, help="switch: changes of prompt (default %(default)s)")
    parser.add_argument("--modes", nargs="+", default=["keep"], choices=("keep", "recache", "flush", "reset"),
                        help="switch: what a change of prompt does to the memory (default: keep)")
    parser.add_argument("--minutes", type=int, default=10, help="drift: length of a film (default %(default)s)")
    parser.add_argument("--films", type=int, default=4, help="drift: films (default %(default)s)")
    parser.add_argument("--steps", type=int, nargs="+", default=[4, 32],
                        help="steps: numbers of denoising steps (default: 4 32)")
    parser.add_argument("--clips", type=int, default=48, help="autoencoder: clips of each camera (default %(default)s)")
    parser.add_argument("--held", type=int, default=36, help="hold: films (default %(default)s)")
    parser.add_argument("--pans", type=int, default=36, help="landmarks: films (default %(default)s)")
    parser.add_argument("--probe", type=Path, default=Path("runs/probe.safetensors"),
                        help="the probe's weights; trained (minutes) and written there first where there are none")
    parser.add_argument("--out", type=Path, default=Path("runs/proof"), help="folder of proof.json and the pictures")


def run(arguments: argparse.Namespace) -> int:
    """Measures and prints; returns the exit code.

    Raises:
        ValueError: an unknown measure or policy, or a number that makes no sense.
    """
    chosen = tuple(arguments.measures) or ("prompts", "revisit", "switch")
    chosen = MEASURES if "all" in chosen else chosen
    if unknown := sorted(set(chosen) - set(MEASURES)):
        raise ValueError(f"measure {', '.join(unknown)}: expected some of {', '.join(MEASURES)}, or all")
    for name in ("seeds", "prompts", "switches", "minutes", "films", "clips", "held", "pans", "workers"):
        if vars(arguments)[name] < 1:
            raise ValueError(f"--{name} is {vars(arguments)[name]}, expected at least 1")
    from tqdm import tqdm

    from . import proofs
    from .report import Results

    results = Results(arguments.out)
    with proofs.bench(arguments) as bench:
        for measure in chosen:
            proofs.PROOFS[measure](bench, arguments, results)
            tqdm.write("\n" + results.table(measure))
    tqdm.write(f"\n{results.path}")
    return 0

"""``python -m cf_app space --check``: will a push to a Space work? One line a check, exit code 2 if not."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from cf_app.space.check import Result, results
from cf_app.space.fresh import fresh
from cf_app.space.start import started

ROOT = Path(__file__).resolve().parents[2]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options."""
    parser.add_argument("--check", action="store_true", required=True, help="check front matter, versions and start-up")
    parser.add_argument("--fresh", action="store_true", help="what is committed, in a new environment as on a Space")
    parser.add_argument("--no-start", action="store_true", help="leave out the starts, which take a minute")
    parser.add_argument("--model", help="start with this model instead of the embedded one")


def run(arguments: argparse.Namespace) -> int:
    """Check and report; 2 if something is wrong."""
    if arguments.fresh:
        passed = ["--no-start"] if arguments.no_start else []
        return fresh(ROOT, [*passed, *(["--model", arguments.model] if arguments.model else [])])
    wrong = 0
    for result in _all(arguments):
        wrong += result.problem is not None
        mark, text = ("FAIL", result.problem) if result.problem is not None else ("ok", result.found)
        sys.stdout.write(f"{mark:<5} {result.name}: {' '.join(str(text).split())}\n")
        sys.stdout.flush()
    return 2 if wrong else 0


def _all(arguments: argparse.Namespace) -> Iterator[Result]:
    yield from results(ROOT)
    if arguments.no_start:
        return
    for name, zero_gpu in (("start on a CPU Space", False), ("start on ZeroGPU, imitated", True)):
        try:
            yield Result(name, started(ROOT, zero_gpu=zero_gpu, model=arguments.model))
        except ValueError as error:
            yield Result(name, problem=str(error))

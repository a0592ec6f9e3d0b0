"""``python -m cf_app space --check``: will a push to a Space work? One line a check, exit code 2 if not."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from cf_app.space.check import Result, read_card, results
from cf_app.space.start import started

ROOT = Path(__file__).resolve().parents[2]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options."""
    parser.add_argument("--check", action="store_true", required=True, help="check front matter, versions and start-up")
    parser.add_argument("--fresh", action="store_true", help="in a new virtual environment, installed as on a Space")
    parser.add_argument("--no-start", action="store_true", help="leave out the starts, which take a minute")
    parser.add_argument("--model", help="start with this model instead of the embedded one")


def run(arguments: argparse.Namespace) -> int:
    """Check and report; 2 if something is wrong."""
    if arguments.fresh:
        return _fresh(arguments)
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


def _fresh(arguments: argparse.Namespace) -> int:
    """The same in a new environment: Gradio at the version of the card first, then what the requirements say."""
    version = read_card(ROOT)["sdk_version"]
    with tempfile.TemporaryDirectory(prefix="space-fresh-") as folder:
        steps = (
            [sys.executable, "-m", "venv", folder],
            [f"{folder}/bin/pip", "install", "-q", "--disable-pip-version-check", f"gradio=={version}", "spaces"],
            [f"{folder}/bin/pip", "install", "-q", "--disable-pip-version-check", "-r", "requirements.txt"],
        )
        for step in steps:
            done = subprocess.run(step, cwd=ROOT, capture_output=True, text=True, check=False)
            if done.returncode:
                last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
                sys.stdout.write(f"FAIL  fresh environment: {' '.join(step[:4])} ... ended with: {last}\n")
                return 2
        sys.stdout.write("ok    fresh environment: installed\n")
        sys.stdout.flush()
        command = [f"{folder}/bin/python", "-m", "cf_app", "space", "--check"]
        command += ["--no-start"] if arguments.no_start else []
        command += ["--model", arguments.model] if arguments.model else []
        return subprocess.run(command, cwd=ROOT, check=False).returncode

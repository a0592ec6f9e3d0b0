"""The command line: ``python -m cf_app generate | models | train | evaluate | prove | benchmark``.

A subcommand is a module with ``add_arguments(parser)`` and ``run(arguments) -> int``; one line in ``COMMANDS`` adds it.
Modules are imported only when asked for. Bad input ends with exit code 2 and one line that says what to do.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from cf_app.terminal import quiet

COMMANDS = {
    "generate": ("cf_app.generate", "make a video and write it as MP4"),
    "models": ("cf_app.models", "list the models that can be used"),
    "convert": ("cf_app.convert", "make a model folder of an original checkpoint"),
    "train": ("cf_app.training.cli", "train the embedded model, stage by stage"),
    "evaluate": ("cf_app.evaluation.cli", "read back from the pixels whether prompts are followed"),
    "prove": ("cf_app.evaluation.prove", "measure memory, prompts, switches and drift, the truth beside them"),
    "space": ("cf_app.space.cli", "check that a push to a Hugging Face Space will work"),
    "quantization": ("cf_app.evaluation.quantization", "what each choice of --quant takes and costs"),
    "benchmark": ("cf_app.evaluation.benchmark", "measure speed, start and playback on this machine"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand; returns the exit code."""
    quiet()
    parser = argparse.ArgumentParser(prog="python -m cf_app", description="Context Forcing, live.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    given = list(sys.argv[1:] if arguments is None else arguments)
    chosen = next((word for word in given if word in COMMANDS), None)
    for name, (module, summary) in COMMANDS.items():
        subparser = commands.add_parser(name, help=summary, description=summary)
        if name == chosen:
            importlib.import_module(module).add_arguments(subparser)
    parsed = parser.parse_args(given)
    try:
        code: int = importlib.import_module(COMMANDS[parsed.command][0]).run(parsed)
    except ValueError as error:
        sys.stderr.write(f"{parser.prog} {parsed.command}: {' '.join(str(error).splitlines())}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("\nstopped\n")
        return 130
    return code

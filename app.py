"""Starts the page: `python app.py`, also what a Hugging Face Space runs. `python app.py --help` lists the options."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
from dataclasses import replace

if os.environ.get("SPACES_ZERO_GPU"):
    import spaces  # noqa: F401  on ZeroGPU it has to come before torch

from cf_app.terminal import quiet, told

quiet()  # before torch and its libraries come in

from cf_app import hub, weights  # noqa: E402
from cf_app.engine.engine import Engine  # noqa: E402
from cf_app.engine.worker import Worker  # noqa: E402
from cf_app.space.segmented import SegmentedWorker  # noqa: E402
from cf_app.space.settings import on_space, parse  # noqa: E402
from cf_app.space.zero import on_zero_gpu, segmented_worker  # noqa: E402
from cf_app.ui.gate import Limits  # noqa: E402
from cf_app.ui.layout import Page, build_page  # noqa: E402
from cf_app.ui.places import all_places  # noqa: E402
from cf_app.ui.waiting import waiting_page  # noqa: E402
from cf_app.wish import Wish  # noqa: E402

BUFFER = 2  # chunks made ahead, at most, where nobody says how many


def make(options: argparse.Namespace) -> Page:
    """Loads the model and builds the page; ends the program with one line when that can not be."""
    try:
        engine = load(options)
        engine.accelerate(speedups(options))
        numbers = (options.sessions, options.waiting, options.turn, options.budget)
        limits = Limits(*numbers, proxied=on_space())
        return build_page(engine, make_worker(engine, options), places=all_places(), limits=limits)
    except (ValueError, OSError) as error:
        sys.exit(_complaint(" ".join(str(error).split())))


def load(options: argparse.Namespace) -> Engine:
    """The engine; while weights are downloaded, a page at the app's address says how far that is."""
    with contextlib.ExitStack() as stack:
        tells: list[hub.Tell] = [told]
        if not options.random_weights and weights.to_be_fetched(options.model):
            tells.append(stack.enter_context(waiting_page(options.model, options.host, options.port)))
        wish = Wish.told(options)
        if on_zero_gpu() and wish.device is None:
            wish = replace(wish, device="cuda")

        def tell(progress: hub.Progress) -> None:
            for each in tells:
                each(progress)

        return weights.load(wish, tell)


def speedups(options: argparse.Namespace) -> list[str]:
    """Names from --speed; ValueError for what ZeroGPU does not have."""
    names = [name.strip() for name in options.speed.split(",") if name.strip()]
    if on_zero_gpu() and "compiled" in names:
        raise ValueError("--speed compiled: there is no torch.compile on ZeroGPU, leave it out")
    return names


def make_worker(engine: Engine, options: argparse.Namespace) -> Worker | SegmentedWorker:
    """What runs the sessions: a thread of this process, or GPU calls on ZeroGPU."""
    ahead = options.buffer or BUFFER
    if on_zero_gpu():
        return segmented_worker(engine, seconds=options.segment, lead=ahead)
    return Worker(engine, ahead, adaptive=options.buffer is None)


def launch(page: Page, options: argparse.Namespace) -> None:
    """Serves until Ctrl+C or a polite kill; either way nothing stays behind."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        page.demo.launch(server_name=options.host, server_port=options.port, share=options.share, **page.launch)
    except OSError as error:
        busy = f"port {options.port} is in use; choose another with --port" if options.port else str(error)
        sys.exit(_complaint(busy))
    finally:
        page.close()


def _complaint(text: str) -> int:
    sys.stderr.write(f"app.py: {text}\n")
    return 2


_options = parse(sys.argv[1:] if __name__ == "__main__" else [])
_page = make(_options)
demo = _page.demo

if __name__ == "__main__":
    launch(_page, _options)

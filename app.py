"""Starts the page: `python app.py`, also what a Hugging Face Space runs. `python app.py --help` lists the options."""

from __future__ import annotations

import argparse
import signal
import sys

from cf_app.terminal import quiet

quiet()  # before torch and its libraries come in

import cf_app  # noqa: E402
from cf_app.engine.worker import Worker  # noqa: E402
from cf_app.ui.layout import Page, build_page  # noqa: E402
from cf_app.ui.places import all_places  # noqa: E402


def parse(arguments: list[str]) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(
        prog="app.py", description="Context Forcing, live: steerable video in the browser."
    )
    parser.add_argument("--model", help="folder or name of a model (default: the one that comes along)")
    parser.add_argument("--quant", default="none", help="quantization of the weights (default: none)")
    parser.add_argument("--device", help="cpu, cuda, ... (default: a GPU where there is one)")
    parser.add_argument("--buffer", type=int, default=2, help="chunks generated ahead of the browser (default: 2)")
    parser.add_argument("--host", help="address to listen on (default: this machine only; 0.0.0.0 for all)")
    parser.add_argument("--port", type=int, help="port to listen on (default: the first free one from 7860 on)")
    parser.add_argument("--share", action="store_true", help="make a public link through Gradio's servers")
    return parser.parse_args(arguments)


def make(options: argparse.Namespace) -> Page:
    """Loads the model and builds the page; ends the program with one line when that can not be."""
    try:
        engine = cf_app.load(options.model, device=options.device, quant=options.quant)
        return build_page(engine, Worker(engine, buffer_chunks=options.buffer), places=all_places())
    except ValueError as error:
        sys.exit(_complaint(" ".join(str(error).split())))


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

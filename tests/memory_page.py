"""The full page around the real worker and tiny random weights: `python -m tests.memory_page --port 7860`.

A frame of a film is of one colour that changes slowly; similarities are spread so that the usual tau lets some chunks
go and promotes others.
"""

from __future__ import annotations

import argparse

from cf_app.engine.worker import Worker
from cf_app.ui.layout import build_page
from cf_app.ui.places import all_places
from tests.tiny import tiny_engine


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=7860)
    parser.add_argument("--layers", type=int, default=3)
    options = parser.parse_args()
    page = build_page(tiny_engine(layers=options.layers), Worker(tiny_engine(layers=options.layers)), places=all_places())
    page.demo.launch(server_name="127.0.0.1", server_port=options.port, quiet=True, **page.launch)


if __name__ == "__main__":
    main()

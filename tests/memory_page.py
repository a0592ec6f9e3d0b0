"""The full page around the real worker and tiny random weights: `python -m tests.memory_page --port 7860`.

The film is noise of some colour, and plays at 48 frames a second, so that many chunks pass soon.
"""

from __future__ import annotations

import argparse

from cf_app.config import Geometry
from cf_app.engine.worker import Worker
from cf_app.ui.layout import build_page
from cf_app.ui.places import all_places
from tests.tiny import tiny_engine

GEOMETRY = Geometry(latent_channels=4, latent_height=8, latent_width=12, fps=48)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=7860)
    options = parser.parse_args()
    engine = tiny_engine(layers=3, geometry=GEOMETRY)
    page = build_page(engine, Worker(engine), places=all_places())
    page.demo.launch(server_name="127.0.0.1", server_port=options.port, quiet=True, **page.launch)


if __name__ == "__main__":
    main()

"""``python -m cf_app models``: what can be given to ``--model``."""

from __future__ import annotations

import argparse
import json
import sys

from cf_app.config import ModelConfig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options."""
    parser.add_argument("--json", action="store_true", help="as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Print the list."""
    from cf_app.weights import CONFIG_FILE, EMBEDDED

    rows = []
    if (EMBEDDED / CONFIG_FILE).is_file():
        config = ModelConfig.from_dict(json.loads((EMBEDDED / CONFIG_FILE).read_text(encoding="utf-8")))
        size = sum(file.stat().st_size for file in EMBEDDED.rglob("*") if file.is_file())
        rows.append({"name": config.name, "title": config.title, "megabytes": round(size / 1e6), "here": True})
    if arguments.json:
        sys.stdout.write(json.dumps(rows, indent=2) + "\n")
        return 0
    for row in rows:
        sys.stdout.write(f"{row['name']:<18} {row['title']:<40} {row['megabytes']:>6} MB\n")
    return 0

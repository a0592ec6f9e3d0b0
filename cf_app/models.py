"""``python -m cf_app models``: what can be given to ``--model``."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from cf_app.config import ModelConfig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options."""
    parser.add_argument("--json", action="store_true", help="as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Print the list."""
    rows = [*_embedded(), *_released()]
    if arguments.json:
        sys.stdout.write(json.dumps(rows, indent=2) + "\n")
        return 0
    sys.stdout.write(f"{'--model':<16} {'size':>8} {'GPU':>14}  {'here':<10} {'licence'}\n")
    for row in rows:
        gpu = "none needed" if row["gpu_gb"] is None else f"{row['gpu_least_gb']:.0f} to {row['gpu_gb']:.0f} GB"
        sys.stdout.write(f"{row['name']:<16} {row['gb']:>5.2f} GB {gpu:>14}  {row['here']:<10} {row['licence']}\n")
        sys.stdout.write(f"{'':<16} {row['title']}{'. ' + row['note'] if row['note'] else ''}\n")
    sys.stdout.write("The released students share the base model's text encoder and autoencoder (11.6 GB once).\n")
    return 0


def _embedded() -> list[dict[str, Any]]:
    from cf_app.weights import CONFIG_FILE, EMBEDDED

    if not (EMBEDDED / CONFIG_FILE).is_file():
        return []
    config = ModelConfig.from_dict(json.loads((EMBEDDED / CONFIG_FILE).read_text(encoding="utf-8")))
    size = sum(file.stat().st_size for file in EMBEDDED.rglob("*") if file.is_file())
    row = {"name": config.name, "title": config.title, "note": "What runs when no --model is given.", "gb": size / 1e9}
    return [{**row, "gpu_gb": None, "gpu_least_gb": None, "here": "yes", "licence": "Apache-2.0"}]


def _released() -> list[dict[str, Any]]:
    from cf_app import hub
    from cf_app.placement import LADDER, estimate, sizes_of_student
    from cf_app.students import STUDENTS
    from cf_app.weights import CONFIG_FILE

    rows = []
    for student in STUDENTS.values():
        needs = [sum(estimate(sizes_of_student(student), placement).values()) for placement in LADDER]
        if (hub.converted_home() / student.name / CONFIG_FILE).is_file():
            here = "converted"
        else:
            here = "downloaded" if hub.cached(student.repository, student.files) else "no"
        rows.append(
            {
                "name": student.name,
                "title": student.title,
                "note": student.note,
                "gb": student.gigabytes,
                "gpu_gb": max(needs),
                "gpu_least_gb": min(needs),
                "here": here,
                "licence": student.licence,
            }
        )
    return rows

"""``python -m cf_app models``: what can be given to ``--model``; with a name, all that is known of one of them."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from cf_app.config import ModelConfig

if TYPE_CHECKING:
    from cf_app.placement import Placement, Sizes
    from cf_app.students import Student


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options."""
    parser.add_argument("name", nargs="?", help="a released student: its files, commit, and memory by quantization")
    parser.add_argument("--json", action="store_true", help="as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Print the list, or one model."""
    if arguments.name is not None:
        about = _about(arguments.name)
        text = json.dumps(about, indent=2) if arguments.json else "\n".join(_sheet(about))
        sys.stdout.write(text + "\n")
        return 0
    rows = [*_embedded(), *_released()]
    if arguments.json:
        sys.stdout.write(json.dumps(rows, indent=2) + "\n")
        return 0
    sys.stdout.write(f"{'--model':<16} {'download':>9} {'GPU memory':>14}  {'here':<11} {'commit':<9} {'licence'}\n")
    for row in rows:
        gpu = "none needed" if row["gpu_gb"] is None else f"{row['gpu_least_gb']:.0f} to {row['gpu_gb']:.0f} GB"
        commit = row["commit"][:8] if row["commit"] else "-"
        line = f"{row['name']:<16} {row['gb']:>6.2f} GB {gpu:>14}  {row['here']:<11} {commit:<9} {row['licence']}"
        sys.stdout.write(f"{line}\n{'':<16} {row['title']}{'. ' + row['note'] if row['note'] else ''}\n")
    sys.stdout.write(_base_line() + "\n")
    return 0


def _base_line() -> str:
    from cf_app import hub
    from cf_app.room import BASE_FOLDERS
    from cf_app.students import BASE_GB, WAN_BASE, WAN_BASE_REVISION

    here = "here" if hub.local(WAN_BASE, BASE_FOLDERS, WAN_BASE_REVISION) is not None else "not here"
    return (
        f"The released students share the text encoder and the autoencoder of {WAN_BASE} ({BASE_GB} GB once, {here}).\n"
        "GPU memory: from the smallest choice of --quant to none; `python -m cf_app models NAME` has the table."
    )


def _embedded() -> list[dict[str, Any]]:
    from cf_app.weights import CONFIG_FILE, EMBEDDED

    if not (EMBEDDED / CONFIG_FILE).is_file():
        return []
    config = ModelConfig.from_dict(json.loads((EMBEDDED / CONFIG_FILE).read_text(encoding="utf-8")))
    size = sum(file.stat().st_size for file in EMBEDDED.rglob("*") if file.is_file())
    row = {"name": config.name, "title": config.title, "note": "What runs when no --model is given.", "gb": size / 1e9}
    return [{**row, "gpu_gb": None, "gpu_least_gb": None, "here": "yes", "commit": None, "licence": "Apache-2.0"}]


def _released() -> list[dict[str, Any]]:
    from cf_app.students import STUDENTS

    return [_row(student) for student in STUDENTS.values()]


def _row(student: Student) -> dict[str, Any]:
    from cf_app import convert, hub
    from cf_app.placement import LADDER, estimate, sizes_of_student

    needs = [sum(estimate(sizes_of_student(student), placement).values()) for placement in LADDER]
    known = hub.known(student.repository, student.revision)
    if convert.converted(student) is not None:
        here = "converted"
    else:
        there = hub.local(student.repository, student.files, student.revision)
        here = "downloaded" if there is not None else "no"
    return {
        "name": student.name,
        "title": student.title,
        "note": student.note,
        "gb": student.gigabytes,
        "gpu_gb": max(needs),
        "gpu_least_gb": min(needs),
        "here": here,
        "commit": None if known is None else known.commit,
        "licence": student.licence,
    }


def _about(name: str) -> dict[str, Any]:
    """All about a released student, as plain data; ValueError if there is none of that name."""
    from cf_app import hub
    from cf_app.memory.policy import policy_to_dict
    from cf_app.placement import sizes_of_student
    from cf_app.random_weights import student_named

    student = student_named(name, "details are of released students")
    return {
        **_row(student),
        "repository": student.repository,
        "files": list(student.files),
        "commit_from": "the registry" if student.revision is not None else str(hub.records()),
        "averaged_weights": student.ema,
        "steps": [f"{step:g}" for step in student.config().sampler.timesteps],
        "memory": policy_to_dict(student.policy),
        "switch_memory": student.switch_memory,
        "parameters_billion": student.parameters,
        "needs": memory_table(sizes_of_student(student)),
    }


def memory_table(sizes: Sizes) -> list[dict[str, Any]]:
    """GB on a GPU by choice and component, from the roomiest: each scheme for all parts, then what ``auto`` tries."""
    from cf_app.model.quantize import SCHEMES
    from cf_app.placement import LADDER, Placement, estimate, with_decoder

    choices: list[tuple[str, Placement]] = [(scheme, Placement(scheme, scheme)) for scheme in SCHEMES]
    choices += [(option_of(placement), placement) for placement in LADDER[1:]]
    rows = []
    for option, placement in choices:
        parts = estimate(sizes, placement)
        small = sum(estimate(with_decoder(sizes, "taehv"), placement).values())
        rows.append({"quant": option, **parts, "total": sum(parts.values()), "total_taehv": small})
    return rows


def option_of(placement: Placement) -> str:
    """What ``--quant`` has to be for a placement."""
    parts = [f"transformer={placement.transformer}"] if placement.transformer != "none" else []
    if placement.text_on_cpu or placement.text_offload:
        parts.append("text=cpu" if placement.text_on_cpu else "text=offload")
    elif placement.text != "none":
        parts.append(f"text={placement.text}")
    parts += ["kv=fp8"] if placement.kv_fp8 else []
    parts += ["lean"] if placement.lean else []
    return ",".join(parts) or "none"


def _sheet(about: dict[str, Any]) -> Iterable[str]:
    yield f"{about['name']}: {about['title']}. {about['note']}".rstrip(". ") + "."
    for name in ("repository", "files", "licence", "here", "memory", "switch_memory", "steps", "averaged_weights"):
        value = about[name]
        if isinstance(value, dict):
            value = ", ".join(f"{key} {item}" for key, item in value.items())
        yield f"{name:<18}{', '.join(value) if isinstance(value, list) else value}"
    if about["commit"] is None:
        yield f"{'commit':<18}the newest at the first download, then held to (written to {about['commit_from']})"
    else:
        yield f"{'commit':<18}{about['commit']} (from {about['commit_from']}; remove it there to take the newest)"
    columns = [key for key in about["needs"][0] if key != "quant"]
    yield ""
    yield "GB on a GPU by component, estimated from shapes (832x480, one session; total_taehv: with --decoder):"
    yield f"{'--quant':<46}" + "".join(f"{column:>13}" for column in columns)
    for row in about["needs"]:
        yield f"{row['quant']:<46}" + "".join(f"{row[column]:>13.1f}" for column in columns)

"""Curves of a run: every number of `log.jsonl` against the minutes, drawn into one picture."""
from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw

PANEL, MARGIN, COLUMNS = (300, 150), 34, 3


def read_log(path: Path) -> dict[str, list[tuple[float, float]]]:
    """(minutes, value) pairs by name; lines that are not whole, as after a crash, are skipped."""
    curves: dict[str, list[tuple[float, float]]] = {}
    for text in path.read_text().splitlines() if path.exists() else ():
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            continue
        for name, value in line.items():
            if name not in ("step", "minutes") and isinstance(value, int | float):
                curves.setdefault(name, []).append((float(line["minutes"]), float(value)))
    return curves


def smoothed(values: Sequence[float], weight: float = 0.9) -> list[float]:
    """Exponential average, corrected for its start."""
    total, mass, result = 0.0, 0.0, []
    for value in values:
        total, mass = weight * total + value, weight * mass + 1
        result.append(total / mass)
    return result


def draw_curves(log: Path, path: Path) -> None:
    """Writes `path`, a panel for each number with its smoothed curve; nothing where nothing was logged twice."""
    curves = {name: points for name, points in read_log(log).items() if len(points) > 1}
    if not curves:
        return
    width, height = PANEL
    rows = -(-len(curves) // COLUMNS)
    picture = Image.new("RGB", (COLUMNS * (width + MARGIN), rows * (height + 2 * MARGIN)), "white")
    pen = ImageDraw.Draw(picture)
    for index, (name, points) in enumerate(curves.items()):
        left = (index % COLUMNS) * (width + MARGIN) + MARGIN // 2
        top = (index // COLUMNS) * (height + 2 * MARGIN) + MARGIN
        times, values = [time for time, _ in points], [value for _, value in points]
        line = smoothed(values)
        low, high = min(line), max(line)
        span, length = (high - low) or 1.0, (times[-1] - times[0]) or 1.0
        pen.rectangle((left, top, left + width, top + height), outline="lightgrey")
        pen.text((left, top - 14), f"{name}: {line[0]:.3g} to {line[-1]:.3g} in {times[-1]:.3g} min", fill="black")
        spots = [(left + width * (time - times[0]) / length, top + height * (high - value) / span)
                 for time, value in zip(times, line, strict=True)]
        pen.line(spots, fill="steelblue", width=2)
    picture.save(path)

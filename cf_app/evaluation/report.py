"""Results as a table, as JSON that is written after every row, and as contact sheets."""
from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

Row = Mapping[str, object]


class Results:
    """`proof.json` in `folder`: measure -> {"settings", "rows": label -> row}. Other measures in the file stay.

    Raises:
        ValueError: the file that is there is not JSON.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / "proof.json"
        folder.mkdir(parents=True, exist_ok=True)
        try:
            self.data: dict[str, dict] = json.loads(self.path.read_text()) if self.path.exists() else {}
        except json.JSONDecodeError as error:
            raise ValueError(f"{self.path} is not JSON ({error}): move it away or choose another --out") from error

    def begin(self, measure: str, **settings: object) -> None:
        """Starts a measure anew."""
        self.data[measure] = {"settings": settings, "rows": {}}

    def add(self, measure: str, label: str, row: Row) -> None:
        """Adds a row and writes the file, whole or not at all."""
        self.data[measure]["rows"][label] = rounded(row)
        fresh = self.path.with_suffix(".part")
        fresh.write_text(json.dumps(self.data, indent=2) + "\n")
        fresh.replace(self.path)

    def table(self, measure: str) -> str:
        """The measure's rows as text."""
        part = self.data[measure]
        settings = ", ".join(f"{name} {value}" for name, value in part["settings"].items())
        return f"{measure} ({settings})\n{table(part['rows'])}"


def rounded(value: object) -> object:
    """Numbers to four places, all the way down; what JSON has no word for becomes a list or a dictionary."""
    if isinstance(value, Mapping):
        return {str(key): rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item) for item in value]
    return round(float(value), 4) if isinstance(value, float | np.floating) else value


def table(rows: Mapping[str, Row]) -> str:
    """Columns are the keys of all rows; lists are shown as `mean [low, high]`, a missing value as `-`."""
    columns = list(dict.fromkeys(key for row in rows.values() for key in row))
    cells = [["", *columns]] + [[label, *(_cell(row.get(key)) for key in columns)] for label, row in rows.items()]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns) + 1)]
    lines = []
    for label, *values in cells:
        aligned = [value.rjust(width) for value, width in zip(values, widths[1:], strict=True)]
        lines.append("  ".join([label.ljust(widths[0]), *aligned]))
    return "\n".join(lines)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, list):
        return f"{value[0]:.2f} [{value[1]:.2f}, {value[2]:.2f}]"
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def sheet(rows: Mapping[str, Sequence[np.ndarray]], path: Path, scale: int = 2) -> None:
    """A contact sheet: one row of pictures uint8 [H, W, 3] for each label."""
    height, width = next(iter(rows.values()))[0].shape[:2]
    label, count = 150, max(len(pictures) for pictures in rows.values())
    canvas = Image.new("RGB", (label + count * (width * scale + 2), len(rows) * (height * scale + 2)), "white")
    pen = ImageDraw.Draw(canvas)
    for y, (name, pictures) in enumerate(rows.items()):
        top = y * (height * scale + 2)
        pen.text((4, top + height * scale // 2 - 6), name, fill="black")
        for x, picture in enumerate(pictures):
            image = Image.fromarray(picture).resize((width * scale, height * scale), Image.Resampling.NEAREST)
            canvas.paste(image, (label + x * (width * scale + 2), top))
    canvas.save(path)

"""Rules of the house that a test can hold: which way imports go, and what stays usable without torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LAYERS = ("config", "model", "memory", "engine")
TOP = ("ui", "evaluation", "training")
# What a page, an editor or a panel needs, without waiting for torch.
PLAIN = ("cf_app", "cf_app.config", "cf_app.engine.messages", "cf_app.engine.timeline_io", "cf_app.memory.snapshot")


def imported(path: Path) -> set[str]:
    """Modules that a file imports when it is imported: not under TYPE_CHECKING, not inside functions."""
    found: set[str] = set()
    todo: list[ast.stmt] = list(ast.parse(path.read_text(encoding="utf-8")).body)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = list(path.relative_to(ROOT).parent.parts)
            start = base[: len(base) - node.level + 1] if node.level else []
            found.add(".".join([*start, *([node.module] if node.module else [])]))
            found |= {".".join([*start, *([node.module] if node.module else []), alias.name]) for alias in node.names}
        elif isinstance(node, ast.If) and "TYPE_CHECKING" not in ast.dump(node.test):
            todo += [*node.body, *node.orelse]
        elif isinstance(node, ast.Try | ast.With):
            todo += node.body
    return found


def files(layer: str) -> list[Path]:
    single = ROOT / "cf_app" / f"{layer}.py"
    return [single] if single.exists() else sorted((ROOT / "cf_app" / layer).rglob("*.py"))


def layer_of(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if parts[0] == "cf_app" and len(parts) > 1 else None


@pytest.mark.parametrize("layer", LAYERS)
def test_imports_go_one_way(layer: str) -> None:
    allowed = {*LAYERS[: LAYERS.index(layer) + 1]}
    for path in files(layer):
        own = {name for name in map(layer_of, imported(path)) if name in (*LAYERS, *TOP)}
        assert own <= allowed, f"{path} imports {own - allowed}"


def test_the_engine_knows_no_page_and_the_page_no_torch() -> None:
    for layer in LAYERS:
        for path in files(layer):
            assert not any(name.split(".")[0] == "gradio" for name in imported(path)), path
    for path in files("ui"):
        assert not any(name.split(".")[0] in {"torch", "diffusers", "transformers"} for name in imported(path)), path


def test_plain_data_does_without_torch() -> None:
    code = f"import sys\nfor name in {PLAIN!r}: __import__(name)\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)

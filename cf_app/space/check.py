"""Checks that a push to a Hugging Face Space will work: what the card says, what is installed, what must not be there.

Every check is a function that returns what it found, or raises ``ValueError`` with what is wrong and what to do.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from cf_app.space import facts


@dataclass(frozen=True)
class Result:
    """One line of the report; ``problem`` is None where all is well."""

    name: str
    found: str = ""
    problem: str | None = None


def results(root: Path) -> Iterator[Result]:
    """The checks that start nothing. Where the card can not be read the others have nothing to go by."""
    card = _tried("front matter", lambda: _card(root))
    yield card[0]
    if card[1] is None:
        return
    checks: tuple[tuple[str, Callable[[], str]], ...] = (
        ("app_file", lambda: _app_file(root, card[1])),
        ("sdk", lambda: _sdk(root, card[1])),
        ("python_version", lambda: _python(root, card[1])),
        ("requirements", lambda: _requirements(root)),
        ("ZeroGPU versions", lambda: _zero_gpu(root, card[1])),
        ("file sizes", lambda: _sizes(root)),
    )
    for name, check in checks:
        yield _tried(name, check)[0]


def _tried(name: str, check: Callable[[], Any]) -> tuple[Result, Any]:
    try:
        found = check()
    except ValueError as error:
        return Result(name, problem=str(error)), None
    return Result(name, found if isinstance(found, str) else ", ".join(found)), found


def read_card(root: Path) -> Mapping[str, Any]:
    """The front matter of README.md; ValueError if there is none."""
    try:
        text = (root / "README.md").read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"README.md can not be read ({error}): a Space takes its settings from there") from error
    parts = text.split("---\n", 2)
    if len(parts) < 3 or parts[0].strip():
        raise ValueError("README.md does not begin with a front matter: put it between two lines of ---")
    try:
        card = yaml.safe_load(parts[1])
    except yaml.YAMLError as error:
        raise ValueError(f"the front matter of README.md is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(card, dict):
        raise ValueError("the front matter of README.md is empty: it needs at least title, sdk, sdk_version, app_file")
    return card


def _card(root: Path) -> Mapping[str, Any]:
    card = read_card(root)
    missing = [name for name in ("title", "sdk", "sdk_version", "app_file", "python_version") if not card.get(name)]
    if missing:
        raise ValueError(f"the front matter lacks {', '.join(missing)}")
    for name in ("colorFrom", "colorTo"):
        if card.get(name, "gray") not in facts.COLORS:
            raise ValueError(f"{name} is {card[name]!r}, expected one of {', '.join(facts.COLORS)}")
    short = str(card.get("short_description", ""))
    if len(short) > facts.SHORT_DESCRIPTION:
        raise ValueError(f"short_description has {len(short)} characters, the Hub takes {facts.SHORT_DESCRIPTION}")
    for name in ("sdk_version", "python_version"):
        if not isinstance(card[name], str):
            raise ValueError(f"{name} is {card[name]!r}, a number to YAML (3.10 would become 3.1): put it in quotes")
    return card


def _app_file(root: Path, card: Mapping[str, Any]) -> str:
    path = root / str(card["app_file"])
    if not path.is_file():
        raise ValueError(f"app_file is {card['app_file']!r}, and there is no such file")
    return str(card["app_file"])


def _sdk(root: Path, card: Mapping[str, Any]) -> str:
    if card["sdk"] != "gradio":
        raise ValueError(f"sdk is {card['sdk']!r}, expected gradio")
    version, wanted = Version(card["sdk_version"]), _specifier(root, "gradio")
    if version not in wanted:
        raise ValueError(f"sdk_version is {version}, requirements.txt asks for gradio{wanted}: make them agree")
    installed = _installed("gradio")
    return f"gradio {version}" if installed in (None, version) else f"gradio {version} (checked here with {installed})"


def _python(root: Path, card: Mapping[str, Any]) -> str:
    wanted = SpecifierSet(_project(root)["requires-python"])
    version = str(card["python_version"])
    if f"{version}.0" not in wanted and version not in wanted:
        raise ValueError(f"python_version is {version}, pyproject.toml asks for {wanted}: make them agree")
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    return version if here == version else f"{version} (checked here with {here})"


def _requirements(root: Path) -> str:
    wanted = _read_requirements(root)
    wrong = []
    for item in wanted:
        if item.marker is not None and not item.marker.evaluate():
            continue
        installed = _installed(item.name)
        if installed is None:
            wrong.append(f"{item.name} is missing")
        elif not item.specifier.contains(installed, prereleases=True):
            wrong.append(f"{item.name} is {installed}, expected {item.specifier}")
    if wrong:
        raise ValueError(f"{'; '.join(wrong)}: pip install -r requirements.txt")
    return f"{len(wanted)} packages"


def _zero_gpu(root: Path, card: Mapping[str, Any]) -> str:
    torch = _specifier(root, "torch")
    fitting = [version for version in facts.ZERO_GPU_TORCH if version in torch]
    if not fitting:
        raise ValueError(f"torch{torch} has no version of ZeroGPU ({', '.join(facts.ZERO_GPU_TORCH)})")
    if card["python_version"] not in facts.ZERO_GPU_PYTHON:
        expected = " or ".join(facts.ZERO_GPU_PYTHON)
        raise ValueError(f"python_version is {card['python_version']}, ZeroGPU has {expected}")
    pinned = [r.name for r in _read_requirements(root) if r.name in facts.PLATFORM and _is_pin(r.specifier)]
    if pinned:
        raise ValueError(f"requirements.txt pins {', '.join(pinned)}, which the platform brings: use a range")
    major, minor = Version(facts.ZERO_GPU_TORCH[-1]).release[:2]
    newer = f"{major}.{minor + 1}.0" in torch
    note = f" (the range allows newer ones: in a ZeroGPU Space write torch=={fitting[-1]})" if newer else ""
    return f"torch {', '.join(fitting)}{note}"


def _sizes(root: Path) -> str:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, check=False)
    if listed.returncode:
        return "not a git checkout, nothing to push"
    names = [name for name in listed.stdout.decode().split("\0") if name and (root / name).is_file()]
    sizes = {name: (root / name).stat().st_size for name in names}
    large = [f"{name} ({size / 2**20:.0f} MiB)" for name, size in sizes.items() if size > facts.LARGEST_FILE]
    if large:
        raise ValueError(f"over 10 MiB without Git LFS: {', '.join(large)}: git lfs track them before the push")
    return f"{len(sizes)} files, {sum(sizes.values()) / 2**20:.0f} MiB, none over 10"


def _is_pin(specifier: SpecifierSet) -> bool:
    return any(part.operator in ("==", "===") for part in specifier)


def _read_requirements(root: Path) -> list[Requirement]:
    try:
        lines = (root / "requirements.txt").read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ValueError(f"requirements.txt can not be read ({error}): a Space installs what it names") from error
    cleaned = [line.split("#")[0].strip() for line in lines]
    return [Requirement(line) for line in cleaned if line and not line.startswith("-")]


def _specifier(root: Path, name: str) -> SpecifierSet:
    for item in _read_requirements(root):
        if canonicalize_name(item.name) == name:
            return item.specifier
    raise ValueError(f"requirements.txt does not name {name}")


def _installed(name: str) -> Version | None:
    try:
        return Version(metadata.version(name))
    except metadata.PackageNotFoundError:
        return None


def _project(root: Path) -> Mapping[str, Any]:
    import tomllib

    project: Mapping[str, Any] = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project

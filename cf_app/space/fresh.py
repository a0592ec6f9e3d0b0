"""The check from a fresh environment: what a push would send, installed as a Space does, and checked there.

What is committed is cloned, so a file that was never added is missed here as it would be there. One call of pip gets
the requirements and Gradio at the version of the card with its extras, so versions that exclude each other are found.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from cf_app.space.check import read_card

Step = tuple[str, list[str], Path]


def fresh(root: Path, arguments: Sequence[str]) -> int:
    """Make the environment and run ``space --check`` with ``arguments`` in it; its exit code, or 2 if that fails.

    Downloads some gigabytes, which go again afterwards.
    """
    card = read_card(root)
    python, note = _python(str(card["python_version"]))
    with tempfile.TemporaryDirectory(prefix="space-fresh-") as folder:
        home, app = Path(folder) / "venv", Path(folder) / "app"
        pip = [str(home / "bin" / "python"), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        platform = [f"gradio[oauth,mcp]=={card['sdk_version']}", "uvicorn>=0.14.0", "websockets>=10.4", "spaces"]
        steps: tuple[Step, ...] = (
            ("what is committed", ["git", "clone", "-q", "--depth", "1", root.resolve().as_uri(), str(app)], root),
            (f"Python {note}", [python, "-m", "venv", str(home)], root),
            ("packages", [*pip, "-r", "requirements.txt", *platform], app),
        )
        for name, command, place in steps:
            done = subprocess.run(
                command, cwd=place, env=_clean(), capture_output=True, text=True, errors="replace", check=False
            )
            if done.returncode:
                return _say("FAIL", f"fresh environment: {name}: {_reason(done.stderr)}", 2)
            _say("ok", f"fresh environment: {name}")
        command = [str(home / "bin" / "python"), "-m", "cf_app", "space", "--check", *arguments]
        return subprocess.run(command, cwd=app, env=_clean(), check=False).returncode


def _python(version: str) -> tuple[str, str]:
    """The interpreter of the card where it is installed, else this one, and what to call it."""
    found = shutil.which(f"python{version}")
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    if found is not None and _runs(found):
        return found, version
    return sys.executable, here if here == version else f"{here}, there is no python{version} here"


def _runs(python: str) -> bool:
    """Version managers leave a command for every Python they know; some of these only say that it is switched off."""
    with subprocess.Popen([python, "--version"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as tried:
        return tried.wait() == 0


def _clean() -> dict[str, str]:
    """Without what would bring packages of this environment into the new one."""
    hidden = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "PIP_TARGET", "PIP_USER", "GIT_DIR", "GIT_WORK_TREE")
    return {name: value for name, value in os.environ.items() if name not in hidden} | {"PYTHONNOUSERSITE": "1"}


def _reason(errors: str) -> str:
    """The first line that says ERROR or fatal: pip ends with where to read more. Else the last one."""
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    told = [line for line in lines if line.startswith(("ERROR:", "fatal:", "Error:"))]
    return (told or lines[-1:] or ["it said nothing"])[0]


def _say(mark: str, text: str, code: int = 0) -> int:
    sys.stdout.write(f"{mark:<5} {' '.join(text.split())}\n")
    sys.stdout.flush()
    return code

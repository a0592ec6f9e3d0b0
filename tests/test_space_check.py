"""The check before a push to a Space: what is right passes, what is wrong is named with its remedy."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cf_app.cli import main
from cf_app.space import check
from cf_app.space.fresh import _python as interpreter
from cf_app.space.fresh import fresh
from cf_app.space.settings import parse
from cf_app.space.start import started
from tests.test_weights import model  # noqa: F401  a fixture: a folder with tiny random weights

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The files that the check reads."""
    for name in ("README.md", "requirements.txt", "pyproject.toml", "app.py"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def problems(root: Path) -> dict[str, str]:
    return {result.name: result.problem for result in check.results(root) if result.problem is not None}


def test_this_repository_is_ready() -> None:
    found = list(check.results(ROOT))
    assert problems(ROOT) == {} and len(found) == 7 and all(result.found for result in found)


@pytest.mark.parametrize(("end", "mentioned"), [("<2.14", True), ("<2.12", False)])
def test_a_range_that_leads_past_zero_gpu_is_mentioned(copy: Path, end: str, mentioned: bool) -> None:
    text = (copy / "requirements.txt").read_text(encoding="utf-8")
    (copy / "requirements.txt").write_text(re.sub(r"torch>=2\.8,<[\d.]+", f"torch>=2.8,{end}", text), encoding="utf-8")
    found = next(result for result in check.results(copy) if result.name == "ZeroGPU versions").found
    assert ("torch==2.11.0" in found) == mentioned


@pytest.mark.parametrize(
    ("file", "old", "new", "name", "says"),
    [
        ("README.md", "---\n", "", "front matter", "two lines of ---"),
        ("README.md", "title:", "titel:", "front matter", "lacks title"),
        ("README.md", "colorFrom: indigo", "colorFrom: mauve", "front matter", "mauve"),
        ("README.md", 'python_version: "3.12"', "python_version: 3.12", "front matter", "quotes"),
        ("README.md", "short_description:", f"short_description: {'x' * 60}", "front matter", "the Hub takes 60"),
        ("README.md", "sdk: gradio", "sdk: [", "front matter", "no YAML"),
        ("README.md", "sdk: gradio", "sdk: docker", "sdk", "expected gradio"),
        ("README.md", "sdk_version: 6", "sdk_version: 4", "sdk", "make them agree"),
        ("README.md", "app_file: app.py", "app_file: main.py", "app_file", "main.py"),
        ("README.md", 'python_version: "3.12"', 'python_version: "3.9"', "python_version", "make them agree"),
        ("README.md", 'python_version: "3.12"', 'python_version: "3.13"', "ZeroGPU versions", "3.10 or 3.12"),
        ("requirements.txt", "numpy>=2.1", "numpy>=2.1\nno-such-package", "requirements", "pip install -r"),
        ("requirements.txt", "torch>=2.8,", "torch>=2.12,", "ZeroGPU versions", "2.11.0"),
        ("requirements.txt", "gradio>=6.30,<7", "gradio==6.31.0", "ZeroGPU versions", "pins gradio"),
        ("requirements.txt", "gradio>=6.30,<7", "", "sdk", "does not name gradio"),
    ],
)
def test_what_is_wrong_is_named(copy: Path, file: str, old: str, new: str, name: str, says: str) -> None:
    text = (copy / file).read_text(encoding="utf-8")
    assert old in text
    (copy / file).write_text(text.replace(old, new), encoding="utf-8")
    assert says in problems(copy)[name]


def test_the_command_ends_with_2_where_something_is_wrong(
    copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["space", "--check", "--no-start"]) == 0
    assert [line[:2] for line in capsys.readouterr().out.splitlines()] == ["ok"] * 7
    (copy / "app.py").unlink()
    monkeypatch.setattr("cf_app.space.cli.ROOT", copy)
    assert main(["space", "--check", "--no-start"]) == 2
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("FAIL")] == [
        "FAIL  app_file: app_file is 'app.py', and there is no such file"
    ]


CONFLICT = """ERROR: Cannot install gradio==6.31.0 and pydantic<2 because these have conflicting dependencies.
ERROR: ResolutionImpossible: for help visit https://pip.pypa.io/"""


@pytest.mark.parametrize(
    ("fails", "says"),
    [(None, ""), ("clone", "what is committed: fatal: no such place"), ("venv", "No module named venv"),
     ("pip", "packages: ERROR: Cannot install gradio==6.31.0")],
)  # fmt: skip
def test_fresh_means_a_new_environment(
    fails: str | None, says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What would be run, with git, venv and pip imitated: the commit, the environment, all packages, the check."""
    ran: list[tuple[list[str], Path, dict[str, str]]] = []
    words = {"clone": "fatal: no such place", "venv": "python: No module named venv", "pip": CONFLICT}

    def run(command: list[str], *, cwd: Path, env: dict[str, str], **_: object) -> subprocess.CompletedProcess[str]:
        ran.append((command, cwd, env))
        return subprocess.CompletedProcess(command, int(fails in command), "", words.get(fails or "", ""))

    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    monkeypatch.setattr("cf_app.space.fresh.subprocess.run", run)
    assert main(["space", "--check", "--fresh", "--no-start"]) == (0 if fails is None else 2)
    out = capsys.readouterr().out
    assert says in out and ("FAIL" in out) == (fails is not None)
    assert all("PYTHONPATH" not in env for _, _, env in ran)
    if fails is not None:
        assert fails in ran[-1][0], "nothing after what failed"
        return
    (clone, _, _), (venv, _, _), (pip, place, _), (again, there, _) = ran
    app, home = Path(clone[-1]), Path(venv[-1])
    assert clone[-2] == ROOT.as_uri() and venv[1:3] == ["-m", "venv"]
    assert pip[:3] == [str(home / "bin" / "python"), "-m", "pip"]
    assert pip[pip.index("-r") + 1] == "requirements.txt"
    assert f"gradio[oauth,mcp]=={check.read_card(ROOT)['sdk_version']}" in pip and "spaces" in pip
    assert again == [pip[0], "-m", "cf_app", "space", "--check", "--no-start"] and place == there == app
    assert not app.exists(), "nothing is left"


def test_a_command_that_only_says_that_its_python_is_off_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shim = tmp_path / "python3.99"
    shim.write_text("#!/bin/sh\nexit 127\n")
    shim.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert interpreter("3.99")[0] == sys.executable
    shim.write_text("#!/bin/sh\nexit 0\n")
    assert interpreter("3.99") == (str(shim), "3.99")


def test_a_fresh_environment_sees_only_what_is_committed(
    tmp_path: Path, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Git itself, on a repository of its own; venv, pip and the check are imitated."""
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(copy)]
    for step in (["init", "-q"], ["add", "README.md", "requirements.txt"], ["commit", "-qm", "one"]):
        subprocess.run([*git, *step], check=True)
    seen: list[set[str]] = []
    really = subprocess.run

    def run(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        if command[0] == "git":
            return really(command, **options)  # type: ignore[call-overload, no-any-return]
        seen.append({path.name for path in Path(str(options["cwd"])).iterdir()})
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr("cf_app.space.fresh.subprocess.run", run)
    assert fresh(copy, []) == 0
    assert seen[-1] == {".git", "README.md", "requirements.txt"}, "app.py was never added"


def test_the_app_starts_on_an_imitated_zero_gpu(model: Path) -> None:  # noqa: F811
    assert "answers after" in started(ROOT, zero_gpu=True, model=str(model))


def test_an_app_that_does_not_start_says_why() -> None:
    with pytest.raises(ValueError, match=r"ended with code 2: app.py: .*no-such-model"):
        started(ROOT, model="no-such-model")


def test_options_come_from_arguments_or_variables(capsys: pytest.CaptureFixture[str]) -> None:
    plain = parse([], {})
    assert (plain.model, plain.quant, plain.buffer, plain.sessions, plain.turn) == (None, "auto", None, 0, 0.0)
    space = parse([], {"SPACE_ID": "someone/space", "CF_MODEL": "longlive", "CF_BUFFER": "3", "CF_TURN": "60"})
    assert (space.model, space.buffer, space.sessions, space.turn) == ("longlive", 3, 4, 60.0)
    assert parse(["--model", "krea-14b"], {"CF_MODEL": "longlive"}).model == "krea-14b"
    for arguments, variables, says in (
        ([], {"CF_BUFFER": "many"}, "--buffer: invalid int value: 'many'"),
        (["--buffer", "0"], {}, "--buffer is 0, expected at least 1"),
        (["--turn", "-1"], {}, "--turn is -1"),
        (["--segment", "600"], {}, "10 to 100 seconds"),
    ):
        with pytest.raises(SystemExit) as caught:
            parse(arguments, variables)
        assert caught.value.code == 2 and says in capsys.readouterr().err

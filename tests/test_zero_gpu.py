"""Sessions through the real `spaces` package: its processes, pickles and queue, and a scheduler that lends no GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.tiny import EXAMPLES

ROOT = Path(__file__).resolve().parent.parent


def test_sessions_go_through_the_spaces_package(
    record_property: Callable[[str, object], None], tmp_path: Path
) -> None:
    result = tmp_path / "found.json"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GRADIO_ANALYTICS_ENABLED": "False"}
    command = [sys.executable, "-X", "faulthandler", "-m", "tests.zero_gpu_program", str(result)]
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900, check=False)
    assert result.exists(), f"exit code {ended.returncode}\n{ended.stdout[-2000:]}\n{ended.stderr[-4000:]}"
    found = json.loads(result.read_text())
    assert found["problems"] == []
    assert found["chunks"] == [0, 1, 2, 3, 4] and found["calls"] > 2
    assert found["entries"] == [list(range(max(0, end - 12), end)) for end in (3, 6, 9, 12, 15)]
    assert found["released"] >= found["calls"] - 1  # the last one may be on its way
    assert found["prompts"][0] == EXAMPLES[0] and found["prompts"][-1] == EXAMPLES[1] and found["ended"] == "stopped"
    assert found["calls_of_the_long_one"] == 1
    record_property("frozen_seconds", found["frozen_s"])  # over all calls; a number to look at, not to hold

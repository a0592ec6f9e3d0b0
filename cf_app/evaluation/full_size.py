"""``python -m cf_app benchmark --model context-forcing --random-weights``: speed at full size, without any download.

One call of bounded length measures everything: the machine's ceilings, our engine at two sizes of memory, two
precisions and two decoders, and peers of which a checkout is given. Every case runs in a process of its own, so one
that fails (out of memory, no 8-bit kernels) costs nothing but itself. Most important cases first; what no time is left
for is listed as left out.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
CASE_SECONDS = 150.0  # the longest that one case may take
LEAST_SECONDS = 15.0  # less is not worth starting one
Row = tuple[str, str, str, tuple[str, ...]]  # visible latent frames, precision, decoder, speedups
PACKAGES = ("torch", "diffusers", "transformers", "torchao", "flash-attn", "triton")


def plan(
    model: str, precisions: Sequence[str], peers: Sequence[Path], *, tiny: bool, chunks: int, long: bool = False
) -> list[dict[str, Any]]:
    """What to run, the most important first.

    Args:
        precisions: "bf16" first; then "fp8", "int8", ...
        chunks: chunks to measure in each case, once the memory is full.
        long: also chunk 1,000 against chunk 30, early.
    """
    fast, all_of_them = ("fused", "compiled"), ("fused", "compiled", "graphs")
    slower = [precision for precision in precisions if precision != "bf16"]
    first: list[Row] = [("18+3", "bf16", "tiny", ()), ("18+3", "bf16", "tiny", all_of_them)]
    first += [("18+3", precision, "tiny", ("compiled", "graphs")) for precision in slower]
    first.append(("18+3 as released", "bf16", "tiny", fast))
    second: list[Row] = [("18+3", "bf16", "wan", all_of_them), ("9+3", "bf16", "tiny", all_of_them)]
    second += [("18+3", "bf16", "tiny", (*all_of_them, "attention8"))]
    second += [("9+3", precision, "tiny", ("compiled", "graphs")) for precision in slower]
    third: list[Row] = [("18+3", "bf16", "tiny", fast), ("18+3", "12 GB", "tiny", ()), ("18+3", "bf16", "wan", ())]
    third += [("18+3", "bf16", "tiny", ("fused",)), ("18+3 as released", "bf16", "tiny", ())]
    third.append(("9+3", "bf16", "wan", all_of_them))
    third += [(visible, precision, "wan", ("compiled",)) for precision in slower for visible in ("18+3", "9+3")]

    def ours(row: Row) -> dict[str, Any]:
        visible, precision, decoder, speed = row
        names = {"model": model, "visible": visible, "precision": precision, "decoder": decoder, "speed": list(speed)}
        return {"kind": "ours", "tiny": tiny, "chunks": chunks, **names}

    def theirs(visible: int) -> list[dict[str, Any]]:
        return [{"kind": "peer", "tiny": tiny, "path": str(path), "visible": visible} for path in peers]

    endless = {**ours(first[1]), "kind": "long", "seconds": CASE_SECONDS - LEAST_SECONDS}
    rows = [{"kind": "ceilings", "tiny": tiny}, *map(ours, first), *theirs(21)]
    return [*rows, *([endless] if long else []), *map(ours, second), *theirs(12), *map(ours, third)]


def run(cases: Sequence[dict[str, Any]], seconds: float) -> Iterator[dict[str, Any]]:
    """Each case with what it found: {**case, found: {...}, problem: text or None, seconds}."""
    end = time.monotonic() + seconds
    with tempfile.TemporaryDirectory(prefix="full-size-") as folder:
        for index, case in enumerate(cases):
            left = end - time.monotonic()
            if left < LEAST_SECONDS:
                yield {**case, "found": {}, "problem": "left out: no time left", "seconds": 0.0}
            else:
                yield _run_one(case, Path(folder) / f"{index}.jsonl", min(left, CASE_SECONDS))


def _run_one(case: dict[str, Any], out: Path, seconds: float) -> dict[str, Any]:
    command = [sys.executable, "-m", "cf_app.evaluation.full_size_case", json.dumps(case), str(out)]
    begun, problem = time.monotonic(), None
    # A group of its own, so that what it starts ends with it.
    process = subprocess.Popen(
        command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True
    )
    try:
        _, said = process.communicate(timeout=seconds)
        if process.returncode:
            problem = _last_line(said) or f"ended with code {process.returncode}"
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        problem = f"stopped after {seconds:.0f} s"
    found: dict[str, Any] = {}
    for line in out.read_text(encoding="utf-8").splitlines() if out.exists() else ():
        found |= json.loads(line)
    return {**case, "found": found, "problem": problem, "seconds": time.monotonic() - begun}


def _last_line(said: bytes) -> str:
    lines = [line for line in said.decode(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip()[:400] if lines else ""


def versions() -> dict[str, str | None]:
    """Packages, driver and commit that the numbers belong to."""
    found: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    found["commit"] = _said("git", "rev-parse", "HEAD")
    changed = _said("git", "status", "--porcelain", "--untracked-files=no")
    found["commit_is_clean"] = None if changed is None else str(not changed)
    found["driver"] = _said("nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader")
    return found


def _said(*command: str) -> str | None:
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=30)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def table(results: Sequence[dict[str, Any]]) -> str:
    """The results for people: a line per case."""
    ceiling: dict[str, Any] = next((row["found"] for row in results if row["kind"] == "ceilings"), {})
    lines = [_ceiling_line(ceiling)] if ceiling else []
    lines.append(
        f"{'':<44}{'FPS':>6}{'chunk':>8}{'denoise':>9}{'context':>9}{'memory':>8}{'decode':>8}{'encode':>8}"
        f"{'first':>8}{'peak':>9}{'roofline':>10}"
    )
    for row in results:
        if "late_over_early" in row["found"]:
            found = row["found"]
            lines.append(f"chunk {found['chunks']} against chunk 30: {found['late_over_early']:.3f} ({_title(row)})")
        elif row["kind"] != "ceilings":
            lines.append(f"{_title(row):<44}" + (_numbers(row["found"], ceiling) or f"  {row['problem']}"))
            if row["problem"] and row["found"].get("fps"):
                lines.append(f"{'':<44}  then: {row['problem']}")
    return "\n".join(lines)


def roofline_share(found: dict[str, Any], ceiling: dict[str, Any]) -> float | None:
    """Least time that the arithmetic needs at the measured ceilings, over the time that the transformer took."""
    if "tflop" not in found or not ceiling.get("matmul_tflops"):
        return None
    rates = [rate for rate in ceiling["attention_tflops"].values() if rate]
    best = max([*rates, ceiling["matmul_tflops"]])
    linear = ceiling["matmul_tflops"]
    if "fp8" in found.get("quantization", ""):
        linear = ceiling.get("fp8_matmul_tflops") or linear
    least = found["tflop"]["linears"] / linear + found["tflop"]["attention"] / best
    share: float = 1000 * least / (found["stage_ms"]["denoise"] + found["stage_ms"]["context"])
    return share


def _ceiling_line(found: dict[str, Any]) -> str:
    kernels = ", ".join(f"{name} {_short(rate)}" for name, rate in found["attention_tflops"].items())
    return (
        f"measured ceilings ({found['type']}): matrix product {_short(found['matmul_tflops'])} TFLOP/s, "
        f"fp8 {_short(found['fp8_matmul_tflops'])}, copy {_short(found['copy_gb_s'])} GB/s, attention: {kernels}"
    )


def _title(row: dict[str, Any]) -> str:
    if row["kind"] == "peer":
        name = row["found"].get("peer", Path(row["path"]).name)
        return f"{name}, {row['visible'] - 3}+3"
    speed = f" ({'+'.join(row['speed'])})" if row["speed"] else ""
    return f"{row['visible']}, {row['precision']}, {row['decoder']} decoder{speed}"


def _numbers(found: dict[str, Any], ceiling: dict[str, Any]) -> str:
    if "fps" not in found:
        return ""
    stages, share = found["stage_ms"], roofline_share(found, ceiling)
    cells = [f"{found['fps']:>6.1f}", f"{found['chunk_ms']:>5.0f} ms"]
    for name, width in (("denoise", 9), ("context", 9), ("memory", 8), ("decode", 8), ("encode", 8)):
        cells.append(f"{stages[name]:>{width}.1f}" if stages.get(name) is not None else f"{'-':>{width}}")
    cells.append(f"{found['first_picture_s']:>6.2f} s" if "first_picture_s" in found else f"{'-':>8}")
    cells.append(f"{found['peak_gb']:>6.1f} GB" if "peak_gb" in found else f"{'-':>9}")
    cells.append(f"{share:>10.0%}" if share is not None else f"{'-':>10}")
    return "".join(cells)


def _short(value: float | None) -> str:
    return "none" if value is None else f"{value:.3g}"

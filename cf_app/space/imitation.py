"""``python -m cf_app.space.imitation``: ``app.py`` as on ZeroGPU, on a machine without a GPU.

The ``spaces`` package imitates CUDA while the app is imported, but it asks for three things that only a PyTorch built
with CUDA has. One built for CPUs gets them here.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import torch


def _nothing() -> None:
    """CUDA is never really begun."""


def _never() -> bool:
    """No process was forked after CUDA had begun."""
    return False


def complete() -> None:
    """Give PyTorch what a build for CPUs lacks."""
    if torch.version.cuda is None:
        torch.version.cuda = "12.8"
        torch._C._cuda_init = _nothing
        torch.cuda._is_in_bad_fork = _never


if __name__ == "__main__":
    # Of this module by its name: app.py becomes __main__ in a moment, and other processes look the functions up.
    import cf_app.space.imitation

    cf_app.space.imitation.complete()
    sys.argv = ["app.py"]
    runpy.run_path(str(Path(__file__).resolve().parents[2] / "app.py"), run_name="__main__")

"""Whether there is room, asked before anything is downloaded or loaded: on the card, in main memory, on the disk.

A released student's sizes are known without its files (``placement.sizes_of_student``), so all of this is arithmetic.
Units: GB = 1e9 bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from cf_app import convert, hub
from cf_app.memory.fit import free_bytes
from cf_app.model.quantize import check_scheme
from cf_app.placement import Placement, Sizes, check_fits, choose, placement_of
from cf_app.students import BASE_PARTS, WAN_BASE, WAN_BASE_REVISION, WAN_TEXT_GB, Student

BASE_FOLDERS = tuple(f"{part}/" for part in BASE_PARTS)
_SPARE = 0.95  # of what is free
_PROGRAM_GB = 1.0  # Python, PyTorch and its kernels in main memory


def pick_placement(
    name: str,
    sizes: Callable[[], Sizes],
    device: torch.device,
    quant: str,
    vram: float | None,
    *,
    wide: bool = False,
) -> tuple[Placement, float | None]:
    """What is asked for, or the best that fits: into the card, ``vram`` GB of it, or main memory where that is it.

    Returns:
        the placement, and the gigabytes that it has to fit into (None: not known).

    Raises:
        ValueError: it does not fit, or a scheme can not run here.
    """
    if vram is not None and not vram > 0:
        raise ValueError(f"vram is {vram!r}, expected gigabytes above 0")
    free = vram
    if free is None:
        found = free_bytes(device)
        free = None if found is None else _SPARE * found / 1e9
    if quant == "auto":
        placement = Placement() if free is None else choose(name, sizes(), free, device=device.type, wide=wide)
    else:
        placement = placement_of(quant)
        if free is not None:
            check_fits(name, sizes(), placement, free, device=device.type, wide=wide)
    for scheme in (placement.transformer, placement.text):
        check_scheme(scheme, device)
    return placement, free


def check_student(student: Student, device: torch.device) -> None:
    """Before a released student is downloaded: is there room to fetch, to convert and to load it?

    Raises:
        ValueError: there is not, or the Hub can not be asked.
    """
    check_main_memory(student, device)
    # What is fetched, and the converted copy in bfloat16.
    fetched = hub.missing_bytes(student.repository, student.files, student.revision)
    fetched += hub.missing_bytes(WAN_BASE, BASE_FOLDERS, WAN_BASE_REVISION)
    written = 0 if convert.converted(student) is not None else round(2e9 * student.parameters)
    hub.check_disk({Path(hub.constants.HF_HUB_CACHE): fetched, hub.converted_home(): written})


def check_main_memory(student: Student, device: torch.device) -> None:
    """Main memory to convert and load in: the new weights, those that a LoRA is merged into, one part at a time.

    Raises:
        ValueError: there is too little.
    """
    free = free_bytes(torch.device("cpu"))
    to_convert = student.parameters * (2 if student.lora is None else 6)
    # On a CPU everything stays there, which ``pick_placement`` checks.
    to_load = max(2 * student.parameters, WAN_TEXT_GB) if device.type != "cpu" else 0.0
    need = _PROGRAM_GB + max(0.0 if convert.converted(student) is not None else to_convert, to_load)
    if free is not None and need > free / 1e9:
        raise ValueError(
            f"{student.name} needs {need:.1f} GB of main memory to be converted and loaded, {free / 1e9:.1f} GB are "
            "free: close other programs"
        )

"""What a student learnt in one training, carried over to another one that began at the same weights.

new + (distilled - old): a distillation of `old` need not start again when `old` was trained on. Sums of such
differences are known as task arithmetic (Ilharco et al., arXiv 2212.04089). It is a start, not an end: train on.
"""
from __future__ import annotations

from pathlib import Path

import torch

from .student import Student


@torch.no_grad()
def carry_over(new: Path, old: Path, distilled: Path, folder: Path) -> Student:
    """Writes new + (distilled - old) to `folder`; all four in the layout of `Student.save`.

    Raises:
        ValueError: the students differ in their shapes.
    """
    student, before, after = (Student.load(path) for path in (new, old, distilled))
    learnt, start = after.state_dict(), before.state_dict()
    for name, weight in student.state_dict().items():
        shapes = {tuple(weights[name].shape) for weights in (learnt, start)} | {tuple(weight.shape)}
        if len(shapes) > 1:
            raise ValueError(f"{name} has the shapes {sorted(shapes)} in {new}, {old} and {distilled}: expected one")
        if weight.is_floating_point():
            weight.add_(learnt[name] - start[name])
    student.save(folder)
    return student

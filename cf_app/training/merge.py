"""What a student learnt in one training, carried over to another one that began at the same weights.

new + share (distilled - old): a distillation of `old` need not start again when `old` was trained on. Sums of such
differences are known as task arithmetic (Ilharco et al., arXiv 2212.04089). With `old` = `new` and a share below 1 it
is a point between two students (Wortsman et al., WiSE-FT, arXiv 2109.01903). It is a start, not an end: train on.
"""
from __future__ import annotations

from pathlib import Path

import torch

from .student import Student


@torch.no_grad()
def carry_over(new: Path, old: Path, distilled: Path, folder: Path, share: float = 1.0) -> Student:
    """Writes new + share (distilled - old) to `folder`; all four in the layout of `Student.save`.

    Raises:
        ValueError: the students differ in their shapes, or `share` is not above 0 and at most 1.
    """
    if not 0 < share <= 1:
        raise ValueError(f"a share of {share:g} of what was learnt: expected above 0 and at most 1")
    student, before, after = (Student.load(path) for path in (new, old, distilled))
    learnt, start = after.state_dict(), before.state_dict()
    for name, weight in student.state_dict().items():
        shapes = {tuple(weights[name].shape) for weights in (learnt, start)} | {tuple(weight.shape)}
        if len(shapes) > 1:
            raise ValueError(f"{name} has the shapes {sorted(shapes)} in {new}, {old} and {distilled}: expected one")
        if weight.is_floating_point():
            weight.add_(learnt[name] - start[name], alpha=share)
    student.save(folder)
    return student

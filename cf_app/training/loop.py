"""What every training stage shares: a budget that shapes the learning rate, logs, curves, EMA and resumable state.

A stage's budget is minutes or steps, whichever ends first; the learning rate follows the part of it that is spent, so
an interrupted run that resumes ends at the same place. Knows nothing of losses or models.
"""
from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import Tensor, nn
from tqdm import tqdm

from .curves import draw_curves


@dataclass(frozen=True)
class Budget:
    """How long a stage trains: `minutes` of its own time or `steps`, whichever ends first."""

    minutes: float = math.inf
    steps: int = 10**9

    def spent(self, seconds: float, step: int) -> float:
        """Part of the budget that is used, 0 to 1."""
        return min(1.0, max(seconds / 60 / self.minutes, step / self.steps))


def learning_rate_factor(spent: float, warm: float = 0.02, decay: float = 0.4) -> float:
    """Warm-up over `warm` of the budget, constant, then linear to zero over the last `decay` of it."""
    return min(1.0, spent / warm if warm else 1.0, (1 - spent) / decay)


class Ema:
    """Exponential moving average of a model's parameters, with a warm start: decay = min(decay, (1 + n) / (10 + n))."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay, self.count = decay, 0
        self.shadow = {name: p.detach().clone() for name, p in model.named_parameters()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        self.count += 1
        decay = min(self.decay, (1 + self.count) / (10 + self.count))
        for name, p in model.named_parameters():
            self.shadow[name].lerp_(p, 1 - decay)

    @torch.no_grad()
    def copy_to(self, model: nn.Module) -> None:
        for name, p in model.named_parameters():
            p.copy_(self.shadow[name])

    def state_dict(self) -> dict[str, object]:
        return {"count": self.count, "shadow": self.shadow}

    def load_state_dict(self, state: dict[str, object]) -> None:
        self.count = int(state["count"])  # type: ignore[call-overload]
        self.shadow = dict(state["shadow"])  # type: ignore[call-overload]


class Run:
    """One stage's folder: `log.jsonl`, `state/` (everything to resume), and the clock of its budget."""

    def __init__(self, accelerator: Accelerator, folder: Path, budget: Budget, save_minutes: float = 3.0) -> None:
        self.accelerator, self.folder, self.budget = accelerator, folder, budget
        self.step, self.seconds, self.save_seconds = 0, 0.0, save_minutes * 60
        self._saved = 0.0
        folder.mkdir(parents=True, exist_ok=True)

    def state_dict(self) -> dict[str, float]:
        return {"step": self.step, "seconds": self.seconds}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.step, self.seconds = int(state["step"]), state["seconds"]
        self._saved = self.seconds

    def resume(self) -> bool:
        """Restores everything registered with the accelerator; False where there is nothing to resume."""
        if not (self.folder / "state").is_dir():
            return False
        self.accelerator.load_state(str(self.folder / "state"))
        return True

    def save(self) -> None:
        """Writes the state beside the old one, then swaps: an interrupted save leaves the old state whole."""
        fresh, kept = self.folder / "state.new", self.folder / "state"
        if self.accelerator.is_main_process:
            shutil.rmtree(fresh, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        self.accelerator.save_state(str(fresh))
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            shutil.rmtree(self.folder / "state.old", ignore_errors=True)
            if kept.exists():
                os.replace(kept, self.folder / "state.old")
            os.replace(fresh, kept)
            shutil.rmtree(self.folder / "state.old", ignore_errors=True)
        self._saved = self.seconds

    @property
    def spent(self) -> float:
        return self.budget.spent(self.seconds, self.step)

    def steps(self) -> Iterator[int]:
        """Yields step numbers until the budget is spent; shows progress, saves on the way and at the end."""
        last, quiet = time.monotonic(), not self.accelerator.is_local_main_process
        with tqdm(total=100, desc=self.folder.name, unit="%", mininterval=5, disable=quiet) as progress:
            while self.spent < 1:
                yield self.step
                now = time.monotonic()
                self.step, self.seconds, last = self.step + 1, self.seconds + self._agreed(now - last), now
                progress.update(int(100 * self.spent) - progress.n)
                if self.seconds - self._saved > self.save_seconds:
                    self.save()
        self.save()
        if self.accelerator.is_main_process:
            draw_curves(self.folder / "log.jsonl", self.folder / "curves.png")

    def _agreed(self, seconds: float) -> float:
        """The main process's clock, so that all of them stop and save at the same step."""
        if self.accelerator.num_processes == 1:
            return seconds
        return float(broadcast(torch.tensor([seconds], device=self.accelerator.device))[0])

    def schedule(self, optimizers: list[torch.optim.Optimizer], peaks: list[float], decay: float = 0.4) -> None:
        factor = learning_rate_factor(self.spent, decay=decay)
        for optimizer, peak in zip(optimizers, peaks, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = peak * max(factor, 1e-4)

    def log(self, **values: float | Tensor | str) -> None:
        """Appends one line of JSON; tensors become numbers."""
        if not self.accelerator.is_main_process:
            return
        line = {"step": self.step, "minutes": round(self.seconds / 60, 2)}
        line |= {k: round(float(v), 5) if isinstance(v, (float, Tensor)) else v for k, v in values.items()}  # type: ignore[misc]
        with (self.folder / "log.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")

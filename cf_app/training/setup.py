"""What the start of every stage shares: accelerator, networks with their optimizers and averages, the resumed run.

`set_up` is all of it in one call; a `Learner` is one network that it trains. Which devices, how many processes, FSDP or
ZeRO: that is accelerate's configuration, nothing here asks.
"""
from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from torch import Tensor, nn

from ..machine import mixed_precision
from .loop import Budget, Ema, Run
from .student import Student


@dataclass(frozen=True)
class Rates:
    """Peak learning rates of Muon and AdamW, and the decay of the average of the weights (None: no average)."""

    muon: float
    adam: float
    ema: float | None = None


@dataclass
class Learner:
    """A network in training. `model` is `network` as accelerate wraps it: losses run inside its forward."""

    network: Student
    model: nn.Module
    optimizers: list[torch.optim.Optimizer]
    prepared: list[torch.optim.Optimizer]
    rates: Rates
    ema: Ema | None

    def schedule(self, run: Run, decay: float = 0.4) -> None:
        """Sets the learning rates for the part of the budget that is spent."""
        peaks = [self.rates.muon, self.rates.adam][-len(self.optimizers):]  # AdamW's is the last, or the only one
        run.schedule(self.optimizers, peaks, decay=decay)

    def step(self, accelerator: Accelerator, most: float = 1.0) -> Tensor:
        """Clips the gradients to the norm `most`, applies and forgets them; returns the norm before."""
        norm = accelerator.clip_grad_norm_(self.model.parameters(), most)
        for optimizer in self.prepared:
            optimizer.step()
            optimizer.zero_grad()
        if self.ema is not None:
            self.ema.update(self.network)
        return torch.as_tensor(norm)

    def finish(self, accelerator: Accelerator, folder: Path) -> Student:
        """Puts the averaged weights in place, if there are any, and writes `folder`."""
        if self.ema is not None:
            self.ema.copy_to(self.network)
        if accelerator.is_main_process:
            self.network.save(folder)
        return self.network


@dataclass
class Stage:
    """A stage that is ready to run: `rng` differs by process and goes on differently after a resume."""

    accelerator: Accelerator
    run: Run
    learners: list[Learner]
    rng: random.Random


def learner(accelerator: Accelerator, network: Student, rates: Rates) -> Learner:
    """Optimizers for `network`, all of it as accelerate wants it."""
    optimizers = network.optimizers(rates.muon, rates.adam)
    model, *prepared = accelerator.prepare(network, *optimizers)
    ema = None if rates.ema is None else Ema(network, rates.ema)
    return Learner(network, model, optimizers, prepared, rates, ema)


def set_up(folder: Path, budget: Budget, seed: int, *networks: tuple[Student, Rates]) -> Stage:
    """Prepares `networks` for training in `folder` and resumes what was interrupted there."""
    # A process may run a network more often than another one does: nothing but gradients is waited for. The buffers are
    # the rotary frequencies, the same everywhere.
    apart = DistributedDataParallelKwargs(broadcast_buffers=False)
    accelerator = Accelerator(mixed_precision=mixed_precision(), kwargs_handlers=[apart])
    torch.manual_seed(seed * 1000 + accelerator.process_index)
    learners = [learner(accelerator, network, rates) for network, rates in networks]
    run = Run(accelerator, folder, budget)
    accelerator.register_for_checkpointing(run, *(each.ema for each in learners if each.ema is not None))
    run.resume()
    return Stage(accelerator, run, learners, random.Random(f"{seed} {accelerator.process_index} {run.step}"))

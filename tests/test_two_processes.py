"""Trainings in two processes: each sees films of its own, none waits for the other for ever, both learn the same."""
from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch

from tests.test_decoder_training import small_stage

TWO = """
import os, sys, torch
from pathlib import Path
from cf_app.training.autoencoder import AutoencoderTraining, train_autoencoder
from cf_app.training.decoder import DecoderTraining, train_decoder
from cf_app.training.dmd import Distillation, train_distillation
from cf_app.training.loop import Budget
from cf_app.training.setup import Rates
torch.set_num_threads(1)
folder, rank = Path(sys.argv[1]), os.environ["RANK"]
config = DecoderTraining(Budget(steps=2), (0.4,), clips=1, crop=3, chunks=1, held_out=1, first=1, longest=2,
                         adam_rate=1e-2)
decoder = train_decoder(folder / "vae", folder / "student", folder / "decoder", config)
whole = train_autoencoder(folder / "autoencoder",
                          AutoencoderTraining(Budget(steps=2), fit_clips=4, clips=1, crop=16, held_out=2))
for steps in (1, 2):    # the second one resumes, with a step in which only one of them has a truth to learn from
    stream = Distillation(Budget(steps=steps), videos=1, first=2, last=2, critic_updates=9, streaming=True,
                          anchored=float(rank), strip_chunks=1, student_rates=Rates(1e-3, 1e-3, 0.5))
    student = train_distillation(folder / "student", folder / "student", folder / "stream", folder / "vae", stream)
torch.save([decoder.state_dict(), whole.state_dict(), student.state_dict()], folder / f"{rank}.pt")
"""


def test_two_processes_see_different_films_and_learn_the_same(tmp_path: Path) -> None:
    vae, student = small_stage(tmp_path)
    (tmp_path / "two.py").write_text(TWO)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2",
               str(tmp_path / "two.py"), str(tmp_path)]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1",
                                "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    for one, other in zip(first, second, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)
    for after, before in zip(first, (vae, vae, student), strict=True):
        assert any(not torch.equal(after[name], value) for name, value in before.state_dict().items()), "they did learn"

"""The probe learns to read renders, and the benchmark's numbers are of the right kind."""
from __future__ import annotations

import random

import pytest
import torch

from cf_app.evaluation.benchmark import endurance, hardware, speed, table
from cf_app.evaluation.probe import (
    accuracy,
    draw_batch,
    from_bytes,
    load_probe,
    probe_looks,
    read,
    save_probe,
    train_probe,
)
from tests.tiny import tiny_engine


def test_a_short_training_reads_place_and_time_from_unseen_renders(tmp_path) -> None:
    probe = train_probe(samples=160, steps=45)
    save_probe(probe, tmp_path / "probe.safetensors")
    looks, labels = draw_batch(random.Random(99), 60)
    right = accuracy(read(load_probe(tmp_path / "probe.safetensors"), from_bytes(looks)), labels)
    assert right["time"] > 0.6
    assert right["place"] > 0.6


def test_looks_are_five_moments_at_the_probes_size() -> None:
    frames = torch.randn(2, 3, 24, 160, 256)
    assert probe_looks(frames).shape == (2, 15, 80, 128)
    small = torch.randn(1, 3, 24, 80, 128)
    assert torch.equal(probe_looks(small)[0, 3:6], small[0, :, 6])
    with pytest.raises(ValueError, match="24 pixel frames"):
        probe_looks(small[:, :, :12])


def test_the_benchmark_measures_every_stage() -> None:
    engine = tiny_engine()
    result = speed(engine, 8)
    assert result["fps"] > 0
    assert {"denoise", "context", "decode", "memory", "encode", "total"} <= set(result["stage_ms"])
    assert set(hardware()) == {"cpu", "gpu", "python", "torch"}
    assert "fps" in table(result)
    long = endurance(engine, 45, lambda chunks, **_: chunks)
    assert long["resident_mb"] > 0

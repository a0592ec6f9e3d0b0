"""A probe that reads a scene's attributes back from the pixels of two chunks.

Trained on ground-truth renders of the embedded world alone; its accuracy there bounds what it can say about a student.
"""
from __future__ import annotations

import itertools
import random
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from ..machine import bfloat16_pays
from ..training.data import CHUNK_SECONDS
from ..training.grammar import ATTRIBUTES, CAMERAS, Scene, scene_labels
from ..training.world import FPS, World, render

WINDOW = 24                     # pixel frames that the probe reads: two chunks, so that a camera's turn shows
LOOKS = (0, 6, 12, 18, 23)      # those of them that it sees
MOVED = 16.0                    # units that a camera must have gone from first to last look to be seen moving
SWEPT = 36.0                    # units from one look to the next: three times what a pan goes


class Probe(nn.Module):
    """Five pixel frames [B, 15, 80, 128] in [-1, 1] to logits per attribute (order of `ATTRIBUTES`)."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        first = 3 * len(LOOKS)
        sizes = (first, width, 2 * width, 4 * width, 4 * width)
        layers: list[nn.Module] = []
        for n_in, n_out in itertools.pairwise(sizes):
            layers += [nn.Conv2d(n_in, n_out, 5 if n_in == first else 3, stride=2, padding=2 if n_in == first else 1),
                       nn.BatchNorm2d(n_out), nn.ReLU()]
        self.body = nn.Sequential(*layers)
        self.heads = nn.ModuleList(nn.Linear(4 * width * 4 * 5, len(v)) for v in ATTRIBUTES.values())

    def forward(self, looks: Tensor) -> list[Tensor]:
        x = F.adaptive_avg_pool2d(self.body(looks), (5, 4)).flatten(1)
        return [head(x) for head in self.heads]


def probe_looks(frames: Tensor) -> Tensor:
    """Pixel frames of two chunks [B, 3, 24, H, W] in [-1, 1] to the probe's input [B, 15, 80, 128].

    Raises:
        ValueError: not `WINDOW` pixel frames.
    """
    if frames.shape[2] != WINDOW:
        raise ValueError(f"the probe reads {WINDOW} pixel frames (two chunks), not {frames.shape[2]}")
    looks = frames[:, :, list(LOOKS)].transpose(1, 2).flatten(1, 2)
    return looks if looks.shape[-2:] == (80, 128) else F.interpolate(looks, (80, 128), mode="area")


def visible_labels(world: World, seconds: float) -> tuple[int, ...]:
    """What the `WINDOW` from `seconds` on can show, by attribute: the scene's labels, but of the camera what it does.

    A camera that has swept away stands there, and nothing tells it from one that never moved: "away" is what it does
    while it sweeps, there or back.
    """
    path = [world.view(seconds + look / FPS) for look in LOOKS]
    went, most = path[-1] - path[0], max(abs(b - a) for a, b in itertools.pairwise(path))
    camera = "away" if most > SWEPT else "still" if abs(went) < MOVED else "right" if went > 0 else "left"
    return *scene_labels(world.scene_at(seconds))[:-1], CAMERAS.index(camera)


def draw_labelled(rng: random.Random) -> tuple[Tensor, tuple[int, ...]]:
    """What the probe sees of a random scene, uint8 [15, 80, 128], and its labels."""
    scene, begin = Scene.sample(rng), rng.uniform(0, 20)
    cues: tuple[tuple[float, Scene], ...] = ((0.0, scene),)
    if scene.camera == "away":      # on its way: there, or back
        stands = replace(scene, camera=rng.choice(CAMERAS[:-1]))
        before, after = rng.choice(((scene, stands), (stands, scene)))
        cues = (0.0, before), (begin + rng.uniform(0.01, CHUNK_SECONDS), after)
    world = World.sample(rng, cues, 30)
    times = begin + torch.arange(WINDOW) / FPS
    return (render(world, times[list(LOOKS)]).flatten(0, 1) * 255).byte(), visible_labels(world, begin)


def draw_batch(rng: random.Random, count: int) -> tuple[Tensor, Tensor]:
    """Inputs uint8 [count, 15, 80, 128] and labels [count, 6]."""
    pairs = [draw_labelled(rng) for _ in range(count)]
    return torch.stack([p[0] for p in pairs]), torch.tensor([p[1] for p in pairs])


def from_bytes(looks: Tensor) -> Tensor:
    """uint8 pictures to [-1, 1]."""
    return looks.float() / 127.5 - 1


def train_probe(samples: int, steps: int, seed: int = 0) -> Probe:
    """Trains on `samples` fixed renders with a little noise and blur, as a student's pictures have."""
    rng = random.Random(seed)
    torch.manual_seed(seed)
    looks, labels = draw_batch(rng, samples)
    probe = Probe()
    optimizer = torch.optim.AdamW(probe.parameters(), 2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    for _ in range(steps):
        pick = torch.randint(samples, (64,))
        x = from_bytes(looks[pick])
        x = x + torch.randn(len(x), 1, 1, 1).abs() * .08 * torch.randn_like(x)
        if rng.random() < .5:
            x = F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16_pays(looks.device)):
            outputs = probe(x)
        losses = [F.cross_entropy(logits.float(), labels[pick, i]) for i, logits in enumerate(outputs)]
        loss = torch.stack(losses).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return probe.eval()


@torch.no_grad()
def read(probe: Probe, looks: Tensor) -> Tensor:
    """Attribute indices [B, 6] that the probe sees in [B, 15, 80, 128]."""
    return torch.stack([logits.argmax(1) for logits in probe(looks)], 1)


def accuracy(seen: Tensor, labels: Tensor) -> dict[str, float]:
    """Part of right readings per attribute, 0 to 1."""
    return {name: float((seen[:, i] == labels[:, i]).float().mean()) for i, name in enumerate(ATTRIBUTES)}


def save_probe(probe: Probe, path: Path) -> None:
    """Writes the probe in half precision."""
    save_file({k: v.half() if v.is_floating_point() else v for k, v in probe.state_dict().items()}, path)


def load_probe(path: Path) -> Probe:
    """Reads what `save_probe` wrote."""
    probe = Probe()
    probe.load_state_dict({k: v.float() if v.dtype == torch.half else v for k, v in load_file(path).items()})
    return probe.eval()

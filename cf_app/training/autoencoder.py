"""Stage 0: the autoencoder learns to fold worlds into latents and back.

Loss: |x - y| + (x - y)^2 on pictures in [-1, 1], with noise on the latents so that their space is smooth and a
small pull of the latents to zero so that they do not grow to escape that noise.
"""
from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from PIL import Image
from torch import Tensor

from ..model.vae import TinyVideoAutoencoder
from .grammar import Scene
from .loop import Budget, Run
from .muon import Muon, split_parameters
from .world import FPS, World, render


@dataclass(frozen=True)
class AutoencoderTraining:
    """`clips` of `pixel_frames` a step, one in `fresh` newly drawn, the others from a pool of `pool`."""

    budget: Budget
    clips: int = 4
    pixel_frames: int = 12
    pool: int = 400
    fresh: int = 1
    muon_rate: float = 3e-3
    adam_rate: float = 1e-3
    noise: float = 0.05
    pull: float = 5e-4
    seed: int = 0


def embedded_autoencoder() -> TinyVideoAutoencoder:
    """The embedded model's sizes: 4 x 8 x 8 pixels to one latent cell of 16 channels."""
    return TinyVideoAutoencoder(
        latent_channels=16, patch_size=4,
        encoder_widths=(64, 64, 128), encoder_time=(2, 2, 1), encoder_space=(1, 1, 2), encoder_blocks=(1, 1, 2),
        decoder_widths=(128, 64, 64), decoder_time=(1, 2, 2), decoder_space=(2, 1, 1), decoder_blocks=(3, 2, 3),
        decoder_out=64,
    ).to(memory_format=torch.channels_last)


def load_autoencoder(folder: Path) -> TinyVideoAutoencoder:
    """What the stage wrote to `vae/`, ready to encode.

    Raises:
        ValueError: there is nothing there yet.
    """
    if not (folder / "config.json").is_file():
        raise ValueError(f"no autoencoder in {folder}: train it first (python -m cf_app train autoencoder)")
    return TinyVideoAutoencoder.from_pretrained(folder).to(memory_format=torch.channels_last)


def draw_clip(rng: random.Random, pixel_frames: int, height: int = 80) -> Tensor:
    """A random moment of a random world, prompt changes among them: [3, P, H, W] in [-1, 1]."""
    first = Scene.sample(rng)
    begin = rng.uniform(0, 20)
    cues: tuple[tuple[float, Scene], ...] = ((0.0, first),)
    if rng.random() < 0.25:
        cues += ((begin + rng.uniform(-0.8, 0.4), Scene.sample(rng)),)
    cues = tuple((max(0.0, t), s) for t, s in cues)
    times = begin + torch.arange(pixel_frames) / FPS
    return render(World.sample(rng, cues), times, height).transpose(0, 1) * 2 - 1


class ClipPool:
    """A pool of drawn clips of which a little is renewed with every batch."""

    def __init__(self, config: AutoencoderTraining, rank: int) -> None:
        self.rng, self.config = random.Random(config.seed * 1000 + rank), config
        self.clips: list[Tensor] = []

    def batch(self) -> Tensor:
        """[clips, 3, P, H, W]."""
        config = self.config
        fresh = config.clips if len(self.clips) < config.clips else config.fresh
        new = [draw_clip(self.rng, config.pixel_frames) for _ in range(fresh)]
        old = self.rng.sample(self.clips, config.clips - fresh)
        self.clips = (self.clips + new)[-config.pool:]
        chosen = [clip.flip(-1) if self.rng.random() < .5 else clip for clip in new + old]
        return torch.stack(chosen)


def reconstruction_loss(frames: Tensor, decoded: Tensor) -> Tensor:
    """Mean |x - y| + (x - y)^2."""
    difference = decoded - frames
    return difference.abs().mean() + difference.square().mean()


def psnr(frames: Tensor, decoded: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of pictures in [-1, 1]."""
    return float(10 * torch.log10(4 / (decoded - frames).square().mean()))


def train_autoencoder(folder: Path, config: AutoencoderTraining) -> TinyVideoAutoencoder:
    """Trains (or resumes) in `folder`; writes `vae/` there with the latents' statistics."""
    accelerator = Accelerator(mixed_precision="bf16")
    torch.manual_seed(config.seed)
    raw = embedded_autoencoder()
    matrices, rest = split_parameters(raw, ("encoder.0.", "decoder.1.", f"decoder.{len(raw.decoder) - 1}."))
    optimizers = [Muon(matrices, config.muon_rate), torch.optim.AdamW(rest, config.adam_rate, betas=(.9, .99))]
    model, *prepared = accelerator.prepare(raw, *optimizers)
    run = Run(accelerator, folder, config.budget)
    accelerator.register_for_checkpointing(run)
    run.resume()
    pool = ClipPool(config, accelerator.process_index)
    for step in run.steps():
        run.schedule(optimizers, [config.muon_rate, config.adam_rate])
        frames = pool.batch().to(accelerator.device)
        with accelerator.autocast():
            latents = raw.encode(frames)
            decoded, _ = raw.decode(latents + config.noise * torch.randn_like(latents))
        loss = reconstruction_loss(frames, decoded.float()) + config.pull * latents.square().mean()
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in prepared:
            optimizer.step()
            optimizer.zero_grad()
        if step % 25 == 0:
            run.log(loss=loss.detach(), psnr=psnr(frames, decoded.detach()), std=latents.detach().std())
        if step % 500 == 0:
            strip(frames[:2], decoded[:2].detach().float(), folder / "strip.png")
    return finish(raw, folder, config, run)


@torch.no_grad()
def finish(vae: TinyVideoAutoencoder, folder: Path, config: AutoencoderTraining, run: Run) -> TinyVideoAutoencoder:
    """Measures the latents and held-out worlds, then saves `vae/`."""
    rng = random.Random(config.seed + 77_000)
    frames = torch.stack([draw_clip(rng, config.pixel_frames) for _ in range(32)])
    latents = torch.cat([vae.encode(part) for part in frames.split(4)])
    vae.register_to_config(latents_mean=[round(v, 5) for v in latents.mean((0, 2, 3, 4)).tolist()],
                           latents_std=[round(v, 5) for v in latents.std((0, 2, 3, 4)).tolist()])
    decoded = torch.cat([vae.decode(vae.encode(part))[0] for part in frames.split(4)])
    run.log(held_out_psnr=psnr(frames, decoded))
    strip(frames[:4], decoded[:4], folder / "held_out.png")
    vae.save_pretrained(folder / "vae")
    return vae


def strip(frames: Tensor, decoded: Tensor, path: Path) -> None:
    """Writes pictures above their reconstructions, every fourth pixel frame."""
    rows = []
    for x, y in zip(frames, decoded, strict=True):
        rows += [torch.cat(list(x[:, ::4].unbind(1)), 2), torch.cat(list(y[:, ::4].unbind(1)), 2)]
    picture = (torch.cat(rows, 1) + 1) * 127.5
    Image.fromarray(picture.permute(1, 2, 0).clamp(0, 255).byte().numpy()).resize(
        (picture.shape[2] * 3, picture.shape[1] * 3), Image.Resampling.NEAREST).save(path)

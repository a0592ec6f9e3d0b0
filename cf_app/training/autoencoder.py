"""Stage 0: the autoencoder. Its encoder is the principal components of blocks of 4 x 8 x 8 pixels, fitted at once;
its decoder learns to sharpen what they give back.

Measured on this world: a convolutional autoencoder of the same sizes, trained for 24 minutes on two cores, reached
26 to 28 dB and soft edges, what 16 principal components give from the first minute (28.0 dB, without any training).
Loss of the decoder: |x - y| + (x - y)^2 + |grad (x - y)| on pictures in [-1, 1], with noise on the latents, since a
student's are noisy. The decoder works on the grid of latent cells (`patch_vae`). From scratch, in the same four minutes
of one core and on the same clips, it went from 27.6 to 29.0 dB; convolutions at rising resolution did not move.
"""
from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from PIL import Image
from torch import Tensor

from ..machine import mixed_precision
from ..model.patch_vae import PatchVideoAutoencoder
from .grammar import Scene
from .loop import Budget, Run
from .muon import Muon, split_parameters
from .world import FPS, World, render


@dataclass(frozen=True)
class AutoencoderTraining:
    """`clips` of `pixel_frames` a step, `fresh` of them newly drawn, the others from a pool of `pool`; each step sees a
    random square of `crop` pixels. The latents' noise has a standard deviation from 0 to `noise`."""

    budget: Budget
    fit_clips: int = 240
    clips: int = 4
    pixel_frames: int = 12
    pool: int = 400
    fresh: int = 1
    muon_rate: float = 3e-3
    adam_rate: float = 1e-3
    noise: float = 0.1
    crop: int = 64
    whitening: float = 0.75
    seed: int = 0


def embedded_autoencoder() -> PatchVideoAutoencoder:
    """The embedded model's sizes: 4 x 8 x 8 pixels to one latent cell of 16 channels."""
    return PatchVideoAutoencoder().to(memory_format=torch.channels_last)


@torch.no_grad()
def fit_linear(vae: PatchVideoAutoencoder, clips: Tensor, whitening: float) -> None:
    """Sets the linear code to the principal components of the blocks of `clips` [N, 3, P, H, W] in [-1, 1].

    Latent c is the block's coefficient on component c divided by k std_c^whitening; k makes the mean variance 1. At
    whitening 1 all latents have unit variance; below it, the components that matter most to the eye weigh more.
    """
    code = vae.code
    frames = clips.transpose(1, 2).flatten(0, 1)
    rows = torch.cat([code.blocks(part.contiguous()).flatten(0, 2) for part in frames.split(4 * code.time)])
    mean = rows.mean(0)
    values, vectors = torch.linalg.eigh(((rows - mean).T @ (rows - mean) / len(rows)).double())
    channels = vae.config.latent_channels
    components = vectors.flip(1)[:, :channels].T.float()
    std = values.flip(0)[:channels].clamp(min=1e-8).sqrt().float()
    scale = std**whitening
    scale = scale * (std / scale).square().mean().sqrt()
    code.to_latent.weight.copy_(components / scale[:, None])
    code.to_latent.bias.copy_(-(components @ mean) / scale)
    code.to_pixels.weight.copy_((components * scale[:, None]).T)
    code.to_pixels.bias.copy_(mean)


def new_autoencoder(config: AutoencoderTraining) -> PatchVideoAutoencoder:
    """The embedded sizes with a fitted linear code; it is final, later stages may use it at once."""
    torch.manual_seed(config.seed)
    vae, rng = embedded_autoencoder(), random.Random(config.seed + 55_000)
    clips = torch.stack([draw_clip(rng, config.pixel_frames) for _ in range(config.fit_clips)])
    fit_linear(vae, clips, config.whitening)
    return vae


def load_autoencoder(folder: Path) -> PatchVideoAutoencoder:
    """What the stage wrote to `vae/`, ready to encode.

    Raises:
        ValueError: there is nothing there yet, or an autoencoder of another kind.
    """
    if not (folder / "config.json").is_file():
        raise ValueError(f"no autoencoder in {folder}: train it first (python -m cf_app train autoencoder)")
    if (kind := PatchVideoAutoencoder.load_config(folder)["_class_name"]) != PatchVideoAutoencoder.__name__:
        raise ValueError(f"{folder} holds a {kind}, expected a {PatchVideoAutoencoder.__name__}: train it again "
                         "(python -m cf_app train autoencoder)")
    return PatchVideoAutoencoder.from_pretrained(folder).to(memory_format=torch.channels_last)


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


def random_crop(frames: Tensor, size: int, rng: random.Random, cell: int = 8) -> Tensor:
    """The same random square of `size` pixels of [B, 3, P, H, W], on the grid of latent cells."""
    y, x = (rng.randrange(0, side - size + 1, cell) for side in frames.shape[-2:])
    return frames[..., y:y + size, x:x + size]


def reconstruction_loss(frames: Tensor, decoded: Tensor) -> Tensor:
    """Mean |x - y| + (x - y)^2, and of |grad (x - y)| along rows and columns: of pictures [..., H, W].

    The gradient is what the eye sees of a flat picture: a step of one grey level at the border of a latent cell, which
    the other two hardly notice, costs there as much as one at an edge.
    """
    difference = decoded - frames
    return difference.abs().mean() + difference.square().mean() + edge_error(difference)


def edge_error(difference: Tensor) -> Tensor:
    """Mean |grad| of pictures [..., H, W], along rows and columns together."""
    return difference.diff(dim=-1).abs().mean() + difference.diff(dim=-2).abs().mean()


def psnr(frames: Tensor, decoded: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of pictures in [-1, 1]."""
    return float(10 * torch.log10(4 / (decoded - frames).square().mean()))


def decoder_optimizers(vae: PatchVideoAutoencoder, muon_rate: float, adam_rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the decoder's inner matrices, AdamW for the rest of it; the linear code stays as it is."""
    vae.code.requires_grad_(False)
    matrices, rest = split_parameters(vae, ("enter.", "leave.", ".now.", ".past."))
    return [Muon(matrices, muon_rate), torch.optim.AdamW(rest, adam_rate, betas=(.9, .99))]


def train_autoencoder(folder: Path, config: AutoencoderTraining) -> PatchVideoAutoencoder:
    """Trains (or resumes) the decoder in `folder`; writes `vae/` there at once (the linear code) and at the end."""
    accelerator = Accelerator(mixed_precision=mixed_precision())
    torch.manual_seed(config.seed)
    raw = new_autoencoder(config)
    if accelerator.is_main_process and not (folder / "vae").exists():
        raw.save_pretrained(folder / "vae")
    optimizers = decoder_optimizers(raw, config.muon_rate, config.adam_rate)
    model, *prepared = accelerator.prepare(raw, *optimizers)
    run = Run(accelerator, folder, config.budget)
    accelerator.register_for_checkpointing(run)
    run.resume()
    pool = ClipPool(config, accelerator.process_index)
    for step in run.steps():
        run.schedule(optimizers, [config.muon_rate, config.adam_rate])
        frames = random_crop(pool.batch(), config.crop, pool.rng).to(accelerator.device)
        with accelerator.autocast():
            latents = raw.encode(frames)
            noise = config.noise * torch.rand(len(latents), 1, 1, 1, 1).to(latents)
            noise[0] = 0
            decoded = model(latents + noise * torch.randn_like(latents))
        loss = reconstruction_loss(frames, decoded.float())
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in prepared:
            optimizer.step()
            optimizer.zero_grad()
        if step % 25 == 0:
            linear = raw.code.decode(latents[0].transpose(0, 1)).transpose(0, 1)
            run.log(loss=loss.detach(), psnr=psnr(frames[0], decoded[0].detach()), linear_psnr=psnr(frames[0], linear))
        if step % 500 == 0:
            strip(frames[:2], decoded[:2].detach().float(), folder / "strip.png")
    return finish(raw, folder, config, run)


@torch.no_grad()
def finish(vae: PatchVideoAutoencoder, folder: Path, config: AutoencoderTraining, run: Run) -> PatchVideoAutoencoder:
    """Measures held-out worlds, then saves `vae/`."""
    rng = random.Random(config.seed + 77_000)
    frames = torch.stack([draw_clip(rng, config.pixel_frames) for _ in range(32)])
    decoded = torch.cat([vae.decode(vae.encode(part))[0] for part in frames.split(4)])
    run.log(held_out_psnr=psnr(frames, decoded))
    if run.accelerator.is_main_process:
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

"""Stage 0: the autoencoder. Its projection is the principal components of blocks of 4 x 8 x 8 pixels, fitted at once;
encoder and decoder learn together, on the grid of latent cells (`patch_vae`), what to add to it and to its transpose.

Measured on this world: a convolutional autoencoder of the same sizes, trained for 24 minutes on two cores, reached
26 to 28 dB and soft edges, what 16 principal components give from the first minute (28.0 dB, without any training).
From scratch, in the same four minutes of one core and on the same clips, a decoder on the grid went from 27.6 to
29.0 dB; convolutions at rising resolution did not move. A trained decoder on the projection alone has 34.1 dB where a
camera stands and 30.8 where it pans; 22 minutes together with an encoder on the grid made 36.4 and 33.8 of them.
Loss: first |x - y| + (x - y)^2 + |grad (x - y)| on pictures in [-1, 1], then `crisp_loss` and squares, with noise on
the latents, since a student's are noisy.
"""
from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from PIL import Image
from torch import Tensor, nn

from ..machine import mixed_precision
from ..model.patch_vae import PatchVideoAutoencoder
from .grammar import Scene
from .loop import Budget, Run
from .muon import Muon, split_parameters
from .world import FPS, World, render


@dataclass(frozen=True)
class AutoencoderTraining:
    """`clips` of `pixel_frames` a step, `fresh` of them newly drawn, the others from a pool of `pool`. Of each, a
    square of `crop` pixels is seen: of `tries` random ones that in which most changes, because edges that move are
    what 16 numbers keep least of. The latents' noise has a standard deviation from 0 to `noise`. `near` weighs the
    mean square of what the encoder adds to its projection: what it adds without need a student would have to learn.
    Up to the part `crisp_from` of the budget the loss is `reconstruction_loss`, from there on `crisp_loss` and
    `squares` times the mean square: latents that are fitted to the first alone gain 3 % of it and lose dB.
    `held_out` clips are measured at the end."""

    budget: Budget
    fit_clips: int = 240
    clips: int = 8
    pixel_frames: int = 12
    pool: int = 600
    fresh: int = 2
    muon_rate: float = 6e-3
    adam_rate: float = 2e-3
    noise: float = 0.1
    near: float = 0.01
    crop: int = 80
    tries: int = 3
    crisp_from: float = 0.5
    squares: float = 10.0
    whitening: float = 0.75
    held_out: int = 32
    seed: int = 0


class Reconstruction(nn.Module):
    """Encoder, noise on the latents, decoder, in one forward: wrappers for many devices hook in there."""

    def __init__(self, vae: PatchVideoAutoencoder) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, frames: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Pixel frames [B, 3, P, H, W] in [-1, 1] and the noise's standard deviations [B] to (pictures of the same
        shape, what the encoder added to its projection [B, C, F, Y, X])."""
        projected = self.vae.projected(frames)
        added = self.vae.added(frames, projected)
        latents = projected + added
        noisy = latents + noise.view(-1, 1, 1, 1, 1) * torch.randn_like(latents)
        return self.vae.decode(noisy)[0].float(), added


def embedded_autoencoder() -> PatchVideoAutoencoder:
    """The embedded model's sizes: 4 x 8 x 8 pixels to one latent cell of 16 channels."""
    return PatchVideoAutoencoder(encoder_blocks=4).to(memory_format=torch.channels_last)


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
        fresh = config.clips if len(self.clips) < config.clips else min(config.fresh, config.clips)
        new = [draw_clip(self.rng, config.pixel_frames) for _ in range(fresh)]
        old = self.rng.sample(self.clips, config.clips - fresh)
        self.clips = (self.clips + new)[-config.pool:]
        chosen = [clip.flip(-1) if self.rng.random() < .5 else clip for clip in new + old]
        return torch.stack(chosen)


def busy_crops(clips: Tensor, size: int, tries: int, rng: random.Random, cell: int = 8) -> Tensor:
    """A square of `size` pixels of each of `clips` [B, 3, P, H, W], on the grid of latent cells: of `tries` random ones
    that in which most changes over time."""
    def crop(clip: Tensor) -> Tensor:
        y, x = (rng.randrange(0, side - size + 1, cell) for side in clip.shape[-2:])
        return clip[..., y:y + size, x:x + size]

    return torch.stack([max((crop(clip) for _ in range(tries)), key=lambda part: float(part.diff(dim=1).abs().sum()))
                        for clip in clips])


def reconstruction_loss(frames: Tensor, decoded: Tensor) -> Tensor:
    """Mean |x - y| + (x - y)^2, and of |grad (x - y)| along rows and columns: of pictures [..., H, W].

    The gradient is what the eye sees of a flat picture: a step of one grey level at the border of a latent cell, which
    the other two hardly notice, costs there as much as one at an edge.
    """
    difference = decoded - frames
    return difference.abs().mean() + difference.square().mean() + edge_error(difference)


def crisp_loss(frames: Tensor, decoded: Tensor, grey: float = 0.02) -> Tensor:
    """Mean square root of the distance of colours, and half of |grad (x - y)|: of pictures [B, 3, P, H, W] in [-1, 1].

    What latents of an edge that moves, or that a student left, do not say is where it is to the pixel. |x - y| is as
    small for any mixture of the two colours there, (x - y)^2 smallest for their mean; the root, which is concave, is
    smallest at one of them. It also rises steepest where a distance is small (down to `grey`), so flat areas get their
    colour to the last grey level.
    """
    difference = decoded - frames
    distance = (difference.square().sum(1) + grey**2).sqrt()
    return distance.sqrt().mean() + 0.5 * edge_error(difference)


def edge_error(difference: Tensor) -> Tensor:
    """Mean |grad| of pictures [..., H, W], along rows and columns together."""
    return difference.diff(dim=-1).abs().mean() + difference.diff(dim=-2).abs().mean()


def psnr(frames: Tensor, decoded: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of pictures in [-1, 1]."""
    return float(10 * torch.log10(4 / (decoded - frames).square().mean()))


def optimizers_of(module: nn.Module, muon_rate: float, adam_rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the inner matrices of what is to be trained, AdamW for the rest of it."""
    matrices, rest = split_parameters(module, ("enter.", "leave.", ".now.", ".past."))
    return [Muon(matrices, muon_rate), torch.optim.AdamW(rest, adam_rate, betas=(.9, .99))]


def train_autoencoder(folder: Path, config: AutoencoderTraining) -> PatchVideoAutoencoder:
    """Trains (or resumes) the autoencoder in `folder`, from what lies in its `vae/`: by default a fitted projection and
    nothing else, which stays as it is; encoder and decoder learn what to add to it. Writes `vae/` at the end."""
    accelerator = Accelerator(mixed_precision=mixed_precision())
    begun = (folder / "vae" / "config.json").is_file()
    raw = load_autoencoder(folder / "vae").float() if begun else new_autoencoder(config)
    torch.manual_seed(config.seed * 1000 + accelerator.process_index)  # each process has noise of its own
    raw.code.requires_grad_(False)
    whole = Reconstruction(raw)
    optimizers = optimizers_of(whole, config.muon_rate, config.adam_rate)
    model, *prepared = accelerator.prepare(whole, *optimizers)
    run = Run(accelerator, folder, config.budget)
    accelerator.register_for_checkpointing(run)
    run.resume()
    pool = ClipPool(config, accelerator.process_index)
    for step in run.steps():
        run.schedule(optimizers, [config.muon_rate, config.adam_rate])
        frames = busy_crops(pool.batch(), config.crop, config.tries, pool.rng).to(accelerator.device)
        noise = config.noise * torch.rand(len(frames), device=frames.device)
        noise[0] = 0
        with accelerator.autocast():
            decoded, added = model(frames, noise)
        if run.spent < config.crisp_from:
            lost = reconstruction_loss(frames, decoded)
        else:
            lost = crisp_loss(frames, decoded) + config.squares * (decoded - frames).square().mean()
        accelerator.backward(lost + config.near * added.square().mean())
        accelerator.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in prepared:
            optimizer.step()
            optimizer.zero_grad()
        if step % 25 == 0:
            run.log(loss=lost.detach(), psnr=psnr(frames[0], decoded[0].detach()), added=added.detach().square().mean())
        if step % 500 == 0:
            strip(frames[:2], decoded[:2].detach(), folder / "strip.png")
    return finish(raw, folder, config, run)


@torch.no_grad()
def finish(vae: PatchVideoAutoencoder, folder: Path, config: AutoencoderTraining, run: Run) -> PatchVideoAutoencoder:
    """Measures held-out worlds, then saves `vae/`."""
    rng = random.Random(config.seed + 77_000)
    frames = torch.stack([draw_clip(rng, config.pixel_frames) for _ in range(config.held_out)])
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

"""The decoder's last stage: its examples are what a student really leaves, and it learns to undo that and no more."""
from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from torch import Tensor, nn

from cf_app.model.patch_vae import PatchVideoAutoencoder
from cf_app.model.vae import TinyVideoAutoencoder
from cf_app.training.autoencoder import (
    AutoencoderTraining,
    ClipPool,
    crisp_loss,
    embedded_autoencoder,
    load_autoencoder,
    psnr,
    train_autoencoder,
)
from cf_app.training.decoder import (
    DecoderTraining,
    Example,
    as_left,
    busy_place,
    decoded,
    draw_examples,
    free_film,
    moment,
    signed,
    train_decoder,
)
from cf_app.training.loop import Budget
from cf_app.training.losses import predicted_x0
from cf_app.training.student import Student

SHIPPED = Path(__file__).parents[1] / "weights" / "vae"


class Constant(Student):
    """Its flow is `value` everywhere; it takes notes of the noise levels that it is asked at."""

    def __init__(self, value: float) -> None:
        source = Student.embedded()
        super().__init__(source.transformer, source.text_encoder)
        self.value, self.levels, self.cleaned = value, list[float](), list[Tensor]()

    def flow(self, x: Tensor, sigma: Tensor, text: object, context: object) -> Tensor:
        super().flow(x, sigma, text, context)  # type: ignore[arg-type]  # the memory wants its keys and values
        self.levels.append(round(float(sigma[0]), 3))
        if not self.levels[-1]:
            self.cleaned.append(x.clone())
        return torch.full_like(x, self.value)


@pytest.mark.parametrize("levels", [(0.4,), (0.7, 0.4)], ids=["last pass", "last two passes"])
def test_what_is_left_is_the_students_last_passes_over_a_memory_of_what_it_left(levels: tuple[float, ...]) -> None:
    student, latents = Constant(2.0), torch.randn(1, 16, 6, 10, 16)
    truth = latents.clone()
    torch.manual_seed(0)
    left = as_left(student, latents, [["a red ball", "a blue ball"]], levels)
    assert student.levels == [*levels, 0.0] * 2, "its last passes, then a clean one, for each chunk"
    assert torch.equal(latents, truth)
    torch.manual_seed(0)
    for chunk in range(2):
        x = truth[:, :, 3 * chunk:3 * chunk + 3]
        for level in levels:
            noisy = (1 - level) * x + level * torch.randn_like(x)
            x = predicted_x0(noisy, torch.full_like(noisy, 2.0), torch.tensor([level]))
        torch.testing.assert_close(left[:, :, 3 * chunk:3 * chunk + 3], x)
        assert torch.equal(student.cleaned[chunk], left[:, :, 3 * chunk:3 * chunk + 3]), "memory is of what it left"


def test_of_a_free_run_the_first_chunk_is_true_and_nothing_else_is_known() -> None:
    student, latents = Constant(2.0), torch.randn(1, 16, 6, 10, 16)
    prompts = [["a red ball"] * 2]
    torch.manual_seed(0)
    left = as_left(student, latents, prompts, (1.0, 0.4), kept=1)
    assert student.levels == [0.0, 1.0, 0.4, 0.0], "the true chunk is remembered, the next one has all passes"
    assert torch.equal(left[:, :, :3], latents[:, :, :3])
    torch.manual_seed(0)
    latents[:, :, 3:] += 5
    assert torch.equal(as_left(student, latents, prompts, (1.0, 0.4), kept=1), left)


def settings(**changes: object) -> DecoderTraining:
    return replace(DecoderTraining(Budget(steps=1), (0.7, 0.4)), **changes)  # type: ignore[arg-type]


def test_a_free_film_is_cut_into_clips_that_show_the_world_of_their_time(tmp_path: Path) -> None:
    vae, student = small_stage(tmp_path)
    config = settings(levels=(1.0, 0.4), chunks=2, longest=6)
    clips = free_film(random.Random(1), vae, student, config)
    assert [clip.frames.shape[1] for clip in clips] == [24, 24]
    assert [clip.left.shape for clip in clips] == [clip.latents.shape for clip in clips] == [(16, 6, 10, 16)] * 2
    for clip in clips:
        shown = decoded(vae, clip.latents)
        assert float((shown - signed(clip.frames)[None]).square().mean()) < 0.02, "its latents are of its pictures"
        assert float((clip.left - clip.latents).square().mean()) > 0.05, "and the student made it otherwise"
    assert not torch.equal(clips[0].frames, clips[1].frames)
    assert len(free_film(random.Random(1), vae, student, replace(config, longest=1))) == 1
    drawn = [len(draw_examples(random.Random(1), vae, student, replace(config, free=free))) for free in (1.0, 0.0)]
    assert drawn == [2, 1], "a whole film, or a single moment"


def test_a_pool_that_begins_with_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="a pool that begins with 0 draws: expected at least 1"):
        settings(first=0)


@pytest.mark.parametrize("true", [True, False])
def test_a_crop_shows_the_same_square_and_moment_of_pixels_and_latents(true: bool) -> None:
    cells = torch.arange(4 * 10 * 16.).reshape(1, 4, 10, 16)
    pixels = nn.functional.interpolate(cells[None] % 256, scale_factor=(4, 8, 8))[0].expand(3, -1, -1, -1).byte()
    example = Example(pixels, cells, cells + 1024)
    square, latents = example.crop(settings(crop=6, window=2), random.Random(1), true)
    assert square.shape == (3, 8, 48, 48) and latents.shape == (1, 2, 6, 6)
    assert bool((latents < 1024).all()) == true
    torch.testing.assert_close((square[0, ::4, ::8, ::8] + 1) * 127.5, latents[0] % 256, atol=1e-3, rtol=0)


def test_the_loss_prefers_one_of_two_colours_to_their_mean_and_flat_areas_to_the_last_level() -> None:
    could_be = torch.tensor([-0.5, 0.5]).view(2, 1, 1, 1, 1).expand(2, 3, 1, 4, 4)
    mean, one, other = (float(crisp_loss(could_be, torch.full_like(could_be, shown))) for shown in (0.0, 0.5, -0.5))
    assert one == pytest.approx(other) and one < 0.85 * mean
    off = [float(crisp_loss(could_be, could_be + levels / 127.5)) for levels in (0, 4, 40, 44)]
    assert off[1] - off[0] > 2 * (off[3] - off[2]) > 0
    edge = torch.zeros(1, 3, 1, 4, 4)
    edge[..., 2:] = 1
    assert float(crisp_loss(edge, edge.flip(-1))) > float(crisp_loss(torch.zeros_like(edge), torch.ones_like(edge)))


def test_the_busiest_of_many_places_is_the_one_in_which_something_moves() -> None:
    latents = torch.zeros(2, 6, 10, 16)
    latents[:, 4, 7:9, 12:14] = 1
    place = busy_place(latents, settings(crop=3, window=2, tries=400), random.Random(1))
    assert float(latents[(slice(None), *place)].sum()) == float(latents.sum())
    assert place[0] in (slice(3, 5), slice(4, 6))


def small_stage(folder: Path) -> tuple[PatchVideoAutoencoder, Student]:
    """What the stages before it leave: the shipped autoencoder, and a student that has not learnt anything."""
    AcceleratorState._reset_state(reset_partial_state=True)  # as in a process of its own
    vae = load_autoencoder(SHIPPED).float()
    vae.save_pretrained(folder / "vae")
    torch.manual_seed(0)
    student = Student.embedded()   # its head is zero: it leaves the noise as it was, so there is much to undo
    student.save(folder / "student")
    return vae, student


def logged(folder: Path, name: str) -> list[float]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line[name] for line in lines if name in line]


def test_it_undoes_what_the_student_leaves_and_keeps_the_encoder(tmp_path: Path) -> None:
    vae, student = small_stage(tmp_path)
    config = settings(budget=Budget(steps=40), levels=(0.4,), crop=4, held_out=3, chunks=1, muon_rate=3e-3,
                      adam_rate=1e-3, free=0.0, first=1)
    example = moment(random.Random(1), vae, student, config)
    assert float((example.left - example.latents).square().mean()) > 0.05
    trained = train_decoder(tmp_path / "vae", tmp_path / "student", tmp_path / "decoder", config)
    before, after = logged(tmp_path / "decoder", "held_out_left_loss")
    assert after < 0.85 * before
    again = load_autoencoder(tmp_path / "decoder" / "vae")
    frames = signed(example.frames)[None]
    assert torch.equal(again.encode(frames), vae.encode(frames)), "latents mean what they did"
    assert torch.equal(again.decode(example.latents[None])[0], trained.decode(example.latents[None])[0])


def test_encoder_and_decoder_learn_together_and_the_projection_stays(tmp_path: Path) -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    begun, old = embedded_autoencoder().float(), load_autoencoder(SHIPPED).float()
    begun.load_state_dict({name: p for name, p in old.state_dict().items() if name.startswith(("code.", "decoder."))},
                          strict=False)
    begun.save_pretrained(tmp_path / "vae")
    config = AutoencoderTraining(Budget(steps=30), clips=2, pool=2, fresh=0, crop=32, noise=0.0, near=0.0, held_out=4)
    trained = train_autoencoder(tmp_path, config)
    clips = ClipPool(config, 0).batch()
    with torch.no_grad():
        added = trained.encode(clips) - trained.projected(clips)
        assert torch.equal(trained.projected(clips), old.projected(clips))
        assert float(added.abs().mean()) > 1e-3
        mixed = load_autoencoder(tmp_path / "vae")
        mixed.encoder = None
        with_it, without = (psnr(clips, trained.decode(latents)[0])
                            for latents in (trained.encode(clips), mixed.encode(clips)))
    assert with_it > without, "the decoder reads what the encoder adds"


def test_an_autoencoder_of_another_kind_is_named(tmp_path: Path) -> None:
    TinyVideoAutoencoder().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="holds a TinyVideoAutoencoder, expected a PatchVideoAutoencoder"):
        load_autoencoder(tmp_path)

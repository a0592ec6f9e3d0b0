"""The decoder's last stage: its examples are what a student really leaves, and it learns to undo that and no more."""
from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from torch import Tensor, nn

from cf_app.training.autoencoder import embedded_autoencoder, fit_linear, load_autoencoder
from cf_app.training.decoder import DecoderTraining, Example, as_left, draw_example, train_decoder
from cf_app.training.grammar import Scene
from cf_app.training.loop import Budget
from cf_app.training.losses import predicted_x0
from cf_app.training.student import Student
from cf_app.training.world import World, render


class Constant(Student):
    """Its flow is `value` everywhere; it takes notes of the noise levels that it is asked at."""

    def __init__(self, value: float) -> None:
        source = Student.embedded()
        super().__init__(source.transformer, source.text_encoder)
        self.value, self.levels = value, list[float]()

    def flow(self, x: Tensor, sigma: Tensor, text: object, context: object) -> Tensor:
        super().flow(x, sigma, text, context)  # type: ignore[arg-type]  # the memory wants its keys and values
        self.levels.append(round(float(sigma[0]), 3))
        return torch.full_like(x, self.value)


def test_what_is_left_is_the_students_last_pass_over_a_true_memory() -> None:
    student, latents = Constant(2.0), torch.randn(1, 16, 6, 10, 16)
    torch.manual_seed(0)
    left = as_left(student, latents, [["a red ball", "a blue ball"]], 0.4)
    assert student.levels == [0.4, 0.0, 0.4, 0.0], "a pass at its last level, then a clean one, for each chunk"
    torch.manual_seed(0)
    for chunk in range(2):
        part = slice(3 * chunk, 3 * chunk + 3)
        noisy = 0.6 * latents[:, :, part] + 0.4 * torch.randn_like(latents[:, :, part])
        expected = predicted_x0(noisy, torch.full_like(noisy, 2.0), torch.tensor([0.4]))
        torch.testing.assert_close(left[:, :, part], expected)


@pytest.mark.parametrize("true", [True, False])
def test_a_crop_shows_the_same_square_of_pixels_and_latents(true: bool) -> None:
    cells = torch.arange(10 * 16.).reshape(1, 1, 10, 16)
    frames = nn.functional.interpolate(cells, scale_factor=8)[0][:, None].expand(3, 4, -1, -1)
    square, latents = Example(frames, cells, cells + 1000).crop(64, random.Random(1), 8, true)
    assert square.shape == (3, 4, 64, 64) and latents.shape == (1, 1, 8, 8)
    assert torch.equal(square[0, 0, ::8, ::8] + (0 if true else 1000), latents[0, 0])


def test_the_busiest_of_many_squares_is_the_one_in_which_something_moves() -> None:
    frames = torch.zeros(3, 4, 80, 128)
    frames[:, ::2, 60:70, 100:110] = 1
    square, _ = Example(frames, cells := torch.zeros(1, 1, 10, 16), cells).crop(32, random.Random(1), 8, True, 200)
    assert float(square.sum()) == float(frames.sum())


def test_it_undoes_what_the_student_leaves_and_keeps_the_encoder(tmp_path: Path) -> None:
    AcceleratorState._reset_state(reset_partial_state=True)  # as in a process of its own
    torch.manual_seed(0)
    vae, rng = embedded_autoencoder(), random.Random(0)
    worlds = [World.sample(rng, ((0.0, Scene.sample(rng)),)) for _ in range(12)]
    fit_linear(vae, torch.stack([render(w, torch.arange(4) / 16).transpose(0, 1) * 2 - 1 for w in worlds]), 0.75)
    vae.save_pretrained(tmp_path / "vae")
    student = Student.embedded()   # its head is zero: it leaves the noise as it was, so there is much to undo
    student.save(tmp_path / "student")
    config = DecoderTraining(Budget(steps=80), 0.4, clips=3, held_out=3, chunks=1, muon_rate=5e-3, adam_rate=3e-3)
    example = draw_example(random.Random(1), vae, student, config)
    assert float((example.left - example.latents).square().mean()) > 0.05
    trained = train_decoder(tmp_path / "vae", tmp_path / "student", tmp_path / "decoder", config)
    lines = [json.loads(line) for line in (tmp_path / "decoder" / "log.jsonl").read_text().splitlines()]
    before, after = (line["held_out_left_psnr"] for line in lines if "held_out_left_psnr" in line)
    assert after > before + 0.5
    again = load_autoencoder(tmp_path / "decoder" / "vae")
    frames = example.frames[None]
    assert torch.equal(again.encode(frames), vae.encode(frames)), "latents mean what they did"
    assert torch.equal(again.decode(example.latents[None])[0], trained.decode(example.latents[None])[0])

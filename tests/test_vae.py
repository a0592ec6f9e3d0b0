"""The autoencoders: streaming equals the whole, state is never changed in place, bad input is named."""
from __future__ import annotations

import pytest
import torch

from cf_app.model.patch_vae import PatchVideoAutoencoder
from cf_app.model.vae import TinyVideoAutoencoder

Vae = PatchVideoAutoencoder | TinyVideoAutoencoder


def tiny() -> TinyVideoAutoencoder:
    """The taehv kind at a toy size: 8 pixels, 4 frames and 16 channels to a latent cell, too."""
    model = TinyVideoAutoencoder(
        patch_size=2, encoder_widths=(8, 8), encoder_time=(2, 2), encoder_space=(2, 2), encoder_blocks=(1, 1),
        decoder_widths=(8, 8), decoder_time=(2, 2), decoder_space=(2, 2), decoder_blocks=(1, 1), decoder_out=8).eval()
    model.register_to_config(latents_mean=[0.1] * 16, latents_std=[0.7] * 16)
    return model


@pytest.fixture(scope="module", params=["patch", "tiny"])
def vae(request: pytest.FixtureRequest) -> Vae:
    torch.manual_seed(0)
    if request.param == "tiny":
        return tiny()
    model = PatchVideoAutoencoder(width=24, blocks=3).eval()
    for layer in (model.decoder.leave, *(block.down for block in model.decoder.blocks)):
        torch.nn.init.normal_(layer.weight, std=0.05)  # training starts them at zero
    return model


@torch.no_grad()
def test_streamed_decode_equals_whole_decode(vae: Vae) -> None:
    latents = torch.randn(2, 16, 7, 4, 6)
    whole, last = vae.decode(latents, vae.initial_state(2))
    state, parts = vae.initial_state(2), []
    for part in latents.split([3, 1, 3], dim=2):
        frames, state = vae.decode(part, state)
        parts.append(frames)
    assert whole.shape == (2, 3, 28, 32, 48)
    torch.testing.assert_close(torch.cat(parts, 2), whole, atol=1e-5, rtol=1e-5)
    for a, b in zip(state, last, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_decode_leaves_its_state_alone_so_a_fork_replays(vae: Vae) -> None:
    _, state = vae.decode(torch.randn(1, 16, 3, 4, 6))
    kept = [part.clone() for part in state]
    chunk = torch.randn(1, 16, 3, 4, 6)
    first, _ = vae.decode(chunk, state)
    vae.decode(torch.randn(1, 16, 3, 4, 6), state)
    again, _ = vae.decode(chunk, state)
    assert torch.equal(first, again)
    assert all(torch.equal(a, b) for a, b in zip(kept, state, strict=True))


@torch.no_grad()
def test_the_past_matters(vae: Vae) -> None:
    _, state = vae.decode(torch.randn(1, 16, 3, 4, 6))
    chunk = torch.randn(1, 16, 3, 4, 6)
    assert not torch.equal(vae.decode(chunk, state)[0], vae.decode(chunk, None)[0])


@torch.no_grad()
def test_encode_is_normalised_by_the_config() -> None:
    vae, frames = tiny(), torch.rand(1, 3, 8, 32, 48) * 2 - 1
    normalised, plain = vae.encode(frames), tiny()
    plain.load_state_dict(vae.state_dict())
    plain.register_to_config(latents_mean=None, latents_std=None)
    assert normalised.shape == (1, 16, 2, 4, 6)
    torch.testing.assert_close(normalised, (plain.encode(frames) - 0.1) / 0.7, atol=1e-5, rtol=1e-4)


def test_a_broken_count_of_pixel_frames_is_named(vae: Vae) -> None:
    with pytest.raises(ValueError, match=r"10 pixel frames: expected a multiple of 4"):
        vae.encode(torch.zeros(1, 3, 10, 32, 48))


def test_save_and_load_keep_config_and_pictures(vae: Vae, tmp_path) -> None:
    vae.save_pretrained(tmp_path)
    loaded = type(vae).from_pretrained(tmp_path)
    latents = torch.randn(1, 16, 2, 4, 6)
    with torch.no_grad():
        torch.testing.assert_close(loaded.decode(latents)[0], vae.decode(latents)[0], atol=1e-5, rtol=1e-5)
    assert loaded.spatial_scale == 8
    assert loaded.temporal_scale == 4


@torch.no_grad()
def test_an_untrained_patch_decoder_gives_back_the_linear_code() -> None:
    vae, frames = PatchVideoAutoencoder(), torch.rand(1, 3, 8, 16, 32) - 0.5
    linear = vae.code.decode(vae.encode(frames)[0].transpose(0, 1)).clamp(-1, 1)
    torch.testing.assert_close(vae(vae.encode(frames))[0].transpose(0, 1), linear)
    blocks = vae.code.blocks(frames[0].transpose(0, 1))
    assert torch.equal(vae.code.frames(blocks), frames[0].transpose(0, 1)), "a block's pixels come back to their places"


@torch.no_grad()
def test_an_encoder_begins_as_its_projection_and_sees_one_latent_frame_alone() -> None:
    torch.manual_seed(0)
    vae, frames = PatchVideoAutoencoder(width=24, encoder_blocks=2), torch.rand(2, 3, 12, 32, 48) - 0.5
    projected = vae.encode(frames)
    assert projected.shape == (2, 16, 3, 4, 6)
    assert torch.equal(projected, vae.projected(frames))
    assert vae.encoder is not None
    for layer in (vae.encoder.leave, *(block.down for block in vae.encoder.blocks)):
        torch.nn.init.normal_(layer.weight, std=0.05)  # training starts them at zero
    latents = vae.encode(frames)
    assert float((latents - projected).abs().mean()) > 0.01
    parts = torch.cat([vae.encode(part) for part in frames.split(4, dim=2)], 2)
    torch.testing.assert_close(parts, latents, atol=1e-5, rtol=1e-5)
    frames[:, :, :, :8, :8] = 0
    changed = (vae.encode(frames) - latents).abs().amax((1, 2))
    assert bool((changed[:, :3, :3] > 0).all()), "neighbours matter: two blocks see two cells far"
    assert not changed[:, 3:].any() and not changed[:, :, 3:].any()


@torch.no_grad()
def test_what_the_encoder_reads_is_what_the_projection_loses() -> None:
    vae = PatchVideoAutoencoder(latent_channels=8, time=1, space=2, width=12, encoder_blocks=1)
    assert vae.encoder is not None
    vae.code.to_latent.weight.copy_(torch.eye(8, 12))
    vae.code.to_latent.bias.zero_()
    vae.code.to_pixels.weight.copy_(torch.eye(12, 8))
    vae.code.to_pixels.bias.zero_()
    read: list[torch.Tensor] = []
    vae.encoder.enter.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))
    frames = torch.rand(1, 3, 2, 4, 6) - 0.5
    latents = vae.encode(frames)
    rows = vae.code.blocks(frames[0].transpose(0, 1))
    lost, seen = read[0].split((12, 8), -1)
    assert torch.equal(seen[0], rows[..., :8])
    assert torch.equal(seen.movedim(-1, 1), latents), "an untrained encoder adds nothing"
    assert not lost[..., :8].any()
    torch.testing.assert_close(lost[0, ..., 8:], 10 * rows[..., 8:])


def test_a_state_of_another_decoder_is_named(vae: Vae) -> None:
    _, state = vae.decode(torch.randn(1, 16, 3, 4, 6))
    vae.check_state(state)
    vae.check_state(None)
    with pytest.raises(ValueError, match="its decoder keeps frames of"):
        vae.check_state(state[:-1])


def test_default_sizes_are_those_of_taew2_1() -> None:
    """Key names and shapes of github.com/madebyollin/taehv, so that its weights load strictly."""
    shapes = {name: tuple(p.shape) for name, p in TinyVideoAutoencoder().state_dict().items()}
    assert shapes["encoder.0.weight"] == (64, 3, 3, 3)
    assert shapes["encoder.2.conv.weight"] == (64, 128, 1, 1)
    assert shapes["decoder.1.weight"] == (256, 16, 3, 3)
    assert shapes["decoder.3.conv.0.weight"] == (256, 512, 3, 3)
    assert shapes["decoder.7.conv.weight"] == (256, 256, 1, 1)
    assert shapes["decoder.22.weight"] == (3, 64, 3, 3)

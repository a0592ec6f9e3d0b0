"""Wan's autoencoder, streamed."""

from __future__ import annotations

import pytest
import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanUpsample

from cf_app.model.wan_vae import WanVideoAutoencoder


@pytest.fixture(scope="module", params=[None, 2])
def vae(request: pytest.FixtureRequest) -> WanVideoAutoencoder:
    torch.manual_seed(0)
    patch = {} if request.param is None else {"patch_size": 2, "in_channels": 12, "out_channels": 12}
    return WanVideoAutoencoder(
        AutoencoderKLWan(
            base_dim=8,
            z_dim=4,
            dim_mult=[1, 2] if request.param else [1, 1, 2, 2],
            num_res_blocks=1,
            temperal_downsample=[True] if request.param else [False, True, True],
            latents_mean=[0.1] * 4,
            latents_std=[1.5] * 4,
            scale_factor_spatial=4 if request.param else 8,
            scale_factor_temporal=2 if request.param else 4,
            **patch,
        )
    )


def test_streamed_equals_whole(vae: WanVideoAutoencoder) -> None:
    latents = torch.randn(1, 4, 7, 4, 4, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        whole = vae.vae.decode(latents * 1.5 + 0.1).sample
    parts, state = [], vae.initial_state(1)
    other = None
    for chunk in latents.split((3, 3, 1), dim=2):
        kept = None if state is None else [None if item is None else item.clone() for item in state]
        pictures, after = vae.decode(chunk, state)
        vae.decode(-chunk, other)  # another session in between
        _, other = vae.decode(-chunk, other)
        if kept is not None:
            assert state is not None
            assert all(a is b is None or torch.equal(a, b) for a, b in zip(kept, state, strict=True))
        assert pictures.shape[2] == vae.temporal_scale * chunk.shape[2]
        parts.append(pictures)
        state = after
    vae.check_state(None)
    vae.check_state(state)
    with pytest.raises(ValueError, match="decoder keeps frames of"):
        vae.check_state((state or ())[:-1])
    streamed = torch.cat(parts, 2)[:, :, vae.temporal_scale - 1 :]
    torch.testing.assert_close(streamed, whole.clamp(-1, 1), atol=1e-5, rtol=0)
    first = torch.cat(parts, 2)[:, :, : vae.temporal_scale]
    assert (first == first[:, :, :1]).all()


def test_encode(vae: WanVideoAutoencoder) -> None:
    frames = torch.rand(1, 3, 3 * vae.temporal_scale, 16, 16) * 2 - 1
    assert vae.encode(frames).shape == (1, 4, 3, 16 // vae.spatial_scale, 16 // vae.spatial_scale)
    with pytest.raises(ValueError, match="multiple"):
        vae.encode(frames[:, :, 1:])


def test_enlarging_is_exact_in_bfloat16() -> None:
    x = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0)).bfloat16()
    theirs, ours = WanUpsample(scale_factor=(2.0, 2.0), mode="nearest-exact"), None
    vae = WanVideoAutoencoder(AutoencoderKLWan(base_dim=8, z_dim=4, dim_mult=[1, 2], temperal_downsample=[True]))
    for module in vae.vae.decoder.modules():
        assert type(module) is not WanUpsample
        ours = module if isinstance(module, torch.nn.Upsample) else ours
    assert ours is not None and torch.equal(ours(x), theirs(x))

"""The transformer against diffusers' own forward, and its training form."""

from __future__ import annotations

import pytest
import torch
from diffusers import WanTransformer3DModel

from cf_app.model.attention import SelfContext, token_mask
from cf_app.model.causal_wan import causal_forward, encode_text, make_causal, training_forward
from cf_app.model.rope import rope_table, rotate


def tiny_transformer(**changes: object) -> WanTransformer3DModel:
    torch.manual_seed(0)
    config = {
        "patch_size": (1, 2, 2), "num_attention_heads": 3, "attention_head_dim": 32,
        "in_channels": 4, "out_channels": 4,
        "text_dim": 16, "freq_dim": 32, "ffn_dim": 64, "num_layers": 2,
    }
    return WanTransformer3DModel(**{**config, **changes}).eval()


def inputs(batch: int = 2, frames: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(batch, 4, frames, 4, 6, generator=generator)
    return latents, torch.randn(batch, 7, 16, generator=generator)


def test_equals_diffusers_forward() -> None:
    model = tiny_transformer()
    latents, text = inputs()
    timestep = torch.tensor([937.5, 20.0])
    with torch.no_grad():
        expected = model(latents, timestep, text).sample
        make_causal(model)
        again = model(latents, timestep, text).sample
        table = rope_table(32, range(3), 2, 3)
        flow = causal_forward(model, latents, timestep, encode_text(model, text), SelfContext(2, table))
        trained = training_forward(model, latents, timestep[:, None].expand(-1, 3), text, torch.arange(3))
    torch.testing.assert_close(again, expected)
    torch.testing.assert_close(flow, expected, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(trained, expected, atol=2e-5, rtol=1e-4)


def test_timestep_per_latent_frame_equals_diffusers_token_timesteps() -> None:
    model = tiny_transformer()
    latents, text = inputs()
    timesteps = torch.tensor([[1000.0, 500.0, 0.0], [3.0, 700.0, 20.0]])
    with torch.no_grad():
        expected = model(latents, timesteps.repeat_interleave(6, 1), text).sample
        flow = training_forward(model, latents, timesteps, text, torch.arange(3)[None])
    torch.testing.assert_close(flow, expected, atol=2e-5, rtol=1e-4)


def test_block_causal_mask_hides_the_future() -> None:
    model = tiny_transformer()
    latents, text = inputs(frames=6)
    chunk = torch.arange(6) // 3
    mask = token_mask(chunk[:, None] >= chunk[None], 6)
    timesteps = torch.full((2, 6), 500.0)
    with torch.no_grad():
        whole = training_forward(model, latents, timesteps, text, torch.arange(6), mask)
        first = training_forward(model, latents[:, :, :3], timesteps[:, :3], text, torch.arange(3))
        batched = training_forward(model, latents, timesteps, text, torch.arange(6).expand(2, 6), mask[None])
    torch.testing.assert_close(whole[:, :, :3], first, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(batched, whole)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_reach_every_parameter(autocast: bool, checkpointing: bool) -> None:
    model = tiny_transformer().train()
    if checkpointing:
        model.enable_gradient_checkpointing()
    latents, text = inputs()
    text.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        flow = training_forward(model, latents, torch.rand(2, 3) * 1000, text, torch.arange(3))
    assert flow.dtype == torch.float32
    flow.square().mean().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    assert text.grad is not None and text.grad.abs().sum() > 0


def test_rotation_depends_on_distance_only() -> None:
    generator = torch.Generator().manual_seed(0)
    query, key = (torch.randn(1, 1, 1, 32, generator=generator) for _ in range(2))

    def score(first: int, second: int) -> torch.Tensor:
        return (rotate(query, rope_table(32, [first], 1, 1)) * rotate(key, rope_table(32, [second], 1, 1))).sum()

    torch.testing.assert_close(score(20, 3), score(117, 100), atol=1e-4, rtol=1e-4)
    assert (score(20, 3) - score(20, 4)).abs() > 1e-3


def test_refuses_transformers_that_cannot_stream() -> None:
    with pytest.raises(ValueError, match="patch_size"):
        make_causal(tiny_transformer(patch_size=(2, 2, 2)))
    with pytest.raises(ValueError, match="patch size"):
        odd, time, text = torch.zeros(1, 4, 1, 3, 6), torch.zeros(1, 1), torch.zeros(1, 2, 16)
        training_forward(tiny_transformer(), odd, time, text, torch.zeros(1))

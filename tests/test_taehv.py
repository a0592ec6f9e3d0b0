"""Published weights of the taehv kind: pictures in [0, 1] become pictures in [-1, 1]."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cf_app.model.taehv import load_taehv
from cf_app.model.vae import TinyVideoAutoencoder


def test_ranges(tmp_path: Path) -> None:
    torch.manual_seed(0)
    original = TinyVideoAutoencoder().eval()
    torch.save(original.state_dict(), tmp_path / "taew2_1.pth")
    ours = load_taehv(tmp_path / "taew2_1.pth", torch.float32)
    latents = torch.randn(1, 16, 2, 3, 4, generator=torch.Generator().manual_seed(1))
    pictures = torch.rand(1, 3, 4, 48, 48, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = (2 * original.decode(latents)[0] - 1).clamp(-1, 1)
        first, state = ours.decode(latents[:, :, :1])
        torch.testing.assert_close(first, expected[:, :, 3:4].expand(-1, -1, 4, -1, -1))
        torch.testing.assert_close(ours.decode(latents[:, :, 1:], state)[0], expected[:, :, 4:])
        theirs, mine = original.encode(pictures), ours.encode(2 * pictures - 1)
    torch.testing.assert_close(theirs[..., 2:-2, 2:-2], mine[..., 2:-2, 2:-2], atol=1e-2, rtol=0)


def test_more_pictures_than_wanted(tmp_path: Path) -> None:
    """Weights whose first stage doubles the pictures: the later ones count."""
    state = TinyVideoAutoencoder().state_dict()
    key = "decoder.7.conv.weight"
    twice = {**state, key: torch.cat((torch.zeros_like(state[key]), state[key]))}
    torch.save(twice, tmp_path / "taew2_1.pth")
    assert torch.equal(load_taehv(tmp_path / "taew2_1.pth", torch.float32).state_dict()[key], state[key])


def test_other_weights(tmp_path: Path) -> None:
    torch.save(TinyVideoAutoencoder(latent_channels=8).state_dict(), tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other\.pth is no taehv decoder"):
        load_taehv(tmp_path / "other.pth", torch.float32)

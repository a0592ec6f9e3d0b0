"""Published weights of the taehv kind (``taew2_1``: github.com/madebyollin/taehv) in our tiny autoencoder.

They read Wan's normalised latents as they are and make pictures in [0, 1]; ours are in [-1, 1], so the decoder's last
layer is scaled. The encoder's first layer is too; at the picture's edge, where it sees zeros, that is not exact.
Wan's first latent frame stands for one picture, and the first three that these decoders make of it are to be dropped
(``frames_to_trim`` in taehv.py); the fourth is shown in their place, so that a chunk always lasts the same time.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from cf_app.model.checkpoints import read_file
from cf_app.model.vae import State, TinyVideoAutoencoder


class TaehvAutoencoder(TinyVideoAutoencoder):
    """The tiny autoencoder at the sizes of the published weights, with Wan's alignment in time."""

    def decode(self, latents: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """See ``TinyVideoAutoencoder.decode``; the first latent frame of all makes one picture, shown four times."""
        pictures, after = super().decode(latents, state)
        if state is None:
            scale = self.temporal_scale
            still = pictures[:, :, scale - 1 : scale].expand(-1, -1, scale, -1, -1)
            pictures = torch.cat((still, pictures[:, :, scale:]), 2)
        return pictures, after


def load_taehv(path: Path, dtype: torch.dtype) -> TaehvAutoencoder:
    """The autoencoder with the weights of ``path`` (.pth or .safetensors).

    Raises:
        ValueError: the file is damaged, or of another size than the one for Wan 2.1.
    """
    state = {key: value for key, value in read_file(path).items() if isinstance(value, Tensor)}
    vae = TaehvAutoencoder()
    expected = {key: tuple(value.shape) for key, value in vae.state_dict().items()}
    for key in [key for key in state if key.startswith("decoder.") and key in expected]:
        # Weights that were trained to make more pictures: the last of them are the ones meant (taehv.py).
        count, rest = expected[key][0], expected[key][1:]
        if rest[1:] == (1, 1) and state[key].shape[1:] == rest and state[key].shape[0] > count:
            state[key] = state[key][-count:]
    wrong = sorted(
        {key for key in state if expected.get(key) != tuple(state[key].shape)} | (expected.keys() - state.keys())
    )
    if wrong:
        raise ValueError(f"{path} is no taehv decoder for Wan 2.1: {', '.join(wrong[:4])} differ")
    state = {key: value.float() for key, value in state.items()}
    last = max(int(key.split(".")[1]) for key in state if key.startswith("decoder."))
    state[f"decoder.{last}.weight"] = 2 * state[f"decoder.{last}.weight"]
    state[f"decoder.{last}.bias"] = 2 * state[f"decoder.{last}.bias"] - 1
    first = state["encoder.0.weight"]
    state["encoder.0.bias"] = state["encoder.0.bias"] + first.sum((1, 2, 3)) / 2
    state["encoder.0.weight"] = first / 2
    vae.load_state_dict(state)
    return vae.to(dtype).eval()

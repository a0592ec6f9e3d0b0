"""From prompts to text states, cached per prompt, and mixtures of them."""

from __future__ import annotations

import html
from collections import OrderedDict
from collections.abc import Iterable
from typing import Protocol

import torch
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase, UMT5EncoderModel

_CACHED_PROMPTS = 64


class PromptEncoder(Protocol):
    """Whatever makes text states of a prompt."""

    def encode(self, prompt: str) -> Tensor:
        """Text states [1, max_length, text_dim], zero rows after the prompt's end."""
        ...


class TextEncoder:
    """UMT5 and its tokenizer.

    Args:
        max_length: text tokens; longer prompts are cut, shorter ones padded with zero rows. The transformer attends to
            the zero rows too, so the length is part of the model.
        device, dtype: where and as what the states are wanted.
        visits: the encoder stays where it is (main memory) and goes to ``device`` only while it encodes.
    """

    def __init__(
        self,
        encoder: UMT5EncoderModel,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        device: torch.device,
        dtype: torch.dtype,
        *,
        visits: bool = False,
    ) -> None:
        self.encoder, self.tokenizer, self.max_length, self.visits = encoder.eval(), tokenizer, max_length, visits
        self.device, self.dtype = device, dtype
        self._cache: OrderedDict[str, Tensor] = OrderedDict()

    @torch.no_grad()
    def encode(self, prompt: str) -> Tensor:
        """See ``PromptEncoder``."""
        clean = " ".join(html.unescape(html.unescape(prompt)).split())
        if clean in self._cache:
            self._cache.move_to_end(clean)
            return self._cache[clean]
        states = self._states(clean)
        self._cache[clean] = states
        while len(self._cache) > _CACHED_PROMPTS:
            self._cache.popitem(last=False)
        return states


    def _states(self, prompt: str) -> Tensor:
        home = self.encoder.device
        try:
            if self.visits:
                self.encoder.to(self.device)
            tokens = self.tokenizer(
                [prompt], padding="max_length", truncation=True, max_length=self.max_length, return_tensors="pt"
            ).to(self.encoder.device)
            states = self.encoder(tokens.input_ids, attention_mask=tokens.attention_mask).last_hidden_state
            return (states * tokens.attention_mask[..., None]).to(self.device, self.dtype)
        finally:
            if self.visits:
                self.encoder.to(home)


def mixed_states(encoder: PromptEncoder, folds: Iterable[tuple[str, float]], method: str) -> Tensor:
    """One text state of several prompts.

    Args:
        folds: (prompt, t) in order, from ``Prompting.folds``: start with the first, then move by t towards the next.
        method: "linear", or "spherical" per text token.
    """
    state: Tensor | None = None
    for prompt, weight in folds:
        target = encoder.encode(prompt)
        if state is None:
            state = target
        else:
            state = torch.lerp(state, target, weight) if method == "linear" else slerp(state, target, weight)
    if state is None:
        raise ValueError("there is no prompt to encode, expected at least one")
    return state


def slerp(start: Tensor, end: Tensor, weight: float) -> Tensor:
    """Spherical interpolation along the last axis; linear where the directions agree or a vector is zero."""
    first, second = start.double(), end.double()
    norms = first.norm(dim=-1, keepdim=True) * second.norm(dim=-1, keepdim=True)
    cosine = (first * second).sum(-1, keepdim=True) / norms.clamp_min(1e-12)
    angle = torch.arccos(cosine.clamp(-1, 1))
    straight = (norms < 1e-12) | (angle.sin() < 1e-4)
    scale = torch.where(straight, torch.ones_like(angle), angle.sin())
    near = torch.where(straight, torch.full_like(angle, 1 - weight), ((1 - weight) * angle).sin() / scale)
    far = torch.where(straight, torch.full_like(angle, weight), (weight * angle).sin() / scale)
    return (near * first + far * second).to(start.dtype)


__all__ = [
    "AutoTokenizer",
    "PreTrainedTokenizerBase",
    "PromptEncoder",
    "TextEncoder",
    "UMT5EncoderModel",
    "mixed_states",
    "slerp",
]

"""Cross-attention keys and values of what chunks are asked to show; the last few are kept."""

from __future__ import annotations

from collections import OrderedDict

import torch

from cf_app.engine.timeline import Prompting
from cf_app.model.attention import TextKV
from cf_app.model.causal_wan import WanTransformer3DModel, encode_text
from cf_app.model.text_encoder import PromptEncoder, mixed_states

_KEPT = 4


class Texts:
    """Shared by all sessions of an engine; used under its lock."""

    def __init__(self, transformer: WanTransformer3DModel, encoder: PromptEncoder) -> None:
        self._transformer, self._encoder = transformer, encoder
        self._kept: OrderedDict[tuple[object, ...], TextKV] = OrderedDict()

    def __call__(self, prompting: Prompting, device: torch.device, dtype: torch.dtype) -> TextKV:
        """Keys and values of a prompt, or of a mixture of prompts."""
        folds = tuple(prompting.folds())
        key = (prompting.method, folds)
        if key not in self._kept:
            states = mixed_states(self._encoder, folds, prompting.method)
            self._kept[key] = encode_text(self._transformer, states.to(device, dtype))
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]

    def clear(self) -> None:
        """Forget all."""
        self._kept.clear()

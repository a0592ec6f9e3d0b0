"""Networks: the causal transformer, its attention, text encoder and video autoencoders. They hold no session state."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def _hidden(*names: str) -> Iterator[None]:
    """Make ``import name`` fail meanwhile (``sys.modules[name] = None`` is Python's documented way to say so)."""
    unseen = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(unseen))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in unseen:
            del sys.modules[name]


# diffusers and transformers import these wherever they are installed, for their own quantizers: seconds of every start.
# This app uses them directly, and only when a quantization is asked for.
with _hidden("bitsandbytes", "torchao"):
    import diffusers.models.transformers.transformer_wan  # noqa: F401
    import transformers.models.umt5.modeling_umt5  # noqa: F401
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging


def no_progress_bars() -> None:
    """diffusers and transformers show one bar per part that they load, and each is gone in a blink."""
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()

"""Context Forcing, live: steerable video that streams chunk by chunk and remembers.

::

    import cf_app

    engine = cf_app.load()
    session = engine.new_session(prompt="a red ball hops through the meadow at sunset", seed=1)
    for chunk in session.stream(seconds=20):
        chunk.frames  # uint8 [12, height, width, 3]
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from cf_app.engine.engine import Engine

__version__ = "0.1.0"
__all__ = ["__version__", "load"]


def load(
    model: str | Path | None = None,
    *,
    device: str | None = None,
    dtype: str | None = None,
    quant: str = "auto",
    vram: float | None = None,
    threads: int | None = None,
    decoder: str | None = None,
    random_weights: bool = False,
) -> Engine:
    """Load a model and return the engine that runs it.

    Args:
        model: folder or file of a checkpoint, name of a released student (downloaded and converted at the first time),
            or None for the embedded model.
        device: "cpu", "cuda", ... ; None takes a GPU where there is one.
        dtype: "float32" or "bfloat16" for the transformer; None takes what the device runs best.
        quant: "none", "int8", "nf4", "fp8", a choice per component ("transformer=int8,text=nf4,kv=fp8,lean"), or
            "auto", the best that fits the card.
        vram: gigabytes of the card to use, all that are free by default.
        decoder: file of taehv weights (taew2_1) to decode with instead of the model's own autoencoder.
        random_weights: a released student at full size without its weights, to measure; ``decoder`` is "wan" or "tiny".
        threads: CPU threads of an operation (of the whole process); None leaves half of the cores for decoding.

    Raises:
        ValueError: unknown model, missing or damaged files, unknown scheme; one line that says what to do.
    """
    # Imported here so that the plain data of the package (messages, snapshots, timelines) stays usable without torch.
    from cf_app.weights import load_engine

    return load_engine(
        model,
        device=device,
        dtype=dtype,
        quant=quant,
        vram=vram,
        threads=threads,
        decoder=decoder,
        random_weights=random_weights,
    )

"""Context Forcing, live: steerable video that streams chunk by chunk and remembers.

::

    import cf_app

    engine = cf_app.load()
    session = engine.new_session(prompt="a red ball hops through the meadow at sunset", seed=1)
    for chunk in session.stream(seconds=20):
        chunk.frames  # uint8 [12, height, width, 3]

``cf_app.load`` is ``cf_app.weights.load_engine``; ``cf_app.wish.Wish`` describes what it takes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cf_app.weights import load_engine as load

__version__ = "0.1.0"
__all__ = ["__version__", "load"]


def __getattr__(name: str) -> Any:
    # Fetched when it is asked for (PEP 562), so that the plain data of the package (messages, snapshots, timelines)
    # stays usable without torch.
    if name == "load":
        from cf_app.weights import load_engine

        return load_engine
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

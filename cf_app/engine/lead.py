"""How many chunks to make before anyone asks for them.

What has been made ahead can not follow a change of prompt any more, so less is better; but a chunk that comes late is a
stall. A chunk that takes a small part of the time that it plays needs no lead at all: it is begun when the browser asks
for it, which is early enough (``assets/pace.js``).
"""

from __future__ import annotations

# Share of its playing time that making a chunk may take: up to the first, none is made ahead; up to the second, one.
ON_DEMAND, ONE_AHEAD = 0.6, 0.85
_FADE = 0.97  # per chunk: a slow chunk is remembered for about 20 chunks, a quarter of a minute
_WARM_UP = 1  # chunks that say nothing about the pace: the first one has its prompt to encode


class Lead:
    """Lead of one session, from the time that its chunks took.

    Args:
        most: chunks, where the engine is slow or its pace is not known yet; at least 1.
        chunk_seconds: how long a chunk plays.
        adaptive: False keeps it at ``most``.
    """

    def __init__(self, most: int, chunk_seconds: float, *, adaptive: bool = True) -> None:
        self.most, self.chunk_seconds, self.adaptive = most, chunk_seconds, adaptive
        self._seen = 0
        self._slowest = 0.0

    def took(self, seconds: float) -> None:
        """A chunk was ready ``seconds`` after it was begun."""
        self._seen += 1
        if self._seen > _WARM_UP:
            self._slowest = max(_FADE * self._slowest, seconds)

    def chunks(self, sharing: int = 1) -> int:
        """How many to make ahead while ``sharing`` sessions take turns: 0 .. most."""
        if not self.adaptive or self._seen <= _WARM_UP:
            return self.most
        share = self._slowest * max(1, sharing) / self.chunk_seconds
        if share <= ON_DEMAND:
            return 0
        return 1 if share <= ONE_AHEAD else self.most

"""How many chunks to make before anyone asks for them.

What has been made ahead can not follow a change of prompt any more, so less is better; but a chunk that comes late is a
stall. The page asks early enough for chunks that take longer now and then (``assets/pace.js``): it sees all that a
chunk goes through on its way to the screen. Ahead of being asked is only for an engine that is busy nearly all the
time, which can not afford to wait for a question. That is a matter of the mean, not of the slowest chunk.
"""

from __future__ import annotations

# Share of its playing time that making a chunk may take: up to the first, none is made ahead; up to the second, one.
ON_DEMAND, ONE_AHEAD = 0.8, 0.95
_WEIGHT = 1 / 8  # of the newest chunk in the mean
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
        self._mean = 0.0

    def took(self, seconds: float) -> None:
        """A chunk was ready ``seconds`` after it was begun."""
        self._seen += 1
        if self._seen > _WARM_UP:
            self._mean += (seconds - self._mean) * max(_WEIGHT, 1 / (self._seen - _WARM_UP))

    def chunks(self, sharing: int = 1) -> int:
        """How many to make ahead while ``sharing`` sessions take turns: 0 .. most."""
        if not self.adaptive or self._seen <= _WARM_UP:
            return self.most
        share = self._mean * max(1, sharing) / self.chunk_seconds
        if share <= ON_DEMAND:
            return 0
        return 1 if share <= ONE_AHEAD else self.most

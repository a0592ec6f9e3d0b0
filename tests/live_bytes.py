"""Counts the bytes of live tensors on the meta device: what a full-size model would hold, without computing it."""

from __future__ import annotations

from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Use it in a ``with`` statement; ``now()`` is what lives of what was made within, ``peak`` the most so far."""

    def __init__(self) -> None:
        super().__init__()
        self.peak, self._upper = 0, 0
        self._held: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and tensor.device.type == "meta":
                storage = tensor.untyped_storage()
                key, known = storage._cdata, self._held.get(storage._cdata)
                if known is None or known[0].expired():
                    self._held[key] = (StorageWeakRef(storage), storage.nbytes())
                    self._upper += storage.nbytes()
        if self._upper > self.peak:  # an upper bound: what has gone is not taken off before it matters
            self.peak = max(self.peak, self.now())
        return out

    def now(self) -> int:
        """Bytes that live."""
        self._held = {key: item for key, item in self._held.items() if not item[0].expired()}
        self._upper = sum(size for _, size in self._held.values())
        return self._upper

    def reset(self) -> int:
        """Forget the peak; returns what lives."""
        self.peak = self.now()
        return self.peak

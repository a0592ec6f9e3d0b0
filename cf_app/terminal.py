"""Keeps other packages' start-up remarks off the terminal. Call ``quiet()`` before anything imports torch."""

from __future__ import annotations

import logging
import sys
import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cf_app.hub import Progress

# Their own set-up resets the level of the packages' top loggers, so the ones that speak are named.
_TALKATIVE = (
    "torchao",
    "torch.utils._pytree",
    "diffusers.quantizers.torchao.torchao_quantizer",
    "bitsandbytes",
    "bitsandbytes.backends.cpu.ops",
    "bitsandbytes.cextension",
    "transformers.modeling_utils",
    "transformers.integrations.tensor_parallel",
    "transformers.distributed.tensor_parallel",
)


def quiet() -> None:
    """Only errors of other packages show; this app's own log shows from warnings on."""
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")


def told(progress: Progress) -> None:
    """Write what has been chosen or begun as a line; huggingface_hub shows the bars of downloads itself."""
    if not progress.total:
        sys.stderr.write(f"{progress.label}\n")

"""One table of quantization schemes, for the transformer's and the text encoder's matrices.

``int8`` and ``nf4`` are bitsandbytes', ``fp8`` is torchao's. Both run on CPUs too, slowly, which is what tests use.
Only the products inside the blocks are quantized: embeddings, norms, modulation and the head stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

# bitsandbytes packs so many rows and columns together on a CPU; matrices that do not fit stay as they are.
_NF4_ROWS, _NF4_COLUMNS = 32, 64


@dataclass(frozen=True)
class Scheme:
    """A way to store matrices.

    Attributes:
        bytes_per_weight: of a quantized matrix, scales included.
        package: what has to be installed; "" for nothing.
    """

    name: str
    title: str
    bytes_per_weight: float
    package: str = ""


SCHEMES = {
    scheme.name: scheme
    for scheme in (
        Scheme("none", "as loaded (bfloat16 on a GPU)", 2.0),
        Scheme("int8", "8-bit integers, row-wise (bitsandbytes)", 1.0, "bitsandbytes"),
        Scheme("nf4", "4-bit normal float, blocks of 64 (bitsandbytes)", 0.57, "bitsandbytes"),
        Scheme("fp8", "8-bit floats, row-wise (torchao; compute capability 8.9 and later)", 1.0, "torchao"),
    )
}


def scheme_named(name: str) -> Scheme:
    """The scheme; ValueError if there is none of that name."""
    if name not in SCHEMES:
        raise ValueError(f"quant is {name!r}, expected one of {', '.join(SCHEMES)}")
    return SCHEMES[name]


def check_scheme(name: str, device: torch.device) -> Scheme:
    """The scheme, if it can run here.

    Raises:
        ValueError: unknown, its package is not installed, or the GPU is too old for it.
    """
    scheme = scheme_named(name)
    if scheme.package:
        try:
            __import__(scheme.package)
        except ImportError as error:
            raise ValueError(f"quant {name} needs {scheme.package}: pip install {scheme.package}") from error
    if name == "fp8" and device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 9):
        found = ".".join(map(str, torch.cuda.get_device_capability(device)))
        raise ValueError(f"quant fp8 needs compute capability 8.9 or later, this GPU has {found}: use int8 or nf4")
    return scheme


def quantize_linears(module: nn.Module, name: str, device: torch.device, skip: tuple[str, ...] = ()) -> int:
    """Replace the matrices of ``module`` in place and move it to ``device``.

    Args:
        skip: names of sub-modules (last part) that stay as they are.

    Returns:
        number of replaced matrices.
    """
    scheme = check_scheme(name, device)
    if scheme.name == "none":
        module.to(device)
        return 0
    if scheme.name == "fp8":
        return _torchao_fp8(module, device, skip)
    make = _int8 if scheme.name == "int8" else _nf4
    count = 0
    for parent in list(module.modules()):
        for child_name, child in list(parent.named_children()):
            if type(child) is not nn.Linear or child_name in skip:
                continue
            if scheme.name == "int8" or not (child.out_features % _NF4_ROWS or child.in_features % _NF4_COLUMNS):
                setattr(parent, child_name, make(child))
                count += 1
    module.to(device)
    return count


def _int8(linear: nn.Linear) -> nn.Module:
    import bitsandbytes

    new = bitsandbytes.nn.Linear8bitLt(
        linear.in_features, linear.out_features, linear.bias is not None, has_fp16_weights=False, threshold=0.0
    )
    new.weight = bitsandbytes.nn.Int8Params(linear.weight.data, requires_grad=False, has_fp16_weights=False)
    new.bias = linear.bias
    return new.requires_grad_(False)


def _nf4(linear: nn.Linear) -> nn.Module:
    import bitsandbytes

    new = bitsandbytes.nn.Linear4bit(
        linear.in_features,
        linear.out_features,
        linear.bias is not None,
        compute_dtype=linear.weight.dtype,
        quant_type="nf4",
    )
    new.weight = bitsandbytes.nn.Params4bit(linear.weight.data, requires_grad=False, quant_type="nf4", module=new)
    new.bias = linear.bias
    return new.requires_grad_(False)


def _torchao_fp8(module: nn.Module, device: torch.device, skip: tuple[str, ...]) -> int:
    from torchao.quantization import (
        Float8DynamicActivationFloat8WeightConfig,
        Float8WeightOnlyConfig,
        PerRow,
        quantize_,
    )

    chosen: list[str] = []

    def wanted(child: nn.Module, name: str) -> bool:
        fits = type(child) is nn.Linear and name.rsplit(".", 1)[-1] not in skip
        if fits and name not in chosen:
            chosen.append(name)
        return fits

    module.to(device)
    if device.type == "cuda":
        config: object = Float8DynamicActivationFloat8WeightConfig(granularity=PerRow())
    else:
        config = Float8WeightOnlyConfig()
    quantize_(module, config, filter_fn=wanted)
    return len(chosen)


def relative_error(reference: Callable[[], torch.Tensor], quantized: Callable[[], torch.Tensor]) -> float:
    """Root mean square of the difference over that of the reference."""
    with torch.no_grad():
        expected, found = reference().float(), quantized().float()
    return float((found - expected).square().mean().sqrt() / expected.square().mean().sqrt())

"""A LoRA beside the weights instead of in them: its strength can change, and quantized weights can have one.

``checkpoints.merge_lora`` is the other way: into the weights of a checkpoint, before anything is made of them.
"""

from __future__ import annotations

from torch import Tensor, nn

from cf_app.model.checkpoints import State, diffusers_name, lora_layers


class Branch(nn.Module):
    """y = layer(x) + strength * B A x. ``strength`` is scale * alpha / rank."""

    down: Tensor
    up: Tensor

    def __init__(self, layer: nn.Module, down: Tensor, up: Tensor, strength: float) -> None:
        super().__init__()
        self.layer, self.strength = layer, strength
        self.register_buffer("down", down, persistent=False)
        self.register_buffer("up", up, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Like the layer's own."""
        low = nn.functional.linear(x.to(self.down.dtype), self.down)
        return self.layer(x) + self.strength * nn.functional.linear(low, self.up).to(x.dtype)


def attach_lora(transformer: nn.Module, lora: State, *, scale: float = 1.0, alpha: float | None = None) -> int:
    """Put a LoRA (``checkpoints.lora_state``) beside the weights of diffusers' transformer; call it after quantizing.

    Args:
        alpha: None: it equals the rank.

    Returns:
        number of adapted layers.

    Raises:
        ValueError: it adapts layers that the transformer does not have, or other sizes; nothing is changed then.
    """
    reference = next(parameter for parameter in transformer.parameters() if parameter.is_floating_point())
    found: list[tuple[nn.Module, str, Branch]] = []
    for name, down, up in lora_layers(lora):
        path, _, last = diffusers_name(f"{name}.weight").removesuffix(".weight").rpartition(".")
        try:
            parent = transformer.get_submodule(path)
            layer = parent.get_submodule(last)
        except AttributeError as error:
            raise ValueError(f"the LoRA does not fit the model: there is no layer {name}") from error
        if not isinstance(layer, nn.Linear) or (up.shape[0], down.shape[1]) != (layer.out_features, layer.in_features):
            raise ValueError(f"the LoRA does not fit the model: layer {name} has another size")
        rank = down.shape[0]
        down, up = (tensor.to(reference.device, reference.dtype) for tensor in (down, up))
        found.append((parent, last, Branch(layer, down, up, scale * (rank if alpha is None else alpha) / rank)))
    for parent, last, branch in found:
        setattr(parent, last, branch)
    return len(found)

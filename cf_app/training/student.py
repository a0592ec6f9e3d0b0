"""The embedded student: its sizes, its prompts as text states, and what all of its stages share."""
from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, WanTransformer3DModel
from torch import Tensor, nn
from transformers import UMT5EncoderModel

from ..model.attention import KVContext, TextKV, attend
from ..model.causal_wan import causal_forward, encode_text, make_causal, token_grid
from ..model.rope import rope_table
from .muon import Muon, split_parameters
from .text import MAX_LENGTH, embedded_text_encoder, embedded_tokenizer, save_text

SHIFT = 2.0
TIMESTEPS = (1000, 750, 500, 250)
TRAINED_TIMESTEPS = (1000, 875, 750, 625, 500, 375, 250, 125)   # training dwells on these: 4 or 8 steps work


def student_levels(shift: float = SHIFT, timesteps: Sequence[int] = TIMESTEPS) -> tuple[float, ...]:
    """The noise levels at which the few-step student is asked: the warped timesteps, divided by 1000."""
    return tuple(shift * t / 1000 / (1 + (shift - 1) * t / 1000) for t in timesteps)


def embedded_transformer() -> WanTransformer3DModel:
    """192 wide, 8 layers, 3 heads, 40 tokens a latent frame: 5 M parameters of Wan's own architecture."""
    return WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=3, attention_head_dim=64, in_channels=16, out_channels=16,
        text_dim=128, freq_dim=256, ffn_dim=768, num_layers=8, cross_attn_norm=True, eps=1e-6)


def short_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """`attend` by plain matrix products: [B, Tq, H, D] in and out, no mask.

    With gradients, on a CPU and at the embedded model's few hundred tokens twice as fast as the fused kernel.
    """
    assert mask is None
    q, k, v = (x.transpose(1, 2) for x in (query, key, value))
    weights = torch.softmax((q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2), -1)
    return (weights @ v).transpose(1, 2)


class Student(nn.Module):
    """Transformer and text encoder, trained together."""

    def __init__(self, transformer: WanTransformer3DModel, text_encoder: UMT5EncoderModel) -> None:
        super().__init__()
        kernel = attend if torch.cuda.is_available() else short_attention
        self.transformer, self.text_encoder = make_causal(transformer, kernel), text_encoder
        self.tokenizer = embedded_tokenizer()

    def forward(self, function: Callable[..., Tensor], *args: object) -> Tensor:
        """`function(self, *args)`: a stage's loss runs inside forward, where wrappers for many devices hook in."""
        return function(self, *args)

    @staticmethod
    def embedded() -> Student:
        """Fresh random weights at the embedded sizes; the head starts at zero so that the first flow is zero."""
        student = Student(embedded_transformer(), embedded_text_encoder(len(embedded_tokenizer())))
        nn.init.zeros_(student.transformer.proj_out.weight)
        nn.init.zeros_(student.transformer.proj_out.bias)
        return student

    def text_keys_values(self, prompts: Sequence[str]) -> TextKV:
        """Cross-attention keys and values of every layer for a batch of prompts."""
        return encode_text(self.transformer, self.text_states(prompts))

    def flow(self, x: Tensor, sigma: Tensor, text: TextKV, context: KVContext) -> Tensor:
        """The flow of chunks [B, C, 3, Y, X] at noise level sigma [B] (0 to 1), float32."""
        return causal_forward(self.transformer, x, sigma * 1000, text, context).float()

    def rope(self, positions: Sequence[int], latents: Tensor) -> Tensor:
        """Rotation of the tokens of latent frames at `positions`, for the size of `latents` [..., Y, X]."""
        rows, columns = token_grid(self.transformer, latents.shape[-2], latents.shape[-1])
        return rope_table(self.transformer.config.attention_head_dim, positions, rows, columns, device=latents.device)

    def text_states(self, prompts: Sequence[str]) -> Tensor:
        """[B, MAX_LENGTH, text_dim], rows beyond a prompt's end zero (they are attended to, as Wan does)."""
        device = self.transformer.device
        tokens = self.tokenizer(list(prompts), padding="max_length", truncation=True, max_length=MAX_LENGTH,
                                return_tensors="pt").to(device)
        states = self.text_encoder(tokens.input_ids, attention_mask=tokens.attention_mask).last_hidden_state
        return states * tokens.attention_mask[..., None]

    def optimizers(self, muon_rate: float, adam_rate: float) -> list[torch.optim.Optimizer]:
        """Muon for the matrices inside the blocks, AdamW for the rest."""
        names = ("patch_embedding", "condition_embedder", "proj_out", "scale_shift_table", "shared", "embed_tokens",
                 "relative_attention_bias")
        matrices, rest = split_parameters(self, names)
        return [Muon(matrices, muon_rate), torch.optim.AdamW(rest, adam_rate, betas=(.9, .98), weight_decay=0.0)]

    def save(self, folder: Path) -> None:
        """Writes `transformer/`, `text_encoder/`, `tokenizer/` and `scheduler/` in bfloat16 where they are weights."""
        bf16 = Student.embedded()
        bf16.load_state_dict(self.state_dict())
        bf16.to(torch.bfloat16)
        bf16.transformer.save_pretrained(folder / "transformer")
        save_text(folder, self.tokenizer, bf16.text_encoder)
        FlowMatchEulerDiscreteScheduler(shift=SHIFT, stochastic_sampling=True).save_pretrained(folder / "scheduler")

    @staticmethod
    def load(folder: Path) -> Student:
        """What `save` wrote, in float32."""
        return Student(WanTransformer3DModel.from_pretrained(folder / "transformer", torch_dtype=torch.float32),
                       UMT5EncoderModel.from_pretrained(folder / "text_encoder", dtype=torch.float32))


def write_json(path: Path, value: object) -> None:
    """Pretty JSON with a final newline."""
    path.write_text(json.dumps(value, indent=2) + "\n")

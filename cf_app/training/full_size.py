"""The training at the paper's size: Wan-1.3B student and critic, a teacher with LoRA, 480 x 832, rollouts over 20 s.

Sizes and rates are the released configuration's. `measure_step` runs one step of stage 2 with random weights and says
what it costs: no data, no download. What a real run needs besides (prompts as UMT5 states, Wan's weights, recorded
latents for the teacher) is not here.
"""
from __future__ import annotations

import random
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from accelerate import Accelerator
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn

from ..model.attention import attend
from ..model.causal_wan import WanTransformer3DModel, make_causal
from ..random_weights import RandomText, random_transformer
from ..students import STUDENTS, WAN_GEOMETRY, WAN_TEXT_LENGTH
from .dmd import Distillation, Trio, distill_step, frozen
from .loop import Budget
from .setup import Rates, learner
from .student import Student, embedded_transformer

# q, k, v, o of self- and cross-attention, and both layers of the feed-forward network.
LORA_TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2")


STAGE_TWO = Distillation(
    Budget(steps=500), videos=1, targets=7, first=28, last=35, ramp=600, guidance=5.0, shift=5.0,
    size=(WAN_GEOMETRY.latent_channels, WAN_GEOMETRY.latent_height, WAN_GEOMETRY.latent_width),
    student_rates=Rates(0.0, 2e-6, ema=0.99), critic_rates=Rates(0.0, 4e-7))


@dataclass(frozen=True)
class FullScale:
    """What the released training uses. Stage 2 is `distillation`; `accumulate` batches of one video on each of 8 GPUs
    make a batch of 64."""

    lora_rank: int = 128
    lora_alpha: int = 128
    teacher_rate: float = 1e-4
    accumulate: int = 8
    distillation: Distillation = STAGE_TWO


class FullNetwork(Student):
    """A full-size transformer in the place of the embedded student: prompts come as ready text states.

    Args:
        states: prompts -> text states [B, S, text_dim].
    """

    def __init__(self, transformer: WanTransformer3DModel, states: Callable[[Sequence[str]], Tensor]) -> None:
        nn.Module.__init__(self)
        self.transformer = make_causal(transformer, attend)
        self.transformer.enable_gradient_checkpointing()
        self._states = states

    def text_states(self, prompts: Sequence[str]) -> Tensor:
        """See `Student`."""
        return self._states(prompts)

    def optimizers(self, muon_rate: float, adam_rate: float) -> list[torch.optim.Optimizer]:
        """AdamW alone, with the released betas of a distilled student; `muon_rate` is not used."""
        return [torch.optim.AdamW((p for p in self.parameters() if p.requires_grad), adam_rate, betas=(.5, .95))]

    def save(self, folder: Path) -> None:
        """Writes `transformer/`."""
        self.transformer.save_pretrained(folder / "transformer")


def with_lora(transformer: WanTransformer3DModel, rank: int, alpha: int) -> WanTransformer3DModel:
    """Freezes `transformer` and puts trainable low-rank adapters of every attention and feed-forward layer into it."""
    transformer.requires_grad_(False)
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(LORA_TARGETS)), transformer)
    return transformer


def networks(config: FullScale, device: torch.device, tiny: bool = False) -> list[FullNetwork]:
    """Student, critic (float32) and teacher (bfloat16, with LoRA), all with random weights."""
    def transformer(dtype: torch.dtype) -> WanTransformer3DModel:
        if tiny:
            with torch.device(device):
                return embedded_transformer().to(dtype=dtype)
        return random_transformer(STUDENTS["context-forcing"], device, dtype)

    def states(wan: WanTransformer3DModel) -> Callable[[Sequence[str]], Tensor]:
        dtype, linear = wan.patch_embedding.weight.dtype, wan.condition_embedder.text_embedder.linear_1
        text = RandomText(WAN_TEXT_LENGTH, linear.in_features, device, torch.float32)
        return lambda prompts: torch.cat([text.encode(prompt) for prompt in prompts]).to(dtype)

    student, critic = transformer(torch.float32), transformer(torch.float32)
    teacher = with_lora(transformer(torch.bfloat16), config.lora_rank, config.lora_alpha)
    return [FullNetwork(wan, states(wan)) for wan in (student, critic, teacher)]


def tiny_scale() -> FullScale:
    """The same at toy size, for a test on a CPU."""
    full = FullScale(lora_rank=4, lora_alpha=4)
    return replace(full, distillation=replace(full.distillation, targets=1, first=2, last=2, size=(16, 4, 4)))


def measure_step(config: FullScale, chunks: int | None = None, tiny: bool = False) -> dict[str, float | str]:
    """One step of stage 2 that updates both student and critic, on the device that accelerate chooses.

    Args:
        chunks: length of the rollout; None for the configuration's first one.

    Raises:
        ValueError: it does not fit on the GPU, or the rollout is shorter than its targets.
    """
    stage = config.distillation
    if chunks is not None:
        if chunks < stage.targets:
            raise ValueError(f"a rollout of {chunks} chunks: expected at least its {stage.targets} targets")
        stage = replace(stage, first=chunks, last=chunks)
    accelerator = Accelerator(mixed_precision="bf16")
    begun = time.perf_counter()
    try:
        student, critic, teacher = networks(config, accelerator.device, tiny)
        trio = Trio(accelerator, learner(accelerator, student, stage.student_rates),
                    learner(accelerator, critic, stage.critic_rates), frozen(teacher, accelerator.device))
        loaded = memory_gib(accelerator.device)
        ready = time.perf_counter()
        losses = distill_step(trio, stage, 0, random.Random(0))
    except torch.OutOfMemoryError as error:
        raise ValueError(f"stage 2 does not fit on this GPU ({error}): shorten it with --chunks, or shard it over "
                         "several with accelerate launch --config_file cf_app/training/accelerate/fsdp.yaml") from error
    name = torch.cuda.get_device_name() if accelerator.device.type == "cuda" else "CPU"
    return {"device": name, "parameters (1e9)": sum(p.numel() for p in student.parameters()) / 1e9,
            "chunks": float(losses["chunks"]), "networks loaded, GiB": loaded,
            "peak of the step, GiB": memory_gib(accelerator.device), "load, s": ready - begun,
            "step, s": time.perf_counter() - ready, "dmd": float(losses["dmd"]), "critic": float(losses["critic"])}


def memory_gib(device: torch.device) -> float:
    """Peak memory so far: of the GPU, or of the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20

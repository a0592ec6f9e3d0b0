"""Replays numbers that were recorded by running other projects' own code, through the public engine API.

A case is a folder with ``config.json``, ``weights.safetensors`` (original Wan key names), ``inputs.safetensors`` and
``expected.safetensors``; ``tests/golden/README.md`` says where they come from.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from cf_app.config import Geometry, ModelConfig, SamplerConfig
from cf_app.engine.engine import Engine
from cf_app.engine.parts import Observer
from cf_app.engine.timeline import PromptCue, Timeline
from cf_app.memory.context import ChunkContext
from cf_app.memory.policy import Fifo, InfinityRope, Policy, SinkWindow, SlowFast
from cf_app.model.checkpoints import State, build_transformer
from tests.tiny import tiny_vae

POLICIES: dict[str, Policy] = {
    "self_forcing_21": Fifo(21),
    "self_forcing_rolling": Fifo(9),
    "longlive_sink": SinkWindow(3, 12),
    "longlive_switch": SinkWindow(3, 12),
    "longlive_switch_early": SinkWindow(3, 12),
    "longlive_switch_no_global_sink": SinkWindow(3, 12, global_sink=False),
    "longlive_infinity": InfinityRope(3, 12),
    "longlive_lora": SinkWindow(3, 12),
    "context_forcing_sim": SlowFast(tau=0.913, timing="as_released", decision="per_layer"),
    "context_forcing_uniform": SlowFast(timing="as_released", decision="per_layer", gate="uniform", interval=6),
}


class RecordedText:
    """Text states from a recording; prompt "n" is the n-th."""

    def __init__(self, inputs: State) -> None:
        self.inputs = inputs

    def encode(self, prompt: str) -> Tensor:
        """[1, text_len, text_dim]."""
        return self.inputs[f"prompt_embeds.{prompt}"]


@dataclass
class Replay:
    """What came out, a list entry per block: flows [5, C, F, Y, X], clean latents [C, F, Y, X], similarities
    [pass][layer], pooled keys [pass] of [layers, dim], latent frame and pass of every slot [layers][slots]."""

    flows: list[Tensor] = field(default_factory=list)
    clean: list[Tensor] = field(default_factory=list)
    similarities: list[list[list[float | None]]] = field(default_factory=list)
    pooled: list[list[Tensor]] = field(default_factory=list)
    slots: list[list[list[int]]] = field(default_factory=list)
    made_by: list[list[list[int]]] = field(default_factory=list)
    promoted_by: list[list[int]] = field(default_factory=list)
    recached: list[tuple[list[int], Tensor]] = field(default_factory=list)


def build_engine(folder: Path, change: Callable[[State], State] = lambda state: state) -> Engine:
    """An engine with the weights of a case."""
    case = json.loads((folder / "config.json").read_text())
    state = change(load_file(folder / "weights.safetensors"))
    transformer = build_transformer(state, head_dim=case["wan_config"]["head_dim"])
    height, width = case["latent_hw"]
    geometry = Geometry(case["wan_config"]["in_dim"], height, width)
    config = ModelConfig("golden", geometry, sampler=SamplerConfig(tuple(case["denoising_step_list"]), case["shift"]))
    text = RecordedText(load_file(folder / "inputs.safetensors"))
    return Engine(config, transformer, tiny_vae(geometry.latent_channels), text)


def timeline_of(case: dict) -> Timeline:
    """Prompt "0", and "1" from the first block that starts at or after the switch."""
    cues = [PromptCue.of(0, "0")]
    for index, latent in enumerate(case.get("switch_frame_indices", []), start=1):
        cues.append(PromptCue.of(-(-latent // case["frames_per_block"]), str(index), memory="recache"))
    return Timeline(tuple(cues))


def replay(folder: Path, blocks: int | None = None, engine: Engine | None = None) -> Replay:
    """Run a case with its recorded noise."""
    case = json.loads((folder / "config.json").read_text())
    inputs = load_file(folder / "inputs.safetensors")
    engine = build_engine(folder) if engine is None else engine
    session = engine.new_session(timeline=timeline_of(case), policy=POLICIES[case["case"]])
    result, frames = Replay(), case["frames_per_block"]
    for block in range(case["num_blocks"] if blocks is None else blocks):
        flows: list[Tensor] = []
        pooled: list[Tensor] = []
        last: list[ChunkContext] = []

        def on_pass(step: int, flow: Tensor, x0: Tensor | None, context: ChunkContext) -> None:
            flows.append(flow[0])  # noqa: B023  called within the iteration
            pooled.append(torch.stack([keys.mean(1).flatten() for keys in context.keys]))  # noqa: B023
            last[:] = [context]  # noqa: B023
            if x0 is not None and step == 3:
                result.clean.append(x0[0])

        start = inputs["noise"][:, frames * block : frames * (block + 1)]
        noise = torch.stack([start, *inputs["renoise"][block]]).transpose(2, 3).contiguous()
        observer = Observer(on_pass, lambda latents, flow: result.recached.append((latents, flow[0])))
        chunk = engine.step(session, noise=noise, observer=observer)
        result.flows.append(torch.stack(flows))
        result.pooled.append(pooled)
        result.similarities.append(last[0].similarities)
        result.slots.append([list(row) for row in chunk.snapshot.layer_slots])
        rows = session.memory.state.lanes
        width = len(result.slots[-1][0])
        result.made_by.append([[cell.made_by for cell in row] + [-1] * (width - len(row)) for row in rows])
        result.promoted_by.append([-1 if by is None else by for by in last[0].promoted_by])
    return result

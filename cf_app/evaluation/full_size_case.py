"""One case of the full-size benchmark: ``python -m cf_app.evaluation.full_size_case SPEC OUT``, a process of its own.

SPEC is a JSON object, OUT a file of JSON lines: results are written as they come, so that what was measured before
a failure is kept.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

import cf_app
from cf_app.config import Geometry, ModelConfig
from cf_app.engine.engine import Engine
from cf_app.engine.messages import ChunkReady, Play
from cf_app.engine.worker import Worker
from cf_app.evaluation.roofline import ceilings, chunk_work
from cf_app.memory.policy import Policy, SinkWindow, SlowFast
from cf_app.model.causal_wan import WanTransformer3DModel
from cf_app.model.graphs import EagerRecorder
from cf_app.model.speed import compile_blocks
from cf_app.model.vae import TinyVideoAutoencoder
from cf_app.model.wan_vae import AutoencoderKLWan, WanVideoAutoencoder
from cf_app.random_weights import RandomText
from cf_app.terminal import quiet
from cf_app.ui.encoder import ChunkEncoder

PROMPTS = ("a red ball hops through the meadow by day", "a blue star floats over the beach at night")
# Visible latent frames, the chunk's own included: the released sizes of Context Forcing and of LongLive.
VISIBLE: dict[str, tuple[Policy, int]] = {
    "18+3": (SlowFast(), 21),
    "18+3 as released": (SlowFast(timing="as_released", decision="per_layer"), 21),
    "9+3": (SinkWindow(3, 12), 12),
}
FILLED = 7  # chunks until 21 latent frames are visible


def main(spec: dict[str, Any], out: Path) -> None:
    """Measure what ``spec`` asks for; see ``full_size.plan``."""
    quiet()
    with open(out, "a", encoding="utf-8") as sink:

        def report(**found: Any) -> None:
            sink.write(json.dumps(found) + "\n")
            sink.flush()

        if spec["kind"] == "ceilings":
            tiny = {"size": 128, "queries": 48, "keys": 96} if spec["tiny"] else {}
            report(**ceilings(_device(), **tiny))
        elif spec["kind"] == "peer":
            from cf_app.evaluation.peer import measure_peer

            measure_peer(Path(spec["path"]), spec["visible"], report, tiny=spec["tiny"])
        elif spec["kind"] == "long":
            endure(spec, report)
        else:
            measure(spec, report)


def measure(spec: dict[str, Any], report: Any) -> None:
    """Our engine: stages, end to end, first pictures, memory."""
    policy, visible = VISIBLE[spec["visible"]]
    begun = time.perf_counter()
    engine = made(spec)
    report(load_s=time.perf_counter() - begun, attention=engine.kernel.name, quantization=engine.quantization)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    report(encoder=chunk_encoder(engine).encoder)
    worker = Worker(engine)
    try:
        chunks = 3 if spec["tiny"] else FILLED + spec["chunks"]
        seen = play(engine, worker, policy, PROMPTS[0], chunks)
        steady = seen[1 if spec["tiny"] else FILLED :]
        seconds = (steady[-1]["at"] - seen[-len(steady) - 1]["at"]) / len(steady)
        stages = {name: _median([item["timings"][name] for item in steady]) for name in steady[0]["timings"]}
        work, thinking = chunk_work(engine, visible), stages["denoise"] + stages["context"]
        report(
            stage_ms=stages,
            chunk_ms=1000 * seconds,
            fps=engine.geometry.chunk_frames / seconds,
            memory_share=stages["memory"] / (1000 * seconds),
            tflop={"linears": work.linears / 1e12, "attention": work.attention / 1e12},
            transformer_tflops=work.total / 1e9 / thinking,
        )
        if torch.cuda.is_available():
            report(peak_gb=torch.cuda.max_memory_allocated() / 1e9, reserved_gb=torch.cuda.max_memory_reserved() / 1e9)
        report(first_picture_s=play(engine, worker, policy, PROMPTS[1], 1)[0]["at"])
    finally:
        worker.shutdown()


def endure(spec: dict[str, Any], report: Any, most: int = 1000) -> None:
    """Late chunks against early ones, as many as there is time for, pictures included: medians over 20 chunks."""
    policy, _ = VISIBLE[spec["visible"]]
    engine = made(spec)
    session = engine.new_session(PROMPTS[0], 1, policy=policy)
    end, marks = time.perf_counter() + spec["seconds"], 40
    times: list[float] = []
    while len(times) < most and (time.perf_counter() < end or len(times) < marks):
        before = time.perf_counter()
        engine.step(session)  # its pictures have left the device when it is over
        times.append(time.perf_counter() - before)
    late_over_early = _median(times[-20:]) / _median(times[20:40])
    report(late_over_early=late_over_early, chunks=len(times), attention=engine.kernel.name)


def made(spec: dict[str, Any]) -> Engine:
    """The engine of a case, with its speed-ups; at tiny size they are imitated where this machine lacks them."""
    if not spec["tiny"]:
        engine = full_engine(spec)
        engine.accelerate(spec["speed"])
        return engine
    engine = tiny_engine(spec)
    if "fused" in spec["speed"]:
        engine.accelerate(["fused"])
    if "compiled" in spec["speed"]:
        compile_blocks(engine.transformer, backend="eager")
    if "graphs" in spec["speed"]:
        engine.record(EagerRecorder())
    if "attention8" in spec["speed"]:
        engine.accelerate(["attention8"])  # says where there is none
    return engine


def play(engine: Engine, worker: Worker, policy: Policy, prompt: str, chunks: int) -> list[dict[str, Any]]:
    """Chunks of a session as a page gets them: seconds since play, and milliseconds by stage, encoding included."""
    encoder = chunk_encoder(engine)
    session = worker.open(prompt, 1, chunks=chunks, policy=policy)
    begun, seen = time.perf_counter(), []
    worker.send(session, Play())
    while (event := worker.events(session)) is not None:
        if isinstance(event, ChunkReady):
            ready = time.perf_counter()
            encoder.encode(event.frames)
            now = time.perf_counter()
            seen.append({"at": now - begun, "timings": {**event.timings, "encode": 1000 * (now - ready)}})
    worker.close(session)
    if len(seen) < chunks:
        raise ValueError(f"{len(seen)} of {chunks} chunks came: {engine.name} has failed")
    return seen


def chunk_encoder(engine: Engine) -> ChunkEncoder:
    """What makes H.264 of this engine's pictures."""
    return ChunkEncoder(engine.geometry.height, engine.geometry.width, engine.geometry.fps)


def full_engine(spec: dict[str, Any]) -> Engine:
    """A released student at full size with random parameters; "12 GB" is what ``--vram 12`` makes of it."""
    if spec["precision"] == "12 GB":
        return cf_app.load(spec["model"], vram=12.0, decoder=spec["decoder"], random_weights=True)
    quant = {"bf16": "none", "fp8": "transformer=fp8"}.get(spec["precision"], f"transformer={spec['precision']}")
    return cf_app.load(spec["model"], quant=quant, decoder=spec["decoder"], random_weights=True)


def tiny_engine(spec: dict[str, Any]) -> Engine:
    """The same parts at a size that a CPU runs in a second: to check the script, not to measure."""
    if spec["precision"] != "bf16":
        raise ValueError(f"{spec['precision']} needs a GPU")
    config = ModelConfig(name="tiny", geometry=Geometry(16, 8, 12), text_length=16)
    torch.manual_seed(0)
    transformer = WanTransformer3DModel(
        num_attention_heads=2, attention_head_dim=24, text_dim=32, freq_dim=32, ffn_dim=64, num_layers=2
    )
    vae: Any = TinyVideoAutoencoder().eval()
    if spec["decoder"] == "wan":
        vae = WanVideoAutoencoder(AutoencoderKLWan(base_dim=8, num_res_blocks=1))
    return Engine(config, transformer, vae, RandomText(16, 32, torch.device("cpu"), torch.float32))


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _median(numbers: list[float]) -> float:
    return sorted(numbers)[len(numbers) // 2]


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), Path(sys.argv[2]))

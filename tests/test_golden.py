"""Parity with numbers recorded from the peers' own code: flows, latents, slot maps, promotions, similarities."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cf_app.model.checkpoints import lora_state, merge_lora, read_file, student_state
from tests.golden_cases import Replay, build_engine, replay

GOLDEN = Path(__file__).parent / "golden"
CASES = sorted(folder.name for folder in GOLDEN.iterdir() if folder.is_dir())
TOLERANCE = 5e-5  # float32; wrong semantics move flows by 0.05 and more


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[str, Replay, dict[str, torch.Tensor]]:
    folder = GOLDEN / request.param
    engine = build_engine(folder)
    if (folder / "lora.pt").exists():
        lora = lora_state(read_file(folder / "lora.pt"))
        engine = build_engine(folder, lambda state: merge_lora(state, lora, alpha=16))
    return request.param, replay(folder, engine=engine), load_file(folder / "expected.safetensors")


def test_latents_and_flows(case: tuple[str, Replay, dict[str, torch.Tensor]]) -> None:
    _, result, expected = case
    clean = torch.cat(result.clean, 1)
    torch.testing.assert_close(clean, expected["clean_latents"][0].transpose(0, 1), atol=TOLERANCE, rtol=0)
    flows = torch.stack(result.flows[-2:])
    torch.testing.assert_close(flows, expected["flow_last"][:, :, 0].transpose(2, 3), atol=TOLERANCE, rtol=0)


def test_slot_maps(case: tuple[str, Replay, dict[str, torch.Tensor]]) -> None:
    _, result, expected = case
    assert torch.equal(torch.tensor(result.slots, dtype=torch.int32), expected["slot_source_frame"])
    assert torch.equal(torch.tensor(result.made_by, dtype=torch.int32), expected["slot_source_pass"])


def test_promotions_and_similarities(case: tuple[str, Replay, dict[str, torch.Tensor]]) -> None:
    name, result, expected = case
    if not name.startswith("context_forcing"):
        assert all(by == -1 for row in result.promoted_by for by in row)
        return
    assert torch.equal(torch.tensor(result.promoted_by, dtype=torch.int32), expected["promoted_pass"])
    rows = [[[math.nan if value is None else value for value in row] for row in block] for block in result.similarities]
    torch.testing.assert_close(torch.tensor(rows), expected["sim"], atol=1e-6, rtol=0, equal_nan=True)


def test_recache(case: tuple[str, Replay, dict[str, torch.Tensor]]) -> None:
    name, result, expected = case
    assert len(result.recached) == ("recache0.flow" in expected)
    for latents, flow in result.recached:
        assert latents == list(range(9) if name == "longlive_switch_early" else range(9, 21))
        torch.testing.assert_close(flow, expected["recache0.flow"][0].transpose(0, 1), atol=TOLERANCE, rtol=0)


def test_checkpoint_wrappings(tmp_path: Path) -> None:
    """EMA under FSDP names beside a decoy; the decoy only when asked for; LoRA merged exactly."""
    folder = GOLDEN / "context_forcing_uniform"
    plain = load_file(folder / "weights.safetensors")
    wrapped = {f"model._fsdp_wrapped_module.{key}": value for key, value in plain.items()}
    decoy = {f"model.{key}": torch.zeros_like(value) for key, value in plain.items()}
    torch.save({"generator": decoy, "generator_ema": wrapped, "step": 500}, tmp_path / "model.pt")
    content = read_file(tmp_path / "model.pt")
    assert all(torch.equal(student_state(content)[key], value) for key, value in plain.items())
    assert not student_state(content, ema=False)["head.head.weight"].any()
    folder = GOLDEN / "longlive_lora"
    lora = lora_state(read_file(folder / "lora.pt"))
    merged = merge_lora(load_file(folder / "weights.safetensors"), lora, alpha=16)
    for key, value in load_file(folder / "expected.safetensors").items():
        if key.startswith("merged_weight."):
            torch.testing.assert_close(merged[key.removeprefix("merged_weight.")], value, atol=1e-6, rtol=0)

"""Full-size students without their weights: every shape fits, on the meta device, where nothing is computed."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from diffusers import WanTransformer3DModel

from cf_app.memory.kv_cache import KVShape, new_write
from cf_app.memory.lanes import Cell, Lanes
from cf_app.memory.manager import SlowFastMemory
from cf_app.memory.state import MemoryState
from cf_app.memory.workspace import Workspace
from cf_app.model.causal_wan import causal_forward, encode_text, make_causal, token_grid
from cf_app.model.wan_vae import WanVideoAutoencoder
from cf_app.placement import Placement, estimate, sizes_of_student, with_decoder
from cf_app.random_weights import RandomText, random_decoder, random_engine, random_transformer, student_named
from cf_app.students import STUDENTS, Student
from tests.live_bytes import LiveBytes
from tests.tiny import tiny_engine

META = torch.device("meta")


@pytest.mark.parametrize("name", ["context-forcing", "longlive", "krea-14b"])
def test_every_shape_fits(name: str) -> None:
    student: Student = STUDENTS[name]
    geometry = student.config().geometry
    transformer = make_causal(random_transformer(student, META, torch.bfloat16))
    parameters = sum(parameter.numel() for parameter in transformer.parameters())
    assert parameters / 1e9 == pytest.approx(student.parameters, rel=0.01)
    rows, columns = token_grid(transformer, geometry.latent_height, geometry.latent_width)
    wan = student.wan
    shape = KVShape(
        wan["num_layers"], 1, rows, columns, wan["num_attention_heads"], wan["attention_head_dim"], torch.bfloat16, META
    )
    memory = SlowFastMemory(student.policy, shape, geometry.chunk_latents)
    cells = [Cell(new_write(), latent) for latent in range(memory.rule.slots)]
    blank = torch.empty(1, shape.tokens, shape.heads, shape.head_dim, dtype=torch.bfloat16, device=META)
    for layer in range(shape.layers):
        memory.cache.store(layer, (), {cell.write: (blank, blank) for cell in cells})
    sink, slow = memory.rule.sink, memory.rule.sink + memory.rule.slow
    lanes = Lanes(tuple(cells[:sink]), tuple(cells[sink:slow]), tuple(cells[slow:]))
    memory.state = MemoryState((lanes,) * shape.layers, seen=len(cells))
    context = memory.context(memory.state, "", 7, Workspace(shape))
    latents = torch.empty(1, *geometry.latent_shape, device=META)
    text = encode_text(transformer, torch.empty(1, 512, 4096, dtype=torch.bfloat16, device=META))
    with torch.no_grad():
        context.rule = memory.rule.__class__(**{**memory.rule.__dict__, "timing": "clean"})  # gates ask for numbers
        context.begin(0)
        assert causal_forward(transformer, latents, 1000.0, text, context).shape == latents.shape
        keys, _ = context.extend(0, blank.repeat(1, 3, 1, 1), blank.repeat(1, 3, 1, 1))
    assert keys.shape[1] == memory.rule.slots * shape.tokens


def test_decoders_fit() -> None:
    geometry = STUDENTS["context-forcing"].config().geometry
    latents = torch.empty(1, *geometry.latent_shape, device=META)
    for kind in ("wan", "tiny"):
        decoder = random_decoder(kind, META, torch.bfloat16)
        sizes = sizes_of_student(STUDENTS["context-forcing"])
        sizes = sizes if kind == "wan" else with_decoder(sizes, "taew2_1.pth")
        with torch.inference_mode(), LiveBytes() as live:
            frames, state = decoder.decode(latents, decoder.initial_state(1))
            assert frames.shape == (1, 3, geometry.chunk_frames, geometry.height, geometry.width)
            again, _ = decoder.decode(latents, state)
        assert again.shape == frames.shape and (kind == "tiny") != isinstance(decoder, WanVideoAutoencoder)
        most = estimate(sizes, Placement())["vae"] - sizes.vae
        assert 0.85 * most < live.peak / 1e9 < most


@pytest.mark.parametrize("lean", [False, True])
def test_the_estimate_of_a_pass_holds(lean: bool) -> None:
    """Two layers: what a layer needs in passing does not depend on how many there are."""
    student = STUDENTS["context-forcing"]
    geometry, sizes = student.config().geometry, replace(sizes_of_student(student), layers=2)
    with META:
        transformer = WanTransformer3DModel(**{**student.wan, "num_layers": 2}).to(torch.bfloat16).eval()
    make_causal(transformer, kernel=lambda query, key, value, mask=None: torch.empty_like(query))
    shape = KVShape(2, 1, 30, 52, 12, 128, torch.bfloat16, META)
    needs = estimate(sizes, Placement(lean=lean))
    with torch.inference_mode(), LiveBytes() as live:
        memory = SlowFastMemory(replace(student.policy, timing="clean"), shape, geometry.chunk_latents)
        held = live.reset()
        assert held / 1e9 == pytest.approx(needs["memory"])
        cells = [Cell(new_write(), latent) for latent in range(memory.rule.slots)]
        blank = torch.empty(1, shape.tokens, shape.heads, shape.head_dim, dtype=torch.bfloat16, device=META)
        for layer in range(shape.layers):
            memory.cache.store(layer, (), {cell.write: (blank, blank) for cell in cells})
        lanes = Lanes(tuple(cells[:3]), tuple(cells[3:15]), tuple(cells[15:]))
        memory.state = MemoryState((lanes,) * shape.layers, seen=len(cells))
        context = memory.context(memory.state, "", 7, Workspace(shape, lean=lean))
        assert (live.now() - held) / 1e9 == pytest.approx(needs["workspace"], abs=0.04)  # and tables of rotations
        before = live.reset()
        text = encode_text(transformer, torch.empty(1, 512, 4096, dtype=torch.bfloat16, device=META))
        latents = torch.empty(1, *geometry.latent_shape, device=META)
        for step in range(2):
            context.begin(step)
            causal_forward(transformer, latents, 1000.0, text, context)
    assert 0.4 * needs["activations"] < (live.peak - before) / 1e9 < needs["activations"]


def test_names() -> None:
    with pytest.raises(ValueError, match="is none of"):
        student_named("embedded")
    with pytest.raises(ValueError, match="expected one of wan, tiny"):
        random_engine(STUDENTS["longlive"], META, torch.bfloat16, Placement(), "big")
    text = RandomText(8, 16, torch.device("cpu"), torch.float32)
    assert torch.equal(text.encode("a b"), text.encode("a b")) and not text.encode("a b")[:, 2:].any()
    assert tiny_engine().name == "tiny"

"""Model folders: what loads, and what is said about those that do not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import UMT5Config, UMT5EncoderModel

import cf_app
from cf_app.engine.engine import Engine
from cf_app.engine.parts import Observer
from cf_app.model.checkpoints import lora_state, read_file
from cf_app.model.text_encoder import TextEncoder
from cf_app.training.text import embedded_tokenizer, save_text
from tests.tiny import TEXT_DIM, tiny_config, tiny_transformer, tiny_vae


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    folder.mkdir()
    tokenizer = embedded_tokenizer()
    encoder = UMT5EncoderModel(
        UMT5Config(vocab_size=len(tokenizer), d_model=TEXT_DIM, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    )
    tiny_transformer().save_pretrained(folder / "transformer")
    tiny_vae().save_pretrained(folder / "vae")
    save_text(folder, tokenizer, encoder)
    (folder / "cf_config.json").write_text(json.dumps(tiny_config().to_dict()))
    return folder


@pytest.fixture
def copy(model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(model, tmp_path / "model"))


def test_loads_and_generates(model: Path) -> None:
    engine = cf_app.load(model, device="cpu")
    assert engine.name == "tiny" and engine.title and engine.quantization == "none"
    assert engine.unknown_words("A red, zebra ball! zebra") == ["zebra"]
    assert engine.subjects_for("A zebra") == ["ball", "box"] and engine.subjects_for("A zebra, a BOX!") == []
    session = engine.new_session(prompt=engine.example_prompts[0], seed=1)
    frames = [chunk.frames for chunk in session.stream(seconds=1.0)]
    assert len(frames) == 2 and frames[0].shape == (12, engine.geometry.height, engine.geometry.width, 3)
    assert engine.text.encode("a red ball").shape == (1, 8, TEXT_DIM)


def damage(path: Path, keep: float = 0.5) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])


@pytest.mark.parametrize(
    ("file", "keep", "says"),
    [
        ("cf_config.json", 0.5, "cf_config.json"),
        ("transformer/config.json", 0.5, "transformer"),
        ("transformer/diffusion_pytorch_model.safetensors", 0.5, "transformer"),
        ("vae/config.json", 0.3, "vae"),
        ("vae/diffusion_pytorch_model.safetensors", 0.9, "vae"),
        ("text_encoder/model.safetensors", 0.0, "text_encoder"),
        ("tokenizer/tokenizer.json", 0.5, "tokenizer"),
    ],
)
def test_damaged_files_are_named(copy: Path, file: str, keep: float, says: str) -> None:
    damage(copy / file, keep)
    with pytest.raises(ValueError, match=says) as caught:
        cf_app.load(copy, device="cpu")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("part", ["transformer", "vae", "text_encoder", "tokenizer", "cf_config.json"])
def test_missing_parts_are_named(copy: Path, part: str) -> None:
    target = copy / part
    shutil.rmtree(target) if target.is_dir() else target.unlink()
    with pytest.raises(ValueError, match=part):
        cf_app.load(copy, device="cpu")


def test_parts_of_different_models(copy: Path) -> None:
    tiny_transformer(channels=8).save_pretrained(copy / "transformer")
    with pytest.raises(ValueError, match="different models"):
        cf_app.load(copy, device="cpu")


def test_wrong_architecture(copy: Path) -> None:
    shutil.copy(copy / "vae" / "diffusion_pytorch_model.safetensors", copy / "transformer")
    with pytest.raises(ValueError, match="transformer"):
        cf_app.load(copy, device="cpu")


def test_parts_that_do_not_fit_each_other(copy: Path) -> None:
    config = json.loads((copy / "cf_config.json").read_text())
    config["geometry"]["spatial_scale"] = 16
    (copy / "cf_config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="pixels of a latent cell"):
        cf_app.load(copy, device="cpu")
    config["geometry"] |= {"spatial_scale": 8, "latent_height": 9}
    (copy / "cf_config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="9x12 is not a multiple of the patch size"):
        cf_app.load(copy, device="cpu")
    config["geometry"]["latent_height"] = 8
    (copy / "cf_config.json").write_text(json.dumps(config))
    vocabulary = len(embedded_tokenizer())
    other = UMT5Config(vocab_size=vocabulary, d_model=32, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    UMT5EncoderModel(other).save_pretrained(copy / "text_encoder")
    with pytest.raises(ValueError, match=r"text states.*different models"):
        cf_app.load(copy, device="cpu")


def lora_file(path: Path, layer: str = "blocks.0.self_attn.q", size: int = 48, lora: str = "lora_B") -> Path:
    generator = torch.Generator().manual_seed(0)
    down, up = torch.randn(4, size, generator=generator), torch.randn(size, 4, generator=generator)
    keys = {f"base_model.model.{layer}.lora_A.weight": down, f"base_model.model.{layer}.{lora}.weight": up}
    torch.save({"generator_lora": keys}, path)
    return path


def flow(engine: Engine) -> torch.Tensor:
    found: list[torch.Tensor] = []
    session = engine.new_session("a red ball", seed=1)
    engine.step(session, observer=Observer(lambda step, value, x0, context: found.append(value)))
    return found[0]


@pytest.mark.parametrize("quant", ["none", "int8"])
def test_a_lora_beside_the_weights(model: Path, tmp_path: Path, quant: str) -> None:
    file = lora_file(tmp_path / "lora.pt")
    plain = cf_app.load(model, device="cpu", quant=quant)
    engine = cf_app.load(model, device="cpu", quant=quant, lora=file, lora_scale=0.5, lora_alpha=8)
    assert not torch.allclose(flow(engine), flow(plain))
    if quant == "none":  # the same as merged
        state = lora_state(read_file(file))
        weight = plain.transformer.blocks[0].attn1.to_q.weight
        layer = "blocks.0.self_attn.q"
        weight.data += 0.5 * 8 / 4 * state[f"{layer}.lora_B.weight"] @ state[f"{layer}.lora_A.weight"]
        fresh = Engine(plain.config, plain.transformer, plain.vae, plain.text)
        torch.testing.assert_close(flow(engine), flow(fresh), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"layer": "blocks.7.self_attn.q"}, "there is no layer blocks.7.self_attn.q"),
        ({"size": 96}, "layer blocks.0.self_attn.q has another size"),
        ({"lora": "lora_C"}, "is damaged"),
    ],
)
def test_a_lora_for_another_model(model: Path, tmp_path: Path, changes: dict, says: str) -> None:
    file = lora_file(tmp_path / "lora.pt", **changes)
    with pytest.raises(ValueError, match=f"{file.name}.*{says}"):
        cf_app.load(model, device="cpu", lora=file)


def test_files_that_are_no_lora_and_no_decoder(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no LoRA in the file"):
        cf_app.load(model, device="cpu", lora=model / "transformer" / "diffusion_pytorch_model.safetensors")
    with pytest.raises(ValueError, match=r"missing.pth"):
        cf_app.load(model, device="cpu", lora=tmp_path / "missing.pth")
    with pytest.raises(ValueError, match=r"expected a file of taehv weights"):
        cf_app.load(model, device="cpu", decoder=str(tmp_path / "missing.pth"))


def test_the_text_encoder_visits(model: Path) -> None:
    plain, other = (cf_app.load(model, device="cpu", quant=quant) for quant in ("none", "text=offload"))
    assert isinstance(other.text, TextEncoder) and other.text.visits and other.quantization == "none, text offloaded"
    assert torch.equal(plain.text.encode("a red ball"), other.text.encode("a red ball"))
    assert other.text.encoder.device.type == "cpu"


def test_unknown_names() -> None:
    with pytest.raises(ValueError, match="no model of that name"):
        cf_app.load("no-such-model")
    with pytest.raises(ValueError, match="device"):
        cf_app.load(device="gpu9")
    with pytest.raises(ValueError, match="dtype"):
        cf_app.load(device="cpu", dtype="int3")


@pytest.mark.parametrize("quant", ["int8", "nf4", "fp8", "transformer=int8,kv=fp8,lean,text=cpu"])
def test_quantized_folders_generate(model: Path, quant: str) -> None:
    engine = cf_app.load(model, device="cpu", quant=quant)
    assert engine.quantization.startswith(quant if "=" not in quant else "int8, text on CPU, memory fp8")
    plain = next(cf_app.load(model, device="cpu", quant="none").new_session("a red ball", seed=1).stream(chunks=1))
    chunk = next(engine.new_session("a red ball", seed=1).stream(chunks=1))
    assert abs(chunk.frames.astype(int) - plain.frames.astype(int)).mean() < 8


def test_a_budget_of_the_card(model: Path) -> None:
    said: list[str] = []
    assert cf_app.load(model, device="cpu", vram=8.0, tell=lambda p: said.append(p.label)).quantization == "none"
    assert said[-1].startswith("tiny on cpu: quant none, about ") and " of 8.0 GB (transformer " in said[-1]
    with pytest.raises(ValueError, match="needs at least"):
        cf_app.load(model, device="cpu", vram=1e-6)
    with pytest.raises(ValueError, match="--quant auto"):
        cf_app.load(model, device="cpu", vram=1e-6, quant="int8")

"""Model folders: what loads, and what is said about those that do not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from transformers import UMT5Config, UMT5EncoderModel

import cf_app
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
    assert cf_app.load(model, device="cpu", vram=8.0).quantization == "none"
    with pytest.raises(ValueError, match="needs at least"):
        cf_app.load(model, device="cpu", vram=1e-6)
    with pytest.raises(ValueError, match="--quant auto"):
        cf_app.load(model, device="cpu", vram=1e-6, quant="int8")

"""Released students: downloaded, converted, refused, and what fits a card. The Hub is made up, on this machine."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import WanTransformer3DModel
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from cf_app import convert, hub, room, weights
from cf_app.cli import main
from cf_app.loading import load_module
from cf_app.memory.policy import check_policy, policy_from_dict
from cf_app.model.checkpoints import lora_state, merge_lora, read_file, student_state
from cf_app.models import option_of
from cf_app.placement import (
    LADDER,
    Placement,
    check_fits,
    choose,
    estimate,
    placement_of,
    sizes_of_student,
    with_decoder,
)
from cf_app.students import BASE_PARTS, STUDENTS, WAN_BASE, Student
from cf_app.weights import find_folder, find_parts, load_engine, read_config
from tests.hub_server import HubServer, hub_server

__all__ = ["hub_server"]
GOLDEN = Path(__file__).parent / "golden" / "longlive_switch" / "weights.safetensors"


def original_state() -> dict[str, torch.Tensor]:
    """Original key names, one head of 128 channels."""
    generator = torch.Generator().manual_seed(0)
    wider = {96: 128, 576: 768}
    shapes = {key: [wider.get(size, size) for size in value.shape] for key, value in load_file(GOLDEN).items()}
    return {key: torch.randn(shape, generator=generator) for key, shape in shapes.items()}


@pytest.fixture
def home(tmp_path: Path, hub_server: HubServer) -> Path:
    """A Hub with a small Context Forcing and a base model of nothing but configs, and an empty cache."""
    state = original_state()
    average = {f"model._fsdp_wrapped_module.{key}": value for key, value in state.items()}
    plain = {f"model.{key}": -value for key, value in state.items()}
    torch.save({"generator_ema": average, "generator": plain}, tmp_path / "model.pt")
    student = STUDENTS["context-forcing"]
    hub_server.repositories[student.repository] = [{student.file: (tmp_path / "model.pt").read_bytes()}]
    hub_server.repositories[WAN_BASE] = [{f"{part}/config.json": b"{}" for part in BASE_PARTS}]
    return tmp_path


def test_a_student_is_downloaded_and_converted_once(
    home: Path, hub_server: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[hub.Progress] = []
    folder = find_folder("context-forcing", told.append)
    assert {"model.pt", "checking model.pt", "converting context-forcing"} <= {progress.label for progress in told}
    config = read_config(folder)
    assert config.name == "context-forcing" and policy_from_dict(config.memory).name == "slow_fast"
    transformer = load_module(WanTransformer3DModel, folder / "transformer", torch.float32)
    expected = original_state()["blocks.1.self_attn.q.weight"].bfloat16().float()
    assert torch.equal(transformer.blocks[1].attn1.to_q.weight, expected)
    parts = find_parts(folder, config)
    assert parts["transformer"] == folder / "transformer" and (parts["vae"] / "config.json").is_file()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)  # all there: nobody is asked again
    hub_server.asked.clear()
    assert find_folder("context-forcing") == folder and find_parts(folder, config) == parts
    assert not hub_server.asked


def test_a_converted_folder_that_is_damaged(home: Path) -> None:
    folder = find_folder("context-forcing")
    file = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-500])
    with pytest.raises(ValueError, match=f"{file.name} is damaged.*delete {folder}.*converted again"):
        load_module(WanTransformer3DModel, folder / "transformer", torch.float32)
    (folder / "cf_config.json").unlink()
    again = find_folder("context-forcing")
    assert again == folder and load_module(WanTransformer3DModel, folder / "transformer", torch.float32)


def test_a_download_that_was_damaged_is_not_converted(home: Path) -> None:
    folder = find_folder("context-forcing")
    (folder / "cf_config.json").unlink()
    student = STUDENTS["context-forcing"]
    known = hub.known(student.repository)
    blob = next((Path(constants.HF_HUB_CACHE)).rglob(f"{known.commit}/model.pt")).resolve() if known else Path()
    content = bytearray(blob.read_bytes())
    content[len(content) // 2] ^= 1
    blob.write_bytes(content)
    with pytest.raises(ValueError, match=f"{blob} is damaged.*delete this file"):
        find_folder("context-forcing")


def test_what_does_not_fit_is_said_before_a_download(
    home: Path, hub_server: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match=r"needs at least .* GB on cpu, 4.0 GB are free"):
        load_engine("context-forcing", device="cpu", vram=4.0)
    with pytest.raises(ValueError, match=r"needs .* 12.0 GB are free: choose --quant auto or --vram 12"):
        load_engine("context-forcing", device="cpu", vram=12.0, quant="none")
    monkeypatch.setattr(room, "free_bytes", lambda device: 4_000_000_000)
    with pytest.raises(ValueError, match=r"4.0 GB are free: close other programs"):
        room.check_main_memory(STUDENTS["context-forcing"], torch.device("cuda"))
    with pytest.raises(ValueError, match="needs at least"):
        load_engine("krea-14b", device="cpu")
    assert not hub_server.asked
    monkeypatch.setattr(room, "free_bytes", lambda device: 10**12)
    usage = hub.shutil.disk_usage("/")._replace(free=2_000_000_000)  # the converted copy takes 2.8 GB
    monkeypatch.setattr(hub.shutil, "disk_usage", lambda place: usage)
    with pytest.raises(ValueError, match="make room, or set HF_HOME"):
        load_engine("context-forcing", device="cpu")
    assert not any("resolve" in request for request in hub_server.asked)


def test_too_little_memory_after_all(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(weights, "load_module", full)
    with pytest.raises(ValueError, match="does not fit on cpu: close other programs, or choose --quant"):
        load_engine(device="cpu")


def test_a_local_file_is_converted_again_when_it_changes(home: Path) -> None:
    path = home / "mine.safetensors"
    save_file(original_state(), path)
    first = find_folder(path)
    assert find_folder(path) == first and (first / "transformer").is_dir()
    save_file({key: value * 2 for key, value in original_state().items()}, path)
    assert find_folder(path) != first


def test_convert_command(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = home / "converted"
    assert main(["convert", str(home / "model.pt"), "--out", str(out), "--no-ema", "--policy", "fifo"]) == 0
    transformer = load_module(WanTransformer3DModel, out / "transformer", torch.float32)
    assert torch.equal(transformer.proj_out.bias, -original_state()["head.head.bias"].bfloat16().float())
    assert json.loads((out / "cf_config.json").read_text())["memory"]["policy"] == "fifo"
    assert main(["convert", str(home / "model.pt"), "--out", str(out)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert not [path for path in home.iterdir() if path.name.endswith(".part")]


class Payload:
    """What a pickle must not be able to do."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("raise SystemExit('ran')",))


@pytest.mark.parametrize("kind", ["truncated", "code", "text", "truncated safetensors", "missing"])
def test_bad_files_are_named(kind: str, home: Path) -> None:
    path = home / ("bad.safetensors" if "safetensors" in kind else "bad.pt")
    if kind == "truncated":
        path.write_bytes((home / "model.pt").read_bytes()[:5000])
    elif kind == "code":
        path.write_bytes(pickle.dumps({"generator": Payload()}))
    elif kind == "text":
        path.write_text("<html>not found</html>")
    elif kind != "missing":
        save_file(original_state(), path)
        path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=path.name) as caught:
        read_file(path)
    assert "\n" not in str(caught.value)


def changed(**changes: torch.Tensor | None) -> dict[str, torch.Tensor]:
    state = original_state()
    for key, value in changes.items():
        name = key.replace("__", ".")
        if value is None:
            del state[name]
        else:
            state[name] = value
    return state


@pytest.mark.parametrize(
    ("state", "says"),
    [
        (changed(blocks__1__ffn__0__bias=None), "blocks.1.ffn.net.0.proj.bias is missing"),
        (changed(extra=torch.zeros(1)), "extra is left over"),
        (changed(blocks__1__self_attn__q__weight=torch.zeros(4, 4)), r"to_q\.weight has shape \(4, 4\)"),
        (changed(head__head__weight=None), "no Wan transformer"),
        ({"unet.weight": torch.zeros(1)}, "no transformer in the file"),
        (changed(patch_embedding__weight=torch.zeros(128, 36, 1, 2, 2)), "36 latent channels"),
    ],
)
def test_wrong_architectures_list_the_first_few(state: dict[str, torch.Tensor], says: str, tmp_path: Path) -> None:
    save_file(state, tmp_path / "wrong.safetensors")
    with pytest.raises(ValueError, match=says):
        convert.convert(tmp_path / "wrong.safetensors", tmp_path / "out", STUDENTS["longlive"].config())
    assert not (tmp_path / "out").exists()


def test_a_lora_for_another_model(home: Path) -> None:
    layer = "blocks.0.self_attn.q"
    for down, up, name in ((4, 128, layer), (128, 128, "blocks.9.self_attn.q")):
        start = f"base_model.model.{name}"
        lora = {f"{start}.lora_A.weight": torch.zeros(2, down), f"{start}.lora_B.weight": torch.zeros(up, 2)}
        with pytest.raises(ValueError, match=f"does not fit the model: layer {name}"):
            merge_lora(original_state(), lora_state(lora))
    with pytest.raises(ValueError, match="no LoRA in the file"):
        lora_state(original_state())
    lora = {f"{layer}.lora_A.weight": torch.ones(2, 128), f"{layer}.lora_B.weight": torch.ones(128, 2)}
    merged = merge_lora(original_state(), lora, scale=0.5)
    torch.testing.assert_close(merged[f"{layer}.weight"], original_state()[f"{layer}.weight"] + 1.0)
    assert student_state({"model": original_state()}).keys() == original_state().keys()


@pytest.mark.parametrize("student", STUDENTS.values(), ids=list(STUDENTS))
def test_the_registry_is_sound(student: Student) -> None:
    config = student.config()
    check_policy(policy_from_dict(config.memory), config.geometry.chunk_latents)
    assert (config.geometry.width, config.geometry.height) == (832, 480)
    needs = [sum(estimate(sizes_of_student(student), placement).values()) for placement in LADDER]
    assert needs[0] == max(needs) and needs[-1] == min(needs)
    # Attention, feed-forward and modulation of the blocks are nearly all there is.
    wan, dim = student.wan, student.wan["num_attention_heads"] * student.wan["attention_head_dim"]
    blocks = wan["num_layers"] * (8 * dim**2 + 2 * dim * wan["ffn_dim"])
    assert blocks / 1e9 == pytest.approx(student.parameters, rel=0.1)


def test_placements_fit_cards() -> None:
    sizes = sizes_of_student(STUDENTS["context-forcing"])
    assert choose("x", sizes, 80.0) == Placement()
    for card in (12.0, 16.0, 24.0, 40.0):
        assert sum(estimate(sizes, choose("x", sizes, card)).values()) <= card
    small = with_decoder(sizes, "taew2_1.pth")
    assert sum(estimate(small, Placement()).values()) < sum(estimate(sizes, Placement()).values()) - 3
    with pytest.raises(ValueError, match="at least"):
        choose("x", sizes, 4.0)
    with pytest.raises(ValueError, match=r"needs 3\d\.\d GB"):
        check_fits("x", sizes, Placement(), 24.0)
    assert all(not choose("x", sizes, size, device="cpu").text_on_cpu for size in (15.0, 20.0, 100.0))
    wide, plain = (estimate(sizes, Placement("int8"), wide=wide) for wide in (True, False))
    assert wide["text"] == 2 * plain["text"] and wide["transformer"] == plain["transformer"]
    assert wide["memory"] == 2 * plain["memory"]


def test_choices_by_component() -> None:
    assert placement_of("int8") == Placement("int8", "int8")
    assert placement_of("transformer=fp8,text=nf4,kv=fp8,lean") == Placement("fp8", "nf4", False, True, True)
    assert replace(Placement(), text_on_cpu=True).label == "none, text on CPU"
    assert placement_of("text=offload").label == "none, text offloaded"
    for placement in LADDER[1:]:
        assert placement_of(option_of(placement)) == placement
    for bad in ("int3", "transformer=int3", "vae=int8", "lean=yes"):
        with pytest.raises(ValueError, match="expected auto"):
            load_engine(quant=bad, device="cpu")
    with pytest.raises(ValueError, match="vram"):
        load_engine(vram=-1.0, device="cpu")


def test_models_command(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert set(STUDENTS) < set(rows) and rows["context-forcing"]["here"] == "no"
    hub.download(STUDENTS["context-forcing"].repository, ["model.pt"])
    assert main(["models", "context-forcing", "--json"]) == 0
    about = json.loads(capsys.readouterr().out)
    assert about["here"] == "downloaded" and len(about["commit"]) == 40 and about["licence"] == "not stated"
    find_folder("context-forcing")
    assert main(["models"]) == 0
    listing = capsys.readouterr().out
    assert "converted" in listing and about["commit"][:8] in listing and "Wan-AI" in listing
    assert main(["models", "context-forcing"]) == 0
    sheet = capsys.readouterr().out
    assert "transformer=int8,text=nf4,kv=fp8,lean" in sheet and "total_taehv" in sheet
    assert main(["models", "nothing"]) == 2
    assert "is none of" in capsys.readouterr().err

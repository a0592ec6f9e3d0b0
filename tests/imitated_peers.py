"""Folders that look like checkouts of peers to the benchmark: the same files, names and calls, and next to no work."""

from __future__ import annotations

import zipfile
from pathlib import Path

COMMON = {
    "wan/__init__.py": "raise ImportError('demos are not to be imported')",
    "wan/modules/attention.py": "FLASH_ATTN_2_AVAILABLE = FLASH_ATTN_3_AVAILABLE = False\nattention = object()\n",
    "wan/modules/model.py": "flash_attention = None\n",
    "wan/modules/vae.py": "_video_vae = None\n",
    "utils/wan_wrapper.py": """
import torch
from wan.modules import model, attention
from wan.modules.causal_model import CausalWanModel
from wan.modules.tokenizers import HuggingfaceTokenizer
from wan.modules.t5 import umt5_xxl

class WanDiffusionWrapper(torch.nn.Module):
    def __init__(self, timestep_shift=8.0, is_causal=False, **options):
        super().__init__()
        assert is_causal and timestep_shift == 5.0 and model.flash_attention is attention.attention
        self.model = CausalWanModel.from_pretrained("wan_models/none", **options)

    def forward(self, latents, timestep):
        self.model.seen.append(timestep)
        return self.model(latents)
""",
    "wan/modules/causal_model.py": """
import torch

class CausalWanModel(torch.nn.Module):
    def __init__(self, model_type, in_dim, out_dim, dim, ffn_dim, num_heads, num_layers, freq_dim, **memory):
        super().__init__()
        assert (model_type, in_dim, dim, num_heads) == ("t2v", 16, 1536, 12)
        self.memory, self.seen = memory, []
        self.head = torch.nn.Module()
        self.head.head = torch.nn.Linear(4, 4)

    def forward(self, latents):
        return latents * 0.5
""",
}
PIPELINE = """
import torch
from utils.wan_wrapper import WanDiffusionWrapper

class {name}(torch.nn.Module):
    def __init__(self, args, device, generator=None, text_encoder=None, vae=None):
        super().__init__()
        self.generator, self.text_encoder, self.vae = generator, text_encoder, vae
        self.denoising_step_list = args.denoising_step_list
        assert args.num_frame_per_block == 3 and generator.model.memory == {memory}

    def inference(self, noise, text_prompts):
        assert self.text_encoder(text_prompts=text_prompts)["prompt_embeds"].shape == (1, 512, 4096)
        assert self.frame_seq_length == 16{more}
        for part in noise.split(3, dim=1):
            for step in (*self.denoising_step_list, 0):
                part = self.generator(part, step)
        return self.vae.decode_to_pixel(noise)
"""
RELEASED = {"local_attn_size": 6, "sink_size": 3, "rope_length": 21, "cache_size": 21, "keyframe_interval": 0}
RELEASED |= {"num_new_context_tokens": 1, "keyframe_sample": "sim"}
FLASHDREAMS = {
    "flashdreams/__init__.py": "",
    "flashdreams/core/__init__.py": "",
    "flashdreams/recipes/__init__.py": "raise ImportError('recipes are not to be imported')",
    "flashdreams/recipes/wan/__init__.py": "raise ImportError('decoders are not to be imported')",
    "flashdreams/recipes/wan/transformer/__init__.py": "",
    "flashdreams/recipes/wan/transformer/wan21.py": """
import torch
from dataclasses import dataclass, field
from types import SimpleNamespace
from flashdreams.core.checkpoint.load import load_checkpoint
from flashdreams.recipes.wan.autoencoder.i2v import I2VCtrl

@dataclass
class Wan21TransformerConfig:
    len_t: int = 21
    window_size_t: int = 21
    sink_size_t: int = 0
    dtype: torch.dtype = torch.bfloat16
    network: SimpleNamespace = field(default_factory=SimpleNamespace)

    def setup(self):
        assert self.network.num_layers == 2
        return Wan21Transformer(self)

class Wan21Transformer(torch.nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config, self.log = config, []

    def initialize_autoregressive_cache(self, *, height, width, text_embeddings):
        self.latent_shape = (1, 3 * height * width // 4, 64)
        return Cache(self.log)

    def predict_flow(self, noisy_latent, timestep, cache, input=None):
        assert timestep.ndim == 0 and noisy_latent.shape == self.latent_shape
        self.log.append("pass")
        return noisy_latent

    def finalize_kv_cache(self, noisy_latent, timestep, cache, input=None):
        self.predict_flow(noisy_latent, timestep, cache)

class Cache:
    def __init__(self, log):
        self.log = log

    def start(self, index):
        assert len(self.log) == 7 * index
        self.log.append("start")

    def finalize(self, index):
        self.log.append("done")
""",
}


def self_forcing(folder: Path) -> Path:
    """Self-Forcing's layout."""
    pipeline = PIPELINE.format(name="CausalInferencePipeline", memory={"local_attn_size": 21}, more="")
    return _write(folder, {**COMMON, "pipeline/causal_inference.py": pipeline})


def context_forcing(folder: Path) -> Path:
    """Context Forcing's release, which has Self-Forcing's pipeline too."""
    more = " and self.kv_cache_size == 21 * 16"
    pipeline = PIPELINE.format(name="CausalLongInferencePipeline", memory=RELEASED, more=more)
    broken = "raise ImportError('the other pipeline')"
    files = {"pipeline/causal_inference.py": broken, "pipeline/causal_long_inference.py": pipeline}
    return _write(folder, {**COMMON, **files})


def flashdreams(folder: Path) -> Path:
    """An unpacked wheel of FlashDreams."""
    return _write(folder, FLASHDREAMS)


def flashdreams_wheel(file: Path) -> Path:
    """The wheel."""
    with zipfile.ZipFile(file, "w") as wheel:
        for name, text in FLASHDREAMS.items():
            wheel.writestr(name, text)
    return file


def _write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder

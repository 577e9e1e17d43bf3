"""Adapters in PEFT's format, written by hand, and the models that have them merged by hand."""

import copy
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

ALPHA = 6


def write_adapter(folder: Path, model: nn.Module, ranks: Mapping[str, int], seed: int) -> Path:
    """A random adapter for these layers, with factors of the size that training leaves."""
    folder.mkdir(parents=True)
    rank = max(ranks.values())
    config = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": ALPHA,
        "target_modules": sorted(ranks),
        "rank_pattern": {f"^{path}$": value for path, value in ranks.items()},
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    generator, tensors = torch.Generator().manual_seed(seed), {}
    for path, value in ranks.items():
        out_size, in_size = model.get_submodule(path).weight.shape
        start = f"base_model.model.{path}"
        down = (torch.rand(value, in_size, generator=generator) * 2 - 1) / in_size**0.5
        tensors[f"{start}.lora_A.weight"] = down
        tensors[f"{start}.lora_B.weight"] = torch.randn(out_size, value, generator=generator) * 0.5
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def merged_by_hand(model: nn.Module, folder: Path) -> nn.Module:
    """W + (alpha / r) B A in every layer, from the files themselves."""
    changed = copy.deepcopy(model)
    tensors = load_file(folder / "adapter_model.safetensors")
    for key, down in tensors.items():
        if key.endswith(".lora_A.weight"):
            up = tensors[key.replace("lora_A", "lora_B")]
            path = key.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
            changed.get_submodule(path).weight.data += ALPHA / len(down) * (up @ down)
    return changed

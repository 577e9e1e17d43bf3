"""Adapters that PEFT wrote, merged here, against PEFT's own merged and unmerged models."""

import copy
import json
import pickle
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from edgekit.compress.low_rank.adapter_files import CONFIG, WEIGHTS, load_adapter
from edgekit.compress.low_rank.adapters import fitted, merge_
from edgekit.core.errors import StepError
from tests.compress.benches import seeded

# float32 sums in another order, through a few layers.
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def bert(**changes) -> nn.Module:
    from transformers import BertConfig, BertModel

    sizes = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "vocab_size": 50,
        "max_position_embeddings": 16,
        "initializer_range": 0.3,  # at the usual 0.02 attention hardly does anything
    }
    return seeded(lambda: BertModel(BertConfig(**(sizes | changes))))


def gpt2(**changes) -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    settings = {"n_embd": 32, "n_layer": 1, "n_head": 4, "vocab_size": 50, "n_positions": 16}
    settings["initializer_range"] = 0.3
    ids = {"bos_token_id": 1, "eos_token_id": 2}
    return seeded(lambda: GPT2LMHeadModel(GPT2Config(**(settings | ids | changes))))


class Convolutions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.point = nn.Conv2d(8, 6, 1)
        self.sound = nn.Conv1d(6, 4, 5)

    def forward(self, image: Tensor) -> Tensor:
        return self.sound(self.point(torch.relu(self.wide(image))).flatten(2))


def save_peft(base: nn.Module, folder: Path, **settings) -> nn.Module:
    """PEFT's model with random adapters on a copy of a base, written to a folder."""
    from peft import LoraConfig, get_peft_model

    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        torch.default_generator.manual_seed(1)
        config = LoraConfig(**({"r": 4, "init_lora_weights": False} | settings))
        model = get_peft_model(copy.deepcopy(base), config).eval()
        for name, value in model.named_parameters():
            if "modules_to_save" in name:  # as training would leave it
                value.data += 0.1
        model.save_pretrained(folder)
    return model


def merged(base: nn.Module, folder: Path) -> nn.Module:
    merge_(base, fitted(load_adapter(folder), base))
    return base


def text() -> dict[str, Tensor]:
    ids = torch.randint(0, 50, (3, 12), generator=torch.Generator().manual_seed(0))
    return {"input_ids": ids}


def all_outputs(model: nn.Module, inputs: dict[str, Tensor]) -> list[Tensor]:
    with torch.no_grad():
        found = model(**inputs)
    return [value for value in found.values() if isinstance(value, Tensor)]


def assert_equal_to_peft(base: nn.Module, theirs: nn.Module, folder: Path, inputs) -> None:
    before = all_outputs(base, inputs)
    found = all_outputs(merged(base, folder), inputs)
    unmerged = all_outputs(theirs, inputs)
    by_peft = theirs.merge_and_unload()
    for ours, loose, fixed in zip(found, unmerged, all_outputs(by_peft, inputs), strict=True):
        torch.testing.assert_close(ours, loose, **CLOSE)
        torch.testing.assert_close(ours, fixed, **CLOSE)
    assert not torch.allclose(found[0], before[0], atol=1e-2)
    state = base.state_dict()
    for name, value in by_peft.state_dict().items():
        torch.testing.assert_close(state[name], value, rtol=1e-5, atol=1e-6)


SETTINGS = {
    "plain": {"target_modules": ["query", "value"]},
    "alpha": {"target_modules": ["query", "value"], "lora_alpha": 13},
    "rank stabilized": {"target_modules": ["query"], "use_rslora": True, "lora_alpha": 3},
    "patterns": {
        "target_modules": ["query", "value", "dense"],
        "rank_pattern": {"query": 2, r"layer\.1\.attention\.self\.value": 7},
        "alpha_pattern": {"layer.0.attention.self.value": 3, "^encoder.layer.1.output.dense": 5},
        "use_rslora": True,
    },
    "embedding": {"target_modules": ["word_embeddings", "key"]},
    "whole modules": {"target_modules": ["query"], "modules_to_save": ["pooler"]},
    "some layers": {"target_modules": ["query"], "layers_to_transform": [1]},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_merging_gives_pefts_own_model(name, tmp_path):
    base = bert()
    theirs = save_peft(base, tmp_path, **SETTINGS[name])
    assert_equal_to_peft(base, theirs, tmp_path, text())


def test_gpt2s_turned_weights_are_merged_the_right_way_round(tmp_path):
    base = gpt2()
    theirs = save_peft(
        base, tmp_path, target_modules=["c_attn", "c_fc", "c_proj"], fan_in_fan_out=True
    )
    assert_equal_to_peft(base, theirs, tmp_path, text())


def test_convolutions_are_merged(tmp_path):
    base, image = seeded(Convolutions), torch.randn(2, 3, 12, 12)
    theirs = save_peft(base, tmp_path, target_modules=["wide", "point", "sound"])
    with torch.no_grad():
        wanted, before = theirs(image), base(image)
        found = merged(base, tmp_path)(image)
    torch.testing.assert_close(found, wanted, **CLOSE)
    assert not torch.allclose(found, before, atol=1e-2)


def test_a_half_precision_model_stays_one(tmp_path):
    base = bert()
    theirs = save_peft(base, tmp_path, target_modules=["query"]).merge_and_unload()
    half = merged(bert().to(torch.bfloat16), tmp_path)
    weight = half.encoder.layer[0].attention.self.query.weight
    wanted = theirs.encoder.layer[0].attention.self.query.weight
    assert weight.dtype == torch.bfloat16
    torch.testing.assert_close(weight.float(), wanted, rtol=1e-2, atol=1e-2)


class Wrapped(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, **inputs: Tensor) -> Tensor:
        return self.inner(**inputs)


def test_an_adapter_fits_a_model_inside_another(tmp_path):
    base = bert()
    theirs = save_peft(base, tmp_path, target_modules=["query"], modules_to_save=["pooler"])
    ours = merged(Wrapped(base), tmp_path)
    for found, wanted in zip(all_outputs(ours, text()), all_outputs(theirs, text()), strict=True):
        torch.testing.assert_close(found, wanted, **CLOSE)


def test_an_adapter_of_a_wrapped_model_fits_its_inside(tmp_path):
    base = bert()
    theirs = save_peft(Wrapped(base), tmp_path, target_modules=["query"])
    ours = merged(base, tmp_path)
    for found, wanted in zip(all_outputs(ours, text()), all_outputs(theirs, text()), strict=True):
        torch.testing.assert_close(found, wanted, **CLOSE)


def test_an_adapter_of_a_deeper_model_names_the_layer_that_is_missing(tmp_path):
    save_peft(bert(num_hidden_layers=3), tmp_path, target_modules=["query"])
    with pytest.raises(
        StepError, match=r"encoder\.layer\.2\.attention\.self\.query' names a"
    ) as found:
        fitted(load_adapter(tmp_path), bert())
    assert "the nearest are 'encoder.layer." in str(found.value)
    assert "another base model" in str(found.value)


def test_an_adapter_of_a_wider_model_names_the_shapes(tmp_path):
    save_peft(bert(hidden_size=64), tmp_path, target_modules=["query"])
    message = r"layer '.*query' are \[4, 64\] and \[64, 4\]; its weight in this model is \[32, 32\]"
    with pytest.raises(StepError, match=message):
        fitted(load_adapter(tmp_path), bert())


def test_an_adapter_of_another_architecture_names_the_nearest_layer(tmp_path):
    save_peft(gpt2(), tmp_path, target_modules=["c_attn"], fan_in_fan_out=True)
    with pytest.raises(StepError, match=r"transformer\.h\.0\.attn\.c_attn.*nearest.*another base"):
        fitted(load_adapter(tmp_path), bert())


def test_whole_modules_of_another_shape_are_named(tmp_path):
    save_peft(bert(), tmp_path, target_modules=["query"], modules_to_save=["pooler"])
    tensors = load_file(tmp_path / WEIGHTS)
    tensors["base_model.model.pooler.dense.weight"] = torch.ones(3, 32)
    save_file(tensors, tmp_path / WEIGHTS)
    with pytest.raises(StepError, match=r"pooler.dense.weight' \(modules_to_save\) is \[3, 32\]"):
        fitted(load_adapter(tmp_path), bert())


def test_a_base_weight_beside_the_adapter_must_be_the_models(tmp_path):
    base = gpt2(tie_word_embeddings=False)
    theirs = save_peft(base, tmp_path, target_modules=["lm_head"])
    assert any("base_layer" in key for key in load_file(tmp_path / WEIGHTS))
    assert_equal_to_peft(copy.deepcopy(base), theirs, tmp_path, text())
    with torch.no_grad():
        base.lm_head.weight += 1.0
    with pytest.raises(StepError, match=r"base weight 'lm_head.weight'.*this model's differs"):
        fitted(load_adapter(tmp_path), base)


def test_a_tied_weight_is_not_merged_into(tmp_path):
    save_peft(gpt2(), tmp_path, target_modules=["lm_head"])
    base = gpt2()
    before = base.lm_head.weight.clone()
    with pytest.raises(StepError, match=r"shares its weight with 'transformer.wte'"):
        merged(base, tmp_path)
    assert torch.equal(base.lm_head.weight, before)


def test_an_adapter_that_was_never_trained_is_refused(tmp_path):
    save_peft(bert(), tmp_path, target_modules=["query"], init_lora_weights=True)
    with pytest.raises(StepError, match="changes no weight"):
        merged(bert(), tmp_path)


def test_a_layer_that_an_earlier_step_replaced_takes_no_adapter(tmp_path):
    save_peft(bert(), tmp_path, target_modules=["query"])
    base = bert()
    part = base.encoder.layer[0].attention.self
    part.query = nn.Sequential(nn.Linear(32, 8, bias=False), nn.Linear(8, 32))
    with pytest.raises(StepError, match="is of class Sequential in this model"):
        fitted(load_adapter(tmp_path), base)


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (pytest.fail, ("the pickle was opened",))


def test_a_pickle_is_refused_unopened(tmp_path):
    save_peft(bert(), tmp_path, target_modules=["query"])
    (tmp_path / WEIGHTS).unlink()
    (tmp_path / "adapter_model.bin").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(StepError, match=r"adapter_model\.bin.*pickles.*runs whatever code"):
        load_adapter(tmp_path)


def change_config(folder: Path, **values) -> None:
    plain = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(plain | values))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"peft_type": "IA3"}, "peft_type is 'IA3'; only LORA"),
        ({"bias": "all"}, "bias is 'all'"),
        ({"use_dora": True}, "use_dora is 'True'"),
        ({"init_lora_weights": "pissa"}, "changed base weights"),
        ({"init_lora_weights": "pissa_niter_4"}, "changed base weights"),
        ({"alora_invocation_tokens": [1, 2]}, "alora_invocation_tokens"),
        ({"layer_replication": [[0, 1]]}, "layer_replication"),
        ({"something_new": 3}, "something_new is '3'"),
        ({"r": 0}, "r is '0'; it must be a whole number"),
        ({"r": True}, "r is 'True'"),
        ({"r": "4"}, "r is '4'"),
        ({"r": 5}, r"factors \[4, 32\] and \[32, 4\]; the config says rank 5"),
        ({"lora_alpha": "x"}, "lora_alpha is 'x'"),
        ({"rank_pattern": [1]}, "rank_pattern"),
        ({"rank_pattern": {"query": -1}}, "rank_pattern.query is '-1'"),
        ({"alpha_pattern": {"(.+)+x": 1}}, "without repeated groups"),
        ({"alpha_pattern": {"a" * 300: 1}}, "at most 200 characters"),
        ({"alpha_pattern": {"(": 1}}, "regular expression"),
        ({"use_rslora": "yes"}, "use_rslora"),
        ({"modules_to_save": "pooler"}, "modules_to_save"),
    ],
)
def test_configs_that_say_something_else_are_refused(tmp_path, values, message):
    save_peft(bert(), tmp_path, target_modules=["query"])
    change_config(tmp_path, **values)
    with pytest.raises(StepError, match=message):
        load_adapter(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "cannot be read as JSON"),
        (b"[1]", "a list; it must be a table"),
        (b"[" * 100_000, "cannot be read as JSON"),
        (b" " * (1 << 21), "bytes; a config is a few kilobytes"),
        (b"\xff\xfe", "cannot be read as JSON"),
        (b'{"peft_type": "LORA", "r": 4, "lora_alpha": NaN}', "must be a finite number"),
    ],
)
def test_hostile_configs_are_refused(tmp_path, content, message):
    save_peft(bert(), tmp_path, target_modules=["query"])
    (tmp_path / CONFIG).write_bytes(content)
    with pytest.raises(StepError, match=message):
        load_adapter(tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b"\x00" * 7, b"\xff" * 64, (1 << 40).to_bytes(8, "little") + b"{}", b"PK\x03"]
)
def test_hostile_weights_are_refused(tmp_path, content):
    save_peft(bert(), tmp_path, target_modules=["query"])
    (tmp_path / WEIGHTS).write_bytes(content)
    with pytest.raises(StepError, match="cannot be read as safetensors"):
        load_adapter(tmp_path)


def change_weights(folder: Path, change) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)


KEY = "base_model.model.encoder.layer.0.attention.self.query"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(f"{KEY}.lora_B.weight"), "has lora_A; an adapter needs lora_A and lora_B"),
        (lambda t: t.update({f"{KEY}.lora_magnitude_vector": torch.ones(32)}), "variant of LoRA"),
        (lambda t: t.update({f"{KEY}.lora_B.bias": torch.ones(32)}), "variant of LoRA"),
        (lambda t: t.update({f"{KEY}.weight": torch.ones(2)}), "no part of a LoRA adapter"),
        (lambda t: t.update({"other.lora_A.weight": torch.ones(2)}), "does not begin with"),
        (lambda t: t[f"{KEY}.lora_A.weight"].fill_(torch.nan), "holds NaN or infinity"),
        (
            lambda t: t.update({f"{KEY}.lora_A.weight": torch.ones(4, 32, dtype=torch.int8)}),
            "torch.int8; adapters are floats",
        ),
        (lambda t: t.update({f"{KEY}.lora_A.weight": torch.ones(4)}), r"factors \[4\] and"),
        (lambda t: t.clear(), "no adapter in it"),
    ],
)
def test_weights_that_do_not_belong_together_are_refused(tmp_path, change, message):
    save_peft(bert(), tmp_path, target_modules=["query"])
    change_weights(tmp_path, change)
    with pytest.raises(StepError, match=message):
        load_adapter(tmp_path)


def test_a_folder_without_an_adapter_names_the_one_inside(tmp_path):
    save_peft(bert(), tmp_path / "german", target_modules=["query"])
    with pytest.raises(StepError, match=r"no adapter_config.json there.*'german' in it"):
        load_adapter(tmp_path)


def test_a_folder_without_weights_is_refused(tmp_path):
    save_peft(bert(), tmp_path, target_modules=["query"])
    (tmp_path / WEIGHTS).unlink()
    with pytest.raises(StepError, match=r"no adapter_model.safetensors there"):
        load_adapter(tmp_path)

"""One base model that takes its adapter as an input, against models with the adapter merged."""

import copy
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgekit.compress.low_rank.adapter_files import Adapter, Factor, load_adapter
from edgekit.compress.low_rank.adapter_inputs import layout_of, pack, with_adapter_input
from edgekit.compress.low_rank.adapters import fitted, merge_
from edgekit.core.contract import Tensor as TensorInput
from edgekit.core.errors import StepError
from tests.compress.benches import TinyTransformer, call, seeded
from tests.compress.exports import export_both
from tests.compress.low_rank.test_adapters import bert, gpt2, save_peft, text

CLOSE = {"rtol": 1e-4, "atol": 1e-4}  # float32 sums in another order


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 0.3


def adapter(rank: int, *paths: str, seed: int = 0) -> Adapter:
    """A random adapter for layers of TinyTransformer (32 wide, 64 between)."""
    factors = {}
    for path in paths:
        sizes = {"ffn_in": (64, 32), "ffn_out": (32, 64)}.get(path.rpartition(".")[2], (32, 32))
        factors[path] = Factor(
            down=drawn(rank, sizes[1], seed=seed), up=drawn(sizes[0], rank, seed=seed), scale=1.5
        )
    return Adapter(folder=Path("made"), factors=factors)


BRIEF = adapter(4, "layers.0.attention.query", "layers.1.ffn_in", seed=1)
LONG = adapter(8, "layers.1.ffn_in", "layers.1.ffn_out", seed=2)


def merged(model: nn.Module, one: Adapter) -> nn.Module:
    changed = copy.deepcopy(model)
    merge_(changed, one)
    return changed


@pytest.mark.parametrize("chosen", ["brief", "long", "none"])
def test_a_row_makes_the_base_the_merged_model(chosen):
    base, images = seeded(TinyTransformer), drawn(3, 1, 8, 8)
    layout = layout_of(base, [BRIEF, LONG])
    one = {"brief": BRIEF, "long": LONG}.get(chosen)
    row = torch.zeros(layout.size) if one is None else pack(one, layout)
    with torch.no_grad():
        wanted = (base if one is None else merged(base, one))(images)
        model = with_adapter_input(base, layout, call, ["image"])
        found = model(images, row.expand(3, -1))["scores"]
    torch.testing.assert_close(found, wanted, **CLOSE)


def test_samples_of_one_batch_may_have_different_adapters():
    base, images = seeded(TinyTransformer), drawn(2, 1, 8, 8)
    layout = layout_of(base, [BRIEF, LONG])
    with torch.no_grad():
        wanted = torch.cat(
            [merged(base, one)(images[i : i + 1]) for i, one in enumerate((BRIEF, LONG))]
        )
        model = with_adapter_input(base, layout, call, ["image"])
        found = model(images, torch.stack([pack(BRIEF, layout), pack(LONG, layout)]))["scores"]
    torch.testing.assert_close(found, wanted, **CLOSE)
    assert not torch.allclose(found[0], base_scores(images)[0], atol=1e-2)


def base_scores(images: Tensor) -> Tensor:
    with torch.no_grad():
        return seeded(TinyTransformer)(images)


def test_a_row_holds_each_factor_once():
    layout = layout_of(seeded(TinyTransformer), [BRIEF, LONG])
    # query 4 x (32 + 32), ffn_in 8 x (32 + 64), ffn_out 8 x (64 + 32).
    assert layout.size == 4 * 64 + 8 * 96 + 8 * 96
    assert [place.path for place in layout.places] == sorted(BRIEF.factors | LONG.factors)


def call_bert(model: nn.Module, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {"hidden": model(**inputs)[0]}


@pytest.mark.parametrize("make", [bert, gpt2])
def test_adapters_of_peft_are_chosen_at_run_time(tmp_path, make):
    base, inputs = make(), text()
    targets = ["query", "dense"] if make is bert else ["c_attn", "c_fc"]
    found, wanted = [], []
    for number in range(2):
        folder = tmp_path / str(number)
        theirs = save_peft(base, folder, target_modules=targets, r=2 + number)
        found.append(fitted(load_adapter(folder), base))
        with torch.no_grad():
            wanted.append(theirs(**inputs)[0])
    layout = layout_of(base, found)
    model = with_adapter_input(base, layout, call_bert, list(inputs))
    for one, result in zip(found, wanted, strict=True):
        with torch.no_grad():
            ours = model(*inputs.values(), pack(one, layout).expand(3, -1))["hidden"]
        torch.testing.assert_close(ours, result, **CLOSE)


def test_both_formats_choose_the_adapter_from_their_input(tmp_path):
    base, image = seeded(TinyTransformer), drawn(1, 1, 8, 8)
    layout = layout_of(base, [BRIEF, LONG])
    models = {"brief": merged(base, BRIEF), "long": merged(base, LONG)}
    rows = {"brief": pack(BRIEF, layout)[None], "long": pack(LONG, layout)[None]}

    def named(model: nn.Module, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"out": call(model, inputs)["scores"]}

    model = with_adapter_input(base, layout, named, ["image"])
    kinds = {"image": TensorInput(shape=(1, 8, 8)), "adapter": TensorInput(shape=(layout.size,))}
    exported = export_both(model, kinds, tmp_path)
    for name, merged_model in models.items():
        given = {"image": image.numpy(), "adapter": rows[name].numpy()}
        with torch.no_grad():
            wanted = merged_model(image).numpy()
        for run in exported.values():
            np.testing.assert_allclose(run(given), wanted, rtol=1e-3, atol=1e-3)


def test_what_is_no_product_on_a_linear_layer_must_be_merged():
    base = seeded(TinyTransformer)
    whole = Adapter(folder=Path("made"), factors={}, replaced={"classifier.bias": torch.ones(10)})
    with pytest.raises(StepError, match=r"replaces 'classifier\.bias'"):
        layout_of(base, [whole])
    norm = Adapter(folder=Path("made"), factors={"norm": BRIEF.factors["layers.1.ffn_in"]})
    with pytest.raises(StepError, match="'norm' is a LayerNorm"):
        layout_of(base, [norm])


def test_an_adapter_without_room_is_refused():
    layout = layout_of(seeded(TinyTransformer), [BRIEF])
    with pytest.raises(StepError, match="rank 8, and the model was built with room for rank 4"):
        pack(adapter(8, "layers.1.ffn_in"), layout)
    with pytest.raises(StepError, match="room for none"):
        pack(LONG, layout_of(seeded(TinyTransformer), [adapter(4, "layers.0.ffn_in")]))


def test_an_input_of_the_same_name_is_refused():
    base = seeded(TinyTransformer)
    with pytest.raises(StepError, match="input 'adapter' of its own"):
        with_adapter_input(base, layout_of(base, [BRIEF]), call, ["adapter"])

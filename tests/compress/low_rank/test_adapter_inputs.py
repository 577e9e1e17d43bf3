"""One base model that takes its adapter as an input, against models with the adapter merged."""

import copy
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
from tests.compress.benches import TinyTransformer, seeded
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
        found = with_adapter_input(base, layout)(images, row.expand(3, -1))
    torch.testing.assert_close(found, wanted, **CLOSE)


def test_samples_of_one_batch_may_have_different_adapters():
    base, images = seeded(TinyTransformer), drawn(2, 1, 8, 8)
    layout = layout_of(base, [BRIEF, LONG])
    with torch.no_grad():
        wanted = torch.cat(
            [merged(base, one)(images[i : i + 1]) for i, one in enumerate((BRIEF, LONG))]
        )
        rows = torch.stack([pack(BRIEF, layout), pack(LONG, layout)])
        found = with_adapter_input(base, layout)(images, rows)
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
    model = with_adapter_input(base, layout)
    for one, result in zip(found, wanted, strict=True):
        with torch.no_grad():
            ours = model(*inputs.values(), pack(one, layout).expand(3, -1))[0]
        torch.testing.assert_close(ours, result, **CLOSE)


def test_both_formats_choose_the_adapter_from_their_input(tmp_path):
    base, image = seeded(TinyTransformer), drawn(1, 1, 8, 8)
    layout = layout_of(base, [BRIEF, LONG])
    models = {"brief": merged(base, BRIEF), "long": merged(base, LONG)}
    rows = {"brief": pack(BRIEF, layout)[None], "long": pack(LONG, layout)[None]}

    model = with_adapter_input(base, layout)
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
    with pytest.raises(StepError, match="'norm' is of class LayerNorm"):
        layout_of(base, [norm])


def test_an_adapter_without_room_is_refused():
    layout = layout_of(seeded(TinyTransformer), [BRIEF])
    with pytest.raises(StepError, match="rank 8, and the model was built with room for rank 4"):
        pack(adapter(8, "layers.1.ffn_in"), layout)
    with pytest.raises(StepError, match="room for none"):
        pack(LONG, layout_of(seeded(TinyTransformer), [adapter(4, "layers.0.ffn_in")]))


def test_paths_weights_and_class_names_stay_as_the_user_knows_them():
    base = seeded(TinyTransformer)
    before = {path: type(item).__name__ for path, item in base.named_modules()}
    weights = copy.deepcopy(base.state_dict())
    model = with_adapter_input(base, layout_of(base, [BRIEF, LONG]))
    assert {path: type(item).__name__ for path, item in model.named_modules()} == before
    for name, value in model.state_dict().items():
        assert torch.equal(value, weights[name])


def test_both_factors_of_a_rank_reach_equally_far():
    """So one grid of integers over the whole row keeps both: A is usually far larger than B."""
    uneven = Adapter(
        folder=Path("made"),
        factors={
            "layers.1.ffn_in": Factor(down=drawn(4, 32), up=drawn(64, 4, seed=1) * 1e-3, scale=2.0)
        },
    )
    layout = layout_of(seeded(TinyTransformer), [uneven])
    down, up = pack(uneven, layout).split([4 * 32, 64 * 4])
    sizes = down.reshape(4, 32).abs().amax(1), up.reshape(64, 4).abs().amax(0)
    torch.testing.assert_close(*sizes)
    factor = uneven.factors["layers.1.ffn_in"]
    torch.testing.assert_close(
        up.reshape(64, 4) @ down.reshape(4, 32), 2.0 * factor.up @ factor.down
    )

"""The step "rotate": outliers spread before they are rounded, and nothing else."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import edgekit
from edgekit.compress.bench import Bench
from edgekit.compress.quantization import rotate as step
from edgekit.compress.quantization.rotate import rotate
from edgekit.compress.state import load_state, save_state
from edgekit.core.contract import Contract, InputContract, OutputContract
from edgekit.core.errors import StepError
from edgekit.core.progress import Reporter
from edgekit.core.steps import Rotate
from edgekit.data.checks import write_checked
from edgekit.evaluate.metrics import resolve_metric
from tests.compress.architectures import ALL
from tests.compress.benches import SILENT, TinyCnn, assert_same_state, bench_of, seeded, state_of
from tests.compress.exports import export_both
from tests.compress.quantization.rotated import Logits, llama, unevened

LENGTH, WORDS, WIDTH, LOUD = 9, 50, 48, 7
IDS = edgekit.Tensor(shape=(LENGTH,), dtype="int64")


def drawn(count=12):
    return np.random.default_rng(0).integers(0, WORDS, (count, LENGTH))


def language_bench(model, folder: Path, **given) -> Bench:
    """A model of token numbers on a bench, with numbers by chance."""
    data = write_checked(
        list(drawn()), {"ids": IDS}, folder / "data", set_name="calibration", needs_target=False
    ).dataset
    contract = Contract(
        inputs=(InputContract(name="ids", dtype="int64", shape=("batch", LENGTH), source=IDS),),
        outputs=(OutputContract(name="y", dtype="float32", shape=("batch", LENGTH, WORDS)),),
    )
    return Bench(
        model=model,
        teacher=copy.deepcopy(model),
        contract=contract,
        call=lambda item, inputs: {"y": item(inputs["ids"])},
        training=None,
        calibration=data,
        selection=data,
        metric=resolve_metric("cosine"),
        checkpoints=folder,
        **given,
    )


def seeded_llama(**given) -> Logits:
    return unevened(seeded(lambda: llama(**given)))


@torch.no_grad()
def loud(model: Logits) -> Logits:
    """One channel of the stream far above the others, as language models have them."""
    model.inner.model.embed_tokens.weight[:, LOUD] *= 60
    for layer in model.inner.model.layers:
        layer.mlp.down_proj.weight[LOUD] *= 20
    return model


@torch.no_grad()
def outputs(model) -> torch.Tensor:
    return model(torch.from_numpy(drawn()))


def lost(model, wanted) -> float:
    return float((outputs(model) - wanted).square().sum() / wanted.square().sum())


def _layers(model):
    return [item for item in model.modules() if isinstance(item, nn.Linear)]


@torch.no_grad()
def in_blocks_of_four_bits(model):
    """Round to nearest in blocks of 16 inputs, by the largest of each."""
    for layer in _layers(model):
        blocks = layer.weight.reshape(len(layer.weight), -1, 16)
        scale = blocks.abs().amax(dim=-1, keepdim=True) / 7
        layer.weight.copy_(((blocks / scale).round() * scale).reshape(layer.weight.shape))
    return model


@torch.no_grad()
def with_static_inputs(model):
    """Inputs of each layer in 8 bits with one scale, of the largest on the same data."""
    tops = {}

    def watch(layer, args):
        tops[layer] = max(tops.get(layer, 0.0), float(args[0].abs().max()))

    hooks = [layer.register_forward_pre_hook(watch) for layer in _layers(model)]
    outputs(model)
    for hook in hooks:
        hook.remove()
    for layer in _layers(model):
        scale = tops[layer] / 127
        layer.register_forward_pre_hook(
            lambda _, args, scale=scale: ((args[0] / scale).round().clamp(-128, 127) * scale,)
        )
    return model


def test_a_loud_channel_costs_less_once_it_is_spread(tmp_path):
    model = loud(seeded_llama())
    wanted = outputs(model)
    said = []
    result = rotate(
        Rotate(), language_bench(model, tmp_path), Reporter(stage="t", listener=said.append)
    )
    # float32 through two blocks with values 60 times apart.
    torch.testing.assert_close(outputs(result.model), wanted, rtol=0, atol=1e-5)
    for rounded, share in ((in_blocks_of_four_bits, 0.7), (with_static_inputs, 0.25)):
        before = lost(rounded(copy.deepcopy(model)), wanted)
        after = lost(rounded(copy.deepcopy(result.model)), wanted)
        assert after < before * share, rounded
    peaks = result.values["peak_ratios"]["inner.model.layers.0.self_attn.q_proj.weight"]
    assert peaks["after"] < peaks["before"] / 1.5
    assert result.values["streams"] == {"inner.model.embed_tokens.weight": WIDTH}
    assert len(result.values["value_heads"]) == 2
    first, last = result.points
    assert (first.name, last.name) == ("as it came", "rotated")
    assert first.parameters == last.parameters
    assert last.score == pytest.approx(1, abs=1e-6)
    assert any("rotated: the 48 channels of" in event.message for event in said)


@pytest.mark.slow
def test_the_exported_model_gives_the_same_outputs_in_both_formats(tmp_path):
    model = loud(seeded_llama())
    result = rotate(Rotate(), language_bench(model, tmp_path), SILENT)
    exported = export_both(result.model, {"ids": IDS}, tmp_path / "out")
    sample = drawn(1)
    with torch.no_grad():
        wanted = model(torch.from_numpy(sample)).numpy()
    for name, run in exported.items():
        # LiteRT has 32-bit indices.
        given = sample.astype(np.int32) if name == "litert" else sample
        np.testing.assert_allclose(run({"ids": given}), wanted, atol=2e-5, err_msg=name)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(tmp_path):
    states = [
        rotate(Rotate(), language_bench(seeded_llama(), tmp_path / str(at), seed=seed), SILENT)
        for at, seed in enumerate((0, 0, 1))
    ]
    one, two, three = (state_of(item.model) for item in states)
    assert_same_state(one, two)
    name = "inner.model.embed_tokens.weight"
    assert not torch.allclose(one[name], three[name], atol=1e-3)


def test_weights_that_became_two_are_written_down_and_read_back(tmp_path):
    base = seeded_llama(is_tied=True)
    bench = language_bench(copy.deepcopy(base), tmp_path)
    result = rotate(Rotate(may_untie=True), bench, SILENT)
    assert result.points[1].parameters == result.points[0].parameters + WORDS * WIDTH
    (tmp_path / "state").mkdir()
    save_state(result.model, base, tmp_path / "state")
    loaded = load_state(base, tmp_path / "state").model
    torch.testing.assert_close(outputs(loaded), outputs(base), rtol=0, atol=1e-5)
    assert loaded.inner.lm_head.weight is not loaded.inner.model.embed_tokens.weight


def test_tied_weights_leave_the_values_alone_to_be_rotated_and_that_is_said(tmp_path):
    said = []
    bench = language_bench(seeded_llama(is_tied=True), tmp_path)
    result = rotate(Rotate(), bench, Reporter(stage="t", listener=said.append))
    assert result.values["streams"] == {}
    assert len(result.values["value_heads"]) == 2
    assert any("may_untie = true" in event.message for event in said)


def test_a_trained_vision_transformer_keeps_its_scores(fitted_transformer, digits, checkpoints):
    bench = bench_of(fitted_transformer, digits, checkpoints)
    rows = next(iter(digits.selection.batches(digits.selection.count)))
    image = torch.from_numpy(rows["image"])
    with torch.no_grad():
        wanted = fitted_transformer(image)
        result = rotate(Rotate(), bench, SILENT)
        found = result.model(image)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    assert len(result.values["streams"]) == 1
    assert result.points[0].score == result.points[1].score


def test_a_convolutional_net_is_refused(digits, checkpoints):
    bench = bench_of(seeded(TinyCnn), digits, checkpoints)
    with pytest.raises(StepError, match=r"rotate: nothing can be rotated \(.*; take the step out"):
        rotate(Rotate(), bench, SILENT)


def test_norms_between_blocks_are_refused_by_name(tmp_path):
    bench = language_bench(unevened(ALL["bert"].model()), tmp_path)
    with pytest.raises(StepError, match=r"add reads what .*LayerNorm.weight weighs"):
        rotate(Rotate(rotations=("stream",)), bench, SILENT)


def test_zeros_that_must_stay_are_refused(tmp_path):
    model = seeded_llama()
    name = "inner.model.layers.0.self_attn.o_proj.weight"
    other = "inner.model.layers.1.self_attn.v_proj.weight"
    masks = {item: model.get_parameter(item) > 0 for item in (name, other)}
    bench = language_bench(model, tmp_path, masks=masks)
    with pytest.raises(StepError, match=r"has zeros that must stay"):
        rotate(Rotate(), bench, SILENT)


@pytest.mark.parametrize("rotation", ["stream", "values"])
def test_outputs_that_would_change_are_refused_and_the_model_stays(rotation, tmp_path, monkeypatch):
    """A rotation that is not one on both sides stands for whatever a trace may overlook."""
    real = getattr(step, f"rotate_{'streams' if rotation == 'stream' else 'values'}_")

    def wrong(*args):
        real(*args)
        item = args[0] if isinstance(args[0], nn.Module) else None
        value = args[1][0].turned[0].leaf.value if item is not None else args[0][0].weight.value
        with torch.no_grad():
            value.mul_(1.01)

    model = seeded_llama()
    before = state_of(model)
    monkeypatch.setattr(step, real.__name__, wrong)
    with pytest.raises(StepError, match=rf"with '{rotation}' rotated the output 'y' changes by"):
        rotate(Rotate(rotations=(rotation,)), language_bench(model, tmp_path), SILENT)
    assert_same_state(state_of(model), before)


@pytest.mark.parametrize(
    ("rotations", "why"), [((), "rotations is empty"), (("heads",), "rotations has 'heads'")]
)
def test_unknown_rotations_are_refused(rotations, why):
    with pytest.raises(StepError, match=f"{why}; it may hold 'stream' and 'values'"):
        Rotate(rotations=rotations)

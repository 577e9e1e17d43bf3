"""What a layer gets in the rounded model and should give, against torch's own layers."""

import copy

import pytest
import torch

from edgekit.compress.quantization.samples import draw_samples
from edgekit.compress.sparsity.sparse_layers import participants
from edgekit.core.errors import StepError
from tests.compress.benches import cnn_bench

ENOUGH = 64 * 2**20


def weight_of(model, path):
    return next(item for item in participants(model).weights if item.path == path)


def drawn(bench, path, *, reference=None, limit=ENOUGH, calls=1):
    item = weight_of(bench.model, path)
    return draw_samples(bench, reference or bench.model, item, calls=calls, limit_bytes=limit)


def everything(bench):
    rows = next(iter(bench.calibration.batches(bench.calibration.count)))
    return torch.from_numpy(rows["image"])


def outputs_of(model, path, images):
    """What a layer gives, by a hook of torch."""
    seen = []
    hook = model.get_submodule(path).register_forward_hook(lambda *given: seen.append(given[2]))
    with torch.no_grad():
        model(images)
    hook.remove()
    return seen[0]


@pytest.mark.parametrize("path", ["stem", "depthwise", "pointwise"])
def test_with_room_for_all_places_they_are_all_there(path, digits, tmp_path):
    bench = cnn_bench(digits, tmp_path)
    found, layer = drawn(bench, path), bench.model.get_submodule(path)
    wanted = outputs_of(bench.model, path, everything(bench))
    if layer.bias is not None:
        wanted = wanted - layer.bias.view(1, -1, 1, 1)
    rows = wanted.movedim(1, -1).flatten(0, 2)
    ours = found.wanted.permute(1, 0, 2).flatten(1)
    assert torch.allclose(ours, rows, atol=1e-5)


def test_inputs_are_of_the_rounded_model_and_outputs_of_the_float_one(digits, tmp_path):
    bench = cnn_bench(digits, tmp_path)
    reference = copy.deepcopy(bench.model)
    with torch.no_grad():
        bench.model.stem.weight *= 0.5
    apart, alike = drawn(bench, "first", reference=reference), drawn(bench, "first")
    floats = draw_samples(
        bench, reference, weight_of(bench.model, "first"), calls=1, limit_bytes=ENOUGH
    )
    assert torch.equal(apart.inputs, alike.inputs)
    assert torch.equal(apart.wanted, floats.wanted)
    assert not torch.allclose(apart.wanted, alike.wanted)


def test_the_same_places_are_drawn_in_both_models(digits, tmp_path):
    bench = cnn_bench(digits, tmp_path)
    found = drawn(bench, "first", limit=100_000)
    item = weight_of(bench.model, "first")
    weight = item.matrix(item.parameter.detach())
    assert torch.allclose(found.inputs[0] @ weight.T, found.wanted[0], atol=1e-6)


@pytest.mark.parametrize("limit", [10_000, 200_000])
def test_no_more_bytes_are_held_than_allowed(limit, digits, tmp_path):
    found = drawn(cnn_bench(digits, tmp_path), "first", limit=limit)
    held = 4 * (found.inputs.numel() + found.wanted.numel())
    assert 0.5 * limit < held <= 1.05 * limit  # a place is 640 bytes, and shares are rounded up


def test_layers_behind_the_one_are_not_run(digits, tmp_path):
    bench = cnn_bench(digits, tmp_path)
    runs = []
    bench.model.classifier.register_forward_hook(lambda *_: runs.append(1))
    drawn(bench, "first")
    assert not runs
    drawn(bench, "first", calls=0)  # where the number of calls is not known all is run
    assert runs


def test_infinity_is_refused_with_the_layers_name(digits, tmp_path):
    bench = cnn_bench(digits, tmp_path)
    with torch.no_grad():
        bench.model.stem_norm.bias[0] = float("inf")
    with pytest.raises(StepError, match="layer 'first' gets NaN or infinity"):
        drawn(bench, "first")

"""The step "factorize" on small models: what it replaces, what it leaves, what it promises."""

import copy
import hashlib

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from edgekit.compress.judge import Judge
from edgekit.compress.low_rank.factorize import factorize, shared_layers
from edgekit.compress.state import load_state, save_state
from edgekit.core.contract import Tensor as TensorInput
from edgekit.core.errors import StepError
from edgekit.core.steps import Factorize, Train
from tests.compress.benches import (
    SILENT,
    TinyCnn,
    TinyMlp,
    TinyTransformer,
    bench_of,
    cnn_bench,
    fit,
    mlp_bench,
    seeded,
    transformer_bench,
)
from tests.compress.exports import export_both


@pytest.fixture(scope="module")
def wide_cnn(digits) -> nn.Module:
    """Wide enough that a thin layer pays."""
    return fit(seeded(lambda: TinyCnn(width=32)), digits, epochs=4)


@pytest.fixture(scope="module")
def wide_mlp(digits) -> nn.Module:
    return fit(seeded(lambda: TinyMlp(width=128)), digits, epochs=4)


def parameters(model: nn.Module) -> int:
    return sum(value.numel() for value in model.parameters())


def digest(model: nn.Module) -> str:
    content = hashlib.sha256()
    for name, value in model.state_dict().items():
        content.update(name.encode() + value.contiguous().numpy().tobytes())
    return content.hexdigest()


def test_layers_become_chains_of_thinner_layers(wide_cnn, digits, checkpoints):
    bench = bench_of(copy.deepcopy(wide_cnn), digits, checkpoints)
    result = factorize(Factorize(ranks="ratio", ratio=0.5), bench, SILENT)
    assert set(result.values["factorized"]) == {"first", "second", "pointwise", "classifier"}
    assert [type(part) for part in result.model.first] == [nn.Conv2d] * 3
    assert result.values["factorized"]["first"]["ranks"] == [16, 16]
    assert parameters(result.model) < parameters(wide_cnn)
    assert not result.model.training


def test_figures_are_those_of_the_model(wide_cnn, digits, checkpoints):
    bench = bench_of(copy.deepcopy(wide_cnn), digits, checkpoints)
    result = factorize(Factorize(ranks="ratio", ratio=0.5), bench, SILENT)
    start, end = result.points[0], result.points[-1]
    found = result.values["factorized"].values()
    assert start.parameters == parameters(wide_cnn)
    assert end.parameters == parameters(result.model)
    saved = sum(item["parameters_before"] - item["parameters_after"] for item in found)
    assert start.parameters - end.parameters == saved
    assert start.macs - end.macs == sum(item["macs_before"] - item["macs_after"] for item in found)
    assert end.is_kept
    assert end.score == pytest.approx(Judge(bench).score(result.model))


def test_what_stays_whole_is_named_with_the_reason(wide_cnn, digits, checkpoints):
    bench = bench_of(copy.deepcopy(wide_cnn), digits, checkpoints)
    settings = Factorize(ranks="ratio", ratio=0.5, ignore=("second",))
    whole = factorize(settings, bench, SILENT).values["whole"]
    assert "depthwise" in whole["depthwise"]
    assert "ignore" in whole["second"]
    # 1 -> 32 channels at 8 x 8: a core of 16 x 9, a way up of 16 x 32, against 32 x 9.
    assert whole["stem"] == (
        "at rank 16 of 32 x 1 of 1 it would take 656 parameters and 41,984 MACs a sample, and now "
        "takes 288 and 18,432"
    )
    assert set(whole) == {"stem", "depthwise", "second"}


def test_methods_that_are_not_asked_for_leave_their_layers(wide_cnn, digits, checkpoints):
    bench = bench_of(copy.deepcopy(wide_cnn), digits, checkpoints)
    result = factorize(Factorize(methods=("tucker",), ranks="ratio"), bench, SILENT)
    assert set(result.values["factorized"]) == {"first", "second"}
    assert "svd is not among the methods" in result.values["whole"]["pointwise"]


@pytest.mark.parametrize("is_whitened", [False, True])
def test_energy_keeps_its_promise_on_every_layer(wide_mlp, digits, checkpoints, is_whitened):
    bench = bench_of(copy.deepcopy(wide_mlp), digits, checkpoints)
    settings = Factorize(energy=0.9, is_whitened=is_whitened)
    result = factorize(settings, bench, SILENT)
    for item in result.values["factorized"].values():
        assert item["kept_energy"] >= 0.9
        assert item["ranks"][0] % 8 == 0


def test_plain_energy_is_the_share_of_squared_singular_values(wide_mlp, digits, checkpoints):
    bench = bench_of(copy.deepcopy(wide_mlp), digits, checkpoints)
    result = factorize(Factorize(energy=0.8, is_whitened=False), bench, SILENT)
    weight = wide_mlp.layers[3].weight.detach().double()
    values = torch.linalg.svdvals(weight) ** 2
    item = result.values["factorized"]["layers.3"]
    share = values[: item["ranks"][0]].sum() / values.sum()
    assert item["kept_energy"] == pytest.approx(share.item(), abs=1e-9)
    chain = result.model.layers[3]
    product = (chain[1].weight @ chain[0].weight).double()
    error = torch.linalg.norm(product - weight) ** 2 / torch.linalg.norm(weight) ** 2
    assert error.item() == pytest.approx(1 - share.item(), abs=1e-5)


@pytest.mark.parametrize("family", ["mlp", "cnn"])
def test_whitening_loses_less_at_the_same_ranks(wide_mlp, wide_cnn, digits, checkpoints, family):
    float_model = wide_mlp if family == "mlp" else wide_cnn
    images = torch.from_numpy(next(iter(digits.selection.batches(400)))["image"])
    errors = {}
    for is_whitened in (False, True):
        bench = bench_of(copy.deepcopy(float_model), digits, checkpoints)
        settings = Factorize(ranks="ratio", ratio=0.25, is_whitened=is_whitened)
        model = factorize(settings, bench, SILENT).model
        with torch.no_grad():
            wanted = float_model(images)
            errors[is_whitened] = ((model(images) - wanted).norm() / wanted.norm()).item()
    assert errors[True] < 0.8 * errors[False]


def test_a_bias_takes_up_the_mean_of_what_is_lost(digits, checkpoints):
    model = seeded(lambda: TinyMlp(width=64))
    with torch.no_grad():
        model.layers[1].bias.fill_(0.7)  # constant parts reach the next layer
    bench = bench_of(model, digits, checkpoints)
    images = torch.from_numpy(next(iter(digits.calibration.batches(64)))["image"])
    settings = Factorize(ranks="ratio", ratio=0.25, ignore=(r"layers\.[15]",))
    wanted = copy.deepcopy(model.layers[:4])(images).mean(dim=0)
    found = factorize(settings, bench, SILENT).model.layers[:4](images).mean(dim=0)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("share", [0.4, 0.6, 0.8])
def test_search_stays_within_the_parameters(wide_cnn, digits, checkpoints, share):
    bench = bench_of(copy.deepcopy(wide_cnn), digits, checkpoints)
    result = factorize(Factorize(ranks="search", parameter_ratio=share), bench, SILENT)
    found = parameters(result.model)
    assert found <= share * parameters(wide_cnn)
    # The last step may overshoot by one rank of one layer, not by more.
    assert found > 0.7 * share * parameters(wide_cnn)


def test_search_stays_within_the_bytes_on_disk(wide_cnn, digits, checkpoints, tmp_path):
    from safetensors.torch import save_file

    budget = 2 * parameters(wide_cnn)
    bench = bench_of(copy.deepcopy(wide_cnn), digits, checkpoints)
    result = factorize(Factorize(ranks="search", keep_bytes=budget), bench, SILENT)
    save_file(dict(result.model.named_parameters()), tmp_path / "weights")
    header = int.from_bytes((tmp_path / "weights").read_bytes()[:8], "little") + 8
    assert (tmp_path / "weights").stat().st_size - header <= budget


def test_search_takes_the_better_of_its_plans(wide_cnn, digits, checkpoints):
    bench = bench_of(copy.deepcopy(wide_cnn), digits, checkpoints)
    result = factorize(Factorize(ranks="search", parameter_ratio=0.5), bench, SILENT)
    plans = [point for point in result.points if point.name.startswith("search")]
    assert plans
    assert result.points[-1].score == max(point.score for point in plans)


def test_search_loses_less_than_the_same_ratio_everywhere(wide_cnn, digits, checkpoints):
    by_ratio = factorize(
        Factorize(ranks="ratio", ratio=0.25),
        bench_of(copy.deepcopy(wide_cnn), digits, checkpoints),
        SILENT,
    )
    share = parameters(by_ratio.model) / parameters(wide_cnn)
    searched = factorize(
        Factorize(ranks="search", parameter_ratio=share),
        bench_of(copy.deepcopy(wide_cnn), digits, checkpoints),
        SILENT,
    )
    assert parameters(searched.model) <= parameters(by_ratio.model)
    assert searched.points[-1].score >= by_ratio.points[-1].score


def test_a_budget_that_cannot_be_met_says_what_can(wide_cnn, digits, checkpoints):
    bench = bench_of(copy.deepcopy(wide_cnn), digits, checkpoints)
    with pytest.raises(StepError, match=r"smallest ranks that pay still take [\d,]+ \("):
        factorize(Factorize(ranks="search", parameter_ratio=0.01), bench, SILENT)


def test_a_budget_that_is_met_already_is_refused(wide_cnn, digits, checkpoints):
    bench = bench_of(copy.deepcopy(wide_cnn), digits, checkpoints)
    with pytest.raises(StepError, match="keep_bytes is 99,999,999"):
        factorize(Factorize(ranks="search", keep_bytes=99_999_999), bench, SILENT)


def test_nothing_to_gain_is_an_error_that_says_why(digits, checkpoints):
    bench = mlp_bench(digits, checkpoints)
    with pytest.raises(StepError, match=r"no layer would get both smaller and cheaper.*rank 4\d"):
        factorize(Factorize(energy=0.9999, is_whitened=False), bench, SILENT)


def test_a_model_without_matrices_is_an_error(digits, checkpoints):
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(10))

        def forward(self, image: Tensor) -> Tensor:
            return image.flatten(1)[:, :10] * self.scale

    bench = bench_of(Scaled(), digits, checkpoints)
    with pytest.raises(StepError, match="no layer with a matrix"):
        factorize(Factorize(), bench, SILENT)


def test_a_pattern_that_matches_nothing_names_the_nearest_layer(digits, checkpoints):
    bench = cnn_bench(digits, checkpoints)
    with pytest.raises(StepError, match=r"'pointwice' matches no layer; the nearest.*'pointwise'"):
        factorize(Factorize(ignore=("pointwice",)), bench, SILENT)


def test_a_masked_layer_stays_whole_and_the_masks_go_on(wide_mlp, digits, checkpoints):
    mask = torch.zeros(128, 128, dtype=torch.bool)
    bench = bench_of(copy.deepcopy(wide_mlp), digits, checkpoints, masks={"layers.3.weight": mask})
    result = factorize(Factorize(ranks="ratio", ratio=0.25), bench, SILENT)
    assert "masked" in result.values["whole"]["layers.3"]
    assert set(result.masks) == {"layers.3.weight"}


class Tied(nn.Module):
    """Two layers with one weight, one layer in two places, and one that is alone."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.back = nn.Linear(64, 64), nn.Linear(64, 64)
        self.back.weight = self.inner.weight
        self.twice = nn.Linear(64, 64)
        self.again = self.twice
        self.alone = nn.Linear(64, 64)
        self.head = nn.Linear(64, 10)

    def forward(self, image: Tensor) -> Tensor:
        value = self.back(torch.relu(self.inner(image.flatten(1))))
        return self.head(self.again(self.twice(self.alone(value))))


def test_shared_weights_stay_shared(digits, checkpoints):
    bench = bench_of(seeded(Tied), digits, checkpoints)
    result = factorize(Factorize(ranks="ratio", ratio=0.25), bench, SILENT)
    assert set(result.values["factorized"]) == {"alone", "head"}
    assert result.values["whole"]["back"] == "its weight is that of 'inner' too"
    assert result.values["whole"]["twice"] == "it is also 'again'"
    assert result.model.back.weight is result.model.inner.weight
    assert set(shared_layers(Tied())) == {"inner", "back", "twice"}


class Reader(nn.Module):
    """Reads the weight of a layer that it does not call, and a part of an attention layer."""

    def __init__(self) -> None:
        super().__init__()
        self.called, self.read = nn.Linear(64, 64), nn.Linear(64, 64)
        self.unused = nn.Linear(64, 64)
        self.attention = nn.MultiheadAttention(64, 4, batch_first=True)

    def forward(self, image: Tensor) -> Tensor:
        value = functional.linear(self.called(image.flatten(1)), self.read.weight)[:, None]
        return self.attention(value, value, value)[0][:, 0, :10]


def test_layers_that_the_model_looks_into_stay_whole(digits, checkpoints):
    bench = bench_of(seeded(Reader), digits, checkpoints)
    result = factorize(Factorize(ranks="ratio", ratio=0.25), bench, SILENT)
    assert set(result.values["factorized"]) == {"called"}
    whole = result.values["whole"]
    assert "reads it itself" in whole["read"]
    assert "reads it itself" in whole["attention.out_proj"]
    assert "did not call it" in whole["unused"]
    assert "MultiheadAttention" in whole["attention"]


class Encoder(nn.Module):
    """Torch's own transformer layers, whose fused path reads their weights."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Linear(8, 32)
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, num_layers=2)
        self.head = nn.Linear(32, 10)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.encoder(self.tokens(image.flatten(1, 2))).mean(dim=1))


def test_torchs_own_transformer_is_factorized_written_and_traced(digits, checkpoints, tmp_path):
    base = seeded(Encoder)
    bench = bench_of(copy.deepcopy(base), digits, checkpoints)
    result = factorize(Factorize(ranks="ratio", ratio=0.25), bench, SILENT)
    thin = {path.rpartition(".")[2] for path in result.values["factorized"]}
    assert {"linear1", "linear2"} <= thin
    images = torch.from_numpy(next(iter(digits.selection.batches(2)))["image"])
    save_state(result.model, base, tmp_path)
    loaded = load_state(base, tmp_path).model
    with torch.no_grad():
        wanted = result.model(images)
        torch.testing.assert_close(loaded(images), wanted)
        program = torch.export.export(loaded, (images,))
        torch.testing.assert_close(program.module()(images), wanted, rtol=1e-4, atol=1e-5)


class PadsByItself(nn.Module):
    """Reads the stride and the kernel of its convolutions, which pad as the picture goes on."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1, padding_mode="reflect")
        self.deep = nn.Conv2d(width, width, 3, stride=2)
        self.late = nn.Conv2d(width, width, 3, padding=1, padding_mode="circular", bias=False)
        self.head = nn.Linear(width, 10)

    def forward(self, image: Tensor) -> Tensor:
        value = self.stem(image)
        missing = self.deep.kernel_size[0] - self.deep.stride[0]
        value = functional.pad(value, (0, missing, 0, missing))
        return self.head(self.late(self.deep(value)).mean(dim=(2, 3)))


@pytest.mark.parametrize("make", [TinyCnn, TinyTransformer, PadsByItself])
def test_a_thin_model_is_written_and_read_back(digits, checkpoints, tmp_path, make):
    base = seeded(lambda: make(width=32))
    bench = bench_of(copy.deepcopy(base), digits, checkpoints)
    model = factorize(Factorize(ranks="ratio", ratio=0.25), bench, SILENT).model
    save_state(model, base, tmp_path)
    loaded = load_state(base, tmp_path).model
    images = torch.from_numpy(next(iter(digits.selection.batches(3)))["image"])
    assert torch.equal(loaded(images), model(images))
    assert digest(loaded) == digest(model)


def test_a_model_may_read_the_sizes_of_its_layers(digits, checkpoints):
    bench = bench_of(seeded(lambda: PadsByItself(width=32)), digits, checkpoints)
    result = factorize(Factorize(ranks="ratio", ratio=0.25), bench, SILENT)
    assert {"deep", "late"} <= set(result.values["factorized"])
    assert result.model.deep.stride == (2, 2)


def test_a_model_that_is_one_layer_becomes_a_chain(digits, checkpoints):
    bench = bench_of(
        seeded(lambda: nn.Linear(8, 64)),
        digits,
        checkpoints,
        call=lambda model, inputs: {"scores": model(inputs["image"])[:, 0, 0, :10]},
    )
    result = factorize(Factorize(ranks="ratio", ratio=0.25), bench, SILENT)
    assert [type(part) for part in result.model] == [nn.Linear, nn.Linear]


def test_the_teacher_and_the_global_generator_are_left_alone(wide_cnn, digits, checkpoints):
    bench = bench_of(copy.deepcopy(wide_cnn), digits, checkpoints)
    before, state = digest(bench.teacher), torch.get_rng_state()
    factorize(Factorize(ranks="search", parameter_ratio=0.6), bench, SILENT)
    assert digest(bench.teacher) == before
    assert torch.equal(torch.get_rng_state(), state)


def test_two_runs_give_the_same_bits(wide_cnn, digits, tmp_path):
    found = []
    for name in ("one", "other"):
        bench = bench_of(copy.deepcopy(wide_cnn), digits, tmp_path / name)
        settings = Factorize(ranks="search", parameter_ratio=0.5, recover=Train(epochs=1))
        found.append(digest(factorize(settings, bench, SILENT).model))
    assert found[0] == found[1]


def test_training_wins_back_what_was_lost(wide_cnn, digits, checkpoints):
    bench = bench_of(copy.deepcopy(wide_cnn), digits, checkpoints)
    settings = Factorize(
        ranks="ratio", ratio=0.125, recover=Train(epochs=3, learning_rate=3e-3, batch_size=64)
    )
    result = factorize(settings, bench, SILENT)
    bare = next(point for point in result.points if point.name == "factorized")
    kept = next(point for point in result.points if point.is_kept)
    assert kept.score > bare.score + 0.05
    assert sum(point.is_kept for point in result.points) == 1
    assert Judge(bench).score(result.model) == pytest.approx(kept.score)


def test_training_without_data_is_refused_at_once(digits, checkpoints):
    bench = cnn_bench(digits, checkpoints, training=None)
    with pytest.raises(StepError, match=r"recover\.epochs is 1 and there are no training data"):
        factorize(Factorize(recover=Train(epochs=1)), bench, SILENT)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"methods": ()}, "methods"),
        ({"methods": ("cp",)}, "'svd', 'tucker'"),
        ({"ranks": "guess"}, "ranks is guess"),
        ({"energy": 0.0}, "energy is 0.0"),
        ({"energy": 1.1}, "above 0 and at most 1"),
        ({"ratio": 1.0}, "ratio is 1.0"),
        ({"parameter_ratio": 1.5}, "parameter_ratio is 1.5"),
        ({"keep_bytes": -1, "ranks": "search"}, "keep_bytes is -1"),
        ({"keep_bytes": 10}, "only ranks"),
        ({"teacher_weight": 2.0}, "teacher_weight is 2.0"),
        ({"ignore": ("a(",)}, "no regular expression"),
    ],
)
def test_settings_outside_their_range_are_refused(values, message):
    with pytest.raises(StepError, match=message):
        Factorize(**values)


def test_transformer_layers_are_factorized_too(digits, checkpoints):
    bench = transformer_bench(digits, checkpoints)
    result = factorize(Factorize(ranks="ratio", ratio=0.25), bench, SILENT)
    assert "layers.0.attention.query" in result.values["factorized"]
    assert "layers.1.ffn_out" in result.values["factorized"]


def test_both_formats_compute_what_the_thin_model_does(wide_cnn, digits, checkpoints, tmp_path):
    bench = bench_of(copy.deepcopy(wide_cnn), digits, checkpoints)
    model = factorize(Factorize(ranks="ratio", ratio=0.25), bench, SILENT).model
    image = next(iter(digits.selection.batches(1)))["image"]
    with torch.no_grad():
        wanted = model(torch.from_numpy(image)).numpy()
    kinds = {"image": TensorInput(shape=image.shape[1:])}
    for run in export_both(model, kinds, tmp_path).values():
        np.testing.assert_allclose(run({"image": image}), wanted, rtol=1e-3, atol=1e-4)

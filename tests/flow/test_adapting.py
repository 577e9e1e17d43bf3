"""Adapters beside one base, from the workload to the session, against models merged by hand."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import edgekit
from edgekit.core.errors import StepError, WorkloadError
from edgekit.core.progress import ignore
from edgekit.flow.adapting import adapt
from edgekit.flow.prepare import capture_model, write_data
from edgekit.flow.sources import Source
from edgekit.graph import read_graph
from tests.compress.benches import seeded
from tests.compress.exports import export_both
from tests.compress.low_rank.peft_files import merged_by_hand, write_adapter

SHAPE = (6, 16)
RANKS = {"polite": {"inner.0": 4, "mix": 2}, "brief": {"inner.2": 6, "inner.0": 3}}


class Block(nn.Module):
    """Tokens of 16 numbers: attention by one product, a feed-forward part, scores."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(16, 16)
        self.inner = nn.Sequential(nn.Linear(16, 48), nn.ReLU(), nn.Linear(48, 16))
        self.scores = nn.Linear(16, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        weights = torch.softmax(tokens @ self.mix(tokens).transpose(1, 2) / 4, -1)
        tokens = weights @ tokens + tokens
        return self.scores((tokens + self.inner(tokens)).mean(1))


class Pictures(nn.Module):
    """Two convolutions, so that a phone gets static INT8, and two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 32, 3, padding=1, stride=2)
        self.hidden = nn.Linear(32, 48)
        self.scores = nn.Linear(48, 5)

    def forward(self, picture: Tensor) -> Tensor:
        found = torch.relu(self.second(torch.relu(self.first(picture)))).mean((2, 3))
        return self.scores(torch.relu(self.hidden(found)))


def drawn(count, shape, seed):
    return np.random.default_rng(seed).standard_normal((count, *shape)).astype(np.float32)


def workload(folder, model=None, ranks=None, shape=SHAPE, **changes):
    model = model or seeded(Block)
    adapters = {
        name: write_adapter(folder / name, model, layers, seed)
        for seed, (name, layers) in enumerate((RANKS if ranks is None else ranks).items())
    }
    given = {
        "name": "adapted",
        "model": model,
        "inputs": {"tokens": edgekit.Tensor(shape=shape)},
        "outputs": {"out": edgekit.Output()},
        "calibration": list(drawn(24, shape, 1)),
        "evaluation": list(drawn(64, shape, 2)),
        "metric": "cosine",
        "adapters": adapters,
    }
    return edgekit.Workload(**{**given, **changes})


def wanted(given, name, inputs):
    """What torch gives with an adapter merged by hand."""
    model = given.model
    if name != "none":
        model = merged_by_hand(model, given.adapters[name])
    with torch.no_grad():
        return model(torch.from_numpy(inputs)).numpy()


def captured(given, folder):
    source = Source(workload=given, format="torch", digest="", origin="here")
    return capture_model(source, folder, ignore)


def test_float_artifacts_equal_the_model_with_the_adapter_merged(tmp_path):
    given = workload(tmp_path)
    work = tmp_path / "work"
    work.mkdir()
    adapted = adapt(given, work)
    runs = export_both(adapted.workload.model, adapted.workload.inputs, tmp_path / "exports")
    sample = drawn(1, SHAPE, 3)
    for number, name in enumerate(("none", "brief", "polite")):
        row = adapted.rows[number : number + 1]
        expected = wanted(given, name, sample)
        for run in runs.values():
            found = run({"tokens": sample, "adapter": row})
            # float32 sums in another order.
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert np.abs(wanted(given, "polite", sample) - wanted(given, "none", sample)).max() > 0.1


def test_the_user_s_model_stays_as_it_was(tmp_path):
    given = workload(tmp_path)
    before = {name: value.clone() for name, value in given.model.state_dict().items()}
    captured(given, tmp_path)
    assert type(given.model) is Block
    assert type(given.model.mix) is nn.Linear
    for name, value in given.model.state_dict().items():
        assert torch.equal(value, before[name])


def test_layers_keep_the_names_that_the_user_gave_them(tmp_path):
    facts = captured(workload(tmp_path), tmp_path).facts
    assert {layer.module_path for layer in facts.layers} == {"mix", "inner.0", "inner.2", "scores"}


def test_data_hold_every_adapter_with_every_sample(tmp_path):
    model = captured(workload(tmp_path), tmp_path)
    data, _ = write_data(model, tmp_path, ignore)
    assert (data.calibration.count, data.evaluation.count) == (3 * 24, 3 * 64)
    batch = next(data.evaluation.batches(6))
    np.testing.assert_array_equal(batch["adapter"][:3], model.adapters)
    assert not batch["adapter"][0].any()
    assert model.choices == ("none", "brief", "polite")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "stand for the model without one"),
        ("none", "stand for the model without one"),
        ("a/b", "has a '/'"),
        ("très", "ASCII letters"),
        ("con", "Windows cannot hold"),
    ],
)
def test_a_name_that_cannot_be_used_is_refused(tmp_path, name, reason):
    given = workload(tmp_path)
    with pytest.raises(WorkloadError, match=reason):
        adapt(replace(given, adapters={name: given.adapters["polite"]}), tmp_path)


def test_two_names_that_differ_in_case_alone_are_refused(tmp_path):
    given = workload(tmp_path)
    both = {"A": given.adapters["polite"], "a": given.adapters["brief"]}
    with pytest.raises(WorkloadError, match="differ in case alone"):
        adapt(replace(given, adapters=both), tmp_path)


def test_an_input_of_the_same_name_is_refused(tmp_path):
    given = workload(tmp_path, inputs={"adapter": edgekit.Tensor(shape=SHAPE)})
    with pytest.raises(WorkloadError, match="input 'adapter' of its own"):
        adapt(given, tmp_path)


def test_an_adapter_of_another_base_is_refused_by_the_key(tmp_path):
    given = workload(tmp_path)
    other = write_adapter(tmp_path / "other", seeded(Pictures), {"hidden": 2}, 0)
    with pytest.raises(StepError, match=r"key 'base_model\.model\.hidden' names a layer"):
        adapt(replace(given, adapters={"other": other}), tmp_path)


def test_a_kind_of_adapter_that_is_not_computed_here_is_refused(tmp_path):
    given = workload(tmp_path)
    config = given.adapters["polite"] / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "use_dora": True}))
    with pytest.raises(StepError, match="use_dora"):
        adapt(given, tmp_path)


def test_a_source_without_modules_is_refused(tmp_path):
    given = workload(tmp_path)
    program = torch.export.export(given.model, (torch.zeros(1, *SHAPE),))
    with pytest.raises(WorkloadError, match="its model is a ExportedProgram"):
        captured(replace(given, model=program), tmp_path)
    file = Source(
        workload=replace(given, model="x.onnx"), format="onnx", digest="", origin="x.onnx"
    )
    (tmp_path / "work").mkdir()
    with pytest.raises(WorkloadError, match=r"x\.onnx: adapters .* this is a \.onnx file"):
        capture_model(file, tmp_path / "work", ignore)


def largest_error(found, expected):
    return np.abs(found - expected).max() / np.abs(expected).max()


def check_session(bundle, given, sample, tolerance):
    with edgekit.open(bundle, adapter="brief") as session:
        assert session.adapters == ("brief", "polite")
        assert session.self_test().is_passed
        assert session.manifest.golden.adapters[:4] == ("none", "brief", "polite", "none")
        alone = wanted(given, "none", sample)
        for name in ("none", "brief", "polite"):
            expected = wanted(given, name, sample)
            found = session.run(sample, adapter=name)["out"]
            assert largest_error(found, expected) < tolerance
            assert name == "none" or largest_error(found, alone) > 3 * tolerance
        np.testing.assert_array_equal(
            session.run(sample)["out"], session.run(sample, adapter="brief")["out"]
        )


@pytest.mark.slow
def test_a_phone_chooses_the_adapters_of_a_conv_net_in_static_int8(builds, tmp_path):
    """One more output of float noise than of INT8: the factors are never rounded."""
    ranks = {"polite": {"hidden": 4}, "brief": {"hidden": 2, "scores": 6}}
    given = workload(tmp_path, seeded(Pictures), ranks, (1, 12, 12))
    result = builds.build("phone", given)
    figures = {item.name: item for item in result.evidence.figures}
    each = [figures[f"metric_drop:{name}"] for name in ("none", "brief", "polite")]
    assert [item.samples for item in each] == [64, 64, 64]
    assert figures["metric_drop"].high == max(item.high for item in each)
    assert "the worst of none, brief, polite" in figures["metric_drop"].how
    check_session(result.bundle, given, drawn(5, (1, 12, 12), 3), 0.05)
    entry = result.manifest.components[0].artifact.entry
    (main,) = read_graph((result.bundle / entry).read_bytes(), name=entry).subgraphs
    products = [item for item in main.operators if item.name == "BATCH_MATMUL"]
    assert len(products) == 4
    assert {main.tensors[index].dtype for item in products for index in item.inputs} == {"float32"}
    layers = [item for item in main.operators if item.name == "FULLY_CONNECTED"]
    assert {main.tensors[item.inputs[1]].dtype for item in layers} == {"int8"}


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "tolerance"), [("int8", 0.05)])
def test_onnx_runtime_chooses_the_adapters_of_attention(builds, tmp_path, precision, tolerance):
    given = workload(tmp_path, has_dynamic_batch=True)
    result = builds.build("laptop", given, target="onnx")
    check_session(result.bundle, given, drawn(5, SHAPE, 3), tolerance)
    skipped = {step.name: step.reason for step in result.manifest.strategy.skipped}
    assert all("adapters were trained on the model as it is" in item for item in skipped.values())
    with edgekit.open(result.bundle) as session:
        sample = drawn(2, SHAPE, 4)
        mixed = session.run(sample, adapter=["polite", "none"])["out"]
        alone = session.run(sample[1:], adapter="none")["out"]
        np.testing.assert_allclose(mixed[1:], alone, rtol=1e-2, atol=1e-2)

import numpy as np
import pytest

from edgekit.core.errors import SessionError, WorkloadError
from edgekit.core.progress import Reporter
from edgekit.core.stage import StageRequest, resolve_handler
from edgekit.data.dataset import DatasetWriter, open_dataset
from edgekit.evaluate.metrics import resolve_metric
from edgekit.measure.accuracy import compare, paired_batches, predict

from . import artifacts

X = np.random.default_rng(0).normal(size=(120, 3)).astype(np.float32)
Y = artifacts.expected(X).argmax(1)


def request_for(folder, item, data, contract=None):
    return StageRequest(
        name="predict",
        handler="edgekit.measure.accuracy:predict",
        settings={
            "artifact": artifacts.plain(item),
            "contract": artifacts.plain(contract or artifacts.contract()),
            "threads": 1,
        },
        inputs={"artifact": str(folder), "data": str(data)},
    )


def run(folder, item, data, out, contract=None):
    events = []
    reporter = Reporter(stage="predict", listener=events.append)
    values = predict(request_for(folder, item, data, contract), out, reporter)
    return values, events


@pytest.fixture
def data(tmp_path):
    return artifacts.write_data(tmp_path / "data", X, Y)


def test_every_sample_is_run_in_order(tmp_path, data):
    item = artifacts.write_onnx(tmp_path / "m")
    values, events = run(tmp_path / "m", item, data, tmp_path / "out")
    assert values == {"samples": 120}
    outputs = open_dataset(tmp_path / "out" / "outputs")
    assert list(outputs.arrays) == ["y"]
    np.testing.assert_allclose(next(outputs.batches(120))["y"], artifacts.expected(X), atol=1e-6)
    assert 0 < events[-1].fraction <= 1


def test_a_fixed_batch_gives_the_same_outputs(tmp_path, data):
    item = artifacts.write_onnx(tmp_path / "m", batch=32)
    run(tmp_path / "m", item, data, tmp_path / "out", artifacts.contract(batch=32))
    found = next(open_dataset(tmp_path / "out" / "outputs").batches(120))["y"]
    np.testing.assert_allclose(found, artifacts.expected(X), atol=1e-6)


def test_the_handler_resolves_by_its_name():
    assert resolve_handler("edgekit.measure.accuracy:predict") is predict


def test_nan_names_the_sample(tmp_path):
    x = X.copy()
    x[77] = -1.0  # the layer gives (1.0, -0.5) there: the logarithm of a negative number
    x[:77] = x[78:] = [1.0, 0.0, 0.0]  # and (1.5, 0.0) elsewhere
    shifted = artifacts.BIAS + 1e-3
    item = artifacts.write_onnx(tmp_path / "m", bias=shifted, tail=["Log"])
    data = artifacts.write_data(tmp_path / "data", x)
    with pytest.raises(SessionError, match="output 'y' is NaN or infinite for sample 77"):
        run(tmp_path / "m", item, data, tmp_path / "out")
    with pytest.raises(WorkloadError, match="no finished dataset"):
        open_dataset(tmp_path / "out" / "outputs")


def test_a_quantized_artifact_is_held_against_the_float_one(tmp_path, data):
    float_item = artifacts.write_onnx(tmp_path / "f")
    item = artifacts.write_int8_tflite(tmp_path / "q")
    run(tmp_path / "f", float_item, data, tmp_path / "fo")
    run(tmp_path / "q", item, data, tmp_path / "qo")
    result = compare(
        resolve_metric("top-1"),
        reference=open_dataset(tmp_path / "fo" / "outputs"),
        candidate=open_dataset(tmp_path / "qo" / "outputs"),
        data=open_dataset(data),
    )
    assert result.reference.value == 100
    agreeing = next(open_dataset(tmp_path / "qo" / "outputs").batches(120))["y"].argmax(1) == Y
    assert result.lost == int(np.sum(~agreeing))
    assert result.drop.value == pytest.approx(100 * np.mean(~agreeing))
    assert result.drop.low < result.drop.value < result.drop.high


def dataset(path, name, rows):
    with DatasetWriter(path) as writer:
        for row in rows:
            writer.append({name: row})
    return open_dataset(path)


def test_outputs_of_other_data_are_refused(tmp_path, data):
    full = dataset(tmp_path / "a", "y", artifacts.expected(X))
    short = dataset(tmp_path / "b", "y", artifacts.expected(X)[:100])
    other = dataset(tmp_path / "c", "z", artifacts.expected(X))
    with pytest.raises(WorkloadError, match="outputs of 120 and 100 samples for 120"):
        paired_batches(full, short, open_dataset(data))
    with pytest.raises(WorkloadError, match="outputs y against z"):
        paired_batches(full, other, open_dataset(data))


def test_a_metric_that_always_returns_one_is_caught(tmp_path, data):
    full = dataset(tmp_path / "a", "y", artifacts.expected(X))
    metric = resolve_metric(lambda outputs, targets: np.ones(len(outputs)))
    with pytest.raises(WorkloadError, match="does not depend on the outputs"):
        compare(metric, reference=full, candidate=full, data=open_dataset(data))


def test_a_metric_without_targets_needs_none(tmp_path):
    data = artifacts.write_data(tmp_path / "data", X)
    full = dataset(tmp_path / "a", "y", artifacts.expected(X))
    less = dataset(tmp_path / "b", "y", artifacts.expected(X) + 0.1)
    found = compare(
        resolve_metric("cosine"), reference=full, candidate=less, data=open_dataset(data)
    )
    assert found.drop.value > 0

"""The session against torch and the raw interpreters, and everything that it must refuse."""

import threading
from dataclasses import replace

import numpy as np
import pytest

from edgekit import runtime
from edgekit.core.artifact import Binding
from edgekit.core.contract import Output
from edgekit.core.errors import BundleError, SessionError
from edgekit.core.verdict import Standing
from tests.bundle import samples
from tests.runtime.conftest import LABELS, SHAPE, artifact_for, contract_for, with_golden

ALL = ("float_litert", "int8_litert", "dynamic_litert", "dynamic_onnx")
# INT8 activations of five scores that span about 1: a step or two of 1/256 of that, doubled.
TOLERANCE = {"int8_litert": 0.02}


@pytest.fixture(params=ALL)
def name(request):
    """Each kind of artifact."""
    return request.param


@pytest.fixture
def session(bundles):
    """A session on the fixed-batch float artifact."""
    with runtime.open(bundles["float_litert"]) as opened:
        yield opened


def test_a_batch_gives_what_torch_gives(bundles, models, name):
    wanted = models.torch_outputs(models.inputs)
    with runtime.open(bundles[name]) as session:
        for rows in (1, 4, 16, 3):
            found = session.run({"image": models.inputs[:rows]})["scores"]
            assert found.dtype == np.float32
            np.testing.assert_allclose(found, wanted[:rows], atol=TOLERANCE.get(name, 1e-5))


def test_integer_boundaries_give_what_the_raw_interpreter_gives(bundles, models):
    from ai_edge_litert.interpreter import Interpreter

    raw = Interpreter(model_content=models.int8_litert.content)
    raw.allocate_tensors()
    (inner,), (outer,) = raw.get_input_details(), raw.get_output_details()
    assert inner["dtype"] == np.int8
    scale, zero = inner["quantization"]
    out_scale, out_zero = outer["quantization"]
    with runtime.open(bundles["int8_litert"]) as session:
        for row in models.inputs * 3:
            stored = np.clip(np.round(row[None].astype(np.float64) / scale) + zero, -128, 127)
            raw.set_tensor(inner["index"], stored.astype(np.int8))
            raw.invoke()
            wanted = (raw.get_tensor(outer["index"]).astype(np.float64) - out_zero) * out_scale
            np.testing.assert_allclose(session.run(row[None])["scores"], wanted, rtol=1e-6)


def test_the_session_says_what_it_runs(session):
    assert session.contract.inputs[0].name == "image"
    assert session.manifest.name == "sample"
    assert session.bundle_id == session.manifest.bundle_id
    assert session.evidence.verdict.standing is Standing.PROVEN


def test_the_only_input_needs_no_name(session, models):
    row = models.inputs[:1]
    np.testing.assert_array_equal(session.run(row)["scores"], session.run({"image": row})["scores"])


def test_arrays_in_any_memory_order_give_the_same(bundles, models, name):
    batch = models.inputs[:4]
    with runtime.open(bundles[name]) as session:
        wanted = session.run(batch)["scores"]
        backwards = np.ascontiguousarray(batch[::-1])[::-1]
        for other in (np.asfortranarray(batch), backwards, batch.astype(">f4"), batch.tolist()):
            np.testing.assert_array_equal(session.run(other)["scores"], wanted)


def test_other_floats_are_taken_and_integers_are_not(session, models):
    row = models.inputs[:1]
    np.testing.assert_array_equal(
        session.run(row.astype(np.float64))["scores"], session.run(row)["scores"]
    )
    session.run(row.astype(np.float16))
    for other in (np.uint8, np.int64, np.bool_, np.complex64, "U3"):
        with pytest.raises(SessionError, match=r"dtype|array of numbers"):
            session.run(np.zeros((1, *SHAPE)).astype(other))
    with pytest.raises(SessionError, match="predict"):
        session.run(np.zeros((1, *SHAPE), np.uint8))
    with pytest.raises(SessionError, match=r"past the largest float32"):
        session.run(np.full((1, *SHAPE), 1e300))


@pytest.mark.parametrize(
    ("inputs", "reason"),
    [
        ({"imagee": 0}, "no input 'imagee'; did you mean 'image'"),
        ({}, "'image' is missing"),
        ({"image": 0, "other": 0}, "no input 'other'"),
        (np.zeros(SHAPE, np.float32), r"batch axis is missing; pass x\[None\]"),
        (np.zeros((1, 3, 8, 9), np.float32), r"shape is \(1, 3, 8, 9\), wanted \(n, 3, 8, 8\)"),
        (np.zeros((0, *SHAPE), np.float32), "batch of 0"),
        (np.float32(1.0), "shape is"),
        ([[1.0], [1.0, 2.0]], "cannot be read as an array"),
        ("image.png", "not an array of numbers"),
        (None, "not an array of numbers"),
    ],
)
def test_a_wrong_call_is_a_session_error_with_the_reason(session, inputs, reason):
    with pytest.raises(SessionError, match=reason):
        session.run(inputs)


def test_a_session_error_leaves_the_session_usable(bundles, models, name):
    with runtime.open(bundles[name]) as session:
        wanted = session.run(models.inputs)["scores"]
        with pytest.raises(SessionError):
            session.run(models.inputs[:, :2])
        np.testing.assert_array_equal(session.run(models.inputs)["scores"], wanted)


def test_many_threads_get_the_results_of_one(bundles, models, name):
    with runtime.open(bundles[name]) as session:
        batches = [models.inputs[i % 13 : i % 13 + 1 + i % 3] for i in range(24)]
        wanted = [session.run(batch)["scores"] for batch in batches]
        found: dict[int, np.ndarray] = {}

        def work(first):
            for _ in range(5):
                for i in range(first, len(batches), 8):
                    found[i] = session.run(batches[i])["scores"]

        threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for i, result in enumerate(wanted):
        np.testing.assert_array_equal(found[i], result)


def test_results_stay_when_the_session_runs_on_and_closes(bundles, models, name):
    with runtime.open(bundles[name]) as session:
        first = session.run(models.inputs[:1])["scores"]
        kept = first.copy()
        session.run(models.inputs[1:2])
    np.testing.assert_array_equal(first, kept)


def test_a_closed_session_says_so(session, models):
    session.close()
    session.close()
    for call in (session.run, session.predict):
        with pytest.raises(SessionError, match="closed"):
            call(models.inputs[:1] if call == session.run else models.inputs[0])
    with pytest.raises(SessionError, match="closed"):
        session.self_test()


def test_a_prediction_has_labels_and_probabilities(bundle_of, models):
    contract = contract_for(1, activation="softmax")
    scores = models.torch_outputs(models.inputs[:1])[0].astype(np.float64)
    wanted = np.exp(scores) / np.exp(scores).sum()
    with runtime.open(bundle_of("float_litert", contract=contract)) as session:
        found = session.predict(models.inputs[0], top=2)
    np.testing.assert_allclose(found.outputs["scores"], wanted, atol=1e-5)
    best = int(wanted.argmax())
    assert len(found.labels["scores"]) == 2
    assert found.labels["scores"][0] == (LABELS[best], pytest.approx(wanted[best], abs=1e-5))


def test_a_prediction_takes_files_and_names(session, models, tmp_path):
    np.save(tmp_path / "x.npy", models.inputs[0])
    wanted = session.predict(models.inputs[0]).outputs["scores"]
    for raw in (tmp_path / "x.npy", str(tmp_path / "x.npy"), {"image": models.inputs[0]}):
        np.testing.assert_array_equal(session.predict(raw).outputs["scores"], wanted)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (np.full(SHAPE, np.nan, np.float32), "NaN or infinite"),
        (np.full(SHAPE, np.inf, np.float32), "NaN or infinite"),
        (np.zeros((1, *SHAPE), np.float32), "no batch axis here"),
        ({"imag": 0}, "did you mean 'image'"),
        ({"image": np.zeros(SHAPE, np.float32), "more": 0}, "no input 'more'"),
        ("gone.npy", "no file"),
    ],
)
def test_a_sample_that_cannot_be_prepared_is_a_session_error(session, raw, reason):
    with pytest.raises(SessionError, match=reason):
        session.predict(raw)


def test_nan_at_an_integer_boundary_is_refused(bundles):
    with runtime.open(bundles["int8_litert"]) as session, pytest.raises(SessionError, match="NaN"):
        session.run(np.full((1, *SHAPE), np.nan, np.float32))


def test_the_self_test_passes_on_the_golden_values(bundles, name):
    with runtime.open(bundles[name]) as session:
        result = session.self_test()
    assert result.is_passed
    assert result.samples == 4
    assert result.differences["scores"] <= TOLERANCE.get(name, 1e-5)


def test_the_self_test_fails_on_other_golden_values(bundle_of, models):
    inputs = {"image": models.inputs[:4]}
    from tests.runtime.conftest import npy

    wrong = npy(models.torch_outputs(inputs["image"]) + np.float32(0.1))
    path = bundle_of("float_litert", extra={"golden/outputs/scores.npy": wrong})
    with runtime.open(path) as session:
        result = session.self_test()
    assert result.failed == ("scores",)
    assert result.differences["scores"] == pytest.approx(0.1, abs=1e-4)


def test_a_bundle_is_required_to_be_proven_where_asked(bundle_of):
    path = bundle_of(
        "float_litert", change=lambda made: replace(made, limits=(*made.limits, samples.PENDING))
    )
    runtime.open(path).close()
    with pytest.raises(BundleError, match="flash_bytes"):
        runtime.open(path, require="proven")


def test_a_zip_opens_like_the_folder(bundles, models, tmp_path, name):
    from edgekit.bundle.seal import pack

    pack(bundles[name], tmp_path / "b.zip")
    with runtime.open(bundles[name]) as folder, runtime.open(tmp_path / "b.zip") as packed:
        np.testing.assert_array_equal(
            folder.run(models.inputs)["scores"], packed.run(models.inputs)["scores"]
        )


@pytest.mark.parametrize("threads", [0, -1, 1.5, "2"])
def test_a_senseless_thread_count_is_refused(bundles, threads):
    with pytest.raises(SessionError, match="threads"):
        runtime.open(bundles["float_litert"], threads=threads)


def _artifact(**changes):
    return lambda model: {"artifact": replace(artifact_for(model), **changes)}


def _contract(**changes):
    def make(model):
        made = contract_for(model.batch)
        return {"contract": replace(made, outputs=(replace(made.outputs[0], **changes),))}

    return make


@pytest.mark.parametrize(
    ("name", "changes", "reason"),
    [
        ("float_litert", _artifact(interface="text"), "this session serves 'tensor'"),
        ("float_litert", _artifact(runtime="onnx"), "ONNX Runtime cannot load"),
        ("float_litert", _artifact(runtime="litter"), "did you mean 'litert'"),
        ("float_litert", _artifact(batch=0), "takes any batch"),
        ("float_litert", _artifact(batch=2), "takes a batch of 2"),
        ("float_litert", _artifact(inputs=(Binding(name="image", position=1),)), "binds"),
        ("float_litert", _artifact(outputs=(Binding(name="scores", position=3),)), "position 3"),
        ("float_litert", _contract(shape=(1, 6)), r"the contract \(1, 6\)"),
        ("float_litert", _contract(dtype="int32"), "the contract says int32"),
        ("int8_litert", _contract(dtype="bool"), "the contract says bool"),
    ],
)
def test_an_artifact_that_is_not_what_the_manifest_says_does_not_open(
    bundle_of, models, name, changes, reason
):
    path = bundle_of(name, **changes(getattr(models, name)))
    with pytest.raises(SessionError, match=reason):
        runtime.open(path)


def test_hostile_model_bytes_are_a_session_error(bundle_of, models):
    for name, data in (("float_litert", b"TFL3" * 50), ("dynamic_onnx", b"\x08\x0a\xff")):
        entry = artifact_for(getattr(models, name)).entry
        with pytest.raises(SessionError, match="cannot load"):
            runtime.open(bundle_of(name, extra={entry: data}))


def test_labels_that_do_not_match_the_scores_are_refused(bundle_of, models):
    contract = contract_for(1)
    short = replace(contract.outputs[0], meaning=Output(labels=("a", "b")))
    path = bundle_of("float_litert", contract=replace(contract, outputs=(short,)))
    with runtime.open(path) as session, pytest.raises(SessionError, match="2 labels"):
        session.predict(models.inputs[0])


def test_golden_files_that_are_no_arrays_are_refused(bundle_of):
    path = bundle_of("float_litert", extra={"golden/inputs/image.npy": b"not an array"})
    with runtime.open(path) as session, pytest.raises(BundleError, match=r"golden/inputs"):
        session.self_test()
    path = bundle_of("float_litert", change=lambda made: with_golden(made, samples=5))
    with runtime.open(path) as session, pytest.raises(BundleError, match="5 samples"):
        session.self_test()


def test_an_engine_older_than_the_bundle_needs_is_named(bundle_of):
    path = bundle_of(
        "float_litert", change=lambda made: replace(made, minimum_runtime={"ai-edge-litert": "99"})
    )
    with pytest.raises(SessionError, match=r"needs ai-edge-litert 99 or newer; \d.* is installed"):
        runtime.open(path)


def test_one_of_several_components_is_opened_by_name(bundle_of, models):
    def twice(made):
        (main,) = made.components
        return replace(made, components=(main, replace(main, name="other")))

    path = bundle_of("float_litert", change=twice)
    with pytest.raises(SessionError, match=r"name one of \['main', 'other'\]"):
        runtime.open(path)
    with pytest.raises(SessionError, match="did you mean 'other'"):
        runtime.open(path, component="othr")
    with runtime.open(path, component="main") as session:
        assert session.self_test().is_passed
    with runtime.open(path, component="other") as session:
        session.run(models.inputs)
        with pytest.raises(SessionError, match="for component 'main'"):
            session.self_test()

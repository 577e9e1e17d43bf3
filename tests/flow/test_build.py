"""Whole builds of a tiny network: what comes out, and what is refused before anything does."""

import json
import tomllib
import zipfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from ai_edge_litert.interpreter import Interpreter
from torch import nn

import edgekit
from edgekit.core.errors import (
    BudgetError,
    BundleError,
    CompileError,
    InputError,
    OutputError,
    ProfileError,
    WorkloadError,
)
from edgekit.core.verdict import Standing, Status
from tests.flow.tiny import (
    LABELS,
    SHAPE,
    Network,
    network,
    pictures,
    samples,
    workload,
    workload_of_two,
)

pytestmark = pytest.mark.slow

MEASURED_ANEW = {"latency", "memory"}
ROOT = Path(edgekit.__file__).parents[1]


def statuses(result):
    return {item.limit.figure: item.status.value for item in result.verdict.judgements}


# What comes out


def test_a_phone_gets_a_proven_int8_tflite(builds):
    result = builds.honest("phone")
    assert result.standing is Standing.PROVEN
    assert set(statuses(result).values()) == {"pass"}
    engine = Interpreter(str(result.bundle / "model" / "model.tflite"))
    engine.allocate_tensors()
    kinds = {tuple(item["shape"]): item["dtype"] for item in engine.get_tensor_details()}
    assert kinds[(16, 3, 3, 16)] is np.int8


def test_an_edge_server_gets_a_proven_fp16_onnx(builds):
    result = builds.honest("edge-server")
    assert result.standing is Standing.PROVEN
    model = onnx.load(result.bundle / "model" / "model.onnx")
    stored = {tuple(item.dims): item.data_type for item in model.graph.initializer}
    assert stored[(16, 16, 3, 3)] == onnx.TensorProto.FLOAT16


def test_a_board_gets_a_candidate_that_names_what_is_pending(builds):
    result = builds.honest("embedded")
    assert result.standing is Standing.CANDIDATE
    found = statuses(result)
    assert {name for name, status in found.items() if status == "pending"} == {
        "flash_bytes",
        "ram_bytes",
    }
    assert any(line.startswith("flash_bytes: pending; it needs evidence") for line in result.advice)


@pytest.mark.parametrize("device", ["phone", "edge-server", "embedded"])
def test_a_bundle_answers_as_the_torch_model_does(builds, device):
    images, labels = pictures(64, 9)
    with torch.no_grad():
        wanted = network()(torch.from_numpy(images))[0].numpy()
    with edgekit.open(builds.honest(device).bundle) as session:
        assert session.self_test().is_passed
        found = session.run({"image": images})["scores"]
        best = session.predict(images[0]).labels["scores"][0][0]
    assert best == LABELS[labels[0]]
    assert (found.argmax(axis=1) == wanted.argmax(axis=1)).all()
    # A class is worth about 20 here; 8 bits and 4 bits are off by a step or two of 1/127 and 1/7.
    assert np.abs(found - wanted).max() < 0.25 * np.ptp(wanted)


def test_figures_are_what_lies_on_the_disk(builds):
    result = builds.honest("phone")
    figures = {item.name: item for item in result.evidence.figures}
    size = (result.bundle / "model" / "model.tflite").stat().st_size
    assert figures["artifact_bytes"].value == size
    target = tomllib.loads((ROOT / "targets" / "litert" / "target.toml").read_text())
    (library,) = [i for i in target["runtime_library"] if i["abi"] == "android-arm64"]
    footprint = figures["footprint_bytes"]
    assert footprint.low == footprint.value == size + library["bytes"]
    assert footprint.high == size + library["at_most_bytes"] > footprint.value
    images, labels = pictures(800, 2)
    with torch.no_grad():
        right = network()(torch.from_numpy(images))[0].argmax(dim=1).numpy() == labels
    assert figures["metric_float"].value == pytest.approx(100 * right.mean())
    assert figures["latency_ratio"].samples >= 100


def test_the_footprint_of_a_server_is_exact(builds):
    result = builds.honest("edge-server")
    (footprint,) = [i for i in result.evidence.figures if i.name == "footprint_bytes"]
    size = (result.bundle / "model" / "model.onnx").stat().st_size
    folder = Path(onnxruntime.__file__).parent / "capi"
    parts = ["onnxruntime_pybind11_state.*.so", "libonnxruntime_providers_shared.so"]
    library = sum(path.stat().st_size for part in parts for path in folder.glob(part))
    assert footprint.low == footprint.value == footprint.high == size + library


def test_a_skipped_step_is_named_in_the_manifest_and_the_card(builds):
    result = builds.honest("embedded")
    assert [step.name for step in result.manifest.strategy.skipped] == ["prune", "distil"]
    assert "no training data" in result.manifest.strategy.skipped[0].reason
    assert "`prune` was **skipped**" in (result.bundle / "MODEL_CARD.md").read_text()


def test_the_report_beside_the_bundle_maps_tensors_to_modules(builds):
    result = builds.honest("phone")
    assert result.report == result.bundle.with_name(result.bundle.name + ".build")
    tensors = json.loads((result.report / "tensor_map.json").read_text())
    assert {"first", "second", "third", "scores", "other"} <= set(tensors.values())
    report = json.loads((result.report / "report.json").read_text())
    assert report["bundle_id"] == result.bundle_id
    assert {stage["name"] for stage in report["stages"]} >= {"export", "quantize", "latency"}
    assert result.largest_layers[0].layer in ("second", "third")


# The same again


@pytest.mark.parametrize("device", ["phone", "edge-server"])
def test_a_second_build_reuses_every_stage_and_is_the_same_bundle(builds, device):
    first, second = builds.honest(device), builds.build(device)
    assert second.bundle_id == first.bundle_id
    anew = {stage.name for stage in second.stages if not stage.is_reused}
    assert anew == MEASURED_ANEW
    assert (second.bundle / "manifest.json").read_bytes() == (
        first.bundle / "manifest.json"
    ).read_bytes()


@pytest.mark.parametrize("device", ["phone", "edge-server"])
def test_a_build_with_an_empty_cache_is_the_same_bundle(builds, device, monkeypatch):
    first = builds.honest(device)
    monkeypatch.setenv("EDGEKIT_CACHE", str(builds.new("cache")))
    second = builds.build(device)
    assert not any(stage.is_reused for stage in second.stages)
    outputs = [
        {item.name: item.output for item in result.manifest.lineage.stages}
        for result in (first, second)
    ]
    assert outputs[0] == outputs[1], "the stage whose output differs is not deterministic"
    assert second.bundle_id == first.bundle_id


def test_another_seed_is_another_bundle(builds):
    result = builds.build("edge-server", seed=3)
    assert result.manifest.seed == 3
    assert result.bundle_id != builds.honest("edge-server").bundle_id


# What is refused by the verdict


def test_proven_is_an_error_for_a_candidate_and_nothing_is_written(builds):
    out = builds.new("board")
    with pytest.raises(
        BudgetError, match="a candidate, and proven was required; flash_bytes"
    ) as it:
        builds.build("embedded", out=out, require="proven")
    assert it.value.exit_code == 3
    assert it.value.result.bundle is None
    assert it.value.result.verdict.standing is Standing.CANDIDATE
    assert not list(out.parent.glob(f"*{out.name}*"))


def test_a_refused_build_says_by_how_much_and_what_to_try(builds):
    out = builds.new("phone")
    with pytest.raises(BudgetError, match="phone: refused; artifact_bytes: fail") as caught:
        builds.build("phone", out=out, limits={"latency_ratio": 1000, "artifact_bytes": 5000})
    result = caught.value.result
    (judgement,) = result.verdict.of(Status.FAIL)
    missed_kb = (judgement.figure.value - 5000) / 1000
    assert f"missed by {missed_kb:.3g} kB" in judgement.reason
    assert judgement.limit.source == "user"
    assert any(line.startswith("largest layers: ") for line in result.advice)
    assert not list(out.parent.glob(f"*{out.name}*"))


def test_an_allowed_limit_is_waived_for_ever_and_is_not_proven(builds):
    limits = {"latency_ratio": 1000, "artifact_bytes": 5000}
    result = builds.build("phone", limits=limits, allow=("artifact_bytes", "artifact_bytes"))
    assert result.standing is Standing.CANDIDATE
    assert statuses(result)["artifact_bytes"] == "waived"
    assert edgekit.verify(result.bundle).manifest.waived == ("artifact_bytes",)
    with pytest.raises(BundleError, match="artifact_bytes is waived"):
        edgekit.open(result.bundle, require="proven")


# The place


def test_an_output_that_exists_is_refused_before_any_work(builds):
    taken = builds.honest("edge-server").bundle
    before = (taken / "manifest.json").read_bytes()
    heard = []
    with pytest.raises(OutputError, match="exists; --force replaces it"):
        builds.build("edge-server", out=taken, listener=heard.append)
    assert heard == []
    assert (taken / "manifest.json").read_bytes() == before


def test_force_replaces_a_bundle_but_nothing_else(builds):
    out = builds.new("replaced")
    first = builds.build("edge-server", out=out)
    second = builds.build("edge-server", out=out, force=True, seed=3)
    assert edgekit.verify(out).bundle_id == second.bundle_id != first.bundle_id
    (out / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"notes\.txt"):
        builds.build("edge-server", out=out, force=True)
    assert (out / "notes.txt").read_text() == "mine"


def test_a_place_below_a_file_is_refused_before_any_work(builds):
    file = builds.new("file")
    file.write_text("x")
    heard = []
    with pytest.raises(OutputError, match="is no folder"):
        builds.build("edge-server", out=file / "bundle", listener=heard.append)
    assert heard == []


def test_a_file_in_the_place_of_the_report_is_refused_before_any_work(builds):
    out = builds.new("reported")
    out.with_name(out.name + ".build").write_text("mine")
    heard = []
    with pytest.raises(OutputError, match=r"\.build: is no folder, and the report goes there"):
        builds.build("edge-server", out=out, listener=heard.append)
    assert heard == []


def test_a_zip_lies_beside_the_folder_and_opens(builds):
    result = builds.build("edge-server", zip=True)
    packed = result.bundle.with_name(result.bundle.name + ".zip")
    assert zipfile.is_zipfile(packed)
    assert edgekit.verify(packed).bundle_id == result.bundle_id
    out = builds.new("packed")
    out.with_name(out.name + ".zip").write_bytes(packed.read_bytes())
    with pytest.raises(OutputError, match=r"\.zip: exists"):
        builds.build("edge-server", zip=True, out=out)
    assert not out.exists()


def test_a_build_with_zip_replaces_both_and_one_without_names_the_old_zip(builds):
    out = builds.new("twice")
    builds.build("edge-server", zip=True, out=out)
    again = {"out": out, "force": True}
    second = builds.build("edge-server", limits={"latency_ratio": 900.0}, zip=True, **again)
    packed = out.with_name(out.name + ".zip")
    assert edgekit.verify(packed).bundle_id == second.bundle_id
    events = []
    builds.build("edge-server", limits={"latency_ratio": 800.0}, listener=events.append, **again)
    (told,) = [item.message for item in events if "another bundle" in item.message]
    assert f"{packed} is {second.bundle_id[:12]}" in told


def test_without_out_the_bundle_is_named_by_workload_and_profile(builds, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    profile = tmp_path / "my-server.toml"
    profile.write_text(
        'schema = 1\nname = "my-server"\ntitle = "Mine"\nextends = "edge-server"\n'
        "[limits.latency_ratio]\nat_most = 1000.0\naccepts = ['host']\n"
    )
    result = edgekit.build(workload_of_two(), device=str(profile))
    assert result.bundle == Path("tiny-of-two-my-server.edgekit")
    assert result.bundle.is_dir()


# What is handed in


def unread():
    raise AssertionError("the data were read although the build could not go on")
    yield


class Sorter(nn.Module):
    def forward(self, image):
        return torch.fft.fft2(image).abs()


class WithSorter(nn.Module):
    def __init__(self):
        super().__init__()
        self.stages = nn.ModuleDict({"deep": nn.Sequential(Sorter())})
        self.network = network()

    def forward(self, image):
        return self.network(self.stages["deep"](image))[0]


@pytest.mark.parametrize("device", ["phone", "edge-server"])
def test_an_unsupported_operator_is_named_with_its_module_before_data_are_read(builds, device):
    model = WithSorter().eval()
    with pytest.raises(CompileError, match=r"(?s)aten\.\w*fft.*stages\.deep\.0") as caught:
        builds.build(device, workload(model=model, calibration=unread(), evaluation=unread()))
    assert caught.value.exit_code == 4


def test_a_device_that_nobody_knows_is_refused_before_the_model_is_looked_at(builds):
    heard = []
    with pytest.raises(ProfileError, match="no device profile is called 'fone'; did you mean"):
        builds.build("fone", workload(model=None), listener=heard.append)
    assert heard == []


def test_a_target_that_nobody_knows_is_refused_before_the_model_is_looked_at(builds):
    with pytest.raises(ProfileError, match="no target is called 'onyx'; did you mean 'onnx'"):
        builds.build("phone", workload(model=None), target="onyx")


IMAGE = np.ones(SHAPE, np.float32)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"calibration": []}, "calibration data: no samples; at least 1 is needed"),
        ({"evaluation": []}, "evaluation data: no samples; at least 1 is needed"),
        ({"evaluation": None}, "tiny: it has no evaluation data"),
        ({"calibration": None}, "tiny: it has no calibration data"),
        ({"calibration": [IMAGE[:, :5]]}, r"sample 0.*shape is \(1, 5, 12\), wanted \(1, 12, 12\)"),
        ({"calibration": [IMAGE.astype(np.int64)]}, r"calibration data, sample 0.*int64"),
        ({"calibration": [IMAGE * np.nan]}, r"calibration data, sample 0.*NaN at \[0, 0, 0\]"),
        ({"evaluation": [image for image, _ in samples(4, 2)]}, "no target, and the metric needs"),
        ({"selection": samples(800, 2)[:3]}, "evaluation and selection data share 3"),
        ({"metric": "top-11"}, "'top-11' is not known; did you mean 'top-1'"),
        ({"name": "a/b"}, "name 'a/b': give it a name without a slash"),
        ({"outputs": {}}, "it names no outputs"),
        ({"inputs": {}}, "it names no inputs"),
        ({"limits": {"artifact_byte": 1}}, "did you mean 'artifact_bytes'"),
    ],
)
def test_bad_input_is_told_and_nothing_is_written(builds, changes, message):
    out = builds.new("bad")
    with pytest.raises(InputError, match=message) as caught:
        builds.build("edge-server", workload(**changes), out=out)
    assert caught.value.exit_code == 2
    assert not list(out.parent.glob(f"*{out.name}*"))


def test_a_model_that_is_no_module_is_refused(builds):
    with pytest.raises(WorkloadError, match=r"it must be a torch\.nn\.Module"):
        builds.build("phone", workload(model="resnet.pt"))


def test_a_model_in_training_mode_is_switched_with_a_warning(builds):
    model = Network()
    model.load_state_dict(network().state_dict())
    model.train()
    heard = []
    result = builds.build("edge-server", workload_of_two(model=model), listener=heard.append)
    (warning,) = [event for event in heard if event.kind == "warning"]
    assert "training mode" in warning.message
    assert any("training mode" in note for note in result.evidence.notes)
    assert result.bundle_id == builds.honest("edge-server").bundle_id


# Other shapes of model


class Mixed(nn.Module):
    """Two inputs, and a dict of two outputs."""

    def __init__(self):
        super().__init__()
        self.left = nn.Linear(8, 32)
        self.right = nn.Linear(4, 32)
        self.sum = nn.Linear(32, 3)

    def forward(self, first, second):
        hidden = torch.relu(self.left(first) + self.right(second))
        return {"scores": self.sum(hidden), "hidden": hidden}


def mixed_samples(count, seed):
    generator = np.random.default_rng(seed)
    return [
        {
            "first": generator.standard_normal(8).astype(np.float32),
            "second": generator.standard_normal(4).astype(np.float32),
        }
        for _ in range(count)
    ]


@pytest.mark.parametrize("target", ["litert", "onnx"])
def test_two_inputs_and_a_dict_of_outputs_with_any_batch(builds, target):
    torch.manual_seed(1)
    model = Mixed().eval()
    given = edgekit.Workload(
        name="mixed",
        model=model,
        inputs={"first": edgekit.Tensor(shape=(8,)), "second": edgekit.Tensor(shape=(4,))},
        outputs={"scores": edgekit.Output(), "hidden": edgekit.Output()},
        calibration=mixed_samples(64, 0),
        evaluation=mixed_samples(300, 1),
        metric="cosine",
        has_dynamic_batch=True,
    )
    result = builds.build("edge-server", given, target=target)
    batch = mixed_samples(7, 2)
    arrays = {name: np.stack([item[name] for item in batch]) for name in ("first", "second")}
    with torch.no_grad():
        wanted = model(*(torch.from_numpy(array) for array in arrays.values()))
    with edgekit.open(result.bundle) as session:
        assert session.contract.inputs[0].shape == ("batch", 8)
        together = session.run(arrays)
        three = session.run({name: array[:3] for name, array in arrays.items()})
        alone = session.run({name: array[3:4] for name, array in arrays.items()})
    for name in ("scores", "hidden"):
        # Half precision keeps 11 bits: three digits.
        np.testing.assert_allclose(together[name], wanted[name].numpy(), atol=0.01)
        np.testing.assert_allclose(together[name][3:4], alone[name], atol=1e-4)
        np.testing.assert_allclose(together[name][:3], three[name], atol=1e-4)


def as_torch_does(session, output, module, images):
    """The largest difference from torch for batches of 1, 3 and 7 rows, in shares of the range."""
    with torch.no_grad():
        wanted = module(torch.from_numpy(images)).numpy()
    worst = 0.0
    for rows in (1, 3, 7):
        found = session.run(images[:rows])[output]
        assert found.shape == (rows, *wanted.shape[1:])
        worst = max(worst, np.abs(found - wanted[:rows]).max() / np.ptp(wanted))
    return worst


def test_a_tflite_of_an_open_batch_takes_any_number_of_rows(builds):
    given = workload(name="open", has_dynamic_batch=True)
    result = builds.build("phone", given)
    assert result.manifest.components[0].artifact.batch == 0
    with edgekit.open(result.bundle) as session:
        assert session.contract.inputs[0].shape == ("batch", *SHAPE)
        # 8 bits are off by a step or two of 1/127 in each of four layers.
        assert as_torch_does(session, "scores", given.model, pictures(7, 9)[0]) < 0.05


class Repainter(nn.Module):
    """A picture of one channel out, which LiteRT's converter cannot keep an open batch for."""

    def __init__(self):
        super().__init__()
        self.paint = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, image):
        return torch.sigmoid(self.paint(image))


def test_an_open_batch_that_litert_cannot_keep_is_said_and_served_row_by_row(builds):
    torch.manual_seed(1)
    module = Repainter().eval()
    heard = []
    given = workload(
        name="repainter",
        model=module,
        outputs={"picture": edgekit.Output()},
        metric="cosine",
        has_dynamic_batch=True,
    )
    result = builds.build("edge-server", given, target="litert", listener=heard.append)
    assert result.manifest.components[0].artifact.batch == 1
    (warning,) = [event.message for event in heard if event.kind == "warning"]
    assert "batch of 1" in warning
    with edgekit.open(result.bundle) as session:
        assert as_torch_does(session, "picture", module, pictures(7, 9)[0]) < 0.002

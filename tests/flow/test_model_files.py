"""Model files with data beside them, from the file to a bundle."""

import csv

import numpy as np
import pytest
import torch

import edgekit
from edgekit.core.contract import Image, Tensor
from edgekit.core.errors import CompileError, InputError, WorkloadError
from edgekit.flow.model_files import _kind, workload_of_file
from edgekit.store import Store
from tests.flow.tiny import LABELS, SHAPE, network, pictures
from tests.measure.artifacts import write_onnx

ANYTHING = {"latency_ratio": 1000.0, "metric_drop": 100.0}


def write_npz(path, count=200, **more):
    images, labels = pictures(count, 5)
    np.savez(path, image=images, target=labels, **more)
    return path


def exported(builds, device, name):
    """The float artifact of an honest build, as a user may have it."""
    stages = builds.honest(device).manifest.lineage.stages
    (key,) = [item.key for item in stages if item.name == "export"]
    with Store() as store:
        return store.get(key).folder / name


@pytest.mark.slow
def test_a_float_tflite_with_an_image_folder(builds, tmp_path):
    from PIL import Image as Picture

    images, labels = pictures(120, 5)
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        folder = tmp_path / "data" / LABELS[label]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.clip((image[0] + 1) * 70, 0, 255).astype(np.uint8)
        Picture.fromarray(pixels).save(folder / f"{number}.png")
    path = tmp_path / "mine.tflite"
    path.write_bytes(exported(builds, "phone", "model.tflite").read_bytes())
    result = builds.build("phone", path, data=tmp_path / "data", limits=ANYTHING)
    (item,) = result.manifest.components[0].contract.inputs
    assert item.source == Image(height=12, width=12, channels=1, layout="NCHW")
    assert result.manifest.components[0].contract.outputs[0].meaning.labels == LABELS
    assert result.manifest.metric.startswith("top-1:")
    assert result.manifest.name == "mine"
    with edgekit.open(result.bundle) as session:
        assert session.self_test().is_passed
        picture = next((tmp_path / "data" / "ant").iterdir())
        assert session.predict(picture).labels


@pytest.mark.slow
def test_a_float_onnx_with_a_csv(builds, tmp_path):
    images, labels = pictures(120, 5)
    with (tmp_path / "data.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        for image, label in zip(images, labels, strict=True):
            rows.writerow([*image.reshape(-1), LABELS[label]])
    path = tmp_path / "mine.onnx"
    path.write_bytes(exported(builds, "edge-server", "model.onnx").read_bytes())
    result = builds.build("edge-server", path, data=tmp_path / "data.csv", limits=ANYTHING)
    assert result.manifest.components[0].contract.outputs[0].meaning.labels == LABELS
    figures = {item.name: item for item in result.evidence.figures}
    # The network is right about nearly all of its pictures, read from a CSV or not.
    assert figures["metric_float"].value > 95


@pytest.mark.slow
def test_an_onnx_goes_to_no_other_format(builds, tmp_path):
    path = tmp_path / "mine.onnx"
    path.write_bytes(exported(builds, "edge-server", "model.onnx").read_bytes())
    with pytest.raises(CompileError, match=r"mine\.onnx: target litert takes torch, tflite, keras"):
        builds.build("phone", path, data=write_npz(tmp_path / "d.npz"))


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    path = tmp_path_factory.mktemp("pt2") / "net.pt2"
    torch.export.save(torch.export.export(network(), (torch.zeros(1, *SHAPE),)), path)
    return path


def test_a_pt2_with_an_npz_gives_a_workload(program, tmp_path):
    found, form = workload_of_file(
        program, data=write_npz(tmp_path / "d.npz"), labels=None, work=tmp_path
    )
    assert form == "torch"
    assert found.inputs == {"image": Tensor(shape=SHAPE)}
    assert len(found.outputs) == 2
    assert found.metric == f"top-1:{next(iter(found.outputs))}"
    assert not found.has_dynamic_batch
    # A fifth is set aside for calibration.
    assert (len(found.calibration), len(found.evaluation)) == (40, 160)


def test_a_pt2_is_planned_as_the_module_is(program, tmp_path):
    plan = edgekit.plan(program, device="phone", data=write_npz(tmp_path / "d.npz"))
    assert plan.facts.parameters == sum(item.numel() for item in network().parameters())
    assert plan.facts.family == "convnet"


def test_data_without_targets_are_judged_by_cosine(program, tmp_path):
    np.savez(tmp_path / "d.npz", image=pictures(20, 5)[0])
    found, _ = workload_of_file(program, data=tmp_path / "d.npz", labels=None, work=tmp_path)
    assert found.metric == "cosine"


def test_targets_that_are_fractions_are_judged_by_mean_absolute_error(program, tmp_path):
    images, labels = pictures(20, 5)
    np.savez(tmp_path / "d.npz", image=images, target=labels + 0.5)
    found, _ = workload_of_file(program, data=tmp_path / "d.npz", labels=None, work=tmp_path)
    assert found.metric.startswith("mae")


def test_an_onnx_with_any_batch_keeps_it(tmp_path):
    write_onnx(tmp_path)
    np.savez(tmp_path / "d.npz", x=np.random.default_rng(0).random((9, 3), np.float32))
    found, form = workload_of_file(
        tmp_path / "model.onnx", data=tmp_path / "d.npz", labels=None, work=tmp_path
    )
    assert form == "onnx"
    assert found.has_dynamic_batch
    assert found.inputs == {"x": Tensor(shape=(3,))}


@pytest.mark.parametrize("form", ["npz", "csv"])
def test_a_folder_that_holds_one_table_is_that_table_and_no_folder_of_pictures(
    program, tmp_path, form
):
    folder = tmp_path / "data"
    folder.mkdir()
    images, labels = pictures(20, 5)
    if form == "npz":
        np.savez(folder / "d.npz", image=images, target=labels)
    else:
        np.savetxt(folder / "d.csv", np.hstack([images.reshape(20, -1), labels[:, None]]))
        text = (folder / "d.csv").read_text()
        (folder / "d.csv").write_text(text.replace(" ", ","))
    (folder / ".DS_Store").write_bytes(b"")
    found, _ = workload_of_file(program, data=folder, labels=None, work=tmp_path)
    assert found.inputs == {"image": Tensor(shape=SHAPE)}
    assert (len(found.calibration), len(found.evaluation)) == (4, 16)
    (folder / "more.npy").write_bytes(b"")
    with pytest.raises(WorkloadError, match=rf"'d\.{form}' lies beside 'more.npy'; a folder"):
        workload_of_file(program, data=folder, labels=None, work=tmp_path)


def test_data_that_are_not_there_are_an_error(program, tmp_path):
    with pytest.raises(WorkloadError, match="no such file or folder"):
        edgekit.plan(program, device="phone", data=tmp_path / "nothing")


def test_a_file_that_is_no_model_is_refused(tmp_path):
    data = write_npz(tmp_path / "d.npz")
    for name in ("m.onnx", "m.tflite", "m.pt2"):
        (tmp_path / name).write_bytes(b"not a model at all")
        with pytest.raises((InputError, CompileError), match=name.replace(".", r"\.")):
            edgekit.plan(tmp_path / name, device="phone", data=data)


@pytest.mark.parametrize(
    ("shape", "is_folder", "kind"),
    [
        ((3, 8, 6), True, Image(height=8, width=6, channels=3, layout="NCHW")),
        ((8, 6, 3), True, Image(height=8, width=6, channels=3, layout="NHWC")),
        ((8, 6, 4), True, Tensor(shape=(8, 6, 4))),
        ((3, 8, 6), False, Tensor(shape=(3, 8, 6))),
        ((10,), True, Tensor(shape=(10,))),
    ],
)
def test_an_input_is_a_picture_where_the_data_are_pictures(tmp_path, shape, is_folder, kind):
    place = tmp_path if is_folder else tmp_path / "d.npz"
    assert _kind("float32", shape, place) == kind

import json
import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from edgekit.compile.program import load_program, load_state, save_program
from edgekit.core.errors import WorkloadError


class Bomb:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "model.pt2"
    program = torch.export.export(nn.Linear(3, 2).eval(), (torch.zeros(1, 3),), strict=False)
    save_program(program, path)
    return path


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a disk that is always full")
def test_a_full_disk_is_an_error_and_not_the_end_of_the_process():
    program = torch.export.export(nn.Linear(3, 2).eval(), (torch.zeros(1, 3),), strict=False)
    with pytest.raises(OSError, match="No space left"):
        save_program(program, Path("/dev/full"))


def rewrite(path, change=None, extra=None, compression=zipfile.ZIP_STORED):
    """The archive again with members changed: {name below the root: bytes -> bytes}."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            below = name.partition("/")[2]
            archive.writestr(name, (change or {}).get(below, lambda same: same)(content))
        for name, content in (extra or {}).items():
            archive.writestr(name, content)


def in_graph(change):
    def apply(content):
        plain = json.loads(content)
        change(plain)
        return json.dumps(plain).encode()

    return {"models/model.json": apply}


def first_node(plain):
    return plain["graph_module"]["graph"]["nodes"][0]


def test_a_program_comes_back_as_it_was_saved(saved):
    program = load_program(saved)
    model = program.module()
    x = torch.randn(1, 3)
    wanted = nn.functional.linear(x, program.state_dict["weight"], program.state_dict["bias"])
    torch.testing.assert_close(model(x), wanted)


def test_no_path_of_a_source_file_is_in_the_archive(saved):
    assert b"site-packages" not in saved.read_bytes()
    assert b".py" not in saved.read_bytes()


def test_a_pickled_weight_that_runs_code_is_refused_before_it_runs(saved, tmp_path):
    marker = tmp_path / "ran"

    def use_pickle(content):
        plain = json.loads(content)
        for entry in plain["config"].values():
            entry["use_pickle"] = True
        return json.dumps(plain).encode()

    hostile = pickle.dumps(Bomb(marker))
    change = {
        "data/weights/model_weights_config.json": use_pickle,
        "data/weights/weight_0": lambda _: hostile,
    }
    rewrite(saved, change)
    with pytest.raises(WorkloadError, match=r"refused, 'data/weights/weight_0' is a pickle"):
        load_program(saved)
    assert not marker.exists()


def test_hostile_sample_inputs_are_refused_before_they_run(saved, tmp_path):
    marker = tmp_path / "ran"
    content = tmp_path / "inputs.pt"
    torch.save(Bomb(marker), content)
    hostile = content.read_bytes()
    rewrite(saved, {"data/sample_inputs/model.pt": lambda _: hostile})
    with pytest.raises(WorkloadError, match=r"is a pickle that runs .*mkdir"):
        load_program(saved)
    assert not marker.exists()


@pytest.mark.parametrize(
    "target",
    [
        "torch.serialization.os.system",
        "torch.hub.load",
        "torch.ops.aten.from_file.default",
        "torch.ops.aten.__class__.__base__",
        "_operator.attrgetter",
        "#higher_order:x",
    ],
)
def test_a_graph_that_calls_anything_but_operators_is_refused(target, saved):
    rewrite(saved, in_graph(lambda plain: first_node(plain).update(target=target)))
    with pytest.raises(WorkloadError, match="which is no plain operator"):
        load_program(saved)


@pytest.mark.parametrize(
    "text", ["__import__('os').system('true')", "Symbol('__import__')", "().__class__", "1" * 3000]
)
def test_a_shape_that_is_no_arithmetic_is_refused(text, saved):
    shape = {"as_expr": {"expr_str": text, "hint": None}}
    rewrite(saved, in_graph(lambda plain: first_node(plain).update(shape=shape)))
    with pytest.raises(WorkloadError, match="which is no arithmetic"):
        load_program(saved)


def test_a_range_with_code_for_a_symbol_is_refused(saved):
    ranges = {"__import__('os')": {"min_val": 0, "max_val": 2}}
    rewrite(saved, in_graph(lambda plain: plain.update(range_constraints=ranges)))
    with pytest.raises(WorkloadError, match="which is no arithmetic"):
        load_program(saved)


def test_a_name_that_is_code_is_refused(saved):
    rewrite(saved, in_graph(lambda plain: first_node(plain).update(name="x\nimport os")))
    with pytest.raises(WorkloadError, match="which is no identifier"):
        load_program(saved)


def test_an_interface_that_imports_modules_is_refused(saved):
    def change(plain):
        entry = plain["graph_module"]["module_call_graph"][0]["signature"]
        entry["in_spec"] = entry["in_spec"].replace("builtins.dict", "collections.defaultdict")

    rewrite(saved, in_graph(change))
    with pytest.raises(WorkloadError, match="imports modules"):
        load_program(saved)


@pytest.mark.parametrize(
    "name",
    ["model/data/constants/custom_obj_0", "model/data/aotinductor/model/x.so", "../x", "loose"],
)
def test_members_beyond_graph_and_tensors_are_refused(name, saved):
    rewrite(saved, extra={name: b"x"})
    with pytest.raises(WorkloadError, match="refused, it holds"):
        load_program(saved)


def test_a_compressed_archive_is_refused(saved):
    rewrite(saved, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(WorkloadError, match="is compressed"):
        load_program(saved)


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04" + bytes(40)])
def test_what_is_no_archive_is_refused(content, tmp_path):
    path = tmp_path / "model.pt2"
    path.write_bytes(content)
    with pytest.raises(WorkloadError, match=r"no \.pt2 archive"):
        load_program(path)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(WorkloadError, match="No such file"):
        load_program(tmp_path / "model.pt2")


def test_a_graph_that_is_no_json_is_refused(saved):
    rewrite(saved, {"models/model.json": lambda _: b"{"})
    with pytest.raises(WorkloadError, match="is not JSON"):
        load_program(saved)


def test_a_graph_of_another_version_is_refused(saved):
    rewrite(saved, in_graph(lambda plain: plain["schema_version"].update(major=99)))
    with pytest.raises(WorkloadError, match="cannot load this program"):
        load_program(saved)


def test_weights_that_are_not_there_are_refused(saved):
    def rename(content):
        return content.replace(b"weight_0", b"weight_9")

    rewrite(saved, {"data/weights/model_weights_config.json": rename})
    with pytest.raises(WorkloadError, match="names 'data/weights/weight_9', which is not there"):
        load_program(saved)


@pytest.mark.parametrize("is_nested", [False, True])
def test_a_checkpoint_gives_its_tensors(is_nested, tmp_path):
    state = nn.Linear(2, 2).state_dict()
    path = tmp_path / "model.th"
    torch.save({"state_dict": state, "best_prec1": 9.5} if is_nested else state, path)
    assert load_state(path).keys() == state.keys()


def test_a_safetensors_checkpoint_gives_its_tensors(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"w": torch.ones(2)}, path)
    assert torch.equal(load_state(path)["w"], torch.ones(2))


def test_a_hostile_checkpoint_is_refused_before_it_runs(tmp_path):
    marker = tmp_path / "ran"
    torch.save({"w": Bomb(marker)}, tmp_path / "model.pth")
    with pytest.raises(WorkloadError, match=r"would run code that the file names .*mkdir"):
        load_state(tmp_path / "model.pth")
    assert not marker.exists()


@pytest.mark.parametrize("name", ["model.pth", "model.safetensors"])
def test_a_corrupt_checkpoint_is_refused(name, tmp_path):
    (tmp_path / name).write_bytes(b"\x80\x02 nonsense")
    with pytest.raises(WorkloadError, match=name):
        load_state(tmp_path / name)


def test_a_checkpoint_without_tensors_by_name_is_refused(tmp_path):
    torch.save([torch.ones(1)], tmp_path / "model.pth")
    with pytest.raises(WorkloadError, match="holds a list, not tensors by name"):
        load_state(tmp_path / "model.pth")

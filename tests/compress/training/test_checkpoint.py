"""Checkpoints: whole or not at all, plain, and of one training only."""

import pickle

import pytest
import torch

from edgekit.compress.training.checkpoint import (
    FILE,
    Checkpoint,
    fingerprint_of,
    load_checkpoint,
    save_checkpoint,
)
from edgekit.core.errors import OutputError
from edgekit.core.progress import Reporter


def _heard():
    said = []
    return said, Reporter(stage="test", listener=said.append)


def _some(**changes):
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(2))])
    optimizer.param_groups[0]["params"][0].grad = torch.ones(2)
    optimizer.step()
    given = {
        "fingerprint": "f",
        "epoch": 2,
        "batch": 7,
        "loss_sum": 0.1 + 0.2,
        "points": [{"name": "start", "score": 0.5}],
        "tensors": {"w": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)},
        "masks": {"w": torch.tensor([True, False])},
        "optimizer": optimizer.state_dict(),
    }
    return Checkpoint(**(given | changes))


def test_what_was_written_is_read_back(tmp_path):
    written = _some()
    save_checkpoint(tmp_path / "a" / "b", written)
    said, reporter = _heard()
    found = load_checkpoint(tmp_path / "a" / "b", "f", reporter)
    assert (found.epoch, found.batch, found.loss_sum) == (2, 7, 0.1 + 0.2)
    assert found.points == written.points
    assert torch.equal(found.tensors["w"], written.tensors["w"])
    assert found.tensors["w"].stride() == written.tensors["w"].stride()
    assert torch.equal(found.masks["w"], written.masks["w"])
    for key, value in written.optimizer["state"][0].items():
        assert torch.equal(found.optimizer["state"][0][key], value)
    assert said == []


def test_a_checkpoint_is_read_without_running_code(tmp_path):
    save_checkpoint(tmp_path, _some())
    # The same call without edgekit; it refuses anything but tensors and plain values.
    torch.load(tmp_path / FILE, weights_only=True)


def test_no_checkpoint_is_none(tmp_path):
    assert load_checkpoint(tmp_path, "f", _heard()[1]) is None


def test_one_of_another_training_is_left_aside_and_said_so(tmp_path):
    save_checkpoint(tmp_path, _some())
    said, reporter = _heard()
    assert load_checkpoint(tmp_path, "other", reporter) is None
    assert [event.kind for event in said] == ["note"]
    assert "other settings, data or weights" in said[0].message


class _Evil:
    def __reduce__(self):
        return (print, ("run",))


def _cut(path):
    path.write_bytes(path.read_bytes()[:100])


@pytest.mark.parametrize(
    "damage",
    [
        _cut,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"no checkpoint"),
        lambda path: torch.save([1, 2], path),
        lambda path: torch.save({"schema": 1, "fingerprint": "f", "what": 1}, path),
        lambda path: torch.save(_Evil(), path),
        lambda path: path.write_bytes(pickle.dumps(_Evil(), protocol=2)),
    ],
)
def test_one_that_is_damaged_is_a_warning_and_a_new_start(tmp_path, damage, capsys):
    save_checkpoint(tmp_path, _some())
    damage(tmp_path / FILE)
    said, reporter = _heard()
    assert load_checkpoint(tmp_path, "f", reporter) is None
    assert [event.kind for event in said] == ["warning"]
    assert "starts from the beginning" in said[0].message
    assert capsys.readouterr().out == ""


def test_one_of_another_schema_is_not_taken_up(tmp_path):
    torch.save({"schema": 99, "fingerprint": "f"}, tmp_path / FILE)
    assert load_checkpoint(tmp_path, "f", _heard()[1]) is None


def test_a_write_that_fails_leaves_the_old_one(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, _some(epoch=1))

    def full(content, stream):
        stream.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OutputError, match="No space left on device"):
        save_checkpoint(tmp_path, _some(epoch=2))
    assert load_checkpoint(tmp_path, "f", _heard()[1]).epoch == 1


def test_a_fingerprint_sees_names_dtypes_shapes_bytes_and_facts():
    base = fingerprint_of({"a": 1}, {"w": torch.zeros(2, 3)})
    assert base == fingerprint_of({"a": 1}, {"w": torch.zeros(2, 3)})
    assert base == fingerprint_of({"a": 1}, {"w": torch.zeros(3, 2).t()})
    others = [
        fingerprint_of({"a": 2}, {"w": torch.zeros(2, 3)}),
        fingerprint_of({"a": 1}, {"v": torch.zeros(2, 3)}),
        fingerprint_of({"a": 1}, {"w": torch.zeros(3, 2)}),
        fingerprint_of({"a": 1}, {"w": torch.zeros(2, 3, dtype=torch.bfloat16)}),
        fingerprint_of({"a": 1}, {"w": torch.ones(2, 3)}),
        fingerprint_of({"a": 1}, {"w": torch.zeros(2, 3), "n": torch.tensor(0)}),
    ]
    assert len({base, *others}) == 7

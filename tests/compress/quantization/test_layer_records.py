"""Rounded layers on disk."""

import pytest
import torch

from edgekit.compress.quantization.layer_records import LayerRecords
from edgekit.compress.quantization.layers import LayerError, Rounded
from edgekit.core.progress import Reporter
from tests.compress.benches import SILENT

LIKE = torch.zeros(2, 3)
ERROR = LayerError(nearest=0.25, rounded=0.125)


@pytest.fixture
def rounded():
    return Rounded(weight=torch.randn(2, 3), nearest=torch.randn(2, 3), error=ERROR)


def test_a_layer_is_read_back_as_it_was_written(rounded, tmp_path):
    LayerRecords(tmp_path / "new", "this run", SILENT).save(3, rounded)
    found = LayerRecords(tmp_path / "new", "this run", SILENT).load(3, LIKE)
    assert torch.equal(found.weight, rounded.weight)
    assert torch.equal(found.nearest, rounded.nearest)
    assert found.error == ERROR


def test_layers_of_another_run_and_layers_not_there_are_none(rounded, tmp_path):
    records = LayerRecords(tmp_path, "this run", SILENT)
    records.save(3, rounded)
    assert LayerRecords(tmp_path, "another", SILENT).load(3, LIKE) is None
    assert records.load(4, LIKE) is None


def test_a_damaged_file_is_said_and_rounded_anew(rounded, tmp_path):
    events = []
    records = LayerRecords(tmp_path, "this run", Reporter(stage="test", listener=events.append))
    records.save(3, rounded)
    file = next(tmp_path.iterdir())
    file.write_bytes(file.read_bytes()[:40])
    assert records.load(3, LIKE) is None
    assert events[0].kind == "warning"
    assert "the layer is rounded anew" in events[0].message

"""The verb ``sensitivity``: one measurement, kept, on the model as it was given."""

import numpy as np
import pytest
import torch
from torch import nn

import edgekit
from edgekit.core.errors import StepError
from edgekit.flow.stages import REUSED
from tests.flow import tiny


class Heard:
    """What was said, by stage."""

    def __init__(self):
        self.events = []

    def __call__(self, event):
        self.events.append(event)

    def of(self, kind):
        return [(item.stage, item.message) for item in self.events if item.kind == kind]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))


def test_a_second_call_answers_from_the_cache_and_other_data_do_not(tmp_path):
    first, second, third = Heard(), Heard(), Heard()
    given = {"device": "phone", "samples": 16, "metric_layers": 1}
    wanted = edgekit.sensitivity(tiny.workload(), **given, listener=first)
    assert ("sensitivity", "measuring network.second") in first.of("progress")
    assert not wanted.is_reused
    found = edgekit.sensitivity(tiny.workload(), **given, listener=second)
    assert found.is_reused
    assert ("sensitivity", REUSED) in second.of("note")
    assert found.sensitivity == wanted.sensitivity
    others = tiny.workload(calibration=[image for image, _ in tiny.samples(32, 9)])
    assert not edgekit.sensitivity(others, **given, listener=third).is_reused


def test_work_of_a_sample_and_the_float_model_s_layers_are_told():
    found = edgekit.sensitivity(tiny.workload(selection=tiny.samples(64, 3)), device="phone")
    layers = {layer.path: layer for layer in found.sensitivity.layers}
    assert layers["network.second"].macs == 6 * 6 * 16 * 16 * 9
    assert set(layers["network.second"].costs) == {"int8", "int4", "fp16"}
    # Its single channel makes it depthwise in LiteRT.
    assert set(layers["network.first"].costs) == {"int8", "fp16"}
    assert found.sensitivity.metric == "top-1"
    assert found.has_selection
    # A head that no output uses costs nothing.
    assert layers["network.other"].worst == 0


class Words(nn.Module):
    """A table of words and a linear layer."""

    def __init__(self):
        super().__init__()
        self.table, self.scores = nn.Embedding(50, 32), nn.Linear(32, 4)
        self.attention = nn.MultiheadAttention(32, 2, batch_first=True)

    def forward(self, words):
        hidden = self.table(words)
        return self.scores(self.attention(hidden, hidden, hidden, need_weights=False)[0].mean(1))


def test_a_transformer_is_measured_in_the_blocks_of_its_device():
    torch.manual_seed(0)
    rows = torch.randint(0, 50, (40, 6)).numpy()
    given = edgekit.Workload(
        name="words",
        model=Words().eval(),
        inputs={"words": edgekit.Tensor(shape=(6,), dtype="int64")},
        outputs={"scores": edgekit.Output()},
        calibration=list(rows[:20]),
        evaluation=list(rows[20:]),
        metric="cosine",
    )
    found = edgekit.sensitivity(given, device="laptop", target="onnx", metric_layers=0)
    layers = {layer.path: layer for layer in found.sensitivity.layers}
    assert set(layers["table"].costs) == {"int8", "int4", "int4/32", "fp16"}
    costs = layers["scores"].costs
    assert costs["int4/32"].bytes == 4 * 32 // 2 + 2 * 4
    # Attention reads its weights itself; no module of theirs is called.
    assert set(found.sensitivity.left) == {"attention"}


def test_an_exported_graph_has_no_layers_to_measure(tmp_path):
    program = tmp_path / "model.pt2"
    module = tiny.workload().model
    torch.export.save(torch.export.export(module, (torch.zeros(1, *tiny.SHAPE),)), program)
    images, labels = tiny.pictures(64, 5)
    np.savez(tmp_path / "data.npz", image=images, target=labels)
    with pytest.raises(StepError, match=r"layers of a torch\.nn\.Module"):
        edgekit.sensitivity(program, device="phone", data=tmp_path / "data.npz")

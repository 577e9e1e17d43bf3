"""From a workload to a captured model and checked data on disk."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
from torch import nn
from torch.nn.utils import prune

import edgekit
from edgekit.core.errors import OutputError, WorkloadError
from edgekit.core.progress import ignore
from edgekit.data.dataset import open_dataset
from edgekit.flow.prepare import capture_model, write_data
from edgekit.flow.sources import Source
from tests.flow.tiny import samples, workload


def source(given):
    return Source(workload=given, format="torch", digest="", origin=given.name)


def capture(given, folder):
    return capture_model(source(given), folder, ignore)


def test_data_lie_on_disk_as_they_were_given(tmp_path):
    given = workload(evaluation=samples(5, 2), selection=samples(4, 3))
    model = capture(given, tmp_path)
    data, metric = write_data(model, tmp_path, ignore)
    assert metric.name == "top-1"
    assert [data.calibration.count, data.evaluation.count, data.selection.count] == [32, 5, 4]
    (batch,) = open_dataset(tmp_path / "evaluation").batches(5)
    np.testing.assert_array_equal(batch["image"], np.stack([x for x, _ in samples(5, 2)]))
    assert [int(label) for label in batch["target"]] == [int(y) for _, y in samples(5, 2)]


@pytest.mark.parametrize("other", ["calibration", "unlabelled"])
def test_training_samples_may_be_used_for_more_where_some_are_held_back(other, tmp_path):
    pairs = samples(300, 7)
    given = workload(training=pairs, **{other: [image for image, _ in pairs[:150]]})
    data, _ = write_data(capture(given, tmp_path), tmp_path, ignore, has_training=True)
    assert data.training.count + data.selection.count == 300
    assert data.is_held_out


def test_held_back_samples_are_told_as_such(tmp_path):
    pairs = samples(300, 7)
    given = workload(training=pairs, evaluation=pairs)
    with pytest.raises(WorkloadError, match=r"evaluation and .*training data share"):
        write_data(capture(given, tmp_path), tmp_path, ignore, has_training=True)


def test_training_samples_that_are_all_used_otherwise_leave_none_to_hold_back(tmp_path):
    pairs = samples(60, 7)
    given = workload(training=pairs, calibration=[image for image, _ in pairs])
    with pytest.raises(WorkloadError, match="looks at all of them otherwise"):
        write_data(capture(given, tmp_path), tmp_path, ignore, has_training=True)


def test_data_that_are_a_generator_are_read_once(tmp_path):
    reads = []

    def stream():
        reads.append(1)
        yield from samples(5, 2)

    given = workload(evaluation=stream())
    data, _ = write_data(capture(given, tmp_path), tmp_path, ignore)
    assert data.evaluation.count == 5
    assert data.selection is None
    assert reads == [1]


def test_a_set_that_finds_no_room_says_where(tmp_path, monkeypatch):
    model = capture(workload(evaluation=samples(5, 2)), tmp_path)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("edgekit.flow.prepare.write_checked", full)
    with pytest.raises(OutputError, match=r"calibration set cannot be written .*set TMPDIR"):
        write_data(model, tmp_path, ignore)


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(50, 8)

    def forward(self, ids, mask):
        return (self.embedding(ids) * mask.unsqueeze(-1)).sum(1)


def of_text(first, second):
    return workload(
        name="text",
        model=Tokens().eval(),
        inputs={
            "ids": edgekit.Text(tokenizer=str(first), length=6),
            "mask": edgekit.Text(tokenizer=str(second), length=6, part="mask"),
        },
        outputs={"sum": edgekit.Output()},
    )


def test_a_tokenizer_ships_with_the_bundle_under_its_own_name(tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text("{}")
    model = capture(of_text(path, path), tmp_path)
    assert model.side_files == {"assets/tokenizer.json": path}
    assert [item.source.tokenizer for item in model.contract.inputs] == [
        "assets/tokenizer.json",
        "assets/tokenizer.json",
    ]


def test_two_side_files_of_one_name_are_refused(tmp_path):
    paths = [tmp_path / name / "tokenizer.json" for name in ("a", "b")]
    for path in paths:
        path.parent.mkdir()
        path.write_text("{}")
    with pytest.raises(WorkloadError, match=r"two side files are both called tokenizer\.json"):
        capture(of_text(*paths), tmp_path)


def test_a_tokenizer_that_is_not_there_is_named(tmp_path):
    with pytest.raises(WorkloadError, match=r"input 'ids': tokenizer .*: no such file"):
        capture(of_text(tmp_path / "no.json", tmp_path / "no.json"), tmp_path)


def test_the_same_model_has_the_same_digest_and_another_has_not(tmp_path):
    digests = []
    unlabelled = workload(model=nn.Flatten(), outputs={"scores": edgekit.Output()})
    for index, given in enumerate((workload(), workload(), unlabelled)):
        folder = tmp_path / str(index)
        folder.mkdir()
        digests.append(capture(given, folder).facts.digest)
    assert digests[0] == digests[1] != digests[2]
    assert len(digests[0]) == len(hashlib.sha256().hexdigest())


def test_a_model_with_masks_is_captured_as_one_with_plain_zeros(tmp_path):
    facts = []
    for name in ("plain", "masked"):
        (tmp_path / name).mkdir()
        model = nn.Sequential(nn.Flatten(), nn.Linear(144, 4)).eval()
        nn.init.constant_(model[1].weight, 0.5)
        if name == "masked":
            prune.random_unstructured(model[1], "weight", amount=0.4)
        given = workload(model=model)
        source = Source(workload=given, format="torch", digest="", origin=name)
        facts.append(capture_model(source, tmp_path / name, ignore).facts)
        assert hasattr(model[1], "weight_mask") == (name == "masked")
    plain, masked = facts
    assert masked.digest != plain.digest
    assert replace(masked, digest="") == replace(plain, digest="")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"student": nn.Linear(4, 2)}, "student is a Linear; give a function"),
        ({"student": "small"}, "student is a str; give a function"),
        ({"teachers": nn.Linear(4, 2)}, "teachers are a Linear; give a list"),
        ({"teachers": [None]}, "teachers hold a NoneType; give a list"),
    ],
)
def test_students_and_teachers_of_other_kinds_are_refused(changes, words, tmp_path):
    with pytest.raises(WorkloadError, match=words):
        capture(workload(**changes), tmp_path)


def test_labels_that_are_not_as_many_as_scores_are_refused(tmp_path):
    given = workload()
    name = next(iter(given.outputs))
    wrong = workload(outputs={name: edgekit.Output(labels=("only one",))})
    with pytest.raises(WorkloadError, match="1 labels; give one label for each of its"):
        capture(wrong, tmp_path)

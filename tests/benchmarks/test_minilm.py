"""MiniLM's benchmark: the cut is the one that was asked for, and its texts are held apart."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.builds.record import read_records
from benchmarks.builds.runner import main
from benchmarks.strategies import minilm
from benchmarks.strategies.minilm_workload import pieces, workload

TINY = f"{Path(minilm.__file__).with_name('minilm_workload.py')}:tiny"


@pytest.mark.slow
def test_a_small_model_is_cut_taught_built_and_measured(tmp_path, data_dir, monkeypatch):
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    results = tmp_path / "results.json"
    name = "minilm-onnx-recovered"
    monkeypatch.setattr("sys.argv", ["minilm.py", "--cell", name, "--results", str(results)])
    main(None, minilm.all_cells(workload=TINY, epochs=3), results)
    record = read_records(results)[name]
    assert record.outcome != "not built", record.message
    sizes = {step.name: parameters_of(step) for step in record.steps}
    # By hand, of a layer of width 40 with 10 heads of 4 and 80 neurons: 7 heads and 48 neurons
    # stay, and 2 of 4 layers.
    dense, cut = layer_parameters(heads=10, neurons=80), layer_parameters(heads=7, neurons=48)
    assert sizes["float model"] - sizes["prune"] == 4 * dense - 2 * cut
    assert sizes["distil"] == sizes["prune"]
    assert -1 <= record.figures["metric_compressed"].value <= 1
    assert record.latency[0].figures["latency_ratio"].value > 0


def parameters_of(step) -> float:
    return {item.name: item.value for item in step.figures}.get("parameters")


def layer_parameters(*, heads: int, neurons: int, width: int = 40, head_width: int = 4) -> int:
    inner = heads * head_width
    attention = 3 * (width * inner + inner) + inner * width + width
    feed_forward = width * neurons + neurons + neurons * width + width
    return attention + feed_forward + 2 * 2 * width


def test_no_text_that_judges_is_learned_from(data_dir):
    made = workload()
    learned = " ".join(made.training)
    judging = [*made.evaluation, *made.selection]
    assert len(set(judging)) == 500
    # A line that were cut into pieces would still be there by its middle.
    assert not [line for line in judging if line[len(line) // 2 :][:40] in learned]


def test_pieces_are_cut_at_spaces_and_lose_no_word():
    words = [f"word{number}" for number in np.arange(400)]
    found = pieces([" ".join(words[:150]), " ".join(words[150:])])
    joined = " ".join(found).split(" ")
    assert joined == words[: len(joined)]
    assert len(words) - len(joined) < 280 / 5
    # A space that ends a piece is not part of it.
    assert all(279 <= len(piece) < 300 for piece in found)

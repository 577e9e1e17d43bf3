"""The benchmark of quantization judges as it says, and each of its rows can be found."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from benchmarks.quantization.environments import HERE, TOOLS
from benchmarks.quantization.judge import cosines, token_change, top_1_change
from benchmarks.quantization.models import SUBJECTS
from benchmarks.quantization.rows import PROFILES, all_rows
from benchmarks.quantization.stories import encode
from benchmarks.quantization.table import markdown
from benchmarks.quantization.workloads import Mobile, scale_apart


def scores(*winners):
    return np.eye(3, dtype=np.float32)[list(winners)]


def test_points_lost_are_answers_lost_less_answers_won():
    labels = np.array([0, 1, 2, 0])
    found = top_1_change(scores(1, 1, 2, 0), scores(0, 0, 2, 1), labels)
    assert (found.lost, found.won, found.count) == (1, 2, 4)
    assert found.points == -25
    # By hand: the differences are 1, -1, 0, -1.
    assert found.half_width == pytest.approx(1.96 * 100 * np.std([1, -1, 0, -1]) / 2)


def test_equal_answers_lose_nothing_without_doubt():
    found = top_1_change(scores(0, 1), scores(0, 1), np.array([0, 2]))
    assert (found.points, found.half_width) == (0, 0)


def test_a_language_model_is_judged_as_torch_would():
    generator = torch.Generator().manual_seed(0)
    floats, ours = torch.randn(2, 2, 5, 7, generator=generator)
    tokens = torch.randint(7, (2, 5), generator=generator)
    found = token_change(ours.numpy(), floats.numpy(), tokens.numpy())

    def nll(logits):
        return torch.nn.functional.cross_entropy(
            logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()
        )

    logs = [item[:, :-1].log_softmax(-1).flatten(0, 1) for item in (ours, floats)]
    kl = functional.kl_div(*logs, log_target=True, reduction="batchmean")
    assert found.nll == pytest.approx(float(nll(ours) - nll(floats)), abs=1e-6)
    assert found.kl == pytest.approx(float(kl), abs=1e-6)
    same = (ours[:, :-1].argmax(-1) == floats[:, :-1].argmax(-1)).float().mean()
    assert found.agreement == pytest.approx(float(same))


def test_cosines_are_those_of_whole_outputs():
    found = cosines(np.array([[3.0, 4.0], [1.0, 0.0]]), np.array([[4.0, 3.0], [-2.0, 0.0]]))
    assert found == pytest.approx([24 / 25, -1])


def test_channels_that_are_scaled_apart_change_no_output():
    torch.manual_seed(0)
    model, pictures = Mobile().eval(), torch.rand(4, 1, 28, 28)
    with torch.no_grad():
        before = model(pictures)
        weights = model.body[0].depthwise[0].weight.clone()
        scale_apart(model)
        ratios = model.body[0].depthwise[0].weight / weights
        assert torch.allclose(model(pictures), before, atol=1e-5)
    assert ratios.max() / ratios.min() > 100


def test_pieces_that_make_the_best_one_are_joined_first():
    pieces = [(bytes([byte]), 0.0) for byte in range(3)]
    pieces += [(b"<%d>" % byte, 0.0) for byte in range(256)]
    letters = [(letter.encode(), 0.0) for letter in " abc"]
    words = [*pieces, *letters, (b"ab", -2.0), (b"bc", -1.0), (b"abc", -3.0)]
    space, first = len(pieces), len(pieces) + 1
    # "bc" scores more than "ab", and then "abc" can be made.
    assert encode("abc", words) == [1, space, len(words) - 1]
    assert encode("aa", words) == [1, space, first, first]
    # A character that is no piece is its bytes.
    assert encode("é", words) == [1, space, 3 + 0xC3, 3 + 0xA9]


def test_every_row_has_a_name_of_its_own_and_all_that_it_names():
    rows = all_rows()
    names = [row.name for row in rows]
    assert len(set(names)) == len(names)
    for row in rows:
        assert row.subject in SUBJECTS
        assert row.baseline in ("", *names[: names.index(row.name)])
        if row.tool == "edgekit":
            assert (PROFILES / f"{row.recipe}.toml").is_file()
        else:
            assert (HERE / "tools" / TOOLS[row.tool].script).is_file()


def test_the_table_says_what_was_not_run_and_what_was_not_made():
    row, other = all_rows()[:2]
    text = markdown([row, other], {row.name: {"fault": "no such operator"}})
    assert f"| {row.title} | not made: no such operator |" in text
    assert f"| {other.title} | not run |" in text

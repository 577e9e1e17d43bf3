"""Which model is the student, and which are refused."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from edgekit.compress.distillation.student import choose_student, is_changed
from edgekit.core.errors import StepError, WorkloadError
from edgekit.core.progress import Reporter
from edgekit.core.steps import Distil
from tests.compress.benches import SILENT, TinyCnn, TinyMlp, bench_of, cnn_bench, seeded


def _small():
    return TinyCnn(4)


def _random_small():
    return seeded(_small, 7)


def test_auto_takes_the_factory_first(digits, checkpoints):
    found = choose_student(Distil(), cnn_bench(digits, checkpoints, student=_small), SILENT)
    assert (found.kind, found.base) == ("factory", "student")
    assert found.model.stem.out_channels == 4


def test_auto_takes_the_model_that_earlier_steps_changed(digits, checkpoints):
    bench = bench_of(_random_small(), digits, checkpoints, teacher=seeded(TinyCnn))
    mask = {"stem.weight": torch.ones(4, 1, 3, 3, dtype=torch.bool)}
    found = choose_student(Distil(), replace(bench, masks=mask), SILENT)
    assert (found.kind, found.base) == ("current", "current")
    assert found.model is bench.model
    assert found.masks == mask


def test_a_factory_that_throws_earlier_steps_away_is_told(digits, checkpoints):
    bench = bench_of(_random_small(), digits, checkpoints, teacher=seeded(TinyCnn), student=_small)
    said = []
    choose_student(Distil(), bench, Reporter(stage="distil", listener=said.append))
    assert [event.kind for event in said] == ["warning"]
    assert "what earlier steps made of the model is not used" in said[0].message


def test_one_other_weight_makes_a_model_another(digits, checkpoints):
    bench = cnn_bench(digits, checkpoints)
    assert not is_changed(bench)
    with torch.no_grad():
        bench.model.stem.weight[0, 0, 0, 0] += 1e-3
    assert is_changed(bench)


def test_a_factory_gives_the_same_student_for_the_same_seed(digits, checkpoints):
    bench = cnn_bench(digits, checkpoints, student=_small)
    settings = Distil(student="factory")
    before = torch.random.get_rng_state()
    one, other = (choose_student(settings, bench, SILENT).model for _ in range(2))
    third = choose_student(settings, replace(bench, seed=1), SILENT).model
    assert torch.equal(one.stem.weight, other.stem.weight)
    assert not torch.equal(one.stem.weight, third.stem.weight)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_factory_that_is_not_there_is_an_error(digits, checkpoints):
    with pytest.raises(StepError, match="the workload has no student factory"):
        choose_student(Distil(student="factory"), cnn_bench(digits, checkpoints), SILENT)


def test_a_factory_must_make_a_module(digits, checkpoints):
    bench = cnn_bench(digits, checkpoints, student=lambda: "resnet")
    with pytest.raises(WorkloadError, match="the student factory returned str"):
        choose_student(Distil(), bench, SILENT)


def test_a_factory_that_fails_is_told_as_the_users(digits, checkpoints):
    def broken():
        return {}["width"]

    bench = cnn_bench(digits, checkpoints, student=broken)
    with pytest.raises(WorkloadError, match="student factory raised KeyError: 'width'"):
        choose_student(Distil(), bench, SILENT)


def test_a_size_that_no_made_student_can_have_is_told_with_its_setting(digits, checkpoints):
    bench = cnn_bench(digits, checkpoints)
    asked = Distil(student="made", student_bytes=200)
    with pytest.raises(
        StepError, match=r"^distil: student_bytes is 200: 200 bytes are out of"
    ) as e:
        choose_student(asked, bench, SILENT)
    assert "shrink:" not in str(e.value)
    assert str(e.value).endswith(
        "set another student_bytes, or give the workload a student factory"
    )


def test_a_student_that_is_larger_than_its_teacher_is_refused(digits, checkpoints):
    bench = cnn_bench(digits, checkpoints, student=lambda: TinyCnn(20))
    ours, theirs = (
        f"{sum(value.numel() for value in model.parameters()):,}"
        for model in (TinyCnn(20), bench.teacher)
    )
    with pytest.raises(StepError, match=f"student has {ours} parameters and its teacher {theirs}"):
        choose_student(Distil(), bench, SILENT)


def test_outputs_that_do_not_match_are_named_with_both_shapes(digits, checkpoints):
    class Fewer(TinyMlp):
        def __init__(self):
            super().__init__(8)
            self.layers[5] = nn.Linear(8, 7)

    bench = cnn_bench(digits, checkpoints, student=Fewer)
    with pytest.raises(StepError, match=r"output 'scores' is \[2, 7\], the teacher's \[2, 10\]"):
        choose_student(Distil(), bench, SILENT)


def test_outputs_of_other_names_are_refused(digits, checkpoints):
    class Named(TinyMlp):
        def forward(self, image):
            return {"logits": super().forward(image)}

    bench = cnn_bench(digits, checkpoints, student=lambda: Named(8))
    with pytest.raises(StepError, match="outputs are logits, the teacher's scores"):
        choose_student(Distil(), bench, SILENT)

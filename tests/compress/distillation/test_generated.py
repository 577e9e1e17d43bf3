"""Text that a teacher writes: what it begins with, what it is drawn from, who may write it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from edgekit.compress.distillation.distil import distil
from edgekit.compress.distillation.generated import (
    begin,
    generate_texts,
    go_on,
    text_inputs,
)
from edgekit.compress.distillation.syllabus import make_syllabus
from edgekit.compress.distillation.teachers import Teachers, resolve_task
from edgekit.compress.training.batches import stream
from edgekit.compress.training.objective import label_objective
from edgekit.compress.training.train import train
from edgekit.core.contract import Tensor
from edgekit.core.errors import StepError
from edgekit.core.steps import Distil, Train
from edgekit.data.dataset import META, TARGET
from tests.compress import texts
from tests.compress.benches import SILENT, seeded

LENGTH, VOCABULARY = texts.LENGTH, texts.VOCABULARY


class CountingModel(nn.Module):
    """Says by a fixed table which token comes after which; exactly one, or one of two evenly."""

    def __init__(self, ways=1):
        super().__init__()
        table = torch.full((VOCABULARY, VOCABULARY), -1e4)
        for token in range(VOCABULARY):
            for way in range(1, ways + 1):
                table[token, (token + way) % VOCABULARY] = 0.0
        self.table = nn.Parameter(table)

    def forward(self, ids, mask):
        return self.table[ids]


class Backwards(CountingModel):
    """What it says of a token hangs on the last one."""

    def forward(self, ids, mask):
        return self.table[ids] + self.table[ids[:, -1:]] * 0.5


def _bench(tmp_path, teacher, **changes):
    return texts.text_bench(tmp_path, seeded(texts.TinyLanguageModel), teacher, **changes)


def _made(bench, samples, folder, *, prompt_tokens=3, temperature=1.0):
    task = resolve_task("language", bench)
    found = generate_texts(
        bench,
        task,
        samples,
        folder,
        SILENT,
        prompt_tokens=prompt_tokens,
        temperature=temperature,
    )
    rows = [next(iter(item.batches(item.count))) for item in found]
    return {name: np.concatenate([item[name] for item in rows]) for name in rows[0]}


def test_a_table_is_followed_from_the_prompt_on(tmp_path):
    rows = _made(_bench(tmp_path, CountingModel()), 150, tmp_path / "made")
    ids = rows["ids"]
    assert ids.shape == (150, LENGTH)
    assert ids.dtype == np.int64
    for place in range(3, LENGTH):
        assert np.array_equal(ids[:, place], (ids[:, place - 1] + 1) % VOCABULARY)
    assert rows["mask"].all()
    assert TARGET not in rows


def test_prompts_are_beginnings_of_real_samples(tmp_path):
    bench = _bench(tmp_path, CountingModel())
    ids = _made(bench, 40, tmp_path / "made")["ids"]
    real = next(iter(bench.training.batches(bench.training.count)))["ids"]
    known = {tuple(row[:3]) for row in real}
    assert {tuple(row[:3]) for row in ids} <= known
    assert len({tuple(row[:3]) for row in ids}) > 10


def test_unlabelled_samples_are_what_prompts_come_from_where_there_are_some(tmp_path):
    other = texts.write_texts(tmp_path / "other", 1, 77, has_labels=False)
    bench = _bench(tmp_path, CountingModel(), unlabelled=other)
    first = next(iter(other.batches(1)))["ids"][0, :3]
    assert (_made(bench, 20, tmp_path / "made")["ids"][:, :3] == first).all()


def test_tokens_are_drawn_as_often_as_the_model_holds_them_likely(tmp_path):
    ids = _made(_bench(tmp_path, CountingModel(ways=2)), 512, tmp_path / "made")["ids"]
    steps = (ids[:, 3:] - ids[:, 2:-1]) % VOCABULARY
    assert set(np.unique(steps)) == {1, 2}
    # 3,584 fair draws: five deviations are 0.042
    assert abs((steps == 1).mean() - 0.5) < 0.042


def test_a_low_temperature_takes_the_likeliest(tmp_path):
    teacher = CountingModel(ways=2)
    with torch.no_grad():
        for token in range(VOCABULARY):
            teacher.table[token, (token + 2) % VOCABULARY] += 1.0
    ids = _made(_bench(tmp_path, teacher), 64, tmp_path / "made", temperature=0.01)["ids"]
    assert ((ids[:, 3:] - ids[:, 2:-1]) % VOCABULARY == 2).all()


def test_a_sample_that_is_shorter_than_the_prompt_gives_what_it_has():
    inputs = {
        "ids": torch.tensor([[3, 4, 0, 0], [5, 6, 7, 8], [0, 0, 0, 0]]),
        "mask": torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]]),
    }
    names = type("Names", (), {"ids": "ids", "mask": "mask"})
    assert begin(inputs, names, 3).lengths.tolist() == [2, 3, 1]


def test_prompts_of_different_lengths_all_stay(tmp_path):
    bench = _bench(tmp_path, CountingModel())
    inputs = {
        "ids": torch.randint(1, VOCABULARY, (2, LENGTH), generator=stream(0, "ids")),
        "mask": (torch.arange(LENGTH) < torch.tensor([[2], [6]])).long(),
    }
    names = text_inputs(bench)
    prompts = begin(inputs, names, 5)
    made = go_on(bench, resolve_task("language", bench), names, prompts, 1.0, stream(0, "x"))["ids"]
    assert torch.equal(made[0, :2], inputs["ids"][0, :2])
    assert torch.equal(made[1, :5], inputs["ids"][1, :5])
    assert int(made[0, 2]) == (int(made[0, 1]) + 1) % VOCABULARY
    assert int(made[1, 5]) == (int(made[1, 4]) + 1) % VOCABULARY


def test_finished_batches_are_kept_and_a_run_goes_on_with_the_same_text(tmp_path):
    bench = _bench(tmp_path, CountingModel(ways=2))
    whole = _made(bench, 300, tmp_path / "whole")["ids"]
    _made(bench, 300, tmp_path / "cut")
    (tmp_path / "cut" / "part-0001" / META).unlink()
    first = tmp_path / "cut" / "part-0000" / META
    before = first.stat().st_mtime_ns
    assert np.array_equal(_made(bench, 300, tmp_path / "cut")["ids"], whole)
    assert first.stat().st_mtime_ns == before


def test_whole_numbers_without_a_tokenizer_are_token_ids_too(tmp_path):
    bench = _bench(tmp_path, CountingModel())
    ids = replace(bench.contract.inputs[0], source=Tensor(shape=(LENGTH,), dtype="int64"))
    plain = replace(bench, contract=replace(bench.contract, inputs=(ids,)))
    names = text_inputs(plain)
    assert (names.ids, names.mask) == ("ids", "")


# What cannot be written.


def test_a_model_that_looks_ahead_is_refused(tmp_path):
    with pytest.raises(StepError, match="the model is not causal"):
        _made(_bench(tmp_path, Backwards()), 8, tmp_path / "made")


def test_a_model_of_pictures_is_refused(tmp_path):
    bench = _bench(tmp_path, CountingModel())
    image = replace(
        bench.contract.inputs[0],
        dtype="float32",
        source=Tensor(shape=(LENGTH,), dtype="float32"),
    )
    with pytest.raises(StepError, match=r"the model takes ids float32; text can only be generated"):
        text_inputs(replace(bench, contract=replace(bench.contract, inputs=(image,))))


@pytest.mark.parametrize(
    ("settings", "named"),
    [({"prompt_tokens": 0}, "prompt_tokens is 0"), ({"generation_temperature": 0.0}, "above 0")],
)
def test_settings_outside_their_range_are_refused(settings, named):
    with pytest.raises(StepError, match=named):
        Distil(**settings)


# In a distillation.


def test_a_student_is_taught_on_text_that_its_teacher_wrote(tmp_path):
    """No text but 16 beginnings: what it learns of the language it has from its teacher."""
    teacher = seeded(lambda: texts.TinyLanguageModel(32), 1)
    data = texts.write_texts(tmp_path / "texts", 512, 0)
    few = texts.write_texts(tmp_path / "few", 16, 5, has_labels=False)
    bench = texts.text_bench(tmp_path, teacher, seeded(lambda: texts.TinyLanguageModel(32)))
    teacher.requires_grad_(requires_grad=True)
    long = Train(epochs=8, batch_size=64, learning_rate=1e-2)
    train(teacher, label_objective(bench), replace(bench, training=data), long, SILENT)
    own = replace(
        bench,
        teacher=teacher.eval(),
        model=teacher,
        training=None,
        unlabelled=few,
        student=lambda: seeded(lambda: texts.TinyLanguageModel(12), 3),
        checkpoints=tmp_path / "distilled",
    )
    scores = {}
    for samples in (0, 384):
        settings = Distil(
            task="language",
            temperature=1.0,
            synthetic_samples=samples,
            prompt_tokens=2,
            train=replace(long, epochs=4),
        )
        there = replace(own, checkpoints=tmp_path / f"distilled {samples}")
        scores[samples] = distil(settings, there, SILENT).values["score"]
    assert scores[384] < scores[0] - 0.2


def test_made_text_is_part_of_the_lessons(tmp_path):
    bench = _bench(tmp_path, CountingModel())
    settings = Distil(task="language", synthetic_samples=20, soft_weight=1.0)
    task = resolve_task("language", bench)
    found = make_syllabus(settings, bench, task, Teachers(bench, task), SILENT)
    assert found.values["synthetic_samples"] == 20
    assert found.lessons.dataset.count == 256 + 20

"""What is trained along with a student: held with it, gone without a trace."""

import copy

import pytest
import torch
from torch import nn

from edgekit.compress.distillation.features import Projection
from edgekit.compress.distillation.learner import (
    Exit,
    Extras,
    Learner,
    earlier_self,
    exit_layers,
    student_of,
    tensors_of,
)
from edgekit.compress.distillation.taps import seen_layers
from edgekit.compress.distillation.teachers import resolve_task
from edgekit.core.errors import StepError
from tests.compress import texts
from tests.compress.benches import (
    TinyCnn,
    TinyTransformer,
    bench_of,
    cnn_bench,
    contract,
    mlp_bench,
    seeded,
)
from tests.compress.networks import TinyResNet


def _exits(bench):
    return exit_layers(seen_layers(bench.model, bench), resolve_task("auto", bench))


def test_called_a_learner_is_its_student(digits, checkpoints):
    bench = cnn_bench(digits, checkpoints)
    extras = Extras(projections={"stem": Projection(16, 8, torch.Generator())}, has_earlier=True)
    learner = Learner(bench.model, extras).eval()
    inputs = bench.example(3)["image"]
    assert torch.equal(learner(inputs), bench.model(inputs))
    assert student_of(learner) is bench.model
    assert student_of(bench.model) is bench.model


def test_an_earlier_self_has_weights_that_no_optimizer_sees_and_every_checkpoint_holds():
    student = seeded(TinyCnn)
    learner = Learner(student, Extras(has_earlier=True))
    trained = {name for name, _ in learner.named_parameters()}
    assert trained == {f"student.{name}" for name, _ in student.named_parameters()}
    held = {name for name, _ in learner.named_buffers()}
    assert {f"earlier.{name}" for name, _ in student.named_parameters()} <= held


def test_an_earlier_self_says_at_first_what_the_student_says(digits, checkpoints):
    for make in (TinyCnn, TinyTransformer):
        bench = bench_of(seeded(make), digits, checkpoints)
        earlier, inputs = earlier_self(bench.model), bench.example(3)["image"]
        assert torch.equal(earlier(inputs), bench.model(inputs))


def test_an_earlier_self_stays_in_eval_mode():
    learner = Learner(seeded(TinyTransformer), Extras(has_earlier=True)).train()
    assert learner.student.layers[0].dropout.training
    assert not learner.earlier.layers[0].dropout.training


def test_an_earlier_self_follows_by_a_moving_average():
    learner = Learner(nn.Linear(2, 2), Extras(has_earlier=True))
    with torch.no_grad():
        learner.earlier.weight.fill_(0.0)
        learner.student.weight.fill_(1.0)
    learner.follow(8)  # decay (1 + 8) / (10 + 8) = 1/2
    assert learner.earlier.weight.tolist() == [[0.5, 0.5], [0.5, 0.5]]
    learner.follow(10**6)  # decay 0.999
    assert learner.earlier.weight[0, 0] == pytest.approx(0.5 * 0.999 + 0.001)


def test_a_tied_weight_is_averaged_once():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.tokens, self.head = nn.Embedding(3, 2), nn.Linear(2, 3, bias=False)
            self.head.weight = self.tokens.weight

    learner = Learner(Tied(), Extras(has_earlier=True))
    assert learner.earlier.head.weight is learner.earlier.tokens.weight
    assert tensors_of(learner.earlier).keys() == tensors_of(learner.student).keys()
    with torch.no_grad():
        learner.earlier.tokens.weight.fill_(0.0)
        learner.student.tokens.weight.fill_(1.0)
    learner.follow(8)
    assert float(learner.earlier.head.weight.mean()) == 0.5


def test_a_learner_without_an_earlier_self_follows_nothing():
    learner = Learner(seeded(TinyCnn), Extras())
    before = copy.deepcopy(learner.state_dict())
    learner.follow(3)
    for name, value in learner.state_dict().items():
        assert torch.equal(value, before[name])


def test_exits_sit_on_inner_blocks_and_never_on_the_last(digits, checkpoints):
    resnet = bench_of(seeded(lambda: TinyResNet(4, (2, 3))), digits, checkpoints)
    assert [layer.path for layer in _exits(resnet)] == ["stage1.1", "stage2.0", "stage2.1"]
    deep = bench_of(seeded(lambda: TinyTransformer(16, 2, layers=7)), digits, checkpoints)
    assert [layer.path for layer in _exits(deep)] == ["layers.1", "layers.3", "layers.5"]


def test_without_blocks_exits_sit_on_layers(digits, checkpoints):
    assert [layer.path for layer in _exits(mlp_bench(digits, checkpoints))] == ["layers.1"]


def test_an_exit_gives_what_the_model_gives(digits, checkpoints):
    bench = cnn_bench(digits, checkpoints)
    task = resolve_task("auto", bench)
    (layer,) = _exits(bench)
    head = Exit(layer, task, torch.Generator().manual_seed(0))
    features = torch.randn(5, 8, 8, 16, generator=torch.Generator().manual_seed(0))
    wanted = nn.functional.linear(features.mean(dim=(1, 2)), head.head.weight, head.head.bias)
    assert torch.allclose(head(features), wanted, atol=1e-6)
    shares = Exit(layer, task, torch.Generator().manual_seed(0), gives_shares=True)
    assert torch.allclose(shares(features), wanted.softmax(-1), atol=1e-6)


def test_an_exit_of_a_language_model_keeps_its_tokens(tmp_path):
    model = seeded(texts.TinyLanguageModel)
    bench = texts.text_bench(tmp_path, model, seeded(texts.TinyLanguageModel))
    task = resolve_task("language", bench)
    (layer,) = exit_layers(seen_layers(model, bench), task)
    assert layer.path == "layers.0"
    features = torch.zeros(2, texts.LENGTH, 16)
    assert Exit(layer, task, torch.Generator())(features).shape == (2, *task.shape[1:])


def test_a_model_of_one_layer_has_no_exit(digits, checkpoints):
    class Single(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(64, 10)

        def forward(self, image):
            return self.layer(image.flatten(1))

    with pytest.raises(StepError, match="the student has no two inner layers"):
        _exits(bench_of(seeded(Single), digits, checkpoints))


def test_a_model_that_gives_pictures_gets_no_exits(digits, checkpoints):
    class Segmenter(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Conv2d(1, 3, 1)

        def forward(self, image):
            return self.layer(image)

    bench = bench_of(
        seeded(Segmenter), digits, checkpoints, contract=contract(("scores", (3, 8, 8)))
    )
    with pytest.raises(StepError, match=r"output 'scores' is \[2, 3, 8, 8\]"):
        _exits(bench)

"""What is caught inside a model is what its modules gave, and nothing is left behind."""

import pytest
import torch
from torch import nn

from edgekit.compress.distillation.taps import Tap, seen_layers, tapped
from tests.compress.benches import TinyTransformer, bench_of, cnn_bench, mlp_bench, seeded


def _hooks(model):
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
    return sum(len(getattr(module, kind)) for module in model.modules() for kind in kinds)


def _layers(bench):
    return {layer.path: layer for layer in seen_layers(bench.model, bench)}


def test_an_output_and_an_input_are_those_of_the_module(digits, checkpoints):
    bench = mlp_bench(digits, checkpoints)
    inputs, layers = bench.example(4), bench.model.layers
    taps = [Tap("layers.1"), Tap("layers.3", "input")]
    with torch.no_grad(), tapped(bench.model, taps) as caught:
        bench.call(bench.model, inputs)
    first = layers[1](inputs["image"].flatten(1))
    assert torch.equal(caught[taps[0]], first)
    assert torch.equal(caught[taps[1]], first.relu())


def test_a_gradient_flows_through_what_is_caught(digits, checkpoints):
    bench = mlp_bench(digits, checkpoints)
    with tapped(bench.model, [Tap("layers.1")]) as caught:
        bench.call(bench.model, bench.example(4))
    caught[Tap("layers.1")].sum().backward()
    assert float(bench.model.layers[1].weight.grad.abs().sum()) > 0
    assert bench.model.layers[3].weight.grad is None


def test_no_hook_stays_even_after_an_error(digits, checkpoints):
    bench = cnn_bench(digits, checkpoints)

    def fail():
        with tapped(bench.model, [Tap("stem"), Tap("first", "input")]):
            assert _hooks(bench.model) == 2
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        fail()
    assert _hooks(bench.model) == 0


def test_looking_at_a_model_leaves_it_as_it_was(digits, checkpoints):
    bench = cnn_bench(digits, checkpoints)
    bench.model.train()
    before = {name: value.clone() for name, value in bench.model.state_dict().items()}
    seen_layers(bench.model, bench)
    assert bench.model.training
    assert bench.model.stem_norm.training
    assert _hooks(bench.model) == 0
    for name, value in bench.model.state_dict().items():
        assert torch.equal(value, before[name])


def test_pictures_have_their_channels_second_and_sequences_last(digits, checkpoints):
    cnn = _layers(cnn_bench(digits, checkpoints))
    assert (cnn["stem"].channels, cnn["stem"].size) == (16, (8, 8))
    assert (cnn["classifier"].channels, cnn["classifier"].size) == (10, ())
    transformer = _layers(bench_of(seeded(TinyTransformer), digits, checkpoints))
    assert (transformer["layers.0"].channels, transformer["layers.0"].size) == (32, (8,))


class _OneD(nn.Module):
    """A block of sounds: three dimensions with the channels second."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.Sequential(nn.Sequential(nn.Conv1d(8, 6, 3, padding=1), nn.ReLU()))
        self.classifier = nn.Linear(6, 10)

    def forward(self, image):
        return self.classifier(self.blocks(image.flatten(1, 2)).mean(dim=2))


def test_a_block_has_its_channels_where_its_layers_have_them(digits, checkpoints):
    layers = _layers(bench_of(seeded(_OneD), digits, checkpoints))
    # eight rows of eight pixels: the sizes are equal, the layers tell them apart
    for path in ("blocks.0.0", "blocks.0.1", "blocks.0"):
        assert (layers[path].axis, layers[path].channels) == (1, 6)


def test_what_gives_the_models_output_is_told_apart(digits, checkpoints):
    layers = _layers(mlp_bench(digits, checkpoints))
    assert layers["layers.5"].is_last
    assert not layers["layers.3"].is_last


class _Attending(nn.Module):
    """A module that gives its attention beside its output, as eager ones of transformers do."""

    def __init__(self):
        super().__init__()
        self.score = nn.Linear(8, 8)

    def forward(self, tokens):
        weights = (self.score(tokens) @ tokens.transpose(1, 2)).softmax(-1)
        return weights @ tokens, weights


class _WithAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attend, self.classifier = _Attending(), nn.Linear(8, 10)

    def forward(self, image):
        return self.classifier(self.attend(image.flatten(1, 2))[0].mean(dim=1))


def test_attention_probabilities_are_found_and_caught(digits, checkpoints):
    bench = bench_of(seeded(_WithAttention), digits, checkpoints)
    assert _layers(bench)["attend"].has_attention
    tap = Tap("attend", "attention")
    with torch.no_grad(), tapped(bench.model, [tap]) as caught:
        bench.call(bench.model, bench.example(3))
    assert caught[tap].shape == (3, 8, 8)
    assert caught[tap].sum(-1).flatten().tolist() == pytest.approx([1.0] * 24, abs=1e-5)

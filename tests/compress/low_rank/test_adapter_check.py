"""A model that takes its adapter as an input is refused where it does not follow the adapter."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from edgekit.compress.low_rank.adapter_check import require_same_as_merged
from edgekit.compress.low_rank.adapter_files import Adapter, Factor
from edgekit.compress.low_rank.adapter_inputs import layout_of, pack, with_adapter_input
from edgekit.core.errors import StepError
from tests.compress.benches import seeded


class Called(nn.Module):
    """A layer that is called, as PEFT expects."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (self.layer(x),)


class Read(Called):
    """A layer whose weight is read: no change of its forward is ever seen."""

    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (functional.linear(x, self.layer.weight, self.layer.bias),)


class Turned(Called):
    """Steps before samples, as some sequence models run."""

    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (self.layer(x.transpose(0, 1)).transpose(0, 1),)


class Tied(Called):
    """An embedding and the layer behind it share one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(8, 8)
        self.layer.weight = self.table.weight

    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (self.layer(self.table(x.argmax(-1))),)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def adapter(scale: float = 0.5) -> Adapter:
    factor = Factor(down=drawn(2, 8), up=drawn(8, 2, seed=1) * scale, scale=2.0)
    return Adapter(folder=Path("made"), factors={"layer": factor})


def check(kind: type[nn.Module], shape: tuple[int, ...], one: Adapter) -> None:
    layout = layout_of(seeded(kind), [one])
    model = with_adapter_input(seeded(kind), layout)
    require_same_as_merged(model, seeded(kind), [(one, pack(one, layout))], (drawn(*shape),))


@pytest.mark.parametrize("kind", [Called, Tied])
def test_a_model_that_calls_its_layers_is_taken(kind):
    check(kind, (2, 8), adapter())


@pytest.mark.parametrize(("kind", "shape"), [(Read, (2, 8)), (Turned, (2, 2, 8))])
def test_a_model_that_does_not_follow_the_adapter_is_refused(kind, shape):
    with pytest.raises(StepError, match=r"differ by .* from those of the model with it merged"):
        check(kind, shape, adapter())


def test_an_adapter_that_was_never_trained_is_refused():
    with pytest.raises(StepError, match="changes nothing"):
        check(Called, (2, 8), adapter(scale=0.0))

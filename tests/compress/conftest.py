"""Data and trained models that the tests of this room share; written and trained once."""

import copy
from pathlib import Path

import pytest
from torch import nn

from tests.compress.benches import (
    Digits,
    TinyCnn,
    TinyMlp,
    TinyTransformer,
    fit,
    seeded,
    write_digits,
)


@pytest.fixture(scope="session")
def digits(tmp_path_factory) -> Digits:
    """Digits on disk."""
    return write_digits(tmp_path_factory.mktemp("digits"))


@pytest.fixture(scope="session")
def _fitted_cnn(digits) -> nn.Module:
    return fit(seeded(TinyCnn), digits)


@pytest.fixture(scope="session")
def _fitted_mlp(digits) -> nn.Module:
    return fit(seeded(TinyMlp), digits)


@pytest.fixture(scope="session")
def _fitted_transformer(digits) -> nn.Module:
    return fit(seeded(TinyTransformer), digits)


@pytest.fixture
def fitted_cnn(_fitted_cnn) -> nn.Module:
    """A trained CNN of one's own."""
    return copy.deepcopy(_fitted_cnn)


@pytest.fixture
def fitted_mlp(_fitted_mlp) -> nn.Module:
    """A trained MLP of one's own."""
    return copy.deepcopy(_fitted_mlp)


@pytest.fixture
def fitted_transformer(_fitted_transformer) -> nn.Module:
    """A trained transformer of one's own."""
    return copy.deepcopy(_fitted_transformer)


@pytest.fixture
def checkpoints(tmp_path) -> Path:
    """A folder of checkpoints that no other test writes to."""
    return tmp_path / "checkpoints"

"""A user's functions as digests: other code, other defaults or other closures are other digests."""

import functools

import numpy as np
import torch

from edgekit.flow.fingerprint import fingerprint


def make(power, text="def loss(a, b, scale=1): return ((a - b) * scale) ** power"):
    space = {"power": power}
    exec(text, space)
    return space["loss"]


def closing_over(value):
    return lambda outputs, target: (outputs - target) * value


def test_the_same_code_has_the_same_digest():
    assert fingerprint(closing_over(2)) == fingerprint(closing_over(2)) is not None


def test_what_a_function_closes_over_counts():
    assert fingerprint(closing_over(2)) != fingerprint(closing_over(3))
    assert fingerprint(closing_over(torch.ones(2))) != fingerprint(closing_over(torch.zeros(2)))
    assert fingerprint(closing_over(np.ones(2))) != fingerprint(closing_over(np.zeros(2)))


def test_code_and_defaults_count():
    first = make(2)
    other_code = make(2, "def loss(a, b, scale=1): return ((a - b) * scale) ** 3")
    other_default = make(2, "def loss(a, b, scale=2): return ((a - b) * scale) ** power")
    assert len({fingerprint(first), fingerprint(other_code), fingerprint(other_default)}) == 3


def test_partials_and_objects_count_with_what_they_hold():
    assert fingerprint(functools.partial(make(2), scale=1)) != fingerprint(
        functools.partial(make(2), scale=3)
    )
    assert fingerprint(torch.nn.CrossEntropyLoss(label_smoothing=0.1)) != fingerprint(
        torch.nn.CrossEntropyLoss(label_smoothing=0.2)
    )


def test_names_are_told_apart():
    assert fingerprint("top-1") != fingerprint("top-5")


def test_what_cannot_be_told_is_none_and_not_a_guess():
    assert fingerprint(closing_over(iter([1]))) is None

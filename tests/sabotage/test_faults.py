"""Seeded faults: each is caught, by the one that is named for it, with a message that says what."""

import pytest

from tests.sabotage import (
    audit_faults,
    bundle_faults,
    input_faults,
    store_faults,
    verdict_faults,
)
from tests.sabotage.registry import FAULTS

LEAST = 25
CATCHERS = {"audit", "verdict", "verification", "input check", "measurement", "store"}


@pytest.mark.slow
@pytest.mark.parametrize("case", FAULTS, ids=lambda case: f"{case.name} ({case.caught_by})")
def test_fault_is_caught(case, kit):
    case.attempt(kit)


def test_the_list_of_faults_is_long_and_whole():
    names = [case.name for case in FAULTS]
    assert len(names) == len(set(names))
    assert len(names) >= LEAST
    assert {case.caught_by for case in FAULTS} == CATCHERS
    assert all(case.what for case in FAULTS)


def test_every_fault_of_these_modules_is_on_the_list():
    modules = (audit_faults, bundle_faults, input_faults, store_faults, verdict_faults)
    listed = {(case.attempt.__module__, case.name) for case in FAULTS}
    for module in modules:
        tries = [
            name
            for name, value in vars(module).items()
            if callable(value)
            and getattr(value, "__module__", "") == module.__name__
            and "kit" in getattr(getattr(value, "__code__", None), "co_varnames", ())
        ]
        assert tries
        missing = [
            name
            for name in tries
            if not name.startswith("_") and (module.__name__, name) not in listed
        ]
        assert missing == []


@pytest.mark.slow
def test_the_honest_bundles_are_whole(kit):
    import edgekit

    for bundle in (kit.phone, kit.server, kit.board, kit.waived):
        with edgekit.open(bundle) as session:
            assert session.self_test().is_passed

"""Bounds of the workload and the user replace the profile's; unknown names are refused."""

from dataclasses import replace

import pytest

from edgekit.catalog import load_profile
from edgekit.core.errors import InputError
from edgekit.flow.limits import resolve_limits
from tests.plan.builders import profile


def test_the_users_bound_wins_over_the_workloads_and_says_so():
    (limit,) = resolve_limits(profile(), {"artifact_bytes": 5}, {"artifact_bytes": 7}, ())
    assert (limit.bound, limit.source) == (7.0, "user")
    (limit,) = resolve_limits(profile(), {"artifact_bytes": 5}, {}, ())
    assert (limit.bound, limit.source) == (5.0, "workload")
    (limit,) = resolve_limits(profile(), {}, {}, ())
    assert (limit.bound, limit.source) == (1e8, "profile dev")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"workload_limits": {"artefact_bytes": 1}}, "workload: .*did you mean 'artifact_bytes'"),
        ({"user_limits": {"x": 1}}, "--limit: .*no limit 'x'"),
        ({"allowed": ("artifact_byte",)}, "--allow: .*did you mean 'artifact_bytes'"),
        ({"user_limits": {"artifact_bytes": float("nan")}}, "not a number"),
        ({"workload_limits": {"artifact_bytes": "5 MB"}}, "'5 MB', not a number"),
    ],
)
def test_a_bound_on_nothing_is_refused(given, message):
    arguments = {"workload_limits": {}, "user_limits": {}, "allowed": (), **given}
    with pytest.raises(InputError, match=message):
        resolve_limits(profile(), **arguments)


def test_a_profile_without_limits_could_prove_nothing():
    with pytest.raises(InputError, match="states no limits"):
        resolve_limits(replace(profile(), limits=()), {}, {}, ())


def test_half_precision_may_take_a_little_more_than_floats_time_unless_a_bound_is_stated():
    phone = load_profile("phone")

    def bound(**given):
        limits = resolve_limits(phone, {}, given, (), is_half_precision=True)
        return next(limit for limit in limits if limit.figure == "latency_ratio")

    assert bound().bound == 1.05
    assert bound().source == "profile phone, as FP16 buys bytes"
    assert bound(latency_ratio=0.9).bound == 0.9

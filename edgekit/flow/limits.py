"""The limits of one build: the profile's, with the workload's and the user's bounds in place."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace

from edgekit.core.codec import nearest
from edgekit.core.errors import InputError
from edgekit.core.profile import DeviceProfile
from edgekit.core.verdict import Limit

LATENCY = "latency_ratio"
HALF_PRECISION_LATENCY = 1.05


def resolve_limits(
    profile: DeviceProfile,
    workload_limits: Mapping[str, float],
    user_limits: Mapping[str, float],
    allowed: Iterable[str],
    *,
    is_half_precision: bool = False,
) -> tuple[Limit, ...]:
    """The profile's limits with replaced bounds, in the profile's order; each says whose it is.

    is_half_precision: weights are stored as small floats. A CPU computes in float32, so they buy
    bytes and no time: where nobody states another bound, they may take a little more than float's.
    Raises: InputError for a bound or a waiver on a figure that the profile does not limit.
    """
    names = [limit.figure for limit in profile.limits]
    if not names:
        raise InputError(f"{profile.name}: it states no limits, so nothing could be proven")
    for where, given in (("workload", workload_limits), ("--limit", user_limits)):
        for name, bound in given.items():
            _check_name(name, names, where, profile)
            if not isinstance(bound, (int, float)) or math.isnan(bound):
                raise InputError(f"{where}: the bound of '{name}' is {bound!r}, not a number")
    for name in allowed:
        _check_name(name, names, "--allow", profile)
    bounds = {**workload_limits, **user_limits}
    return tuple(
        replace(
            limit,
            bound=float(bounds[limit.figure]),
            source="user" if limit.figure in user_limits else "workload",
        )
        if limit.figure in bounds
        else _of_profile(limit, profile, is_half_precision=is_half_precision)
        for limit in profile.limits
    )


def _of_profile(limit: Limit, profile: DeviceProfile, *, is_half_precision: bool) -> Limit:
    source = f"profile {profile.name}"
    if limit.figure == LATENCY and is_half_precision and limit.bound < HALF_PRECISION_LATENCY:
        return replace(limit, bound=HALF_PRECISION_LATENCY, source=f"{source}, as FP16 buys bytes")
    return replace(limit, source=source)


def _check_name(name: str, names: list[str], where: str, profile: DeviceProfile) -> None:
    if name not in names:
        raise InputError(
            f"{where}: profile {profile.name} has no limit '{name}'{nearest(name, names)}"
        )

"""The functions that a user calls from Python."""

import subprocess
import sys

import pytest

import edgekit
from edgekit.core.errors import InputError, ProfileError
from edgekit.core.strategy import Override
from edgekit.flow import api
from tests.flow.tiny import workload


def test_plan_stays_a_function_although_a_room_has_its_name():
    code = (
        "import edgekit, edgekit.plan.strategy\n"
        "from edgekit.plan import support\n"
        "assert callable(edgekit.plan) and callable(edgekit.plan)\n"
        "assert support.require_support\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_layers_become_overrides_in_their_order():
    found = api._overrides({"head": "float", "stem.*": "int8"})
    assert found == (
        Override(pattern="head", precision="float"),
        Override(pattern="stem.*", precision="int8"),
    )


def test_a_precision_that_nobody_knows_is_refused():
    with pytest.raises(InputError, match="layer pattern 'head': precision 'int3' is not allowed"):
        edgekit.build("never_read.py", device="phone", layers={"head": "int3"})


def test_a_live_workload_takes_no_data_option():
    with pytest.raises(InputError, match="names its own data"):
        edgekit.plan(workload(), device="phone", data="somewhere")


def test_plan_and_build_refuse_an_unknown_device_alike():
    for verb in (edgekit.plan, edgekit.build):
        with pytest.raises(ProfileError, match="no device profile is called 'fone'"):
            verb(workload(), device="fone")


def test_an_unknown_public_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'bild'"):
        _ = edgekit.bild
    assert {"build", "open", "Workload"} <= set(dir(edgekit))


@pytest.mark.slow
def test_compare_of_two_bundles_says_what_differs(builds):
    found = edgekit.compare(builds.honest("phone").bundle, builds.honest("edge-server").bundle)
    assert found.differences
    assert {line.name for line in found.lines} >= {"artifact_bytes", "metric_drop"}

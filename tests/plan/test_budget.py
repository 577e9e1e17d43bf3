"""A plan says when a budget asks for fewer layers, and of how many."""

from dataclasses import replace

import pytest

import edgekit
from edgekit.core.codec import to_plain
from edgekit.core.facts import OperatorFact
from edgekit.core.steps import Prune
from edgekit.core.strategy import PlannedStep, Quantize
from edgekit.core.verdict import EvidenceKind, Limit, Sense
from edgekit.plan.budget import container_notes
from edgekit.plan.estimate import estimate_artifact_bytes
from edgekit.plan.forecast import forecasts
from tests.flow import tiny
from tests.plan.builders import facts as facts_by_hand
from tests.plan.builders import layer, target

INT4 = Quantize(precision="int4", activations="static")


def deep(blocks=10, width=20):
    layers = [layer("stem", "conv", (width, 1, 3, 3))]
    for index in range(blocks):
        names = (f"blocks.{index}.conv1", f"blocks.{index}.conv2")
        layers += [layer(name, "conv", (width, width, 3, 3)) for name in names]
    layers.append(layer("head", "linear", (10, width)))
    found = facts_by_hand(layers=tuple(layers))
    adds = tuple(
        OperatorFact(operator="aten.add.Tensor", module_path=f"blocks.{index}")
        for index in range(blocks)
    )
    return replace(found, operators=adds)


def limit(bound, figure="artifact_bytes"):
    return Limit(
        figure=figure,
        sense=Sense.AT_MOST,
        bound=bound,
        unit="bytes",
        accepts=(EvidenceKind.HOST,),
    )


def notes(facts, bound, *steps):
    return container_notes(facts, target(), INT4, steps, [limit(bound)])


def test_a_budget_that_the_container_eats_names_drop_layers():
    model = deep()
    # By hand: 1250 + 22 layers of 195 + 10 sums of 270 = 8,240 bytes before any weight.
    (note,) = notes(model, 10_000)
    assert "the container of 22 layers takes about 8.24 kB of at most 10 kB" in note
    assert "will hardly meet it" in note
    assert "drop_layers = " in note
    assert "cannot meet it" in notes(model, 8_000)[0]


def test_so_many_layers_less_leave_the_larger_part_to_weights():
    model = deep()
    count = int(notes(model, 10_000)[0].partition("drop_layers = ")[2].partition(",")[0])
    # 3,240 bytes too many, a block takes 2 * 195 + 270 of them: 5 blocks.
    assert count == 5
    settings = Prune(units=("layers",), drop_layers=count)
    step = PlannedStep(name="prune", is_run=True, reason="", settings=to_plain(settings))
    after = forecasts(model, [step])[-1].likely
    assert len(after.layers) == 22 - 2 * count
    assert notes(model, 10_000, step) == ()


@pytest.mark.parametrize("bound", [100_000, 30_000])
def test_a_budget_that_is_met_or_that_width_can_meet_is_no_note(bound):
    model = deep()
    size = estimate_artifact_bytes(model, target(), INT4)
    assert (size > bound) == (bound == 30_000)
    assert notes(model, bound) == ()


def test_only_bytes_at_most_are_looked_at():
    limits = [limit(10, "latency_ratio"), replace(limit(10), sense=Sense.AT_LEAST)]
    assert container_notes(deep(), target(), INT4, (), limits) == ()


def test_the_plan_of_a_workload_shows_it():
    given = tiny.workload(limits={"artifact_bytes": 3_000})
    result = edgekit.plan(given, device="phone", target="litert")
    assert any("prune with drop_layers" in note for note in result.notes)

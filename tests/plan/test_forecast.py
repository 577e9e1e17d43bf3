"""What a step is foreseen to leave holds what the step itself leaves, counted by torch."""

from dataclasses import replace

import pytest

from edgekit.compress.low_rank.factorize import factorize
from edgekit.compress.pruning.channels import prune_channels
from edgekit.compress.pruning.depth import drop_layers
from edgekit.compress.pruning.shrink import shrink_to
from edgekit.core.codec import to_plain
from edgekit.core.contract import Tensor
from edgekit.core.steps import Distil, Factorize, Prune, Sparsify
from edgekit.core.strategy import PlannedStep
from edgekit.plan.forecast import forecasts
from tests.compress.architectures import TRANSFORMERS
from tests.compress.benches import SILENT, TinyMlp, bench_of, seeded, write_digits
from tests.plan.builders import facts as facts_by_hand
from tests.plan.builders import layer
from tests.plan.nets import facts_of, images, parameters, resnet


@pytest.fixture(scope="module")
def net():
    return resnet()


@pytest.fixture(scope="module")
def net_facts(net, tmp_path_factory):
    return facts_of(net, tmp_path_factory.mktemp("facts"))


def planned(name, settings):
    return PlannedStep(name=name, is_run=True, reason="", settings=to_plain(settings))


def foreseen(facts, name, settings, **known):
    return forecasts(facts, [planned(name, settings)], **known)[-1]


def assert_holds(forecast, count, *, within):
    """The interval holds the count, and its middle is no further off than a share of it."""
    assert forecast.least.parameters <= count <= forecast.most.parameters
    assert forecast.likely.parameters == pytest.approx(count, rel=within)


@pytest.mark.parametrize(
    ("settings", "within"),
    [
        (Prune(ratio=0.5), 0.1),
        (Prune(ratio=0.3), 0.1),
        (Prune(goal="parameters", ratio=0.8), 0.1),
        (Prune(goal="parameters", keep=36_000), 0.1),
        (Prune(goal="bytes", keep=400_000), 0.1),
        (Prune(goal="macs", ratio=0.6), 0.25),
        (Prune(goal="macs", keep=8_000_000), 0.25),
        (Prune(goal="parameters", ratio=0.6, is_global=True), 0.2),
        (Prune(ratio=0.5, ignore=(r"body\.[1-6]\.",)), 0.2),
        (Prune(ratio=0.25, layer_ratios={r"body\.9\.conv1": 0.75}), 0.2),
    ],
)
def test_pruned_channels_are_foreseen_by_every_goal(net, net_facts, settings, within):
    pruned = prune_channels(net, images(), settings, multiple=8)
    assert_holds(foreseen(net_facts, "prune", settings), parameters(pruned.model), within=within)


def test_an_amount_of_channels_is_wide_since_those_of_a_residual_count_once(net, net_facts):
    settings = Prune(goal="channels", keep=400)
    pruned = prune_channels(net, images(), settings, multiple=8)
    forecast = foreseen(net_facts, "prune", settings)
    assert forecast.least.parameters < parameters(pruned.model) < forecast.most.parameters
    assert "count once" in forecast.unknown[0]


@pytest.mark.parametrize("count", [1, 3])
def test_dropped_layers_are_foreseen_with_their_operators(net, net_facts, count):
    shallow = drop_layers(net, images(), count).model
    forecast = foreseen(net_facts, "prune", Prune(units=("layers",), drop_layers=count))
    assert_holds(forecast, parameters(shallow), within=0.25)
    # Two convolutions a block, of 22 layers.
    assert {len(item.layers) for item in (forecast.least, forecast.likely, forecast.most)} == {
        22 - 2 * count
    }
    assert len(forecast.likely.operators) < len(net_facts.operators)


def test_a_share_of_the_layers_is_foreseen_as_their_number(net, net_facts):
    share = foreseen(net_facts, "prune", Prune(units=("layers",), depth_ratio=0.5))
    number = foreseen(net_facts, "prune", Prune(units=("layers",), drop_layers=3))
    assert share.likely == number.likely


def test_a_goal_counts_what_went_with_the_layers(net, net_facts):
    settings = Prune(goal="parameters", ratio=0.6, drop_layers=3)
    forecast = foreseen(net_facts, "prune", settings)
    assert forecast.likely.parameters == pytest.approx(0.4 * parameters(net), rel=0.02)
    assert len(forecast.likely.layers) == 16


def test_heads_and_widths_of_a_transformer_are_foreseen_apart(tmp_path):
    architecture = TRANSFORMERS["fused qkv"]
    model = architecture.model()
    facts = facts_of(model, tmp_path, Tensor(shape=architecture.shape[1:]))
    for settings in (
        Prune(units=("heads",), head_ratio=0.5),
        Prune(units=("ffn",), ffn_ratio=0.5),
        Prune(units=("heads", "ffn"), head_ratio=0.5, ffn_ratio=0.25),
    ):
        pruned = prune_channels(model, architecture.inputs(), settings)
        assert_holds(foreseen(facts, "prune", settings), parameters(pruned.model), within=0.08)


@pytest.mark.parametrize(
    "settings",
    [
        Distil(student_ratio=0.33),
        Distil(student_bytes=32_000, student_bits=4),
        Distil(student_macs=6_000_000),
    ],
)
def test_a_made_student_is_foreseen_by_share_bytes_and_macs(net, net_facts, settings):
    has_limit = settings.student_bytes or settings.student_macs
    student = shrink_to(
        net,
        images(),
        parameters=0 if has_limit else int(settings.student_ratio * parameters(net)),
        macs=settings.student_macs,
        bytes=settings.student_bytes,
        bits=settings.student_bits,
        multiple=8,
    )
    forecast = foreseen(net_facts, "distil", settings)
    assert forecast.least.parameters <= parameters(student.model) <= forecast.most.parameters
    assert abs(len(forecast.likely.layers) - student.after.layers) <= 4


def test_a_student_of_the_users_own_is_anything_up_to_its_teacher(net_facts):
    forecast = foreseen(net_facts, "distil", Distil(), has_student=True)
    assert forecast.most.parameters == net_facts.parameters
    assert forecast.least.parameters < 0.05 * net_facts.parameters
    assert forecast.unknown == ("the student is the workload's own",)


def test_a_model_that_earlier_steps_changed_is_its_own_student(net_facts):
    prune = planned("prune", Prune(goal="parameters", ratio=0.8))
    after_both = forecasts(net_facts, [prune, planned("distil", Distil())])
    assert after_both[2] == after_both[1]
    made = planned("distil", Distil(student="made", student_ratio=0.5))
    again = forecasts(net_facts, [prune, made])[-1].likely
    # Made of the float model, so the pruned one is gone.
    assert again.parameters > 0.4 * net_facts.parameters


def test_ranks_by_ratio_follow_the_sizes_of_the_factors(tmp_path):
    digits = write_digits(tmp_path / "digits")
    model = seeded(lambda: TinyMlp(width=128))
    facts = facts_of(model, tmp_path / "facts", Tensor(shape=(1, 8, 8)))
    settings = Factorize(ranks="ratio", ratio=0.25, is_whitened=False)
    done = factorize(settings, bench_of(model, digits, tmp_path), SILENT)
    assert_holds(foreseen(facts, "factorize", settings), parameters(done.model), within=0.15)


def test_factors_by_hand_and_in_two_or_three_layers():
    model = facts_by_hand(
        layers=(
            layer("stem", "conv", (64, 32, 3, 3)),
            layer("linear", "linear", (100, 50)),
            layer("small", "linear", (10, 2)),
        )
    )
    after = foreseen(model, "factorize", Factorize(ranks="ratio", ratio=0.5)).likely
    # Tucker-2: 32x16 + 32x16x9 + 64x32; SVD of rank 25: 50x25 + 25x100. The last one stays, since
    # rank 1 of it is 12 of 20... which is smaller: 10 + 2.
    conv, linear, small = 32 * 16 + 32 * 16 * 9 + 64 * 32, 25 * 150, 12
    assert after.parameters == pytest.approx(conv + linear + small + 10, abs=8)
    assert len(after.layers) == 3 + 2 + 2


def test_a_search_leaves_its_share_and_energy_is_known_afterwards(net_facts):
    searched = foreseen(net_facts, "factorize", Factorize(ranks="search", parameter_ratio=0.6))
    assert searched.most.parameters == pytest.approx(0.6 * net_facts.parameters, rel=0.03)
    kept = Factorize(ranks="search", keep_bytes=4 * net_facts.parameters // 2)
    by_bytes = foreseen(net_facts, "factorize", kept)
    assert by_bytes.most.parameters == pytest.approx(0.5 * net_facts.parameters, rel=0.03)
    by_energy = foreseen(net_facts, "factorize", Factorize())
    assert by_energy.most.parameters > 2 * by_energy.least.parameters
    assert "ranks by energy" in by_energy.unknown[0]


def test_zeros_take_as_much_room_as_other_weights(net_facts):
    forecast = foreseen(net_facts, "sparsify", Sparsify(sparsity_ratio=0.9))
    assert forecast.least == forecast.likely == forecast.most == net_facts


def test_stopping_at_the_limit_may_leave_everything(net_facts):
    settings = Prune(ratio=0.5, is_within_limit=True, iterations=3)
    forecast = foreseen(net_facts, "prune", settings)
    assert forecast.most == net_facts
    assert "metric's limit" in forecast.unknown[0]


def test_a_step_of_somebody_elses_is_wide_and_named(net_facts):
    forecast = forecasts(net_facts, [PlannedStep(name="shear", is_run=True, reason="")])[-1]
    assert forecast.least.parameters < 0.2 * forecast.most.parameters
    assert "'shear'" in forecast.unknown[0]


def test_a_skipped_step_leaves_the_model(net_facts):
    skipped = replace(planned("prune", Prune()), is_run=False)
    assert forecasts(net_facts, [skipped])[-1].likely == net_facts

"""What a user's own training loop is given, and how it is held to its word."""

import pytest
import torch

from edgekit.compress.training.batches import Batches
from edgekit.compress.training.own_loop import OwnBatches, run_trainer
from edgekit.core.errors import StepError
from edgekit.core.steps import Train
from tests.compress.benches import mlp_bench


@pytest.fixture
def bench(digits, checkpoints):
    return mlp_bench(digits, checkpoints)


def _batches(bench, before=lambda _: None, after=lambda _: None):
    return OwnBatches(Batches(bench, 400), Train(epochs=7), before=before, after=after)


def test_every_round_is_an_epoch_in_another_order(bench):
    batches = _batches(bench)
    assert len(batches) == 3
    assert batches.settings.epochs == 7
    first, second = (torch.cat([batch.target for batch in batches]) for _ in range(2))
    assert sorted(first.tolist()) == sorted(second.tolist())
    assert not torch.equal(first, second)


def test_what_goes_around_a_batch_is_called_with_the_batches_done(bench):
    calls = []
    batches = _batches(
        bench,
        lambda done: calls.append(("before", done)),
        lambda done: calls.append(("after", done)),
    )
    calls.extend("step" for _ in batches)
    assert calls[:3] == [("before", 0), "step", ("after", 1)]
    assert calls[-1] == ("after", 3)


def test_a_loop_may_stop_in_the_middle_of_an_epoch(bench):
    calls = []
    batches = _batches(bench, after=calls.append)
    next(iter(batches))
    next(iter(batches))
    # A batch whose loop went away may have been trained on or not; the next one counts from there.
    assert calls == []


def test_the_loop_gets_the_model_its_batches_and_the_loss(bench):
    given = []
    batches, loss_of = _batches(bench), lambda model, batch: model.sum()
    run_trainer(lambda *all_of_it: given.extend(all_of_it), bench.model, batches, loss_of)
    assert given == [bench.model, batches, loss_of]


def test_edgekits_own_errors_pass_through_as_they_are(bench):
    def trainer(model, batches, loss_of):
        raise StepError("as it was")

    with pytest.raises(StepError, match=r"^as it was$"):
        run_trainer(trainer, bench.model, _batches(bench), lambda *_: None)

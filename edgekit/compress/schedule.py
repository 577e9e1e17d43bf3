"""How the pruned share grows over the rounds."""

from dataclasses import replace

from edgekit.core.steps.prune import Prune, PruneSchedule
from edgekit.core.steps.search import Search
from edgekit.core.steps.train import Train


def shares(schedule: PruneSchedule, rounds: int) -> tuple[float, ...]:
    """What part of the final share is gone after each round; the last is 1.

    one-shot: all at once, whatever the rounds. linear, per-epoch: the same in every round. cubic:
    most of it early, while there is much to spare: 1 - (1 - t/n)^3 after round t of n.
    Source: Zhu & Gupta 2017, To Prune, or Not to Prune, arXiv:1710.01878, equation 1, with a
    first share of 0.
    """
    if schedule == "one-shot":
        return (1.0,)
    if schedule in ("linear", "per-epoch"):
        return tuple(number / rounds for number in range(1, rounds + 1))
    return tuple(1 - (1 - number / rounds) ** 3 for number in range(1, rounds + 1))


def rounds_of(settings: Prune) -> int:
    """How many rounds there are."""
    if settings.schedule == "one-shot":
        return 1
    if settings.schedule == "per-epoch":
        return settings.recover.epochs
    return settings.iterations


def epochs_by_round(epochs: int, rounds: int) -> tuple[int, ...]:
    """Epochs shared by rounds; what cannot be shared goes to the last ones, where most is gone."""
    each, rest = divmod(epochs, rounds)
    return tuple(each + (number >= rounds - rest) for number in range(rounds))


def recover_in_round(recover: Train, number: int, rounds: int) -> Train:
    """The training after one of the rounds, counted from 0: its share of the epochs.

    Other settings are tried in the last round alone: what it finds is what the model ends with.
    """
    epochs = epochs_by_round(recover.epochs, rounds)[number]
    is_last = number == rounds - 1
    return replace(recover, epochs=epochs, search=recover.search if is_last else Search())

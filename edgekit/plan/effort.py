"""How long the training steps of a plan train, and what they try before."""

from collections.abc import Mapping
from typing import Any

from edgekit.core.steps.distil import other_label_shares

# How many times the epochs that a strategy states are trained at effort max, and what share of the
# stated ones (1 / n) each trial of other settings has before it.
MAX_EFFORT, TRIAL_PART = 3, 5
SEARCH = "search"


def prolonged(settings: Mapping[str, Any], stated: Mapping[str, Any]) -> dict[str, Any]:
    """The same settings with more epochs and with trials, but for what the user has stated."""
    longer: dict[str, Any] = {}
    for key, value in settings.items():
        given = stated.get(key)
        if isinstance(value, Mapping):
            longer[key] = prolonged(value, given if isinstance(given, Mapping) else {})
        else:
            longer[key] = value * MAX_EFFORT if key == "epochs" and given is None else value
    if _has_search(settings):
        trials, given = settings[SEARCH], stated.get(SEARCH)
        is_stated = trials["epochs"] or (isinstance(given, Mapping) and "epochs" in given)
        usual = max(1, settings["epochs"] // TRIAL_PART) if settings["epochs"] else 0
        longer[SEARCH] = {**trials, "epochs": trials["epochs"] if is_stated else usual}
    return longer


def trained_epochs(settings: Mapping[str, Any]) -> int | None:
    """The epochs that a step's settings ask for, in whatever table; None where none is named.

    Those of trials count too.
    """
    found = [settings["epochs"] + _trial_epochs(settings)] if "epochs" in settings else []
    tables = [
        value
        for key, value in settings.items()
        if isinstance(value, Mapping) and not (key == SEARCH and _has_search(settings))
    ]
    found += [epochs for table in tables if (epochs := trained_epochs(table)) is not None]
    if "label_shares" in settings:
        # Distillation tries other weights of its loss beside the rates of its training.
        weights = settings["hard_weight"], settings["soft_weight"]
        shares = len(other_label_shares(settings["label_shares"], *weights))
        found += [shares * _one_trial(table) for table in tables if _has_search(table)]
    return sum(found) if found else None


def _has_search(settings: Mapping[str, Any]) -> bool:
    """Whether these are a training's settings, which a search may go before."""
    table = settings.get(SEARCH)
    return "epochs" in settings and isinstance(table, Mapping) and "rate_factors" in table


def _trial_epochs(settings: Mapping[str, Any]) -> int:
    """Of all trials of one training: the stated rate and the others."""
    if not _has_search(settings):
        return 0
    return (1 + len(settings[SEARCH]["rate_factors"])) * _one_trial(settings)


def _one_trial(settings: Mapping[str, Any]) -> int:
    return int(min(settings[SEARCH]["epochs"], settings["epochs"]))

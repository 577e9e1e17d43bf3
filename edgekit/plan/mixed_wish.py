"""Mixed precision as a strategy asks for it: what can be refused before anything is measured."""

from collections.abc import Mapping
from typing import Any

from edgekit.core.codec import from_plain, to_plain
from edgekit.core.errors import StepError
from edgekit.core.facts import ModelFacts
from edgekit.core.mixed import Mixed
from edgekit.core.profile import DeviceProfile
from edgekit.core.strategy import Quantize
from edgekit.core.target import Target
from edgekit.plan.recipe import choose_quantize

MIXED = "mixed"
# Limits of a profile that are a budget of bytes: of the file, or of the weights in it.
FILE_LIMIT, WEIGHTS_LIMIT = "artifact_bytes", "flash_bytes"


def with_base(settings: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Settings whose precision is one that recipes know, where they ask for ``"mixed"``.

    Raises: StepError for a table ``mixed`` beside another precision, and for one that is wrong.
    """
    asked = dict(settings)
    if asked.get("precision") != MIXED:
        if asked.get("mixed") is not None:
            raise StepError(
                f"{where}: 'mixed' goes with precision = \"mixed\", and it is "
                f"{asked.get('precision')!r}; set that, or take 'mixed' out"
            )
        return asked
    table = from_plain(Mixed, asked.get("mixed") or {}, where=f"{where}: mixed", error=StepError)
    return {**asked, "precision": table.base, "mixed": to_plain(table)}


def check_mixed(
    mixed: Mixed,
    profile: DeviceProfile,
    target: Target,
    where: str,
    *,
    has_module: bool,
    has_adapters: bool,
) -> None:
    """Refuse what no measurement would make possible.

    Raises: StepError for a candidate that the target cannot store, no budget, a model that is no
    torch module, and adapters.
    """
    stored = [item.precision for item in target.precisions]
    wrong = [name for name in mixed.candidates if name not in (*stored, "float")]
    if wrong:
        raise StepError(
            f"{where}: target {target.name} cannot store the candidate {wrong[0]}; it can: "
            f"{', '.join(stored)}"
        )
    limits = [limit.figure for limit in profile.limits]
    if not mixed.has_budget and not {FILE_LIMIT, WEIGHTS_LIMIT}.intersection(limits):
        raise StepError(
            f"{where}: mixed precision needs a budget, and {profile.name} has no limit on "
            f"{FILE_LIMIT} or {WEIGHTS_LIMIT}; set mixed.max_bytes, mixed.max_weight_bytes or "
            "mixed.max_latency_ratio"
        )
    if not has_module:
        raise StepError(
            f"{where}: mixed precision measures the layers of a torch.nn.Module, and the model is "
            "an exported graph; hand over the torch model, or choose a precision and --layer"
        )
    if has_adapters:
        raise StepError(
            f"{where}: mixed precision measures the model without adapters, and this one is run "
            "with several; choose a precision and --layer"
        )


def told_of(mixed: Mixed) -> str:
    """What is asked, for the strategy's reason."""
    stated = {
        "bytes of the artifact": mixed.max_bytes,
        "bytes of weights": mixed.max_weight_bytes,
        "of float's time": mixed.max_latency_ratio,
    }
    budgets = [f"at most {bound:,} {what}" for what, bound in stated.items() if bound]
    names, within = " or ".join(mixed.ordered()), ", ".join(budgets) or "the profile's own limit"
    return f"each layer {names}, as measured, within {within}"


def four_bit_blocks(
    mixed: Mixed, facts: ModelFacts, profile: DeviceProfile, target: Target
) -> tuple[int, str]:
    """The blocks of a layer that gets 4 bits, as INT4 by itself would have them, and the reason."""
    if "int4" not in mixed.candidates:
        return 0, ""
    size = choose_quantize("int4", facts, profile, target)[0].block_size
    return size, f"{size} columns of a 4-bit matrix share a scale" if size else ""


def range_of(settings: Quantize) -> tuple[Quantize, Quantize]:
    """The same with the fewest and with the most bits that a plan may choose, for estimates."""
    if settings.mixed is None:
        return settings, settings
    names = settings.mixed.ordered()
    return _as(settings, names[0]), _as(settings, names[-1])


def _as(settings: Quantize, precision: str) -> Quantize:
    plain = to_plain(settings) | {"keep_first_last_int8": False}
    plain.pop("mixed", None)
    if precision != "float":
        plain["precision"] = precision
    return from_plain(Quantize, plain, where="quantize", error=StepError)

"""What unstructured pruning bought, in plain figures: zeros and bytes, and no speed."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from edgekit.compress.sparsity.compressed_size import CompressedBytes
from edgekit.compress.sparsity.sparse_layers import Participants, SparseWeight
from edgekit.core.figure import Figure, exact
from edgekit.core.steps.sparsify import Sparsify

NO_SPEED = (
    "zeros for engines that use them, and fewer bytes once the file is compressed; no speed is "
    "claimed, because none was measured"
)


def zeros_in(weights: Sequence[SparseWeight]) -> dict[str, int]:
    """Exact zeros in each weight, by name."""
    return {item.name: int((item.parameter == 0).sum()) for item in weights}


def described(
    settings: Sparsify,
    model: nn.Module,
    found: Participants,
    *,
    zeros_before: Mapping[str, int],
    bytes_before: CompressedBytes,
    bytes_after: CompressedBytes,
    by_magnitude: Mapping[str, str],
) -> dict[str, Any]:
    """The values of the step for the report.

    layers: weights, zeros and their share, by parameter name. dense: what took no part, and why.
    by_magnitude: what the method could not be used for, and why.
    """
    zeros = zeros_in(found.weights)
    layers = {
        item.name: _layer(item, zeros[item.name], zeros_before[item.name], settings, by_magnitude)
        for item in found.weights
    }
    weights = sum(item.parameter.numel() for item in found.weights)
    parameters = sum(item.numel() for item in model.parameters())
    return {
        "method": settings.method,
        "pattern": settings.pattern,
        "asked_zeros_ratio": settings.ratio,
        "weights": weights,
        "zeros": sum(zeros.values()),
        "zeros_before": sum(zeros_before.values()),
        "zeros_ratio": sum(zeros.values()) / weights,
        "zeros_ratio_of_model": sum(zeros.values()) / parameters,
        "layers": layers,
        "dense": dict(found.dense),
        "by_magnitude": dict(by_magnitude),
        "zlib_bytes": {
            "float32_before": bytes_before.float32,
            "float32_after": bytes_after.float32,
            "int8_before": bytes_before.int8,
            "int8_after": bytes_after.int8,
        },
        "buys": NO_SPEED,
    }


def sparsity_figures(values: Mapping[str, Any]) -> tuple[Figure, ...]:
    """What ``described`` counted overall, as figures; nothing for the values of other steps."""
    if "zlib_bytes" not in values:
        return ()
    sizes, how = values["zlib_bytes"], "zlib, level 9, of all weight matrices"
    return (
        exact("zeros_ratio", values["zeros_ratio"], "", f"of {values['weights']:,} weights"),
        exact("zlib_bytes", sizes["float32_after"], "bytes", f"{how}, as float"),
        exact("zlib_int8_bytes", sizes["int8_after"], "bytes", f"{how}, rounded to INT8"),
    )


def summary(values: Mapping[str, Any]) -> str:
    """The same in one line."""
    sizes = values["zlib_bytes"]
    return (
        f"{values['zeros_ratio']:.1%} of {values['weights']:,} weights are zero "
        f"({values['zeros_before'] / values['weights']:.1%} before); compressed with zlib the "
        f"weights take {sizes['float32_after']:,} bytes ({sizes['float32_before']:,} before), "
        f"rounded to INT8 {sizes['int8_after']:,} ({sizes['int8_before']:,} before); no speed is "
        "claimed"
    )


def _layer(
    item: SparseWeight,
    zeros: int,
    before: int,
    settings: Sparsify,
    by_magnitude: Mapping[str, str],
) -> dict[str, Any]:
    return {
        "weights": item.parameter.numel(),
        "zeros": zeros,
        "zeros_before": before,
        "zeros_ratio": zeros / item.parameter.numel(),
        "method": "magnitude" if item.name in by_magnitude else settings.method,
    }

"""What layers cost at fewer bits, drawn: a bar a layer and precision, errors on a log scale."""

from pathlib import Path
from typing import Any

from edgekit.core.errors import InputError, MissingDependencyError, OutputError
from edgekit.core.sensitivity import Sensitivity
from edgekit.report.sensitivity import form_names

SUFFIXES = (".svg", ".png", ".pdf")
_ROW_INCHES, _LEAST_INCHES, _WIDTH_INCHES = 0.32, 2.5, 8.0
_BARS = 0.8


def check_plot(path: Path) -> None:
    """Refuse, before long work, a picture that could not be drawn.

    Raises: InputError for another kind of file, OutputError for a folder that is not there,
    MissingDependencyError without matplotlib.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"--plot {path}: it ends in none of {', '.join(SUFFIXES)}; name it so")
    if not path.parent.is_dir():
        raise OutputError(f"--plot {path}: the folder {path.parent} is not there; make it first")
    _figure_type()


def draw(found: Sensitivity, path: Path, *, title: str) -> None:
    """Write the picture.

    The same values give the same .svg, byte for byte. Raises: as ``check_plot``.
    """
    check_plot(path)
    layers, names = found.by_cost(), form_names(found)
    height = max(_LEAST_INCHES, 1 + _ROW_INCHES * len(layers))
    figure = _figure_type()(figsize=(_WIDTH_INCHES, height), layout="constrained")
    axes: Any = figure.subplots()
    for number, name in enumerate(names):
        thickness = _BARS / len(names)
        rows = [row for row, layer in enumerate(layers) if name in layer.costs]
        axes.barh(
            [row + (number - (len(names) - 1) / 2) * thickness for row in rows],
            [layers[row].costs[name].error for row in rows],
            height=thickness,
            label=name,
        )
    axes.set_yticks(range(len(layers)), [layer.path or "(the model)" for layer in layers])
    axes.invert_yaxis()
    if any(cost.error > 0 for layer in layers for cost in layer.costs.values()):
        axes.set_xscale("log")
    axes.set_xlabel("squared error of the outputs over their squares, this layer alone")
    axes.set_title(f"{title} (measured, {found.samples} samples)")
    figure.legend(loc="outside lower center", ncols=len(names))
    _write(figure, path)


def _write(figure: Any, path: Path) -> None:
    import matplotlib as mpl  # noqa: PLC0415 -- an extra; see _figure_type

    # Dates and random identifiers would make every drawing another file.
    dateless = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
    with mpl.rc_context({"svg.hashsalt": "edgekit"}):
        try:
            figure.savefig(path, metadata=dateless.get(path.suffix.lower()))
        except OSError as refusal:
            raise OutputError(f"--plot {path}: it cannot be written ({refusal})") from refusal


def _figure_type() -> Any:
    """The figure of matplotlib, without its global state."""
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 -- only a plot needs it
    except ImportError as missing:
        raise MissingDependencyError(
            f"--plot draws with matplotlib, which cannot be imported ({missing}): "
            "pip install 'edgekit[plot]'"
        ) from missing
    return Figure

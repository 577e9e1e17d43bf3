"""Options that several commands share, and how their values are written."""

import re
import tomllib
from typing import TYPE_CHECKING, Any, get_args

import click
from click.shell_completion import CompletionItem

from edgekit.core.codec import nearest
from edgekit.core.errors import EdgekitError, InputError
from edgekit.core.strategy import LayerPrecision as Precision
from edgekit.core.strategy import Override

PRECISIONS: tuple[Precision, ...] = get_args(Precision)

json_option = click.option(
    "--json", "is_json", is_flag=True, help="Print one JSON document on stdout instead of tables."
)
force_option = click.option(
    "--force", "is_forced", is_flag=True, help="Replace what is there, if it is a bundle."
)


# click 8.1 has no type parameter on ParamType, so it is given to type checkers alone.
if TYPE_CHECKING:
    Parameter = click.ParamType[Any]
else:
    Parameter = click.ParamType


class DeviceName(Parameter):
    """The name or path of a device profile; completes the names that can be found."""

    name = "device"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Names of profiles that open with what was typed."""
        del ctx, param
        from edgekit.catalog import find_profiles

        return _completed([entry.name for entry in _quietly(find_profiles)], incomplete)


class TargetName(Parameter):
    """The name or path of a target; completes the names that can be found."""

    name = "target"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Names of targets that open with what was typed."""
        del ctx, param
        from edgekit.catalog import find_targets

        return _completed([entry.name for entry in _quietly(find_targets)], incomplete)


def _quietly(find: Any) -> Any:
    """What can be found; a shell that completes has no place for an error."""
    try:
        return find()
    except EdgekitError:
        return ()


def _completed(names: list[str], incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


class LimitBound(Parameter):
    """``NAME=BOUND``: a figure that a limit may bound, and a bound with its unit."""

    name = "name=bound"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, float]:
        """The figure and the bound in its unit."""
        from edgekit.catalog import FIGURES

        name, text = split_pair(self, str(value), param, ctx)
        if name not in FIGURES:
            self.fail(f"no limit is called '{name}'{nearest(name, list(FIGURES))}", param, ctx)
        kind = FIGURES[name]
        try:
            return name, float(text) if is_number(text) or kind.parse is None else kind.parse(text)
        except InputError as error:
            self.fail(f"{name}: {error}", param, ctx)
        except ValueError:
            self.fail(f"{name}: '{text}' is not a number ({kind.meaning})", param, ctx)


class LayerPrecision(Parameter):
    """``PATTERN=PRECISION``: layers by regular expression, and their weights' precision."""

    name = "pattern=precision"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Override:
        """The override that this asks for."""
        pattern, precision = split_pair(self, str(value), param, ctx, at_last=True)
        chosen = next((item for item in PRECISIONS if item == precision), None)
        if chosen is None:
            near = nearest(precision, PRECISIONS)
            self.fail(f"no precision is called '{precision}'{near}", param, ctx)
        try:
            re.compile(pattern)
        except re.error as error:
            self.fail(f"'{pattern}' is no regular expression: {error}", param, ctx)
        return Override(pattern=pattern, precision=chosen, reason="asked for with --layer")


class StepSetting(Parameter):
    """``STEP.KEY=VALUE``, the value written as in TOML; a bare word is a text."""

    name = "step.key=value"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str, object]:
        """Step, key and value."""
        place, text = split_pair(self, str(value), param, ctx)
        step, dot, key = place.partition(".")
        if not (step and dot and key):
            self.fail(f"'{place}': write STEP.KEY=VALUE, as quantize.activations=static")
        try:
            return step, key, tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            return step, key, text


class NamedText(Parameter):
    """``NAME=VALUE``, both as they are written."""

    name = "name=value"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        """Name and value."""
        return split_pair(self, str(value), param, ctx)


class NamedPercent(Parameter):
    """``PERCENT``, or ``NAME=PERCENT`` for one figure."""

    name = "percent"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, float]:
        """The figure ("" for all) and its tolerance in percent."""
        name, _, text = str(value).rpartition("=")
        text = text.removesuffix("%")
        if not is_number(text):
            self.fail(f"'{value}': write a percentage of 0 or more, or NAME=PERCENT", param, ctx)
        return name, float(text)


def split_pair(
    kind: Parameter,
    text: str,
    param: click.Parameter | None,
    ctx: click.Context | None,
    *,
    at_last: bool = False,
) -> tuple[str, str]:
    """Both sides of the first (or last) ``=``, each with something in it."""
    left, _, right = text.rpartition("=") if at_last else text.partition("=")
    if not left or not right:
        kind.fail(f"'{text}': write {kind.name.upper()}", param, ctx)
    return left, right


def is_number(text: str) -> bool:
    """Whether a text is a plain number of 0 or more, without a unit."""
    return re.fullmatch(r"\d+(\.\d*)?([eE][+-]?\d+)?|\.\d+", text) is not None

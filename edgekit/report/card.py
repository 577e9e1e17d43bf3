"""The model card: what a bundle is, in Markdown, from its manifest alone.

No figure of a machine stands in it, so that the card is the same wherever the bundle is built;
those are in ``evidence.json``.
"""

from collections.abc import Iterable, Sequence
from fractions import Fraction

from edgekit.bundle.manifest import Manifest
from edgekit.core.contract import (
    Adapter,
    Audio,
    Image,
    InputContract,
    InputKind,
    OutputContract,
    Shape,
    Tensor,
    Text,
)
from edgekit.core.strategy import PlannedStep
from edgekit.report.strategy import settings_text
from edgekit.report.verdict import accepted_text, bound_text

# A card is read by people: past this many labels it says how many there are.
SHOWN_LABELS = 20


def model_card(manifest: Manifest) -> str:
    """The card as Markdown; the same manifest gives the same bytes."""
    parts = (
        _opening(manifest),
        _contract(manifest),
        _steps(manifest),
        _limits(manifest),
        _use(manifest),
        _lineage(manifest),
    )
    return "\n\n".join(parts) + "\n"


def _opening(manifest: Manifest) -> str:
    artifacts = ", ".join(
        f"`{item.artifact.entry}` ({item.artifact.precision})" for item in manifest.components
    )
    facts = [
        ("Made for", f"device `{manifest.device}`, target `{manifest.target}`"),
        ("Artifact", artifacts),
        ("License", _plain(manifest.license) or "not stated"),
        ("Metric", f"`{manifest.metric}`"),
        ("Effort and seed", f"{manifest.effort}, {manifest.seed}"),
        ("Needs at least", _versions(manifest.minimum_runtime)),
    ]
    lines = [f"# {_plain(manifest.name)}"]
    lines.append(_plain(manifest.description) or "No description was given.")
    lines.append("\n".join(f"- **{name}**: {value}" for name, value in facts))
    return "\n\n".join(lines)


def _contract(manifest: Manifest) -> str:
    blocks = ["## Inputs and outputs"]
    for component in manifest.components:
        if len(manifest.components) > 1:
            blocks.append(f"### {_plain(component.name)}")
        rows = [_input_row(item) for item in component.contract.inputs]
        blocks.append(_table(("input", "tensor", "how raw data becomes it"), rows))
        outputs = [_output_row(item) for item in component.contract.outputs]
        blocks.append(_table(("output", "tensor", "meaning"), outputs))
    return "\n\n".join(blocks)


def _input_row(item: InputContract) -> tuple[str, str, str]:
    return (f"`{item.name}`", _tensor(item.dtype, item.shape), processing_text(item.source))


def _output_row(item: OutputContract) -> tuple[str, str, str]:
    return (f"`{item.name}`", _tensor(item.dtype, item.shape), meaning_text(item))


def _tensor(dtype: str, shape: Shape) -> str:
    return f"{dtype} ({', '.join(str(size) for size in shape)})"


def processing_text(source: InputKind) -> str:
    """What becomes of raw data before it is this input."""
    match source:
        case Image():
            return _image_text(source)
        case Audio():
            norm = _normalized((source.mean,), (source.deviation,))
            return f"mono sound at {source.rate_hz} Hz, {source.samples} samples in -1..1{norm}"
        case Text():
            place = f"{source.part} of `{source.tokenizer}`"
            return f"{place}, cut or padded with {source.pad_id} to {source.length} tokens"
        case Adapter():
            names = ", ".join(sorted(source.adapters))
            return f"not given: the adapter that is chosen by name, one of {names}, or none"
        case Tensor():
            return "taken as it is"


def _image_text(source: Image) -> str:
    channels = "one channel" if source.channels == 1 else source.channel_order
    size = f"{source.height} x {source.width}"
    return (
        f"picture, {source.fit} to {size} ({source.resize}), {channels}, pixels * "
        f"{_scale_text(source.scale)}{_normalized(source.mean, source.deviation)}, {source.layout}"
    )


def _scale_text(scale: float) -> str:
    share = Fraction(scale).limit_denominator(65536)
    is_share = share.numerator == 1 and float(share) == scale
    return f"1/{share.denominator}" if is_share else f"{scale:g}"


def _normalized(mean: Sequence[float], deviation: Sequence[float]) -> str:
    if set(mean) == {0.0} and set(deviation) == {1.0}:
        return ""
    return f", less mean {_numbers(mean)}, over deviation {_numbers(deviation)}"


def _numbers(values: Sequence[float]) -> str:
    shown = ", ".join(f"{value:g}" for value in values)
    return shown if len(values) == 1 else f"({shown})"


def meaning_text(item: OutputContract) -> str:
    """What an output's numbers stand for."""
    activation = {"none": "", "softmax": "softmax of ", "sigmoid": "sigmoid of "}
    opening = f"{activation[item.meaning.activation]}the scores"
    labels = item.meaning.labels
    if not labels:
        return opening
    shown = ", ".join(_plain(label) for label in labels[:SHOWN_LABELS])
    more = f" and {len(labels) - SHOWN_LABELS} more" if len(labels) > SHOWN_LABELS else ""
    return f"{opening} of {len(labels)} labels: {shown}{more}"


def _steps(manifest: Manifest) -> str:
    lines = [_step_line(step) for step in manifest.strategy.steps] or ["No step was asked for."]
    numbered = "\n".join(f"{index}. {line}" for index, line in enumerate(lines, start=1))
    blocks = ["## How it was compressed", numbered]
    if manifest.anti_patterns:
        blocks.append(_list(f"Known weakness: {_plain(item)}" for item in manifest.anti_patterns))
    return "\n\n".join(blocks)


def _step_line(step: PlannedStep) -> str:
    if not step.is_run:
        standing = "was **skipped**" if step.is_needed else "had no need to run"
        return f"`{step.name}` {standing}: {_plain(step.reason)}"
    return f"`{step.name}` ({_plain(settings_text(step.settings))}): {_plain(step.reason)}"


def _limits(manifest: Manifest) -> str:
    rows = [
        (f"`{item.figure}`", bound_text(item), accepted_text(item), _plain(item.source))
        for item in manifest.limits
    ]
    note = "Figures and the verdict on these limits are in `evidence.json`."
    blocks = ["## Limits", _table(("figure", "bound", "evidence", "source"), rows), note]
    if manifest.waived:
        names = ", ".join(f"`{name}`" for name in manifest.waived)
        blocks.insert(
            1,
            f"**WAIVED BY THE USER: {names}.** The bundle was let through although it does not "
            "hold or has not shown to hold there.",
        )
    return "\n\n".join(blocks)


def _use(manifest: Manifest) -> str:
    contract = manifest.components[0].contract
    inputs = contract.given_inputs
    chosen = min(contract.adapters, default="")
    argument = f', adapter="{chosen}"' if chosen else ""
    option = f" --adapter {chosen}" if chosen else ""
    named = ", ".join(f'"{item.name}": {item.name}' for item in inputs)
    typed = " ".join(f"{item.name}={item.name}{_suffix(item.source)}" for item in inputs)
    return "\n\n".join(
        (
            "## How to open it",
            "```python\n"
            "import edgekit\n\n"
            f'with edgekit.open("PATH OF THIS BUNDLE"{argument}) as session:\n'
            f"    outputs = session.predict({{{named}}})\n"
            "```",
            f"```\nedgekit verify BUNDLE\nedgekit run BUNDLE {typed}{option}\n```",
        )
    )


def _suffix(source: InputKind) -> str:
    suffixes = {"image": ".png", "audio": ".wav", "text": ".txt", "tensor": ".npy"}
    return suffixes[source.kind]


def _lineage(manifest: Manifest) -> str:
    lineage = manifest.lineage
    named = [
        ("model (graph and weights)", lineage.model),
        ("source", lineage.source),
        ("calibration data", lineage.calibration),
        ("evaluation data", lineage.evaluation),
        ("selection data", lineage.selection),
        ("training data", lineage.training),
        ("unlabelled data", lineage.unlabelled),
        *sorted(lineage.files.items()),
        ("toolchain", manifest.toolchain),
    ]
    rows = [(_plain(name), f"`{digest}`") for name, digest in named if digest]
    versions = f"Made with {_versions(manifest.versions)}."
    return "\n\n".join(("## Where it comes from", _table(("what", "sha256"), rows), versions))


def _versions(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in sorted(versions.items())) or "nothing"


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [headings, tuple("---" for _ in headings), *rows]
    return "\n".join(f"| {' | '.join(cell for cell in line)} |" for line in lines)


def _list(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _plain(text: str) -> str:
    """A user's text inside Markdown: one line, and nothing in it starts a table cell or a tag."""
    escaped = " ".join(text.split())
    for character in "\\|<>*_`[]":
        escaped = escaped.replace(character, "\\" + character)
    return escaped

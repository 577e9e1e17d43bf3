"""What an artifact gives, how large it is and how fast: measured here and not by edgekit.

Each artifact runs in the runtime that it was made for, one thread, one sample a run. Answers are
compared sample by sample with those of the float artifact of the same runtime.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.compile.strip import strip_bytes
from edgekit.runtime.litert_widen import widen_weights

Arrays = Mapping[str, NDArray[Any]]
Run = Callable[[list[NDArray[Any]]], NDArray[Any]]
ROUNDS, RUNS = 15, 20
Z = 1.96


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Top-1 against float, in points; half_width: of a 95% interval over pairs.

    lost, won: samples that were right in float alone, and here alone.
    """

    points: float
    half_width: float
    lost: int
    won: int
    count: int


def opened(path: Path, *, is_wrapped: bool = False) -> Run:
    """A function from one sample's inputs, in order, to the first output.

    is_wrapped: as edgekit's wrapper opens it on a device, which widens 4-bit weights.
    """
    if path.suffix in (".onnx", ".ort"):
        return _onnx(path)
    model = path.read_bytes()
    return _litert(widen_weights(model).model if is_wrapped else model)


def _onnx(path: Path) -> Run:
    import onnxruntime  # noqa: PLC0415  (a runtime is loaded where it is needed)

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [item.name for item in session.get_inputs()]

    def run(values: list[NDArray[Any]]) -> NDArray[Any]:
        return session.run(None, dict(zip(names, values, strict=True)))[0]

    return run


def _litert(model: bytes) -> Run:
    from ai_edge_litert.interpreter import Interpreter  # noqa: PLC0415

    interpreter = Interpreter(model_content=model, num_threads=1)
    interpreter.allocate_tensors()
    inputs, output = interpreter.get_input_details(), interpreter.get_output_details()[0]
    inputs.sort(key=lambda item: item["name"])

    def run(values: list[NDArray[Any]]) -> NDArray[Any]:
        for item, value in zip(inputs, values, strict=True):
            interpreter.set_tensor(item["index"], _to_input(item, value))
        interpreter.invoke()
        return _from_output(output, interpreter.get_tensor(output["index"]))

    return run


def _to_input(item: Mapping, value: NDArray[Any]) -> NDArray[Any]:
    scale, zero = item["quantization"]
    if not np.issubdtype(item["dtype"], np.integer) or not scale:
        return value.astype(item["dtype"])
    info = np.iinfo(item["dtype"])
    return np.clip(np.rint(value / scale) + zero, info.min, info.max).astype(item["dtype"])


def _from_output(item: Mapping, value: NDArray[Any]) -> NDArray[Any]:
    scale, zero = item["quantization"]
    if not np.issubdtype(item["dtype"], np.integer) or not scale:
        return value
    return ((value.astype(np.float64) - zero) * scale).astype(np.float32)


def outputs(path: Path, inputs: Arrays, *, is_wrapped: bool = False) -> NDArray[Any]:
    """The first output for every sample."""
    run = opened(path, is_wrapped=is_wrapped)
    count = len(next(iter(inputs.values())))
    rows = [run([rows[at : at + 1] for rows in inputs.values()]) for at in range(count)]
    return np.concatenate(rows)


def top_1_change(found: NDArray[Any], floats: NDArray[Any], labels: NDArray[Any]) -> Change:
    """What of the right answers is lost and won."""
    right, before = found.argmax(1) == labels, floats.argmax(1) == labels
    lost, won = int((before & ~right).sum()), int((right & ~before).sum())
    count = len(labels)
    share = (lost - won) / count
    spread = math.sqrt(max(0.0, (lost + won) / count - share**2) / count)
    return Change(points=100 * share, half_width=100 * Z * spread, lost=lost, won=won, count=count)


def cosines(found: NDArray[Any], floats: NDArray[Any]) -> NDArray[Any]:
    """The cosine of each sample's output to that of float."""
    ours, theirs = (item.reshape(len(item), -1).astype(np.float64) for item in (found, floats))
    norms = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    return (ours * theirs).sum(1) / np.maximum(norms, 1e-30)


def speed_ups(
    path: Path, floats: Path, inputs: Arrays, *, is_wrapped: bool = False
) -> tuple[float, float]:
    """How often as fast as float, by the least and by the median time; both run in turns."""
    sample = [rows[:1] for rows in inputs.values()]
    runs, times = (opened(floats), opened(path, is_wrapped=is_wrapped)), ([], [])
    for _ in range(ROUNDS):
        for run, found in zip(runs, times, strict=True):
            run(sample)
            started = time.perf_counter()
            for _ in range(RUNS):
                run(sample)
            found.append((time.perf_counter() - started) / RUNS)
    return min(times[0]) / min(times[1]), median(times[0]) / median(times[1])


def sizes(path: Path) -> tuple[int, int]:
    """Bytes of the file as the tool wrote it, and without names and metadata."""
    data = path.read_bytes()
    form = "tflite" if path.suffix == ".tflite" else "onnx"
    return len(data), len(strip_bytes(data, form, name=path.name))


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenChange:
    """A language model against float, over all places that have a next token.

    nll: what is added to the mean negative log-likelihood of the next token. kl: the mean
    divergence of float's distribution from this one's, in nats. agreement: share of places where
    both think the same token likeliest.
    """

    nll: float
    kl: float
    agreement: float


def token_change(
    found: NDArray[Any], floats: NDArray[Any], tokens: NDArray[np.int64]
) -> TokenChange:
    """Shapes: logits (n, t, vocab) twice, tokens (n, t)."""
    ours, theirs = (_log_shares(item[:, :-1].astype(np.float64)) for item in (found, floats))
    following = tokens[:, 1:, None]
    nll = [-np.take_along_axis(item, following, axis=-1).mean() for item in (ours, theirs)]
    return TokenChange(
        nll=float(nll[0] - nll[1]),
        kl=float((np.exp(theirs) * (theirs - ours)).sum(-1).mean()),
        agreement=float((ours.argmax(-1) == theirs.argmax(-1)).mean()),
    )


def _log_shares(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = logits - logits.max(-1, keepdims=True)
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return result

"""ai-edge-quantizer's own recipes: ``python with_aeq.py RECIPE FLOAT.tflite CALIBRATION.npz OUT``.

Runs in an environment of its own; nothing of edgekit is there. RECIPE is a function of
``ai_edge_quantizer.recipe``, or "static_wi4_ai8": its static recipe with 4-bit convolutions and
matrices but for the first and the last, by names that are written down here.
"""

import re
import sys

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from ai_edge_quantizer import qtyping, quantizer, recipe

FOUR_BIT = ("CONV_2D", "FULLY_CONNECTED")


def main(name: str, source: str, calibration: str, out: str) -> None:
    """Write the quantized model."""
    work = quantizer.Quantizer(source)
    if name == "static_wi4_ai8":
        work.load_quantization_recipe(recipe.static_wi8_ai8())
        for operator in FOUR_BIT:
            work.add_static_config(
                ".*", qtyping.TFLOperationName(operator), 8, 4, qtyping.QuantGranularity.CHANNELWISE
            )
        for scope, operator in ends(source):
            work.add_static_config(
                f"^{scope}$",
                qtyping.TFLOperationName(operator),
                8,
                8,
                qtyping.QuantGranularity.CHANNELWISE,
            )
    else:
        work.load_quantization_recipe(getattr(recipe, name)())
    statistics = None
    if name.startswith("static"):
        statistics = work.calibrate({signature(source): samples(source, calibration)})
    work.quantize(statistics).export_model(out, overwrite=True)


def ends(source: str) -> list[tuple[str, str]]:
    """The output names of the first and the last layer with weights."""
    found = []
    inner = Interpreter(source)
    details = {item["index"]: item["name"] for item in inner.get_tensor_details()}
    for item in inner._get_ops_details():  # noqa: SLF001  (no public way)
        if item["op_name"] in FOUR_BIT:
            joined = "".join(f"{details[index]};" for index in item["outputs"])
            found.append((re.escape(joined), item["op_name"]))
    return [found[0], found[-1]]


def signature(source: str) -> str:
    """The name of the model's only signature."""
    return next(iter(Interpreter(source).get_signature_list()))


def samples(source: str, calibration: str) -> list[dict]:
    """One sample a run, by the signature's names, which come in the order of the arrays."""
    inputs = Interpreter(source).get_signature_list()[signature(source)]["inputs"]
    with np.load(calibration) as archive:
        arrays = [archive[name] for name in archive.files]
    details = Interpreter(source).get_signature_runner().get_input_details()
    return [
        {
            name: rows[at : at + 1].astype(details[name]["dtype"])
            for name, rows in zip(inputs, arrays, strict=True)
        }
        for at in range(len(arrays[0]))
    ]


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Builds of models whose channels lie far apart, judged by the cosine of their outputs."""

from pathlib import Path

import edgekit
from tests.flow import tiny
from tests.flow.test_compressing import build, profile

STATIC = 'precision = "int8", activations = "static"'
INT4 = 'precision = "int4", activations = "none", keep_first_last_int8 = false'
# The loss is what is looked at, so no limit may refuse it.
WIDE = {"metric_drop": 100.0, "latency_ratio": 1000.0}


def built(builds, folder, target, *steps, name, model, quantize=STATIC):
    """A model with these steps before quantize, whose settings are ``quantize``."""
    folder.mkdir()
    given = tiny.workload(
        name=name,
        model=model,
        outputs={"scores": edgekit.Output()},
        calibration=[x for x, _ in tiny.samples(128, 1)],
        evaluation=[x for x, _ in tiny.samples(200, 2)],
        metric="cosine",
    )
    path = Path(profile(folder, *steps))
    text = path.read_text()
    path.write_text(text.replace('precision = "int8" }', f"{quantize} }}"))
    return build(builds, str(path), given, target=target, effort="quick", limits=WIDE)


def drop_of(result):
    """What the artifact lost of the metric."""
    return {item.name: item for item in result.evidence.figures}["metric_drop"].value

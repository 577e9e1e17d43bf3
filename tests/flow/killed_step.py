"""Builds whose distillation is killed, for the test that lets them go on.

Three builds in forked children of this process: one kills itself in the middle of the training of
its module step, the next has the same cache, the last an empty one. On standard output: one JSON
for each, with what it heard of the training and the bundle_id (none where it was killed).
"""

import json
import os
import signal
import sys
from pathlib import Path

import torch

import edgekit
from edgekit.compress.training import pace
from edgekit.flow.stages import code_digest
from tests.flow import tiny
from tests.flow.kill_server import hurry_

PROFILE = """schema = 1
name = "killed"
title = "A server whose strategy trains"
extends = "edge-server"

[[strategy.step]]
name = "distil"
when = "training data"
reason = "to be killed"
settings = { student_ratio = 0.5, train = { epochs = 6, batch_size = 64 } }

[[strategy.step]]
name = "quantize"
required = true
reason = "small"
settings = { precision = "fp16" }
"""
KILL_AT = "epoch 4 of 6"
LIMITS = {"latency_ratio": 1000.0, "metric_drop": 100.0}


def build(folder: Path, cache: Path, out: Path, heard: Path, *, is_killed: bool) -> None:
    """One build at effort standard, which writes down the messages of its distillation."""
    os.environ["EDGEKIT_CACHE"] = str(cache)
    hurry_()
    pace.INTERVAL_SECONDS = 0.0  # a line for every batch
    with heard.open("w", buffering=1) as lines:

        def listen(event):
            if event.stage == "distil":
                print(event.message, file=lines)
                if is_killed and KILL_AT in event.message:
                    os.kill(os.getpid(), signal.SIGKILL)

        given = tiny.workload(training=tiny.samples(300, 7), evaluation=tiny.samples(80, 2))
        device = str(folder / "killed.toml")
        effort = {"effort": "standard", "limits": LIMITS, "listener": listen}
        edgekit.build(given, device=device, out=out, **effort)


def in_child(folder: Path, name: str, cache: str, *, is_killed: bool = False) -> None:
    """Run one build in a child, and say what came of it."""
    out, heard = folder / f"{name}.edgekit", folder / f"{name}.txt"
    child = os.fork()
    if child == 0:
        status = 1
        try:
            build(folder, folder / cache, out, heard, is_killed=is_killed)
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    told = {
        "signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0,
        "heard": heard.read_text().splitlines(),
        "bundle_id": edgekit.verify(out).bundle_id if out.exists() else None,
        "checkpoints": len(list((folder / cache / "checkpoints").iterdir())),
    }
    print(json.dumps(told), flush=True)


def main() -> None:
    """The three builds, one after the other."""
    torch.set_num_threads(1)
    code_digest("edgekit")  # once for all three, whoever edits the code meanwhile
    tiny.network()
    folder = Path(sys.argv[1])
    (folder / "killed.toml").write_text(PROFILE)
    in_child(folder, "first", "cache", is_killed=True)
    in_child(folder, "again", "cache")
    in_child(folder, "never", "other cache")


if __name__ == "__main__":
    main()

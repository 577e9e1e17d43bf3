"""Runs builds in forked children and kills them when told to: started by test_kills.

A child of this process needs no imports, so a build from a warm cache takes about a second and
can be killed a hundred times. On standard input, one JSON a line: ``{"out", "limit", "phase",
"share"}``; phase "whole" kills after that share of a build's time, "seal" after that share of a
sealing's time from its start, "none" lets it finish. On standard output: whether it was killed.
"""

import faulthandler
import json
import os
import signal
import sys
import time
from pathlib import Path

import torch

import edgekit
import edgekit.compile.reference
import edgekit.runtime.onnx
from edgekit.flow import build as building
from edgekit.flow.stages import Runner
from edgekit.measure import latency, memory
from tests.flow.tiny import samples, workload_of_two

SEAL_SECONDS = 0.05
LONGEST_SECONDS = 60


def small():
    """The workload of all these builds."""
    return workload_of_two(evaluation=samples(40, 2))


def run(order, started):
    """One build in a child; it writes a byte when it starts to seal."""
    honest = building.seal_bundle

    def seal(*arguments, **options):
        os.write(started, b"s")
        return honest(*arguments, **options)

    building.seal_bundle = seal
    hurry_()
    limits = {"latency_ratio": 1000.0, "metric_drop": order["limit"]}
    edgekit.build(small(), device="edge-server", out=Path(order["out"]), force=True, limits=limits)


def hurry_():
    """What matters here is the kill, not the network: stages run in this process, and shortly."""
    honest_run = Runner.run

    def here(self, request, *, place="here", **given):
        return honest_run(self, request, **given)

    Runner.run = here
    memory.REPEATS, latency.MINIMUM_PAIRS, latency.WARM_UP_S = 1, 20, 0.01


def attempt(order, build_seconds):
    """Start a child, kill it when the order says, and tell whether the kill came in time."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        status = 1
        # A child that hangs says where, and ends.
        faulthandler.dump_traceback_later(LONGEST_SECONDS, exit=True)
        try:
            run(order, writing)
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    try:
        if order["phase"] == "seal":
            os.read(reading, 1)
            time.sleep(order["share"] * SEAL_SECONDS)
        elif order["phase"] == "whole":
            time.sleep(order["share"] * build_seconds)
        if order["phase"] != "none":
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    finally:
        os.close(reading)
    return {"killed": os.WIFSIGNALED(status), "status": status}


def main():
    torch.set_num_threads(1)
    edgekit.plan(small(), device="edge-server")  # trains the network and imports torch.export
    build_seconds = 0.0
    for line in sys.stdin:
        order = json.loads(line)
        started = time.monotonic()
        told = attempt(order, build_seconds)
        if order["phase"] == "none":
            build_seconds = time.monotonic() - started
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()

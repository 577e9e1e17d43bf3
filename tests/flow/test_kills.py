"""A hundred builds killed at random moments: nothing half-written, and the next one works."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import edgekit
from edgekit.store import Store

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
COLD, WHOLE, SEAL = 4, 56, 40
COLD_SECONDS = 8.0
BUILD = """
import sys
import edgekit
from tests.flow.kill_server import small
limits = {"latency_ratio": 1000.0, "metric_drop": float(sys.argv[2])}
edgekit.build(small(), device="edge-server", out=sys.argv[1], force=True, limits=limits)
"""


class Place:
    """Where builds are killed: their output, their cache, and what they are run with."""

    def __init__(self, folder: Path) -> None:
        self.out = folder / "output" / "bundle"
        self.out.parent.mkdir()
        self.cache = folder / "cache"
        temporary = folder / "temporary"  # a killed build cannot tidy up after itself
        temporary.mkdir()
        self.environment = {
            **os.environ,
            "EDGEKIT_CACHE": str(self.cache),
            "TMPDIR": str(temporary),
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(ROOT),
        }

    def start(self, *arguments: str, **streams) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, *arguments], env=self.environment, text=True, cwd=ROOT, **streams
        )

    def check(self, allowed: set[str], *, may_be_absent: bool) -> None:
        """The output is absent or a whole bundle that is one of these; beside it no halves."""
        if may_be_absent and not self.out.exists():
            return
        assert edgekit.verify(self.out).bundle_id in allowed
        beside = [item.name for item in self.out.parent.iterdir() if item != self.out]
        hidden = [name for name in beside if not name.startswith(f".{self.out.name}.edgekit-")]
        assert set(hidden) <= {f"{self.out.name}.build"}

    def is_clean(self) -> None:
        """Nothing is left over once a build came to its end."""
        assert {item.name for item in self.out.parent.iterdir()} == {"bundle", "bundle.build"}
        with Store(self.cache) as store:
            assert not list((store.root / "temp").iterdir())


class Server:
    """The process whose children are killed."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.process = place.start(
            "-m", "tests.flow.kill_server", stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_) -> None:
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()

    def ask(self, limit: float, phase: str, share: float = 0.0) -> bool:
        """Whether the build was killed; one that should have come to its end must have."""
        order = {"out": str(self.place.out), "limit": limit, "phase": phase, "share": share}
        print(json.dumps(order), file=self.process.stdin, flush=True)
        told = json.loads(self.process.stdout.readline())
        assert told["killed"] or told["status"] == 0
        return told["killed"]

    def build(self, limit: float) -> str:
        """Let a build finish: the bundle_id."""
        assert not self.ask(limit, "none")
        return edgekit.verify(self.place.out).bundle_id


@pytest.mark.timeout(900)
def test_a_hundred_kills_leave_no_half_bundle_and_the_next_build_works(tmp_path):
    place, chance = Place(tmp_path), random.Random(2)
    for _ in range(COLD):
        cold = place.start("-c", BUILD, str(place.out), "50.0")
        time.sleep(chance.uniform(0.5, COLD_SECONDS))
        cold.send_signal(signal.SIGKILL)
        cold.wait()
        assert not place.out.exists() or edgekit.verify(place.out)
    with Server(place) as server:
        server.build(50.0)  # fills the cache
        ids = {limit: server.build(limit) for limit in (50.0, 60.0)}
        assert ids[50.0] != ids[60.0]
        killed = 0
        phases = ["whole"] * WHOLE + ["seal"] * SEAL
        chance.shuffle(phases)
        for number, phase in enumerate(phases):
            is_new = number % 8 < 4  # the others have an old bundle to keep
            if is_new and place.out.exists():
                shutil.rmtree(place.out)
            limit = chance.choice((50.0, 60.0))
            killed += server.ask(limit, phase, chance.random())
            place.check(set(ids.values()), may_be_absent=is_new or not place.out.exists())
            if number % 4 == 0:
                assert server.build(limit) == ids[limit]
                place.is_clean()
        assert killed > len(phases) // 2, "most kills must hit a build that is at work"
    last = place.start("-c", BUILD, str(place.out), "60.0")
    assert last.wait() == 0
    assert edgekit.verify(place.out).bundle_id == ids[60.0]
    place.is_clean()


@pytest.mark.timeout(300)
def test_a_build_killed_while_a_step_trains_goes_on_and_ends_with_the_same_bundle(tmp_path):
    place = Place(tmp_path)
    run = place.start("-m", "tests.flow.killed_step", str(tmp_path), stdout=subprocess.PIPE)
    told, _ = run.communicate()
    assert run.returncode == 0
    killed, again, never = map(json.loads, told.splitlines())
    assert killed["signal"] == signal.SIGKILL
    assert killed["bundle_id"] is None
    assert killed["checkpoints"] == 1
    assert any("epoch 4 of 6" in line for line in killed["heard"])
    (resumed,) = [line for line in again["heard"] if "goes on from" in line]
    assert "goes on from epoch 4, batch 1," in resumed
    assert not any("epoch 3 of 6" in line for line in again["heard"])
    assert any("epoch 1 of 6" in line for line in never["heard"])
    assert again["bundle_id"] == never["bundle_id"] is not None
    assert again["checkpoints"] == 0

"""Stage results: kept, verified, never half there."""

import errno
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgekit.core.errors import OutputError
from edgekit.core.progress import Event, Reporter
from edgekit.store import Store, StoredResult, default_root, folder_entries

KEY = "a" * 64
OTHER = "b" * 64


def writes(content: bytes, **values: Any) -> Callable[[Path], dict[str, Any]]:
    def produce(out: Path) -> dict[str, Any]:
        (out / "sub").mkdir()
        (out / "sub" / "model.bin").write_bytes(content)
        return values

    return produce


def fails(out: Path) -> dict[str, Any]:
    raise AssertionError("must not be made again")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "cache") as opened:
        yield opened


@pytest.fixture
def said() -> list[Event]:
    return []


def reporter(said: list[Event]) -> Reporter:
    return Reporter(stage="quantize", listener=said.append)


def test_a_result_comes_back_with_its_bytes_and_values(store: Store) -> None:
    assert store.get(KEY) is None
    made = store.fill(KEY, writes(b"weights", count=3, names=("a", "b")))
    assert not made.is_reused
    again = store.fill(KEY, fails)
    assert again.is_reused
    assert again.values == made.values == {"count": 3, "names": ["a", "b"]}
    assert (again.folder / "sub" / "model.bin").read_bytes() == b"weights"
    assert again.files[0].sha256 == hashlib.sha256(b"weights").hexdigest()
    found = store.get(KEY)
    assert found is not None
    assert found.digest == made.digest


def test_the_digest_is_of_files_and_values(store: Store) -> None:
    made = store.fill(KEY, writes(b"w", n=1))
    sha = hashlib.sha256(b"w").hexdigest()
    by_hand = (
        f'{{"files":[{{"bytes":1,"path":"sub/model.bin","sha256":"{sha}"}}],"values":{{"n":1}}}}\n'
    )
    assert made.digest == hashlib.sha256(by_hand.encode()).hexdigest()
    assert store.fill(OTHER, writes(b"w", n=2)).digest != made.digest


def _truncate(folder: Path, record: Path) -> None:
    (folder / "sub" / "model.bin").write_bytes(b"weigh")


def _flip(folder: Path, record: Path) -> None:
    (folder / "sub" / "model.bin").write_bytes(b"weightS")


def _remove(folder: Path, record: Path) -> None:
    (folder / "sub" / "model.bin").unlink()


def _add(folder: Path, record: Path) -> None:
    (folder / "stray").write_bytes(b"")


def _link(folder: Path, record: Path) -> None:
    (folder / "stray").symlink_to("/etc/hostname")


def _remove_all(folder: Path, record: Path) -> None:
    shutil.rmtree(folder)


def _no_json(folder: Path, record: Path) -> None:
    record.write_bytes(record.read_bytes()[:-20])


def _no_text(folder: Path, record: Path) -> None:
    record.write_bytes(b"\xff\xfe\x00")


def _deep(folder: Path, record: Path) -> None:
    record.write_bytes(b"[" * 200_000)


def _other_key(folder: Path, record: Path) -> None:
    _edit(record, key=OTHER)


def _other_schema(folder: Path, record: Path) -> None:
    _edit(record, schema=0)


def _other_values(folder: Path, record: Path) -> None:
    _edit(record, values={"n": 2})


def _more_fields(folder: Path, record: Path) -> None:
    _edit(record, extra=1)


def _edit(record: Path, **changes: Any) -> None:
    record.write_text(json.dumps(json.loads(record.read_text()) | changes))


DAMAGES = [
    _truncate,
    _flip,
    _remove,
    _add,
    _link,
    _remove_all,
    _no_json,
    _no_text,
    _deep,
    _other_key,
    _other_schema,
    _other_values,
    _more_fields,
]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("is_reopened", [True, False])
def test_a_damaged_entry_is_never_used_but_made_again_with_a_note(
    store: Store, said: list[Event], damage: Callable[[Path, Path], None], is_reopened: bool
) -> None:
    made = store.fill(KEY, writes(b"weights", n=1))
    damage(made.folder, store.root / "results" / KEY / "result.json")
    if is_reopened:
        store = Store(store.root)
    again = store.fill(KEY, writes(b"weights", n=1), reporter=reporter(said))
    assert not again.is_reused
    assert (again.folder / "sub" / "model.bin").read_bytes() == b"weights"
    assert [event.kind for event in said] == ["note"]
    assert "damaged and was removed" in said[0].message
    assert store.fill(KEY, fails).is_reused


def test_get_removes_a_damaged_entry_with_a_note(store: Store, said: list[Event]) -> None:
    made = store.fill(KEY, writes(b"weights"))
    _flip(made.folder, Path())
    assert store.get(KEY, reporter=reporter(said)) is None
    assert "sub/model.bin has other bytes" in said[0].message
    assert not (store.root / "results" / KEY).exists()


def test_a_refresh_names_what_came_out_otherwise(store: Store) -> None:
    old = store.fill(KEY, writes(b"1", n=1, same=0))
    same = store.fill(KEY, writes(b"1", n=1, same=0), refresh=True)
    assert (same.is_reused, same.differences, same.digest) == (False, (), old.digest)
    new = store.fill(KEY, writes(b"2", n=2, same=0), refresh=True)
    assert new.differences == ("sub/model.bin", "values.n")
    assert store.fill(KEY, fails).digest == new.digest


def test_a_refresh_leaves_the_old_files_to_those_who_read_them(store: Store) -> None:
    old = store.fill(KEY, writes(b"1"))
    with Store(store.root) as other:
        new = other.fill(KEY, writes(b"2"), refresh=True)
        assert (old.folder / "sub" / "model.bin").read_bytes() == b"1"
    store.close()
    with Store(store.root) as other:
        other.fill(KEY, writes(b"3"), refresh=True)
    assert not old.folder.exists()
    assert not new.folder.exists()


def test_a_refresh_replaces_damaged_files_under_the_same_digest(store: Store) -> None:
    made = store.fill(KEY, writes(b"weights"))
    _flip(made.folder, Path())
    again = store.fill(KEY, writes(b"weights"), refresh=True)
    assert (again.folder / "sub" / "model.bin").read_bytes() == b"weights"
    (store.root / "results" / KEY / "result.json").write_text("{")
    assert store.fill(KEY, writes(b"weights"), refresh=True).differences == ()


def test_remarks_are_kept_with_the_result_but_not_in_its_digest(store: Store) -> None:
    remark = Event(stage="quantize", kind="warning", message="layer x stayed float")
    plain = store.fill(KEY, writes(b"1"))
    kept = store.fill(OTHER, writes(b"1"), remarks=lambda: (remark,))
    assert kept.digest == plain.digest
    assert store.fill(OTHER, fails).remarks == (remark,)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, SystemExit])
def test_a_failed_stage_leaves_nothing(store: Store, error: type[BaseException]) -> None:
    def produce(out: Path) -> dict[str, Any]:
        (out / "half").write_bytes(b"x")
        raise error

    with pytest.raises(error):
        store.fill(KEY, produce)
    assert not list((store.root / "temp").iterdir())
    assert store.get(KEY) is None
    assert not store.fill(KEY, writes(b"1")).is_reused


@pytest.mark.parametrize(
    ("values", "error"), [({"x": {1, 2}}, TypeError), ({"x": float("nan")}, ValueError)]
)
def test_values_that_json_cannot_hold_are_a_defect(
    store: Store, values: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        store.fill(KEY, writes(b"1", **values))
    assert store.get(KEY) is None


def test_a_symlink_in_a_result_is_a_defect(store: Store) -> None:
    def produce(out: Path) -> dict[str, Any]:
        (out / "link").symlink_to(__file__)
        return {}

    with pytest.raises(ValueError, match="only plain files"):
        store.fill(KEY, produce)


@pytest.mark.parametrize("key", ["", "abc", "../" + "a" * 61, "A" * 64, "a" * 64 + "\n"])
def test_only_digests_are_keys(store: Store, key: str) -> None:
    with pytest.raises(ValueError, match="no sha256"):
        store.fill(key, writes(b"1"))


def test_a_place_that_cannot_be_written_names_the_variable(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="EDGEKIT_CACHE"):
        Store(tmp_path / "file")
    # A read-only file system that is there for every user, root too.
    with pytest.raises(OutputError, match="EDGEKIT_CACHE"):
        Store(Path("/proc/edgekit"))


def test_a_full_disk_in_a_stage_names_the_variable(store: Store) -> None:
    def produce(out: Path) -> dict[str, Any]:
        with Path("/dev/full").open("wb", buffering=0) as stream:
            stream.write(b"x")
        return {}

    with pytest.raises(OutputError, match="EDGEKIT_CACHE") as caught:
        store.fill(KEY, produce)
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == errno.ENOSPC


def test_a_stage_that_misses_a_file_is_not_blamed_on_the_cache(store: Store) -> None:
    with pytest.raises(FileNotFoundError):
        store.fill(KEY, lambda out: json.loads((out / "missing").read_text()))


def test_the_root_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKIT_CACHE", "/x/cache")
    assert default_root() == Path("/x/cache")
    monkeypatch.delenv("EDGEKIT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/y")
    assert default_root() == Path("/y/edgekit")
    for ignored in ("relative", ""):
        monkeypatch.setenv("XDG_CACHE_HOME", ignored)
        assert default_root() == Path.home() / ".cache" / "edgekit"


def _age(store: Store, key: str, seconds: float) -> None:
    stamp = time.time() - seconds
    os.utime(store.root / "results" / key / "result.json", (stamp, stamp))


def test_the_longest_unused_entries_go_first(store: Store) -> None:
    keys = [f"{number:064x}" for number in range(4)]
    with Store(store.root) as filler:
        for age, key in enumerate(keys):
            filler.fill(key, writes(b"x" * 1000), reporter=Reporter(stage=f"s{age}"))
            _age(store, key, 100 - age)
    entries = store.entries()
    assert [entry.key for entry in entries] == keys
    assert [entry.stage for entry in entries] == ["s0", "s1", "s2", "s3"]
    store.get(keys[0])  # now the freshest, and in use
    store.close()
    size = entries[0].bytes
    assert size > 1000
    assert store.bound(2 * size) == 2 * size
    assert [entry.key for entry in store.entries()] == [keys[3], keys[0]]
    assert store.size_bytes() <= 2 * size
    assert store.bound(10**9) == 0


def test_what_is_in_use_is_not_removed(store: Store) -> None:
    with Store(store.root) as other:
        used = other.fill(KEY, writes(b"1"))
        store.fill(OTHER, writes(b"2"))
        store.close()
        store.clear()
        assert store.bound(0) == 0
        assert (used.folder / "sub" / "model.bin").read_bytes() == b"1"
        assert [entry.key for entry in store.entries()] == [KEY]
    assert store.clear() > 0
    assert store.size_bytes() == 0
    assert not list((store.root / "locks").iterdir())


def test_what_is_being_made_is_not_removed(store: Store) -> None:
    def produce(out: Path) -> dict[str, Any]:
        (out / "half").write_bytes(b"1")
        with Store(store.root) as other:
            other.clear()
        assert (out / "half").exists()
        return {}

    assert store.fill(KEY, produce).files[0].path == "half"


KILLED_IN_TRAINING = """
import os, signal, sys
from pathlib import Path
from edgekit.core.progress import Reporter
from edgekit.store import Store

root, key = Path(sys.argv[1]), sys.argv[2]
with Store(root) as store:
    def train(out):
        (store.checkpoints(key, "distil") / "epoch3.pt").write_bytes(b"w" * 5000)
        os.kill(os.getpid(), signal.SIGKILL)
    store.fill(key, train, reporter=Reporter(stage="distil"))
"""


def _kill_in_training(store: Store, key: str, age_seconds: float) -> None:
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_IN_TRAINING, str(store.root), key], check=False
    )
    assert killed.returncode == -signal.SIGKILL
    stamp = time.time() - age_seconds
    folder = store.root / "checkpoints" / key
    for item in (*folder.rglob("*"), folder):
        os.utime(item, (stamp, stamp))


def test_checkpoints_of_a_killed_training_are_listed_with_their_bytes(store: Store) -> None:
    _kill_in_training(store, KEY, 1000)
    store.fill(OTHER, writes(b"1"), reporter=Reporter(stage="export"))
    first, second = store.entries()
    assert (first.key, first.stage, first.is_unfinished) == (KEY, "distil", True)
    assert first.bytes == 5000 + len("distil")
    assert first.used_at == pytest.approx(time.time() - 1000, abs=100)
    assert (second.key, second.is_unfinished) == (OTHER, False)


def test_old_checkpoints_go_before_younger_results(store: Store) -> None:
    _kill_in_training(store, KEY, 1000)
    with Store(store.root) as filler:
        filler.fill(OTHER, writes(b"1"))
    size = store.entries()[1].bytes
    assert store.bound(size + 100) >= 5000
    assert [entry.key for entry in store.entries()] == [OTHER]
    assert not list((store.root / "checkpoints").iterdir())


def test_younger_checkpoints_outlive_old_results(store: Store) -> None:
    with Store(store.root) as filler:
        filler.fill(OTHER, writes(b"x" * 5000))
    _age(store, OTHER, 2000)
    _kill_in_training(store, KEY, 1000)
    assert store.bound(6000) > 5000
    assert [entry.key for entry in store.entries()] == [KEY]
    assert (store.root / "checkpoints" / KEY / "work" / "epoch3.pt").exists()


def test_clear_removes_checkpoints(store: Store) -> None:
    _kill_in_training(store, KEY, 0)
    assert store.clear() >= 5000
    assert store.entries() == ()
    assert store.size_bytes() == 0


def test_checkpoints_of_a_living_build_are_listed_and_stay(store: Store) -> None:
    def train(out: Path) -> dict[str, Any]:
        checkpoint = store.checkpoints(KEY, "prune") / "epoch1.pt"
        checkpoint.write_bytes(b"w")
        with Store(store.root) as other:
            assert [(item.stage, item.is_unfinished) for item in other.entries()] == [
                ("prune", True)
            ]
            other.bound(0)
            other.clear()
        assert checkpoint.exists()
        return {}

    store.fill(KEY, train, reporter=Reporter(stage="prune"))
    (entry,) = store.entries()
    assert not entry.is_unfinished
    assert not list((store.root / "checkpoints").iterdir())


def test_leftovers_of_killed_builds_are_removed_and_strangers_kept(store: Store) -> None:
    for name in (f"{KEY}-dead", "stranger"):
        (store.root / "temp" / name).mkdir()
    (store.root / "temp" / f"{KEY}-file").write_bytes(b"")
    (store.root / "results" / "stranger").write_bytes(b"")
    with Store(store.root) as opened:
        assert [item.name for item in (store.root / "temp").iterdir()] == ["stranger"]
        opened.clear()
        assert opened.entries() == ()
    assert (store.root / "results" / "stranger").exists()


def test_two_threads_make_a_result_once(store: Store, said: list[Event]) -> None:
    calls: list[int] = []

    def slow(out: Path) -> dict[str, Any]:
        calls.append(1)
        time.sleep(0.3)
        return {"n": 1}

    results: list[StoredResult] = []
    threads = [
        threading.Thread(
            target=lambda: results.append(store.fill(KEY, slow, reporter=reporter(said)))
        )
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert calls == [1]
    assert sorted(result.is_reused for result in results) == [False, True, True]
    assert {"waiting: another build is making the same result"} == {e.message for e in said}


FILLER = """
import os, random, sys, time
from pathlib import Path
from edgekit.store import Store

root, log, rounds = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
keys = [f"{n:064x}" for n in range(6)]

def produce(key):
    def work(out):
        with log.open("ab", buffering=0) as stream:
            stream.write(key.encode() + b"\\n")
        for n in range(5):
            (out / f"part{n}").write_bytes(key.encode() * 500)
            time.sleep(0.001)
        return {"key": key}
    return work

print("ready", flush=True)
for _ in range(rounds):
    with Store(root) as store:
        for key in random.sample(keys, len(keys)):
            result = store.fill(key, produce(key), refresh=random.random() < 0.3 and rounds > 1)
            assert result.values == {"key": key}
            assert all(p.read_bytes() == key.encode() * 500 for p in result.folder.iterdir())
            assert len(list(result.folder.iterdir())) == 5
        if rounds > 1 and random.random() < 0.2:
            store.bound(20_000)
"""


def _start_filler(root: Path, log: Path, rounds: int) -> "subprocess.Popen[str]":
    process = subprocess.Popen(
        [sys.executable, "-c", FILLER, str(root), str(log), str(rounds)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_four_processes_make_every_result_exactly_once(tmp_path: Path) -> None:
    root, log = tmp_path / "cache", tmp_path / "log"
    fillers = [_start_filler(root, log, 1) for _ in range(4)]
    for filler in fillers:
        _, stderr = filler.communicate(timeout=60)
        assert filler.returncode == 0, stderr
    assert sorted(log.read_text().split()) == [f"{number:064x}" for number in range(6)]


def test_four_processes_that_also_refresh_and_evict_never_see_anything_half(
    tmp_path: Path,
) -> None:
    root, log = tmp_path / "cache", tmp_path / "log"
    fillers = [_start_filler(root, log, 8) for _ in range(4)]
    for filler in fillers:
        _, stderr = filler.communicate(timeout=120)
        assert filler.returncode == 0, stderr
    assert not list((root / "temp").iterdir())


@pytest.mark.slow
def test_thirty_kills_at_random_moments_leave_nothing_half_written(tmp_path: Path) -> None:
    root, log = tmp_path / "cache", tmp_path / "log"
    dice = random.Random(20261123)
    for _ in range(30):
        filler = _start_filler(root, log, 1000)
        time.sleep(dice.uniform(0.0, 0.15))
        filler.send_signal(signal.SIGKILL)
        filler.communicate()
        _check_whole(root)
    filler = _start_filler(root, log, 2)
    _, stderr = filler.communicate(timeout=60)
    assert filler.returncode == 0, stderr
    with Store(root) as store:
        assert store.clear() > 0
        assert store.size_bytes() == 0


def _check_whole(root: Path) -> None:
    """Every entry that has a record is whole, judged from the files alone; temp is swept."""
    for record in (root / "results").glob("*/result.json"):
        content = json.loads(record.read_bytes())
        key = record.parent.name
        assert content["values"] == {"key": key}
        files = folder_entries(record.parent / content["digest"])
        wanted = hashlib.sha256(key.encode() * 500).hexdigest()
        assert [(f.path, f.sha256) for f in files] == [(f"part{n}", wanted) for n in range(5)]
    with Store(root):
        assert not list((root / "temp").iterdir())

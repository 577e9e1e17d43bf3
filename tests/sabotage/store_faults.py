"""Faults in the cache: a result is handed out only if it is what was stored."""

import json
import shutil
from pathlib import Path

import edgekit
from edgekit.core.codec import to_plain
from edgekit.core.progress import ignore
from edgekit.core.stage import StageRequest
from edgekit.flow.stages import Runner
from edgekit.store import Store, folder_digest
from tests.sabotage.registry import fault

STRIP = "edgekit.compile.strip:strip"


class _Cache:
    """A store with the stripped model of one honest bundle in it."""

    def __init__(self, kit, bundle=None):
        self.root = kit.new("store")
        self.heard = []
        self.request = self._request(bundle or kit.phone)
        self.first = self.run()

    def run(self, request=None, *, refresh=False):
        with Store(self.root) as store:
            runner = Runner(store, self.heard.append, refresh=refresh)
            return runner.run(request or self.request)

    def _request(self, bundle: Path):
        (component,) = edgekit.verify(bundle).manifest.components
        artifact = to_plain(component.artifact)
        artifact["entry"] = Path(artifact["entry"]).name
        return StageRequest(
            name="strip",
            handler=STRIP,
            settings={"artifact": artifact, "contract": to_plain(component.contract)},
            inputs={"artifact": str(bundle / "model")},
            digests={"artifact": folder_digest(bundle / "model")},
        )

    def is_noticed(self, message):
        """Whether the next run makes the result anew, says why, and gives what it gave before."""
        self.heard.clear()
        again = self.run()
        assert not again.is_reused
        assert again.digest == self.first.digest
        assert any(message in event.message for event in self.heard), self.heard


@fault("store")
def a_cache_entry_holds_another_model(kit):
    """A stale file under the key of this one."""
    cache = _Cache(kit)
    other = (kit.board / "model" / "model.tflite").read_bytes()
    (cache.first.folder / "model.tflite").write_bytes(other)
    cache.is_noticed("model.tflite has other bytes than were stored")


@fault("store")
def a_cache_entry_is_cut_short(kit):
    """The disk was full, or a copy was interrupted."""
    cache = _Cache(kit)
    path = cache.first.folder / "model.tflite"
    path.write_bytes(path.read_bytes()[:-1])
    cache.is_noticed("model.tflite has other bytes than were stored")


@fault("store")
def a_cache_entry_is_of_another_key(kit):
    """A whole and sound entry in the wrong place."""
    cache = _Cache(kit)
    other = _Cache(kit, kit.board)
    shutil.rmtree(cache.first.folder.parent)
    shutil.copytree(other.first.folder.parent, cache.first.folder.parent)
    cache.is_noticed("belongs to another key")


@fault("store")
def the_values_of_a_cache_entry_were_edited(kit):
    """The files are right; what the stage said about them is not."""
    cache = _Cache(kit)
    path = cache.first.folder.parent / "result.json"
    record = json.loads(path.read_bytes())
    record["values"]["artifact"]["precision"] = "int4"
    path.write_bytes(json.dumps(record, sort_keys=True, separators=(",", ":")).encode() + b"\n")
    cache.is_noticed("does not match its own digest")


@fault("store")
def a_stage_is_not_deterministic(kit):
    """The same input gives other bytes each time: named when it is made anew."""
    cache = _Cache(kit)
    cache.heard.clear()
    request = StageRequest(name="draw", handler="tests.sabotage.handlers:draw")
    cache.run(request)
    again = cache.run(request, refresh=True)
    assert again.differences == ("drawn.bin",)
    (warning,) = [event for event in cache.heard if event.kind == "warning"]
    assert "StageNotDeterministic" in warning.message
    assert "drawn.bin" in warning.message
    with Store(cache.root) as store:
        runner = Runner(store, ignore, refresh=True)
        assert runner.run(cache.request).differences == ()

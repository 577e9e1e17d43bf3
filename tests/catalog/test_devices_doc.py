"""docs/devices.md says what the profiles say."""

import importlib.util

from edgekit.catalog.search import built_in_root

ROOT = built_in_root()


def test_the_table_of_devices_is_what_the_profiles_say():
    spec = importlib.util.spec_from_file_location("table", ROOT / "scripts/make_device_table.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    text = (ROOT / "docs" / "devices.md").read_text(encoding="utf-8")
    assert text == module.render(), "run scripts/make_device_table.py"

"""One kit a session: honest bundles are built when a fault first asks for them."""

import pytest

from tests.sabotage.kit import Kit


@pytest.fixture(scope="session")
def kit(tmp_path_factory):
    """Honest results to spoil, in the cache that all tests of builds share."""
    cache = tmp_path_factory.getbasetemp() / "edgekit-cache"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEKIT_CACHE", str(cache))
        yield Kit(tmp_path_factory.mktemp("kit"))

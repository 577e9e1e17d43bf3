"""Content-addressed stage results, locks and atomic writes.

``results`` keeps what stages made, found again by the digest of all that went in; ``record`` is
what it writes down and checks, ``layout`` where things lie, ``listing`` what is there; ``files``
writes and hashes files; ``locks`` holds off other processes. Imports ``core`` only.
"""

from edgekit.store.files import atomic_write, file_digest, folder_digest, folder_entries
from edgekit.store.record import StoredResult, StoreEntry
from edgekit.store.results import Store, default_root

__all__ = [
    "Store",
    "StoreEntry",
    "StoredResult",
    "atomic_write",
    "default_root",
    "file_digest",
    "folder_digest",
    "folder_entries",
]

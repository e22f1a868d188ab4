"""``aios.kv``: small values by key, kept when the agent ends.

    aios.kv.set("seen", 12)
    aios.kv.get("seen")                     # 12
    entry = aios.kv.entry("seen")           # with its version, to change it only if nobody else has
    aios.kv.set("seen", entry.value + 1, expect=entry.version)

Values are what msgpack can carry, 64 KiB at most. All agents of a name have the same ones.
"""

from __future__ import annotations

import builtins
from typing import Any

from aios.syscalls.errors import NotFound
from aios.syscalls.types.storage import KvDelete, KvEntry, KvKey, KvKeys, KvList, KvSet

from . import session


def get(key: str, default: Any = None) -> Any:
    """The value, or ``default`` when there is none."""
    try:
        return entry(key).value
    except NotFound:
        return default


def entry(key: str) -> KvEntry:
    """The value with its version. Raises NotFound."""
    found: KvEntry = session.call("kv.get", KvKey(key))
    return found


def set(key: str, value: Any, *, expect: int | None = None) -> KvEntry:
    """Keep a value; on return it is on the disk.

    ``expect``: the version that it must have now, 0 for none. Raises VersionConflict,
    QuotaExceeded, ResourceExhausted (too large).
    """
    kept: KvEntry = session.call("kv.set", KvSet(key, value, expect))
    return kept


def delete(key: str, *, expect: int | None = None) -> None:
    """Forget a value. Raises NotFound, VersionConflict."""
    session.call("kv.delete", KvDelete(key, expect))


def list(prefix: str = "") -> builtins.list[str]:
    """All keys that begin with ``prefix``, in order."""
    found: builtins.list[str] = []
    more = True
    while more:
        page: KvKeys = session.call("kv.list", KvList(prefix, found[-1] if found else ""))
        found += page.keys
        more = page.more
    return found

"""``aios.kv``: small values by key, kept after the agent ends.

    aios.kv.set("seen", 12)
    aios.kv.get("seen")                     # 12
    entry = aios.kv.entry("seen")           # with its version, to detect changes by others
    aios.kv.set("seen", entry.value + 1, expect=entry.version)

A value is anything that msgpack can encode, up to 64 KiB. All agents of one name share them.
"""

from __future__ import annotations

import builtins
from typing import Any

from aios.syscalls.errors import NotFound
from aios.syscalls.types.common import Empty
from aios.syscalls.types.storage import KvDelete, KvEntry, KvKey, KvKeys, KvList, KvSet

from . import session


def get(key: str, default: Any = None) -> Any:
    """Return the value of a key, or ``default`` if there is none."""
    try:
        return entry(key).value
    except NotFound:
        return default


def entry(key: str) -> KvEntry:
    """Return a value with its version. Raises NotFound."""
    return session.call("kv.get", KvKey(key), KvEntry)


def set(key: str, value: Any, *, expect: int | None = None) -> KvEntry:
    """Set the value of a key; it is on disk when this returns.

    ``expect``: the version that it must have now, 0 for none. Raises VersionConflict,
    QuotaExceeded, ResourceExhausted (too large).
    """
    return session.call("kv.set", KvSet(key, value, expect), KvEntry)


def delete(key: str, *, expect: int | None = None) -> None:
    """Delete a key. Raises NotFound, VersionConflict."""
    session.call("kv.delete", KvDelete(key, expect), Empty)


def list(prefix: str = "") -> builtins.list[str]:
    """Return all keys that begin with ``prefix``, in order."""
    found: builtins.list[str] = []
    more = True
    while more:
        page = session.call("kv.list", KvList(prefix, found[-1] if found else ""), KvKeys)
        found += page.keys
        more = page.more
    return found

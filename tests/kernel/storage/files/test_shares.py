"""Shares of files, and values."""

from __future__ import annotations

import pytest

from aios.syscalls import storage_types as s
from aios.syscalls.errors import (
    NotFound,
    PermissionDenied,
    VersionConflict,
)
from tests.kernel.storage.rig import Rig


def test_shares_hold_for_what_they_name_and_end_when_taken_back(store: Rig) -> None:
    store.write("bob", "notes/a", b"1")
    store.write("bob", "secret", b"2")
    with pytest.raises(PermissionDenied, match="bob does not share it"):
        store.read("eve", "/shared/bob/notes/a")
    store.share("bob", "notes", "eve")
    assert store.read("eve", "/shared/bob/notes/a") == b"1"
    assert store.names("eve", "/shared") == ["/shared/bob"]
    assert store.names("eve", "/shared/bob") == ["/shared/bob/notes"]
    with pytest.raises(PermissionDenied, match="for reading only"):
        store.write("eve", "/shared/bob/notes/a", b"")
    for path in ("/shared/bob/secret", "/shared/bob/notesx", "/shared/bob"):
        with pytest.raises(PermissionDenied):
            store.write("eve", path, b"")
    with pytest.raises(PermissionDenied):
        store.read("eve", "/shared/bob/secret")
    store.share("bob", "notes", "eve", "write")
    store.write("eve", "/shared/bob/notes/b", b"3")
    assert store.history("bob", "notes/b")[0].by == "eve"
    store.share("bob", "notes", "eve", None)
    with pytest.raises(PermissionDenied):
        store.read("eve", "/shared/bob/notes/a")
    with pytest.raises(NotFound):
        store.share("bob", "notes", "eve", None)
    store.share("bob", "secret", "*")
    assert store.read("anyone", "/shared/bob/secret") == b"2"


def test_values(store: Rig) -> None:
    storage = store.storage
    entry: s.KvEntry = store.ask(lambda done: storage.set_value("bob", "k", b"\x01", None, done))
    assert entry.version == 1
    with pytest.raises(VersionConflict):
        store.ask(lambda done: storage.set_value("bob", "k", b"\x02", 0, done))
    assert store.ask(lambda done: storage.get_value("bob", "k", done)).value == 1
    with pytest.raises(NotFound):
        store.ask(lambda done: storage.get_value("eve", "k", done))
    store.ask(lambda done: storage.delete_value("bob", "k", 1, done))
    assert store.usage("bob").used_bytes == 0

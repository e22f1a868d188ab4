"""Shares of files, and values."""

from __future__ import annotations

import pytest

from aios.syscalls.errors import (
    NotFound,
    PermissionDenied,
    VersionConflict,
)
from tests.kernel.storage.rig import Rig


def test_shares_cover_what_they_name_until_they_are_taken_back(store: Rig) -> None:
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
    assert store.set_value("bob", "k", b"\1").version == 1
    with pytest.raises(VersionConflict):
        store.set_value("bob", "k", b"\2", 0)
    assert store.value("bob", "k").value == 1
    with pytest.raises(NotFound):
        store.value("eve", "k")
    store.ask(store.storage.delete_value("bob", "k", 1))
    assert store.usage("bob").used_bytes == 0

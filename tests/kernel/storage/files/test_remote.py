"""Blobs behind a URL: a local S3 server, a dead one, and going back to the disk."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aios.syscalls.errors import InvalidArgument, StorageUnavailable
from tests.kernel.storage.rig import BIG, Rig, rig

moto_server = pytest.importorskip("moto.server")
fsspec = pytest.importorskip("fsspec")
pytestmark = pytest.mark.filterwarnings("ignore")
"""The S3 packages warn; that is not ours to fix."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    """An S3 server on loopback with an empty bucket ``agents``."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    made = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    made.start()
    host, port = made.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    _objects().mkdir("agents")
    yield made
    _objects().rm("agents", recursive=True)  # it would outlive the server, in this process
    made.stop()


def _objects() -> Any:
    return fsspec.filesystem("s3", use_listings_cache=False)


def _count() -> int:
    return len(_objects().find("agents"))


def _exercise(store: Rig) -> None:
    store.write("bob", "big", BIG)
    store.write("bob", "big", BIG[:500_000], append=True)
    store.write("bob", "small", b"in the database")
    assert store.read("bob", "big") == BIG + BIG[:500_000]
    assert store.read("bob", "big", offset=2_999_990, length=20) == BIG[-10:] + BIG[:10]
    store.rollback("bob", "big", 1)
    assert store.read("bob", "big") == BIG
    assert store.check().problems == []


def test_blobs_go_to_s3_and_come_back(tmp_path: Path, server: object) -> None:
    with rig(tmp_path, url="s3://agents/blobs") as store:
        _exercise(store)
        assert _count() >= 4 and not (tmp_path / "blobs").exists()
        store.backup(tmp_path / "saved")
        store.delete("bob", "big")
        store.prune("bob")
        while _count():
            store.names("bob")  # turns the loop, so that the sweep continues
    with rig(tmp_path / "saved") as saved:
        assert saved.read("bob", "big") == BIG, "a backup needs no S3"


def test_a_new_url_leaves_old_blobs_in_place(tmp_path: Path, server: object) -> None:
    with rig(tmp_path) as store:
        store.write("bob", "local", BIG)
    with rig(tmp_path, url="s3://agents") as store:
        store.write("bob", "remote", BIG[::-1])
        assert store.read("bob", "local") == BIG
    with rig(tmp_path) as store:
        assert store.read("bob", "remote") == BIG[::-1] and store.check().problems == []


def test_a_dead_store_is_reported_and_small_files_still_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    with rig(tmp_path, url="s3://agents") as store:
        with pytest.raises(StorageUnavailable, match="does not answer"):
            store.write("bob", "big", BIG)
        store.write("bob", "small", b"fine")
        assert store.names("bob") == ["/small"] and store.usage("bob").files == 1


def test_any_fsspec_url_works(tmp_path: Path) -> None:
    with rig(tmp_path / "s", url=f"file://{tmp_path}/elsewhere?auto_mkdir=1") as store:
        del store
    fsspec.filesystem("memory").store.clear()
    with rig(tmp_path / "m", url="memory://agents") as store:
        _exercise(store)
    with rig(tmp_path / "n", url="nonsense://x") as store, pytest.raises(InvalidArgument):
        store.write("bob", "big", BIG)

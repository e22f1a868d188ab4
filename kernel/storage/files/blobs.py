"""Blobs: large content in files below a folder, or in objects behind a URL (S3 and others).

A blob is written once under a name that is never reused, never changed, and deleted when nothing
refers to it. ``put`` returns when the bytes are durable: on the disk, or in the remote store.
Everything here blocks and runs in the store's lane, so a slow store never delays small files.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from aios.hw.machine.durable import sync
from aios.syscalls.errors import AiosError, DiskFull, InvalidArgument, StorageUnavailable

from .chunks import BLOB_BYTES, INLINE_BYTES, Piece

RESERVE_BYTES = 16 << 20
"""Disk space that blobs leave free, so that the database can still commit deletions."""
_PER_FOLDER = 4096
_REMOTE_TIMEOUT_S = 20


class BlobStore(Protocol):
    """A store of blobs. Raises StorageUnavailable, DiskFull; KeyError for a missing blob."""

    def put(self, blobs: Sequence[tuple[str, bytes]]) -> None:
        """Write all of them durably."""

    def get(self, key: str) -> bytes:
        """Return a blob's bytes."""

    def delete(self, keys: Sequence[str]) -> None:
        """Delete blobs; missing ones are ignored."""

    def names(self) -> Iterator[str]:
        """Yield the names of all blobs."""


class LocalBlobs:
    """Files below a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, blobs: Sequence[tuple[str, bytes]]) -> None:
        try:
            free = os.statvfs(self._folder.parent)
            if free.f_bavail * free.f_frsize < RESERVE_BYTES + sum(len(d) for _, d in blobs):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            folders = {(self._folder / key).parent for key, _ in blobs}
            for folder in folders:
                _make_durable(folder)
            for key, data in blobs:
                _write_durable(self._folder / key, data)
            for folder in folders:
                sync(folder)
        except OSError as error:
            raise disk_error(error, self._folder) from None

    def get(self, key: str) -> bytes:
        try:
            return (self._folder / key).read_bytes()
        except FileNotFoundError:
            raise KeyError(key) from None
        except OSError as error:
            raise disk_error(error, self._folder) from None

    def delete(self, keys: Sequence[str]) -> None:
        try:
            for key in keys:
                (self._folder / key).unlink(missing_ok=True)
        except OSError as error:
            raise disk_error(error, self._folder) from None

    def names(self) -> Iterator[str]:
        for base, _, names in os.walk(self._folder):
            yield from (os.path.relpath(os.path.join(base, name), self._folder) for name in names)


class RemoteBlobs:
    """Objects of an fsspec file system."""

    def __init__(self, url: str) -> None:
        """Open a store. Raises InvalidArgument if no installed package understands the URL."""
        try:
            import fsspec

            options: dict[str, Any] = {}
            if url.startswith(("s3://", "s3a://")):
                options["config_kwargs"] = {
                    "connect_timeout": _REMOTE_TIMEOUT_S, "read_timeout": _REMOTE_TIMEOUT_S,
                    "retries": {"max_attempts": 2},
                }  # fmt: skip
            self._system, self._root = fsspec.core.url_to_fs(url, use_listings_cache=False,
                                                             **options)  # fmt: skip
            if options:
                self._system.retries = 1  # s3fs retries on top of that
        except (ImportError, ValueError) as error:
            raise InvalidArgument(
                f"storage = {url!r}: {error}",
                "for S3, install: pip install 'aiosd[s3]'; others: their fsspec package",
            ) from None
        self._url = url

    def put(self, blobs: Sequence[tuple[str, bytes]]) -> None:
        self._do(lambda: self._system.pipe({self._path(key): data for key, data in blobs}))

    def get(self, key: str) -> bytes:
        data: bytes = self._do(lambda: self._system.cat_file(self._path(key)))
        return data

    def delete(self, keys: Sequence[str]) -> None:
        for key in keys:
            try:
                self._do(functools.partial(self._system.rm_file, self._path(key)))
            except KeyError:
                continue

    def names(self) -> Iterator[str]:
        try:
            found: list[str] = self._do(lambda: self._system.find(self._root))
        except KeyError:
            return
        for path in found:
            yield path.removeprefix(self._root).lstrip("/")

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}"

    def _do(self, action: Any) -> Any:
        """Turn what the store's package raises into one typed error with its reason."""
        try:
            return action()
        except FileNotFoundError as error:
            raise KeyError(str(error)) from None
        except AiosError:
            raise
        except Exception as error:
            raise StorageUnavailable(
                f"{self._url} does not answer as it should: {type(error).__name__}: {error}",
                "small files still work; check the store, its address and its keys",
            ) from None


class Blobs:
    """The blob stores of one kernel by number: the current one is written to, the others are read.

    ``open`` it before use.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.urls: dict[int, str] = {}
        self.current = 0
        self._boot = self._written = 0
        self._open: dict[int, BlobStore] = {}

    def open(self, urls: dict[int, str], current: int, boot: int, written: int = 0) -> None:
        """Set the stores' URLs ('' is the folder) and the number of this start of the kernel.

        Names begin behind the number ``written``, for when other starts have the same number.
        """
        self.urls, self.current, self._boot, self._written = urls, current, boot, written

    @property
    def local(self) -> int | None:
        """The number of the store in the folder."""
        return next((number for number, url in self.urls.items() if not url), None)

    def store(self, number: int) -> BlobStore:
        """Return a store; open it when it is first needed. Raises KeyError if there is none."""
        if number not in self._open:
            url = self.urls.get(number)
            if url is None:
                raise KeyError(f"store {number}")
            self._open[number] = RemoteBlobs(url) if url else LocalBlobs(self._folder / "blobs")
        return self._open[number]

    def lane(self, *numbers: int) -> str:
        """Return the lane in which all these stores are reached: a remote one's, if any is."""
        remote = (url for number in numbers if (url := self.urls.get(number)))
        return next(remote, str(self._folder / "blobs"))

    def cut(self, data: bytes) -> list[Piece]:
        """Split content into pieces; those that are blobs are written."""
        pieces, blobs = [], []
        for start in range(0, len(data), BLOB_BYTES):
            part = data[start : start + BLOB_BYTES]
            digest = hashlib.sha256(part).digest()
            if len(part) <= INLINE_BYTES:
                pieces.append(Piece(digest, len(part), part))
                continue
            self._written += 1
            folder = f"{self._boot:x}/{self._written // _PER_FOLDER:x}"
            key = f"{folder}/{self._written:x}-{digest.hex()}"
            blobs.append((key, part))
            pieces.append(Piece(digest, len(part), None, self.current, key))
        if blobs:
            self.store(self.current).put(blobs)
        return pieces

    def written_before(self, key: str) -> bool:
        """Return True if an earlier kernel wrote the blob, so no write under way needs it."""
        boot = key.partition("/")[0]
        try:
            return int(boot, 16) < self._boot
        except ValueError:
            return False


def disk_error(error: OSError, where: Path) -> AiosError:
    """Return the typed error for an error of the host's disk."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(
            f"there is no room in {where}", "make room on that disk; reading goes on meanwhile"
        )
    return StorageUnavailable(f"{where}: {error.strerror}", "the kernel's log and dmesg say more")


def _write_durable(path: Path, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        os.fsync(fd)
    except BaseException:
        os.unlink(path)
        raise
    finally:
        os.close(fd)


def _make_durable(folder: Path) -> None:
    if not folder.is_dir():
        _make_durable(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)
        sync(folder.parent)

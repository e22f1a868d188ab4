"""Where large content lies: files in a folder, or objects behind a URL (S3 and others).

A blob is written once under a name of its own, never changed, and deleted when nothing refers to
it. ``put`` returns when the bytes are safe: on the disk, or with the remote store. All of it blocks
and runs in the lane of its store, so a slow store never keeps small files waiting.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from aios.syscalls.errors import AiosError, DiskFull, InvalidArgument, StorageUnavailable

from .chunks import BLOB_BYTES, INLINE_BYTES, Piece

RESERVE_BYTES = 16 << 20
"""Room that blobs leave on the disk, so that the database can still commit what frees some."""
_PER_FOLDER = 4096
_REMOTE_TIMEOUT_S = 20


class BlobStore(Protocol):
    """What holds blobs. Raises StorageUnavailable, DiskFull; KeyError for a missing blob."""

    def put(self, blobs: Sequence[tuple[str, bytes]]) -> None:
        """Keep them all, durably."""

    def get(self, key: str) -> bytes:
        """The bytes of one."""

    def delete(self, keys: Sequence[str]) -> None:
        """Forget them; one that is missing is fine."""

    def names(self) -> Iterator[str]:
        """All there are."""


class LocalBlobs:
    """Files below a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, blobs: Sequence[tuple[str, bytes]]) -> None:
        """Each file and its folder are on the disk on return."""
        try:
            free = os.statvfs(self._folder.parent)
            if free.f_bavail * free.f_frsize < RESERVE_BYTES + sum(len(d) for _, d in blobs):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            for folder in {(self._folder / key).parent for key, _ in blobs}:
                _make_durable(folder)
            for key, data in blobs:
                _write_durable(self._folder / key, data)
            for folder in {(self._folder / key).parent for key, _ in blobs}:
                _sync_folder(folder)
        except OSError as error:
            raise disk_error(error, self._folder) from None

    def get(self, key: str) -> bytes:
        """Its bytes."""
        try:
            return (self._folder / key).read_bytes()
        except FileNotFoundError:
            raise KeyError(key) from None
        except OSError as error:
            raise disk_error(error, self._folder) from None

    def delete(self, keys: Sequence[str]) -> None:
        """Unlink them."""
        try:
            for key in keys:
                (self._folder / key).unlink(missing_ok=True)
        except OSError as error:
            raise disk_error(error, self._folder) from None

    def names(self) -> Iterator[str]:
        """Names relative to the folder."""
        for base, _, names in os.walk(self._folder):
            yield from (os.path.relpath(os.path.join(base, name), self._folder) for name in names)


class RemoteBlobs:
    """Objects of an fsspec file system."""

    def __init__(self, url: str) -> None:
        """Raises InvalidArgument for a URL that no installed package understands."""
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
                self._system.retries = 1  # s3fs tries on top of that, for a read even twice over
        except (ImportError, ValueError) as error:
            raise InvalidArgument(
                f"storage = {url!r}: {error}",
                "for S3, install: pip install 'aiosd[s3]'; others: their fsspec package",
            ) from None
        self._url = url

    def put(self, blobs: Sequence[tuple[str, bytes]]) -> None:
        """All at once, where the store can."""
        self._do(lambda: self._system.pipe({self._path(key): data for key, data in blobs}))

    def get(self, key: str) -> bytes:
        """Its bytes."""
        data: bytes = self._do(lambda: self._system.cat_file(self._path(key)))
        return data

    def delete(self, keys: Sequence[str]) -> None:
        """Remove them."""
        for key in keys:
            try:
                self._do(functools.partial(self._system.rm_file, self._path(key)))
            except KeyError:
                continue

    def names(self) -> Iterator[str]:
        """Names below the URL."""
        try:
            found: list[str] = self._do(lambda: self._system.find(self._root))
        except KeyError:
            return
        for path in found:
            yield path.removeprefix(self._root).lstrip("/")

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}"

    def _do(self, action: Any) -> Any:
        """Whatever a store's package raises becomes one typed error, with its reason."""
        try:
            return action()
        except FileNotFoundError as error:
            raise KeyError(str(error)) from None
        except AiosError:
            raise
        except Exception as error:
            raise StorageUnavailable(
                f"{self._url} does not answer as it should: {type(error).__name__}: {error}",
                "small files go on; look at the store, its address and its keys",
            ) from None


class Blobs:
    """The stores of one kernel by number: the one that is written to, and those of old times."""

    def __init__(
        self, folder: Path, urls: dict[int, str], current: int, boot: int, written: int = 0
    ) -> None:
        """``written``: names begin behind this number, when others may be of the same ``boot``."""
        self._folder, self.urls, self.current, self._boot = folder, urls, current, boot
        self._open: dict[int, BlobStore] = {}
        self._written = written

    def store(self, number: int) -> BlobStore:
        """A store, opened when it is first needed."""
        if number not in self._open:
            url = self.urls.get(number)
            if url is None:
                raise KeyError(f"store {number}")
            self._open[number] = RemoteBlobs(url) if url else LocalBlobs(self._folder / "blobs")
        return self._open[number]

    def where(self, number: int) -> str:
        """What a store's answers are waited for from."""
        return self.urls.get(number) or str(self._folder / "blobs")

    def cut(self, data: bytes) -> list[Piece]:
        """Make content into pieces, those that are blobs kept already."""
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
        """Whether a name is of an earlier run of the kernel, so of nothing under way."""
        boot = key.partition("/")[0]
        try:
            return int(boot, 16) < self._boot
        except ValueError:
            return False


def disk_error(error: OSError, where: Path) -> AiosError:
    """A host's error, typed."""
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
        _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)

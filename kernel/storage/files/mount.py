"""A mounted folder of the host: no path below it leads outside.

Every path is walked name by name from a descriptor of the mounted folder, each step relative to the
folder before and with O_NOFOLLOW. So a link is refused wherever it stands; one that appears during
the walk is met by the step that would follow it, or comes too late. Only regular files and folders
are touched; devices and FIFOs are refused.

Content is replaced by a rename, so half a file is never seen. A mount keeps no versions. Everything
here blocks, perhaps forever, and runs in the folder's lane.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from aios.syscalls.errors import (
    AiosError,
    IllegalState,
    InvalidArgument,
    NotFound,
    PermissionDenied,
)
from aios.syscalls.types.storage import FileInfo, MountInfo

from .blobs import disk_error
from .paths import joined, parent_and_name

FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
"""Flags for opening a folder that others may replace meanwhile."""
PART = ".aios-part-"
"""Prefix of the kernel's temporary files; agents neither see nor write such names."""
MAX_LISTED = 100_000
"""Limit on entries of a folder that is listed."""


class Listing(NamedTuple):
    """A folder's entries; ``more`` is set if there are others behind them."""

    entries: list[FileInfo]
    more: bool


def read(mount: MountInfo, path: str, offset: int, length: int) -> tuple[FileInfo, bytes]:
    """Return a piece of a file."""
    with _reporting(mount, path), opened(mount, path) as (fd, info):
        return info, read_all(fd, offset, length)


def read_all(fd: int, offset: int, length: int) -> bytes:
    """Read ``length`` bytes at ``offset``, or up to the end of the file."""
    parts = []
    while length > 0 and (part := os.pread(fd, length, offset)):
        parts.append(part)
        offset, length = offset + len(part), length - len(part)
    return b"".join(parts)


def status(mount: MountInfo, path: str) -> FileInfo:
    """Return what a path is."""
    with _reporting(mount, path):
        if not path:
            with root(mount.folder) as fd:
                return _info(mount, path, os.fstat(fd))
        with _parent(mount, path) as (fd, name):
            return _info(mount, path, os.stat(name, dir_fd=fd, follow_symlinks=False))


def entries(mount: MountInfo, path: str, after: str, most: int) -> Listing:
    """List a folder behind ``after``, in order of name, without links and special files."""
    with _reporting(mount, path), _folder(mount, path) as fd:
        names = sorted(name for name in _names(fd) if name > after)
        found: list[FileInfo] = []
        for name in names:
            with contextlib.suppress(OSError, AiosError):
                state = os.stat(name, dir_fd=fd, follow_symlinks=False)
                if len(found) == most:
                    return Listing(found, True)
                found.append(_info(mount, joined(path, name), state))
    return Listing(found, False)


def _names(fd: int) -> Iterator[str]:
    with os.scandir(fd) as scan:
        for count, entry in enumerate(scan):
            if count >= MAX_LISTED:
                raise IllegalState(f"the folder has more entries than the limit of {MAX_LISTED:,}")
            if not entry.name.startswith(PART) and is_text(entry.name):
                yield entry.name


def is_text(name: str) -> bool:
    """Return True if a host's file name is valid UTF-8."""
    return not any(0xD800 <= ord(c) < 0xE000 for c in name)


def write(mount: MountInfo, path: str, data: bytes, append: bool) -> FileInfo:
    """Replace a file or append to it; make folders above it as needed. Durable on return."""
    return write_parts(mount, path, _parts(mount, path, data, append))


def _parts(mount: MountInfo, path: str, data: bytes, append: bool) -> Iterator[bytes]:
    offset = 0
    while append:
        try:
            _, old = read(mount, path, offset, 1 << 20)
        except NotFound:
            break
        if not old:
            break
        yield old
        offset += len(old)
    yield data


def write_parts(mount: MountInfo, path: str, parts: Iterator[bytes]) -> FileInfo:
    """Write a file from parts; it appears when the last part is on the disk."""
    need_write(mount, path)
    with _reporting(mount, path):
        _make_parents(mount, path)
        with _parent(mount, path) as (folder, name):
            _check_target(mount, path, folder, name)
            part = f"{PART}{secrets.token_hex(8)}"
            try:
                _write_new(folder, part, parts, _mode(folder, name))
                os.rename(part, name, src_dir_fd=folder, dst_dir_fd=folder)
            except BaseException:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(part, dir_fd=folder)
                raise
            os.fsync(folder)
            return _info(mount, path, os.stat(name, dir_fd=folder, follow_symlinks=False))


def _write_new(folder: int, name: str, parts: Iterator[bytes], mode: int) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(name, flags, mode, dir_fd=folder)
    try:
        for part in parts:
            view = memoryview(part)
            while view:
                view = view[os.write(fd, view) :]
        os.fsync(fd)
    finally:
        os.close(fd)


def _mode(folder: int, name: str) -> int:
    """Return the permissions of the file that is replaced, else the default."""
    try:
        return stat.S_IMODE(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode) & 0o777
    except FileNotFoundError:
        return 0o644


def _check_target(mount: MountInfo, path: str, folder: int, name: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        state = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if _info(mount, path, state).kind == "folder":
            raise IllegalState(f"/mnt/{mount.name}/{path} is a folder")


def _make_parents(mount: MountInfo, path: str) -> None:
    parent, _ = parent_and_name(path)
    if parent:
        make_folder(mount, parent)


def make_folder(mount: MountInfo, path: str) -> FileInfo:
    """Make a folder and those above it, as needed."""
    need_write(mount, path)
    with _reporting(mount, path), contextlib.ExitStack() as stack:
        fd = stack.enter_context(root(mount.folder))
        for name in path.split("/") if path else ():
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, 0o755, dir_fd=fd)
                os.fsync(fd)
            fd = os.open(name, FOLDER, dir_fd=fd)
            stack.callback(os.close, fd)
        return _info(mount, path, os.fstat(fd))


def move(mount: MountInfo, source: str, target: str) -> FileInfo:
    """Rename. Raises IllegalState if the target exists."""
    need_write(mount, source)
    need_write(mount, target)
    with _reporting(mount, source):
        _make_parents(mount, target)
        with _parent(mount, source) as (left, old), _parent(mount, target) as (right, new):
            _info(mount, source, os.stat(old, dir_fd=left, follow_symlinks=False))
            with contextlib.suppress(FileNotFoundError):
                os.stat(new, dir_fd=right, follow_symlinks=False)
                raise IllegalState(f"/mnt/{mount.name}/{target} exists", "delete it first")
            os.rename(old, new, src_dir_fd=left, dst_dir_fd=right)
            os.fsync(left)
            os.fsync(right)
            return _info(mount, target, os.stat(new, dir_fd=right, follow_symlinks=False))


def delete(mount: MountInfo, path: str, recursive: bool) -> None:
    """Delete a file or a folder. Links inside a folder are unlinked, not followed."""
    need_write(mount, path)
    if not path:
        raise InvalidArgument(f"/mnt/{mount.name} itself cannot be deleted",
                              "as the operator, use: aios storage umount")  # fmt: skip
    with _reporting(mount, path), _parent(mount, path) as (folder, name):
        state = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if _info(mount, path, state).kind == "file":
            os.unlink(name, dir_fd=folder)
        elif recursive:
            _delete_tree(folder, name)
        else:
            os.rmdir(name, dir_fd=folder)
        os.fsync(folder)


def _delete_tree(folder: int, name: str) -> None:
    fd = os.open(name, FOLDER, dir_fd=folder)
    try:
        with os.scandir(fd) as scan:
            inside = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in scan]
        for inner, is_folder in inside:
            if is_folder:
                _delete_tree(fd, inner)
            else:
                os.unlink(inner, dir_fd=fd)
    finally:
        os.close(fd)
    os.rmdir(name, dir_fd=folder)


# ------------------------------------------------------------------------------ walking


@contextlib.contextmanager
def root(folder: str) -> Iterator[int]:
    """Open the mounted folder. The operator named it, so links on the way to it are followed."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def _folder(mount: MountInfo, path: str) -> Iterator[int]:
    """Open a folder below the mount."""
    with contextlib.ExitStack() as stack:
        fd = stack.enter_context(root(mount.folder))
        for name in path.split("/") if path else ():
            fd = os.open(name, FOLDER, dir_fd=fd)
            stack.callback(os.close, fd)
        yield fd


@contextlib.contextmanager
def _parent(mount: MountInfo, path: str) -> Iterator[tuple[int, str]]:
    """Open the folder that holds a path; give the path's last name, too."""
    if not path:
        raise InvalidArgument(f"/mnt/{mount.name} is the mount itself, not a file in it")
    parent, name = parent_and_name(path)
    with _folder(mount, parent) as fd:
        yield fd, name


@contextlib.contextmanager
def opened(mount: MountInfo, path: str) -> Iterator[tuple[int, FileInfo]]:
    """Open a regular file for reading."""
    with _parent(mount, path) as (folder, name):
        _info(mount, path, os.stat(name, dir_fd=folder, follow_symlinks=False))
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        fd = os.open(name, flags, dir_fd=folder)
        try:
            info = _info(mount, path, os.fstat(fd))
            if info.kind == "folder":
                raise IllegalState(
                    f"{info.path} is a folder", "list it: aios.fs.list, or: aios storage ls"
                )
            yield fd, info
        finally:
            os.close(fd)


def _info(mount: MountInfo, path: str, state: os.stat_result) -> FileInfo:
    """Return what a path is. Raises PermissionDenied if it is neither a file nor a folder."""
    shown = f"/mnt/{mount.name}/{path}".rstrip("/")
    if stat.S_ISDIR(state.st_mode):
        return FileInfo(shown, "folder", 0, 0, state.st_mtime, "")
    if not stat.S_ISREG(state.st_mode):
        kind = "a link" if stat.S_ISLNK(state.st_mode) else "a special file"
        raise PermissionDenied(f"{shown} is {kind}; a mount gives only its files and folders")
    return FileInfo(shown, "file", state.st_size, 0, state.st_mtime, "")


def need_write(mount: MountInfo, path: str) -> None:
    """Raise PermissionDenied if the mount is read-only."""
    if not mount.writable:
        raise PermissionDenied(
            f"/mnt/{mount.name}/{path} cannot be changed: it is mounted read-only",
            f"as the operator, use: aios storage mount {mount.agent} {mount.folder} "
            f"--name {mount.name} --rw",
        )
    if any(name.startswith(PART) for name in path.split("/")):
        raise InvalidArgument(f"names that begin with {PART} are the kernel's own")


@contextlib.contextmanager
def _reporting(mount: MountInfo, path: str) -> Iterator[None]:
    """Turn the host's errors into typed ones that name the place as the agent knows it."""
    shown = f"/mnt/{mount.name}/{path}".rstrip("/")
    try:
        yield
    except OSError as error:
        raise _typed(error, shown) or disk_error(error, Path(mount.folder, path)) from None


def _typed(error: OSError, shown: str) -> AiosError | None:
    match error.errno:
        case errno.ENOENT:
            return NotFound(
                f"there is no {shown}", "list what there is: aios.fs.list, or: aios storage ls"
            )
        case errno.ELOOP:
            return PermissionDenied(
                f"{shown} leads through a link; a mount gives only its files and folders"
            )
        case errno.ENOTDIR:
            return IllegalState(f"{shown}: what should be a folder is a file or a link")
        case errno.ENOTEMPTY:
            return IllegalState(f"{shown} is not empty", "delete it with recursive=True")
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return PermissionDenied(f"{shown}: {error.strerror}")
    return None

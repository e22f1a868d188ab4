"""A folder of the host as an agent sees it: nothing outside can be reached through it.

Every path is walked name by name, from a descriptor of the mounted folder, each step with
O_NOFOLLOW relative to the folder before. So a link is refused wherever it stands, and one that is
put there while we walk is met by the step that would follow it, or comes too late. Only regular
files and folders are touched; a device or FIFO is refused.

Content is replaced by renaming, so nobody sees half of it. A mount keeps no versions. Everything
here blocks, perhaps for good, and runs in the lane of the folder.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator
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
"""How a folder is opened that others may put something else in the place of."""
PART = ".aios-part-"
"""Names begin so that are the kernel's own."""
MOST_LISTED = 100_000


class Listing(NamedTuple):
    """A folder's entries, and whether there are more."""

    entries: list[FileInfo]
    more: bool


def read(mount: MountInfo, path: str, offset: int, length: int) -> tuple[FileInfo, bytes]:
    """A piece of a file."""
    with _reporting(mount, path), opened(mount, path) as (fd, info):
        return info, read_all(fd, offset, length)


def read_all(fd: int, offset: int, length: int) -> bytes:
    """What there is of so many bytes."""
    parts = []
    while length > 0 and (part := os.pread(fd, length, offset)):
        parts.append(part)
        offset, length = offset + len(part), length - len(part)
    return b"".join(parts)


def status(mount: MountInfo, path: str) -> FileInfo:
    """What a path is."""
    with _reporting(mount, path):
        if not path:
            with root(mount.folder) as fd:
                return _info(mount, path, os.fstat(fd))
        with _parent(mount, path) as (fd, name):
            return _info(mount, path, os.stat(name, dir_fd=fd, follow_symlinks=False))


def entries(mount: MountInfo, path: str, after: str, most: int) -> Listing:
    """A folder's entries in order of name; links and special files are left out."""
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
            if count >= MOST_LISTED:
                raise IllegalState(f"a folder of more than {MOST_LISTED:,} entries is not listed")
            if not entry.name.startswith(PART) and is_text(entry.name):
                yield entry.name


def is_text(name: str) -> bool:
    """Whether a name of the host can be told to anybody."""
    return not any(0xD800 <= ord(c) < 0xE000 for c in name)


def write(mount: MountInfo, path: str, data: bytes, append: bool) -> FileInfo:
    """Replace or extend a file, folders above it made as needed; on the disk on return."""
    parts = _parts(mount, path, data, append)
    return write_parts(mount, path, parts)


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
    """A file from parts of content, shown when the last one is on the disk."""
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
    """A file that is replaced keeps its permissions."""
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
    """A folder and those above it; ones that are there already are fine."""
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
    """Rename; the target must not exist."""
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
    """Unlink a file or a folder, for good. Links inside a folder are unlinked, not followed."""
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
    """The mounted folder. The operator named it, so links on the way to it are followed."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def _folder(mount: MountInfo, path: str) -> Iterator[int]:
    """A descriptor of a folder below the mount."""
    with contextlib.ExitStack() as stack:
        fd = stack.enter_context(root(mount.folder))
        for name in path.split("/") if path else ():
            fd = os.open(name, FOLDER, dir_fd=fd)
            stack.callback(os.close, fd)
        yield fd


@contextlib.contextmanager
def _parent(mount: MountInfo, path: str) -> Iterator[tuple[int, str]]:
    """The folder that holds a path, and the path's last name in it."""
    if not path:
        raise InvalidArgument(f"/mnt/{mount.name} is the mount itself, not a file in it")
    parent, name = parent_and_name(path)
    with _folder(mount, parent) as fd:
        yield fd, name


@contextlib.contextmanager
def opened(mount: MountInfo, path: str) -> Iterator[tuple[int, FileInfo]]:
    """A regular file, for reading."""
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
    """Raises PermissionDenied for what is neither a file nor a folder."""
    shown = f"/mnt/{mount.name}/{path}".rstrip("/")
    if stat.S_ISDIR(state.st_mode):
        return FileInfo(shown, "folder", 0, 0, state.st_mtime, "")
    if not stat.S_ISREG(state.st_mode):
        kind = "a link" if stat.S_ISLNK(state.st_mode) else "a special file"
        raise PermissionDenied(f"{shown} is {kind}; a mount gives only its files and folders")
    return FileInfo(shown, "file", state.st_size, 0, state.st_mtime, "")


def need_write(mount: MountInfo, path: str) -> None:
    """Raises PermissionDenied when it is mounted read-only."""
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
    """Errors of the host, typed and named as the agent knows the place."""
    shown = f"/mnt/{mount.name}/{path}".rstrip("/")
    try:
        yield
    except OSError as error:
        match error.errno:
            case errno.ENOENT:
                raise NotFound(
                    f"there is no {shown}", "list what there is: aios.fs.list, or: aios storage ls"
                ) from None
            case errno.ELOOP:
                raise PermissionDenied(
                    f"{shown} leads through a link; a mount gives only its files and folders"
                ) from None
            case errno.ENOTDIR:
                raise IllegalState(
                    f"{shown}: what should be a folder is a file or a link"
                ) from None
            case errno.ENOTEMPTY:
                raise IllegalState(
                    f"{shown} is not empty", "delete it with recursive=True"
                ) from None
            case errno.EACCES | errno.EPERM | errno.EROFS:
                raise PermissionDenied(f"{shown}: {error.strerror}") from None
        raise disk_error(error, os.path.join(mount.folder, path)) from None  # type: ignore[arg-type]

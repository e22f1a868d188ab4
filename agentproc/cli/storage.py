"""``aios storage``: agents' files, mounts and quotas; check, repair, backup and restore.

A file is named ``AGENT/PATH``. Check, repair and backup go through a running kernel, and work on
the folder itself if none runs; restore needs it down.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from aios.syscalls import codec, paths
from aios.syscalls.errors import InvalidArgument
from aios.syscalls.types.common import Empty
from aios.syscalls.types.storage import (
    MAX_PART_BYTES,
    BackupReply,
    FileInfo,
    FsData,
    FsEntries,
    FsFound,
    FsList,
    FsPath,
    FsRead,
    FsRollback,
    FsSearch,
    FsUsage,
    FsVersions,
    MountList,
    MountRequest,
    QuotaRequest,
    StorageBackup,
    StorageCheck,
    StorageReport,
    StorageStatus,
)

from . import out, parts
from .command import Command, arg, flag
from .daemonctl import operator, system_call

_UNITS = {"k": 10, "m": 20, "g": 30, "t": 40}
_MAX_DIGITS = 15


def status(options: argparse.Namespace) -> int:
    """Show the state of storage; return 1 if it is damaged or cannot be used."""
    found: StorageStatus = system_call("storage.status", Empty())
    if options.json:
        out.as_json(found)
        return int(found.state in ("damaged", "failed"))
    print(f"{found.state}: {found.folder}, large content in {found.store}")
    if found.reason:
        print(f"  {found.reason}")
    for line in found.damage:
        print(f"damage: {line}")
    print(f"search by meaning: {'yes' if found.semantic else 'no, by keyword only'}\n")
    out.table(
        ["home", "files>", "used>", "old versions>", "quota>"],
        [[h.owner, str(h.files), out.size(h.used_bytes), out.size(h.old_bytes),
          out.size(h.quota_bytes)] for h in found.homes],
    )  # fmt: skip
    return int(found.state in ("damaged", "failed"))


def ls(options: argparse.Namespace) -> int:
    """List a folder."""
    entries: list[FileInfo] = []
    with operator() as connection:
        more = True
        while more:
            after = entries[-1].path.rpartition("/")[2] if entries else ""
            page: FsEntries = connection.call("fs.list", FsList(options.folder, after))
            entries += page.entries
            more = page.more
    if options.json:
        out.as_json(entries)
        return 0
    out.table(
        ["path", "size>", "version>", "changed", "by"],
        [[e.path + "/" * (e.kind == "folder") + " (damaged)" * e.damaged,
          out.size(e.size_bytes), str(e.version or ""), _when(e.changed_unix), e.by]
         for e in entries],
    )  # fmt: skip
    return 0


def cat(options: argparse.Namespace) -> int:
    """Write a file's content unchanged."""
    offset, version = 0, options.version
    with operator() as connection:
        while True:
            request = FsRead(options.file, offset, MAX_PART_BYTES, version)
            piece: FsData = connection.call("fs.read", request)
            sys.stdout.buffer.write(piece.data)
            offset, version = offset + len(piece.data), piece.info.version
            if offset >= piece.info.size_bytes:
                sys.stdout.buffer.flush()
                return 0


def history(options: argparse.Namespace) -> int:
    """List the versions of a file."""
    found: FsVersions = system_call("fs.history", FsPath(options.file))
    if options.json:
        out.as_json(found)
        return 0
    out.table(
        ["version>", "size>", "written", "by", "how"],
        [[str(v.version), out.size(v.size_bytes), _when(v.written_unix), v.by, v.how]
         for v in found.versions],
    )  # fmt: skip
    return 0


def rollback(options: argparse.Namespace) -> int:
    """Make an old version the newest."""
    info: FileInfo = system_call("fs.rollback", FsRollback(options.file, options.number))
    if options.json:
        out.as_json(info)
    else:
        print(f"{info.path}: version {info.version} is what version {options.number} was")
    return 0


def search(options: argparse.Namespace) -> int:
    """Find passages in an agent's files."""
    found: FsFound = system_call("fs.search", FsSearch(options.query, options.where))
    if options.json:
        out.as_json(found)
        return 0
    if found.note:
        print(found.note, file=sys.stderr)
    for hit in found.hits:
        text = out.plain(" ".join(hit.text.split())[:300])
        print(f"{out.plain(hit.path)}@{hit.version}:{hit.offset}\n  {text}")
    return 0


def mounts(options: argparse.Namespace) -> int:
    """List all mounts."""
    found: MountList = system_call("storage.mounts", Empty())
    return _show_mounts(options, found)


def mount(options: argparse.Namespace) -> int:
    """Add or change a mount."""
    folder = Path(out.whole(options.host))
    name = options.name or folder.name
    if not name:
        raise InvalidArgument(f"{folder} has no name of its own", "give it one: --name NAME")
    request = MountRequest(options.agent, name, str(folder), options.rw)
    found: MountList = system_call("storage.mount", request)
    return _show_mounts(options, found)


def umount(options: argparse.Namespace) -> int:
    """Remove a mount."""
    request = MountRequest(options.agent, options.name, None)
    found: MountList = system_call("storage.mount", request)
    return _show_mounts(options, found)


def _show_mounts(options: argparse.Namespace, found: MountList) -> int:
    if options.json:
        out.as_json(found)
        return 0
    out.table(
        ["agent", "path", "folder", "mode"],
        [[m.agent, f"/mnt/{m.name}", m.folder, "read-write" if m.writable else "read-only"]
         for m in found.mounts],
    )  # fmt: skip
    return 0


def quota(options: argparse.Namespace) -> int:
    """Set a home's quota."""
    wanted = {"agent": options.agent, "quota_bytes": _bytes(options.size)}
    request = codec.convert(wanted, QuotaRequest)
    found: FsUsage = system_call("storage.quota", request)
    if options.json:
        out.as_json(found)
    else:
        print(f"{found.owner} uses {found.used_bytes:,} of {found.quota_bytes:,} bytes")
    return 0


def _bytes(text: str) -> int | None:
    if text == "default":
        return None
    digits, unit = (text[:-1], text[-1].lower()) if text[-1:].lower() in _UNITS else (text, "")
    if not digits.isdecimal() or len(digits) > _MAX_DIGITS:
        raise InvalidArgument(
            f"{text[:40]!r} is not a number of bytes", "for example 500M, 2G or default"
        )
    return int(digits) << _UNITS.get(unit, 0)


def check(options: argparse.Namespace) -> int:
    """Check storage; return 1 if something is wrong."""
    if paths.kernel_os_pid(paths.runtime_dir()) is None:
        _offline("check", *["--fast"] * options.fast, *["--json"] * options.json)
    request = StorageCheck(content=not options.fast)
    found: StorageReport = system_call("storage.check", request)
    return _show_report(options, found)


def repair(options: argparse.Namespace) -> int:
    """Repair storage."""
    if paths.kernel_os_pid(paths.runtime_dir()) is None:
        _offline("repair", *["--json"] * options.json)
    found: StorageReport = system_call("storage.check", StorageCheck(repair=True))
    return _show_report(options, found)


def _show_report(options: argparse.Namespace, found: StorageReport) -> int:
    if options.json:
        out.as_json(found)
    else:
        print(f"{found.files} files, {found.versions} versions, {found.blobs} blobs")
        for line in found.problems:
            print(f"problem: {line}")
        for line in found.mended:
            print(f"mended: {line}")
        if found.problems and not found.mended:
            print("  repair it: aios storage repair; or use a backup: aios storage restore")
    return int(bool(found.problems) and not found.mended)


def backup(options: argparse.Namespace) -> int:
    """Copy all storage to a new folder."""
    target = out.whole(options.target)
    if paths.kernel_os_pid(paths.runtime_dir()) is None:
        _offline("backup", target, *["--json"] * options.json)
    found: BackupReply = system_call("storage.backup", StorageBackup(target))
    if options.json:
        out.as_json(found)
    else:
        print(f"{found.folder}: {found.files} files, {found.size_bytes:,} bytes")
    return 0


def restore(options: argparse.Namespace) -> int:
    """Replace storage by a backup."""
    if paths.kernel_os_pid(paths.runtime_dir()) is not None:
        raise InvalidArgument("the running kernel uses storage", "stop it: aios daemon down")
    _offline("restore", out.whole(options.source), *["--json"] * options.json)
    return 0


def _offline(*words: str) -> None:
    """Become the kernel's own tool, which opens the folder itself."""
    parts.become("aios.kernel.storage.repair.offline", *words)


def _when(unix: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(unix)) if unix else ""


_AGENT, _NAME = arg("agent", metavar="AGENT"), arg("name", metavar="NAME")
_FILE = arg("file", metavar="AGENT/FILE")

COMMANDS = {"storage": Command(actions={
    "status": Command("show where storage is, and the size of each home", status),
    "ls": Command("list a folder; without one, all homes", ls, (
        arg("folder", nargs="?", default="/", metavar="AGENT/FOLDER"),
    )),
    "cat": Command("write a file to standard output", cat, (
        _FILE, arg("--version", type=int, metavar="N"),
    ), json=None),
    "history": Command("list the versions of a file", history, (_FILE,)),
    "rollback": Command("make an old version the newest; brings a deleted file back", rollback, (
        _FILE, arg("number", type=int, metavar="VERSION"),
    )),
    "search": Command("find passages in an agent's files", search, (
        arg("where", metavar="AGENT/FOLDER"), arg("query", metavar="WORDS"),
    )),
    "mounts": Command("list all mounts", mounts),
    "mount": Command("mount a folder of this machine for an agent as /mnt/NAME", mount, (
        _AGENT, arg("host", metavar="FOLDER"),
        arg("--name", metavar="NAME", help="default: the folder's"),
        flag("--rw", help="the agent may change it; there are no versions"),
    )),
    "umount": Command("remove a mount", umount, (_AGENT, _NAME)),
    "quota": Command("set the quota of an agent's home: 500M, 2G, or default", quota, (
        _AGENT, arg("size", metavar="BYTES"),
    )),
    "check": Command("check all that is stored for damage", check, (
        flag("--fast", help="skip large files and the search index"),
    )),
    "repair": Command("repair what can be repaired, and list what was lost", repair),
    "backup": Command("copy files and values, as they are at one moment, into a new folder "
                      "(notes: aios memory backup)", backup, (arg("target", metavar="FOLDER"),)),
    "restore": Command("replace what is stored by a backup (kernel down)", restore, (
        arg("source", metavar="BACKUP"),
    )),
})}  # fmt: skip

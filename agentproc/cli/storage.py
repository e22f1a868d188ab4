"""``aios storage``: agents' files, mounts and quotas, and the care of all that is stored.

A file is named ``AGENT/PATH``. Check, repair and backup go through the kernel while it runs, and
work on the folder itself when it does not; restore needs it down.
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
from .daemonctl import operator

_UNITS = {"k": 10, "m": 20, "g": 30, "t": 40}
_MOST_DIGITS = 15


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """``aios storage`` and its actions."""
    storage = commands.add_parser("storage", help="agents' files, mounts, quotas, backups")
    actions = storage.add_subparsers(dest="action", metavar="ACTION", required=True)
    for name, text, *arguments in _ACTIONS:
        action = actions.add_parser(name, help=text)
        for argument in arguments:
            flags = ["--version"] if argument == "--version" else [argument]
            action.add_argument(*flags, **_ARGUMENTS[argument])  # type: ignore[arg-type]
        if name != "cat":
            action.add_argument("--json", action="store_true")
        action.set_defaults(do=f"cli.storage:{name}")


_ACTIONS: tuple[tuple[str, ...], ...] = (
    ("status", "where everything is, and what each home takes"),
    ("ls", "list a folder; without one, all homes", "folder"),
    ("cat", "write a file to standard output", "file", "--version"),
    ("history", "list the versions of a file", "file"),
    ("rollback", "make an old version the newest; brings a deleted file back", "file", "number"),
    ("search", "find passages in an agent's files", "where", "query"),
    ("mounts", "list all mounts"),
    ("mount", "show a folder of this machine to an agent as /mnt/NAME", "agent", "host",
     "--name", "--rw"),
    ("umount", "take a mount away", "agent", "name"),
    ("quota", "set what an agent's home may take, e.g. 2G; default: the setting", "agent", "size"),
    ("check", "look whether all that is stored is as it was written", "--fast"),
    ("repair", "mend what can be mended; says what was lost"),
    ("backup", "copy files and values, as they are at one moment, into a new folder (notes: "
     "aios memory backup)", "target"),
    ("restore", "put a backup in the place of what is stored (kernel down)", "source"),
)  # fmt: skip
_ARGUMENTS: dict[str, dict[str, object]] = {
    "folder": {"nargs": "?", "default": "/", "metavar": "AGENT/FOLDER"},
    "where": {"metavar": "AGENT/FOLDER"},
    "file": {"metavar": "AGENT/FILE"},
    "--version": {"type": int, "metavar": "N"},
    "number": {"type": int, "metavar": "VERSION"},
    "query": {"metavar": "WORDS"},
    "agent": {"metavar": "AGENT"},
    "host": {"metavar": "FOLDER"},
    "name": {"metavar": "NAME"},
    "--name": {"metavar": "NAME", "help": "default: the folder's"},
    "--rw": {"action": "store_true", "help": "the agent may change it; it keeps no versions"},
    "size": {"metavar": "BYTES"},
    "--fast": {"action": "store_true", "help": "leave large files and the index of search out"},
    "target": {"metavar": "FOLDER"},
    "source": {"metavar": "BACKUP"},
}


def status(options: argparse.Namespace) -> int:
    """The store as a whole; 1 when it is damaged or cannot be used."""
    with operator() as connection:
        found: StorageStatus = connection.call("storage.status", Empty())
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
    """A folder's entries."""
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
    """A file's content, as it is."""
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
    """A file's versions."""
    with operator() as connection:
        found: FsVersions = connection.call("fs.history", FsPath(options.file))
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
    """An old version again."""
    with operator() as connection:
        info: FileInfo = connection.call("fs.rollback", FsRollback(options.file, options.number))
    if options.json:
        out.as_json(info)
    else:
        print(f"{info.path}: version {info.version} is what version {options.number} was")
    return 0


def search(options: argparse.Namespace) -> int:
    """Passages."""
    with operator() as connection:
        found: FsFound = connection.call("fs.search", FsSearch(options.query, options.where))
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
    """All mounts."""
    with operator() as connection:
        found: MountList = connection.call("storage.mounts", Empty())
    return _show_mounts(options, found)


def mount(options: argparse.Namespace) -> int:
    """Add or change one."""
    folder = Path(out.whole(options.host))
    name = options.name or folder.name
    if not name:
        raise InvalidArgument(f"{folder} has no name of its own", "give it one: --name NAME")
    with operator() as connection:
        request = MountRequest(options.agent, name, str(folder), options.rw)
        found: MountList = connection.call("storage.mount", request)
    return _show_mounts(options, found)


def umount(options: argparse.Namespace) -> int:
    """Take one away."""
    with operator() as connection:
        request = MountRequest(options.agent, options.name, None)
        found: MountList = connection.call("storage.mount", request)
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
    with operator() as connection:
        wanted = {"agent": options.agent, "quota_bytes": _bytes(options.size)}
        request = codec.convert(wanted, QuotaRequest)
        found: FsUsage = connection.call("storage.quota", request)
    if options.json:
        out.as_json(found)
    else:
        print(f"{found.owner} uses {found.used_bytes:,} of {found.quota_bytes:,} bytes")
    return 0


def _bytes(text: str) -> int | None:
    if text == "default":
        return None
    digits, unit = (text[:-1], text[-1].lower()) if text[-1:].lower() in _UNITS else (text, "")
    if not digits.isdecimal() or len(digits) > _MOST_DIGITS:
        raise InvalidArgument(
            f"{text[:40]!r} is no number of bytes", "for example 500M, 2G or default"
        )
    return int(digits) << _UNITS.get(unit, 0)


def check(options: argparse.Namespace) -> int:
    """Look; 1 when something is wrong."""
    if paths.kernel_os_pid(paths.runtime_dir()) is None:
        _offline("check", *["--fast"] * options.fast, *["--json"] * options.json)
    with operator() as connection:
        request = StorageCheck(content=not options.fast)
        found: StorageReport = connection.call("storage.check", request)
    return _show_report(options, found)


def repair(options: argparse.Namespace) -> int:
    """Mend."""
    if paths.kernel_os_pid(paths.runtime_dir()) is None:
        _offline("repair", *["--json"] * options.json)
    with operator() as connection:
        found: StorageReport = connection.call("storage.check", StorageCheck(repair=True))
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
            print("  mend it with: aios storage repair; or take a backup: aios storage restore")
    return int(bool(found.problems) and not found.mended)


def backup(options: argparse.Namespace) -> int:
    """Copy everything."""
    target = out.whole(options.target)
    if paths.kernel_os_pid(paths.runtime_dir()) is None:
        _offline("backup", target, *["--json"] * options.json)
    with operator() as connection:
        found: BackupReply = connection.call("storage.backup", StorageBackup(target))
    if options.json:
        out.as_json(found)
    else:
        print(f"{found.folder}: {found.files} files, {found.size_bytes:,} bytes")
    return 0


def restore(options: argparse.Namespace) -> int:
    """Put a backup back."""
    if paths.kernel_os_pid(paths.runtime_dir()) is not None:
        raise InvalidArgument("the kernel runs, and uses what is stored", "aios daemon down")
    _offline("restore", out.whole(options.source), *["--json"] * options.json)
    return 0


def _offline(*words: str) -> None:
    """Become the kernel's own tool, which opens the folder itself."""
    parts.become("aios.kernel.storage.repair.offline", *words)


def _when(unix: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(unix)) if unix else ""

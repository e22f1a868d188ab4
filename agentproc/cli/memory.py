"""``aios memory``: the notes of agents."""

from __future__ import annotations

import argparse

from aios.syscalls import codec, paths
from aios.syscalls.errors import InvalidArgument
from aios.syscalls.types.common import Empty
from aios.syscalls.types.memory import (
    AddRequest,
    BackupRequest,
    Cleared,
    ListRequest,
    MemoryReport,
    Note,
    NoteList,
    NoteRef,
    ScopeList,
    ScopeRef,
    SearchReply,
    SearchRequest,
)

from . import out, parts
from .command import Command, arg, flag
from .daemonctl import operator, system_call

_WIDTH = 80


def ls(options: argparse.Namespace) -> int:
    """List scopes, or the notes of one."""
    if options.scope is None:
        return _scopes(options)
    notes: list[Note] = []
    with operator() as connection:
        after, more = None, True
        while more and len(notes) < options.limit:
            wanted = {"scope": options.scope, "after": after, "log": options.log,
                      "limit": min(1000, options.limit - len(notes))}  # fmt: skip
            page: NoteList = connection.call("memory.list", codec.convert(wanted, ListRequest))
            notes += page.notes
            after, more = (page.notes[-1].id if page.notes else None), page.more
    if options.json:
        out.as_json(notes)
        return 0
    out.table(["id", "kind", "text"], [[n.id, n.kind, _line(n.text)] for n in notes])
    if more:
        print(f"there are more: --limit {2 * options.limit}")
    return 0


def _scopes(options: argparse.Namespace) -> int:
    found: ScopeList = system_call("memory.scopes", Empty())
    if options.json:
        out.as_json(found.scopes)
        return 0
    out.table(
        ["scope", "notes>", "of>", "bytes>", "of>", "ram>"],
        [[row.scope, str(row.notes), str(row.most_notes), out.size(row.size_bytes),
          out.size(row.most_bytes), out.size(row.ram_bytes)] for row in found.scopes],
    )  # fmt: skip
    return 0


def search(options: argparse.Namespace) -> int:
    """Find the best notes for a text."""
    wanted = {"query": options.query, "k": options.k, "scopes": options.scope,
              "mode": options.mode, "log": options.log}  # fmt: skip
    body = codec.convert(wanted, SearchRequest)
    found: SearchReply = system_call("memory.search", body)
    if options.json:
        out.as_json(found)
        return 0
    out.table(
        ["id", "score>", "words>", "meaning>", "scope", "text"],
        [[hit.note.id, f"{hit.score:.4f}", str(hit.keyword_rank or ""),
          str(hit.semantic_rank or ""), hit.note.scope, _line(hit.note.text)]
         for hit in found.hits],
    )  # fmt: skip
    print(f"searched by: {found.mode}" + (f" ({found.why})" if found.why else ""))
    if found.pending:
        print(f"{found.pending} notes cannot be found by meaning yet")
    return 0


def get(options: argparse.Namespace) -> int:
    """Show a note in full."""
    note: Note = system_call(
        "memory.get", codec.convert({"id": options.id}, NoteRef)
    )  # fmt: skip
    if options.json:
        out.as_json(note)
    else:
        print(note.text)
    return 0


def add(options: argparse.Namespace) -> int:
    """Add a note to a scope."""
    wanted = {"text": options.text, "scope": options.scope}
    note: Note = system_call("memory.add", codec.convert(wanted, AddRequest))
    if options.json:
        out.as_json(note)
    else:
        print(note.id)
    return 0


def rm(options: argparse.Namespace) -> int:
    """Remove notes by id, or all of a scope."""
    if bool(options.ids) == bool(options.scope):
        raise InvalidArgument("give ids or --scope", "see: aios memory rm --help")
    removed = len(options.ids)
    with operator() as connection:
        for id_ in options.ids:
            connection.call("memory.remove", codec.convert({"id": id_}, NoteRef))
        if options.scope:
            body = codec.convert({"scope": options.scope}, ScopeRef)
            cleared: Cleared = connection.call("memory.clear", body)
            removed = cleared.removed
    if options.json:
        out.as_json({"removed": removed})
    return 0


def check(options: argparse.Namespace) -> int:
    """Check all lasting notes; return 1 if one is damaged."""
    report: MemoryReport = system_call("memory.check", Empty())
    if options.json:
        out.as_json(report)
    else:
        print(f"{report.notes} notes in {report.path}; embedding model: {report.embedder}")
        for id_ in report.damaged:
            print(f"note {id_} is damaged; remove it with: aios memory rm {id_}")
        for problem in report.problems:
            print(problem)
    return 1 if report.damaged or report.problems else 0


def backup(options: argparse.Namespace) -> int:
    """Copy all lasting notes to a new file while the kernel runs."""
    path = out.whole(options.file)
    report: MemoryReport = system_call(
        "memory.backup", codec.convert({"path": path}, BackupRequest)
    )  # fmt: skip
    if options.json:
        out.as_json(report)
    else:
        print(f"{report.notes} notes in {report.path}")
    return 0


def restore(options: argparse.Namespace) -> int:
    """Replace all lasting notes by a backup."""
    if paths.kernel_os_pid(paths.runtime_dir()) is not None:
        raise InvalidArgument("the running kernel uses the notes", "stop it: aios daemon down")
    parts.become("aios.kernel.memory.restore", out.whole(options.file), *["--json"] * options.json)


def _line(text: str) -> str:
    """Return the beginning of a text as one line."""
    line = " ".join(text[: 4 * _WIDTH].split())
    return line if len(line) <= _WIDTH else line[: _WIDTH - 1] + "…"


def _at_least_one(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


_SCOPE = "session:PID, agent:NAME or shared:NAME"
_FILE = arg("file", metavar="FILE")

COMMANDS = {"memory": Command(actions={
    "ls": Command("list scopes, or the notes of one", ls, (
        arg("scope", nargs="?", metavar="SCOPE", help=_SCOPE),
        flag("--log", help="the interaction log instead"),
        arg("--limit", type=_at_least_one, default=100, metavar="N", help="how many (100)"),
    )),
    "search": Command("find notes by words and meaning", search, (
        arg("query", metavar="TEXT"),
        arg("--scope", action="append", required=True, help=f"{_SCOPE}; repeatable"),
        arg("-k", type=int, default=5, metavar="N", help="how many (5)"),
        arg("--mode", choices=("auto", "keyword", "semantic", "mixed"), default="auto"),
        flag("--log", help="include the interaction log"),
    )),
    "get": Command("show a note", get, (arg("id", metavar="ID"),)),
    "add": Command("add a note", add, (
        arg("scope", metavar="SCOPE", help=_SCOPE), arg("text", metavar="TEXT"),
    )),
    "rm": Command("remove notes", rm, (
        arg("ids", nargs="*", metavar="ID"), arg("--scope", help=f"all notes of {_SCOPE}"),
    )),
    "check": Command("check all lasting notes for damage", check),
    "backup": Command("copy all lasting notes to a new file", backup, (_FILE,)),
    "restore": Command("replace all lasting notes by a backup (kernel down)", restore, (_FILE,)),
})}  # fmt: skip

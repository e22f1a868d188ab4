"""``aios memory``: the notes of agents, as the operator sees them."""

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
from .daemonctl import operator

_WIDTH = 80


def ls(options: argparse.Namespace) -> int:
    """Scopes, or the notes of one."""
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
        print(f"and others; more with --limit {2 * options.limit}")
    return 0


def _scopes(options: argparse.Namespace) -> int:
    with operator() as connection:
        found: ScopeList = connection.call("memory.scopes", Empty())
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
    """The best notes for a text."""
    wanted = {"query": options.query, "k": options.k, "scopes": options.scope,
              "mode": options.mode, "log": options.log}  # fmt: skip
    with operator() as connection:
        body = codec.convert(wanted, SearchRequest)
        found: SearchReply = connection.call("memory.search", body)
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
        print(f"{found.pending} notes cannot be found by their meaning yet")
    return 0


def get(options: argparse.Namespace) -> int:
    """One note, whole."""
    with operator() as connection:
        note: Note = connection.call(
            "memory.get", codec.convert({"id": options.id}, NoteRef)
        )  # fmt: skip
    if options.json:
        out.as_json(note)
    else:
        print(note.text)
    return 0


def add(options: argparse.Namespace) -> int:
    """A note of the operator's for a scope."""
    wanted = {"text": options.text, "scope": options.scope}
    with operator() as connection:
        note: Note = connection.call("memory.add", codec.convert(wanted, AddRequest))
    if options.json:
        out.as_json(note)
    else:
        print(note.id)
    return 0


def rm(options: argparse.Namespace) -> int:
    """Notes by id, or all of a scope."""
    if bool(options.ids) == bool(options.scope):
        raise InvalidArgument("give ids, or --scope for all of one", "see: aios memory rm --help")
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
    """Read everything that lasts; 1 when something is damaged."""
    with operator() as connection:
        report: MemoryReport = connection.call("memory.check", Empty())
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
    """Copy all that lasts to a new file, while the kernel goes on."""
    path = out.whole(options.file)
    with operator() as connection:
        report: MemoryReport = connection.call(
            "memory.backup", codec.convert({"path": path}, BackupRequest)
        )  # fmt: skip
    if options.json:
        out.as_json(report)
    else:
        print(f"{report.notes} notes in {report.path}")
    return 0


def restore(options: argparse.Namespace) -> int:
    """Put a copy back."""
    if paths.kernel_os_pid(paths.runtime_dir()) is not None:
        raise InvalidArgument("the kernel runs, and uses the notes", "aios daemon down")
    parts.become(
        "aios.kernel.memory.tool", "restore", out.whole(options.file), *["--json"] * options.json
    )


def _line(text: str) -> str:
    """A text's beginning, in one line."""
    line = " ".join(text[: 4 * _WIDTH].split())
    return line if len(line) <= _WIDTH else line[: _WIDTH - 1] + "…"

"""``aios audit``: show, follow and verify the audit log, with or without a running kernel.

Only reads files. Exit codes: 0; 1 when verification finds a problem or the log cannot be read; 2
for wrong usage.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from aios.syscalls import inotify, paths

from . import file
from .records import Record, read

SHOWN = 50
_EVENTS = inotify.MODIFY | inotify.CREATE | inotify.MOVED_TO


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    options = parser().parse_args(argv)
    folder = paths.audit_dir(paths.runtime_dir())
    try:
        if options.action == "path":
            print(json.dumps({"path": str(folder)}) if options.json else folder)
            return 0
        if options.action == "verify":
            return _verify(folder, options.json)
        _show(folder, options)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 141
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        where, hint = error.filename, "a kernel creates it: aios daemon up"
        if where is None:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            print(f"aios: cannot write the output: {error.strerror}", file=sys.stderr)
        else:
            print(f"aios: cannot read {where}: {error.strerror}\n  {hint}", file=sys.stderr)
        return 1
    return 0


def parser() -> argparse.ArgumentParser:
    """Return the parser of the options."""
    top = argparse.ArgumentParser(
        prog="aios audit",
        description="Show the latest decisions on rights; verify that none was changed.",
        epilog="verify names the first record that was edited, removed, inserted or moved, or "
        "that is missing at the end.",
    )
    top.add_argument("action", nargs="?", choices=("show", "verify", "path"), default="show")
    top.add_argument("-f", "--follow", action="store_true", help="continue with new ones")
    top.add_argument("-n", "--lines", type=int, default=SHOWN, help=f"number ({SHOWN}); 0: all")
    top.add_argument("--agent", help="only this pid or name")
    top.add_argument("--denied", action="store_true", help="only those that were not allowed")
    top.add_argument("--json", action="store_true", help="one JSON object per line")
    return top


def _verify(folder: Path, as_json: bool) -> int:
    key = file.load_key(paths.audit_key())
    problem = ""
    anchor = None
    try:
        anchor = file.load_anchor(paths.audit_anchor(paths.runtime_dir()), key)
    except ValueError as error:
        problem = str(error)
    result = file.verify(folder, key, anchor)
    problem = result.problem or problem
    if as_json:
        print(json.dumps({"ok": not problem, "first": result.first, "last": result.n,
                          "problem": problem}))  # fmt: skip
    elif problem:
        print(f"aios: {problem}\n  up to record {result.n} the log is unchanged",
              file=sys.stderr)  # fmt: skip
    else:
        print(f"records {result.first} to {result.n} are unchanged")
    return 1 if problem else 0


def _show(folder: Path, options: argparse.Namespace) -> None:
    records = _records(folder, options.follow)
    wanted = (record for record in records if record is None or _wanted(record, options))
    newest: deque[Record] = deque(maxlen=options.lines if options.lines > 0 else None)
    for record in wanted:
        if record is None:
            break
        newest.append(record)
    for record in newest:
        _print(record, options.json)
    sys.stdout.flush()
    for record in wanted if options.follow else ():
        if record:
            _print(record, options.json)
            sys.stdout.flush()


def _wanted(record: Record, options: argparse.Namespace) -> bool:
    if options.agent is not None and options.agent not in (str(record.pid), record.agent):
        return False
    return not (options.denied and record.outcome in ("allowed", "ok"))


def _print(record: Record, as_json: bool) -> None:
    if as_json:
        print(msgspec.json.encode(record).decode())
        return
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.t))
    what = f"{record.kind}.{record.action} {_plain(record.name)}"
    who = f"{_plain(record.agent)} ({record.pid})"
    who += f" for {_plain(record.behalf)}" if record.behalf else ""
    print(f"{record.n:>8}  {at}  {who:<20}  {record.outcome:<18}  {what}  {_plain(record.rule)}")


def _plain(text: str) -> str:
    """Escape everything that a terminal would interpret."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _records(folder: Path, follow: bool) -> Iterator[Record | None]:
    """Yield all records, then None, then, when following, new records."""
    notify = inotify.watch(folder, _EVENTS) if follow else -1
    path, file = None, None
    caught_up = False
    try:
        while True:
            for next_path in _from(folder, path):
                if next_path != path:
                    if file:
                        file.close()
                    path, file, rest = next_path, next_path.open("rb"), b""
                assert file
                while data := file.read(1 << 20):
                    *lines, rest = (rest + data).split(b"\n")
                    yield from _readable(lines)
            if not caught_up:
                caught_up = True
                yield None
            if not follow:
                return
            os.read(notify, 1 << 16)
    finally:
        if file:
            file.close()
        if notify >= 0:
            os.close(notify)


def _from(folder: Path, path: Path | None) -> list[Path]:
    """Return the current file and the newer ones. Raises OSError."""
    os.stat(folder)
    return [other for other in file.files(folder) if path is None or other >= path]


def _readable(lines: Sequence[bytes]) -> Iterator[Record]:
    for line in lines:
        try:
            yield read(line)
        except ValueError:
            print("aios: a record cannot be read; see: aios audit verify", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())

"""Calls on files and values: ``fs.*``, ``kv.*`` and the operator's ``storage.*``.

Each is resolved to a place, put before the access manager, and handed to storage, which answers
later. Nothing is done before both have said yes.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import msgpack
import msgspec

from aios.kernel.access.manager import AccessManager
from aios.kernel.access.principals import OPERATOR
from aios.kernel.loop.task import Outcome
from aios.kernel.process.table import ProcessTable
from aios.kernel.storage.db.commit import Done
from aios.kernel.storage.files.paths import Place, resolve
from aios.kernel.trap.pending import Handler, Pending
from aios.syscalls import paths
from aios.syscalls.errors import (
    AiosError,
    IllegalState,
    InternalError,
    InvalidArgument,
    PermissionDenied,
    ResourceExhausted,
    StorageDamaged,
)
from aios.syscalls.types import storage as s
from aios.syscalls.types.common import Effect, Empty

from .chores import Chores
from .manager import OPERATOR_NAME, Storage

log = logging.getLogger("aios.storage")

T = TypeVar("T")

_PATIENCE = 0.75
"""Of its time, a search waits so much for folders of the host to be read."""


class StorageCalls:
    """Who asks for what, allowed or not."""

    def __init__(
        self, table: ProcessTable, access: AccessManager, storage: Storage, runtime: Path
    ) -> None:
        self._table, self._access, self._storage = table, access, storage
        self._chores = Chores(storage)
        self._runtime = runtime
        self.handlers: dict[str, Handler] = {
            "fs.write": self._write,
            "fs.read": self._read,
            "fs.list": self._list,
            "fs.stat": self._stat,
            "fs.move": self._move,
            "fs.delete": self._delete,
            "fs.mkdir": self._mkdir,
            "fs.history": self._history,
            "fs.rollback": self._rollback,
            "fs.prune": self._prune,
            "fs.begin": self._begin,
            "fs.part": self._part,
            "fs.end": self._end,
            "fs.drop": self._drop,
            "fs.share": self._share,
            "fs.shares": self._shares,
            "fs.search": self._search,
            "fs.usage": self._usage,
            "kv.get": self._kv_get,
            "kv.set": self._kv_set,
            "kv.delete": self._kv_delete,
            "kv.list": self._kv_list,
            "storage.mount": self._mount,
            "storage.mounts": self._mounts,
            "storage.quota": self._quota,
            "storage.status": self._status,
            "storage.check": self._check,
            "storage.backup": self._backup,
        }

    # ------------------------------------------------------------------ who, where, may

    def _agent(self, call: Pending) -> str | None:
        """The caller's name; None for the operator."""
        pid = call.caller.pid
        return None if pid == OPERATOR else self._table.caller(pid).name

    def _owner(self, call: Pending) -> str:
        """The caller's own home. Raises InvalidArgument for the operator, who has none."""
        name = self._agent(call)
        if name is None:
            raise InvalidArgument("the operator has no home of its own", "run an agent: aios run")
        return name

    def _place(
        self, call: Pending, path: str, action: str, effect: Effect, *,
        lost: bool = False, file: bool = True,
    ) -> tuple[Place, str]:  # fmt: skip
        """Where a path leads, and the caller's name. Raises what stands against it.

        ``lost``: what is there now is lost where no versions are kept, on a mount. ``file``: it
        has to be something that a home or a mount holds.
        """
        agent = self._agent(call)
        place = resolve(path, agent)
        if lost and place.kind == "mount":
            effect = "irreversible"
        self._access.check(call.asker, "path", action, place.shown(), effect)
        if file:
            _need_owner(place)
        return place, agent or OPERATOR_NAME

    def _start(
        self, call: Pending, begin: Callable[[Done[T]], None],
        reply: Callable[[T], msgspec.Struct],
    ) -> None:  # fmt: skip
        """Do it once storage is open; what it ends with is the reply."""

        def done(outcome: Outcome[T]) -> None:
            if outcome.error is None:
                call.reply(reply(outcome.result()))
            elif isinstance(outcome.error, AiosError):
                if isinstance(outcome.error, StorageDamaged):
                    self._storage.damage.met(outcome.error)
                call.fail(outcome.error)
            else:
                log.error("storage failed on %s", call.call.name, exc_info=outcome.error)
                call.fail(InternalError("storage failed on this call", "its log says why"))

        def start() -> None:
            if call.ended:
                return
            try:
                if self._storage.failure and not call.call.name.startswith("storage."):
                    raise self._storage.failure
                begin(done)
            except AiosError as error:
                call.fail(error)

        call.defer(lambda error: None)
        self._storage.when_open(start)

    # ------------------------------------------------------------------ files

    def _write(self, call: Pending, body: s.FsWrite) -> None:
        lost = not body.append
        place, agent = self._place(call, body.path, "write", "reversible", lost=lost)
        self._start(call, lambda done: self._storage.write(place, agent, body, done), _same)

    def _read(self, call: Pending, body: s.FsRead) -> None:
        place, agent = self._place(call, body.path, "read", "read")
        self._start(call, lambda done: self._storage.read(place, agent, body, done), _same)

    def _list(self, call: Pending, body: s.FsList) -> None:
        place, agent = self._place(call, body.path, "read", "read", file=False)
        self._start(
            call,
            lambda done: self._storage.entries(place, agent, body.after, body.limit, done), _same,
        )  # fmt: skip

    def _stat(self, call: Pending, body: s.FsPath) -> None:
        place, agent = self._place(call, body.path, "read", "read", file=False)
        self._start(call, lambda done: self._storage.stat(place, agent, done), _same)

    def _move(self, call: Pending, body: s.FsMove) -> None:
        source, agent = self._place(call, body.source, "delete", "reversible")
        target, _ = self._place(call, body.target, "write", "reversible")
        self._start(call, lambda done: self._storage.move(source, target, agent, done), _same)

    def _delete(self, call: Pending, body: s.FsDelete) -> None:
        place, agent = self._place(call, body.path, "delete", "reversible", lost=True)
        self._start(
            call, lambda done: self._storage.delete(place, agent, body.recursive, done), _empty
        )

    def _mkdir(self, call: Pending, body: s.FsPath) -> None:
        place, agent = self._place(call, body.path, "write", "reversible")
        self._start(call, lambda done: self._storage.mkdir(place, agent, done), _same)

    def _history(self, call: Pending, body: s.FsPath) -> None:
        place, agent = self._home(call, body.path, "read", "read")
        self._start(call, lambda done: self._storage.history(place, agent, done), _same)

    def _rollback(self, call: Pending, body: s.FsRollback) -> None:
        place, agent = self._home(call, body.path, "write", "reversible")
        self._start(
            call, lambda done: self._storage.rollback(place, agent, body.version, done), _same
        )

    def _prune(self, call: Pending, body: s.FsPrune) -> None:
        place, agent = self._home(call, body.path, "delete", "irreversible")
        self._start(call, lambda done: self._storage.prune(place, agent, body.keep, done), _same)

    def _home(self, call: Pending, path: str, action: str, effect: Effect) -> tuple[Place, str]:
        """A place that keeps versions."""
        place, agent = self._place(call, path, action, effect)
        if place.kind == "mount":
            raise IllegalState(
                f"{place.shown()} is on a mount, which keeps no versions",
                "copy it into your home: aios.fs.move",
            )
        return place, agent

    def _begin(self, call: Pending, body: s.FsBegin) -> None:
        place, agent = self._place(call, body.path, "write", "reversible", lost=True)
        user = call.caller.user
        self._start(
            call, lambda done: self._storage.uploads.begin(user, place, agent, body.expect, done),
            s.FsUpload,
        )  # fmt: skip

    def _part(self, call: Pending, body: s.FsPart) -> None:
        user = call.caller.user
        self._start(
            call,
            lambda done: self._storage.uploads.part(user, body.upload, body.data, done),
            _empty,
        )

    def _end(self, call: Pending, body: s.FsEnd) -> None:
        user = call.caller.user
        self._start(call, lambda done: self._storage.uploads.end(user, body.upload, done), _same)

    def _drop(self, call: Pending, body: s.FsEnd) -> Empty:
        self._storage.uploads.drop(call.caller.user, body.upload)
        return Empty()

    def _share(self, call: Pending, body: s.FsShare) -> None:
        place, _ = self._home(call, body.path, "share", "reversible")
        if place.kind == "shared":
            raise PermissionDenied(
                f"{place.shown()} is {place.owner}'s to share", "an agent shares what is its own"
            )
        unused = body.rights is not None and self._access.unused(body.with_)

        def shared(_: None) -> s.FsShared:
            return s.FsShared(unused)

        self._start(
            call,
            lambda done: self._storage.share(place, body.with_, body.rights, done), shared,
        )  # fmt: skip

    def _shares(self, call: Pending, _: Empty) -> None:
        owner = self._owner(call)
        self._start(call, lambda done: self._storage.shares(owner, done), _same)

    def _search(self, call: Pending, body: s.FsSearch) -> None:
        place, agent = self._place(call, body.path, "read", "read", file=False)
        if place.kind != "mounts":
            _need_owner(place)
        until_s = time.monotonic() + _PATIENCE * call.timeout_s
        may = self._access.readable(call.asker)

        def begin(done: Done[s.FsFound]) -> None:
            def found(outcome: Outcome[s.FsFound]) -> None:
                if outcome.error is None and not call.ended:
                    outcome = self._shown(call, outcome.result())
                done(outcome)

            self._storage.finder.search(place, agent, body, may, until_s, found)

        self._start(call, begin, _same)

    def _shown(self, call: Pending, found: s.FsFound) -> Outcome[s.FsFound]:
        """What was found, without what has been forbidden meanwhile; each file is in the log."""
        try:
            may = self._access.readable(call.asker)
            hits = [hit for hit in found.hits if may(hit.path)]
            for path in dict.fromkeys(hit.path for hit in hits):
                self._access.check(call.asker, "path", "read", path)
        except AiosError as error:
            return Outcome(None, error)
        return Outcome(msgspec.structs.replace(found, hits=hits), None)

    def _usage(self, call: Pending, _: Empty) -> None:
        owner = self._owner(call)
        self._start(call, lambda done: self._storage.usage(owner, done), _same)

    # ------------------------------------------------------------------ values

    def _key(self, call: Pending, key: str, action: str, effect: Effect) -> str:
        owner = self._owner(call)
        if "\0" in key:
            raise InvalidArgument(f"key {key[:80]!r} has a NUL")
        self._access.check(call.asker, "path", action, f"/.kv/{key}", effect)
        return owner

    def _kv_get(self, call: Pending, body: s.KvKey) -> None:
        owner = self._key(call, body.key, "read", "read")
        self._start(call, lambda done: self._storage.get_value(owner, body.key, done), _same)

    def _kv_set(self, call: Pending, body: s.KvSet) -> None:
        owner = self._key(call, body.key, "write", "reversible")
        value: bytes = msgpack.packb(body.value)
        if len(value) > s.MAX_VALUE_BYTES:
            raise ResourceExhausted(
                f"a value of {len(value):,} bytes exceeds the limit of {s.MAX_VALUE_BYTES:,}",
                "write it to a file: aios.fs.write",
            )
        self._start(
            call,
            lambda done: self._storage.set_value(owner, body.key, value, body.expect, done), _same,
        )  # fmt: skip

    def _kv_delete(self, call: Pending, body: s.KvDelete) -> None:
        owner = self._key(call, body.key, "delete", "irreversible")
        self._start(
            call, lambda done: self._storage.delete_value(owner, body.key, body.expect, done),
            _empty,
        )  # fmt: skip

    def _kv_list(self, call: Pending, body: s.KvList) -> None:
        owner = self._key(call, "", "read", "read")
        self._start(call, lambda done: self._storage.keys(owner, body, done), _same)

    # ------------------------------------------------------------------ the operator's

    def _mount(self, call: Pending, body: s.MountRequest) -> None:
        self._start(call, lambda done: self._begin_mount(body, done), _same)

    def _begin_mount(self, body: s.MountRequest, done: Done[s.MountList]) -> None:
        if body.folder is None:
            self._storage.mount(body, done)
            return
        folder = body.folder

        def looked(outcome: Outcome[str]) -> None:
            if outcome.error:
                done(Outcome(None, outcome.error))
                return
            self._table.names.reserve(body.agent)  # no program's child gets at it
            self._storage.mount(msgspec.structs.replace(body, folder=outcome.result()), done)

        self._storage.in_lane(folder, lambda: self._mountable(folder), looked)

    def _mountable(self, folder: str) -> str:
        """A folder that may be shown to agents. Raises InvalidArgument."""
        real = os.path.realpath(folder)
        if "\0" in folder or not os.path.isdir(real):
            raise InvalidArgument(f"{folder!r} is not a folder")
        own = (paths.data_dir(), paths.state_dir(), self._runtime, paths.config_file().parent,
               paths.cache_dir())  # fmt: skip
        for path in map(os.path.realpath, own):
            if os.path.commonpath([path, real]) in (path, real):
                raise InvalidArgument(
                    f"{folder} holds, or is in, {path}, which is the kernel's own",
                    "mount a folder that has nothing to do with it",
                )
        return real

    def _mounts(self, call: Pending, _: Empty) -> None:
        self._start(call, self._storage.mounts, _same)

    def _quota(self, call: Pending, body: s.QuotaRequest) -> None:
        self._start(
            call, lambda done: self._storage.set_quota(body.agent, body.quota_bytes, done), _same
        )

    def _status(self, call: Pending, _: Empty) -> None:
        self._start(call, self._chores.status, _same)

    def _check(self, call: Pending, body: s.StorageCheck) -> None:
        self._start(call, lambda done: self._chores.check(body.content, body.repair, done), _same)

    def _backup(self, call: Pending, body: s.StorageBackup) -> None:
        self._start(call, lambda done: self._chores.backup(Path(body.folder), done), _same)


def _need_owner(place: Place) -> None:
    """Raises PermissionDenied for what is in no home, grant or mount."""
    if place.kind in ("homes", "shares", "mounts"):
        raise PermissionDenied(f"{place.shown()} is not a file or folder of anybody's",
                               "list what is in it: aios.fs.list, or: aios storage ls")  # fmt: skip


def _same(body: Any) -> msgspec.Struct:
    reply: msgspec.Struct = body
    return reply


def _empty(_: None) -> Empty:
    return Empty()

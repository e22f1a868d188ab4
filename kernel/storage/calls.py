"""System calls on files and values: ``fs.*`` and ``kv.*``; operator_calls.py has ``storage.*``.

Each path is resolved to a place and checked by the access manager before storage does anything.
"""

from __future__ import annotations

from pathlib import Path

import msgpack
import msgspec

from aios.kernel.access.manager import AccessManager
from aios.kernel.access.principals import OPERATOR, OPERATOR_NAME
from aios.kernel.loop.clock import Clock
from aios.kernel.process.table import ProcessTable
from aios.kernel.storage.files.paths import Place, resolve
from aios.kernel.trap.pending import Handler, Pending
from aios.syscalls.errors import (
    IllegalState,
    InvalidArgument,
    PermissionDenied,
    ResourceExhausted,
)
from aios.syscalls.types import storage as s
from aios.syscalls.types.common import Effect, Empty

from .manager import Storage
from .operator_calls import OperatorCalls

_PATIENCE = 0.75
"""Share of a search's time that it waits for the index to catch up."""


class StorageCalls:
    """The handlers of all storage calls."""

    def __init__(
        self, table: ProcessTable, access: AccessManager, storage: Storage, runtime: Path,
        clock: Clock,
    ) -> None:  # fmt: skip
        self._table, self._access, self._storage, self._clock = table, access, storage, clock
        self._serve = storage.serve
        handlers: dict[str, Handler] = {
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
        }
        self.handlers = handlers | OperatorCalls(table, storage, runtime).handlers

    # ------------------------------------------------------------------ helpers

    def _agent(self, call: Pending) -> str | None:
        """Return the caller's name; None for the operator."""
        pid = call.caller.pid
        return None if pid == OPERATOR else self._table.caller(pid).name

    def _owner(self, call: Pending) -> str:
        """Return the owner of the caller's home. Raises InvalidArgument for the operator."""
        name = self._agent(call)
        if name is None:
            raise InvalidArgument("the operator has no home of its own", "run an agent: aios run")
        return name

    def _place(
        self, call: Pending, path: str, action: str, effect: Effect, *,
        lost: bool = False, file: bool = True,
    ) -> tuple[Place, str]:  # fmt: skip
        """Check the caller's rights; return where a path leads, and the caller's name.

        ``lost``: the call destroys what a mount holds there, since mounts keep no versions.
        ``file``: the path must be in a home, a share or a mount.
        """
        agent = self._agent(call)
        place = resolve(path, agent)
        if lost and place.kind == "mount":
            effect = "irreversible"
        self._access.check(call.asker, "path", action, place.shown(), effect)
        if file:
            _need_owner(place)
        return place, agent or OPERATOR_NAME

    def _versioned(
        self, call: Pending, path: str, action: str, effect: Effect
    ) -> tuple[Place, str]:
        """Do the same for a place that keeps versions. Raises IllegalState for a mount."""
        place, agent = self._place(call, path, action, effect)
        if place.kind == "mount":
            raise IllegalState(
                f"{place.shown()} is on a mount, which keeps no versions",
                "copy it into your home: aios.fs.move",
            )
        return place, agent

    # ------------------------------------------------------------------ files

    async def _write(self, call: Pending, body: s.FsWrite) -> s.FileInfo:
        place, agent = self._place(call, body.path, "write", "reversible", lost=not body.append)
        return await self._serve(call, self._storage.files.write(place, agent, body))

    async def _read(self, call: Pending, body: s.FsRead) -> s.FsData:
        place, agent = self._place(call, body.path, "read", "read")
        return await self._serve(call, self._storage.files.read(place, agent, body))

    async def _list(self, call: Pending, body: s.FsList) -> s.FsEntries:
        place, agent = self._place(call, body.path, "read", "read", file=False)
        listing = self._storage.files.entries(place, agent, body.after, body.limit)
        return await self._serve(call, listing)

    async def _stat(self, call: Pending, body: s.FsPath) -> s.FileInfo:
        place, agent = self._place(call, body.path, "read", "read", file=False)
        return await self._serve(call, self._storage.files.stat(place, agent))

    async def _move(self, call: Pending, body: s.FsMove) -> s.FileInfo:
        source, agent = self._place(call, body.source, "delete", "reversible")
        target, _ = self._place(call, body.target, "write", "reversible")
        return await self._serve(call, self._storage.files.move(source, target, agent))

    async def _delete(self, call: Pending, body: s.FsDelete) -> Empty:
        place, agent = self._place(call, body.path, "delete", "reversible", lost=True)
        await self._serve(call, self._storage.files.delete(place, agent, body.recursive))
        return Empty()

    async def _mkdir(self, call: Pending, body: s.FsPath) -> s.FileInfo:
        place, agent = self._place(call, body.path, "write", "reversible")
        return await self._serve(call, self._storage.files.mkdir(place, agent))

    async def _history(self, call: Pending, body: s.FsPath) -> s.FsVersions:
        place, agent = self._versioned(call, body.path, "read", "read")
        return await self._serve(call, self._storage.files.history(place, agent))

    async def _rollback(self, call: Pending, body: s.FsRollback) -> s.FileInfo:
        place, agent = self._versioned(call, body.path, "write", "reversible")
        return await self._serve(call, self._storage.files.rollback(place, agent, body.version))

    async def _prune(self, call: Pending, body: s.FsPrune) -> s.FsPruned:
        place, agent = self._versioned(call, body.path, "delete", "irreversible")
        return await self._serve(call, self._storage.files.prune(place, agent, body.keep))

    async def _usage(self, call: Pending, _: Empty) -> s.FsUsage:
        return await self._serve(call, self._storage.usage(self._owner(call)))

    # ------------------------------------------------------------------ uploads

    async def _begin(self, call: Pending, body: s.FsBegin) -> s.FsUpload:
        place, agent = self._place(call, body.path, "write", "reversible", lost=True)
        begin = self._storage.uploads.begin(call.caller.user, place, agent, body.expect)
        return s.FsUpload(await self._serve(call, begin))

    async def _part(self, call: Pending, body: s.FsPart) -> Empty:
        part = self._storage.uploads.part(call.caller.user, body.upload, body.data)
        await self._serve(call, part)
        return Empty()

    async def _end(self, call: Pending, body: s.FsEnd) -> s.FileInfo:
        return await self._serve(call, self._storage.uploads.end(call.caller.user, body.upload))

    def _drop(self, call: Pending, body: s.FsEnd) -> Empty:
        self._storage.uploads.drop(call.caller.user, body.upload)
        return Empty()

    # ------------------------------------------------------------------ shares, search

    async def _share(self, call: Pending, body: s.FsShare) -> s.FsShared:
        place, _ = self._versioned(call, body.path, "share", "reversible")
        if place.kind == "shared":
            raise PermissionDenied(
                f"{place.shown()} is {place.owner}'s to share", "an agent shares what is its own"
            )
        unused = body.rights is not None and self._access.unused(body.with_)
        await self._serve(call, self._storage.share(place, body.with_, body.rights))
        return s.FsShared(unused)

    async def _shares(self, call: Pending, _: Empty) -> s.FsShares:
        return await self._serve(call, self._storage.shares(self._owner(call)))

    async def _search(self, call: Pending, body: s.FsSearch) -> s.FsFound:
        place, agent = self._place(call, body.path, "read", "read", file=False)
        if place.kind != "mounts":
            _need_owner(place)
        until_s = self._clock.now() + _PATIENCE * call.timeout_s
        may = self._access.readable(call.asker)
        found = await self._serve(call, self._storage.search(place, agent, body, may, until_s))
        return found if call.ended else self._shown(call, found)

    def _shown(self, call: Pending, found: s.FsFound) -> s.FsFound:
        """Drop hits that have been forbidden meanwhile; log each file that is shown."""
        may = self._access.readable(call.asker)
        hits = [hit for hit in found.hits if may(hit.path)]
        for path in dict.fromkeys(hit.path for hit in hits):
            self._access.check(call.asker, "path", "read", path)
        return msgspec.structs.replace(found, hits=hits)

    # ------------------------------------------------------------------ values

    def _key(self, call: Pending, key: str, action: str, effect: Effect) -> str:
        """Check the caller's rights to a key; return the owner of the home that has it."""
        owner = self._owner(call)
        if "\0" in key:
            raise InvalidArgument(f"key {key[:80]!r} has a NUL")
        self._access.check(call.asker, "path", action, f"/.kv/{key}", effect)
        return owner

    async def _kv_get(self, call: Pending, body: s.KvKey) -> s.KvEntry:
        owner = self._key(call, body.key, "read", "read")
        return await self._serve(call, self._storage.get_value(owner, body.key))

    async def _kv_set(self, call: Pending, body: s.KvSet) -> s.KvEntry:
        owner = self._key(call, body.key, "write", "reversible")
        value: bytes = msgpack.packb(body.value)
        if len(value) > s.MAX_VALUE_BYTES:
            raise ResourceExhausted(
                f"a value of {len(value):,} bytes exceeds the limit of {s.MAX_VALUE_BYTES:,}",
                "write it to a file: aios.fs.write",
            )
        return await self._serve(call, self._storage.set_value(owner, body.key, value, body.expect))

    async def _kv_delete(self, call: Pending, body: s.KvDelete) -> Empty:
        owner = self._key(call, body.key, "delete", "irreversible")
        await self._serve(call, self._storage.delete_value(owner, body.key, body.expect))
        return Empty()

    async def _kv_list(self, call: Pending, body: s.KvList) -> s.KvKeys:
        owner = self._key(call, "", "read", "read")
        return await self._serve(call, self._storage.keys(owner, body))


def _need_owner(place: Place) -> None:
    """Raise PermissionDenied for a folder that is in no home, share or mount."""
    if place.kind in ("homes", "shares", "mounts"):
        raise PermissionDenied(f"{place.shown()} is not a file or folder of any agent",
                               "list what is in it: aios.fs.list, or: aios storage ls")  # fmt: skip

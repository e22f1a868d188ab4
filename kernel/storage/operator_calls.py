"""The operator's calls on storage: mounts, quotas, status, check with repair, backup.

They also work, as far as they can, when storage has failed.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeVar

import msgspec

from aios.kernel.loop.task import Task
from aios.kernel.process.table import ProcessTable
from aios.kernel.trap.pending import Handler, Pending
from aios.syscalls import paths
from aios.syscalls.errors import InvalidArgument
from aios.syscalls.types import storage as s
from aios.syscalls.types.common import Empty

from .chores import Chores
from .manager import Storage

T = TypeVar("T")


class OperatorCalls:
    """The handlers of ``storage.*``."""

    def __init__(self, table: ProcessTable, storage: Storage, runtime: Path) -> None:
        self._table, self._storage, self._runtime = table, storage, runtime
        self._chores = Chores(storage)
        self.handlers: dict[str, Handler] = {
            "storage.mount": self._mount,
            "storage.mounts": self._mounts,
            "storage.quota": self._quota,
            "storage.status": self._status,
            "storage.check": self._check,
            "storage.backup": self._backup,
        }

    async def _serve(self, call: Pending, operation: Task[T]) -> T:
        return await self._storage.serve(call, operation, failed_too=True)

    async def _mount(self, call: Pending, body: s.MountRequest) -> s.MountList:
        return await self._serve(call, self._set_mount(body))

    async def _set_mount(self, body: s.MountRequest) -> s.MountList:
        folder = body.folder
        if folder is not None:
            real = await self._storage.lanes.run(folder, lambda: self._mountable(folder))
            self._table.names.reserve(body.agent)  # no program's child may take the name
            body = msgspec.structs.replace(body, folder=real)
        return await self._storage.mount(body)

    def _mountable(self, folder: str) -> str:
        """Return the real path of a folder that agents may see. Raises InvalidArgument."""
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

    async def _mounts(self, call: Pending, _: Empty) -> s.MountList:
        return await self._serve(call, self._storage.mounts())

    async def _quota(self, call: Pending, body: s.QuotaRequest) -> s.FsUsage:
        return await self._serve(call, self._storage.set_quota(body.agent, body.quota_bytes))

    async def _status(self, call: Pending, _: Empty) -> s.StorageStatus:
        return await self._serve(call, self._chores.status())

    async def _check(self, call: Pending, body: s.StorageCheck) -> s.StorageReport:
        return await self._serve(call, self._chores.check(body.content, body.repair))

    async def _backup(self, call: Pending, body: s.StorageBackup) -> s.BackupReply:
        return await self._serve(call, self._chores.backup(Path(body.folder)))

"""Processes that end, and cores that are killed."""

from __future__ import annotations

import os
import select

from aios.syscalls.types.common import Empty
from tests.conftest import TIMEOUT_S, Machine, operator


def gone(os_pid: int) -> None:
    try:
        fd = os.pidfd_open(os_pid)
    except ProcessLookupError:
        return
    ended = select.select([fd], [], [], TIMEOUT_S)[0]
    os.close(fd)
    assert ended, f"host process {os_pid} lives on"


def core_of(machine: Machine) -> int:
    with operator(machine) as connection:
        return int(connection.call("model.list", Empty()).models[0].core_os_pid)

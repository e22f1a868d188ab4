"""Helpers for the tests of a whole kernel."""

from __future__ import annotations

from aios.syscalls.types.common import Empty
from tests.conftest import Machine, operator


def core_of(machine: Machine) -> int:
    """Return the host pid of the default model's core, or 0 if none runs."""
    with operator(machine) as connection:
        return int(connection.call("model.list", Empty()).models[0].core_os_pid)

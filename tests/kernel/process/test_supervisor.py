"""The supervisor."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from aios.kernel.loop.loop import Loop
from aios.kernel.process.supervisor import Supervisor
from aios.kernel.process.table import ProcessTable


def test_a_stray_that_survives_sigkill_does_not_end_the_kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process in uninterruptible sleep does not die."""

    class Host:
        pid, killed = 1, 0

        def children(self) -> list[Host]:
            return [self]

        def kill(self) -> None:
            Host.killed += 1

        def wait(self, timeout: float) -> None:
            raise psutil.TimeoutExpired(timeout, self.pid)

    monkeypatch.setattr(psutil, "Process", Host)
    loop = Loop()
    nothing: Any = lambda *_: ()  # noqa: E731
    launcher: Any = SimpleNamespace(os_pids=set)
    supervisor = Supervisor(
        loop, ProcessTable(1), tmp_path, tmp_path, launcher, nothing, nothing, nothing, nothing
    )
    supervisor.reap_strays()
    assert Host.killed == 1
    loop.close()

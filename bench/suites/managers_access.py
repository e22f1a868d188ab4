"""Access part of the suite ``managers``: the cost of a check, in one process.

Measures ``AccessManager.check`` as the other managers call it, with its audit entry. ``first``
decides a new name, ``again`` a name that was decided before. The rules are those of the default
group and 200 grants; the caller has two ancestors.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from aios.kernel.access import groups
from aios.kernel.access.approvals import Approvals
from aios.kernel.access.audit.file import AuditFile
from aios.kernel.access.audit.log import AuditLog
from aios.kernel.access.grant_file import Grant
from aios.kernel.access.manager import AccessManager
from aios.kernel.access.principals import OPERATOR
from aios.kernel.loop.loop import Loop
from aios.kernel.loop.worker import Worker
from aios.kernel.process.table import ProcessTable
from aios.kernel.trap.asker import Asker

CHECKS = 5000
_GRANTS = 200


def measure(checks: int = CHECKS) -> dict[str, float]:
    """Return microseconds per check: ``first_p50_us``, ``first_p99_us``, ``again_p50_us``, …"""
    with tempfile.TemporaryDirectory(prefix="aios-bench-") as name:
        folder = Path(name)
        loop = Loop()
        worker = Worker(loop, "bench")
        audit = AuditLog(loop, worker, AuditFile(
            folder / "audit", folder / "key", folder / "anchor", 1 << 30
        ))  # fmt: skip
        audit.open("bench")
        try:
            access, pid = _access(audit)
            figures = {}
            for round_, names in (("first", checks), ("again", 200)):
                times = _times(access, audit, loop, pid, checks, names)
                figures[f"{round_}_p50_us"] = times[len(times) // 2]
                figures[f"{round_}_p99_us"] = times[int(len(times) * 0.99)]
            return figures
        finally:
            audit.close()
            worker.close()
            loop.close()


def _access(audit: AuditLog) -> tuple[AccessManager, int]:
    """Return an access manager and the pid of a grandchild."""
    table = ProcessTable(10)
    pid = OPERATOR
    for name in ("top", "middle", "agent"):
        process = table.create(parent=pid, stem=name, command=name, spec=None, guest=False)
        pid = process.pid
    grants = [
        Grant(n, "*", f"allow path.read:/shared/a{n}/*/notes/**", 0.0) for n in range(_GRANTS)
    ]
    policy = groups.load(Path("/nonexistent/policy.toml"))
    return AccessManager(table, policy, grants, audit, Approvals(60.0)), pid


def _times(
    access: AccessManager, audit: AuditLog, loop: Loop, pid: int, checks: int, names: int
) -> list[float]:
    """Return sorted times; the log is written in between, as the kernel's loop does."""
    times, asker = [], Asker(pid)
    for number in range(checks):
        name = f"/notes/{number % names}/note.txt"
        begun = time.perf_counter()
        access.check(asker, "path", "write", name, "reversible")
        times.append((time.perf_counter() - begun) * 1e6)
        if number % 100 == 99:
            audit.kick()
            while not audit.settled:
                loop.turn(1000)
    return sorted(times)


if __name__ == "__main__":
    for figure, value in measure().items():
        print(f"{figure} = {value:.2f}")

"""A limit on simultaneous calls: never exceeded, all calls run, waiting ones are shown."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

from aios.syscalls.client import Connection
from aios.syscalls.types.common import Empty
from aios.syscalls.types.kernel import CheckReply
from aios.syscalls.types.tool import SourceRequest, ToolRef
from tests.conftest import TIMEOUT_S, Machine, operator

CALLERS, LIMIT = 8, 2

TOOL = f"""
import os
import aios

@aios.tool(concurrency={LIMIT}, timeout=60)
def stay(folder: str, who: str) -> str:
    "Log the entry, and stay until the door is opened."
    log = os.open(folder + "/log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(log, f"{{who}} in\\n".encode())
    with open(folder + "/inside", "w") as inside:
        inside.write(who)
    with open(folder + "/door-" + who) as door:
        said = door.read()
    os.write(log, f"{{who}} out\\n".encode())
    os.close(log)
    return said
"""
CALLER = """
import aios, sys
folder, who = sys.argv[1:]
print(aios.tools.call("my.stay", {"folder": folder, "who": who}))
"""


def _waits(connection: Connection) -> dict[str, list[str]]:
    rows = connection.call("proc.ps", Empty()).processes
    return {row.name: row.waits for row in rows if row.waits}


def _counts(connection: Connection) -> tuple[int, int]:
    """Return the numbers of running and waiting calls of the tool."""
    info = connection.call("tool.show", ToolRef("my.stay"))
    return info.running, info.waiting


def test_two_of_eight_callers_run_at_once(stopped: Machine, tmp_path: Path) -> None:
    stopped.trust("tool.call:*")
    stopped.start("--model", "fake:end=0", "--embedder", "off")
    (stopped.folder / "tools.py").write_text(TOOL)
    names = [f"c{number}" for number in range(CALLERS)]
    for fifo in ("inside", *(f"door-{name}" for name in names)):
        os.mkfifo(tmp_path / fifo)
    inside = os.open(tmp_path / "inside", os.O_RDWR)
    agent = stopped.agent("caller", CALLER)
    with operator(stopped) as connection:
        connection.call("tool.add", SourceRequest("my", "file", str(stopped.folder / "tools.py")))
        callers = {
            name: stopped.popen("run", "--name", name, agent, "--", str(tmp_path), name)
            for name in names
        }
        entered = [os.read(inside, 2).decode() for _ in range(LIMIT)]
        while len(waits := _waits(connection)) < CALLERS - LIMIT:  # until all calls have arrived
            assert all(each.poll() is None for each in callers.values())
        assert waits == {name: ["my.stay"] for name in names if name not in entered}
        rows = json.loads(stopped.aios("ps", "--json").stdout)
        assert {row["name"]: row["waits"] for row in rows if row["waits"]} == waits
        table = stopped.aios("ps").stdout.splitlines()
        shown = [line.split()[2] for line in table if "my.stay" in line.split()]
        assert sorted(shown) == sorted(waits)
        for left in range(CALLERS - LIMIT, -LIMIT, -1):
            assert _counts(connection) == (min(LIMIT, left + LIMIT), max(0, left))
            leaving = entered.pop(0)
            with open(tmp_path / f"door-{leaving}", "w") as door:
                door.write(f"hello {leaving}")
            assert callers[leaving].communicate(timeout=TIMEOUT_S)[0] == f"hello {leaving}\n"
            if left > 0:
                entered.append(os.read(inside, 2).decode())
                assert entered[-1] in waits and entered[-1] not in _waits(connection)
        check: CheckReply = connection.call("kernel.check", Empty())
        assert check.problems == [] and _waits(connection) == {}
    os.close(inside)
    inside_now, peak = 0, 0
    lines = (tmp_path / "log").read_text().splitlines()
    for line in lines:
        inside_now += 1 if line.endswith(" in") else -1
        peak = max(peak, inside_now)
    assert peak == LIMIT and inside_now == 0
    assert Counter(lines) == {f"{name} {way}": 1 for name in names for way in ("in", "out")}

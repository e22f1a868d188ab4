"""The scheduler as the operator sees it: settings, weights, quotas, budgets and the trace."""

from __future__ import annotations

import json

from aios.syscalls.types.process import ProcessInfo, PsRequest
from tests.conftest import Machine, operator
from tests.waiting import wait_until

FOREVER = "import aios\nprint('up', flush=True)\nwhile True: aios.chat('x', max_tokens=200)"


def _rows(machine: Machine) -> dict[str, ProcessInfo]:
    """Return the processes by name. A socket is faster here than a command."""
    with operator(machine) as connection:
        return {row.name: row for row in connection.call("proc.ps", PsRequest(all=True)).processes}


def _wait_for_tokens(machine: Machine, agent: str, beyond: int) -> None:
    """Wait until an agent has drawn more than this number of tokens."""
    wait_until(
        lambda: _rows(machine)[agent].tokens_out > beyond, f"more than {beyond} tokens of {agent}"
    )


def test_settings_are_shown_and_set_while_agents_run(machine: Machine) -> None:
    before = json.loads(machine.aios("sched", "show", "--json").stdout)
    try:
        machine.aios("run", "-d", "--name", "busy", machine.agent("busy", FOREVER))
        for name in before["policies"]:
            done = machine.aios("sched", "set", name, "--quantum", "7")
            assert done.returncode == 0 and f"policy {name}, quantum 7" in done.stdout
            _wait_for_tokens(machine, "busy", _rows(machine)["busy"].tokens_out)
        for wrong in (("set", "nonsense"), ("set", "rr", "--quantum", "-1"), ("set",),
                      ("show", "rr"), ("set", "rr", "--width", "0")):  # fmt: skip
            said = machine.aios("sched", *wrong)
            assert said.returncode in (1, 2) and said.stderr
        assert json.loads(machine.aios("sched", "show", "--json").stdout)["policy"] == name
    finally:
        machine.aios("sched", "set", before["policy"], "--quantum", "4")


def test_weights_and_quotas_are_set_and_enforced(machine: Machine) -> None:
    path = machine.agent("w", FOREVER)
    machine.aios("run", "-d", "--name", "heavy", "--weight", "3", path)
    machine.aios("run", "-d", "--name", "slow", "--quota-tokens", "600", "--quota-cells", "300",
                 path)  # fmt: skip
    rows = _rows(machine)
    assert rows["heavy"].weight == 3
    assert (rows["slow"].quota_tokens, rows["slow"].quota_cells) == (600, 300)
    assert machine.aios("renice", "--weight", "5", "--quota-tokens", "60", "heavy").returncode == 0
    assert (
        machine.aios("renice", "--quota-tokens", "0", "--quota-cells", "0", "slow").returncode == 0
    )
    rows = _rows(machine)
    assert (rows["heavy"].weight, rows["heavy"].quota_tokens) == (5, 60)
    assert (rows["slow"].quota_tokens, rows["slow"].quota_cells) == (None, None)
    _wait_for_tokens(machine, "slow", rows["slow"].tokens_out + 4000)
    drawn = _rows(machine)["heavy"].tokens_out - rows["heavy"].tokens_out
    assert drawn < 1000, "its quota is 60 tokens per minute"


def test_a_tree_draws_on_its_roots_budget(machine: Machine) -> None:
    machine.agent(
        "kid", "import aios\nfor _ in range(2): print(len(aios.chat('x', max_tokens=15).tokens))"
    )
    root = machine.agent("root", """
import aios
kid = aios.spawn(__file__.replace("root", "kid"), name="heir", max_tokens=10_000)
print(kid.wait().exit_code, flush=True)
print(len(aios.chat("x", max_tokens=50).tokens))
try: aios.chat("x", max_tokens=1)
except aios.BudgetExceeded as error: print("over", error.message)
""")  # fmt: skip
    got = machine.aios("run", "--name", "root", "--max-tokens", "40", "--weight", "2", root)
    assert got.stdout.splitlines()[-3:-1] == ["0", "10"], got
    assert "of its 40 tokens" in got.stdout.splitlines()[-1]
    assert _rows(machine)["heir"].weight == 2, "a child inherits its parent's weight"


def test_the_trace_shows_each_request(machine: Machine) -> None:
    code = "import aios\nfor n in range(3): aios.chat(f'story {n}', max_tokens=20)"
    machine.aios("run", "--name", "traced", machine.agent("traced", code))
    target = machine.folder / "trace.json"
    done = machine.aios("trace", "export", "--output", str(target))
    assert done.returncode == 0, done.stderr
    events = json.loads(target.read_text())["traceEvents"]
    tracks = {
        (e["pid"], e["tid"]): e["args"]["name"] for e in events if e.get("name") == "thread_name"
    }
    mine = [e for e in events if tracks.get((e["pid"], e.get("tid")), "").startswith("traced (")
            and e["ph"] == "X"]  # fmt: skip
    assert len(mine) >= 3 and all(event["dur"] >= 0 for event in mine)
    assert machine.aios("trace", "export").stdout.startswith('{"traceEvents"')

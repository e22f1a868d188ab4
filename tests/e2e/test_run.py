"""``aios run`` and the commands that show and control agents, on the fake model."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import TIMEOUT_S, Machine, lines
from tests.waiting import wait_until

HELLO = "import aios; print(aios.chat('hi', max_tokens=12).text)"
FOREVER = (
    "import aios, os\nprint(os.getpid(), flush=True)\nwhile True: aios.chat('x', max_tokens=500)"
)


def _until(path: Path, text: str) -> str:
    """Wait until a file contains this text; return its content."""

    def found() -> str | None:
        if path.exists() and text in (whole := path.read_text()):
            return whole
        return None

    return wait_until(found, f"{text!r} in {path}") or ""


def _ps(machine: Machine, *words: str) -> dict[str, dict[str, Any]]:
    rows = json.loads(machine.aios("ps", "--json", *words).stdout)
    return {row["name"]: row for row in rows}


def test_output_and_exit_code_are_the_agents(machine: Machine) -> None:
    path = machine.agent(
        "a", "import sys\nprint('out')\nprint('err', file=sys.stderr)\nsys.exit(7)"
    )
    got = machine.aios("run", path)
    assert (got.returncode, got.stdout, got.stderr) == (7, "out\n", "err\n")


def test_arguments_environment_and_input_reach_the_agent(machine: Machine) -> None:
    path = machine.agent("a", "import sys, os\nprint(sys.argv[1:], os.environ['K'], input())")
    got = machine.aios("run", path, "--env", "K=v=w", "--", "-x", "y z", stdin="typed\n")
    assert got.stdout == "['-x', 'y z'] v=w typed\n"


def test_a_file_run_by_hand_gives_the_same_output(machine: Machine) -> None:
    path = machine.agent("hand", "import aios; print(aios.getpid(), aios.ps()[-1].name)\n" + HELLO)
    got = subprocess.run(
        [sys.executable, path], env=machine.env, capture_output=True, text=True, timeout=TIMEOUT_S
    )
    assert got.stdout.split()[1] == "hand" and got.returncode == 0
    assert got.stdout.splitlines()[1] == machine.aios("run", path).stdout.splitlines()[1]


def test_output_of_several_agents_has_whole_named_lines(machine: Machine) -> None:
    paths = [machine.agent(n, f"print('{n}' * 5000)\nprint('x', end='')") for n in ("one", "two")]
    got = machine.aios("run", *paths)
    assert got.returncode == 0
    assert sorted(lines(got.stdout)) == sorted(
        [f"{n} | {n * 5000}" for n in ("one", "two")] + ["one | x", "two | x"]
    )


def test_the_exit_code_of_several_agents_is_the_first_failure(machine: Machine) -> None:
    paths = [machine.agent(f"e{n}", f"raise SystemExit({n})") for n in (0, 5, 6)]
    assert machine.aios("run", *paths).returncode == 5


def test_no_line_of_a_flood_is_lost(machine: Machine) -> None:
    path = machine.agent("flood", "for i in range(60000): print(i, 'x' * 40)")
    got = machine.aios("run", path)
    assert len(lines(got.stdout)) == 60000
    assert machine.aios("logs", "flood").stdout == got.stdout


def test_a_detached_agent_is_awaited_and_its_log_is_kept(machine: Machine) -> None:
    path = machine.agent("d", HELLO + "\nraise SystemExit(4)")
    started = json.loads(machine.aios("run", "-d", "--json", "--name", "deta", path).stdout)
    assert machine.aios("wait", "deta").returncode == 4
    assert json.loads(machine.aios("wait", "deta", "--json").stdout)[0]["exit_code"] == 4
    assert Path(started[0]["log"]).read_text() == machine.aios("logs", "det").stdout != ""


def test_logs_follow_to_the_end(machine: Machine) -> None:
    go = machine.folder / "go"
    os.mkfifo(go)
    path = machine.agent(
        "f", f"print('first', flush=True)\nopen({str(go)!r}).read()\nprint('last')"
    )
    machine.aios("run", "-d", "--name", "follow", path)
    following = machine.popen("logs", "-f", "follow")
    assert following.stdout and following.stdout.readline() == "first\n"
    go.write_text("go")
    assert following.communicate(timeout=TIMEOUT_S)[0] == "last\n"
    assert following.returncode == 0


def test_logs_as_json_are_one_object_per_line(machine: Machine) -> None:
    code = r"import os; os.write(1, 'a\n\n\u2603'.encode() + b'\xff' + b'x' * 200_000)"
    machine.aios("run", "-d", "--name", "lines", machine.agent("l", code))
    machine.aios("wait", "lines")
    for flags in ([], ["-f"]):
        got = machine.aios("logs", *flags, "--json", "lines").stdout
        lines = [json.loads(line)["line"] for line in got.splitlines()]
        assert lines == ["a", "", "\u2603\ufffd" + "x" * 200_000]


def test_signals_as_json_report_each_process(machine: Machine) -> None:
    path = machine.agent("s", "import time; time.sleep(1000)")
    machine.aios("run", "-d", "--name", "signalled", path)
    for words in (["renice", "--nice", "3"], ["pause"], ["resume"], ["kill"]):
        got = machine.aios(*words, "--json", "nobody", "signalled")
        assert got.returncode == 1 and "no process 'nobody'" in got.stderr
        assert json.loads(got.stdout) == [
            {"ref": "nobody", "error": "NOT_FOUND"},
            {"ref": "signalled", "error": None},
        ]


def test_interrupting_ends_the_agent_and_all_it_started(machine: Machine) -> None:
    note = machine.folder / "note"
    code = (
        "import subprocess, time, aios\n"
        "child = aios.spawn(__file__.replace('parent', 'kid'), name='child')\n"
        "p = subprocess.Popen(['sleep', '1000'])\n"
        f"open({str(note)!r}, 'w').write(f'{{p.pid}} done')\n"
        "time.sleep(1000)\n"
    )
    machine.agent("kid", "import time; time.sleep(1000)")
    running = machine.popen("run", "--name", "parent", machine.agent("parent", code))
    pid = int(_until(note, "done").split()[0])
    assert _ps(machine)["child"]["parent"] == _ps(machine)["parent"]["pid"]
    running.send_signal(signal.SIGINT)
    running.communicate(timeout=TIMEOUT_S)
    assert running.returncode == 130
    assert not Path(f"/proc/{pid}").exists()
    machine.aios("wait", "child")
    assert not {"child", "parent"} & set(_ps(machine))


def test_an_attached_agent_ends_with_its_command(machine: Machine) -> None:
    running = machine.popen("run", "--name", "att", machine.agent("att", FOREVER))
    assert running.stdout
    running.stdout.readline()
    running.kill()
    running.communicate()
    assert machine.aios("wait", "att").returncode == 137


def test_a_closed_pipe_ends_the_agent_quietly(machine: Machine) -> None:
    path = machine.agent("yes", "while True: print('y' * 1000)")
    running = machine.popen("run", path)
    assert running.stdout and running.stderr
    running.stdout.readline()
    running.stdout.close()
    assert running.wait(TIMEOUT_S) == 141
    assert running.stderr.read() == ""
    running.stderr.close()


def test_a_paused_agent_draws_no_tokens(machine: Machine) -> None:
    path = machine.agent("p", FOREVER)
    machine.aios("run", "-d", "--name", "pau", path)
    log = Path(json.loads(machine.aios("call", "proc.log", '{"ref": "pau"}').stdout)["path"])
    _until(log, "\n")
    assert machine.aios("pause", "pau").returncode == 0
    first = _ps(machine)["pau"]
    stat = Path(f"/proc/{first['os_pid']}/stat").read_text().rsplit(")", 1)[1].split()[0]
    assert first["state"] == "paused" and stat == "T"
    machine.aios("run", machine.agent("h", HELLO))  # others run on meanwhile
    second = _ps(machine)["pau"]
    assert second["context_tokens"] - first["context_tokens"] <= 1
    assert second["tokens_out"] == first["tokens_out"]
    assert machine.aios("resume", "pau").returncode == 0
    assert machine.aios("pause", "pau").returncode == 0
    assert machine.aios("stop", "--grace", "5", "pau").returncode == 0
    assert machine.aios("wait", "pau").returncode == 143


def test_ps_shows_class_priority_and_exit_code(machine: Machine) -> None:
    machine.aios("run", "-d", "--name", "busy", "--class", "batch", "--nice", "5",
                 machine.agent("b", FOREVER))  # fmt: skip
    row = _ps(machine)["busy"]
    assert (row["klass"], row["nice"]) == ("batch", 5)
    assert machine.aios("renice", "--nice", "-3", "--class", "interactive", "busy").returncode == 0
    row = _ps(machine)["busy"]
    assert (row["klass"], row["nice"]) == ("interactive", -3)
    assert str(row["pid"]) in machine.aios("ps", "-q").stdout.split()
    assert "busy" in machine.aios("ps").stdout
    machine.aios("kill", "busy")
    machine.aios("wait", "busy")
    assert "busy" not in _ps(machine) and _ps(machine, "-a")["busy"]["exit_code"] == 137


def test_token_budget_and_time_limit_hold(machine: Machine) -> None:
    code = (
        "import aios\n"
        "ask = lambda: len(aios.chat('x', max_tokens=8).tokens)\n"
        "print(ask(), ask())\n"
        "try: aios.chat('x')\n"
        "except aios.BudgetExceeded as e: print(e)\n"
    )
    got = machine.aios("run", "--max-tokens", "12", machine.agent("budget", code))
    assert got.stdout.startswith("8 4\n") and "12 tokens" in got.stdout
    got = machine.aios("run", "--timeout", "0.3", machine.agent("slow", FOREVER))
    assert got.returncode == 143, "SIGTERM at the time limit"


def test_summaries_are_charged_to_the_budget(machine: Machine) -> None:
    code = """
import aios
talk = [aios.Message("user", f"{n} " + "w" * 1000) for n in range(6)]
try:
    reply = aios.Context(talk).chat("go", max_tokens=8, window="summarise")
    left = 4000 - reply.window.summary_tokens - len(reply.tokens)
    print(reply.window.summary_tokens > 8, len(aios.chat("x", max_tokens=5000).tokens) == left)
except aios.BudgetExceeded as error: print(error)
"""
    path = machine.agent("summed", code)
    assert machine.aios("run", "--max-tokens", "4000", path).stdout == "True True\n"
    assert "all of its 100 tokens" in machine.aios("run", "--max-tokens", "100", path).stdout


@pytest.mark.parametrize(
    ("make", "code", "words"),
    [
        ("missing", 127, "no such file"),
        ("syntax", 126, "line 2: SyntaxError"),
        ("folder", 126, "cannot be run"),
        ("binary", 126, "cannot be run"),
        ("import", 1, "No module named 'nowhere_to_be_found'"),
        ("exit", 9, ""),
    ],
)
def test_a_file_that_cannot_run_is_explained(
    machine: Machine, make: str, code: int, words: str
) -> None:
    sources = {
        "syntax": "x = 1\ndef (", "binary": "\x00\x01", "exit": "import sys; sys.exit(9)",
        "import": "import nowhere_to_be_found",
    }  # fmt: skip
    path = machine.agent(make, sources[make]) if make in sources else f"/nowhere/{make}.py"
    got = machine.aios("run", "/tmp" if make == "folder" else path)
    assert got.returncode == code and words in got.stderr


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["kill", "nobody"], 1, "no process 'nobody'"),
        (["run", "--nice", "99", "HELLO"], 125, "nice"),
        (["run", "--max-tokens", "0", "HELLO"], 125, "max_tokens"),
        (["run", "--env", "NOEQUALS", "HELLO"], 125, "NAME=VALUE"),
        (["run", "--name", "bad name", "HELLO"], 125, "name"),
        (["run", "--class", "royal", "HELLO"], 2, "invalid choice"),
        (["sched", "set", "rrr"], 1, "did you mean 'rr'"),
        (["config", "get", "quantums"], 2, "did you mean 'quantum'"),
        (["daemon", "down", "--oops"], 2, "unrecognized"),
        (["call", "no.such"], 1, "aios call --list"),
        (["call", "getpid", "{"], 1, "not JSON"),
        (["frobnicate"], 2, "invalid choice"),
    ],
)
def test_wrong_usage_says_what_to_do(
    machine: Machine, words: list[str], code: int, message: str
) -> None:
    path = machine.agent("hello", HELLO)
    got = machine.aios(*(path if word == "HELLO" else word for word in words))
    assert got.returncode == code and message in got.stderr, got
    assert "Traceback" not in got.stderr

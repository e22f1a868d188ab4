"""The zygote, driven over its socket without a kernel."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from aios.syscalls.launch import Exited, Fork, Forked, Report, Signal, decode_report, encode
from tests.waiting import TIMEOUT_S, wait_for_end


class Zygote:
    """A zygote, and the kernel's end of its socket."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "aios.boot.zygote", str(theirs.fileno()), str(folder)],
                pass_fds=[theirs.fileno()],
            )
        ours.settimeout(TIMEOUT_S)
        self.sock = ours
        self.pids = 0

    def fork(self, code: str, *args: str, **changes: object) -> tuple[int, int]:
        """Start an agent from source; return its pid and host pid."""
        self.pids += 1
        path = self.folder / f"agent{self.pids}.py"
        path.write_text(code)
        out = str(self.folder / f"out{self.pids}")
        fields: dict[str, object] = {
            "pid": self.pids, "user": "1", "secret": "s", "name": "a", "path": str(path),
            "args": list(args), "cwd": str(self.folder), "env": {"PATH": "/usr/bin:/bin"},
            "stdin": None, "stdout": out, "stderr": out, "log": out + ".log",
        }  # fmt: skip
        self.sock.send(encode(Fork(**{**fields, **changes})))  # type: ignore[arg-type]
        report = self.report()
        assert isinstance(report, Forked)
        return report.pid, report.os_pid

    def report(self) -> Report:
        return decode_report(self.sock.recv(1 << 16))

    def run(self, code: str, *args: str, **changes: object) -> tuple[int, str]:
        """Run an agent to its end; return its exit code and output."""
        pid, _ = self.fork(code, *args, **changes)
        report = self.report()
        assert isinstance(report, Exited) and report.pid == pid
        return report.exit_code, (self.folder / f"out{pid}").read_text()


@pytest.fixture
def zygote(tmp_path: Path) -> Iterator[Zygote]:
    made = Zygote(tmp_path)
    yield made
    made.sock.close()
    assert made.process.wait(TIMEOUT_S) == 0


@pytest.mark.parametrize(
    ("code", "expected", "output"),
    [
        ("print('hi')", 0, "hi\n"),
        ("import sys; sys.exit(7)", 7, ""),
        ("import sys; sys.exit('words')", 1, "words\n"),
        ("raise SystemExit", 0, ""),
        ("raise KeyboardInterrupt", 130, ""),
        ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", 143, ""),
        ("import os; os._exit(3)", 3, ""),
        ("import atexit; atexit.register(print, 'bye'); print('hi')", 0, "hi\nbye\n"),
    ],
)
def test_an_agent_ends_as_python_would(
    zygote: Zygote, code: str, expected: int, output: str
) -> None:
    assert zygote.run(code) == (expected, output)


def test_a_failure_shows_the_agents_own_frames(zygote: Zygote) -> None:
    code, output = zygote.run("def f():\n    1/0\nf()\n")
    assert code == 1 and "ZeroDivisionError" in output and "agent1.py" in output
    assert "runpy" not in output and "child.py" not in output


def test_an_agent_that_cannot_run_is_explained(zygote: Zygote) -> None:
    code, output = zygote.run("", path="/nowhere/x.py")
    assert code == 127 and "no such file" in output
    code, output = zygote.run("def")
    assert code == 126 and "SyntaxError" in output
    code, output = zygote.run("", path=str(zygote.folder))
    assert code == 126
    assert zygote.run("", cwd="/nowhere")[0] == 125


def test_an_agent_gets_its_arguments_folder_and_environment(zygote: Zygote) -> None:
    (zygote.folder / "beside.py").write_text("X = 5")
    code = (
        "import os, sys, beside\n"
        "print(sys.argv[1:], os.getcwd(), os.environ.get('K'), os.environ.get('HOME'), beside.X)\n"
        "print(__name__, sys.stdin.read() == '', os.getsid(0) == os.getpid())\n"
        "print(sorted(os.listdir('/proc/self/fd'))[:3], len(os.listdir('/proc/self/fd')))\n"
    )
    _, output = zygote.run(code, "a b", "--c", env={"K": "v"})
    assert f"['a b', '--c'] {zygote.folder} v None 5\n__main__ True True\n" in output
    assert output.endswith("['0', '1', '2'] 4\n"), "no descriptor of the zygote stays open"


def test_a_fifo_without_a_reader_becomes_the_log(zygote: Zygote) -> None:
    fifo = zygote.folder / "fifo"
    os.mkfifo(fifo)
    pid, _ = zygote.fork("print('kept')", stdout=str(fifo))
    assert isinstance(zygote.report(), Exited)
    assert (zygote.folder / f"out{pid}.log").read_text() == "kept\n"


def test_everything_an_agent_started_ends_with_it(zygote: Zygote) -> None:
    code = (
        "import subprocess, os\n"
        "a = subprocess.Popen(['sleep', '1000'])\n"
        "b = subprocess.Popen(['setsid', 'sh', '-c', 'sleep 1000 & echo $! >&2; sleep 1000'])\n"
        "print(a.pid, b.pid, flush=True)\n"
    )
    status, output = zygote.run(code)
    assert status == 0
    for word in output.split():
        wait_for_end(int(word))


def test_kill_reaches_the_whole_tree(zygote: Zygote) -> None:
    fifo = zygote.folder / "told"
    os.mkfifo(fifo)
    code = (
        "import subprocess, time, sys\n"
        "p = subprocess.Popen(['setsid', 'sleep', '1000'])\n"
        "open(sys.argv[1], 'w').write(str(p.pid))\n"
        "time.sleep(1000)\n"
    )
    pid, _ = zygote.fork(code, str(fifo))
    child = int(fifo.read_text())
    zygote.sock.send(encode(Signal(pid, signal.SIGKILL, True)))
    assert zygote.report() == Exited(pid, 137)
    wait_for_end(child)


def test_zygote_and_agents_end_with_the_kernel(tmp_path: Path) -> None:
    zygote = Zygote(tmp_path)
    _, os_pid = zygote.fork("import time; time.sleep(1000)")
    zygote.sock.close()
    assert zygote.process.wait(TIMEOUT_S) == 0
    wait_for_end(os_pid)


def test_agents_end_with_a_killed_zygote(tmp_path: Path) -> None:
    zygote = Zygote(tmp_path)
    _, os_pid = zygote.fork("import time; time.sleep(1000)")
    zygote.process.kill()
    zygote.process.wait()
    wait_for_end(os_pid)
    zygote.sock.close()

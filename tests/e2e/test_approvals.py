"""Questions to the operator and their answers: the command line and the terminal."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from aios.syscalls.types.common import Empty
from tests.conftest import FAKE, IDLE, TIMEOUT_S, Machine, operator
from tests.waiting import wait_readable, wait_until

SEND = """
import aios, sys
try:
    aios.send("victim", sys.argv[1])
    print("sent")
except aios.ConfirmationRequired as error:
    print(error.approval)
except aios.AiosError as error:
    print(error.code)
"""


@pytest.fixture
def victim(own: Machine) -> Machine:
    """A kernel that runs an agent which is no kin of any other."""
    own.aios("run", "-d", "--name", "victim", own.agent("victim", IDLE))
    return own


def test_an_irreversible_operation_waits_for_the_operator(victim: Machine) -> None:
    send = victim.agent("send", SEND)
    number = victim.aios("run", send, "--", "hello").stdout.strip()
    assert len(number) == 8
    assert victim.aios("run", send, "--", "hello").stdout.strip() == number, "asked once"
    (question,) = json.loads(victim.aios("approvals", "ls", "--json").stdout)
    assert (question["id"], question["state"], question["name"]) == (
        number, "pending", "other/victim",
    )  # fmt: skip
    assert question["arguments"] == '"hello"' and question["program"] == send
    assert number in victim.aios("approvals", "ls").stdout
    assert victim.aios("approvals", "approve", number).returncode == 0
    other = victim.aios("run", send, "--", "other words").stdout.strip()
    assert len(other) == 8 and other != number, "for these arguments only"
    copy = victim.agent("copy", SEND)
    assert len(victim.aios("run", "--name", "send", copy, "--", "hello").stdout.strip()) == 8
    assert victim.aios("run", send, "--", "hello").stdout == "sent\n"
    again = victim.aios("run", send, "--", "hello").stdout.strip()
    assert len(again) == 8 and again != number, "once only"
    assert victim.aios("approvals", "approve", number).returncode == 1
    assert victim.aios("approvals", "deny", again).returncode == 0
    assert victim.aios("run", send, "--", "hello").stdout == "PERMISSION_DENIED\n"
    outcomes = [r["outcome"] for r in victim.audit("--agent", "send") if r["kind"] == "agent"]
    assert f"asked ({number})" in outcomes and f"approved ({number})" in outcomes
    assert "denied by the operator" in outcomes
    whole = (victim.audit_folder() / "000000000001.jsonl").read_text()
    assert "other words" not in whole, "bodies are not logged"


def test_questions_and_answers_survive_a_restart(victim: Machine) -> None:
    send = victim.agent("send", SEND)
    number = victim.aios("run", send, "--", "hello").stdout.strip()

    def restart() -> None:
        victim.aios("daemon", "restart", *FAKE)
        victim.aios("run", "-d", "--name", "victim", victim.agent("victim", IDLE))

    restart()
    shown = victim.aios("approvals", "ls").stdout
    assert number in shown and "agent.send:other/victim" in shown and '"hello"' in shown
    assert victim.aios("approvals", "approve", number).returncode == 0
    restart()
    assert victim.aios("run", send, "--", "hello").stdout == "sent\n"
    restart()
    assert victim.aios("run", send, "--", "hello").stdout.strip() not in ("sent", number)


def test_an_approval_expires(victim: Machine) -> None:
    send = victim.agent("send", SEND)
    number = victim.aios("run", send, "--", "x").stdout.strip()
    (victim.folder / "policy.toml").write_text("approval_s = 1\n")
    assert victim.aios("perm", "reload").returncode == 0
    assert victim.aios("approvals", "approve", number).returncode == 0
    wait_until(lambda: number not in victim.aios("approvals", "ls").stdout, "its expiry")
    assert victim.aios("run", send, "--", "x").stdout.strip() not in ("sent", number)
    assert victim.aios("approvals", "approve", number).returncode == 1


_ON_TTY = """
import os, sys
os.login_tty(int(sys.argv[1]))
os.execv(sys.executable, [sys.executable, "-P", "-m", "aios.cli", *sys.argv[2:]])
"""


class Terminal:
    """``aios run`` at a terminal of its own."""

    def __init__(self, machine: Machine, *words: str) -> None:
        self._fd, theirs = os.openpty()
        self._process = subprocess.Popen(
            [sys.executable, "-c", _ON_TTY, str(theirs), *words],
            env=machine.env, cwd=machine.folder, pass_fds=(theirs,), stdin=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(theirs)
        self.text = ""

    def until(self, words: str) -> str:
        """Read until these words are shown; return all text so far."""
        while words not in self.text:
            wait_readable(self._fd, f"{words!r} after {self.text!r}")
            self.text += os.read(self._fd, 4096).decode()
        return self.text

    def type(self, text: str) -> None:
        """Send keystrokes."""
        os.write(self._fd, text.encode())

    def ended(self) -> int:
        """Read to the end; return the exit code."""
        try:
            while True:
                self.text += os.read(self._fd, 4096).decode()
        except OSError:
            pass
        os.close(self._fd)
        return self._process.wait(TIMEOUT_S)

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)


def test_at_a_terminal_the_operator_is_asked_at_once(victim: Machine) -> None:
    send = victim.agent("send", SEND)
    terminal = Terminal(victim, "run", send, "--", "hello\x1b[2J")
    shown = terminal.until("Allow it once? [y/N] ")
    assert "wants to send agent other/victim, which cannot be undone" in shown
    assert 'with "hello\\u001b[2J"' in shown and "\x1b[2J" not in shown
    terminal.type("y\n")
    assert terminal.ended() == 0 and "sent" in terminal.text
    for answer in ("n\n", "\n", "\x04"):
        terminal = Terminal(victim, "run", send, "--", f"to {answer!r}")
        terminal.until("[y/N] ")
        terminal.type(answer)
        assert terminal.ended() == 0 and "PERMISSION_DENIED" in terminal.text
    assert json.loads(victim.aios("approvals", "ls", "--json").stdout)[0]["state"] == "denied"


def test_a_question_left_open_is_asked_again_at_the_next_terminal(victim: Machine) -> None:
    send = victim.agent("send", SEND)
    number = victim.aios("run", send, "--", "x").stdout.strip()
    first = Terminal(victim, "run", send, "--", "x")
    first.until("[y/N] ")
    first.kill()
    first.ended()
    second = Terminal(victim, "run", send, "--", "x")
    second.until("[y/N] ")
    second.type("yes\n")
    assert second.ended() == 0 and "sent" in second.text
    assert number not in victim.aios("approvals", "ls").stdout


def test_a_terminal_shows_one_question_at_a_time(victim: Machine) -> None:
    code = """
import aios, threading
def send(n):
    try:
        aios.send("victim", n)
        print("sent", n)
    except aios.PermissionDenied:
        print("not", n)
threads = [threading.Thread(target=send, args=(n,)) for n in range(3)]
[t.start() for t in threads]; [t.join() for t in threads]
"""
    terminal = Terminal(victim, "run", victim.agent("many", code))
    for answer in ("y\n", "n\n", "y\n"):
        terminal.until("[y/N] ")
        terminal.text = ""
        terminal.type(answer)
    assert terminal.ended() == 0
    terminal = Terminal(victim, "run", victim.agent("one", SEND), "--", "x")
    terminal.until("[y/N] ")
    (question,) = [q for q in json.loads(victim.aios("approvals", "ls", "--json").stdout)
                   if q["state"] == "pending"]  # fmt: skip
    assert victim.aios("approvals", "approve", question["id"]).returncode == 0
    terminal.until("sent")  # answered elsewhere, so the call continues
    terminal.kill()
    terminal.ended()
    with operator(victim) as connection:
        assert connection.call("kernel.check", Empty()).problems == []

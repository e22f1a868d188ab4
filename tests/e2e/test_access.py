"""Rights, approvals and the audit log, as a user types it, on the fake model."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from aios.syscalls import paths
from aios.syscalls.access_types import AnswerRequest
from aios.syscalls.client import Connection, Credentials
from aios.syscalls.errors import PermissionDenied
from aios.syscalls.types import Empty, RefRequest, SignalRequest
from tests.conftest import TIMEOUT_S, Machine, operator

FAKE = ("--model", "fake:step_ms=1,end=0")
IDLE = "import time; time.sleep(1000)"
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
def own(stopped: Machine) -> Iterator[Machine]:
    """A kernel of the test's own: it changes policies and logs."""
    stopped.start(*FAKE)
    yield stopped
    assert "Traceback" not in stopped.log()


def _audit(machine: Machine, *words: str) -> list[dict[str, Any]]:
    got = machine.aios("audit", "--json", "-n", "0", *words)
    assert got.returncode == 0, got.stderr
    return [json.loads(line) for line in got.stdout.splitlines()]


def _audit_folder(machine: Machine) -> Path:
    return Path(machine.aios("audit", "path").stdout.strip())


# ---------------------------------------------------------------------------- rights


def test_groups_and_rules_of_one_run(own: Machine) -> None:
    code = """
import aios
def attempt(do):
    try:
        do()
        return "yes"
    except aios.AiosError as error:
        return error.code
print(attempt(aios.getpid), attempt(lambda: aios.chat("x", max_tokens=2)),
      attempt(lambda: aios.spawn(__file__.replace("probe", "idle"))),
      attempt(lambda: aios.context.remove("none")))
"""
    probe = own.agent("probe", code)
    own.agent("idle", IDLE)
    got = own.aios("run", probe)
    assert got.stdout.split() == ["yes", "yes", "yes", "NOT_FOUND"], got
    got = own.aios("run", "--group", "restricted", probe)
    assert got.stdout.split() == ["yes", "yes", "PERMISSION_DENIED", "NOT_FOUND"], got
    got = own.aios("run", "--deny", "model:*", probe)
    assert got.stdout.split()[1] == "PERMISSION_DENIED"
    got = own.aios("run", "--group", "restricted", "--allow", "call:proc.spawn",
                   "--allow", "trust agent.spawn:**/idle.py", probe)  # fmt: skip
    assert got.stdout.split()[2] == "CONFIRMATION_REQUIRED", "the call itself is asked for"
    got = own.aios("run", "--group", "restricted", "--allow", "trust call:proc.spawn",
                   "--allow", "trust agent.spawn:**/idle.py", probe)  # fmt: skip
    assert got.stdout.split()[2] == "yes"


def test_the_command_that_a_refusal_names_is_enough(own: Machine) -> None:
    code = """
import aios, sys
if "child" in sys.argv:
    sender = aios.recv(timeout=60).sender
    aios.send(sender, "answer")
elif "parent" in sys.argv:
    child = aios.spawn(__file__, "child", name="kid", rights=["model:*"])
    aios.send(child.pid, "question")
    print(child.wait().exit_code)
else:
    print(aios.tools.call("calculate", {"expression": "6 * 7"}))
"""
    probe = own.agent("probe", code)
    restricted = ("run", "--group", "restricted", "--allow", "tool.call:calculate", probe)
    refused = own.aios(*restricted).stderr.splitlines()
    assert refused[-1].endswith("aios perm grant probe 'trust call.make:tool.call'"), refused
    assert own.aios("perm", "grant", "probe", "trust call.make:tool.call").returncode == 0
    assert own.aios(*restricted).stdout == "42\n"
    got = own.aios("run", probe, "--", "parent")
    assert "(kid) may not send agent 'kin/probe': no rule allows it" in got.stderr
    assert got.stderr.splitlines()[-1].endswith("aios perm grant kid 'trust agent.send:kin/probe'")
    assert own.aios("perm", "grant", "kid", "trust agent.send:kin/probe").returncode == 0
    assert own.aios("run", probe, "--", "parent").stdout == "0\n"


def test_grants_work_at_once_and_last(own: Machine) -> None:
    probe = own.agent("probe", "import aios; print(aios.chat('x', max_tokens=2).finish)")
    assert own.aios("perm", "grant", "prob*", "deny model:*").returncode == 0
    assert "PermissionDenied" in own.aios("run", probe).stderr
    own.aios("daemon", "restart", *FAKE)
    assert "PermissionDenied" in own.aios("run", probe).stderr
    assert "prob*" in own.aios("perm", "ls").stdout
    assert own.aios("perm", "revoke", "prob*", "deny model:*").returncode == 0
    assert own.aios("run", probe).stdout == "length\n"
    assert json.loads(own.aios("perm", "ls", "--json").stdout)["grants"] == []


def test_explain_says_which_rule_decided(own: Machine) -> None:
    own.aios("run", "-d", "--name", "idle", own.agent("idle", IDLE))
    own.aios("perm", "grant", "idle", "deny tool.call:rm")
    got = own.aios("perm", "explain", "idle", "tool.call:rm")
    assert got.returncode == 1 and "denied: idle (pid 1), deny tool.call:rm (grant 1)" in got.stdout
    got = own.aios("perm", "explain", "@agent", "tool.call:rm", "--effect", "irreversible")
    assert got.returncode == 1 and "asked for: @agent, allow tool:* (group agent)" in got.stdout
    got = own.aios("perm", "explain", "idle", "call.make:kernel.shutdown")
    assert got.returncode == 1 and "denied: the kernel" in got.stdout
    got = own.aios("perm", "explain", "@restricted", "path.read:/x", "--json")
    assert got.returncode == 0 and json.loads(got.stdout)["verdict"] == "allow"


def test_a_reload_takes_all_or_nothing(own: Machine) -> None:
    policy = own.folder / "policy.toml"
    policy.write_text("[group.operator]")
    assert own.aios("perm", "reload").returncode == 0
    policy.write_text('[group.lab]\nfrom = ["restricted"]\nabout = "For a test"\n')
    assert own.aios("run", "--group", "lab", own.agent("a", "")).returncode == 125
    got = own.aios("perm", "reload")
    assert got.returncode == 0 and "lab (from the policy file): For a test" in got.stdout
    own.aios("run", "-d", "--group", "lab", "--name", "labrat", own.agent("idle", IDLE))
    assert '"group": "lab"' in own.aios("ps", "--json").stdout
    for text, message in (
        ('[group.lab]\nalow = ["x"]', "line 2: unknown key of group.lab 'alow'; did you mean"),
        ("", "has no group 'lab', in which pid"),
    ):
        policy.write_text(text)
        got = own.aios("perm", "reload")
        assert got.returncode == 1 and message in got.stderr, got
        assert "lab" in own.aios("perm", "ls").stdout, "the old policy is in force"


def test_a_broken_policy_or_grant_keeps_the_kernel_from_starting(stopped: Machine) -> None:
    policy = stopped.folder / "policy.toml"
    policy.write_text('\ndefualt = "agent"\n')
    got = stopped.aios("daemon", "up", *FAKE)
    assert got.returncode == 1 and "line 2" in got.stderr and "did you mean" in got.stderr
    policy.unlink()
    grants = stopped.folder / "data" / "aios" / "grants.json"
    grants.parent.mkdir(parents=True)
    grants.write_text("{")
    got = stopped.aios("daemon", "up", *FAKE)
    assert got.returncode == 1 and "grants" in got.stderr and "mv " in got.stderr
    grants.unlink()
    assert stopped.aios("daemon", "up", *FAKE).returncode == 0


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["perm", "grant", "@agnt", "tool:x"], 1, "did you mean 'agent'"),
        (["perm", "grant", "a b", "tool:x"], 1, "subject"),
        (["perm", "grant", "x@y", "tool:x"], 1, "subject"),
        (["perm", "grant", "a", "tol:x"], 1, "did you mean 'tool'"),
        (["perm", "grant", "a", "path.read:x"], 1, "begins with /"),
        (["perm", "grant", "a", "nonsense"], 1, "KIND"),
        (["perm", "grant", "a", "tool:" + "x" * 600], 1, "rule"),
        (["perm", "revoke", "999"], 1, "aios perm ls"),
        (["perm", "revoke", "0"], 1, "id"),
        (["perm", "revoke", "a", "tool:x"], 1, "no grant"),
        (["perm", "revoke", "a", "b", "c"], 1, "its number"),
        (["perm", "explain", "nobody", "tool.call:x"], 1, "or ask for a group: @agent"),
        (["perm", "explain", "@agent", "tool:x"], 1, "not one operation"),
        (["perm", "explain", "@agent", "tool.call:*"], 1, "not one operation"),
        (["perm", "explain", "@agent", "tool.call:x", "--effect", "bad"], 2, "invalid choice"),
        (["perm", "frobnicate"], 2, "invalid choice"),
        (["approvals", "approve", "deadbeef"], 1, "aios approvals ls"),
        (["approvals", "deny", "../../x"], 1, "no question"),
        (["run", "--group", "agnt", "HELLO"], 125, "did you mean 'agent'"),
        (["run", "--allow", "tol:x", "HELLO"], 125, "did you mean 'tool'"),
        (["run", "--deny", "allow tool:x", "HELLO"], 125, "says 'allow' itself"),
        (["audit", "frobnicate"], 2, "invalid choice"),
    ],
)
def test_nonsense_is_refused_with_the_way_out(
    machine: Machine, words: list[str], code: int, message: str
) -> None:
    path = machine.agent("hello", "")
    got = machine.aios(*(path if word == "HELLO" else word for word in words))
    assert got.returncode == code and message in got.stderr, got
    assert "Traceback" not in got.stderr


def test_agents_reach_no_call_of_the_operators(machine: Machine, context: zmq.Context[Any]) -> None:
    with Connection(context, Credentials(machine.runtime)) as guest:
        for name in ("access.policy", "access.reload", "access.approvals", "access.next"):
            with pytest.raises(PermissionDenied, match="operator"):
                guest.call(name, Empty())
        with pytest.raises(PermissionDenied, match="operator"):
            guest.call("access.answer", AnswerRequest("x", True))
    code = """
import subprocess, sys
got = subprocess.run([sys.executable, "-P", "-m", "aios.cli", "approvals", "approve", "x"],
                     capture_output=True, text=True)
print(got.returncode, got.stderr)
"""
    got = machine.aios("run", "--group", "operator", machine.agent("sneaky", code))
    assert got.stdout.startswith("1 aios: the kernel refused")


CONTEXTS = """
import aios
def attempt(do):
    try:
        return do()
    except aios.AiosError as error:
        return error.code
aios.context.chat("hi", max_tokens=2)
print(attempt(lambda: aios.context.save("mine").name), attempt(lambda: aios.context.remove("mine")),
      attempt(lambda: [c.name for c in aios.context.saved("planner")]),
      attempt(lambda: len(aios.context.restore("planner/plan").messages)),
      attempt(lambda: aios.context.restore("planner/none")),
      attempt(lambda: aios.context.save("planner/plan").name),
      attempt(lambda: aios.context.remove("planner/plan")))
"""


def test_saved_contexts_are_their_agents_alone_until_granted(own: Machine) -> None:
    save = "import aios; aios.context.chat('x', max_tokens=2); aios.context.save('plan')"
    own.aios("run", "--name", "planner", own.agent("save", save))
    spy = own.agent("spy", CONTEXTS)
    no = "PERMISSION_DENIED"
    for group in ("agent", "restricted", "trusted"):
        got = own.aios("run", "--group", group, spy)
        assert got.stdout.split() == ["mine", "None", no, no, no, no, no], got
    own.aios("perm", "grant", "spy", "allow context.read:other/planner/*")
    assert own.aios("run", spy).stdout.split() == [
        "mine", "None", "['plan']", "2", "NOT_FOUND", no, no,
    ]  # fmt: skip
    own.aios("perm", "grant", "spy", "allow context:other/planner/*")
    assert own.aios("run", spy).stdout.split()[5:] == ["plan", "CONFIRMATION_REQUIRED"]
    assert "None" in own.aios("run", "--name", "planner", own.agent("rm", (
        "import aios; print(aios.context.remove('planner/plan'))"))).stdout  # fmt: skip
    own.aios("perm", "grant", "spy", "deny context:own/*")
    assert own.aios("run", spy).stdout.split()[:2] == [no, no]
    assert own.aios("perm", "grant", "spy", "allow context.read:plan").returncode == 1
    got = own.aios("call", "context.list", '{"agent": "planner"}')
    assert got.returncode == 0 and [c["name"] for c in json.loads(got.stdout)["contexts"]] == [
        "plan"
    ]


# ---------------------------------------------------------------------------- trees


def test_a_tree_has_less_and_less_and_dies_with_its_root(machine: Machine) -> None:
    """Rights and budgets narrow from generation to generation; the root's end ends all."""
    machine.agent("leaf", """
import aios, sys, time
def attempt(do):
    try:
        do()
        return "yes"
    except aios.AiosError as error:
        return error.code
chat = lambda: aios.chat("x", max_tokens=6)
spawn = lambda **more: aios.spawn(__file__, "sleep", **more)
if "sleep" in sys.argv:
    time.sleep(1000)
out = [attempt(chat), attempt(chat), attempt(spawn), attempt(lambda: spawn(group="trusted"))]
aios.send(aios.getppid(), out)
time.sleep(1000)
""")  # fmt: skip
    code = """
import aios, time
leaf = __file__.replace("root", "leaf")
poor = aios.spawn(leaf, name="poor", rights=["model:*", "agent.send:kin/*"], max_tokens=6)
rich = aios.spawn(leaf, name="rich", max_tokens=100)
print(aios.recv(timeout=30, sender=poor.pid).body)
print(aios.recv(timeout=30, sender=rich.pid).body)
for wrong in (dict(group="agnt"), dict(rights=["tol:x"]), dict(deny=["allow tool:x"])):
    try:
        aios.spawn(leaf, **wrong)
    except aios.InvalidArgument as error:
        print("refused")
print("done", flush=True)
time.sleep(1000)
"""
    running = machine.popen("run", "--name", "root", machine.agent("root", code))
    assert running.stdout
    lines = [running.stdout.readline() for _ in range(6)]
    refused = "PERMISSION_DENIED"
    assert lines[0] == f"{['yes', 'BUDGET_EXCEEDED', refused, refused]}\n"
    assert lines[1] == f"{['yes', 'yes', 'yes', 'yes']}\n"
    assert lines[2:] == ["refused\n"] * 3 + ["done\n"]
    with operator(machine) as connection:
        rows = connection.call("proc.ps", Empty()).processes
        root = next(row.pid for row in rows if row.name == "root")
        tree = [row for row in rows if row.name in ("poor", "rich") or row.name.startswith("leaf")]
        assert len(tree) == 4, "poor, rich, and rich's two"
        connection.call("proc.signal", SignalRequest(str(root), "kill"))
        for row in tree:
            assert connection.call("proc.wait", RefRequest(str(row.pid))).exit_code == 137
            assert not Path(f"/proc/{row.os_pid}").exists()
    running.communicate(timeout=TIMEOUT_S)


def test_a_child_does_not_get_at_what_the_operators_agents_have_stored(own: Machine) -> None:
    diary = own.agent("diary", "import aios\nprint(aios.fs.list('/'))")
    own.aios("run", "--name", "diary", own.agent("w", "import aios; aios.fs.write('a', b'x')"))
    thief = own.agent("thief", f"""
import aios
for more in ({{}}, {{"name": "diary"}}):
    try:
        child = aios.spawn({diary!r}, **more)
        child.wait()
        print(child.name)
    except aios.AiosError as error:
        print(error.code, error.hint)
""")  # fmt: skip
    for _ in range(2):
        got = own.aios("run", thief).stdout.splitlines()
        assert got[:2] == ["[]", "diary-2"] and got[2].startswith("PERMISSION_DENIED"), got
        assert "allow agent.name:other/diary" in got[2]
        own.aios("daemon", "down")
        own.start(*FAKE)
    own.aios("perm", "grant", "thief", "allow agent.name:other/diary")
    got = own.aios("run", thief).stdout.splitlines()
    assert got[-1] == "diary" and "'/a'" in got[-2], got


# ---------------------------------------------------------------------------- approvals


@pytest.fixture
def victim(own: Machine) -> Machine:
    """A kernel with an agent in it that is nobody's kin."""
    own.aios("run", "-d", "--name", "victim", own.agent("victim", IDLE))
    return own


def test_what_cannot_be_undone_waits_for_the_operator(victim: Machine) -> None:
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
    outcomes = [r["outcome"] for r in _audit(victim, "--agent", "send") if r["kind"] == "agent"]
    assert f"asked ({number})" in outcomes and f"approved ({number})" in outcomes
    assert "denied by the operator" in outcomes
    whole = (_audit_folder(victim) / "000000000001.jsonl").read_text()
    assert "other words" not in whole, "bodies are not logged"


def test_questions_and_answers_outlive_the_kernel(victim: Machine) -> None:
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
    (victim.folder / "policy.toml").write_text("approval_s = 1\n")
    victim.aios("perm", "reload")
    send = victim.agent("send", SEND)
    number = victim.aios("run", send, "--", "x").stdout.strip()
    victim.aios("approvals", "approve", number)
    select.select([], [], [], 1.1)  # until it has expired
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
        """All that was shown until these words are."""
        end = time.monotonic() + TIMEOUT_S
        while words not in self.text:
            assert select.select([self._fd], [], [], max(0.0, end - time.monotonic()))[0], self.text
            self.text += os.read(self._fd, 4096).decode()
        return self.text

    def type(self, text: str) -> None:
        os.write(self._fd, text.encode())

    def ended(self) -> int:
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


def test_several_questions_come_one_after_another(victim: Machine) -> None:
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
    terminal.until("sent")  # answered elsewhere: the call goes on
    terminal.kill()
    terminal.ended()
    with operator(victim) as connection:
        assert connection.call("kernel.check", Empty()).problems == []


# ---------------------------------------------------------------------------- the audit log


def test_every_call_of_an_agent_is_in_the_log_with_its_rule(own: Machine) -> None:
    code = "import aios\nfor _ in range(50): aios.getpid()\naios.chat('top secret', max_tokens=2)"
    own.aios("run", "--name", "logged", own.agent("logged", code))
    own.aios("daemon", "down")
    records = _audit(own, "--agent", "logged")
    calls = [r["name"] for r in records if r["kind"] == "call"]
    assert calls.count("getpid") == 50 and calls.count("llm.chat") == 1
    assert all(r["outcome"] == "allowed" and r["rule"] for r in records)
    assert any(r["kind"] == "model" and r["rule"] == "allow model:* (group agent)" for r in records)
    assert "top secret" not in json.dumps(_audit(own))
    got = own.aios("audit", "verify")
    assert got.returncode == 0 and "are as they were written" in got.stdout
    assert "logged" in own.aios("audit", "--agent", "logged", "-n", "3").stdout


def test_following_shows_what_comes(own: Machine) -> None:
    following = own.popen("audit", "-f", "--json", "-n", "1", "--agent", "shown")
    own.aios("run", "--name", "shown", own.agent("a", "import aios; aios.getpid()"))
    assert following.stdout
    record = json.loads(following.stdout.readline())
    assert (record["agent"], record["name"]) == ("shown", "getpid")
    following.kill()
    following.communicate()


@pytest.mark.parametrize("how", ["edited", "deleted", "inserted", "reordered", "cut"])
def test_a_tampered_log_is_found(stopped: Machine, how: str) -> None:
    stopped.start(*FAKE)
    stopped.aios("run", stopped.agent("a", "import aios\nfor _ in range(30): aios.getpid()"))
    stopped.aios("daemon", "down")
    (path,) = _audit_folder(stopped).glob("*.jsonl")
    lines = path.read_bytes().splitlines(keepends=True)
    match how:
        case "edited":
            lines[9] = lines[9].replace(b'"allowed"', b'"refused"')
        case "deleted":
            del lines[9]
        case "inserted":
            lines.insert(9, lines[4])
        case "reordered":
            lines[9], lines[10] = lines[10], lines[9]
        case "cut":
            del lines[9:]
    path.write_bytes(b"".join(lines))
    got = stopped.aios("audit", "verify", "--json")
    problem = json.loads(got.stdout)["problem"]
    assert got.returncode == 1 and ("record 10 " in problem or "record 5 " in problem), problem
    assert stopped.aios("audit", "verify").stderr.startswith("aios: record")


def test_a_killed_kernel_leaves_a_sound_log(stopped: Machine) -> None:
    """Five times killed in the middle of calls; every acknowledged mutation is in the log."""
    done = stopped.folder / "done"
    code = f"""
import aios, os
me = aios.getpid()
with open({str(done)!r}, "a", buffering=1) as file:
    while True:
        aios.send(me, 1)
        aios.recv()
        file.write("x")
"""
    path = stopped.agent("a", code)
    for _ in range(5):
        os_pid = stopped.start(*FAKE)
        stopped.aios("run", "-d", path)
        before = done.stat().st_size if done.exists() else 0
        while not done.exists() or done.stat().st_size < before + 50:
            select.select([], [], [], 0.01)
        fd = os.pidfd_open(os_pid)
        os.kill(os_pid, signal.SIGKILL)
        select.select([fd], [], [], TIMEOUT_S)
        os.close(fd)
    stopped.start(*FAKE)
    assert stopped.aios("audit", "verify").returncode == 0
    received = [r for r in _audit(stopped) if r["name"] == "ipc.recv"]
    assert len(received) >= done.stat().st_size


def test_no_log_and_no_key(stopped: Machine) -> None:
    for words in (["audit"], ["audit", "verify"], ["audit", "-f"]):
        got = stopped.aios(*words)
        assert got.returncode == 1 and "aios daemon up" in got.stderr, (words, got)


@pytest.mark.skipif(os.getuid() != 0, reason="mounting needs root")
def test_a_full_disk_stops_mutations_and_nothing_else(stopped: Machine) -> None:
    folder = stopped.folder / "state" / "aios" / "audit"
    folder.mkdir(parents=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "none", str(folder)])
    if mounted.returncode:
        pytest.skip("this machine does not let us mount")
    try:
        stopped.start(*FAKE)
        with (folder / "filler").open("wb", buffering=0) as filler:
            try:
                while filler.write(b"x" * 65536):
                    pass
            except OSError:
                pass
        code = """
import aios
me, sent = aios.getpid(), 0
try:
    while True:
        aios.send(me, 1); sent += 1
        aios.recv(); sent += 1
except aios.AuditUnavailable as error:
    print(sent, "No space left" in str(error), aios.getpid() == me, len(aios.ps()) > 0)
"""
        got = stopped.aios("run", "-d", "--name", "full", stopped.agent("full", code))
        assert got.returncode == 0, got.stderr
        stopped.aios("wait", "full")
        sent, *rest = stopped.aios("logs", "full").stdout.split()
        assert rest == ["True", "True", "True"] and int(sent) > 100
        assert stopped.aios("run", stopped.agent("b", "")).returncode == 125
        assert "audit log" in stopped.aios("call", "kernel.check").stdout
        stopped.aios("run", "-d", stopped.agent("c", IDLE))
        assert stopped.aios("ps").returncode == 0 and stopped.aios("perm", "ls").returncode == 0
        (folder / "filler").unlink()
        with operator(stopped) as connection:
            while connection.call("kernel.check", Empty()).problems:
                select.select([], [], [], 0.05)  # until it has tried again
        assert (
            stopped.aios("run", stopped.agent("d", "import aios; aios.chat('x')")).returncode == 0
        )
        stopped.aios("daemon", "down")
        assert stopped.aios("audit", "verify").returncode == 0
        mutations = [r for r in _audit(stopped, "--agent", "full") if r["effect"] != "read"
                     and r["kind"] == "call" and r["outcome"] == "allowed"]  # fmt: skip
        assert len(mutations) >= int(sent)
        assert any(r["action"] == "gap" for r in _audit(stopped))
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_the_key_is_the_users_alone(own: Machine) -> None:
    key = own.folder / "data" / "aios" / "audit" / "key"
    assert key.stat().st_mode & 0o777 == 0o600 and len(key.read_bytes()) == 32
    assert _audit_folder(own).parent == own.folder / "state" / "aios" / "audit"
    assert _audit_folder(own).name == paths.audit_dir(own.runtime).name

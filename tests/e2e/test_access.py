"""Groups, rules and grants, as a user types them, on the fake model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import zmq

from aios.syscalls.client import Connection, Credentials
from aios.syscalls.errors import PermissionDenied
from aios.syscalls.types.access import ApprovalAnswer
from aios.syscalls.types.common import Empty
from aios.syscalls.types.process import RefRequest, SignalRequest
from tests.conftest import FAKE, IDLE, TIMEOUT_S, Machine, operator


def test_run_options_set_an_agents_group_and_rules(own: Machine) -> None:
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
    assert got.stdout.split()[2] == "CONFIRMATION_REQUIRED", "the call itself needs an approval"
    got = own.aios("run", "--group", "restricted", "--allow", "trust call:proc.spawn",
                   "--allow", "trust agent.spawn:**/idle.py", probe)  # fmt: skip
    assert got.stdout.split()[2] == "yes"


def test_the_grant_that_a_refusal_suggests_is_enough(own: Machine) -> None:
    code = """
import aios, sys
if "child" in sys.argv:
    sender = aios.recv(timeout=100).sender
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


def test_a_grant_works_at_once_and_survives_a_restart(own: Machine) -> None:
    probe = own.agent("probe", "import aios; print(aios.chat('x', max_tokens=2).finish)")
    assert own.aios("perm", "grant", "prob*", "deny model:*").returncode == 0
    assert "PermissionDenied" in own.aios("run", probe).stderr
    own.aios("daemon", "restart", *FAKE)
    assert "PermissionDenied" in own.aios("run", probe).stderr
    assert "prob*" in own.aios("perm", "ls").stdout
    got = own.aios("perm", "grant", "proba", "deny model:*")
    assert "no agent has used the name proba yet" in got.stderr and "perm revoke 2" in got.stderr
    assert "proba (name not used yet)" in own.aios("perm", "ls").stdout
    own.aios("perm", "revoke", "2")
    assert own.aios("perm", "revoke", "prob*", "deny model:*").returncode == 0
    assert own.aios("run", probe).stdout == "length\n"
    assert json.loads(own.aios("perm", "ls", "--json").stdout)["grants"] == []


def test_explain_names_the_rule_that_decided(own: Machine) -> None:
    own.aios("run", "-d", "--name", "idle", own.agent("idle", IDLE))
    assert own.aios("perm", "grant", "idle", "deny tool.call:rm").stderr == ""
    got = own.aios("perm", "explain", "idle", "tool.call:rm")
    assert got.returncode == 1 and "denied: idle (pid 1), deny tool.call:rm (grant 1)" in got.stdout
    got = own.aios("perm", "explain", "@agent", "tool.call:rm", "--effect", "irreversible")
    assert got.returncode == 1 and "asked for: @agent, allow tool:* (group agent)" in got.stdout
    got = own.aios("perm", "explain", "idle", "call.make:kernel.shutdown")
    assert got.returncode == 1 and "denied: the kernel" in got.stdout
    got = own.aios("perm", "explain", "@restricted", "path.read:/x", "--json")
    assert got.returncode == 0 and json.loads(got.stdout)["verdict"] == "allow"


def test_a_reload_applies_the_whole_policy_or_nothing(own: Machine) -> None:
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
        (["run", "--deny", "allow tool:x", "HELLO"], 125, "has the verb 'allow'"),
        (["audit", "frobnicate"], 2, "invalid choice"),
    ],
)
def test_bad_arguments_are_refused_with_the_fix(
    machine: Machine, words: list[str], code: int, message: str
) -> None:
    path = machine.agent("hello", "")
    got = machine.aios(*(path if word == "HELLO" else word for word in words))
    assert got.returncode == code and message in got.stderr, got
    assert "Traceback" not in got.stderr


def test_agents_cannot_make_the_operators_calls(
    machine: Machine, context: zmq.Context[Any]
) -> None:
    with Connection(context, Credentials(machine.runtime)) as guest:
        for name in ("access.policy", "access.reload", "access.approvals", "access.next"):
            with pytest.raises(PermissionDenied, match="operator"):
                guest.call(name, Empty())
        with pytest.raises(PermissionDenied, match="operator"):
            guest.call("access.answer", ApprovalAnswer("x", True))
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


def test_saved_contexts_are_private_until_granted(own: Machine) -> None:
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


def test_rights_narrow_down_a_tree_that_dies_with_its_root(machine: Machine) -> None:
    """A child has no more rights or tokens than its parent; the root's end ends all."""
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
print(aios.recv(timeout=100, sender=poor.pid).body)
print(aios.recv(timeout=100, sender=rich.pid).body)
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
        assert len(tree) == 4, "poor, rich, and two children of rich"
        connection.call("proc.signal", SignalRequest(str(root), "kill"))
        for row in tree:
            assert connection.call("proc.wait", RefRequest(str(row.pid))).exit_code == 137
            assert not Path(f"/proc/{row.os_pid}").exists()
    running.communicate(timeout=TIMEOUT_S)


def test_a_child_cannot_reach_what_the_operators_agents_stored(own: Machine) -> None:
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

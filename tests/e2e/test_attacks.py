"""Frames of a hostile agent: no spelling of a name gives it more than its rights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgpack
import pytest
import zmq

from aios.syscalls import codec, paths
from aios.syscalls.client import Credentials, open_socket
from aios.syscalls.table import BY_NAME
from tests.conftest import TIMEOUT_S, Machine

NO, INVALID, NONE = "PERMISSION_DENIED", "INVALID_ARGUMENT", "NOT_FOUND"
POLICY = """
guest = "tested"
[group.tested]
allow = ["path:/**", "tool:*", "memory:agent", "memory:shared:*", "agent.spawn:*", "agent.send:*"]
trust = ["call:*", "context:own/*", "agent.spawn:/ok/**"]
deny = ["path:/secret/**", "path:/.kv/secret", "memory:shared:x", "tool.call:calculate",
        "context:own/secret"]
"""


class Raw:
    """A guest's socket that sends frames without checking them."""

    def __init__(self, sock: zmq.Socket[Any]) -> None:
        self._sock, self._ids = sock, iter(range(1, 1 << 20))

    def call(self, name: str, /, **body: Any) -> Any:
        """Make a call; return the result, or the code of the error."""
        sent = [BY_NAME[name].number, next(self._ids), 0, body]
        self._sock.send(msgpack.packb(sent, unicode_errors="surrogatepass"))
        assert self._sock.poll(TIMEOUT_S * 1000), (name, body)
        reply = codec.decode_reply(self._sock.recv())
        return reply.body if reply.kind == codec.RESULT else reply.body["code"]


@pytest.fixture
def raw(stopped: Machine, context: zmq.Context[Any]) -> Iterator[Raw]:
    (stopped.folder / "policy.toml").write_text(POLICY)
    stopped.start("--model", "fake:end=0")
    os_pid = paths.require_kernel(stopped.runtime)
    sock = open_socket(context, Credentials(stopped.runtime), os_pid)
    yield Raw(sock)
    sock.close(0)
    assert "Traceback" not in stopped.log()


def test_lookalike_names_bypass_no_rule(raw: Raw, stopped: Machine) -> None:
    for path in ("/secret", "/secret/a", "secret/a", "//secret//a", "/./secret/./a", "/secret/"):
        assert raw.call("fs.read", path=path) == NO, path
    for path in ("/x/../secret/a", "..", "/secret\0/a", "/secret\n", "/" + "x" * 4096,
                 "/a\x1b[2J", "/\ud800"):  # fmt: skip
        assert raw.call("fs.read", path=path) == INVALID, path
    for path in ("/SECRET/a", "/s\u0435cret/a", "/\uff53ecret/a", "/secret*/a", "/*/a", "/**",
                 "/secret\u200b/a"):  # fmt: skip
        assert raw.call("fs.read", path=path) == NONE, "another name is another file"
    assert raw.call("kv.set", key="secret", value=1) == NO
    assert raw.call("kv.set", key="x/../secret", value=1) == NO
    assert raw.call("kv.set", key="secret\0", value=1) == INVALID
    for scope in ("shared:x\n", "shared:x/", "shared:*", "shared:", "agent:victim\n", "session:-1"):
        assert raw.call("memory.add", text="t", scope=scope) == INVALID, scope
    assert raw.call("memory.add", text="t", scope="shared:x") == NO
    assert raw.call("memory.add", text="t", scope="agent:victim") == NO
    for name in ("calculate\n", "calculate ", "*", "", "x" * 4096, "\u0441alculate"):
        assert raw.call("tool.call", name=name) == INVALID, name
    assert raw.call("tool.call", name="calculate", arguments='{"expression": "1"}') == NO
    assert raw.call("tool.call", name="Calculate") == NONE
    for name in ("../secret", "a/b/c", "/secret", "own/", "secret\n", "*", "a/../secret", ".ctx"):
        assert raw.call("context.remove", name=name) == INVALID, name
    assert raw.call("context.remove", name="secret") == NO
    assert raw.call("context.remove", name="own/secret") == NO, "of an agent named own"
    own = raw.call("getpid")["name"]
    assert raw.call("context.remove", name=f"{own}/secret") == NO
    assert raw.call("fs.read", path="/secret/a", pid=0) == INVALID
    assert raw.call("getpid", pid=0) == INVALID, "a body cannot say who calls"
    assert raw.call("access.answer", id="x", approve=True) == NO
    assert stopped.aios("audit", "verify").returncode == 0


def test_a_disguised_path_bypasses_no_spawn_rule(raw: Raw, stopped: Machine) -> None:
    evil = stopped.agent("evil", "")
    assert raw.call("proc.spawn", path=evil) == "CONFIRMATION_REQUIRED"
    for path in (f"/ok/../{evil}", f"/ok/.{evil}", f"/ok//../..{evil}", "evil.py", f"/ok/{evil}/",
                 evil + "\0", "//ok/x.py"):  # fmt: skip
        assert raw.call("proc.spawn", path=path, cwd=str(stopped.folder)) == INVALID, path
    for name in ("operator", "x\n", "../x", "a b", "\u0430gent", "-x"):
        assert raw.call("proc.spawn", path="/ok/x.py", name=name) == INVALID, name
    for rules in ({"rights": ["path:/\0"]}, {"rights": ["tool.call:x\n"]}, {"weight": 9.0},
                  {"group": "tested\0"}, {"deny": ["allow *:*"]}):  # fmt: skip
        assert raw.call("proc.spawn", path="/ok/x.py", **rules) in (INVALID, NO), rules
    operators = stopped.agent("operator", "import aios; print(aios.ps()[-1].name)")
    assert stopped.aios("run", operators).stdout == "operator-2\n", "operator is a reserved name"
    got = stopped.aios("run", f"../{stopped.folder.name}/./operator.py")
    assert got.stdout == "operator-2\n", "the command line makes a path whole"


def test_an_approval_covers_only_the_arguments_it_showed(raw: Raw, stopped: Machine) -> None:
    """This also holds for calls in which the kernel looks something up before it asks."""
    one, two = (raw.call("memory.add", text=t, scope="agent")["id"] for t in ("one", "two"))
    assert raw.call("memory.remove", id=one) == "CONFIRMATION_REQUIRED"
    number = stopped.aios("approvals", "ls").stdout.split("\n")[1].split()[0]
    assert stopped.aios("approvals", "approve", number).returncode == 0
    assert raw.call("memory.remove", id=two) == "CONFIRMATION_REQUIRED"
    assert raw.call("memory.remove", id=one) == {}
    stopped.aios("run", "-d", "--name", "victim", stopped.agent("v", "import aios; aios.recv(600)"))
    assert raw.call("ipc.send", to="victim", body={"b'a'": 1}) == "CONFIRMATION_REQUIRED"
    numbers = [line.split()[0] for line in stopped.aios("approvals", "ls").stdout.splitlines()[1:]]
    assert stopped.aios("approvals", "approve", *numbers).returncode == 0
    assert raw.call("ipc.send", to="victim", body={b"a": 1}) == "CONFIRMATION_REQUIRED"
    assert raw.call("ipc.send", to="victim", body={"b'a'": 1}) == {}

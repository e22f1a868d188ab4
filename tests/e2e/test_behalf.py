"""An agent that serves a tool acts on behalf of its caller, and of no other agent."""

from __future__ import annotations

import json
from typing import Any

import msgpack
import msgspec
import pytest
import zmq

from aios.syscalls import codec, paths
from aios.syscalls.client import Connection, Credentials, on_behalf, open_socket
from aios.syscalls.errors import ErrorBody, InvalidArgument, PermissionDenied, from_body
from aios.syscalls.table import BY_NAME
from aios.syscalls.types.common import Empty
from aios.syscalls.types.storage import FsWrite
from aios.syscalls.types.tool import OfferRequest, ToolAnswer, ToolCall, ToolSpec
from tests.conftest import TIMEOUT_S, Machine
from tests.waiting import wait_until

FAKE = ("--model", "fake:step_ms=1,end=0")
CLERK = """
import aios
@aios.tool(effect="read")
def keep(text: str) -> str:
    aios.kv.set("kept", text)
    return "kept"
@aios.tool(effect="read")
async def think(text: str) -> str:
    return (await aios.achat(text, max_tokens=2)).finish
@aios.tool(effect="read")
def hire(path: str) -> object:
    child = aios.spawn(path)
    return aios.recv(timeout=120, sender=child.pid).body
@aios.tool(effect="read")
def post(text: str) -> str:
    aios.send("victim", text)
    return "sent"
@aios.tool(effect="read")
def twice(text: str) -> str:
    return aios.tools.call("keep", {"text": text})
aios.tools.offer(keep, think, hire, post, twice, threads=2)
print("ready", flush=True)
aios.recv(timeout=600, sender=aios.getpid())
"""
ASK = """
import aios, sys
try:
    print(aios.tools.call(sys.argv[1], {sys.argv[2]: sys.argv[3]}))
except aios.AiosError as error:
    print(error.code, error.message)
"""
RESTRICTED = ("run", "--group", "restricted", "--allow", "trust call:tool.call",
              "--allow", "tool.call:*")  # fmt: skip


def _clerk(machine: Machine, *flags: str) -> Any:
    running = machine.popen("run", "--group", "trusted", *flags, machine.agent("clerk", CLERK))
    assert running.stdout and running.stdout.readline() == "ready\n"
    return running


def test_a_tool_has_no_more_rights_than_its_caller(stopped: Machine) -> None:
    stopped.start(*FAKE)
    clerk = _clerk(stopped)
    ask = stopped.agent("ask", ASK)
    write = stopped.agent("write", """
import aios
try:
    aios.fs.write("/x", b"x")
    said = "written"
except aios.AiosError as error:
    said = error.code
aios.send(aios.getppid(), said)
""")  # fmt: skip
    assert stopped.aios("run", ask, "--", "keep", "text", "a").stdout == "kept\n"
    got = stopped.aios(*RESTRICTED, ask, "--", "keep", "text", "b")
    assert got.stdout.startswith("PERMISSION_DENIED") and "[for ask]" in got.stdout, got
    got = stopped.aios("run", "--deny", "model:*", ask, "--", "think", "text", "b")
    assert "deny model:* (spawn deny) [for ask]" in got.stdout, got
    assert stopped.aios("run", ask, "--", "think", "text", "b").stdout == "length\n"
    nested = stopped.aios("run", "--deny", "path.write:/.kv/**", ask, "--", "twice", "text", "b")
    assert "[for ask]" in nested.stdout, "the tool calls another tool"
    deny = ("--deny", "path.write:**/x", "--allow", "trust agent.spawn:*")
    assert stopped.aios("run", *deny, ask, "--", "hire", "path", write).stdout == (
        "PERMISSION_DENIED\n"
    ), "what is started on behalf of another has no more rights"
    assert stopped.aios("run", "--allow", "trust agent:*", ask, "--", "hire", "path", write
                        ).stdout == "written\n"  # fmt: skip
    log = stopped.aios("audit", "--json", "-n", "0", "--agent", "clerk").stdout.splitlines()
    denied = [r for r in map(json.loads, log) if r["outcome"] == "denied" and r["kind"] == "path"]
    assert denied[0]["agent"] == "clerk" and denied[0]["behalf"].startswith("ask (")
    assert "for ask (" in stopped.aios("audit", "--agent", "clerk", "--denied").stdout
    clerk.kill()
    clerk.communicate()


def test_an_approval_names_and_binds_tool_and_caller(stopped: Machine) -> None:
    stopped.start(*FAKE)
    victim = stopped.agent("victim", "import aios; aios.recv(timeout=600, sender=aios.getpid())")
    stopped.aios("run", "-d", "--name", "victim", victim)
    clerk = _clerk(stopped)
    ask = stopped.agent("ask", ASK)
    got = stopped.aios("run", ask, "--", "post", "text", "hello").stdout
    assert got.startswith("TOOL_FAILED") and "the operator has to approve it" in got
    (question,) = json.loads(stopped.aios("approvals", "ls", "--json").stdout)
    assert (question["agent"], question["behalf"]) == ("clerk", "ask")
    assert "clerk for ask" in stopped.aios("approvals", "approve", question["id"]).stdout
    other = stopped.aios("run", "--name", "other", ask, "--", "post", "text", "hello").stdout
    assert other.startswith("TOOL_FAILED"), "the approval is for ask only"
    assert stopped.aios("run", ask, "--", "post", "text", "hello").stdout == "sent\n"
    clerk.kill()
    clerk.communicate()


# ---------------------------------------------------------------------------- forged


def _raw(sock: zmq.Socket[Any], frame: bytes) -> codec.ReplyFrame:
    sock.send(frame)
    assert sock.poll(TIMEOUT_S * 1000)
    return codec.decode_reply(sock.recv())


def test_an_agent_acts_only_for_callers_it_serves(
    machine: Machine, context: zmq.Context[Any]
) -> None:
    credentials = Credentials(machine.runtime)
    with Connection(context, credentials) as server, Connection(context, credentials) as caller:
        server.call("tool.offer", OfferRequest([ToolSpec("mine", effect="read")]))
        call_id = caller.begin("tool.call", ToolCall("mine"), TIMEOUT_S)
        work = server.call("tool.next", Empty(), TIMEOUT_S).work
        with on_behalf(work):
            server.call("getpid", Empty())
        forged = (work + 1, work - 1, 10**9, 1 << 63)
        for number in (n for n in forged if n):
            with pytest.raises(PermissionDenied, match="does not serve work"), on_behalf(number):
                server.call("getpid", Empty())
        server.call("tool.answer", ToolAnswer(work, '"done"'))
        with pytest.raises(PermissionDenied, match="does not serve work"), on_behalf(work):
            server.call("fs.write", FsWrite("/x", b"x"))
        wait_until(lambda: caller.poll(call_id), "the reply")
        server.call("tool.offer", OfferRequest([]))


@pytest.mark.parametrize("work", [-1, 1 << 64, "1", None, True, [1], {"pid": 1}, 1.0])
def test_a_malformed_work_number_is_refused(
    machine: Machine, context: zmq.Context[Any], work: object
) -> None:
    os_pid = paths.require_kernel(machine.runtime)
    sock = open_socket(context, Credentials(machine.runtime), os_pid)
    try:
        reply = _raw(sock, msgpack.packb([BY_NAME["getpid"].number, 7, 0, {}, work])
                     if work != 1 << 64 else b"\x95\x01\x07\x00\x80\xcf" + b"\xff" * 8)  # fmt: skip
        assert reply.kind == codec.ERROR and reply.call_id == 7
        with pytest.raises(InvalidArgument, match="work"):
            raise from_body(msgspec.convert(reply.body, ErrorBody))
        reply = _raw(sock, msgpack.packb([BY_NAME["getpid"].number, 8, 0, {}, 0, 0]))
        assert reply.kind == codec.ERROR
    finally:
        sock.close(0)

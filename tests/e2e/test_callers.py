"""Callers that send malformed frames, forge names, or make calls that they may not make."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgpack
import pytest
import zmq

from aios.syscalls import codec, paths
from aios.syscalls.client import Connection, Credentials
from aios.syscalls.errors import (
    AiosError,
    InvalidArgument,
    KernelUnavailable,
    ModelUnavailable,
    NotFound,
    PermissionDenied,
)
from aios.syscalls.table import BY_NAME, CALLS
from aios.syscalls.types.chat import ChatRequest
from aios.syscalls.types.common import Empty
from aios.syscalls.types.kernel import SchedRequest
from aios.syscalls.types.mail import SendRequest
from aios.syscalls.types.process import RefRequest, SignalRequest
from tests.conftest import TIMEOUT_S, Machine, operator


def test_every_call_rejects_the_body_of_another(guest: Connection) -> None:
    us = str(guest.call("getpid", Empty()).pid)
    accepted = []
    for call in CALLS:
        try:
            guest.call(call.name, SendRequest(us, "only ipc.send has these fields"), TIMEOUT_S)
            accepted.append(call.name)
        except (InvalidArgument, PermissionDenied):
            pass
    assert accepted == ["ipc.send"]


def test_malformed_frames_are_answered_and_the_kernel_survives(
    machine: Machine, context: zmq.Context[Any], guest: Connection
) -> None:
    """2,000 mutated frames, seed 4. Each is answered, some only at their deadline."""
    rng = random.Random(4)
    sock = guest._socket
    good = codec.encode_call(1, 5, 3.0, Empty())
    for _ in range(2000):
        frame = bytearray(good)
        frame[rng.randrange(len(frame))] = rng.randrange(256)
        sock.send(bytes(frame[: rng.randint(0, len(frame))]))
    sock.send_multipart([good, b"more", b"frames"])
    sock.send(msgpack.packb([9999, 100_000, 0, {}]))
    replies = [codec.decode_reply(sock.recv()) for _ in range(2002)]
    (last,) = (reply for reply in replies if reply.call_id == 100_000)
    assert last.body["code"] == "NOT_FOUND"
    assert sum(reply.kind == codec.ERROR for reply in replies) > 1000
    assert guest.call("getpid", Empty()).name


def test_an_oversized_frame_cuts_off_only_its_sender(
    machine: Machine, context: zmq.Context[Any], guest: Connection
) -> None:
    with Connection(context, Credentials(machine.runtime)) as other:
        sock = other._socket
        with sock.get_monitor_socket(zmq.EVENT_DISCONNECTED) as monitor:
            sock.send(b"x" * (codec.MAX_FRAME_BYTES + 1))
            assert monitor.poll(TIMEOUT_S * 1000), "the kernel ends the connection"
            sock.disable_monitor()
        assert not sock.poll(0), "no reply"
    assert guest.call("getpid", Empty()).name


def test_a_guest_has_only_a_guests_rights(machine: Machine, guest: Connection) -> None:
    for call in ("kernel.shutdown", "kernel.check", "trace.read", "sched.set"):
        with pytest.raises(PermissionDenied, match="operator"):
            guest.call(call, Empty())
    path = machine.agent("idle", "import time; time.sleep(1000)")
    machine.aios("run", "-d", "--name", "victim", path)
    with pytest.raises(PermissionDenied, match="itself and its descendants"):
        guest.call("proc.signal", SignalRequest("victim", "kill"))
    with pytest.raises(PermissionDenied):
        guest.call("proc.log", RefRequest("victim"))


@pytest.mark.parametrize("user", ["1", "999999", "op:1", "x" * 200, "０"])
def test_a_forged_name_is_refused(machine: Machine, context: zmq.Context[Any], user: str) -> None:
    machine.aios("run", "-d", machine.agent("idle", "import time; time.sleep(1000)"))
    if user.isdecimal():
        with pytest.raises(KernelUnavailable, match="refused"):
            Connection(context, Credentials(machine.runtime, user, "guess"))
    else:  # no agent has this name, so it is a guest
        with Connection(context, Credentials(machine.runtime, user[:200], "guess")) as connection:
            assert connection.call("getpid", Empty()).parent == 0


def test_a_forged_routing_id_does_not_impersonate_its_victim(
    machine: Machine, context: zmq.Context[Any]
) -> None:
    """A second peer with the routing id of the first does not act as it or get its replies."""
    endpoint = paths.agents_endpoint(machine.runtime)
    code = f"""
import msgpack, zmq
sock = zmq.Context().socket(zmq.DEALER)
sock.plain_username, sock.plain_password, sock.routing_id = b"guest", b"-", b"victim"
monitor = sock.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED)
sock.connect({endpoint!r})
assert monitor.poll({TIMEOUT_S * 1000})
sock.send(msgpack.packb([{BY_NAME["getpid"].number}, 99, 0, {{}}]))
print(msgpack.unpackb(sock.recv())[2]["pid"] if sock.poll(1000) else "no reply")
"""
    with context.socket(zmq.DEALER) as victim:
        victim.plain_username, victim.plain_password = b"guest", b"-"
        victim.routing_id, victim.linger = b"victim", 0
        victim.connect(endpoint)

        def victims_pid() -> int:
            victim.send(codec.encode_call(BY_NAME["getpid"].number, 1, None, Empty()))
            assert victim.poll(TIMEOUT_S * 1000)
            reply = codec.decode_reply(victim.recv())
            assert reply.call_id == 1, "not the attacker's reply"
            return int(reply.body["pid"])

        pid = victims_pid()
        got = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=2 * TIMEOUT_S
        )
        assert got.returncode == 0, got.stderr
        assert got.stdout.strip() != str(pid)
        assert victims_pid() == pid and not victim.poll(0)


def test_an_agent_is_not_the_operator(machine: Machine) -> None:
    code = (
        "import subprocess, sys\n"
        "got = subprocess.run([sys.executable, '-P', '-m', 'aios.cli', 'ps'],"
        " capture_output=True, text=True)\n"
        "print(got.returncode, got.stderr)\n"
    )
    got = machine.aios("run", machine.agent("sneaky", code))
    assert got.stdout.startswith("1 aios: the kernel refused")


def test_agents_spawn_message_and_get_typed_errors(machine: Machine) -> None:
    machine.agent(
        "kid",
        "import aios\nletter = aios.recv(timeout=100)\n"
        "aios.send(letter.sender, [letter.body, aios.getppid()])",
    )
    code = """
import aios
kid = aios.spawn(__file__.replace("mum", "kid"), name="kid")
aios.send("kid", {"n": 1})
print(aios.recv(timeout=100, sender=kid.pid).body == [{"n": 1}, aios.getpid()])
print(kid.wait().exit_code)
for call in (lambda: aios.send("nobody", 1), lambda: aios.recv(timeout=0.05), kid.pause,
             lambda: aios.chat("x", max_tokens=-1), lambda: aios.chat("x", temprature=1)):
    try:
        call()
    except aios.AiosError as error:
        print(type(error).__name__)
"""
    got = machine.aios("run", machine.agent("mum", code))
    assert got.stdout.split() == [
        "True", "0", "NotFound", "DeadlineExceeded", "IllegalState",
        "InvalidArgument", "InvalidArgument",
    ], got.stderr  # fmt: skip


def test_an_agent_that_reads_no_replies_is_killed(machine: Machine) -> None:
    code = """
import time, zmq, aios
from aios import session
from aios.syscalls import codec, paths
from aios.syscalls.types.mail import RecvRequest, SendRequest
mine, me = session.current().credentials, str(aios.getpid())
sock = zmq.Context().socket(zmq.DEALER)
sock.rcvhwm = 1
sock.plain_username, sock.plain_password = mine.user.encode(), mine.secret.encode()
sock.connect(paths.agents_endpoint(mine.runtime))
for n in range(300):
    sock.send(codec.encode_call(30, 2 * n, None, SendRequest(me, b"x" * 900_000)))
    sock.send(codec.encode_call(31, 2 * n + 1, None, RecvRequest()))
time.sleep(1000)
"""
    machine.aios("run", "-d", "--name", "deaf", machine.agent("deaf", code))
    assert machine.aios("wait", "deaf").returncode == 137
    rows = json.loads(machine.aios("ps", "-a", "--json").stdout)
    assert next(r for r in rows if r["name"] == "deaf")["reason"] == "it did not read its replies"


def test_scheduler_settings_change_at_run_time(machine: Machine) -> None:
    with operator(machine) as connection:
        before = connection.call("sched.set", SchedRequest())
        changed = connection.call("sched.set", SchedRequest("fifo", 9, 2))
        assert (changed.policy, changed.quantum_tokens, changed.width) == ("fifo", 9, 2)
        restore = SchedRequest(before.policy, before.quantum_tokens, before.width)
        connection.call("sched.set", restore)
        for bad in (SchedRequest("rrr"), SchedRequest(quantum_tokens=-1)):
            with pytest.raises(InvalidArgument):
                connection.call("sched.set", bad)


def test_errors_arrive_with_their_types(guest: Connection) -> None:
    with pytest.raises(NotFound):
        guest.call("proc.wait", RefRequest("nobody"))
    with pytest.raises(ModelUnavailable):
        guest.call("llm.chat", ChatRequest(prompt="x", model="nonexistent"))
    assert issubclass(ModelUnavailable, AiosError)
    assert Path(paths.lock_file(Path("/x"))) == Path("/x/aiosd.lock")

"""The kernel from outside: its life, what it takes from callers, and what it survives."""

from __future__ import annotations

import contextlib
import json
import os
import random
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgpack
import psutil
import pytest
import zmq

from aios.syscalls import codec, paths
from aios.syscalls.client import Connection, Credentials
from aios.syscalls.errors import (
    AiosError,
    ContextOverflow,
    DeadlineExceeded,
    InvalidArgument,
    KernelUnavailable,
    ModelUnavailable,
    NotFound,
    PermissionDenied,
)
from aios.syscalls.table import CALLS
from aios.syscalls.types.chat import ChatReply, ChatRequest, Chunk
from aios.syscalls.types.common import Empty
from aios.syscalls.types.kernel import SchedRequest
from aios.syscalls.types.mail import SendRequest
from aios.syscalls.types.process import RefRequest, SignalRequest
from tests.conftest import TIMEOUT_S, Machine, operator

CHAT = ChatRequest(prompt="hello", max_tokens=30, temperature=0.9, seed=3)


def _gone(os_pid: int) -> None:
    try:
        fd = os.pidfd_open(os_pid)
    except ProcessLookupError:
        return
    ended = select.select([fd], [], [], TIMEOUT_S)[0]
    os.close(fd)
    assert ended, f"host process {os_pid} lives on"


# ---------------------------------------------------------------------------- its life


def test_up_status_down_and_twice_of_each(stopped: Machine) -> None:
    assert stopped.aios("daemon", "status").returncode == 3
    assert stopped.aios("daemon", "down").returncode == 0
    assert stopped.aios("daemon", "up", "--model", "fake").returncode == 0
    again = stopped.aios("daemon", "up")
    assert again.returncode == 0 and "already" in again.stdout
    second = subprocess.run(
        [sys.executable, "-P", "-m", "aios.kernel.daemon"],
        env=stopped.env,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert second.returncode == 1 and "already" in second.stderr
    status = json.loads(stopped.aios("daemon", "status", "--json").stdout)
    assert status["models"][0]["name"] == "fake"
    family = [p.pid for p in psutil.Process(status["os_pid"]).children(recursive=True)]
    assert len(family) == 2, "zygote and core"
    assert stopped.aios("daemon", "restart", "--model", "fake").returncode == 0
    for os_pid in family:
        _gone(os_pid)
    assert stopped.aios("daemon", "down").returncode == 0
    assert [p.name for p in stopped.runtime.iterdir()] == ["aiosd.lock"]


def test_a_killed_kernel_leaves_no_process_and_its_sockets_do_not_matter(stopped: Machine) -> None:
    os_pid = stopped.start("--model", "fake")
    path = stopped.agent("a", "import aios\nwhile True: aios.chat('x')")
    stopped.aios("run", "-d", path)
    family = [p.pid for p in psutil.Process(os_pid).children(recursive=True)]
    assert len(family) == 3
    os.kill(os_pid, signal.SIGKILL)
    for each in (os_pid, *family):
        _gone(each)
    assert stopped.aios("daemon", "status").returncode == 1
    assert stopped.aios("ps").returncode == 1
    stopped.start("--model", "fake")
    assert stopped.aios("daemon", "status").returncode == 0


def test_run_starts_the_kernel(stopped: Machine) -> None:
    (stopped.folder / "config.toml").write_text('model = "fake"\n')
    got = stopped.aios("run", stopped.agent("a", "import aios; print(aios.getpid())"))
    assert (got.returncode, got.stdout) == (0, "1\n") and "starting the kernel" in got.stderr


def test_by_hand_without_a_kernel_says_how_to_start_one(stopped: Machine) -> None:
    path = stopped.agent("a", "import aios; aios.getpid()")
    got = subprocess.run(
        [sys.executable, path], env=stopped.env, capture_output=True, text=True, timeout=TIMEOUT_S
    )
    assert got.returncode == 1 and "aios daemon up" in got.stderr


def test_settings_that_are_wrong_keep_it_from_starting(stopped: Machine) -> None:
    (stopped.folder / "config.toml").write_text("seets = 3\n")
    got = stopped.aios("daemon", "up")
    assert got.returncode == 1 and "did you mean 'seats'" in got.stderr
    (stopped.folder / "config.toml").write_text('policy = "rrr"\n')
    got = stopped.aios("daemon", "up")
    assert got.returncode == 1 and "did you mean 'rr'" in got.stderr
    (stopped.folder / "config.toml").unlink()
    for flags, said in ((["--seets", "3"], "'seats'"), (["--seats"], "needs a value")):
        got = stopped.aios("daemon", "up", *flags)
        assert got.returncode == 1 and said in got.stderr
    assert stopped.aios("daemon", "status").returncode == 3


@pytest.mark.skipif(os.getuid() != 0, reason="mounting needs root")
def test_a_full_runtime_folder_is_told(stopped: Machine) -> None:
    stopped.runtime.mkdir()
    options = "size=4k,nr_inodes=2"
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(stopped.runtime)])
    if mounted.returncode:
        pytest.skip("this machine does not let us mount")
    try:
        (stopped.runtime / "filler").touch()
        got = stopped.aios("daemon", "up", "--model", "fake")
        assert got.returncode == 1 and "No space left" in got.stderr
        assert stopped.aios("daemon", "status").returncode == 3
    finally:
        subprocess.run(["umount", str(stopped.runtime)], check=True)


def test_a_runtime_folder_that_is_too_long_is_told(stopped: Machine) -> None:
    stopped.env["AIOS_RUNTIME_DIR"] = str(stopped.folder / ("x" * 100))
    got = stopped.aios("daemon", "up")
    assert got.returncode == 1 and "AIOS_RUNTIME_DIR" in got.stderr


# ---------------------------------------------------------------------------- callers


def test_every_call_checks_its_body(guest: Connection) -> None:
    us = str(guest.call("getpid", Empty()).pid)
    for call in CALLS:
        with pytest.raises((InvalidArgument, PermissionDenied)):
            guest.call(call.name, SendRequest(us, "no such field in most"), 5.0)
            raise InvalidArgument("ipc.send takes it")


def test_malformed_frames_are_answered_and_the_kernel_stays(
    machine: Machine, context: zmq.Context[Any], guest: Connection
) -> None:
    """2,000 frames, seed 4; each is answered by its deadline, though not each at once."""
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


def test_a_frame_that_is_too_large_cuts_the_peer_off_and_nobody_else(
    machine: Machine, context: zmq.Context[Any], guest: Connection
) -> None:
    with Connection(context, Credentials(machine.runtime)) as other:
        other._socket.send(b"x" * (codec.MAX_FRAME_BYTES + 1))
        with pytest.raises(DeadlineExceeded):
            other._receive(0.0)
    assert guest.call("getpid", Empty()).name


def test_who_calls_is_known_from_the_connection(machine: Machine, guest: Connection) -> None:
    for call in ("kernel.shutdown", "kernel.check", "trace.read", "sched.set"):
        with pytest.raises(PermissionDenied, match="operator"):
            guest.call(call, Empty())
    path = machine.agent("idle", "import time; time.sleep(1000)")
    machine.aios("run", "-d", "--name", "victim", path)
    with pytest.raises(PermissionDenied, match="what it has started"):
        guest.call("proc.signal", SignalRequest("victim", "kill"))
    with pytest.raises(PermissionDenied):
        guest.call("proc.log", RefRequest("victim"))


@pytest.mark.parametrize("user", ["1", "999999", "op:1", "x" * 200, "０"])
def test_a_forged_name_is_refused(machine: Machine, context: zmq.Context[Any], user: str) -> None:
    machine.aios("run", "-d", machine.agent("idle", "import time; time.sleep(1000)"))
    if user.isdecimal():
        with pytest.raises(KernelUnavailable, match="refused"):
            Connection(context, Credentials(machine.runtime, user, "guess"))
    else:  # not the name of an agent: a guest, whatever it calls itself
        with Connection(context, Credentials(machine.runtime, user[:200], "guess")) as connection:
            assert connection.call("getpid", Empty()).parent == 0


def test_a_forged_routing_id_gets_nothing_of_the_victims(
    machine: Machine, context: zmq.Context[Any], guest: Connection
) -> None:
    """A second peer that claims the routing id of the first is not heard in its name."""
    pid = guest.call("getpid", Empty()).pid
    code = f"""
import os, zmq
from pathlib import Path
context = zmq.Context()
sock = context.socket(zmq.DEALER)
sock.plain_username, sock.plain_password = b"guest", b"-"
sock.routing_id = {guest._socket.routing_id!r} or b"same"
sock.connect({paths.agents_endpoint(machine.runtime)!r})
import msgpack
sock.send(msgpack.packb([1, 1, 0, {{}}]))
sock.poll(2000)
print(msgpack.unpackb(sock.recv())[2].get("pid"))
"""
    got = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert int(got.stdout) != pid
    assert guest.call("getpid", Empty()).pid == pid


def test_an_agent_is_not_the_operator(machine: Machine) -> None:
    code = (
        "import subprocess, sys\n"
        "got = subprocess.run([sys.executable, '-P', '-m', 'aios.cli', 'ps'],"
        " capture_output=True, text=True)\n"
        "print(got.returncode, got.stderr)\n"
    )
    got = machine.aios("run", machine.agent("sneaky", code))
    assert got.stdout.startswith("1 aios: the kernel refused")


def test_children_messages_and_errors_between_agents(machine: Machine) -> None:
    machine.agent(
        "kid",
        "import aios\nletter = aios.recv(timeout=30)\n"
        "aios.send(letter.sender, [letter.body, aios.getppid()])",
    )
    code = """
import aios
kid = aios.spawn(__file__.replace("mum", "kid"), name="kid")
aios.send("kid", {"n": 1})
print(aios.recv(timeout=30, sender=kid.pid).body == [{"n": 1}, aios.getpid()])
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


# ---------------------------------------------------------------------------- generations


def test_a_stream_is_the_reply_in_pieces(guest: Connection) -> None:
    whole: ChatReply = guest.call("llm.chat", CHAT)
    streamed = ChatRequest(prompt="hello", max_tokens=30, temperature=0.9, seed=3, stream=True)
    *pieces, last = guest.stream("llm.chat", streamed)
    assert all(isinstance(piece, Chunk) for piece in pieces) and len(pieces) > 5
    assert "".join(piece.text for piece in pieces) == whole.text == last.text
    assert last.tokens == whole.tokens and len(whole.tokens) == 30


def test_limits_stops_and_grammars(guest: Connection) -> None:
    text = guest.call("llm.chat", CHAT).text
    stop = text[4:6]
    cut = guest.call(
        "llm.chat", ChatRequest(prompt="hello", temperature=0.9, seed=3, max_tokens=30, stop=[stop])
    )
    assert cut.finish == "stop" and cut.text == text[: text.index(stop)]
    choice = guest.call("llm.chat", ChatRequest(prompt="?", grammar='root ::= "yes" | "no"'))
    assert choice.text in ("yes", "no") and choice.finish == "stop"
    with pytest.raises(ContextOverflow, match=r"4,\d\d\d tokens.*4,096"):
        guest.call("llm.chat", ChatRequest(prompt="x" * 4200))
    for bad in (
        ChatRequest(),
        ChatRequest(prompt="a", messages=[]),
        ChatRequest(prompt="a", grammar="nonsense"),
        ChatRequest(prompt="a", grammar="g", json_schema="{}"),
    ):
        with pytest.raises(InvalidArgument):
            guest.call("llm.chat", bad)


def test_a_deadline_ends_the_call_and_frees_the_seat(machine: Machine, guest: Connection) -> None:
    with pytest.raises(DeadlineExceeded, match=r"0\.2 s"):
        guest.call("llm.chat", ChatRequest(prompt="x", max_tokens=4000), 0.2)
    model = guest.call("model.list", Empty()).models[0]
    assert (model.seats_used, model.running, model.ready) == (0, 0, 0)


def test_leaving_a_stream_cancels_it(guest: Connection) -> None:
    stream = guest.stream("llm.chat", ChatRequest(prompt="x", max_tokens=4000, stream=True))
    assert next(stream).text
    stream.close()
    assert guest.call("model.list", Empty()).models[0].seats_used == 0


def test_an_agent_that_reads_no_replies_is_ended_and_nobody_else(machine: Machine) -> None:
    code = """
import time, zmq, aios
from aios import session
from aios.syscalls import codec, paths
from aios.syscalls.types import SendRequest, RecvRequest
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


def test_async_calls_share_one_connection(machine: Machine) -> None:
    code = """
import asyncio, aios
async def main():
    alone = [(await aios.achat(f"q{n}", max_tokens=20)).text for n in range(12)]
    together = await asyncio.gather(*(aios.achat(f"q{n}", max_tokens=20) for n in range(12)))
    print(alone == [reply.text for reply in together])
    pieces = [piece async for piece in await aios.astream("q0", max_tokens=20)]
    print("".join(pieces) == alone[0])
    task = asyncio.create_task(aios.achat("x", max_tokens=4000))
    await asyncio.sleep(0.05)
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        print("cancelled")
asyncio.run(main())
"""
    got = machine.aios("run", machine.agent("a", code))
    assert got.stdout.split() == ["True", "True", "cancelled"], got.stderr


def test_threads_have_connections_of_their_own(machine: Machine) -> None:
    code = """
import threading, aios
out = {}
def work(n): out[n] = aios.chat(f"q{n}", max_tokens=10).text
threads = [threading.Thread(target=work, args=(n,)) for n in range(10)]
[t.start() for t in threads]; [t.join() for t in threads]
print(all(out[n] == aios.chat(f"q{n}", max_tokens=10).text for n in range(10)))
"""
    assert machine.aios("run", machine.agent("a", code)).stdout == "True\n"


def test_a_higher_class_goes_first_and_a_full_house_waits(machine: Machine) -> None:
    forever = machine.agent("long", "import aios\nwhile True: aios.chat('x', max_tokens=2000)")
    for number in range(5):
        machine.aios("run", "-d", "--class", "batch", "--name", f"batch{number}", forever)
    code = "import aios; t = aios.chat('x', max_tokens=5).timing; print(t.first_token_s < 1.0)"
    got = machine.aios("run", "--class", "interactive", machine.agent("quick", code))
    assert got.stdout == "True\n"


# ---------------------------------------------------------------------------- deaths


def _core(machine: Machine) -> int:
    with operator(machine) as connection:
        return int(connection.call("model.list", Empty()).models[0].core_os_pid)


@pytest.fixture(scope="module")
def story(_fake_kernel: Machine) -> tuple[str, str]:
    """An agent that prints the tokens of a story, and what it prints when it is alone."""
    code = "import aios; print(aios.chat('story', max_tokens=300, temperature=1.0).tokens)"
    path = _fake_kernel.agent("story", code)
    return path, _fake_kernel.aios("run", path).stdout


@pytest.mark.parametrize("seed", range(5))
def test_a_killed_core_changes_no_token(
    machine: Machine, story: tuple[str, str], seed: int
) -> None:
    path, alone = story
    running = [machine.popen("run", path) for _ in range(6)]
    rng = random.Random(seed)
    for _ in range(2):
        with operator(machine) as connection:
            connection.call("kernel.status", Empty())
        select.select([], [], [], rng.random() / 2)  # at some moment
        core = _core(machine)
        if core:
            os.kill(core, signal.SIGKILL)
            _gone(core)
    outputs = [process.communicate(timeout=TIMEOUT_S) for process in running]
    assert [out for out, _ in outputs] == [alone] * 6, outputs


def test_a_restart_with_wrong_settings_leaves_the_kernel_alone(stopped: Machine) -> None:
    os_pid = stopped.start("--model", "fake")
    got = stopped.aios("daemon", "restart", "--core-timeout", "abc")
    assert got.returncode == 1 and "core_timeout = 'abc'" in got.stderr
    policy = stopped.folder / "policy.toml"
    policy.write_text("no policy")
    got = stopped.aios("daemon", "restart")
    assert got.returncode == 1 and f"policy {policy}" in got.stderr
    policy.unlink()
    status = stopped.aios("daemon", "status")
    assert status.returncode == 0 and f"pid {os_pid}," in status.stdout


def test_a_core_that_hangs_is_replaced(stopped: Machine) -> None:
    stopped.start("--model", "fake:step_ms=2,end=0", "--core-timeout", "0.5", "--chunk", "32")
    code = "import aios; print(len(aios.chat('x', max_tokens={}).tokens))"
    assert stopped.aios("run", stopped.agent("a", code.format(1))).stdout == "1\n"
    os.kill(_core(stopped), signal.SIGSTOP)
    assert stopped.aios("run", stopped.agent("b", code.format(300))).stdout == "300\n"
    with operator(stopped) as connection:
        assert connection.call("model.list", Empty()).models[0].core_restarts == 1


def test_a_request_that_kills_cores_is_given_up(stopped: Machine) -> None:
    stopped.start("--model", "fake:crash_after=1,end=0")
    code = (
        "import aios\ntry: aios.chat('x', max_tokens=50)\n"
        "except aios.ModelUnavailable as e: print(e)"
    )
    got = stopped.aios("run", stopped.agent("a", code))
    assert "died 3 times" in got.stdout
    assert stopped.aios("daemon", "status").returncode == 0


def test_a_killed_zygote_is_replaced(machine: Machine) -> None:
    path = machine.agent("idle", "import time; time.sleep(1000)")
    machine.aios("run", "-d", "--name", "orphan", path)
    with operator(machine) as connection:
        kernel = psutil.Process(connection.call("kernel.status", Empty()).os_pid)
        zygote = next(p for p in kernel.children() if "aios.boot.zygote" in p.cmdline())
        zygote.kill()
        status = connection.call("proc.wait", RefRequest("orphan"))
    assert (status.exit_code, status.reason) == (137, "the zygote died")
    assert machine.aios("run", machine.agent("b", "print('again')")).stdout == "again\n"


def test_twenty_times_one_of_three_is_killed(machine: Machine) -> None:
    """The others' output is unchanged, and nothing is left behind. Seed 20."""
    rng = random.Random(20)
    path = machine.agent(
        "w",
        "import aios, sys\n"
        "for n in range(3): print(aios.chat(sys.argv[1] + str(n), max_tokens=25).tokens)",
    )
    expected = {n: machine.aios("run", path, "--", n).stdout for n in "abc"}
    descriptors = []
    for _ in range(20):
        running = {n: machine.popen("run", "--name", n, path, "--", n) for n in "abc"}
        victim = rng.choice("abc")
        select.select([], [], [], rng.random() * 0.4)
        with operator(machine) as connection:
            rows = connection.call("proc.ps", Empty()).processes
            for row in rows:
                if row.name == victim and row.os_pid:
                    with contextlib.suppress(ProcessLookupError):  # it may have ended
                        os.kill(row.os_pid, signal.SIGKILL)
        for name, process in running.items():
            out, err = process.communicate(timeout=TIMEOUT_S)
            if name != victim:
                assert (out, process.returncode) == (expected[name], 0), err
            else:
                assert process.returncode in (0, 137)
        with operator(machine) as connection:
            check = connection.call("kernel.check", Empty())
            model = connection.call("model.list", Empty()).models[0]
        assert check.problems == [] and model.seats_used == 0
        descriptors.append(check.open_files)
    assert max(descriptors[5:]) <= max(descriptors[:5]) + 1
    kernel = psutil.Process(paths.kernel_os_pid(machine.runtime))
    (zygote,) = (part for part in kernel.children() if "aios.boot.zygote" in part.cmdline())
    assert not zygote.children(), "no agents"


@pytest.mark.parametrize("kind", ["missing", "text", "truncated"])
def test_a_bad_model_is_explained_and_the_kernel_stays(machine: Machine, kind: str) -> None:
    path = machine.folder / "bad.gguf"
    path.write_bytes(
        {"missing": b"", "text": b"just words " * 99, "truncated": b"GGUF\x03" + bytes(99)}[kind]
    )
    if kind == "missing":
        path.unlink()
    code = "import aios\ntry: aios.chat('x')\nexcept aios.ModelUnavailable as e: print(e)"
    got = machine.aios("run", "--model", str(path), machine.agent("a", code))
    assert "bad.gguf" in got.stdout and "aios model ls" in got.stdout
    assert machine.aios("run", machine.agent("b", "import aios; aios.chat('x')")).returncode == 0


def test_settings_can_change_while_it_runs(machine: Machine) -> None:
    with operator(machine) as connection:
        before = connection.call("sched.set", SchedRequest())
        changed = connection.call("sched.set", SchedRequest("fifo", 9, 2))
        assert (changed.policy, changed.quantum_tokens, changed.width) == ("fifo", 9, 2)
        restore = SchedRequest(before.policy, before.quantum_tokens, before.width)
        connection.call("sched.set", restore)
        for bad in (SchedRequest("rrr"), SchedRequest(quantum_tokens=-1)):
            with pytest.raises(InvalidArgument):
                connection.call("sched.set", bad)


def test_errors_are_all_typed(guest: Connection) -> None:
    with pytest.raises(NotFound):
        guest.call("proc.wait", RefRequest("nobody"))
    with pytest.raises(ModelUnavailable):
        guest.call("llm.chat", ChatRequest(prompt="x", model="nonexistent"))
    assert issubclass(ModelUnavailable, AiosError)
    assert Path(paths.lock_file(Path("/x"))) == Path("/x/aiosd.lock")

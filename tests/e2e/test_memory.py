"""Memory as agents and the operator use it, on the fake model and the fake embedder."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
import zmq

from aios.kernel.memory.recall import HEADING
from aios.syscalls.client import Connection, Credentials
from aios.syscalls.errors import InvalidArgument, NotFound, PermissionDenied
from aios.syscalls.types.common import Empty
from aios.syscalls.types.kernel import CheckReply
from aios.syscalls.types.mail import RecvRequest, SendRequest
from aios.syscalls.types.memory import (
    AddRequest,
    ListRequest,
    Note,
    NoteRef,
    SearchReply,
    SearchRequest,
)
from tests.conftest import TIMEOUT_S, Machine, operator
from tests.waiting import wait_until

FAKE = ("--model", "fake:step_ms=1,end=0", "--seats", "4", "--embedder", "fake")


@pytest.fixture
def kernel(stopped: Machine) -> Iterator[Machine]:
    """A kernel of the test's own, on the fake embedder."""
    stopped.trust("memory:shared:*", "agent.send:*")
    stopped.start(*FAKE)
    yield stopped
    with operator(stopped) as connection:
        check: CheckReply = connection.call("kernel.check", Empty())
    assert check.problems == [] and "Traceback" not in stopped.log()


@pytest.fixture
def guest(kernel: Machine, context: zmq.Context[Any]) -> Iterator[Connection]:
    """A connection of a guest."""
    with Connection(context, Credentials(kernel.runtime)) as connection:
        yield connection


def _embedder(kernel_os_pid: int) -> psutil.Process | None:
    children = psutil.Process(kernel_os_pid).children()
    return next((c for c in children if "aios.hw.embed.embedder" in c.cmdline()), None)


def test_notes_are_recalled_and_survive_a_restart(kernel: Machine) -> None:
    code = """
import aios
brief = aios.memory.add("my cat is called Tom")
lasting = aios.memory.add("my dog is called Ada", persist=True)
reply = aios.chat([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"},
                   {"role": "assistant", "content": "hello"},
                   {"role": "user", "content": "what is my dog called"}], recall=1, max_tokens=4)
print([note.text for note in reply.recalled], 0.5 <= reply.recalled[0].score <= 1)
for least in (0.5, 0.0):
    print(aios.chat("why do stars shine?", recall=5, recall_min=least, max_tokens=4).recalled == [])
print([note.text for note in aios.memory.list(log=True).notes][0])
print(aios.chat("and now", max_tokens=4).recalled)
print(aios.memory.update(brief.id, persist=True).scope)
print([h.note.text for h in aios.memory.search("cat", mode="keyword").hits], aios.ps()[-1].notes)
"""
    path = kernel.agent("pets", code)
    got = kernel.aios("run", path)
    assert got.stdout.splitlines() == [
        "['my dog is called Ada'] True", "True", "False", "what is my dog called", "[]",
        "agent:pets",
        "['my cat is called Tom'] 8",
    ], got  # fmt: skip
    again = "import aios\nprint(sorted(n.text for n in aios.memory.list('agent').notes),"
    again += "aios.memory.list().notes)"
    got = kernel.aios("run", kernel.agent("pets", again))
    assert got.stdout == "['my cat is called Tom', 'my dog is called Ada'] []\n", got
    kernel.aios("daemon", "restart", *FAKE)
    assert kernel.aios("run", kernel.agent("pets", again)).stdout == got.stdout


def test_recalled_notes_keep_the_cached_prefix(kernel: Machine) -> None:
    code = """
import aios
aios.memory.add("the sky is blue")
talk = [{"role": "system", "content": "s" * 300}, {"role": "user", "content": "u" * 300},
        {"role": "assistant", "content": "a" * 300}]
aios.chat(talk + [{"role": "user", "content": "the first"}], max_tokens=2)
reply = aios.chat(talk + [{"role": "user", "content": "the sky"}], recall=3, max_tokens=2)
print(len(reply.recalled), reply.usage.cached_tokens > 900, reply.usage.prompt_tokens)
"""
    got = kernel.aios("run", kernel.agent("prefix", code))
    assert got.stdout.startswith("1 True "), got
    assert int(got.stdout.split()[2]) > 900 + len(HEADING)


def test_notes_are_private_unless_shared(kernel: Machine, guest: Connection) -> None:
    code = """
import aios
mine = aios.memory.add("secret", persist=True)
brief = aios.memory.add("secret")
shared = aios.memory.add("for all", scope="shared:team")
aios.send(aios.recv(timeout=100).sender, [mine.id, brief.id, shared.id])
aios.recv(timeout=60)
"""
    kernel.aios("run", "-d", "--name", "owner", kernel.agent("owner", code))
    guest.call("ipc.send", SendRequest("owner", 1))
    letter = guest.call("ipc.recv", RecvRequest(), TIMEOUT_S)
    mine, brief, shared = letter.body
    for id_ in (mine, brief, "n999", "s999"):
        for call in ("memory.get", "memory.remove"):
            with pytest.raises(NotFound, match=f"there is no note {id_}"):
                guest.call(call, NoteRef(id_))
    for scope in ("agent:owner", f"session:{letter.sender}"):
        with pytest.raises(PermissionDenied, match="another agent's"):
            guest.call("memory.search", SearchRequest("secret", scopes=(scope,)))
    assert guest.call("memory.get", NoteRef(shared)).text == "for all"
    assert guest.call("memory.search", SearchRequest("secret")).hits == []
    with pytest.raises(PermissionDenied, match="operator"):
        guest.call("memory.check", Empty())
    with operator(kernel) as connection:
        assert connection.call("memory.get", NoteRef(brief)).text == "secret"
        with pytest.raises(InvalidArgument, match="operator has no session"):
            connection.call("memory.list", ListRequest())
    guest.call("ipc.send", SendRequest("owner", 1))


@pytest.mark.parametrize(
    ("call", "body", "words"),
    [
        ("memory.add", {}, "text"),
        ("memory.add", {"text": ""}, "length >= 1"),
        ("memory.add", {"text": "x" * 70_000}, "length <= 65536"),
        ("memory.add", {"text": 7}, "str"),
        ("memory.add", {"text": "x", "more": 1}, "unknown field"),
        ("memory.add", {"text": "x", "scope": "shared:a\0b"}, "or shared:NAME"),
        ("memory.add", {"text": "x", "scope": "shared:" + "x" * 4096}, "80"),
        ("memory.add", {"text": "x", "scope": "shared:a\n"}, "or shared:NAME"),
        ("memory.add", {"text": "x", "scope": "elsewhere"}, "or shared:NAME"),
        ("memory.get", {"id": "7"}, "like n12 or s3"),
        ("memory.get", {"id": "n" + "9" * 30}, "20"),
        ("memory.update", {"id": "s1"}, "update changes nothing"),
        ("memory.search", {"query": "x", "k": 0}, ">= 1"),
        ("memory.search", {"query": "x", "scopes": []}, "length >= 1"),
        ("memory.search", {"query": "x", "mode": "magic"}, "magic"),
        ("memory.list", {"limit": 10**6}, "<= 1000"),
        ("memory.list", {"after": "n5"}, "is not of session"),
        ("llm.chat", {"prompt": "x", "recall": 3}, "recall needs messages"),
        ("llm.chat", {"messages": [{"role": "user", "content": " "}], "recall": 3}, "needs words"),
        ("llm.chat", {"messages": [{"role": "user", "content": "x"}], "recall": 51}, "<= 50"),
        ("llm.chat", {"messages": [{"role": "user", "content": "x"}], "recall_min": 2}, "<= 1"),
    ],
)
def test_bad_input_names_the_field(
    machine: Machine, context: zmq.Context[Any], call: str, body: dict[str, Any], words: str
) -> None:
    raw = msgspec.defstruct("Raw", [(key, Any) for key in body])(**body)
    with (
        Connection(context, Credentials(machine.runtime)) as guest,
        pytest.raises(InvalidArgument) as caught,
    ):
        guest.call(call, raw, TIMEOUT_S)
    assert words in str(caught.value)


def test_note_quotas_hold_and_are_named(stopped: Machine) -> None:
    stopped.start(*FAKE, "--notes-max", "5", "--notes-disk", "64K", "--notes-ram-agent", "16K")
    code = """
import aios
for scope in ("session", "agent"):
    try:
        for n in range(9): aios.memory.add(str(n), scope=scope)
    except aios.ResourceExhausted as error: print(n, error.message)
    aios.memory.clear(scope)
    try:
        for n in range(9): aios.memory.add("x" * 30000, scope=scope)
    except aios.ResourceExhausted as error: print(n, error.message)
    print([n.text[:1] + str(len(n.text)) for n in aios.memory.list(scope).notes])
"""
    got = stopped.aios("run", stopped.agent("greedy", code))
    lines = got.stdout.splitlines()
    assert len(lines) == 6, got
    for first, second, third in (lines[:3], lines[3:]):
        assert first.startswith("5 ") and "holds 5 notes; the limit is 5" in first
        assert second.startswith("2 ") and "60,000 bytes of notes; 30,000 more" in second
        assert third == "['x30000', 'x30000']"


def test_a_killed_embedder_is_replaced_and_keyword_search_answers_meanwhile(
    stopped: Machine, context: zmq.Context[Any]
) -> None:
    os_pid = stopped.start(*FAKE)
    credentials = Credentials(stopped.runtime)
    with Connection(context, credentials) as guest, Connection(context, credentials) as other:
        note: Note = guest.call("memory.add", AddRequest("some words"))
        reply: SearchReply = guest.call("memory.search", SearchRequest("words"))
        assert reply.mode == "mixed"
        first = _embedder(os_pid)
        assert first
        first.send_signal(signal.SIGSTOP)  # it has the query and does not answer
        pending = other.begin("memory.search", SearchRequest("words"), TIMEOUT_S)
        assert guest.call("getpid", Empty()).name and not other.poll(pending)
        os.kill(first.pid, signal.SIGKILL)
        wait_until(lambda: other.poll(pending), "the reply to the interrupted search")
        assert guest.call("memory.search", SearchRequest("words")).mode == "mixed"
        second = _embedder(os_pid)
        assert second and second.pid != first.pid
        # this text kills the embedder: search falls back to keywords and says why
        reply = guest.call("memory.search", SearchRequest("!die", mode="auto"))
        assert reply.mode == "keyword" and "died 2 times" in reply.why
        reply = guest.call("memory.search", SearchRequest("words"))
        assert reply.hits[0].note == note


def test_a_killed_zygote_spares_the_embedder(stopped: Machine) -> None:
    os_pid = stopped.start(*FAKE)
    stopped.aios("memory", "add", "shared:x", "some words")
    stopped.aios("memory", "search", "words", "--scope", "shared:x")
    first = _embedder(os_pid)
    zygote = next(c for c in psutil.Process(os_pid).children() if "aios.boot.zygote" in c.cmdline())
    zygote.kill()
    hello = stopped.agent("h", "print('hello')")
    wait_until(lambda: stopped.aios("run", hello).returncode == 0, "the next zygote")
    assert first and _embedder(os_pid) == first


def test_acknowledged_notes_survive_a_killed_kernel(stopped: Machine) -> None:
    os_pid = stopped.start(*FAKE)
    note = stopped.folder / "acked"
    code = f"""
import aios
with open({str(note)!r}, "a", buffering=1) as acked:
    n = 0
    while True:
        acked.write(aios.memory.add("durable " + str(n), persist=True).id + "\\n")
        n += 1
"""
    running = stopped.popen("run", "--name", "writer", stopped.agent("writer", code))

    def enough() -> bool:
        assert running.poll() is None
        return note.exists() and note.read_text().count("\n") >= 200

    wait_until(enough, "200 acknowledged notes")
    os.kill(os_pid, signal.SIGKILL)
    running.communicate()
    stopped.start(*FAKE)
    acked = [line for line in note.read_text().splitlines(keepends=True) if line.endswith("\n")]
    rows = json.loads(
        stopped.aios("memory", "ls", "agent:writer", "--limit", "1000000", "--json").stdout
    )
    assert {line.strip() for line in acked} <= {row["id"] for row in rows}
    assert [row["text"] for row in rows] == [f"durable {n}" for n in range(len(rows))]
    assert stopped.aios("memory", "check").returncode == 0


def test_the_operator_manages_notes(kernel: Machine) -> None:
    added = kernel.aios("memory", "add", "shared:team", "release on friday")
    id_ = added.stdout.strip()
    assert kernel.aios("memory", "get", id_).stdout == "release on friday\n"
    assert "shared:team" in kernel.aios("memory", "ls").stdout
    assert id_ in kernel.aios("memory", "ls", "shared:team").stdout
    found = kernel.aios("memory", "search", "friday", "--scope", "shared:team", "--json")
    assert json.loads(found.stdout)["hits"][0]["note"]["id"] == id_
    assert "searched by: mixed" in kernel.aios(
        "memory", "search", "friday", "--scope", "shared:team"
    ).stdout  # fmt: skip
    copy = kernel.folder / "copy.db"
    assert kernel.aios("memory", "backup", str(copy)).returncode == 0 and copy.exists()
    again = kernel.aios("memory", "backup", str(copy))
    assert again.returncode == 1 and "exists" in again.stderr
    assert kernel.aios("memory", "rm", id_).returncode == 0
    gone = kernel.aios("memory", "rm", id_)
    assert gone.returncode == 1 and "no note" in gone.stderr
    assert kernel.aios("memory", "rm").returncode == 1
    assert json.loads(kernel.aios("memory", "rm", "--scope", "shared:x", "--json").stdout) == {
        "removed": 0
    }
    assert kernel.aios("memory", "check").returncode == 0
    wrong = kernel.aios("memory", "search", "x", "--scope", "nowhere")
    assert wrong.returncode == 1 and "scopes" in wrong.stderr


def test_damaged_notes_are_reported_and_session_notes_still_work(stopped: Machine) -> None:
    path = stopped.folder / "data" / "aios" / "memory" / "notes.db"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"no database" * 500)
    stopped.start(*FAKE)
    code = """
import aios
note = aios.memory.add("works on")
try: aios.memory.add("x", persist=True)
except aios.AiosError as error: print(error)
print(aios.memory.search("works", scopes=["session"]).hits[0].note == note)
"""
    got = stopped.aios("run", stopped.agent("a", code))
    assert str(path) in got.stdout and "aios memory restore" in got.stdout, got
    assert got.stdout.endswith("True\n"), got
    assert stopped.aios("memory", "check").returncode == 1
    assert path.exists()


def test_restoring_a_backup_keeps_the_replaced_file(stopped: Machine) -> None:
    path, copy = stopped.folder / "data" / "aios" / "memory" / "notes.db", stopped.folder / "copy"
    stopped.start(*FAKE)
    stopped.aios("memory", "add", "shared:team", "release on friday")
    assert stopped.aios("memory", "backup", str(copy)).returncode == 0
    stopped.aios("memory", "add", "shared:team", "not in the copy")
    running = stopped.aios("memory", "restore", str(copy))
    assert running.returncode == 1 and "aios daemon down" in running.stderr
    stopped.aios("daemon", "down")
    damaged = stopped.folder / "damaged"
    damaged.write_bytes(copy.read_bytes().replace(b"friday", b"sunday"))
    path.write_bytes(b"no database" * 500)
    for wrong, said in ((damaged, "damaged, too"), (stopped.folder / "none", "No such file"),
                        (path, "no notes")):  # fmt: skip
        refused = stopped.aios("memory", "restore", str(wrong))
        assert refused.returncode == 1 and said in refused.stderr, refused
        assert path.read_bytes().startswith(b"no database")
    done = json.loads(stopped.aios("memory", "restore", str(copy), "--json").stdout)
    assert done["notes"] == 1 and Path(done["replaced"]).read_bytes().startswith(b"no database")
    stopped.start(*FAKE)
    assert "release on friday" in stopped.aios("memory", "ls", "shared:team").stdout
    assert sorted(each.name for each in path.parent.glob("*.part")) == []

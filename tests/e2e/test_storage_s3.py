"""Storage with its large content in S3: a killed kernel, a hanging server, and no server."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import zmq

from aios.syscalls.client import Connection, Credentials
from aios.syscalls.errors import DeadlineExceeded, NotFound, StorageUnavailable
from aios.syscalls.types import storage as s
from tests.conftest import TIMEOUT_S, Machine
from tests.waiting import wait_for_end, wait_until

pytest.importorskip("moto.server")
fsspec = pytest.importorskip("fsspec")
pytestmark = pytest.mark.filterwarnings("ignore")
"""The S3 packages emit warnings of their own."""

FLAGS = ("--model", "fake", "--embedder", "off", "--storage", "s3://agents/blobs")
WRITE = """
import aios, hashlib
big = b"".join(hashlib.sha256(str(n).encode()).digest() for n in range(40_000))
print(aios.fs.write("big", big).version, aios.fs.write("small", "local").version)
"""
READ = """
import aios, hashlib
big = aios.fs.read("big")
print(big == b"".join(hashlib.sha256(str(n).encode()).digest() for n in range(40_000)))
print(aios.fs.append("big", "x" * 100_000).version, aios.fs.read_text("small"))
"""
PROMPT_S = 30.0
"""Limit on a call that needs no server while the server does not answer, in seconds."""


SERVER = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
print("http://%s:%d" % server.get_host_and_port(), flush=True)
sys.stdin.read()
server.stop()
"""


@pytest.fixture
def server(stopped: Machine, monkeypatch: pytest.MonkeyPatch) -> Iterator[subprocess.Popen[str]]:
    """An S3 server in its own process, with an empty bucket, for the kernels of a test."""
    with subprocess.Popen(
        [sys.executable, "-P", "-c", SERVER], text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        assert process.stdout
        for name, value in (
            ("AWS_ENDPOINT_URL", process.stdout.readline().strip()), ("AWS_ACCESS_KEY_ID", "test"),
            ("AWS_SECRET_ACCESS_KEY", "test"), ("AWS_DEFAULT_REGION", "us-east-1"),
        ):  # fmt: skip
            monkeypatch.setenv(name, value)
            stopped.env[name] = value
        fsspec.get_filesystem_class("s3").clear_instance_cache()
        fsspec.filesystem("s3", use_listings_cache=False).mkdir("agents")
        yield process
        process.kill()


def test_large_content_in_s3_survives_a_killed_kernel(
    stopped: Machine, server: subprocess.Popen[str], context: zmq.Context[Any]
) -> None:
    os_pid = stopped.start(*FLAGS)
    got = stopped.aios("run", "--name", "a", stopped.agent("writer", WRITE))
    assert got.stdout == "1 1\n", got.stderr
    assert fsspec.filesystem("s3", use_listings_cache=False).find("agents/blobs")
    assert not (stopped.folder / "data/aios/storage/blobs").exists()
    os.kill(os_pid, signal.SIGKILL)
    wait_for_end(os_pid)  # until then it holds the runtime folder
    stopped.start(*FLAGS)
    got = stopped.aios("run", "--name", "a", stopped.agent("reader", READ))
    assert got.stdout == "True\n2 local\n", got.stderr
    assert stopped.aios("storage", "check").returncode == 0
    with Connection(context, Credentials(stopped.runtime)) as guest:
        guest.call("fs.write", s.FsWrite("/big", bytes(100_000)))
        guest.call("fs.write", s.FsWrite("/small", b"local"))
        server.send_signal(signal.SIGSTOP)  # it takes connections and answers nothing
        os.waitpid(server.pid, os.WUNTRACED)
        with Connection(context, Credentials(stopped.runtime)) as other:
            waiting = other.begin("fs.read", s.FsRead("/big"), TIMEOUT_S)
            with pytest.raises(DeadlineExceeded):
                guest.call("fs.write", s.FsWrite("/late", bytes(100_000)), 0.5)
            _what_is_local(guest)
            assert not other.poll(waiting)
            server.send_signal(signal.SIGCONT)
            wait_until(lambda: other.poll(waiting), "the reply")
        assert guest.call("fs.read", s.FsRead("/big")).data == bytes(100_000)
        server.kill()
        server.wait()
        for name, body in (("fs.read", s.FsRead("/big")),
                           ("fs.write", s.FsWrite("/refused", bytes(100_000)))):  # fmt: skip
            with pytest.raises(StorageUnavailable, match="s3://agents/blobs does not answer"):
                guest.call(name, body)
        _what_is_local(guest)
        with pytest.raises(NotFound):
            guest.call("fs.stat", s.FsPath("/refused"))
    assert stopped.aios("daemon", "down").returncode == 0
    assert "Traceback" not in stopped.log()


def _what_is_local(guest: Connection) -> None:
    assert guest.call("fs.read", s.FsRead("/small"), PROMPT_S).data == b"local"
    version = guest.call("fs.write", s.FsWrite("/small", b"local"), PROMPT_S).version
    assert guest.call("fs.stat", s.FsPath("/small"), PROMPT_S).version == version
    assert guest.call("fs.stat", s.FsPath("/big"), PROMPT_S).size_bytes == 100_000
    names = [entry.path for entry in guest.call("fs.list", s.FsList(), PROMPT_S).entries]
    assert {"/big", "/small"} <= set(names)
    guest.call("kv.set", s.KvSet("n", version), PROMPT_S)
    assert guest.call("kv.get", s.KvKey("n"), PROMPT_S).value == version

"""The doors: one ROUTER socket for agents, one for the operator, and the guard of both.

Owns every zmq socket of the kernel. Promises that the caller of a frame is the one that the
connection proves (ZAP), never one that the message names; that a peer cannot make the kernel keep
more than one frame; and that a reply is delivered or its receiver is given up, never skipped.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

import zmq

from aios.kernel.loop.loop import Loop, Timer
from aios.syscalls.codec import MAX_FRAME_BYTES
from aios.syscalls.errors import AiosError

log = logging.getLogger("aios.doors")

AGENTS, OPERATORS = "agents", "operators"
_BATCH = 64
"""Frames taken from one socket in a turn of the loop."""
_MAX_QUEUED_BYTES = 16 << 20
"""Limit on queued replies per peer; a peer that exceeds it is given up."""
_RETRY_S = 0.02


class Peer(NamedTuple):
    """The owner of a connection, and the route back to it."""

    door: str
    route: bytes
    user: str


class Claim(NamedTuple):
    """The credentials of a connecting peer: its own (name, secret) and the host's (uid, pid)."""

    door: str
    name: str
    secret: str
    uid: int
    os_pid: int


Admit = Callable[[Claim], str]
"""Returns the user of a claim. Raises AiosError to refuse it."""


OnFrame = Callable[[Peer, bytes, bool], None]
"""Gets a frame, and whether it is a whole message."""


class _Backlog:
    """Replies that a slow reader has not taken yet."""

    def __init__(self) -> None:
        self.frames: deque[bytes] = deque()
        self.size_bytes = 0


class Doors:
    """Receives frames with their senders; sends replies."""

    def __init__(
        self,
        loop: Loop,
        admit: Admit,
        on_stuck: Callable[[Peer], None],
    ) -> None:
        """``on_stuck`` gets a peer that does not read its replies."""
        self._loop, self._admit, self._on_stuck = loop, admit, on_stuck
        self._context: zmq.Context[Any] = zmq.Context()
        self._context.set(zmq.MAX_SOCKETS, 4096)
        self._guard = self._context.socket(zmq.ROUTER)
        self._guard.bind("inproc://zeromq.zap.01")
        loop.watch_socket(self._guard, self._on_claim)
        self._sockets: dict[str, zmq.Socket[Any]] = {}
        self._backlogs: dict[Peer, _Backlog] = {}
        self._retry: Timer | None = None

    def open(self, door: str, endpoint: str, on_frame: OnFrame) -> None:
        """Bind a door; ``on_frame`` gets its frames. Raises zmq.ZMQError."""
        sock = self._context.socket(zmq.ROUTER)
        sock.linger = 500
        sock.maxmsgsize = MAX_FRAME_BYTES
        sock.router_mandatory = 1
        sock.sndhwm, sock.rcvhwm = 64, 1000  # frames for each peer
        sock.handshake_ivl = 10_000
        sock.zap_domain = door.encode()
        sock.set(zmq.BACKLOG, 1024)
        if door == AGENTS:
            sock.plain_server = True
        sock.bind(endpoint)
        self._sockets[door] = sock
        self._loop.watch_socket(sock, lambda: self._on_readable(door, sock, on_frame))

    def send(self, peer: Peer, frame: bytes) -> None:
        """Send a reply now, or as soon as the peer takes it."""
        backlog = self._backlogs.get(peer)
        if backlog is None:
            if self._try(peer, frame):
                return
            backlog = self._backlogs[peer] = _Backlog()
        backlog.frames.append(frame)
        backlog.size_bytes += len(frame)
        if backlog.size_bytes > _MAX_QUEUED_BYTES:
            log.warning("user %s does not read its replies; it is given up", peer.user)
            del self._backlogs[peer]
            self._on_stuck(peer)
            return
        if self._retry is None:
            self._retry = self._loop.after(_RETRY_S, self._flush)

    def close(self) -> None:
        """Close all sockets, giving queued replies half a second."""
        self._flush()
        for sock in self._sockets.values():
            self._loop.unwatch_socket(sock)
            sock.close()
        self._loop.unwatch_socket(self._guard)
        self._guard.close(0)
        self._context.term()

    def _try(self, peer: Peer, frame: bytes) -> bool:
        """Send a frame to a peer, if it is still there. False: it cannot take the frame yet."""
        try:
            self._sockets[peer.door].send_multipart((peer.route, frame), zmq.NOBLOCK)
        except zmq.Again:
            return False
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
        return True

    def _flush(self) -> None:
        """Try the backlogs again: ZeroMQ has no event for a peer that can take more."""
        self._retry = None
        for peer, backlog in list(self._backlogs.items()):
            while backlog.frames and self._try(peer, backlog.frames[0]):
                backlog.size_bytes -= len(backlog.frames.popleft())
            if not backlog.frames:
                del self._backlogs[peer]
        if self._backlogs:
            self._retry = self._loop.after(_RETRY_S, self._flush)

    def _on_readable(self, door: str, sock: zmq.Socket[Any], on_frame: OnFrame) -> None:
        for _ in range(_BATCH):
            try:
                route = sock.recv(zmq.NOBLOCK)
            except zmq.Again:
                return
            frame = sock.recv(copy=False)
            whole = not frame.more
            while frame.more:
                frame = sock.recv(copy=False)
            user = frame.get("User-Id")
            on_frame(Peer(door, route, str(user)), frame.bytes, whole)

    def _on_claim(self) -> None:
        for _ in range(_BATCH):
            try:
                parts = self._guard.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            route, _, version, number, domain, address, _, mechanism, *secrets = parts
            claim = _claim(domain, address, mechanism, secrets)
            try:
                user = self._admit(claim)
                verdict = (b"200", b"OK", user.encode())
            except AiosError as error:
                log.warning("refused %s (host pid %d): %s", claim.door, claim.os_pid, error.message)
                verdict = (b"400", error.message.encode()[:255], b"")
            self._guard.send_multipart((route, b"", version, number, *verdict, b""))


def _claim(domain: bytes, address: bytes, mechanism: bytes, secrets: list[bytes]) -> Claim:
    """Read a claim. An ipc peer's address is ``localhost:uid:gid:pid``, from the host's kernel."""
    fields = address.decode("ascii", "replace").split(":")
    numbers = [int(field) for field in fields[1:] if field.isdecimal()]
    uid, _, os_pid = numbers if len(numbers) == 3 else (-1, -1, 0)
    name, secret = "", ""
    if mechanism == b"PLAIN" and len(secrets) == 2:
        name, secret = (part.decode("utf-8", "replace") for part in secrets)
    return Claim(domain.decode("ascii", "replace"), name, secret, uid, os_pid)

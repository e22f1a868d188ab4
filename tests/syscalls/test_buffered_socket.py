"""The buffered socket: order, partial sends, and what ends it."""

from __future__ import annotations

import os
import socket

from aios.syscalls.buffered_socket import BufferedSocket


def test_what_the_other_end_cannot_take_is_sent_later_in_order() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        wants: list[bool] = []
        buffered = BufferedSocket(ours, wants.append)
        messages = [os.urandom(300_000) for _ in range(5)]
        for message in messages:
            buffered.send(message)
        assert wants == [True]
        got = bytearray()
        while len(got) < 1_500_000:
            got += theirs.recv(1 << 20)
            buffered.flush()
        assert got == b"".join(messages) and wants == [True, False]


def test_an_error_ends_the_stream_instead_of_dropping_half_a_message() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        buffered = BufferedSocket(ours, lambda on: None)
        ours.shutdown(socket.SHUT_WR)  # the next send fails
        buffered.send(b"lost")
        assert buffered.receive(100) == b"", "the owner reads an end"


def test_nothing_to_read_is_not_an_end() -> None:
    ours, theirs = socket.socketpair()
    with ours:
        buffered = BufferedSocket(ours, lambda on: None)
        assert buffered.receive(100) is None
        theirs.close()
        assert buffered.receive(100) == b""

"""Mailboxes."""

from __future__ import annotations

import pytest

from aios.kernel.loop.task import Promise
from aios.kernel.process.mail import MAX_MESSAGES, Letter, Mailbox, Receiver
from aios.syscalls.errors import ResourceExhausted


def _letter(sender: int, body: object = None, size: int = 1) -> Letter:
    return Letter(sender, "s", body, size)


def _receiver(sender: int | None, got: list[Letter]) -> Receiver:
    letter: Promise[Letter] = Promise()
    letter.then(lambda outcome: got.append(outcome.result()))
    return Receiver(sender, letter)


def test_mail_goes_to_the_matching_receiver() -> None:
    box, got = Mailbox(), list[Letter]()
    picky = _receiver(7, got)
    assert not box.take(picky)
    box.put(_letter(1, "kept"))
    box.put(_letter(7, "delivered"))
    assert [letter.body for letter in got] == ["delivered"]
    assert box.take(_receiver(None, got)) and got[-1].body == "kept"
    left = _receiver(None, got)
    box.take(left)
    box.leave(left)
    box.put(_letter(1, "stays"))
    assert got[-1].body == "kept"


def test_a_full_mailbox_rejects_messages() -> None:
    box = Mailbox()
    for _ in range(MAX_MESSAGES):
        box.put(_letter(1))
    with pytest.raises(ResourceExhausted, match="1000 messages"):
        box.put(_letter(1))
    with pytest.raises(ResourceExhausted, match="bytes"):
        Mailbox().put(_letter(1, size=9 << 20))

"""Generation as callers see it: streams, limits, cancellation and classes."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from aios.syscalls.client import Connection
from aios.syscalls.errors import (
    ContextOverflow,
    DeadlineExceeded,
    InvalidArgument,
)
from aios.syscalls.types.chat import ChatReply, ChatRequest, Chunk
from aios.syscalls.types.common import Empty
from aios.syscalls.types.process import ProcessInfo, PsRequest
from tests.conftest import Machine, operator
from tests.waiting import wait_until

CHAT = ChatRequest(prompt="hello", max_tokens=30, temperature=0.9, seed=3)


def test_a_stream_is_the_reply_in_pieces(guest: Connection) -> None:
    whole: ChatReply = guest.call("llm.chat", CHAT)
    streamed = ChatRequest(prompt="hello", max_tokens=30, temperature=0.9, seed=3, stream=True)
    *pieces, last = guest.stream("llm.chat", streamed)
    assert isinstance(last, ChatReply)
    assert all(isinstance(piece, Chunk) for piece in pieces) and len(pieces) > 5
    assert "".join(piece.text for piece in pieces) == whole.text == last.text
    assert last.tokens == whole.tokens and len(whole.tokens) == 30


def test_limits_stop_strings_and_grammars_hold(guest: Connection) -> None:
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

    def idle() -> bool:
        model = guest.call("model.list", Empty()).models[0]
        return (model.seats_used, model.running, model.ready) == (0, 0, 0)

    wait_until(idle, "a free seat and empty queues")


def test_leaving_a_stream_cancels_it(guest: Connection) -> None:
    stream = guest.stream("llm.chat", ChatRequest(prompt="x", max_tokens=4000, stream=True))
    assert isinstance(stream, Generator) and next(stream).text
    stream.close()
    wait_until(lambda: guest.call("model.list", Empty()).models[0].seats_used == 0, "a free seat")


def test_async_calls_share_one_connection(machine: Machine) -> None:
    code = """
import asyncio, aios
from aios import session
from aios.syscalls.types.common import Empty
from aios.syscalls.types.kernel import ModelList
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
    while session.call("model.list", Empty(), ModelList).models[0].seats_used:
        await asyncio.sleep(0.01)
    print("freed")
asyncio.run(main())
"""
    got = machine.aios("run", machine.agent("a", code))
    assert got.stdout.split() == ["True", "True", "cancelled", "freed"], got.stderr


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


def test_an_interactive_request_overtakes_batch_requests(stopped: Machine) -> None:
    """It ends before any of five long requests that began earlier and hold all seats."""
    stopped.start("--model", "fake:step_ms=20,end=0", "--seats", "4", "--quantum", "4")
    forever = stopped.agent("long", "import aios\nwhile True: aios.chat('x', max_tokens=4000)")
    for number in range(5):
        stopped.aios("run", "-d", "--class", "batch", "--name", f"batch{number}", forever)
    with operator(stopped) as connection:

        def batch() -> list[ProcessInfo]:
            rows = connection.call("proc.ps", PsRequest()).processes
            return [row for row in rows if row.name.startswith("batch")]

        wait_until(lambda: all(row.requests for row in batch()), "five running requests")
        assert connection.call("model.list", Empty()).models[0].seats_used == 4
        code = "import aios; print(len(aios.chat('x', max_tokens=20).tokens))"
        got = stopped.aios("run", "--class", "interactive", stopped.agent("quick", code))
        assert got.stdout == "20\n", got.stderr
        rows = batch()
    assert len(rows) == 5 and not any(row.tokens_out for row in rows), "none has ended a request"

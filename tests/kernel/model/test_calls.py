"""``llm.chat``: however a call ends, it is answered once and its process charged once."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from aios.kernel.loop.task import start
from aios.kernel.model.calls import ModelCalls
from aios.kernel.process.table import Process, ProcessTable
from aios.kernel.trap.doors import Peer
from aios.kernel.trap.pending import Caller, Pending
from aios.syscalls import codec
from aios.syscalls.errors import AiosError, BudgetExceeded, Cancelled
from aios.syscalls.table import BY_NAME
from aios.syscalls.types.chat import ChatReply, ChatRequest
from aios.syscalls.types.process import SpawnRequest
from tests.kernel.rig import Rig, open_rig

BUDGET = 40


class _Bench:
    """The handlers on a rig, and the replies that a caller gets."""

    def __init__(self, rig: Rig) -> None:
        self.rig, self.loop = rig, rig.loop
        self.table = ProcessTable(4)
        spec = SpawnRequest(path="a.py", max_tokens=BUDGET)
        self.process: Process = self.table.create(
            parent=0, stem="a", command="a.py", spec=spec, guest=False
        )
        nothing: Any = SimpleNamespace(check=lambda *_: None, record=lambda *_: None)
        self._calls = ModelCalls(
            self.table, nothing, rig.models, nothing, nothing, nothing, nothing
        )
        self.replies: list[msgspec.Struct] = []

    def chat(self, body: ChatRequest) -> Pending:
        pid = self.process.pid
        frame = codec.CallFrame(BY_NAME["llm.chat"].number, 1, None, {}, 0)
        caller = Caller(str(pid), pid, 0)
        call = Pending(self, Peer("agents", b"a", str(pid)), caller, BY_NAME["llm.chat"], frame)
        call.wait()
        handler: Any = self._calls.handlers["llm.chat"]
        start(handler(call, body)).then(call.finish)
        return call

    def send(self, pending: Pending, kind: int, body: msgspec.Struct) -> None:
        self.replies.append(body)

    def ask(self, pending: Pending, error: AiosError) -> bool:
        return False

    def ended(self, pending: Pending) -> None:
        pass


@pytest.mark.parametrize(
    ("how", "code"),
    [
        ("done", None),
        ("cancelled", "CANCELLED"),
        ("abandoned", None),
        ("killed", "CANCELLED"),
        ("refused", "INVALID_ARGUMENT"),
        ("cannot be loaded", "MODEL_UNAVAILABLE"),
        ("is not found", "MODEL_UNAVAILABLE"),
    ],
)
def test_a_call_is_answered_and_charged_once(tmp_path: Path, how: str, code: str | None) -> None:
    with open_rig(tmp_path) as rig:
        bench, error = _Bench(rig), Cancelled("by the test")
        process, model = bench.process, None
        if how == "cannot be loaded":
            model = "fake:nonsense=1"
        elif how == "is not found":
            model = "nowhere.gguf"
        grammar = "no grammar" if how == "refused" else None
        call = bench.chat(
            ChatRequest(prompt="a story", model=model, max_tokens=20, grammar=grammar)
        )
        if how in ("cancelled", "abandoned", "killed"):
            (request,) = process.requests.values()
            assert process.budget_used == 20, "taken before it is generated"
            rig.run(lambda: len(request.generated) > 4)
            if how == "cancelled":
                call.cancel(error)
            elif how == "abandoned":
                call.abandon(error)
            else:
                rig.models.cancel(request, error)
        rig.run()
        assert call.ended and not process.requests and not rig.model.requests
        assert process.budget_used == process.tokens_out
        assert process.tokens_out == 20 if how == "done" else process.tokens_out < 20
        if how == "abandoned":
            assert not bench.replies and process.tokens_out
        else:
            (reply,) = bench.replies
            assert getattr(reply, "code", None) == code
            assert isinstance(reply, ChatReply) == (code is None)


def test_calls_at_the_same_time_cannot_exceed_a_budget(tmp_path: Path) -> None:
    with open_rig(tmp_path) as rig:
        bench = _Bench(rig)
        for _ in range(2):
            bench.chat(ChatRequest(prompt="a story", max_tokens=BUDGET))
        (refusal,) = bench.replies
        assert getattr(refusal, "code", None) == BudgetExceeded.code
        rig.run()
        assert bench.process.budget_used == bench.process.tokens_out == BUDGET
        assert len(bench.replies) == 2

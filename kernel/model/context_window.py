"""When a conversation outgrows the context window: what is left out, and what stands for it.

The core cuts (it has the tokens): the oldest turns go, the system messages at the beginning and
the last message stay. ``summarise`` lets the model itself tell in a few sentences what those turns
said, piece by piece when they are long, and puts that where they were. The reply says so. The
agent pays for the summary: its tokens come from what the budget has left besides the reply and,
when that is not enough, from up to half of the reply's.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

import msgspec

from aios.hw.engine.engine import EngineInfo, Message
from aios.hw.engine.sampling import SamplingParams
from aios.kernel.scheduler.request import Request
from aios.syscalls.errors import AiosError, ContextOverflow
from aios.syscalls.types.chat import ChatReply, WindowReport

SUMMARY = "Summary of the conversation so far: "
_SUMMARY_TOKENS = 192
_ASK = (
    "Summarise this conversation in a few sentences. Keep names, numbers, decisions and open "
    "questions.\n\n"
)


class Summariser(Protocol):
    """The model that a request asked, which summarises for it. ``info`` None: not yet loaded."""

    info: EngineInfo | None

    def helper_id(self) -> int:
        """A number for a request of the kernel's own, never used before."""

    def submit(self, request: Request) -> None:
        """Take a request; it ends through its ``on_done``."""

    def begin_anew(self, request: Request, messages: list[Message]) -> None:
        """Prepare it again, with other messages."""

    def fail(self, request: Request, error: AiosError) -> None:
        """A request cannot go on."""


def overflow(model: str, tokens: int, holds: int, by_quota: bool) -> ContextOverflow:
    """The error for a prompt that does not fit."""
    if by_quota:
        return ContextOverflow(
            f"the prompt has {tokens:,} tokens; the program's quota of KV cells is {holds:,}, the "
            "reply's first token included",
            "shorten the prompt, or raise it: aios renice --quota-cells N REF",
        )
    return ContextOverflow(
        f"the prompt has {tokens:,} tokens; the context window of {model} holds {holds:,}, the "
        "reply's first token included",
        'shorten it, let the oldest turns go (window="truncate" or "summarise"), or start the '
        "kernel with a larger window: aios daemon restart --ctx N",
    )


def report(request: Request, dropped: int) -> WindowReport:
    """What the reply says about turns that were left out."""
    before = request.window
    if before:  # the summary took room, so more had to go
        return msgspec.structs.replace(before, dropped_turns=before.dropped_turns + dropped)
    return WindowReport(request.window_policy, dropped)


def summarise(model: Summariser, request: Request, dropped: int) -> None:
    """Have the turns that must go summarised, then prepare the request with the summary."""
    messages = request.messages or []
    head = next((i for i, m in enumerate(messages) if m.role != "system"), len(messages))
    gone = messages[head : head + dropped]
    start = head
    if head and messages[head - 1].content.startswith(SUMMARY):
        start -= 1  # an earlier summary becomes part of the new one
        gone = [messages[start], *gone]
    transcript = "\n".join(f"{message.role}: {message.content}" for message in gone)
    room = holds(model, request)
    most = max(min(128, room // 4), room // 2 - 256)  # characters; a token has one at least
    pieces = [transcript[at : at + most] for at in range(0, len(transcript), most)]

    def finished(summary: str) -> None:
        request.window = WindowReport("summarise", dropped, summary, request.helped_tokens)
        stand_in = Message("system", SUMMARY + summary)
        model.begin_anew(request, [*messages[:start], stand_in, *messages[head + dropped :]])

    _next_piece(model, request, pieces, "", finished)


def _next_piece(
    model: Summariser, request: Request, pieces: list[str], summary: str,
    finished: Callable[[str], None],
) -> None:  # fmt: skip
    """Summarise the first piece together with what the ones before it came to."""
    if not pieces:
        finished(summary)
        return

    allowed = _allow(request, min(_SUMMARY_TOKENS, holds(model, request) // 8))
    if not allowed:
        assert request.budget
        model.fail(request, request.budget.exceeded())
        return

    def done(outcome: ChatReply | AiosError) -> None:
        request.helper = None
        _charge(request, helper, allowed)
        if isinstance(outcome, AiosError):
            model.fail(request, outcome)
        else:
            _next_piece(model, request, pieces[1:], outcome.text.strip(), finished)

    said = f"Summary so far: {summary}\n\n" if summary else ""
    helper = Request(
        id=model.helper_id(), pid=request.pid, name=request.name, rank=request.rank,
        nice=request.nice, account=request.account, hidden=True,
        prompt=None, on_text=None, on_done=done,
        params=SamplingParams(max_tokens=allowed, seed=request.params.seed),
        messages=[Message("user", _ASK + said + pieces[0])], received_s=time.monotonic(),
    )  # fmt: skip
    request.helper = helper
    model.submit(helper)


def holds(model: Summariser, request: Request) -> int:
    """Tokens of a context that the request may have."""
    assert model.info
    return min(model.info.context_tokens, request.account.quota_cells or model.info.context_tokens)


def _allow(request: Request, wanted: int) -> int:
    """Take what a summary may generate from the budget; 0 when there is nothing."""
    if request.budget is None:
        return wanted
    allowed, params = request.budget.take(wanted), request.params
    share = min(wanted - allowed, params.max_tokens // 2)
    request.params = msgspec.structs.replace(params, max_tokens=params.max_tokens - share)
    return allowed + share


def _charge(request: Request, helper: Request, allowed: int) -> None:
    """Charge what a helper has used, however it ended; the rest goes back."""
    generated = len(helper.tokens) - helper.prompt_tokens
    request.helped_tokens += generated
    request.helped_prompt_tokens += helper.prompt_tokens
    if request.budget:
        request.budget.give_back(allowed - generated)

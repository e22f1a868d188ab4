"""Prompts that outgrow the context window: which turns are left out, and their summary.

The core cuts (it has the tokens): the oldest turns go, the system messages at the beginning and the
last message stay. With ``summarise`` the model itself first summarises those turns in a few
sentences, piece by piece when they are long, and the summary takes their place. The reply says so.
The agent pays for the summary: its tokens come from what the budget has left besides the reply and,
if that is not enough, from up to half of the reply's.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from aios.hw.chat.conversation import Conversation, Message
from aios.hw.engine.engine import EngineInfo
from aios.hw.engine.sampling import SamplingParams
from aios.kernel.scheduler.request import Request
from aios.syscalls.errors import ContextOverflow
from aios.syscalls.types.chat import WindowReport

SUMMARY = "Summary of the conversation so far: "
_SUMMARY_TOKENS = 192
"""Limit on the length of a summary."""
_ASK = (
    "Summarise this conversation in a few sentences. Keep names, numbers, decisions and open "
    "questions.\n\n"
)


class Summariser(Protocol):
    """The model that a request asked, which summarises for it. ``info`` None: not yet loaded."""

    info: EngineInfo | None

    def helper_id(self) -> int:
        """Return a number for a request of the kernel's own, never used before."""

    def submit(self, request: Request) -> None:
        """Take a request and settle its ``result`` when it ends."""


def holds(model: Summariser, request: Request) -> int:
    """Return the number of tokens that the request's context may have."""
    assert model.info
    return min(model.info.context_tokens, request.account.quota_cells or model.info.context_tokens)


def overflow(model: str, tokens: int, holds: int, by_quota: bool) -> ContextOverflow:
    """Return the error for a prompt that does not fit."""
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
    """Return what the reply says about turns that were left out."""
    before = request.window
    if before:  # the summary took room, so more had to go
        return msgspec.structs.replace(before, dropped_turns=before.dropped_turns + dropped)
    return WindowReport(request.window_policy, dropped)


async def summarise(model: Summariser, request: Request, dropped: int) -> list[Message]:
    """Return the messages with a summary in place of the ``dropped`` oldest turns.

    Raises BudgetExceeded, or the error that a request for a summary ended with.
    """
    messages = request.messages
    head = next((i for i, m in enumerate(messages) if m.role != "system"), len(messages))
    gone = messages[head : head + dropped]
    begin = head
    if head and messages[head - 1].content.startswith(SUMMARY):
        begin -= 1  # an earlier summary becomes part of the new one
        gone = [messages[begin], *gone]
    transcript = "\n".join(f"{message.role}: {message.content}" for message in gone)
    room = holds(model, request)
    most = max(min(128, room // 4), room // 2 - 256)  # characters; a token has one at least
    summary = ""
    for at in range(0, len(transcript), most):
        summary = await _summary(model, request, summary, transcript[at : at + most])
    request.window = WindowReport("summarise", dropped, summary, request.helped_tokens)
    stand_in = Message("system", SUMMARY + summary)
    return [*messages[:begin], stand_in, *messages[head + dropped :]]


async def _summary(model: Summariser, request: Request, so_far: str, piece: str) -> str:
    """Ask the model for a summary of a piece together with the summary of the pieces before."""
    allowed = _allow(request, min(_SUMMARY_TOKENS, holds(model, request) // 8))
    if not allowed:
        assert request.budget
        raise request.budget.exceeded()
    said = f"Summary so far: {so_far}\n\n" if so_far else ""
    helper = Request(
        id=model.helper_id(), pid=request.pid, name=request.name, rank=request.rank,
        nice=request.nice, account=request.account, hidden=True,
        params=SamplingParams(max_tokens=allowed, seed=request.params.seed),
        talk=Conversation(messages=[Message("user", _ASK + said + piece)], thinking=False),
    )  # fmt: skip
    request.helper = helper
    try:
        model.submit(helper)
        reply = await helper.result
    finally:
        request.helper = None
        _charge(request, helper, allowed)
    return reply.text.strip()


def _allow(request: Request, wanted: int) -> int:
    """Take the tokens for a summary from the budget; return how many, 0 when there are none."""
    if request.budget is None:
        return wanted
    allowed, params = request.budget.take(wanted), request.params
    share = min(wanted - allowed, params.max_tokens // 2)
    request.params = msgspec.structs.replace(params, max_tokens=params.max_tokens - share)
    return allowed + share


def _charge(request: Request, helper: Request, allowed: int) -> None:
    """Charge what a helper has used, however it ended; give the rest back."""
    generated = len(helper.tokens) - helper.prompt_tokens
    request.helped_tokens += generated
    request.helped_prompt_tokens += helper.prompt_tokens
    if request.budget:
        request.budget.give_back(allowed - generated)

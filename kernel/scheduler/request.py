"""A generation as the kernel knows it: what it wants, where it stands, what it has cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import xxhash

from aios.hw.chat.conversation import Call, Conversation, Message
from aios.hw.chat.reply_format import ReplyFormat
from aios.hw.engine.sampling import SamplingParams
from aios.kernel.context.sequence import Sequence
from aios.kernel.loop.states import step
from aios.kernel.loop.task import Promise
from aios.syscalls.types.chat import ChatReply, Chunk, Timing, ToolCall, Usage, WindowReport
from aios.syscalls.types.trace import RequestRecord

from .account import Account
from .budget import Budget

Phase = Literal["preparing", "ready", "running", "held", "done"]

PHASES: Mapping[Phase, frozenset[Phase]] = {
    "preparing": frozenset({"ready", "held", "done"}),
    "ready": frozenset({"running", "held", "preparing", "done"}),
    "running": frozenset({"ready", "held", "done"}),
    "held": frozenset({"ready", "preparing", "done"}),
    "done": frozenset(),
}
"""``preparing``: it has no tokens yet; ``ready``: it could run; ``running``: it is in the current
slice; ``held``: its agent is paused."""


@dataclass(eq=False, kw_only=True)
class Request(Sequence):
    """One ``llm.chat``. Times are monotonic seconds, None until they happen."""

    name: str
    rank: int
    nice: int
    account: Account
    params: SamplingParams
    talk: Conversation | None = None
    prompt: str | None = None
    """Raw text in place of a conversation."""
    received_s: float = 0.0
    on_text: Callable[[Chunk], None] | None = None
    """Gets text and reasoning as they are generated."""
    result: Promise[ChatReply] = field(default_factory=Promise)
    expected_tokens: int | None = None
    """Length of the reply that the caller expects."""
    window_policy: str = "error"
    window: WindowReport | None = None
    """The cuts or summaries that made the prompt fit."""
    hidden: bool = False
    """A request of the kernel's own, on behalf of another, whose ``helper`` it is."""
    helper: Request | None = None
    budget: Budget | None = None
    """Where it takes tokens from for its helpers; None: there is no limit."""
    helped_tokens: int = 0
    """Tokens that its helpers have generated."""
    helped_prompt_tokens: int = 0

    phase: Phase = "preparing"
    text: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    """The tool calls of the reply."""
    format: ReplyFormat = field(default_factory=ReplyFormat)
    """How the core reads the reply."""
    notes: list[str] = field(default_factory=list)
    """How the conversation was adapted to the model's template."""
    finish: Literal["", "stop", "length", "tool_calls"] = ""

    cells: int = 0
    """KV cells reserved from its account's quota; 0 until it has started."""

    arrival: int = 0
    turn: int = 0
    drafted_tokens: int = 0
    """Generated tokens that took no step of their own."""
    used_steps: int = 0
    """Steps of its quantum that it has used in this round."""
    share: float = 0.0
    """Set, as ``outranked`` is, by the scheduler before policies look."""
    outranked: bool = False
    done_work: float = 0.0
    """Work done for it, in prompt tokens."""
    decode_cost: float = 1.0
    """Cost of a generated token, in prompt tokens."""

    first_slice_s: float | None = None
    first_token_s: float | None = None
    phase_since_s: float = 0.0
    ready_s: float = 0.0
    slices: int = 0
    core_deaths: int = 0
    """Cores that died while they worked on it, since its last token."""

    @property
    def idle_since_s(self) -> float:
        """Time since which it could have run and did not; infinite while it could not."""
        return self.phase_since_s if self.phase == "ready" else float("inf")

    @property
    def service(self) -> float:
        """Work done for it, plus the prompt work that must be done first."""
        return self.done_work + max(0, self.prompt_tokens - max(self.length, self.computed))

    @property
    def left(self) -> float:
        """Work left, by what the caller expects."""
        return self._left(self.expected_tokens or self.params.max_tokens)

    @property
    def most_left(self) -> float:
        """Work left at most, by the limit on the reply."""
        return self._left(self.params.max_tokens)

    def _left(self, reply_tokens: int) -> float:
        generated = len(self.tokens) - self.prompt_tokens
        prompt = max(0, self.prompt_tokens - self.length)
        return prompt + max(1, reply_tokens - generated) * self.decode_cost

    def move(self, phase: Phase, now: float) -> None:
        """Go to a phase; count the time in which it was runnable but did not run. Raises
        IllegalTransition."""
        following = step(PHASES, "request", self.phase, phase)
        if self.phase in ("preparing", "ready"):
            self.ready_s += now - self.phase_since_s
        self.phase, self.phase_since_s = following, now

    @property
    def messages(self) -> list[Message]:
        """The conversation's messages; none for a raw prompt."""
        return self.talk.messages if self.talk else []

    @property
    def generated(self) -> list[int]:
        """The tokens after the prompt."""
        return self.tokens[self.prompt_tokens :].tolist()

    def timing(self, now: float) -> Timing:
        """Return the times that the caller gets."""
        first_slice = now if self.first_slice_s is None else self.first_slice_s
        first_token = now if self.first_token_s is None else self.first_token_s
        return Timing(
            received_s=self.received_s,
            wait_s=first_slice - self.received_s,
            ready_s=self.ready_s,
            first_token_s=first_token - self.received_s,
            turnaround_s=now - self.received_s,
            slices=self.slices,
            parks=self.parks,
            recomputes=self.recomputes,
        )

    def reply(self, model: str, now: float) -> ChatReply:
        """Return the finished generation."""
        generated = self.generated
        return ChatReply(
            text="".join(self.text),
            finish=self.finish or "stop",
            tokens=generated,
            usage=Usage(
                self.prompt_tokens, len(generated), self.cached_tokens, self.drafted_tokens
            ),
            timing=self.timing(now),
            seed=self.params.seed,
            model=model,
            window=self.window,
            reasoning="".join(self.reasoning),
            adapted=self.notes,
            tool_calls=[ToolCall(call.id, call.name, call.arguments) for call in self.calls],
        )

    def record(self, model: str, outcome: str, now: float) -> RequestRecord:
        """Return its line in the trace."""
        return RequestRecord(
            request_id=self.id,
            pid=self.pid,
            name=self.name,
            model=model,
            outcome=outcome,
            prompt_tokens=self.prompt_tokens,
            completion_tokens=len(self.tokens) - self.prompt_tokens,
            cached_tokens=self.cached_tokens,
            digest=xxhash.xxh3_64_hexdigest(self.tokens[self.prompt_tokens :].tobytes()),
            timing=self.timing(now),
        )

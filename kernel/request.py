"""A generation as the kernel knows it: what it wants, where it stands, what it has cost.

The tokens here and the number of them in a seat or image are the whole state of a generation.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import dataclass, field

import xxhash

from aios.hw.arena import Extent
from aios.hw.engine import Message
from aios.hw.messages import SamplingParams
from aios.syscalls.errors import AiosError
from aios.syscalls.types import ChatReply, RequestRecord, Timing, Usage

from .states import Phase, next_phase


@dataclass(eq=False)
class Image:
    """A parked request's state in the arena; ``size_bytes`` is 0 until the core has written it."""

    extent: Extent
    tokens: int
    size_bytes: int = 0


@dataclass(eq=False)
class Request:
    """One ``llm.chat``. Times are monotonic seconds, None until they happen."""

    id: int
    pid: int
    name: str
    rank: int
    nice: int
    params: SamplingParams
    messages: list[Message] | None
    prompt: str | None
    received_s: float
    on_text: Callable[[str], None] | None
    on_done: Callable[[ChatReply | AiosError], None]

    phase: Phase = "preparing"
    tokens: array[int] = field(default_factory=lambda: array("i"))
    prompt_tokens: int = 0
    text: list[str] = field(default_factory=list)
    finish: str = ""

    seat: int | None = None
    length: int = 0
    """Tokens whose KV is in the seat or, parked, in the image."""
    image: Image | None = None

    arrival: int = 0
    turn: int = 0
    used_steps: int = 0
    """Of its quantum in this round."""

    first_slice_s: float | None = None
    first_token_s: float | None = None
    phase_since_s: float = 0.0
    ready_s: float = 0.0
    slices: int = 0
    parks: int = 0
    recomputes: int = 0
    core_deaths: int = 0
    """Cores that died while working on it, since its last token."""

    def move(self, phase: Phase, now: float) -> None:
        """Go to a phase; time spent runnable but not running is counted as ready time."""
        following = next_phase(self.phase, phase)
        if self.phase in ("preparing", "ready"):
            self.ready_s += now - self.phase_since_s
        self.phase, self.phase_since_s = following, now

    @property
    def generated(self) -> list[int]:
        """Tokens after the prompt."""
        return self.tokens[self.prompt_tokens :].tolist()

    def timing(self, now: float) -> Timing:
        """What the caller is told."""
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
        """The finished generation."""
        generated = self.generated
        return ChatReply(
            text="".join(self.text),
            finish="length" if self.finish == "length" else "stop",
            tokens=generated,
            usage=Usage(self.prompt_tokens, len(generated)),
            timing=self.timing(now),
            seed=self.params.seed,
            model=model,
        )

    def record(self, model: str, outcome: str, now: float) -> RequestRecord:
        """The line it leaves in the trace."""
        return RequestRecord(
            request_id=self.id,
            pid=self.pid,
            name=self.name,
            model=model,
            outcome=outcome,
            prompt_tokens=self.prompt_tokens,
            completion_tokens=len(self.tokens) - self.prompt_tokens,
            digest=xxhash.xxh3_64_hexdigest(self.tokens[self.prompt_tokens :].tobytes()),
            timing=self.timing(now),
        )

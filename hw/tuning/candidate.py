"""Candidates of tuning, the jobs that test them, the jobs' results, and the score.

The score is the rate of agents' mix in tokens/s: each of N agents, all seats busy, gives the model
a turn of ``TURN_PROMPT`` new prompt tokens and generates ``TURN_REPLY``. Nothing is measured here.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from aios.hw.engine.engine import Rung

ORIGINAL = "original"
TURN_PROMPT, TURN_REPLY = 128, 64
"""Tokens of a turn."""


class Recipe(msgspec.Struct, frozen=True):
    """A weight format: llama.cpp's number for it, and tensors that get another type."""

    ftype: int
    tensors: tuple[tuple[str, int], ...] = ()
    """Pairs of a name pattern and ggml's number for the type."""


_IQ4_NL = 20
FORMATS = {
    "Q8_0": Recipe(7),
    "Q8_0+IQ4_NL": Recipe(7, (("ffn_gate", _IQ4_NL), ("ffn_up", _IQ4_NL))),
    "Q4_0": Recipe(2),
    "Q4_K_M": Recipe(15),
    "Q6_K": Recipe(18),
}
"""Weight formats in the order of trial."""


class Candidate(msgspec.Struct, frozen=True):
    """One way to load a model."""

    weights: str
    """``original`` or one of FORMATS."""
    rung: Rung
    threads: int
    ubatch_tokens: int = 512

    @property
    def label(self) -> str:
        """A name that is unique among all candidates for one model."""
        rung, width = self.rung, self.rung.width or 0
        flags = (rung.mixed, rung.extra_buffers, rung.pairs, rung.replay)
        return (
            f"{self.weights} {rung.kv_type} {''.join(str(int(flag)) for flag in flags)}{width} "
            f"{self.threads} {self.ubatch_tokens}"
        )


class TuningJob(msgspec.Struct, frozen=True, kw_only=True):
    """One thing to do with a candidate, in a process of its own.

    ``copy`` makes the file with its weights; ``drop`` removes it; ``speed`` measures its speed;
    ``perplexity`` reads the yardstick text; ``exact`` runs the self-test; ``steps`` measures the
    times of steps, for the core.
    """

    kind: Literal["copy", "drop", "speed", "perplexity", "exact", "steps"]
    candidate: Candidate
    round: int = 0
    """Distinguishes repeated measurements: 1, 2, … in the finals, negative for close calls."""
    limit_percent: float = 0.0
    against: tuple[float, ...] = ()
    """The original's log-likelihoods by window; reading stops if the candidate is clearly worse."""
    windows: int = 0
    """Number of windows to read, from all parts of the text; 0: all."""

    @property
    def key(self) -> str:
        """The name under which the result is kept."""
        if self.kind in ("copy", "drop"):
            return f"{self.kind} {self.candidate.weights}"
        limit = f" {self.limit_percent:g}" if self.against else ""
        limit += f" of {self.windows}" if self.windows else ""
        return f"{self.kind} {self.candidate.label}{limit}{f' {self.round}' if self.round else ''}"


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a job. Rates in tokens/s."""

    failed: str = ""
    """The reason if the job failed."""
    crashed: bool = False
    seconds: float = 0.0
    prefill: float = 0.0
    alone: float = 0.0
    """Rate of generation with one seat busy."""
    together: float = 0.0
    """Rate of generation with all seats busy, all seats together."""
    exact: bool = False
    draft_tokens: int = 0
    """Limit on the length of drafts; 0: they change logits."""
    windows: tuple[float, ...] = ()
    """Log-likelihood of the text by window; fewer than the original's if reading was stopped."""
    tokens: tuple[int, ...] = ()
    """Number of predicted tokens by window."""
    size_bytes: int = 0
    description: str = ""


def score(speed: Result) -> float:
    """Return the tokens/s of agents' mix; higher is better, 0 for a failure."""
    if speed.failed or not speed.prefill or not speed.together:
        return 0.0
    seconds = TURN_PROMPT / speed.prefill + TURN_REPLY / speed.together
    return (TURN_PROMPT + TURN_REPLY) / seconds

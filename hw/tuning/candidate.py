"""Candidates of tuning: what can be varied, what is measured of each, and the one score.

The score is tokens/s of agents' mix: each of N agents gives the model a turn of ``TURN_PROMPT`` new
prompt tokens and generates ``TURN_REPLY``, all seats busy. Pure data; nothing is measured here.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from aios.hw.engine.engine import Rung

ORIGINAL = "original"
TURN_PROMPT, TURN_REPLY = 128, 64


class Recipe(msgspec.Struct, frozen=True):
    """A weight format: llama.cpp's number for it, and tensors that get another type."""

    ftype: int
    tensors: tuple[tuple[str, int], ...] = ()
    """Pattern of names, and ggml's number for the type."""


_IQ4_NL = 20
FORMATS = {
    "Q8_0": Recipe(7),
    "Q8_0+IQ4_NL": Recipe(7, (("ffn_gate", _IQ4_NL), ("ffn_up", _IQ4_NL))),
    "Q4_0": Recipe(2),
    "Q4_K_M": Recipe(15),
    "Q6_K": Recipe(18),
}
"""In the order in which they are tried: the near-lossless first, then small ones."""


class Candidate(msgspec.Struct, frozen=True):
    """One way to load a model."""

    weights: str
    """``original`` or one of FORMATS."""
    rung: Rung
    threads: int
    ubatch_tokens: int = 512

    @property
    def label(self) -> str:
        """Names it among all candidates for one model."""
        rung, width = self.rung, self.rung.width or 0
        return (
            f"{self.weights} {rung.kv_type} {int(rung.mixed)}{int(rung.extra_buffers)}{width} "
            f"{self.threads} {self.ubatch_tokens}"
        )


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One thing to do with a candidate, in a process of its own.

    ``copy`` makes the file with its weights and ``drop`` removes it; ``look`` measures its speed;
    ``perplexity`` reads the yardstick text; ``exact`` is the self-test.
    """

    kind: Literal["copy", "drop", "look", "perplexity", "exact"]
    candidate: Candidate
    round: int = 0
    """A look of the final, interleaved ones: 1, 2, …"""
    limit_percent: float = 0.0
    against: tuple[float, ...] = ()
    """The original's log-likelihoods by window of the text: stop when it is clearly worse."""

    @property
    def key(self) -> str:
        """The name under which its result is kept."""
        match self.kind:
            case "copy" | "drop":
                return f"{self.kind} {self.candidate.weights}"
            case "look":
                return f"look {self.candidate.label} {self.round}"
            case "perplexity" if self.against:
                return f"perplexity {self.candidate.label} {self.limit_percent:g}"
            case _:
                return f"{self.kind} {self.candidate.label}"


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a job. Rates in tokens/s."""

    failed: str = ""
    """Why nothing came of it."""
    seconds: float = 0.0
    prefill: float = 0.0
    alone: float = 0.0
    """Generated with one seat busy."""
    together: float = 0.0
    """Generated with all seats busy, the sum of them."""
    exact: bool = False
    windows: tuple[float, ...] = ()
    """Log-likelihood of the text, by window; fewer than the original's when it was stopped."""
    tokens: tuple[int, ...] = ()
    """Tokens that were predicted, by window."""
    size_bytes: int = 0
    description: str = ""


def score(look: Result) -> float:
    """Tokens/s of the mix; higher is better."""
    if look.failed or not look.prefill or not look.together:
        return 0.0
    seconds = TURN_PROMPT / look.prefill + TURN_REPLY / look.together
    return (TURN_PROMPT + TURN_REPLY) / seconds

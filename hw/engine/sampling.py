"""Sampling: draws a token from logits, as a pure function of parameters, seed, position, history.

The only state between draws is the grammar's, which is a function of the tokens. So a generation
that was parked, moved or restarted draws the same tokens.

Order: penalties → grammar → top-k → top-p → min-p → temperature → draw.
"""

from __future__ import annotations

import math

import msgspec
import numpy as np
import numpy.typing as npt

from .engine import Constraint, Grammar, InvalidInput, Logits, Tokens

PENALTY_WINDOW = 64
"""Number of last tokens that penalties apply to."""
_NEGLIGIBLE = 30.0
"""Distance below the best logit, in temperatures, from which tokens are never drawn."""
_NUCLEUS_DEPTHS = (4.0, 8.0, 16.0)
"""Distances below the best logit to search in turn for the tokens of top-p."""
_MARGIN = 1e-3
"""Margin of the single-precision preselection for min-p; double precision decides later."""
_BLOCK = 64
_MASK64 = (1 << 64) - 1


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True):
    """How to draw tokens. ``top_k=0`` means all tokens, ``temperature=0`` greedy."""

    max_tokens: int
    seed: int
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repeat_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    stop: tuple[str, ...] = ()
    constraint: Constraint | None = None
    max_context: int | None = None
    """Limit on prompt and reply together, in tokens; None: the context window."""


class Sampler:
    """Draws tokens for one generation."""

    def __init__(self, params: SamplingParams, grammar: Grammar | None) -> None:
        self._params, self._grammar = params, grammar
        self._penalises = (
            params.repeat_penalty != 1.0
            or params.presence_penalty != 0.0
            or params.frequency_penalty != 0.0
        )

    def sample(self, logits: Logits, position: int, history: Tokens) -> int:
        """Draw the token at ``position``; ``history`` is all tokens before it, prompt included.

        Raises ArithmeticError if the best logit is not finite, InvalidInput if the grammar
        allows no token.
        """
        if self._penalises:
            logits = self._penalised(logits, history[-PENALTY_WINDOW:])
        token = self._draw(logits, position)
        if self._grammar and not self._grammar.allows(token):
            logits = logits.copy()
            self._grammar.mask(logits)
            if np.isneginf(logits.max()):
                raise InvalidInput("the grammar allows no further token at this point")
            token = self._draw(logits, position)
        return token

    def _penalised(self, logits: Logits, recent: Tokens) -> Logits:
        tokens, counts = np.unique(recent, return_counts=True)
        logits = logits.copy()
        found = logits[tokens]
        repeat = np.float32(self._params.repeat_penalty)
        found = np.where(found > 0, found / repeat, found * repeat)
        found -= counts.astype(np.float32) * np.float32(self._params.frequency_penalty)
        found -= np.float32(self._params.presence_penalty)
        logits[tokens] = found
        return logits

    def _draw(self, logits: Logits, position: int) -> int:
        best = int(logits.argmax())
        top = float(logits[best])
        if not np.isfinite(top):
            raise ArithmeticError(f"the model's best logit at position {position} is {top}")
        params = self._params
        if params.temperature == 0.0 or params.top_k == 1:
            return best
        candidates, values, total = _shortlist(logits, top, params)
        order = np.argsort(-values, kind="stable")  # ties: the lower token first
        candidates, values = _truncated(candidates[order], values[order], total, params)
        weights = np.cumsum(np.exp(values / params.temperature))
        point = uniform(params.seed, position) * weights[-1]
        index = int(np.searchsorted(weights, point, side="right"))
        return int(candidates[min(index, len(candidates) - 1)])


def _shortlist(
    logits: Logits, top: float, params: SamplingParams
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float64], float | None]:
    """Preselect tokens: returns tokens that truncation may keep, ascending; their logits minus the
    top logit; and the sum of all probabilities for top-p if it is not just that of these tokens.

    Sorting the whole vocabulary would cost as much as computing the logits of a small model.
    """
    floor = np.float32(top - _NEGLIGIBLE * max(params.temperature, 1.0))
    if 0 < params.top_k < len(logits):
        floor = max(floor, _kth_largest(logits, params.top_k))
    elif params.top_p == 1.0 and params.min_p > 0.0:
        floor = max(floor, np.float32(top + math.log(params.min_p) - _MARGIN))
    candidates = np.flatnonzero(logits >= floor)
    values = logits[candidates].astype(np.float64) - top
    if params.top_k == 0 and params.top_p < 1.0:
        probabilities = np.exp(values)
        total = float(probabilities.sum())
        for depth in _NUCLEUS_DEPTHS:
            inside = values >= -depth
            if float(probabilities[inside].sum()) > params.top_p * total:
                return candidates[inside], values[inside], total
    return candidates, values, None


def _kth_largest(logits: Logits, k: int) -> np.float32:
    """Return the k-th largest logit; the k-th largest block maximum is a lower bound for it."""
    blocks = logits[: len(logits) // _BLOCK * _BLOCK].reshape(-1, _BLOCK).max(axis=1)
    if len(blocks) > k:
        logits = logits[logits >= np.partition(blocks, -k)[-k]]
    kth: np.float32 = np.partition(logits, -k)[-k]
    return kth


def _truncated(
    candidates: npt.NDArray[np.intp],
    values: npt.NDArray[np.float64],
    total: float | None,
    params: SamplingParams,
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float64]]:
    """Apply top-k, top-p and min-p to candidates in descending order; keeps at least one."""
    keep = len(candidates)
    if params.top_k:
        keep = min(keep, params.top_k)
    probabilities = np.exp(values[:keep])
    if params.top_p < 1.0:
        share = np.cumsum(probabilities) / (total or probabilities.sum())
        keep = min(keep, int(np.searchsorted(share, params.top_p)) + 1)
    if params.min_p > 0.0:
        keep = min(keep, int(np.count_nonzero(probabilities >= params.min_p * probabilities[0])))
    keep = max(keep, 1)
    return candidates[:keep], values[:keep]


def uniform(seed: int, position: int) -> float:
    """Return a number in [0, 1) for a seed and a position: splitmix64 of both."""
    state = _mix((seed & _MASK64) ^ _mix(position + 0x9E3779B97F4A7C15))
    return (state >> 11) / float(1 << 53)


def _mix(value: int) -> int:
    value = (value + 0x9E3779B97F4A7C15) & _MASK64
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK64
    return value ^ (value >> 31)

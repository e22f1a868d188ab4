"""Drafts: tokens that probably follow, computed in the same step as the token before them.

A draft stands behind a request's pending tokens in its row. Each of its tokens is compared with the
one that is drawn, with (seed, position), from the logits before it; the first that differs, and all
after it, are dropped. So a draft changes the number of steps and never a token. It is the text that
followed the last tokens when they occurred before, in this context or in the account's outputs.

A longer row costs time, so its length depends on how likely the tokens are and on the measured cost
of a row. Nothing here knows engines or requests.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from aios.hw.engine.engine import EngineInfo, Tokens

_MIN_MATCH, _MAX_MATCH = 2, 12
"""Limits on the length of the match, in tokens."""
_PRIOR, _PRIOR_TOKENS = 0.7, 2.0
"""Share of draft tokens expected to be right before any was tried, and its weight in tokens."""
_FADE = 0.9
"""Weight of earlier drafts when another one has been tried."""
_MAX_PAUSE_STEPS = 64
_ROW_SHARE = 0.3
"""Share of a step that each row takes, where one seat does not show it."""
_PAST_TOKENS = 8192
"""Limit on the tokens of outputs kept for one account."""
_MAX_ACCOUNTS = 64
_NONE: Tokens = np.zeros(0, np.int32)


class Draft(NamedTuple):
    """Proposed tokens, and how likely each is to be right if those before it are."""

    tokens: Tokens = _NONE
    chance: float = 0.0


class RowCost(NamedTuple):
    """The duration of a part of a step in seconds: ``part_s``, and ``row_s`` for each token."""

    part_s: float
    row_s: float

    @classmethod
    def of(cls, info: EngineInfo) -> RowCost:
        """Derive it from the times measured at load, with one seat and with all."""
        if info.seats == 1:
            return cls((1 - _ROW_SHARE) * info.step_s, _ROW_SHARE * info.step_s)
        row_s = (info.decode_token_s * info.seats - info.step_s) / (info.seats - 1)
        row_s = min(max(row_s, 0.0), info.step_s)
        return cls(info.step_s - row_s, row_s)


class Past:
    """The last outputs of each account. A draft from them may be wrong, never harmful."""

    def __init__(self) -> None:
        self._outputs: OrderedDict[int, Tokens] = OrderedDict()

    def of(self, account: int) -> Tokens:
        """Return the account's last outputs, oldest first, each after a -1."""
        return self._outputs.get(account, _NONE)

    def add(self, account: int, output: Tokens) -> None:
        """Append an output; the oldest tokens are forgotten, and the idlest accounts."""
        kept = np.concatenate([self.of(account), np.array([-1], np.int32), output])
        self._outputs[account] = kept[-_PAST_TOKENS:]
        self._outputs.move_to_end(account)
        if len(self._outputs) > _MAX_ACCOUNTS:
            self._outputs.popitem(last=False)


class Drafter:
    """Proposes drafts for one generation, and learns from what becomes of them."""

    def __init__(self) -> None:
        self._right = self._tried = 0.0
        self._misses = self._pause = 0

    def propose(self, tokens: Tokens, past: Tokens, limit: int) -> Draft:
        """Propose up to ``limit`` tokens to follow ``tokens``."""
        if limit < 1 or len(tokens) < _MIN_MATCH:
            return Draft()
        if self._pause:
            self._pause -= 1
            return Draft()
        found, match = _following(tokens, tokens, limit)
        if len(found):
            found = np.resize(found, limit)  # it ended with the text, which may go round in a ring
        if match < _MAX_MATCH:
            elsewhere, longer = _following(past, tokens, limit)
            if longer > match:
                found, match = elsewhere, longer
        if match < _MIN_MATCH:
            return Draft()
        share = (self._right + _PRIOR * _PRIOR_TOKENS) / (self._tried + _PRIOR_TOKENS)
        return Draft(found, min(share, match / (match + 1)))

    def verified(self, proposed: int, accepted: int) -> None:
        """Learn that ``accepted`` of ``proposed`` tokens were right."""
        if not proposed:
            return
        self._right = self._right * _FADE + accepted
        self._tried = self._tried * _FADE + min(proposed, accepted + 1)
        self._misses = 0 if accepted else self._misses + 1
        self._pause = min(2**self._misses - 1, _MAX_PAUSE_STEPS) if self._misses else 0


def _following(text: Tokens, tail: Tokens, limit: int) -> tuple[Tokens, int]:
    """Find the last place in ``text``, before its last token, where most of ``tail``'s end stands.

    Return what follows there, up to ``limit`` tokens of one output, and the length of the match.
    """
    ends = np.flatnonzero(text[:-1] == tail[-1]) if len(text) > 1 else _NONE
    match = min(1, len(ends))
    while match and match < min(_MAX_MATCH, len(tail)):
        longer = ends[ends >= match]
        longer = longer[text[longer - match] == tail[-1 - match]]
        if not len(longer):
            break
        ends, match = longer, match + 1
    if not match:
        return _NONE, 0
    following = text[ends[-1] + 1 :][:limit]
    border = np.flatnonzero(following < 0)
    return (following[: border[0]] if len(border) else following), match


class Extra(NamedTuple):
    """Tokens of a row beyond its first: ``sure`` ones, then drafts, each right with ``chance``."""

    sure: int
    drafts: int
    chance: float


def lengthened(rows: Sequence[Extra], cost: RowCost, room: int) -> list[int]:
    """Choose the number of extra tokens for each row, so that tokens per second are most.

    A part of a batch holds equally many tokens of each seat, so rows are lengthened by the same
    number or not at all: others would take a part each. ``room``: limit on extra tokens.
    """
    count = len(rows)
    best, chosen = count / (cost.part_s + count * cost.row_s or 1e-9), 0
    for level in range(1, max((row.sure + row.drafts for row in rows), default=0) + 1):
        longer = [row for row in rows if row.sure + row.drafts >= level]
        if level * len(longer) > room:
            break
        tokens = count + sum(_expected(row, level) for row in longer)
        parts = 1 if len(longer) == count else 2
        rate = tokens / (parts * cost.part_s + (count + level * len(longer)) * cost.row_s or 1e-9)
        if rate > best:
            best, chosen = rate, level
    return [chosen if row.sure + row.drafts >= chosen else 0 for row in rows]


def _expected(row: Extra, level: int) -> float:
    """Return the expected number of right tokens among the first ``level`` extra ones."""
    drafts = level - min(level, row.sure)
    chance = row.chance
    right = drafts if chance >= 1 else chance * (1 - chance**drafts) / (1 - chance)
    return min(level, row.sure) + right

"""Perplexity on a text that comes with AIOS: how well a model predicts it, and who does worse.

The text was written for this: prose, dialogue, instructions, code, JSON and agents' traces, so that
no model has read it. It is cut into windows, and a copy is compared with the original window by
window, so that one which is clearly worse need not read all of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from aios.hw.engine.engine import Engine

WINDOW_TOKENS = 384
_LEAST_TOKENS = 32
_CLEARLY = 4.0
"""Times the limit: not worth reading on."""
_CLEARLY_PERCENT = 2.0


def text() -> str:
    """The yardstick, 10 KB."""
    return Path(__file__).with_name("yardstick.txt").read_text(encoding="utf-8")


def read(
    engine: Engine, against: Sequence[float] = (), limit_percent: float = 0.0
) -> tuple[list[float], list[int]]:
    """Log-likelihood and number of the predicted tokens, for each window; leaves seat 0 empty.

    With the original's values in ``against``, stops after the window that settles it.
    """
    tokens = engine.tokenize_text(text())
    size = min(WINDOW_TOKENS, engine.info.context_tokens)
    windows: list[float] = []
    counts: list[int] = []
    for at in range(0, len(tokens), size):
        part = tokens[at : at + size]
        if len(part) < _LEAST_TOKENS:
            break
        engine.trim(0, 0)
        windows.append(float(engine.log_likelihoods(0, part).sum()))
        counts.append(len(part) - 1)
        enough = max(_CLEARLY * limit_percent, _CLEARLY_PERCENT)
        if against and worse_percent(windows, against, counts) > enough:
            break
    engine.trim(0, 0)
    return windows, counts


def perplexity(windows: Sequence[float], counts: Sequence[int]) -> float:
    """e to the mean loss; lower is better. Infinite when the model predicts nonsense."""
    mean = -sum(windows) / max(1, sum(counts))
    return math.exp(mean) if mean < 100 else math.inf


def worse_percent(
    windows: Sequence[float], against: Sequence[float], counts: Sequence[int]
) -> float:
    """By how much the perplexity exceeds the original's on the same windows, in percent."""
    loss = sum(against[: len(windows)]) - sum(windows)
    mean = loss / max(1, sum(counts[: len(windows)]))
    return (math.exp(mean) - 1) * 100 if mean < 100 else math.inf

"""Perplexity: how well a model, or a copy of it, predicts the yardstick text.

The text comes with AIOS and was written for this purpose, so no model was trained on it: prose,
dialogue, instructions, code, JSON and agents' traces. It is cut into windows. A copy is compared
with the original window by window, so a clearly worse one is not read to the end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from aios.hw.engine.engine import Engine

WINDOW_TOKENS = 384
_LEAST_TOKENS = 32
_CLEARLY_WORSE = 4.0
"""Multiple of the limit from which reading stops."""
_CLEARLY_WORSE_PERCENT = 2.0
"""Minimum excess for that."""


def text() -> str:
    """Return the yardstick text, 10 KB."""
    return Path(__file__).with_name("yardstick.txt").read_text(encoding="utf-8")


def read(
    engine: Engine,
    against: Sequence[float] = (),
    limit_percent: float = 0.0,
    most: int = 0,
) -> tuple[list[float], list[int]]:
    """Return the log-likelihood and the number of predicted tokens of each window.

    With the original's log-likelihoods in ``against``, stops after a window that shows the model
    to be clearly worse. ``most``: number of windows, from all parts of the text; 0: all. Leaves
    seat 0 empty.
    """
    tokens = engine.tokenize_text(text())
    size = min(WINDOW_TOKENS, engine.info.context_tokens)
    windows: list[float] = []
    counts: list[int] = []
    starts = [at for at in range(0, len(tokens), size) if len(tokens) - at >= _LEAST_TOKENS]
    if most:
        starts = starts[:: -(-len(starts) // most)]
    for at in starts:
        part = tokens[at : at + size]
        engine.trim(0, 0)
        windows.append(float(engine.log_likelihoods(0, part).sum()))
        counts.append(len(part) - 1)
        enough = max(_CLEARLY_WORSE * limit_percent, _CLEARLY_WORSE_PERCENT)
        if against and worse_percent(windows, against, counts) > enough:
            break
    engine.trim(0, 0)
    return windows, counts


def perplexity(windows: Sequence[float], counts: Sequence[int]) -> float:
    """Return e to the mean loss; lower is better, infinite if the model predicts nonsense."""
    mean = -sum(windows) / max(1, sum(counts))
    return math.exp(mean) if mean < 100 else math.inf


def worse_percent(
    windows: Sequence[float], against: Sequence[float], counts: Sequence[int]
) -> float:
    """Return the perplexity's excess over the original's on the same windows, in percent."""
    loss = sum(against[: len(windows)]) - sum(windows)
    mean = loss / max(1, sum(counts[: len(windows)]))
    return (math.exp(mean) - 1) * 100 if mean < 100 else math.inf

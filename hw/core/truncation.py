"""Truncating a conversation to fit its window: the oldest turns are left out."""

from __future__ import annotations

from aios.hw.engine.engine import Engine, Message, Tokens
from aios.hw.engine.sampling import SamplingParams


def window_tokens(engine: Engine, params: SamplingParams) -> int:
    """Return the limit on prompt and reply together: the seat's, or the request's if lower."""
    return min(params.max_context or engine.info.context_tokens, engine.info.context_tokens)


def truncated(
    engine: Engine, messages: list[Message], params: SamplingParams
) -> tuple[Tokens, int]:
    """Return the prompt's tokens without the oldest turns, and the number of turns left out.

    Leaves out as few turns as possible. System messages at the start and the last message always
    stay, even if they do not fit. Raises InvalidInput.
    """
    window = window_tokens(engine, params)
    room = window - max(1, min(params.max_tokens, window // 4))  # the rest is for the reply
    head = next((i for i, m in enumerate(messages) if m.role != "system"), len(messages))
    low, high = 0, max(0, len(messages) - head - 1)
    tokens = engine.tokenize_chat(messages)
    if len(tokens) <= room:
        return tokens, 0
    while low < high:  # find the fewest turns that suffice, or all that may go
        middle = (low + high) // 2
        kept = engine.tokenize_chat([*messages[:head], *messages[head + middle :]])
        low, high = (low, middle) if len(kept) <= room else (middle + 1, high)
    return engine.tokenize_chat([*messages[:head], *messages[head + low :]]), low

"""Truncating a conversation to fit its window: the oldest turns are left out."""

from __future__ import annotations

import msgspec

from aios.hw.chat.chat import Chat, Prompt
from aios.hw.chat.conversation import Conversation
from aios.hw.engine.engine import Engine
from aios.hw.engine.sampling import SamplingParams


def window_tokens(engine: Engine, params: SamplingParams) -> int:
    """Return the limit on prompt and reply together: the seat's, or the request's if lower."""
    return min(params.max_context or engine.info.context_tokens, engine.info.context_tokens)


def truncated(
    chat: Chat, engine: Engine, talk: Conversation, params: SamplingParams
) -> tuple[Prompt, int]:
    """Return the prompt without the oldest turns, and the number of turns left out.

    Leaves out as few turns as possible. System messages at the start and the last message always
    stay, even if they do not fit; the result of a tool goes with its call. Raises InvalidInput.
    """
    window = window_tokens(engine, params)
    room = window - max(1, min(params.max_tokens, window // 4))  # the rest is for the reply
    messages = talk.messages
    head = next((i for i, m in enumerate(messages) if m.role != "system"), len(messages))

    def without(count: int) -> Prompt:
        kept = [*messages[:head], *messages[head + count :]]
        return chat.prompt(msgspec.structs.replace(talk, messages=kept))

    prompt = without(0)
    if len(prompt.tokens) <= room:
        return prompt, 0
    cuts = [n for n in range(len(messages) - head) if messages[head + n].role != "tool"]
    low, high = 0, max(0, len(cuts) - 1)
    while low < high:  # find the fewest turns that suffice, or all that may go
        middle = (low + high) // 2
        enough = len(without(cuts[middle]).tokens) <= room
        low, high = (low, middle) if enough else (middle + 1, high)
    dropped = cuts[low] if cuts else 0
    return without(dropped), dropped

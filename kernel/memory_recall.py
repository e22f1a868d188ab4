"""Recall: notes that fit a conversation's last message, put into it before the model sees it.

They go before the last user message, as a system message, not to the conversation's beginning: all
before them stays as it was in the call before, so what is computed of it is found again (prefix
sharing); notes at the beginning would change with every question and void all that follows. The
reply names them.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from aios.syscalls import types as t
from aios.syscalls.errors import InvalidArgument
from aios.syscalls.memory_types import MAX_QUERY_CHARS, SearchReply, SearchRequest

from .calls_memory import MemoryCalls
from .memory import MemoryManager
from .standing import Asker
from .worker import Outcome

MOST_NOTE_CHARS = 1000
"""Of a note, from its beginning, that is put into a prompt."""
HEADING = "Notes from memory that may help with the next message:"

Recalled = tuple[t.ChatRequest, list[t.Recalled]]


class Recall:
    """Searches for a chat, with the rights of its caller."""

    def __init__(self, calls: MemoryCalls, memory: MemoryManager) -> None:
        self._calls, self._memory = calls, memory

    def into(
        self, asker: Asker, body: t.ChatRequest, done: Callable[[Outcome[Recalled]], None]
    ) -> None:
        """The request with notes in it, and which those are. Raises AiosError."""
        messages = body.messages
        if not messages:
            raise InvalidArgument("recall needs messages, not a raw prompt", "give messages")
        scopes = [self._calls.scope(asker, name, "read", "read") for name in body.recall_scopes]
        at = last_user(messages)
        query = messages[at].content[:MAX_QUERY_CHARS]
        if not query.strip():
            raise InvalidArgument("recall needs words to look for; the last message has none")

        def found(outcome: Outcome[SearchReply]) -> None:
            if outcome.value is None:
                done(Outcome(None, outcome.error))
                return
            notes = [
                t.Recalled(hit.note.id, hit.note.text[:MOST_NOTE_CHARS])
                for hit in outcome.value.hits
            ]
            request = body
            if notes:
                text = "\n".join([HEADING, *(f"- {note.text}" for note in notes)])
                told = [*messages[:at], t.Message("system", text), *messages[at:]]
                request = msgspec.structs.replace(body, messages=told)
            done(Outcome((request, notes), None))

        self._memory.search(SearchRequest(query, body.recall), scopes, found)


def last_user(messages: list[t.Message]) -> int:
    """Index of the last user message, or of the last one when there is none."""
    last = len(messages) - 1
    return next((at for at in range(last, -1, -1) if messages[at].role == "user"), last)

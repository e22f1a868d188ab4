"""The reply stream: divides generated text into reasoning, text and calls, as its bytes arrive.

Reasoning stands at the beginning of a reply, between marks that the reply's format names; tool
calls are at the end, from their trigger on. Stop strings apply to the text only. The state depends
only on the tokens pushed, so a generation can be resumed from its tokens.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import Literal, NamedTuple

from aios.hw.engine.text_stream import TextStream, overlap

from .reply_format import ReplyFormat


class Said(NamedTuple):
    """The text and the reasoning that have become certain."""

    text: str = ""
    reasoning: str = ""


class ReplyStream:
    """The output of one generation. ``phase``: what the next characters belong to; in ``start``
    nothing but white space, or a part of the mark before reasoning, has come."""

    def __init__(self, form: ReplyFormat, stop: Sequence[str]) -> None:
        self.phase: Literal["start", "reasoning", "text", "calls"] = "text"
        if form.think_end:
            self.phase = "reasoning" if form.thinking else "start"
        self._form = form
        self._text = TextStream((*stop, *form.stop))
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        calls = form.calls if form.tools else None
        self._trigger = calls.trigger if calls and not calls.first else ""
        self._blank = bool(calls and (calls.first or calls.bare))
        """Nothing but white space has come; an object would be a call."""
        self._held = ""
        self._trims = False
        """Only white space has come since the mark after or before reasoning: it is left out."""

    @property
    def stopped(self) -> bool:
        """True after a stop string."""
        return self._text.stopped

    def begins_reasoning(self, spelling: str) -> bool:
        """Return True if a token, as the next of the phase ``start``, is the mark before
        reasoning."""
        return not self._held.strip() and spelling.strip() == self._form.think_begin

    def push(self, piece: bytes) -> Said:
        """Add a token's bytes; return what is now certain."""
        if self.phase == "text" and not (self._trims or self._held or self._trigger or self._blank):
            return Said(self._text.push(piece))
        self._held += self._decoder.decode(piece)
        return self._release()

    def finish(self) -> Said:
        """End the generation; return what was held back."""
        self._held += self._decoder.decode(b"", final=True)
        text, reasoning = self._release()
        if self.phase == "reasoning":
            reasoning += self._take(len(self._held))
        if self.phase != "calls":
            text += self._text.push(self._take(len(self._held)).encode())
        return Said(text + self._text.finish(), reasoning)

    @property
    def calls(self) -> str:
        """The text from the trigger of the calls on; empty if there are none."""
        return self._held if self.phase == "calls" else ""

    def _release(self) -> Said:
        reasoning = ""
        if self.phase == "start":
            self._begin()
        if self.phase == "reasoning":
            reasoning = self._reason()
        text = self._to_text() if self.phase == "text" else ""
        return Said(text, reasoning)

    def _begin(self) -> None:
        begin, said = self._form.think_begin, self._held.lstrip()
        if said.startswith(begin):
            self._held, self.phase, self._trims = said[len(begin) :], "reasoning", True
        elif not begin.startswith(said):
            self.phase = "text"

    def _reason(self) -> str:
        end = self._form.think_end
        found = self._held.find(end)
        if found < 0:
            return self._trimmed(self._take(len(self._held) - overlap(self._held, end)))
        reasoning = self._trimmed(self._take(found))
        self._take(len(end))
        self.phase, self._trims = "text", True
        return reasoning

    def _to_text(self) -> str:
        self._held = self._trimmed(self._held)
        held, trigger = self._held, self._trigger
        if self._blank and held.strip():
            self._blank = False
            if held.lstrip().startswith("{"):
                self.phase, trigger = "calls", ""
        found = held.find(trigger) if trigger else -1
        if found >= 0:
            self.phase = "calls"
            return self._text.push(self._take(found).encode())
        if self.phase == "calls" or self._blank:
            return ""
        return self._text.push(self._take(len(held) - overlap(held, trigger)).encode())

    def _trimmed(self, text: str) -> str:
        """Return the text without the white space after a mark."""
        if self._trims:
            text = text.lstrip()
            self._trims = not text
        return text

    def _take(self, count: int) -> str:
        taken, self._held = self._held[:count], self._held[count:]
        return taken

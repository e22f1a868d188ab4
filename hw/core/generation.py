"""A generation: one request's tokens, sampler, grammar and text, from prompt to last token.

The state is the tokens alone: a core that adopts a request replays them into grammar and text, and
draws the token that the previous core would have drawn.
"""

from __future__ import annotations

from typing import Literal

import msgspec
import numpy as np

from aios.hw.chat.call_parser import parsed_calls
from aios.hw.chat.reply_format import ReplyFormat
from aios.hw.chat.reply_stream import ReplyStream, Said
from aios.hw.engine.engine import Constraint, Engine, Grammar, Logits, Tokens
from aios.hw.engine.sampling import Sampler, SamplingParams

from .drafts import Draft, Drafter, Past
from .messages import StepRow
from .text_grammar import TextGrammar
from .truncation import window_tokens

_TEXT_ONLY, _NOTHING = ReplyFormat(), Said()


class Generation:
    """One request in progress: its tokens, and what turns logits into the next one."""

    def __init__(
        self,
        engine: Engine,
        tokens: Tokens,
        prompt: int,
        params: SamplingParams,
        streamed: bool,
        form: ReplyFormat = _TEXT_ONLY,
        past: Past | None = None,
        account: int = 0,
        grammar: Grammar | None = None,
    ) -> None:
        """``past``: the outputs of earlier generations, by account, for drafts. ``grammar``: that
        of the request, if it is made already."""
        self.urgent = True
        """The kernel wants the next token at once: the first one, or each one of a stream."""
        self.streamed, self.prompt = streamed, prompt
        self.fresh = 0
        """The number of tokens that the last ``draw`` appended."""
        self._engine = engine
        self._past, self._account = past or Past(), account
        self._drafter = Drafter()
        self._limit = min(
            prompt + params.max_tokens, max(window_tokens(engine, params), prompt + 1)
        )
        self._tokens = np.empty(max(self._limit, len(tokens)), np.int32)
        self._tokens[: len(tokens)] = tokens
        self._count = len(tokens)
        self._form, self._marks = form, form.marks
        self._key = f"{params.seed}:{prompt}"
        self._reply = ReplyStream(form, params.stop)
        self._grammar: Grammar | None = None
        if held := held_to(params, form):
            self._grammar = TextGrammar(grammar or engine.grammar(held), engine, self._reply)
        self._sampler = Sampler(params, self._grammar)
        for token in tokens[prompt:]:
            self._say(int(token))

    def pending(self, length: int) -> Tokens:
        """Return the tokens that a seat holding ``length`` of them still lacks."""
        return self._tokens[length : self._count]

    def draft(self, limit: int) -> Draft:
        """Propose up to ``limit`` tokens to follow the last one."""
        room = min(limit, self._limit - self._count - 1)
        return self._drafter.propose(
            self._tokens[: self._count], self._past.of(self._account), room
        )

    def draw(self, logits: Logits, draft: Tokens, request: int) -> tuple[list[StepRow], int]:
        """Draw the next token, and one more for each token of the draft that was right.

        After each drawn token come those that the grammar leaves no choice about. ``logits``, shape
        (1 + len(draft), vocab_size), are those of the last token and of the draft's. Return the
        appended tokens, and how many tokens of the seat are right. Raises InvalidInput and
        ArithmeticError, as ``Sampler.sample`` does.
        """
        self.urgent = self.streamed
        start, rows = self._count, list[StepRow]()
        while True:
            right = self._count - start
            row = self._next(logits[right], request)
            rows.append(msgspec.structs.replace(row, drafted=True) if right else row)
            if not row.finish:
                rows += self._forced(request)
            drawn = self._tokens[start : self._count]
            if rows[-1].finish or len(drawn) > len(draft):
                break
            if not np.array_equal(drawn, draft[: len(drawn)]):
                break
        self.fresh = self._count - start
        kept = min(len(drawn), len(draft))
        kept = int(np.logical_and.accumulate(drawn[:kept] == draft[:kept]).sum())
        self._drafter.verified(len(draft), kept)
        if rows[-1].finish:
            self._past.add(self._account, self._tokens[self.prompt : self._count])
        return rows, start + kept

    def _next(self, logits: Logits, request: int) -> StepRow:
        history = self._tokens[: self._count]
        token = self._sampler.sample(logits, self._count, history)
        return self._append(token, request)

    def _forced(self, request: int) -> list[StepRow]:
        """Append the tokens that the grammar leaves no choice about."""
        rows: list[StepRow] = []
        while self._grammar and (tokens := self._grammar.forced()):
            for token in tokens:
                row = self._append(token, request)
                rows.append(msgspec.structs.replace(row, drafted=True))
                if row.finish:
                    return rows
        return rows

    def _append(self, token: int, request: int) -> StepRow:
        if self._engine.ends(token):
            return self._last(request, -1, "stop")
        self._tokens[self._count] = token
        self._count += 1
        said = self._say(token)
        if self._reply.stopped:
            return self._last(request, token, "stop", said)
        if self._grammar and self._grammar.complete:
            return self._last(request, token, "stop", said)
        if self._count >= self._limit:
            return self._last(request, token, "length", said)
        return StepRow(request, token, said.text, "", said.reasoning)

    def _last(
        self, request: int, token: int, finish: Literal["stop", "length"], said: Said = _NOTHING
    ) -> StepRow:
        """Return the last row: what was held back, and the calls. What is no call is text."""
        text, reasoning = map(str.__add__, said, self._reply.finish())
        called = self._reply.calls
        calls = parsed_calls(called, self._form.calls, self._form.tools, self._key)
        if calls:
            ending = "tool_calls" if finish == "stop" else finish
            return StepRow(request, token, text, ending, reasoning, calls)
        return StepRow(request, token, text + called, finish, reasoning)

    def _say(self, token: int) -> Said:
        """Give a token to grammar and reply; return what has become certain."""
        if self._grammar:
            self._grammar.accept(token)
        piece = self._engine.piece(token)
        if (
            not piece
            and self._marks
            and any((text := self._engine.spelling(token)) in mark for mark in self._marks)
        ):
            piece = text.encode()
        return self._reply.push(piece)

    def close(self) -> None:
        """Free the grammar."""
        if self._grammar:
            self._grammar.close()


def held_to(params: SamplingParams, form: ReplyFormat) -> Constraint | None:
    """Return what a reply is held to: by the request, or by the format of its calls."""
    if params.constraint is None and form.grammar:
        return Constraint("lark", form.grammar)
    return params.constraint

"""A generation: one request's tokens, sampler, grammar and text, from prompt to last token.

The state is the tokens alone: a core that adopts a request replays them into grammar and text, and
draws the token that the previous core would have drawn.
"""

from __future__ import annotations

import numpy as np

from aios.hw.engine.engine import Engine, Tokens
from aios.hw.engine.sampling import Sampler, SamplingParams
from aios.hw.engine.text_stream import TextStream

from .messages import StepRow
from .truncation import window_tokens


class Generation:
    """One request in progress: its tokens, and what turns logits into the next one."""

    def __init__(
        self, engine: Engine, tokens: Tokens, prompt: int, params: SamplingParams, streamed: bool
    ) -> None:
        self.urgent = True
        """The kernel wants the next token at once: the first one, or each one of a stream."""
        self.streamed, self.prompt = streamed, prompt
        self._engine = engine
        self._limit = min(
            prompt + params.max_tokens, max(window_tokens(engine, params), prompt + 1)
        )
        self._tokens = np.empty(max(self._limit, len(tokens)), np.int32)
        self._tokens[: len(tokens)] = tokens
        self._count = len(tokens)
        self._grammar = None
        if params.grammar is not None or params.json_schema is not None:
            self._grammar = engine.grammar(gbnf=params.grammar, json_schema=params.json_schema)
        self._sampler = Sampler(params, self._grammar)
        self._text = TextStream(params.stop)
        for token in tokens[prompt:]:
            self._text.push(engine.piece(int(token)))
            if self._grammar:
                self._grammar.accept(int(token))

    def pending(self, length: int) -> Tokens:
        """Return the tokens that a seat holding ``length`` of them still lacks."""
        return self._tokens[length : self._count]

    def draw(self, logits: np.ndarray, request: int) -> StepRow:
        """Draw the next token from the logits of the last one.

        Raises InvalidInput and ArithmeticError, as ``Sampler.sample`` does.
        """
        self.urgent = self.streamed
        history = self._tokens[: self._count]
        token = self._sampler.sample(logits, self._count, history)
        if self._engine.ends(token):
            return StepRow(request, -1, self._text.finish(), "stop")
        self._tokens[self._count] = token
        self._count += 1
        if self._grammar:
            self._grammar.accept(token)
        text = self._text.push(self._engine.piece(token))
        if self._text.stopped:
            return StepRow(request, token, text, "stop")
        if self._count >= self._limit:
            return StepRow(request, token, text + self._text.finish(), "length")
        return StepRow(request, token, text, "")

    def close(self) -> None:
        """Free the grammar."""
        if self._grammar:
            self._grammar.close()

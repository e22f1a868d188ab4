"""The core process: one model, its engine, and the requests it is working on.

Started by the kernel with one end of a socket pair; it ends when the other end closes. It does
what slices say and decides nothing: which requests run, in which seats and for how long is the
kernel's. A request's whole state is its tokens (prompt and generated) and how many of them are in
its seat; the pending token is simply the one beyond. So a request goes on in any seat, after a
restore, a recompute or the death of a core, with the token that would have come.
"""

from __future__ import annotations

import argparse
import logging
import select
import signal
import socket
import time

import numpy as np

from aios.hw.engine.engine import Engine, InvalidInput, LoadError, Message, Row, Tokens
from aios.hw.engine.sampling import Sampler
from aios.hw.engine.text import TextStream
from aios.hw.machine.arena import SharedMemory
from aios.hw.machine.parent import die_with_parent
from aios.hw.tuning.calibrate import ThreadWatch, calibrate, thread_counts
from aios.hw.tuning.exact import open_engine

from .compose import Composer, Waiting
from .messages import (
    Adopt,
    Command,
    Drop,
    Event,
    Failed,
    Hello,
    Moved,
    Prepare,
    Prepared,
    Refused,
    SamplingParams,
    Slice,
    SliceEnd,
    SliceRow,
    Start,
    Step,
    StepRow,
    Yield,
    encode,
    read_command,
)
from .operate import Operator

log = logging.getLogger("aios.core")

SIGN_OF_LIFE_S = 1.0
"""During a slice the kernel hears something so often, or after each step when those take longer."""


class Job:
    """One request: its tokens, and what turns logits into the next one."""

    def __init__(
        self, engine: Engine, tokens: Tokens, prompt: int, params: SamplingParams, streamed: bool
    ) -> None:
        self.urgent = True
        """The next token is told at once: the first is, and each that is streamed."""
        self.streamed = streamed
        self._engine = engine
        self._limit = min(prompt + params.max_tokens, max(window(engine, params), prompt + 1))
        self._tokens = np.empty(max(self._limit, len(tokens)), np.int32)
        self._tokens[: len(tokens)] = tokens
        self._count = len(tokens)
        self.prompt = prompt
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
        """Tokens that a seat of this length still lacks."""
        return self._tokens[length : self._count]

    def draw(self, logits: np.ndarray, request: int) -> StepRow:
        """The next token from the logits of the last one."""
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


class Core:
    """The loop: read a command, do it; between the steps of a slice, look for more."""

    def __init__(
        self, sock: socket.socket, engine: Engine, memory: SharedMemory, threads: list[int]
    ) -> None:
        self._socket = sock
        self._engine = engine
        self._operator = Operator(engine, memory)
        self._watch = ThreadWatch(engine, threads)
        self._jobs: dict[int, Job] = {}
        self._drawn: list[StepRow] = []
        self._told_s = 0.0
        self._yield = False
        self._alive = True
        self._composer = Composer(engine.info)
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)

    def run(self) -> None:
        """Serve until the kernel is gone."""
        try:
            while self._alive:
                self._next_command()
        finally:
            self._operator.close()

    def _send(self, event: Event) -> None:
        self._socket.sendall(encode(event))

    def _next_command(self) -> None:
        command = read_command(self._socket)
        if command is None:
            self._alive = False
        else:
            self._obey(command)

    def _obey(self, command: Command) -> None:
        match command:
            case Prepare():
                self._prepare(command)
            case Adopt():
                tokens = np.frombuffer(command.tokens, np.int32)
                self._jobs[command.request] = Job(
                    self._engine,
                    tokens,
                    command.prompt_tokens,
                    command.params,
                    command.streamed,
                )
            case Drop():
                self._forget(command.request)
            case Yield():
                self._yield = True
            case Slice():
                self._slice(command)
            case Start():
                raise RuntimeError("the core was started twice")

    def _prepare(self, command: Prepare) -> None:
        engine, params = self._engine, command.params
        dropped = 0
        try:
            if command.messages is None:
                tokens = engine.tokenize_text(command.prompt or "")
            elif command.truncate:
                most = window(engine, params)
                room = most - reply_room(most, params.max_tokens)
                tokens, dropped = fitting(engine, command.messages, room)
            else:
                tokens = engine.tokenize_chat(command.messages)
            if not len(tokens):
                raise InvalidInput("the prompt has no tokens; give it some text")
            if len(tokens) < engine.info.context_tokens:
                self._jobs[command.request] = Job(
                    engine, tokens, len(tokens), params, command.streamed
                )
        except InvalidInput as error:
            self._send(Refused(command.request, str(error)))
        except Exception as error:  # of a request that nobody foresaw; the others go on
            log.exception("a request could not be prepared")
            reason = f"the core cannot prepare this request: {type(error).__name__}: {error}"
            self._send(Refused(command.request, reason))
        else:
            self._send(Prepared(command.request, tokens.astype(np.int32).tobytes(), dropped))

    def _forget(self, request: int) -> None:
        job = self._jobs.pop(request, None)
        if job:
            job.close()

    def _slice(self, command: Slice) -> None:
        self._yield = False
        self._told_s = time.monotonic()
        ops = []
        for op in command.ops:
            ops.append(self._operator.operate(op))
            if self._is_quiet():
                self._show_life(command.slice)
        if not all(result.ok for result in ops):
            self._send(Moved(command.slice, [result.ok for result in ops]))
        start = [self._engine.length(row.seat) for row in command.rows]
        steps = 0
        while steps < command.steps and self._alive:
            live = [row for row in command.rows if row.request in self._jobs]
            if not live or (steps and self._yield):
                break
            steps += 1
            if self._step(command, live) or self._is_quiet():
                self._show_life(command.slice)
            while self._alive and self._poll.poll(0):
                self._next_command()
        self._tell(command.slice)
        lengths = [self._engine.length(row.seat) for row in command.rows]
        grown = [after - before for after, before in zip(lengths, start, strict=True)]
        self._send(SliceEnd(command.slice, steps, ops, lengths, grown))

    def _tell(self, slice_number: int) -> None:
        if self._drawn:
            self._show_life(slice_number)

    def _show_life(self, slice_number: int) -> None:
        self._send(Step(slice_number, self._drawn))
        self._drawn, self._told_s = [], time.monotonic()

    def _is_quiet(self) -> bool:
        return time.monotonic() - self._told_s >= SIGN_OF_LIFE_S

    def _step(self, command: Slice, live: list[SliceRow]) -> bool:
        """One batch; whether something was drawn that cannot wait."""
        rows = self._composer.next_batch(command, [self._waiting(row) for row in live])
        start_s = time.perf_counter()
        logits = self._engine.decode([row for _, row in rows])
        if all(len(row.tokens) == 1 for _, row in rows):
            self._watch.after(len(rows), time.perf_counter() - start_s)
        urgent = False
        for request, row in rows:
            if row.wants_logits:
                job = self._jobs[request]
                urgent |= job.urgent
                try:
                    result = job.draw(logits[row.seat], request)
                except InvalidInput as error:
                    self._give_up(command.slice, request, str(error))
                    continue
                if result.finish:
                    urgent = True
                    self._forget(request)
                self._drawn.append(result)
        return urgent

    def _give_up(self, slice_number: int, request: int, reason: str) -> None:
        """A grammar that was taken proves of no use."""
        self._tell(slice_number)
        self._forget(request)
        self._send(Refused(request, reason))

    def _waiting(self, row: SliceRow) -> Waiting:
        job, length = self._jobs[row.request], self._engine.length(row.seat)
        pending = Row(row.seat, length, job.pending(length), True)
        return Waiting(row.request, pending, job.streamed)


def window(engine: Engine, params: SamplingParams) -> int:
    """Tokens that a request may have: what a seat holds, or what its program may."""
    return min(params.max_context or engine.info.context_tokens, engine.info.context_tokens)


def reply_room(most: int, max_tokens: int) -> int:
    """Tokens to keep free for the reply when a conversation is cut to fit a window."""
    return max(1, min(max_tokens, most // 4))


def fitting(engine: Engine, messages: list[Message], room: int) -> tuple[Tokens, int]:
    """The conversation without its oldest turns, as few as make it fit, and how many those are.

    System messages at its beginning and its last message always stay.
    """
    head = next((i for i, m in enumerate(messages) if m.role != "system"), len(messages))
    low, high = 0, max(0, len(messages) - head - 1)
    tokens = engine.tokenize_chat(messages)
    if len(tokens) <= room:
        return tokens, 0
    while low < high:  # the fewest that make it fit, or all that may go
        middle = (low + high) // 2
        kept = engine.tokenize_chat([*messages[:head], *messages[head + middle :]])
        low, high = (low, middle) if len(kept) <= room else (middle + 1, high)
    return engine.tokenize_chat([*messages[:head], *messages[head + low :]]), low


def main() -> None:
    """``python -m aios.hw.core --link FD --arena FD --parent PID``; the first message says what."""
    parser = argparse.ArgumentParser(prog="aios-core")
    parser.add_argument("--link", type=int, required=True)
    parser.add_argument("--arena", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True)
    options = parser.parse_args()
    die_with_parent(options.parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sock = socket.socket(fileno=options.link)
    start = read_command(sock)
    if not isinstance(start, Start):
        raise SystemExit("aios-core: the kernel did not say what to load")
    try:
        engine = open_engine(start.settings)
    except LoadError as error:
        sock.sendall(encode(Failed(str(error))))
        raise SystemExit(1) from None
    tuned = engine.info.tuned
    threads = thread_counts(start.settings.threads, tuned.threads if tuned else None)
    if engine.info.device != "none":
        calibrate(engine, threads)
    memory = SharedMemory(options.arena, start.arena_bytes)
    try:
        sock.sendall(encode(Hello(engine.info)))
        Core(sock, engine, memory, threads).run()
    except ConnectionError:
        pass  # the kernel is gone; so are we
    finally:
        engine.close()


if __name__ == "__main__":
    main()

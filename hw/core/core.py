"""The core process: one model, its engine, and the requests in progress.

The kernel starts it with one end of a socket pair; it ends when the other end closes. It carries
out slices and decides nothing: the kernel chooses which requests run, in which seats, and for how
long. A request's whole state is its tokens (prompt and generated) and how many of them its seat
holds. So a request continues with the same next token in any seat, after a restore, after a
recompute, and in another core.
"""

from __future__ import annotations

import argparse
import logging
import select
import signal
import socket
import time
from pathlib import Path

import numpy as np

from aios.hw.chat.chat import Chat, NoToolsError, Prompt
from aios.hw.chat.reply_format import ReplyFormat
from aios.hw.engine.engine import (
    Engine,
    EngineSettings,
    Grammar,
    InvalidInput,
    LoadError,
    Logits,
    Row,
)
from aios.hw.machine.arena import SharedMemory
from aios.hw.machine.framing import encode
from aios.hw.machine.parent_death import die_with_parent
from aios.hw.machine.threads import thread_counts
from aios.hw.models import model_files
from aios.hw.models.file_watch import FileWatch
from aios.hw.tuning.exact_settings import open_engine
from aios.hw.tuning.thread_watch import ThreadWatch

from . import messages
from .batch import BatchComposer, Waiting, waiting
from .drafts import Past
from .generation import Generation, held_to
from .grammar_maker import GrammarMaker
from .seat_operations import SeatOperations
from .truncation import truncated

log = logging.getLogger("aios.core")

SIGN_OF_LIFE_S = 1.0
"""Longest silence towards the kernel during a slice, unless one step takes longer."""


CHANGED = "{} was changed while it was {}, so its weights are mixed; use it again when it is whole"


class Core:
    """Reads commands and carries them out; between the steps of a slice it reads more."""

    def __init__(
        self,
        sock: socket.socket,
        engine: Engine,
        memory: SharedMemory,
        watch: ThreadWatch,
        files: FileWatch,
        maker: GrammarMaker | None = None,
    ) -> None:
        """Without a ``maker``, grammars are made here, one step of the core each."""
        self._socket = sock
        self._maker = maker
        self._unmade: dict[int, tuple[messages.Prepare, Prompt, int]] = {}
        """Requests whose grammar is being made; their prompts, and the turns left out."""
        self._engine = engine
        self._seat_operations = SeatOperations(engine, memory)
        self._watch, self._files = watch, files
        self._chat = Chat(engine)
        self._generations: dict[int, Generation] = {}
        self._drawn: list[messages.StepRow] = []
        self._told_s = 0.0
        self._yield = False
        self._alive = True
        self._composer = BatchComposer(engine.info)
        self._past, self._draft_tokens = Past(), engine.info.draft_tokens
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        if maker:
            self._poll.register(maker, select.POLLIN)

    def run(self) -> None:
        """Serve until the kernel closes the link."""
        self._chat.start()
        try:
            while self._alive:
                self._next_command()
        finally:
            self._seat_operations.close()
            self._chat.close()

    def _send(self, event: messages.Event) -> None:
        self._socket.sendall(encode(event))

    def _next_command(self) -> None:
        """Wait for a command, or for grammars, and carry it out."""
        ready = [descriptor for descriptor, _ in self._poll.poll()]
        if self._maker and self._maker.fileno() in ready:
            for request, made in self._maker.take():
                if request in self._unmade:
                    self._begin(*self._unmade.pop(request), made)
        if self._socket.fileno() not in ready:
            return
        command = messages.read_command(self._socket)
        if command is None or not self._files_allow(command):
            self._alive = False
        else:
            self._obey(command)

    def _files_allow(self, command: messages.Command) -> bool:
        """Return False, and say why, if the model's files are no longer those that were loaded: no
        request may get tokens of mixed weights, nor a new one tokens of a model that is gone."""
        if changed := self._files.changed():
            self._send(messages.Failed(CHANGED.format(changed, "served")))
            return False
        begins = isinstance(command, messages.Prepare) and not (self._generations or self._unmade)
        if begins and (replaced := self._files.replaced()):
            log.warning("%s was replaced: the new file is loaded", replaced)
            return False
        return True

    def _obey(self, command: messages.Command) -> None:
        match command:
            case messages.Prepare():
                self._prepare(command)
            case messages.Adopt():
                self._generations[command.request] = Generation(
                    self._engine, np.frombuffer(command.tokens, np.int32), command.prompt_tokens,
                    command.params, command.streamed, command.format, self._past, command.account,
                )  # fmt: skip
            case messages.Drop():
                self._forget(command.request)
            case messages.Yield():
                self._yield = True
            case messages.Slice():
                self._slice(command)
            case messages.Start():
                raise RuntimeError("the core was started twice")

    def _prepare(self, command: messages.Prepare) -> None:
        try:
            prompt, dropped = self._prompt(command)
            if not len(prompt.tokens):
                raise InvalidInput("the prompt has no tokens; give it some text")
        except Exception as error:
            self._refuse(command.request, error)
            return
        constraint = held_to(command.params, prompt.format)
        if self._maker and constraint and len(prompt.tokens) < self._engine.info.context_tokens:
            self._unmade[command.request] = command, prompt, dropped
            self._maker.make(command.request, constraint)
        else:
            self._begin(command, prompt, dropped, None)

    def _begin(
        self,
        command: messages.Prepare,
        prompt: Prompt,
        dropped: int,
        grammar: Grammar | Exception | None,
    ) -> None:
        """Make the generation of a request whose prompt, and grammar if any, are made."""
        tokens = prompt.tokens
        try:
            if isinstance(grammar, Exception):
                raise grammar
            if len(tokens) < self._engine.info.context_tokens:
                self._generations[command.request] = Generation(
                    self._engine, tokens, len(tokens), command.params, command.streamed,
                    prompt.format, self._past, command.account, grammar,
                )  # fmt: skip
        except Exception as error:
            self._refuse(command.request, error)
        else:
            self._send(messages.Prepared(
                command.request, tokens.astype(np.int32).tobytes(), dropped, prompt.format,
                prompt.notes,
            ))  # fmt: skip

    def _refuse(self, request: int, error: Exception) -> None:
        """Tell the kernel why a request cannot begin; it must not end the others."""
        reason = str(error)
        if not isinstance(error, InvalidInput):
            log.error("a request could not be prepared", exc_info=error)
            reason = f"the core cannot prepare this request: {type(error).__name__}: {error}"
        self._send(messages.Refused(request, reason, isinstance(error, NoToolsError)))

    def _prompt(self, command: messages.Prepare) -> tuple[Prompt, int]:
        """Return the prompt and the number of turns left out."""
        if command.talk is None:
            return Prompt(self._engine.tokenize_text(command.prompt or ""), ReplyFormat(), []), 0
        if command.truncate:
            return truncated(self._chat, self._engine, command.talk, command.params)
        return self._chat.prompt(command.talk), 0

    def _forget(self, request: int) -> None:
        if self._unmade.pop(request, None):  # the kernel waits for an answer to each prompt
            self._send(messages.Refused(request, "the request was cancelled"))
        generation = self._generations.pop(request, None)
        if generation:
            generation.close()

    def _slice(self, command: messages.Slice) -> None:
        self._yield = False
        self._told_s = time.monotonic()
        ops = self._operate(command)
        before = [self._engine.length(row.seat) for row in command.rows]
        steps = self._steps(command)
        self._tell(command.slice)
        lengths = [self._engine.length(row.seat) for row in command.rows]
        grown = [after - start for after, start in zip(lengths, before, strict=True)]
        self._send(messages.SliceEnd(command.slice, steps, ops, lengths, grown))

    def _operate(self, command: messages.Slice) -> list[messages.OpResult]:
        """Carry out the slice's operations; tell the kernel at once if one fails."""
        results = []
        for op in command.ops:
            results.append(self._seat_operations.carry_out(op))
            if self._is_quiet():
                self._show_life(command.slice)
        if not all(result.ok for result in results):
            self._send(messages.Moved(command.slice, [result.ok for result in results]))
        return results

    def _steps(self, command: messages.Slice) -> int:
        """Run the slice's steps, reading commands between them; return their number."""
        steps = 0
        while steps < command.steps and self._alive:
            live = [row for row in command.rows if row.request in self._generations]
            if not live or (steps and self._yield):
                break
            steps += 1
            if self._step(command, live) or self._is_quiet():
                self._show_life(command.slice)
            while self._alive and self._poll.poll(0):
                self._next_command()
        return steps

    def _step(self, command: messages.Slice, live: list[messages.SliceRow]) -> bool:
        """Run one batch; return True if a drawn token must be sent at once."""
        rows = self._composer.next_batch(command, [self._waiting(row) for row in live])
        logits = self._engine.decode([row for _, row in rows])
        self._watch.after_step()
        drawn = [self._draw(command.slice, request, row, logits[row.seat])
                 for request, row in rows if row.wants_logits]  # fmt: skip
        return any(drawn)

    def _draw(self, slice_number: int, request: int, row: Row, logits: Logits) -> bool:
        """Draw a request's next tokens; return True if they must be sent at once."""
        generation = self._generations[request]
        urgent = generation.urgent
        draft = row.tokens[len(row.tokens) - row.wants_logits + 1 :]
        try:
            drawn, right = generation.draw(np.atleast_2d(logits), draft, request)
        except InvalidInput as error:  # a grammar shows only now that it cannot be used
            self._tell(slice_number)
            self._forget(request)
            self._send(messages.Refused(request, str(error)))
            return urgent
        if self._engine.length(row.seat) > right and self._engine.trim(row.seat, right) < right:
            self._draft_tokens = 0  # dropping a draft costs this model the whole seat
        finished = bool(drawn[-1].finish)
        if finished:
            self._forget(request)
        self._drawn += drawn
        return urgent or finished

    def _waiting(self, row: messages.SliceRow) -> Waiting:
        generation, length = self._generations[row.request], self._engine.length(row.seat)
        return waiting(row.request, generation, row.seat, length, self._draft_tokens)

    def _tell(self, slice_number: int) -> None:
        if self._drawn:
            self._show_life(slice_number)

    def _show_life(self, slice_number: int) -> None:
        """Send the drawn tokens; without any, the message is a sign of life."""
        self._send(messages.Step(slice_number, self._drawn))
        self._drawn, self._told_s = [], time.monotonic()

    def _is_quiet(self) -> bool:
        return time.monotonic() - self._told_s >= SIGN_OF_LIFE_S


def _files(settings: EngineSettings) -> list[Path]:
    """Return the files that a model is made of; none for the fake, or if they are not there."""
    model = [] if settings.path.startswith("fake") else model_files.parts(Path(settings.path))
    files = [*model, *(Path(each.path) for each in settings.lora)]
    return files if all(each.is_file() for each in files) else []


def main() -> None:
    """``python -m aios.hw.core.core --link FD --arena FD --parent PID``; waits for Start."""
    parser = argparse.ArgumentParser(prog="aios-core")
    parser.add_argument("--link", type=int, required=True)
    parser.add_argument("--arena", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True)
    options = parser.parse_args()
    die_with_parent(options.parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sock = socket.socket(fileno=options.link)
    start = messages.read_command(sock)
    if not isinstance(start, messages.Start):
        raise SystemExit("aios-core: the kernel's first message must be Start")
    files = FileWatch(_files(start.settings))
    try:
        engine = open_engine(start.settings)
        if changed := files.changed() or files.replaced():
            raise LoadError(CHANGED.format(changed, "loaded"))
    except LoadError as error:
        sock.sendall(encode(messages.Failed(str(error))))
        raise SystemExit(1) from None
    tuned = engine.info.tuned
    threads = thread_counts(start.settings.threads, tuned.threads if tuned else None)
    if not engine.info.estimated:  # more are slower even on an idle machine
        threads = [count for count in threads if count <= engine.info.threads]
    memory, maker = SharedMemory(options.arena, start.arena_bytes), GrammarMaker(engine)
    try:
        sock.sendall(encode(messages.Hello(engine.info)))
        Core(sock, engine, memory, ThreadWatch(engine, threads), files, maker).run()
    except ConnectionError:
        pass  # the kernel is gone
    finally:
        maker.close()
        engine.close()


if __name__ == "__main__":
    main()

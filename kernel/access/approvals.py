"""Approvals: questions to the operator about irreversible operations, and the answers.

A question is bound to one program (its name, its ancestors' names and its file), to those on whose
behalf it acts, to one operation and to the hash of its arguments. An answer is used once and
expires. The call that uses an answer holds it until the call ends, and gives it back if it has to
ask another question. ``now`` is passed in. Questions and answers outlive the kernel (questions.py).
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import msgpack

from aios.kernel.loop.task import Promise, start
from aios.syscalls.errors import ConfirmationRequired, NotFound, PermissionDenied, ResourceExhausted

from .questions import Kept, QuestionFiles, complain
from .rules import Operation

Answer = Literal["pending", "approved", "denied"]

MAX_QUESTIONS = 1000
"""Limit on open questions."""
MAX_PER_PROGRAM = 32
"""Limit on open questions of one program."""
PREVIEW_CHARACTERS = 400


class Key(NamedTuple):
    """The binding of an answer. ``who``: lineage and program file of the caller; ``behalf``: the
    lineages of those for whom it acts."""

    who: str
    behalf: str
    kind: str
    action: str
    name: str
    digest: str


@dataclass(eq=False)
class Question:
    """One question. ``owner``: host pid of the command that shows it at a terminal, or 0; ``pid``:
    the last caller since the kernel started, or 0."""

    id: str
    key: Key
    pid: int
    agent: str
    effect: str
    rule: str
    preview: str
    asked_unix: float
    expires_s: float
    owner: int
    state: Answer = "pending"
    shown: bool = False
    saving: int = 0
    """Count of answers being written to disk; none counts until this is 0."""
    on_answer: list[Callable[[], None]] = field(default_factory=list)


class Approvals:
    """All questions that have not expired. Without ``files`` they are lost with the kernel."""

    def __init__(self, expire_s: float, files: QuestionFiles | None = None) -> None:
        self.expire_s, self._files = expire_s, files
        self._by_key: dict[Key, Question] = {}
        self._by_id: dict[str, Question] = {}
        self._waiting: dict[int, Promise[Question]] = {}

    def load(self, now: float, unix: float) -> None:
        """Load the questions of an earlier kernel. Blocks."""
        for kept in self._files.load(unix)[:MAX_QUESTIONS] if self._files else ():
            key = Key(kept.who, kept.behalf, kept.kind, kept.action, kept.name, kept.digest)
            expires_s = now + min(kept.expires_unix - unix, self.expire_s)
            self._by_key[key] = self._by_id[kept.id] = Question(
                kept.id, key, 0, kept.agent, kept.effect, kept.rule, kept.preview,
                kept.asked_unix, expires_s, 0, kept.state,
            )  # fmt: skip

    # ------------------------------------------------------------------ the agent's side

    def give_back(self, used: list[Question]) -> None:
        """Return the approvals of a call that starts over or does nothing; they are valid again."""
        for question in used:
            if question.key in self._by_key:  # another call has asked it meanwhile
                self._remove(question)
                continue
            self._by_key[question.key] = self._by_id[question.id] = question
            if self._files:
                self._files.put_back(question.id)
        used.clear()

    def forget(self, used: list[Question]) -> None:
        """Discard the approvals of a call that has ended."""
        for question in used:
            self._remove(question)
        used.clear()

    def use(self, key: Key, now: float, used: list[Question] | None) -> Question | None:
        """Use up the approval of an operation and return it; None if there is none.

        ``used``: the approvals that the call holds already; None discards this one at once.
        Raises PermissionDenied when the operator has refused, ResourceExhausted when the use
        cannot be saved.
        """
        mine = next((question for question in used or () if question.key == key), None)
        if mine:
            return mine
        question = self._by_key.get(key)
        if question is None or self._expired(question, now) or question.state == "pending":
            return None
        if question.state == "denied":
            raise PermissionDenied(
                f"the operator has denied {key.kind}.{key.action} of {shown(key.name)}",
                f"the operator can still approve: aios approvals approve {question.id}",
            )
        if self._files:
            self._files.take(question.id)
        del self._by_id[question.id], self._by_key[key]
        if used is None:
            self._remove(question)
        else:
            used.append(question)
        return question

    def ask(
        self, key: Key, operation: Operation, *, pid: int, agent: str, rule: str, preview: str,
        owner: int, now: float, unix: float,
    ) -> ConfirmationRequired:  # fmt: skip
        """Queue a question if it is new; return the error to raise. Raises ResourceExhausted."""
        question = self._by_key.get(key)
        if question is None:
            self._make_room(key, now)
            question = Question(
                secrets.token_hex(4), key, pid, agent, operation.effect, rule, preview, unix,
                now + self.expire_s, owner,
            )  # fmt: skip
            self._by_key[key] = self._by_id[question.id] = question
            start(self._save(question, "pending", now, unix)).then(complain)
        if question.owner != owner:  # the command that showed it ended without an answer
            question.owner, question.shown = owner, False
        question.pid = pid
        self._show(question)
        why = "cannot be undone" if operation.effect == "irreversible" else "requires approval"
        return ConfirmationRequired(
            f"{key.kind}.{key.action} of {shown(key.name)} {why}: the operator has to approve "
            f"it (question {question.id})",
            f"retry after the operator has run: aios approvals approve {question.id}",
        )

    def when_answered(self, number: str, then: Callable[[], None]) -> Callable[[], None]:
        """Call ``then`` after the operator's answer; return a function that cancels this."""
        question = self._by_id[number]
        question.on_answer.append(then)

        def off() -> None:
            if then in question.on_answer:
                question.on_answer.remove(then)

        return off

    # ------------------------------------------------------------------ the operator's side

    def open(self, now: float) -> list[Question]:
        """Return the questions that have not expired, oldest first."""
        self._drop_expired(now)
        return list(self._by_id.values())

    def find(self, number: str, now: float) -> Question:
        """Return a question that can be answered. Raises NotFound."""
        self._drop_expired(now)
        question = self._by_id.get(number)
        if question is None:
            raise NotFound(
                f"no question {number!r}: it has expired, its approval was used, or it was never "
                "asked", "list them with: aios approvals ls",
            )  # fmt: skip
        return question

    async def answer(self, number: str, approve: bool, now: float, unix: float) -> Question:
        """Answer a question, or change the answer. It counts once it is saved; ``tell`` then wakes
        the waiting calls. Raises as ``find`` does, and OSError when it cannot be saved."""
        question = self.find(number, now)
        answer: Answer = "approved" if approve else "denied"
        question.state, question.expires_s = "pending", now + self.expire_s
        question.saving += 1
        try:
            await self._save(question, answer, now, unix)
        finally:
            question.saving -= 1
        if not question.saving:
            question.state = answer
        return question

    def tell(self, question: Question) -> None:
        """Wake the calls that wait for this answer."""
        waiting, question.on_answer = question.on_answer, []
        for then in waiting:
            then()

    def next(self, owner: int) -> Promise[Question]:
        """Return a promise of the next question for this owner to show."""
        promise = self._waiting[owner] = Promise[Question]()
        for question in list(self._by_id.values()):
            if question.owner == owner and not question.shown and question.state == "pending":
                self._show(question)
                break
        return promise

    def leave(self, owner: int) -> None:
        """Stop waiting for this owner."""
        self._waiting.pop(owner, None)

    # ------------------------------------------------------------------ within

    async def _save(self, question: Question, state: Answer, now: float, unix: float) -> None:
        if self._files:
            await self._files.save(Kept(
                question.id, *question.key, question.agent, question.effect, question.rule,
                question.preview, question.asked_unix, unix + question.expires_s - now, state,
            ))  # fmt: skip

    def _show(self, question: Question) -> None:
        waiting = self._waiting.pop(question.owner, None) if not question.shown else None
        if waiting:
            question.shown = True
            waiting.resolve(question)

    def _expired(self, question: Question, now: float) -> bool:
        """Tell whether a question has expired, and then delete it."""
        expired = now >= question.expires_s
        if expired and question.id in self._by_id:
            del self._by_id[question.id]
            del self._by_key[question.key]
            self._remove(question)
        return expired

    def _remove(self, question: Question) -> None:
        if self._files:
            self._files.remove(question.id)

    def _drop_expired(self, now: float) -> None:
        for question in list(self._by_id.values()):
            self._expired(question, now)

    def _make_room(self, key: Key, now: float) -> None:
        self._drop_expired(now)
        own = sum(question.key[:2] == key[:2] for question in self._by_id.values())
        if own >= MAX_PER_PROGRAM or len(self._by_id) >= MAX_QUESTIONS:
            raise ResourceExhausted(
                f"this program has {own} open questions, all programs {len(self._by_id)}; the "
                f"limits are {MAX_PER_PROGRAM} and {MAX_QUESTIONS}",
                "wait for answers: aios approvals ls",
            )

    def check(self) -> list[str]:
        """Return inconsistencies; empty if there are none."""
        same = len(self._by_id) == len(self._by_key)
        return [] if same else [f"{len(self._by_id)} ids for {len(self._by_key)} questions"]


def digest(arguments: Any) -> str:
    """Return the hash of an operation's arguments; equal values have equal hashes."""
    return hashlib.sha256(msgpack.packb(_ordered(arguments))).hexdigest()


def preview(arguments: Any) -> str:
    """Return the text that the operator is shown; saved with the question, never in a log."""
    if arguments is None:
        return ""
    try:
        text = json.dumps(arguments, ensure_ascii=True, default=repr)
    except TypeError:  # keys that JSON does not have
        text = ascii(arguments)
    return text if len(text) <= PREVIEW_CHARACTERS else text[: PREVIEW_CHARACTERS - 1] + "…"


def _ordered(value: Any) -> Any:
    if isinstance(value, dict):
        return ["{", *([key, _ordered(value[key])] for key in sorted(value, key=repr))]
    if isinstance(value, list | tuple):
        return ["[", *(_ordered(item) for item in value)]
    return value


def shown(name: str) -> str:
    """Quote a name for a message, in at most 120 characters."""
    text = repr(name)
    return text if len(text) <= 120 else f"{text[:117]}…'"

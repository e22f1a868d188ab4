"""Questions to the operator and their answers across restarts and kills of the kernel."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aios.kernel.access.approvals import Approvals, Key, Question
from aios.kernel.access.questions import QuestionFiles
from aios.kernel.access.rules import Operation
from aios.kernel.loop.loop import Loop
from aios.kernel.loop.task import Outcome, start
from aios.kernel.loop.worker import Worker
from aios.syscalls.errors import NotFound, PermissionDenied, ResourceExhausted
from tests.waiting import turn_until, wait_until

KEY = Key("a /a.py", "", "tool", "call", "rm", "0" * 64)


class Kernel:
    """The questions of one kernel; a second one on the same folder is the next kernel."""

    def __init__(self, folder: Path) -> None:
        self.loop = Loop()
        self.worker = Worker(self.loop, "audit")
        self.questions = Approvals(60, QuestionFiles(folder / "questions", self.worker))
        self.questions.load(time.monotonic(), time.time())

    def ask(self, key: Key = KEY, now: float | None = None) -> str:
        operation = Operation(key.kind, key.action, key.name, "irreversible")
        return self.questions.ask(
            key, operation, pid=7, agent="a", rule="r", preview='{"x":1}', owner=0,
            now=time.monotonic(), unix=time.time(),
        ).approval  # fmt: skip

    def answer(self, number: str, approve: bool = True) -> Question | Exception:
        told = start(self.questions.answer(number, approve, time.monotonic(), time.time()))
        assert self.questions.use(KEY, time.monotonic(), None) is None, (
            "not before it is on the disk"
        )
        turn_until(self.loop, lambda: told.settled, "the answer on the disk")
        outcomes: list[Outcome[Question]] = []
        told.then(outcomes.append)
        return outcomes[0].error or outcomes[0].result()

    def use(self) -> Any:
        """Use the approval as a call does that then completes."""
        used: list[Question] = []
        found = self.questions.use(KEY, time.monotonic(), used)
        self.questions.forget(used)
        return found

    def end(self) -> None:
        self.worker.close()
        self.loop.close()


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    assert not [path for path in tmp_path.rglob("*") if path.suffix == ".part"]


def _next(kernel: Kernel, folder: Path) -> Kernel:
    kernel.end()
    return Kernel(folder)


def test_the_next_kernel_knows_questions_and_answers(folder: Path) -> None:
    kernel = Kernel(folder)
    number = kernel.ask()
    kernel = _next(kernel, folder)
    (question,) = kernel.questions.open(time.monotonic())
    assert (question.id, question.key, question.state) == (number, KEY, "pending")
    assert question.preview == '{"x":1}' and question.pid == 0 and kernel.use() is None
    assert kernel.ask() == number and question.pid == 7, "asked once"
    assert isinstance(kernel.answer(number), Question)
    kernel = _next(kernel, folder)
    assert kernel.use() and kernel.use() is None, "once"
    kernel = _next(kernel, folder)
    assert kernel.use() is None and kernel.questions.open(time.monotonic()) == []
    number = kernel.ask()
    kernel.answer(number, False)
    kernel = _next(kernel, folder)
    with pytest.raises(PermissionDenied, match="operator has denied"):
        kernel.use()
    modes = {path.stat().st_mode & 0o777 for path in folder.rglob("*.json")}
    assert modes == {0o600}
    kernel.end()


def test_a_kernel_that_is_killed_while_an_answer_is_used_does_not_find_it_again(
    folder: Path,
) -> None:
    kernel = Kernel(folder)
    kernel.answer(kernel.ask())
    assert kernel.questions.use(KEY, time.monotonic(), [])
    after = Kernel(folder)  # the first one was killed here
    assert after.use() is None and after.questions.open(time.monotonic()) == []
    kernel.end()
    after.end()


def test_an_approval_that_was_given_back_survives_a_restart(folder: Path) -> None:
    kernel = Kernel(folder)
    kernel.answer(kernel.ask())
    used: list[Question] = []
    assert kernel.questions.use(KEY, time.monotonic(), used)
    kernel.questions.give_back(used)
    kernel = _next(kernel, folder)
    assert kernel.use()
    kernel.end()


def test_the_last_of_quick_answers_counts(folder: Path) -> None:
    """No approval is used while an answer is being written, so none returns after its use."""
    kernel = Kernel(folder)
    number = kernel.ask()
    told = [
        start(kernel.questions.answer(number, approve, time.monotonic(), time.time()))
        for approve in (False, True, False, True)
    ]

    def turn() -> None:
        assert kernel.use() is None
        kernel.loop.turn(100)

    wait_until(lambda: all(promise.settled for promise in told), "all answers on the disk", turn)
    assert kernel.use()
    kernel = _next(kernel, folder)
    assert kernel.use() is None
    kernel.end()


def test_damaged_expired_or_renamed_files_are_not_approvals(folder: Path) -> None:
    kernel = Kernel(folder)
    kernel.questions.expire_s = 0.0
    kernel.ask()
    place = folder / "questions"
    kernel = _next(kernel, folder)
    assert kernel.questions.open(time.monotonic()) == [] and list(place.iterdir()) == []
    number = kernel.ask()
    kernel.answer(number)
    kernel.end()
    good = (place / f"{number}.json").read_bytes()
    (place / f"{number}.json").unlink()
    for name, data in (
        ("deadbeef", good), (number, b""), (number, good[:-9]), (number, b"\xff"),
        (number, good.replace(b'"approved"', b'"used"')),
        (number, good.replace(b'"version":1', b'"version":2')),
    ):  # fmt: skip
        (place / f"{name}.json").write_bytes(data)
        kernel = Kernel(folder)
        with pytest.raises(NotFound):
            kernel.questions.find(number, time.monotonic())
        kernel.end()


def test_an_answer_that_cannot_be_saved_does_not_count(folder: Path) -> None:
    kernel = Kernel(folder)
    number = kernel.ask()
    kernel = _next(kernel, folder)
    place = folder / "questions"
    place.rename(folder / "away")
    place.write_text("no folder")
    assert isinstance(kernel.answer(number), OSError) and kernel.use() is None
    place.unlink()
    (folder / "away").rename(place)
    kernel.answer(number)
    place.rename(folder / "away")
    place.write_text("no folder")
    with pytest.raises(ResourceExhausted, match="nothing was done"):
        kernel.use()
    kernel.end()

"""Questions to the operator on disk, one small file each, so that a restart loses none.

    ID.json     an open question, with its answer if it has one
    ID.used     a question whose answer is in use

An answer counts once its file is synced. It is used by renaming the file before anything is done,
without waiting for the disk: a kernel that is killed at any moment does not find a used answer
again. A power cut may bring one back if the rename was not on disk yet. The files are private to
the user: they hold the preview of the arguments that the operator is shown.
"""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from aios.hw.machine.durable import replace_file
from aios.kernel.loop.task import Outcome, Promise
from aios.kernel.loop.worker import Worker
from aios.syscalls.errors import ResourceExhausted

log = logging.getLogger("aios.access")


class Kept(msgspec.Struct, frozen=True):
    """A question as saved; see approvals.py."""

    id: str
    who: str
    behalf: str
    kind: str
    action: str
    name: str
    digest: str
    agent: str
    effect: str
    rule: str
    preview: str
    asked_unix: float
    expires_unix: float
    state: Literal["pending", "approved", "denied"]
    version: Annotated[int, Meta(ge=1, le=1)] = 1


class QuestionFiles:
    """The folder with the questions of one kernel."""

    def __init__(self, folder: Path, worker: Worker) -> None:
        self._folder, self._worker = folder, worker

    def load(self, unix: float) -> list[Kept]:
        """Return the questions that are still valid, oldest first; delete the rest. Blocks."""
        kept = []
        for part in self._folder.glob(".*.part"):  # of a killed kernel
            part.unlink(missing_ok=True)
        for path in (*self._folder.glob("*.used"), *self._folder.glob("*.json")):
            question = _read(path)
            if path.suffix == ".used" or question is None or question.expires_unix <= unix:
                with contextlib.suppress(OSError):
                    path.unlink()
            else:
                kept.append(question)
        return sorted(kept, key=lambda question: question.asked_unix)

    def save(self, question: Kept) -> Promise[None]:
        """Save a question; the promise settles when it is on disk."""
        path = self._path(question.id)

        def write() -> None:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            replace_file(path, msgspec.json.encode(question))

        return self._worker.run(write)

    def take(self, number: str) -> None:
        """Mark its answer as used. Raises ResourceExhausted when that cannot be saved."""
        path = self._path(number)
        try:
            path.rename(path.with_suffix(".used"))
        except FileNotFoundError:
            pass  # then it cannot come back either
        except OSError as error:
            raise ResourceExhausted(
                f"cannot save in {self._folder} that question {number} is used: {error.strerror}",
                "fix the folder; nothing was done",
            ) from None

    def put_back(self, number: str) -> None:
        """Undo ``take``."""
        path = self._path(number)
        with contextlib.suppress(OSError):  # then it is asked again after a restart
            path.with_suffix(".used").rename(path)

    def remove(self, number: str) -> None:
        """Delete a question."""
        path = self._path(number)

        def remove() -> None:
            for each in (path, path.with_suffix(".used")):
                each.unlink(missing_ok=True)

        self._worker.submit(remove, complain)

    def _path(self, number: str) -> Path:
        return self._folder / f"{number}.json"


def complain(outcome: Outcome[None]) -> None:
    """Log an error; what could not be saved is lost when the kernel ends."""
    if outcome.error:
        log.error("a question to the operator could not be saved: %s", outcome.error)


def _read(path: Path) -> Kept | None:
    """Read a question; None if it is damaged or has another ID than its file."""
    try:
        question = msgspec.json.decode(path.read_bytes(), type=Kept)
    except (OSError, msgspec.MsgspecError) as error:
        log.error("%s is not a question: %s", path, error)
        return None
    return question if question.id == path.stem else None

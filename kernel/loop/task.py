"""Coroutines on the kernel's loop: a result that comes later, and the driver that waits for it.

    async def save(self, call: Pending, body: Body) -> Reply:
        count = await self._worker.run(lambda: write(body))
        return Reply(count)

A coroutine runs in the kernel's thread until it awaits a promise that is not settled; it continues
inside the call that settles the promise. There is no queue between the two, so the order of events
is the order in which they arrive, and nothing else runs in between.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from typing import Any, Generic, NamedTuple, TypeVar

T = TypeVar("T")


class Outcome(NamedTuple, Generic[T]):
    """The value that a job returned, or the error that it raised; the other is None."""

    value: T | None
    error: Exception | None

    def result(self) -> T:
        """Return the value. Raises the error."""
        if self.error is not None:
            raise self.error
        return self.value  # type: ignore[return-value]  # None only where T allows it


class Promise(Generic[T]):
    """A result that comes later. It is settled once and has one waiter."""

    __slots__ = ("_outcome", "_waiter")

    def __init__(self) -> None:
        self._outcome: Outcome[T] | None = None
        self._waiter: Callable[[Outcome[T]], object] | None = None

    @property
    def settled(self) -> bool:
        """The result is known."""
        return self._outcome is not None

    def settle(self, outcome: Outcome[T]) -> None:
        """Set the result and continue the waiter."""
        assert self._outcome is None, "a promise is settled once"
        self._outcome = outcome
        if self._waiter:
            self._waiter(outcome)

    def resolve(self, value: T) -> None:
        """Settle with a value."""
        self.settle(Outcome(value, None))

    def reject(self, error: Exception) -> None:
        """Settle with an error."""
        self.settle(Outcome(None, error))

    def then(self, callback: Callable[[Outcome[T]], object]) -> None:
        """Call back with the outcome; at once when it is known."""
        assert self._waiter is None, "a promise has one waiter"
        self._waiter = callback
        if self._outcome is not None:
            callback(self._outcome)

    def __await__(self) -> Generator[Promise[T], None, T]:
        if self._outcome is None:
            yield self
            assert self._outcome is not None
        return self._outcome.result()


Task = Coroutine[Promise[Any], None, T]
"""The coroutine that an ``async def`` of the kernel returns; ``start`` drives it."""


def start(task: Task[T]) -> Promise[T]:
    """Run a coroutine to its first wait; the promise gets its result."""
    promise: Promise[T] = Promise()
    _step(task, promise)
    return promise


def _step(task: Task[T], promise: Promise[T]) -> None:
    try:
        awaited = task.send(None)
    except StopIteration as end:
        promise.resolve(end.value)
    except Exception as error:
        promise.reject(error)
    else:
        awaited.then(lambda _: _step(task, promise))


def detach(task: Task[None]) -> None:
    """Start a coroutine without a waiter. An error in it is a bug and ends the kernel."""
    start(task).then(lambda outcome: outcome.result())

"""The loop: timers and descriptors."""

from __future__ import annotations

import os
import time

from aios.kernel.loop.loop import Loop


def test_the_loop_runs_timers_in_order_and_wakes_for_descriptors() -> None:
    loop, seen = Loop(), list[str]()
    now = time.monotonic()
    loop.at(now + 0.02, lambda: seen.append("second"))
    loop.at(now + 0.01, lambda: seen.append("first"))
    loop.at(now, lambda: seen.append("never")).cancel()
    reader, writer = os.pipe()
    loop.watch(reader, lambda events: seen.append(os.read(reader, 9).decode()))
    os.write(writer, b"read")
    loop.at(now + 0.03, loop.stop)
    loop.run()
    assert seen == ["read", "first", "second"]
    loop.unwatch(reader)
    for fd in (reader, writer):
        os.close(fd)
    for _ in range(10_000):
        loop.at(now + 999, lambda: None).cancel()
    assert len(loop._timers) < 200, "cancelled timers do not pile up"
    loop.close()

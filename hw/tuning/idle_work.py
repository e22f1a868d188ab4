"""The work of a model's idle time: finds faster settings than those that its core runs with.

    python -m aios.hw.tuning.idle_work --link FD --parent PID

The kernel starts it when a model is idle, stops its process group while requests run, and may kill
it at any moment: each outcome is kept in the cache at once, and a later run continues from there.
It runs at the lowest priority. Each test and measurement has a process of its own (job_process.py):
a crash of llama.cpp rejects one rung and no more.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import socket
from collections.abc import Callable, Sequence

import msgspec

from aios.hw.engine.engine import EngineSettings, LoadError, Rung
from aios.hw.machine.framing import encode, read_frame
from aios.hw.machine.parent_death import die_with_parent

from .candidate import ORIGINAL, Candidate, TuningJob, score
from .exact_settings import UNTESTED, Plan, fastest, kept_times, plan
from .idle_messages import Done, Failed, IdleEvent, Order, Progress
from .job_process import Killed, run_apart
from .job_process import Order as JobOrder
from .verdict_cache import Verdict, verdict

log = logging.getLogger("aios.idle")

Report = Callable[[str, int], None]
"""Called with what is being done, and the percentage that is done."""


def find_settings(settings: EngineSettings, report: Report = lambda text, percent: None) -> Plan:
    """Find the fastest settings for a model, and keep the outcomes; return the plan for its next
    load.

    ``settings`` name a cache. Outcomes that are known are used. Raises LoadError, OSError, Killed.
    """
    chosen = plan(settings)
    if chosen.untested:
        (_test_rungs if settings.exact else _measure_rungs)(chosen, report)
        chosen = plan(settings)
    if kept_times(chosen).value is None:
        report(f"timing steps: {chosen.rung.name}", 95)
        result = run_apart(_job("steps", chosen, chosen.rung))
        if result.failed:
            log.info("%s: steps are not timed: %s", settings.path, result.failed)
    return chosen


def _test_rungs(chosen: Plan, report: Report) -> None:
    """Run the self-test with one rung after another until one passes. Raises LoadError if none
    passes and some could not be tested."""
    failed = ""
    for number, rung in enumerate(chosen.ladder, 1):
        known = verdict(chosen.settings.cache_dir, chosen.subject, rung)
        if known.value is None:
            report(f"self-test {number}/{len(chosen.ladder)}: {rung.name}",
                   100 * (number - 1) // len(chosen.ladder))  # fmt: skip
            result = run_apart(_job("exact", chosen, rung))
            if result.failed and not result.crashed:
                failed = result.failed
                continue  # it cannot be loaded now; a later test may succeed
            known.keep(Verdict(result.exact, rung.name, result.failed, result.draft_tokens))
        if known.value and known.value.exact:
            return
    if failed:
        raise LoadError(f"some settings cannot be tested now: {failed}")


def _measure_rungs(chosen: Plan, report: Report) -> None:
    """Measure the speed of each rung that may be used when exactness is off."""
    scores = {}
    for number, rung in enumerate(UNTESTED, 1):
        report(f"measuring {number}/{len(UNTESTED)}: {rung.name}",
               100 * (number - 1) // len(UNTESTED))  # fmt: skip
        scores[rung.name] = score(run_apart(_job("speed", chosen, rung)))
    fastest(chosen.settings, chosen.subject).keep(scores)


def _job(kind: str, chosen: Plan, rung: Rung) -> JobOrder:
    settings = chosen.settings
    weights = chosen.tuned.weights if chosen.tuned else ORIGINAL
    candidate = Candidate(weights, rung, chosen.subject.threads, settings.ubatch_tokens)
    job = msgspec.convert({"kind": kind, "candidate": candidate}, TuningJob)
    return JobOrder(
        job=job, source=settings.path if weights == ORIGINAL else "", path=settings.path,
        seats=settings.seats, cache_dir=settings.cache_dir or "", gpu_layers=settings.gpu_layers,
        counts=chosen.threads,
    )  # fmt: skip


def _do(order: Order, report: Report) -> Done:
    after = find_settings(order.settings, report)
    timed = kept_times(after).value is not None
    changed = (after.rung, after.subject.model_hash) != (order.rung, order.model_hash)
    return Done(changed or (timed and order.estimated), after.rung.name, again=not timed)


def _calm() -> None:
    """Give way to every other process."""
    os.nice(19)
    if hasattr(os, "SCHED_IDLE"):
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def main(arguments: Sequence[str] | None = None) -> None:
    """Do one order of the kernel's."""
    parser = argparse.ArgumentParser(prog="aios-idle-work")
    parser.add_argument("--link", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True)
    options = parser.parse_args(arguments)
    die_with_parent(options.parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _calm()
    sock = socket.socket(fileno=options.link)

    def send(event: IdleEvent) -> None:
        sock.sendall(encode(event))

    payload = read_frame(sock)
    if payload is None:
        return
    try:
        order = msgspec.msgpack.decode(payload, type=Order)
        send(_do(order, lambda text, percent: send(Progress(text, percent))))
    except ConnectionError:
        pass  # the kernel is gone
    except (LoadError, OSError, Killed) as error:
        send(Failed(str(error)))


if __name__ == "__main__":
    main()

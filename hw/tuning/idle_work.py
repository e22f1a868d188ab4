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
import shutil
import signal
import socket
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from aios.hw.engine.engine import EngineSettings, LoadError, Rung
from aios.hw.machine.framing import encode, read_frame
from aios.hw.machine.parent_death import die_with_parent
from aios.hw.models import model_files

from .candidate import ORIGINAL, Candidate, Result, TuningJob, score
from .exact_settings import UNTESTED, Plan, fastest, kept_times, plan
from .idle_messages import Done, Failed, IdleEvent, Order, Progress
from .job_process import MACHINE_BUSY, Killed, run_apart
from .job_process import Order as JobOrder
from .progress import DOING
from .search import Unusable
from .tune import InProgress, TuneError, tune_file
from .verdict_cache import Verdict, verdict

log = logging.getLogger("aios.idle")

COPIES, SPARE_BYTES = 3, 1 << 30
"""Free space for tuning that nobody asked for: copies as large as the model, and what is left."""
_KILLED_FIRST = 1000
"""The highest oom_score_adj, which its children inherit."""

Report = Callable[[str, int], None]
"""Called with what is being done, and the percentage that is done."""


def find_settings(settings: EngineSettings, report: Report = lambda text, percent: None) -> Plan:
    """Find the fastest settings for a model, and keep the outcomes; return the plan for its next
    load.

    ``settings`` name a cache. Outcomes that are known are used. Raises LoadError, OSError, Killed.
    """
    return _found(settings, report)[0]


def _found(settings: EngineSettings, report: Report) -> tuple[Plan, str]:
    """Do the same; return also why the steps could not be timed."""
    chosen = _with_rung(settings, report)
    if kept_times(chosen).value is not None:
        return chosen, ""
    report(f"timing steps: {chosen.rung.name}", 95)
    result = run_apart(_job("steps", chosen, chosen.rung))
    if result.failed:
        log.info("%s: steps are not timed: %s", settings.path, result.failed)
    elif kept_times(chosen).value is None:
        raise _not_kept(settings)
    return chosen, result.failed


def _not_kept(settings: EngineSettings) -> LoadError:
    return LoadError(
        f"its outcome cannot be kept in {settings.cache_dir}; make room there, or make it writable"
    )


def _with_rung(settings: EngineSettings, report: Report) -> Plan:
    """Find the fastest rung, without timing its steps; return the plan."""
    chosen = plan(settings)
    if chosen.untested:
        (_test_rungs if settings.exact else _measure_rungs)(chosen, report)
        chosen = plan(settings)
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
            found = Verdict(result.exact, rung.name, result.failed, result.draft_tokens)
            if not known.keep(found):
                raise _not_kept(chosen.settings)
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
    if not fastest(chosen.settings, chosen.subject).keep(scores):
        raise _not_kept(chosen.settings)


def _job(kind: str, chosen: Plan, rung: Rung) -> JobOrder:
    settings = chosen.settings
    weights = chosen.tuned.weights if chosen.tuned else ORIGINAL
    candidate = Candidate(weights, rung, chosen.subject.threads, settings.ubatch_tokens)
    job = msgspec.convert({"kind": kind, "candidate": candidate}, TuningJob)
    return JobOrder(
        job=job, source=settings.path if weights == ORIGINAL else "", path=settings.path,
        seats=settings.seats, cache_dir=settings.cache_dir or "", gpu_layers=settings.gpu_layers,
        lora=settings.lora, counts=chosen.threads,
    )  # fmt: skip


class _Stages:
    """Tells the kernel of a tuning's progress; see tune.Watcher."""

    def __init__(self, report: Report, quick: bool) -> None:
        self._report, self._jobs = report, 8 if quick else 40
        self._done = 0

    def start(self, known: int, damaged: bool) -> None:
        """Nothing to tell yet."""

    def begin(self, job: TuningJob) -> None:
        """Tell which job starts."""
        text = f"tuning: {DOING[job.kind]} {job.candidate.weights}"
        self._report(text, min(95, 100 * self._done // self._jobs))

    def end(self, job: TuningJob, result: Result) -> None:
        """Count a job."""
        self._done += 1


def tune_in_idle_time(settings: EngineSettings, report: Report, *, quick: bool) -> None:
    """Search for a faster weight format and keep the choice.

    Raises InProgress, LoadError, OSError, Killed.
    """
    source, cache_dir = Path(settings.path), Path(settings.cache_dir or "")
    needed = COPIES * model_files.size_bytes(source) + SPARE_BYTES
    free = shutil.disk_usage(_existing(cache_dir)).free
    if free < needed:
        raise LoadError(
            f"a copy of the weights needs {needed >> 20:,} MiB in {cache_dir}, {free >> 20:,} MiB "
            "are free"
        )
    try:
        tune_file(source, cache_dir, _Stages(report, quick), seats=settings.seats, quick=quick)
    except InProgress:
        raise
    except (TuneError, Unusable) as error:
        raise LoadError(str(error)) from None


def _existing(folder: Path) -> Path:
    return folder if folder.exists() else _existing(folder.parent)


def _do(order: Order, report: Report) -> Done:
    if order.kind == "tune" and not plan(order.settings).tuned:  # the user's choice stays
        try:
            tune_in_idle_time(order.settings, report, quick=order.quick)
        except InProgress as error:
            return Done(False, str(error), again=True)
    after = _with_rung(order.settings, report)
    if (after.rung, after.subject.model_hash) != (order.rung, order.model_hash):
        return Done(True, after.rung.name, again=True)  # its steps are timed once it is in use
    after, untimed = _found(order.settings, report)
    return Done(not untimed and order.estimated, after.rung.name, again=untimed == MACHINE_BUSY)


def _calm() -> None:
    """Give way to every other process, also when memory runs out: the job is killed first, and not
    a core. With autogroups, Linux weighs sessions before processes."""
    os.nice(19)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(_KILLED_FIRST))
    if os.getsid(0) == os.getpid():
        with contextlib.suppress(OSError):
            Path("/proc/self/autogroup").write_text("19")
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

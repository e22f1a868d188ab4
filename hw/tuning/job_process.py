"""One tuning job in a process of its own: a crash of llama.cpp costs one candidate, not the run.

``python -m aios.hw.tuning.job_process`` reads an Order as JSON from standard input and writes a
Result to standard output. It ends with the process that started it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import msgspec

from aios.hw.engine.engine import Engine, EngineSettings, LoadError
from aios.hw.machine.cpu_use import OtherUse
from aios.hw.machine.huge_pages import engine_environment
from aios.hw.machine.parent_death import die_with_parent
from aios.hw.models import model_files
from aios.hw.models.aliases import Adapter

from . import perplexity
from .candidate import FORMATS, ORIGINAL, Result, TuningJob
from .draft_test import draft_limit
from .self_test import is_exact
from .speed import measure_speed
from .step_times import BUSY, measure, step_times
from .verdict_cache import TEST_SEATS, Verdict, subject_of, verdict

WINDOW_TOKENS = 768
"""Large enough for a window of the yardstick text, and for the self-test of most models."""
TEST_WINDOW_TOKENS = 2304
"""The self-test's: larger than sliding windows are."""
MACHINE_BUSY = "other programs use the processors"
"""A Result's failure when times could not be measured for that reason."""
NO_ROOM = "no room"
"""Prefix of a Result's failure when the disk is full; it ends the tuning."""
_TRIES = 3
_continued: list[float] = []
"""Times at which this process continued after it had been stopped."""

T = TypeVar("T")


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """A job, and what all jobs of a tuning have in common."""

    job: TuningJob
    source: str
    path: str
    """The candidate's file: the source or its copy."""
    seats: int
    cache_dir: str
    gpu_layers: int = -1
    lora: tuple[Adapter, ...] = ()
    counts: tuple[int, ...] = ()
    """Thread counts to choose from, in descending order; for the job ``steps``."""


def do(order: Order) -> Result:
    """Do the job in this process. Raises LoadError, OSError."""
    start_s = time.perf_counter()
    result = _copy(order) if order.job.kind == "copy" else _test(order)
    return msgspec.structs.replace(result, seconds=time.perf_counter() - start_s)


def _copy(order: Order) -> Result:
    from .requantise import NoRoom, requantise

    candidate = order.job.candidate
    try:
        size = requantise(
            Path(order.source), Path(order.path), FORMATS[candidate.weights], candidate.threads
        )
    except NoRoom as error:
        return Result(failed=f"{NO_ROOM}: {error}")
    if _formats(Path(order.path)) == _formats(Path(order.source)):
        Path(order.path).unlink()
        return Result(failed="the same as the original")
    return Result(size_bytes=size)


def _formats(path: Path) -> dict[str, int]:
    """Return the format of each tensor of a model."""
    files = model_files.headers(model_files.check(path))
    return {tensor.name: tensor.kind for file in files for tensor in file.tensors}


def _test(order: Order) -> Result:
    """Load the candidate and do the job with its engine."""
    from aios.hw.engine.llama import LlamaEngine

    candidate = order.job.candidate
    assert order.path != order.source or candidate.weights == ORIGINAL
    seats, window = order.seats, WINDOW_TOKENS
    if order.job.kind == "exact":
        seats, window = TEST_SEATS, TEST_WINDOW_TOKENS
    settings = EngineSettings(
        path=order.path, seats=seats, threads=candidate.threads, window_limit=window,
        ubatch_tokens=candidate.ubatch_tokens, cache_dir=order.cache_dir,
        gpu_layers=order.gpu_layers, lora=order.lora, look_up_tuned=False,
    )  # fmt: skip
    engine = LlamaEngine(settings, candidate.rung)
    try:
        return _tested(order, settings, engine)
    finally:
        engine.close()


def _tested(order: Order, settings: EngineSettings, engine: Engine) -> Result:
    job = order.job
    if job.kind == "speed":
        return _undisturbed(lambda: measure_speed(engine))
    if job.kind == "perplexity":
        windows, tokens = perplexity.read(engine, job.against, job.limit_percent, job.windows)
        return Result(windows=tuple(windows), tokens=tuple(tokens))
    if job.kind == "steps":
        return _timed(order, settings, engine)
    known = verdict(settings.cache_dir, subject_of(settings), job.candidate.rung)
    found = known.value
    if found is None:
        exact = is_exact(engine)
        drafts = draft_limit(engine) if exact else 0
        found = Verdict(exact, job.candidate.rung.name, draft_tokens=drafts)
        known.keep(found)
    return Result(exact=found.exact, draft_tokens=found.draft_tokens)


def _undisturbed(measurement: Callable[[], T]) -> T:
    """Measure, and measure again if the process was stopped meanwhile, for a few times."""
    for _ in range(_TRIES):
        before = len(_continued)
        result = measurement()
        if len(_continued) == before:
            break
    return result


def _timed(order: Order, settings: EngineSettings, engine: Engine) -> Result:
    """Measure the times of steps and keep them, unless other programs disturb that."""
    use = OtherUse()
    counts = order.counts
    times = _undisturbed(lambda: measure(engine, counts))
    if use.ask() > BUSY:
        return Result(failed=MACHINE_BUSY)
    subject, rung = subject_of(settings), order.job.candidate.rung
    step_times(order.cache_dir, subject, rung, order.seats, counts).keep(times)
    return Result()


class Killed(Exception):
    """The job's process was killed from outside, perhaps because memory ran out."""


def run_apart(order: Order) -> Result:
    """Have a child process do the job; a crash gives a failed Result. Raises Killed."""
    environment = engine_environment()
    if order.job.kind == "exact":  # it may run beside others, and its speed does not matter
        environment["OMP_WAIT_POLICY"] = "passive"
    child = subprocess.Popen(
        [sys.executable, "-P", "-m", "aios.hw.tuning.job_process"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment,
        preexec_fn=partial(die_with_parent, os.getpid()),  # it may be stopped before it runs
    )  # fmt: skip
    try:
        out, said = child.communicate(msgspec.json.encode(order))
    finally:
        child.kill()
        child.wait()
    code = child.returncode
    if code in (-signal.SIGKILL, -signal.SIGTERM):
        raise Killed(f"it was killed (signal {-code})")
    if code:
        status = f"(signal {-code})" if code < 0 else f"(exit status {code})"
        last = said.decode("utf-8", "replace").strip().splitlines()[-1:]
        return Result(crashed=True, failed=" ".join(["llama.cpp crashed", status, *last]))
    return msgspec.json.decode(out, type=Result)


def main() -> None:
    """Do one order; a job that fails gives a Result, too."""
    order = msgspec.json.decode(sys.stdin.buffer.read(), type=Order)
    signal.signal(signal.SIGCONT, lambda *_: _continued.append(time.monotonic()))
    try:
        result = do(order)
    except (LoadError, OSError) as error:
        result = Result(failed=str(error))
    sys.stdout.buffer.write(msgspec.json.encode(result))


if __name__ == "__main__":
    main()

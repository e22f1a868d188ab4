"""One job of tuning, in a process of its own: what crashes llama.cpp costs one candidate.

``python -m aios.hw.trial`` reads an Order as JSON from its standard input and answers with a Result
on its standard output. It ends with the process that started it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec

from aios.hw.engine.engine import Engine, EngineSettings, LoadError
from aios.hw.machine.environment import engine_environment

from . import measure, perplexity
from .candidate import FORMATS, ORIGINAL, Job, Result
from .exact import passes
from .verdict import Verdict

WINDOW_TOKENS = 768
"""Enough for the self-test, and for a window of the text."""
NO_ROOM = "no room"
"""How a Result says that the disk is full; it ends the tuning."""
_PR_SET_PDEATHSIG = 1


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """A job, and what all jobs of a tuning have in common."""

    job: Job
    source: str
    path: str
    """The candidate's file: the source, or its copy."""
    seats: int
    cache_dir: str
    gpu_layers: int = -1
    parent: int = msgspec.field(default_factory=os.getpid)


def do(order: Order) -> Result:
    """Do the job. Raises LoadError, OSError."""
    start_s = time.perf_counter()
    result = _copy(order) if order.job.kind == "copy" else _measure(order)
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
    return Result(size_bytes=size)


def _measure(order: Order) -> Result:
    from aios.hw.engine.llama import LlamaEngine

    candidate = order.job.candidate
    assert order.path != order.source or candidate.weights == ORIGINAL
    settings = EngineSettings(
        path=order.path, seats=order.seats, threads=candidate.threads, window_limit=WINDOW_TOKENS,
        ubatch_tokens=candidate.ubatch_tokens, cache_dir=order.cache_dir,
        gpu_layers=order.gpu_layers, look_up_tuned=False,
    )  # fmt: skip
    engine = LlamaEngine(settings, candidate.rung)
    try:
        return _asked(order.job, settings, engine)
    finally:
        engine.close()


def _asked(job: Job, settings: EngineSettings, engine: Engine) -> Result:
    if job.kind == "look":
        return measure.look(engine)
    if job.kind == "perplexity":
        windows, tokens = perplexity.read(engine, job.against, job.limit_percent)
        return Result(windows=tuple(windows), tokens=tuple(tokens))
    verdict = Verdict(settings, engine.info, job.candidate.rung)
    exact = passes(engine) if verdict.exact is None else verdict.exact
    verdict.keep(exact)
    return Result(exact=exact)


def run_apart(order: Order) -> Result:
    """Have the job done in a process of its own; that it crashed is a result, too."""
    child = subprocess.Popen(
        [sys.executable, "-P", "-m", "aios.hw.tuning.trial"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=engine_environment(),
    )  # fmt: skip
    try:
        out, said = child.communicate(msgspec.json.encode(order))
    finally:
        child.kill()
        child.wait()
    if child.returncode:
        last = said.decode("utf-8", "replace").strip().splitlines()[-1:]
        return Result(failed=" ".join(["llama.cpp crashed", _how(child.returncode), *last]))
    return msgspec.json.decode(out, type=Result)


def _how(code: int) -> str:
    return f"(signal {-code})" if code < 0 else f"(exit status {code})"


def main() -> None:
    """One order, one result; a job that cannot be done is a result, too."""
    order = msgspec.json.decode(sys.stdin.buffer.read(), type=Order)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != order.parent:
        raise SystemExit(1)
    try:
        result = do(order)
    except (LoadError, OSError) as error:
        result = Result(failed=str(error))
    sys.stdout.buffer.write(msgspec.json.encode(result))


if __name__ == "__main__":
    main()

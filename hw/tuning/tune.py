"""``aios model tune``: find the fastest settings that are exact and do not predict worse.

``python -m aios.hw.tuning.tune MODEL --cache DIR --models DIR`` runs the search, each job in a
process of its own, and keeps every result at once, so an interrupted run continues where it was. At
the end it keeps the choice as a profile, which the core reads when it loads the model. The original
file is only read. Everything is written to one folder of the cache; ``--reset`` removes it.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import msgspec

from aios.hw.engine.engine import LoadError
from aios.hw.machine import json_cache
from aios.hw.machine.threads import thread_counts, usable_cpus
from aios.hw.models import model_files, names
from aios.hw.models.catalog import weight_format

from . import perplexity, profile
from .candidate import FORMATS, ORIGINAL, Candidate, Result, TuningJob
from .exact_settings import RUNGS
from .job_process import NO_ROOM, Killed, Order, run_apart
from .progress import Progress
from .quick_search import QuickSearch
from .report import Report, complain, show
from .search import Search, Trial, Unusable, Wish

_VERSION = "3"
MAX_SEATS, MAX_PERCENT = 256, 100.0
Do = Callable[[TuningJob], Result]


class TuneError(Exception):
    """Tuning cannot choose; the text gives the reason, ``hint`` the cure."""

    def __init__(self, text: str, hint: str = "") -> None:
        super().__init__(text)
        self.hint = hint


class InProgress(TuneError):
    """Another process tunes the model now."""


class _Kept(msgspec.Struct):
    """The results of one tuning by job key."""

    version: str = _VERSION
    results: dict[str, Result] = {}


class Journal:
    """The results on disk, written after every job."""

    def __init__(self, path: Path) -> None:
        self._path = path
        kept = json_cache.read(path, _Kept)
        usable = kept is not None and kept.version == _VERSION
        self.damaged = path.exists() and not usable
        self._kept = kept if kept and usable else _Kept()

    def __len__(self) -> int:
        return len(self._kept.results)

    def get(self, job: TuningJob) -> Result | None:
        """Return the known result, if any; a removal is always done again."""
        return None if job.kind == "drop" else self._kept.results.get(job.key)

    def keep(self, job: TuningJob, result: Result) -> None:
        """Keep a result. Raises TuneError if it cannot be written."""
        self._kept.results[job.key] = result
        try:
            json_cache.write(self._path, self._kept)
        except OSError as error:
            raise _cannot_write(self._path.parent, error) from None


class JobRunner:
    """Runs the jobs on one model, each in a child process; copies are files in ``home``."""

    def __init__(self, source: Path, home: Path, cache_dir: Path, seats: int) -> None:
        self._source, self._home, self._cache_dir, self._seats = source, home, cache_dir, seats

    def path(self, candidate: Candidate) -> Path:
        """Return the file with the candidate's weights."""
        if candidate.weights == ORIGINAL:
            return self._source
        return profile.copy_path(self._home, candidate.weights)

    def do(self, job: TuningJob) -> Result:
        """Do a job; make the copy it needs again if that was removed. Raises TuneError."""
        path = self.path(job.candidate)
        if job.kind == "drop":
            path.unlink(missing_ok=True)
            return Result()
        if job.kind != "copy" and not path.exists():
            made = self.do(TuningJob(kind="copy", candidate=job.candidate))
            if made.failed:
                return made
        order = Order(job=job, source=str(self._source), path=str(path), seats=self._seats,
                      cache_dir=str(self._cache_dir))  # fmt: skip
        try:
            result = run_apart(order)
        finally:
            remove_parts(self._home)
        if result.failed.startswith(NO_ROOM):
            raise _cannot_write(self._home, OSError(result.failed.removeprefix(f"{NO_ROOM}: ")))
        return result


class Watcher(Protocol):
    """What is told of the progress of a tuning; see progress.Progress."""

    def start(self, known: int, damaged: bool) -> None:
        """Hear of the results of an earlier run, before the first job."""

    def begin(self, job: TuningJob) -> None:
        """Hear that a job starts."""

    def end(self, job: TuningJob, result: Result) -> None:
        """Hear that a job is done, now or in an earlier run."""


def tune(search: Search, journal: Journal, do: Do, progress: Watcher) -> None:
    """Run the search to its end. Raises Unusable, TuneError."""
    steps = search.steps()
    with contextlib.suppress(StopIteration):
        job = next(steps)
        while True:
            result = journal.get(job)
            if result is None:
                progress.begin(job)
                result = do(job)
                if job.kind != "drop":
                    journal.keep(job, result)
            progress.end(job, result)
            job = steps.send(result)


def remove_parts(home: Path) -> None:
    """Delete incomplete files that a killed process left."""
    for part in home.glob("*.part"):
        part.unlink(missing_ok=True)


def reset(home: Path) -> list[Path]:
    """Remove everything that tuning kept for a model; return its paths. Raises TuneError."""
    there = sorted(home.iterdir()) if home.is_dir() else []
    try:
        if there:
            shutil.rmtree(home)
    except OSError as error:
        raise TuneError(f"cannot remove {home}: {error.strerror}") from None
    return there


@contextlib.contextmanager
def alone(home: Path) -> Iterator[None]:
    """Lock the model against a second tuning at the same time. Raises InProgress, TuneError."""
    path = home.with_suffix(".lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w")
    except OSError as error:
        raise _cannot_write(path.parent, error) from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InProgress("this model is already being tuned", "wait until that ends") from None
        yield


def _run(options: argparse.Namespace) -> Report:
    if options.model == "fake" or options.model.startswith("fake:"):
        return Report(model=options.model, nothing="the fake model has nothing to tune")
    start_s = time.monotonic()
    source = _source(options)
    home = profile.folder(Path(options.cache), model_files.model_hash(source))
    if options.reset:
        with alone(home):
            return Report(model=str(source), removed=[str(path) for path in reset(home)])
    with contextlib.closing(Progress(source, len(FORMATS), quiet=options.json)) as progress:
        search = tune_file(
            source, Path(options.cache), progress, seats=options.seats,
            limit_percent=options.perplexity, quick=options.quick,
        )  # fmt: skip
    seconds = time.monotonic() - start_s
    return Report.of(str(source), options.seats, options.perplexity, search, seconds)


def tune_file(
    source: Path,
    cache_dir: Path,
    progress: Watcher,
    *,
    seats: int,
    limit_percent: float = 1.0,
    quick: bool = False,
) -> Search:
    """Find the best settings for a model file, and keep the choice in its profile.

    Results that are known are used. Raises TuneError, Unusable, LoadError, Killed.
    """
    from aios.hw.engine.llama_lib import build, device

    home = profile.folder(cache_dir, model_files.model_hash(source))
    with alone(home):
        parts = (build(), json_cache.machine(), device(-1))
        name = json_cache.key(*parts, str(seats), perplexity.text())
        journal = Journal(home / f"results-{name}.json")
        runner = JobRunner(source, home, cache_dir, seats)
        remove_parts(home)  # of a run that was killed
        progress.start(len(journal), journal.damaged)
        threads = (thread_counts(None)[0],) if quick else _threads()
        same = weight_format(model_files.check(source))
        wish = Wish(
            ladder=RUNGS, threads=threads, limit_percent=limit_percent,
            formats=tuple(name for name in FORMATS if name != same),
        )  # fmt: skip
        search = QuickSearch(wish) if quick else Search(wish)
        tune(search, journal, runner.do, progress)
        entry = _entry(search, runner, seats)
        try:
            profile.add(home, build(), device(-1), entry)
        except OSError as error:
            raise _cannot_write(home, error) from None
    return search


def _source(options: argparse.Namespace) -> Path:
    try:
        source = Path(names.resolve(options.model, Path(options.models)))
    except LookupError as error:
        raise TuneError(str(error.args[0]), "models: aios model ls") from None
    problem = model_files.chat_problem(source)
    if problem:
        raise TuneError(problem, "give a GGUF model, or a name from: aios model ls")
    return source


def _threads() -> tuple[int, ...]:
    """Return the counts to try, in descending order; includes all hardware threads of the cores."""
    return tuple(sorted({usable_cpus(), *thread_counts(None)}, reverse=True))


def _entry(search: Search, runner: JobRunner, seats: int) -> profile.Entry:
    """Make the profile's entry; a chosen copy that was removed is made again."""

    def choice(trial: Trial) -> profile.Choice:
        path = runner.path(trial.candidate)
        if not path.exists():
            made = runner.do(TuningJob(kind="copy", candidate=trial.candidate))
            if made.failed:
                raise TuneError(made.failed)
        return profile.Choice(
            candidate=trial.candidate, copy_hash=model_files.model_hash(path),
            mix_tokens_per_s=trial.score, over_original=trial.score / search.baseline.score,
            worse_percent=trial.worse_percent or 0.0,
        )  # fmt: skip

    return profile.Entry(seats=seats, exact=choice(search.exact), fastest=choice(search.fastest))


def _cannot_write(folder: Path, error: OSError) -> TuneError:
    reason = error.strerror or str(error)
    return TuneError(
        f"cannot write to {folder}: {reason}",
        "make room there, or set XDG_CACHE_HOME to a folder with room; then tune again: it "
        "continues where it was",
    )


def _percent(text: str) -> float:
    value = float(text)
    if not 0 <= value <= MAX_PERCENT:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and {MAX_PERCENT:g} percent")
    return value


def _seats(text: str) -> int:
    value = int(text)
    if not 1 <= value <= MAX_SEATS:
        raise argparse.ArgumentTypeError(f"{text} is not between 1 and {MAX_SEATS} seats")
    return value


def main() -> int:
    """Run the command; exit status 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    parser = argparse.ArgumentParser(
        prog="aios model tune",
        usage="aios model tune [MODEL] [--quick] [--perplexity PERCENT] [--seats N] [--reset] "
        "[--json]",
    )
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("--perplexity", type=_percent, default=1.0)
    parser.add_argument("--seats", type=_seats, default=8)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--reset", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--cache", required=True)
    parser.add_argument("--models", required=True)
    options = parser.parse_args()
    try:
        show(_run(options), options.json)
    except TuneError as error:
        complain(str(error), error.hint)
        return 1
    except (Unusable, LoadError, Killed) as error:
        complain(f"cannot tune {options.model}: {error}", "models: aios model ls")
        return 1
    except KeyboardInterrupt:
        complain("interrupted; all results so far are kept", "continue with the same command")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())

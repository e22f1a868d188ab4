"""``aios model pull``: bring a model from the hub into the models folder.

``python -m aios.hw.models.pull hf:OWNER/REPO[:QUANT|/FILE] --models DIR``. A file is downloaded
beside the models, in ``.pull``, and takes its place when its size, checksum and header are right;
of a split model the first part comes last. So a half file is never a model, and an interrupted pull
continues. Two pulls of one repository come one after the other.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import functools
import hashlib
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from aios.hw.machine.durable import sync

from . import hub, hub_names, model_files, names
from .gguf_header import ModelFileError, read_header
from .hub_names import PullError, Reference, RemoteFile
from .pull_report import JsonReport, PullReport, TerminalReport

_MARGIN_BYTES = 64 << 20
"""Room that stays free on the disk."""
_CHUNK_BYTES = 1 << 20


def pull(reference: Reference, folder: Path, report: PullReport) -> Path:
    """Pull a model, unless it is there; return the path that it goes by.

    Raises PullError. What was downloaded so far stays for the next pull.
    """
    revision, files = hub.list_files(reference)
    chosen = hub_names.choose(reference, files)
    if any(file.size_bytes < 0 for file in chosen):
        raise PullError(f"{hub.endpoint()} names no size of {chosen[0].name}")
    home = folder / reference.repo
    places = {file: home / _place(file) for file in chosen}
    try:
        with _alone(folder, reference, report) as staging:
            missing = [file for file in chosen if not _is_there(places[file], file)]
            parts = {file: staging / f"{_key(file)}.part" for file in missing}
            _check_room(folder, parts)
            report.begin(chosen, sum(file.size_bytes for file in missing))
            done = 0
            for file in missing:
                tell = functools.partial(_tell, report, done)
                hub.fetch(reference, revision, file, parts[file], tell)
                done += file.size_bytes
                report.checking(file)
                _verify(parts[file], file)
            for file in reversed(missing):
                _put(parts[file], places[file])
    except OSError as error:
        raise _cannot_write(folder, error) from None
    finally:
        hub.close()
    return places[chosen[0]]


def _tell(report: PullReport, before: int, at: int) -> None:
    report.progress(before + at)


def _place(file: RemoteFile) -> Path:
    """Return a file's path below the repository's folder; of its own folders one is kept."""
    steps = file.name.split("/")
    return Path(*steps) if len(steps) <= 2 else Path("--".join(steps))


def _key(file: RemoteFile) -> str:
    """Return the name of a partial file: another content of the file has another."""
    return hashlib.sha256(f"{file.name}\0{file.size_bytes}\0{file.sha256}".encode()).hexdigest()


@contextlib.contextmanager
def _alone(folder: Path, reference: Reference, report: PullReport) -> Iterator[Path]:
    """Hold the repository's folder for partial files; another pull of it waits until the end."""
    staging = folder / ".pull" / reference.repo.replace("/", "--")
    staging.mkdir(parents=True, exist_ok=True)
    with (staging / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report.say(f"another pull of {reference.repo} is under way; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield staging


def _is_there(path: Path, file: RemoteFile) -> bool:
    if not path.is_file() or path.stat().st_size != file.size_bytes:
        return False
    return not file.sha256 or _sha256(path) == file.sha256


def _check_room(folder: Path, parts: dict[RemoteFile, Path]) -> None:
    missing = sum(
        file.size_bytes - (part.stat().st_size if part.exists() else 0)
        for file, part in parts.items()
    )
    free = shutil.disk_usage(folder).free
    if missing and missing + _MARGIN_BYTES > free:
        raise PullError(
            f"{missing:,} bytes are missing, and the disk of {folder} has {free:,} free",
            "make room (aios model rm NAME), take a smaller format, or set XDG_DATA_HOME to a "
            "folder on another disk",
        )


def _verify(part: Path, file: RemoteFile) -> None:
    """Check what was downloaded; remove it if it is wrong. Raises PullError, OSError."""
    size = part.stat().st_size
    problem = ""
    if size != file.size_bytes:
        problem = f"has {size:,} bytes in place of {file.size_bytes:,}"
    elif file.sha256 and _sha256(part) != file.sha256:
        problem = "does not have the checksum that the hub names"
    else:
        try:
            if read_header(part).needed_bytes > size:
                problem = "is shorter than its header says"
        except ModelFileError as error:
            problem = str(error).replace(str(part), "").strip()
    if problem:
        part.unlink()
        raise PullError(
            f"{file.name} from {hub.endpoint()} {problem}; it was removed",
            "pull again; if that repeats, take it from another repository",
        )


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _put(part: Path, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    sync(part)
    part.replace(place)
    sync(place.parent)


def _cannot_write(folder: Path, error: OSError) -> PullError:
    reason = error.strerror or str(error)
    if hub.is_full(error):
        return PullError(
            f"the disk of {folder} is full", "make room and pull again: it continues where it was"
        )
    return PullError(f"cannot write to {folder}: {reason}", "set XDG_DATA_HOME to another folder")


def main() -> int:
    """Run the command; exit status 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    parser = argparse.ArgumentParser(prog="aios model pull", usage="aios model pull NAME [--json]")
    parser.add_argument("name")
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    report: PullReport = JsonReport() if options.json else TerminalReport()
    try:
        path = pull(hub_names.parse(options.name), options.models, report)
    except PullError as error:
        report.failed(str(error), error.hint)
        return 1
    except KeyboardInterrupt:
        report.failed("interrupted; what was downloaded is kept", "continue with the same command")
        return 130
    finally:
        report.close()
    problem = model_files.problem(path)
    name = next(name for name, each in names.own(options.models) if each == path)
    report.done(name, path, problem or "")
    return 1 if problem else 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # the library's threads may still be closing connections

"""``aios model tune`` on the real model, from the command to the next kernel and back.

A whole run takes minutes. This one continues a run that was interrupted: its results so far are
made up, and one copy is left to be made and measured.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path

import pytest

from aios.hw.machine import json_cache
from aios.hw.models.model_files import model_hash
from aios.hw.models.names import resolve
from aios.hw.tuning import perplexity, profile
from aios.hw.tuning.candidate import ORIGINAL, Candidate, Result, TuningJob
from aios.hw.tuning.exact_settings import RUNGS
from aios.hw.tuning.progress import Progress
from aios.hw.tuning.search import Search, Wish
from aios.hw.tuning.tune import Journal, _threads, tune
from tests.conftest import Machine

pytestmark = pytest.mark.real
WEIGHTS, SEATS = "Q8_0", 2


def _made_up(job: TuningJob) -> Result:
    """Return a result by which the original is slow and only one copy is worth it."""
    if job.kind == "copy" and job.candidate.weights != WEIGHTS:
        return Result(failed="made up: no such copy")
    if job.kind == "speed":
        plain = job.candidate.rung == RUNGS[0] and job.candidate.ubatch_tokens == 512
        fast = job.candidate.threads * (4 if job.candidate.weights == WEIGHTS and plain else 1)
        return Result(prefill=10.0 * fast, alone=2.0 * fast, together=4.0 * fast)
    if job.kind == "perplexity":
        return Result(windows=(-900.0, -900.0), tokens=(300, 300))
    return Result(exact=job.kind == "exact")


def _interrupted(home: Path, source: Path) -> None:
    """Write the journal of a run that was interrupted before it made the copy."""
    from aios.hw.engine.llama_lib import build, device

    name = json_cache.key(build(), json_cache.machine(), device(-1), str(SEATS), perplexity.text())
    journal = Journal(home / f"results-{name}.json")
    wish = Wish(ladder=RUNGS, threads=_threads())
    with contextlib.closing(Progress(source, 5, quiet=True)) as progress:
        tune(Search(wish), journal, _made_up, progress)
    copy = Candidate(WEIGHTS, RUNGS[0], max(wish.threads))
    jobs = [TuningJob(kind=kind, candidate=copy) for kind in ("copy", "speed")]
    for job in jobs:
        del journal._kept.results[job.key]
    json_cache.write(home / f"results-{name}.json", journal._kept)


def test_a_tuned_model_serves_the_next_kernel_until_reset(stopped: Machine) -> None:
    stopped.env["XDG_CACHE_HOME"] = str(stopped.folder / "cache")
    source = Path(resolve("default", stopped.folder))
    before = hashlib.sha256(source.read_bytes()).hexdigest(), source.stat().st_mtime_ns
    home = profile.folder(stopped.folder / "cache" / "aios", model_hash(source))
    _interrupted(home, source)
    got = stopped.aios("model", "tune", "--seats", str(SEATS))
    assert got.returncode == 0, got.stderr
    assert "continuing: " in got.stderr and f"converting to {WEIGHTS}" in got.stderr
    table = got.stdout.splitlines()
    assert table[0].split()[:3] == ["weights", "kv", "ubatch"]
    (chosen,) = (line for line in table if line.endswith("chosen"))
    assert chosen.startswith(f"{WEIGHTS} ")
    assert any(line.startswith(ORIGINAL) for line in table)
    assert (home / f"{WEIGHTS}.gguf").exists()
    assert _served(stopped).endswith(f"{WEIGHTS}; tuned: {WEIGHTS}")
    assert "tuned" not in _served(stopped, "--tuned", "off", "--exact", "off")
    got = stopped.aios("model", "tune", "--reset")
    assert got.returncode == 0 and "aios daemon restart" in got.stdout
    assert not home.exists()
    assert "tuned" not in _served(stopped, "--exact", "off")
    assert (hashlib.sha256(source.read_bytes()).hexdigest(), source.stat().st_mtime_ns) == before


def _served(machine: Machine, *flags: str) -> str:
    """Return the description that ``aios model ls`` shows of the model when it is loaded."""
    machine.start("--seats", str(SEATS), "--ctx", "512", "--embedder", "off", *flags)
    code = "import aios\nprint(len(aios.chat('hello', max_tokens=4).tokens))"
    got = machine.aios("run", machine.agent("one", code))
    assert got.stdout == "4\n", got.stderr
    (row,) = json.loads(machine.aios("model", "ls", "--json").stdout)["served"]
    assert row["description"] in machine.aios("model", "ls").stdout
    assert machine.aios("daemon", "down").returncode == 0
    described: str = row["description"]
    return described

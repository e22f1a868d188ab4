"""Measurements of an engine for tuning, a copy of the real model in use, and a job's process."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import numpy as np
import psutil
import pytest
import xxhash

from aios.hw.engine.engine import EngineInfo, EngineSettings, Row, Rung
from aios.hw.engine.fake import FakeEngine
from aios.hw.engine.image import identity
from aios.hw.models import model_files, names
from aios.hw.tuning import perplexity, profile, speed
from aios.hw.tuning.candidate import FORMATS, Candidate
from aios.hw.tuning.exact_settings import RUNGS, open_engine
from tests.waiting import wait_until


def _fake(options: str = "", seats: int = 3) -> FakeEngine:
    return FakeEngine(EngineSettings(path=f"fake:ctx=768{options}", seats=seats))


def test_measuring_speed_leaves_seats_empty() -> None:
    engine = _fake(",step_ms=1")
    measured = speed.measure_speed(engine)
    assert measured.alone < measured.together < 3 * 1000 and measured.prefill > measured.together
    assert [engine.length(seat) for seat in range(3)] == [0, 0, 0]


def test_measuring_one_request_at_a_time_does_not_batch() -> None:
    engine = _fake(",step_ms=1")
    engine._info = _with_rung(engine.info, RUNGS[-1])
    measured = speed.measure_speed(engine)
    assert measured.together == measured.alone


def test_the_speed_of_a_model_that_cannot_be_parked_is_measured() -> None:
    assert speed.measure_speed(_fake(",frozen=1")).together > 0


def _with_rung(info: EngineInfo, rung: Rung) -> EngineInfo:
    return msgspec.structs.replace(info, rung=rung)


def test_the_text_is_read_to_the_end_unless_the_result_is_clear() -> None:
    engine = _fake()
    windows, tokens = perplexity.read(engine)
    assert len(windows) == len(tokens) > 10 and engine.length(0) == 0
    again, _ = perplexity.read(engine, windows, 1.0)
    assert again == windows
    better = [value * 0.9 for value in windows]
    assert len(perplexity.read(engine, better, 1.0)[0]) == 1


@pytest.mark.real
def test_a_tuned_copy_is_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = Path(names.resolve("default", tmp_path))
    before = xxhash.xxh3_64_hexdigest(source.read_bytes())
    home = profile.folder(tmp_path, model_files.model_hash(source))
    copy = profile.copy_path(home, "Q8_0")
    candidate = Candidate("Q8_0", Rung("q8_0/f16 KV", kv_type="q8_0/f16"), 1, 256)
    from aios.hw.tuning.requantise import requantise

    assert requantise(source, copy, FORMATS["Q8_0"], 2) == copy.stat().st_size
    assert [path.name for path in home.iterdir()] == ["Q8_0.gguf"]
    from aios.hw.engine import llama_lib

    choice = profile.Choice(
        candidate=candidate, copy_hash=model_files.model_hash(copy), mix_tokens_per_s=1.0,
        over_original=1.0, worse_percent=0.0,
    )  # fmt: skip
    entry = profile.Entry(seats=2, exact=choice, fastest=choice)
    profile.add(home, llama_lib.build(), llama_lib.device(-1), entry)

    settings = EngineSettings(
        path=str(source), context_tokens=256, seats=2, exact=False, cache_dir=str(tmp_path)
    )
    engine = open_engine(settings)
    assert engine.info.tuned and engine.info.description.endswith("tuned: Q8_0, ubatch 256")
    assert engine.info.rung == candidate.rung and engine.info.threads == 1
    tokens = engine.tokenize_text("The capital of France is")
    told = engine.log_likelihoods(0, tokens)
    engine.trim(0, 0)
    logits = engine.decode([Row(0, 0, tokens[:-1], True)])[0].astype(np.float64)
    expected = logits[tokens[-1]] - np.log(np.exp(logits - logits.max()).sum()) - logits.max()
    assert told.shape == (len(tokens) - 1,) and told[-1] == pytest.approx(expected, abs=1e-3)
    for _ in range(3):
        token = np.array([logits.argmax()], np.int32)
        logits = engine.decode([Row(0, engine.length(0), token, True)])[0].astype(np.float64)
    tuned_identity = identity(engine.info)
    engine.close()

    with copy.open("r+b") as file:
        file.truncate(copy.stat().st_size // 2)
    engine = open_engine(msgspec.structs.replace(settings, exact=True))
    assert engine.info.tuned is None and "not as tuned" in engine.info.description
    assert "not as tuned" in caplog.text
    assert identity(engine.info) != tuned_identity
    engine.close()
    assert xxhash.xxh3_64_hexdigest(source.read_bytes()) == before


def test_a_child_that_is_stopped_before_it_runs_ends_with_its_parent() -> None:
    code = (
        "from aios.hw.tuning.job_process import *; from aios.hw.tuning.exact_settings import SAFE; "
        "from aios.hw.tuning.candidate import *; "
        'job = TuningJob(kind="exact", candidate=Candidate(ORIGINAL, SAFE, 1)); '
        'run_apart(Order(job=job, source="x", path="x", seats=1, cache_dir="/nowhere"))'
    )
    parent = psutil.Popen([sys.executable, "-c", code])
    try:
        found: list[psutil.Process] = []

        def begun() -> bool:
            found[:] = [c for c in parent.children() if "aios.hw.tuning.job_process" in c.cmdline()]
            return bool(found)

        wait_until(begun, "the child")
        found[0].suspend()
    finally:
        parent.kill()
        parent.wait()
    wait_until(lambda: _gone(found[0]), "its end")


def _gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE

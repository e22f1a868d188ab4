"""The self-test, and the choice of settings when a model is loaded."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from aios.hw.engine.engine import Engine, EngineSettings, LoadError, Logits, Row, Rung
from aios.hw.engine.fake import FakeEngine
from aios.hw.models import names
from aios.hw.tuning.exact_settings import RUNGS, SAFE, UNTESTED, fastest, open_engine, plan
from aios.hw.tuning.self_test import is_exact
from aios.hw.tuning.verdict_cache import Verdict, subject_of, verdict
from tests.hw.models.gguf_maker import write

SEATS = 4


class Leaky:
    """An engine whose logits depend on how many rows share a batch."""

    def __init__(self, inner: Engine) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> object:
        return getattr(self.inner, name)

    def decode(self, rows: list[Row]) -> dict[int, Logits]:
        out = self.inner.decode(rows)
        return {seat: logits + np.float32(1e-6 * (len(rows) - 1)) for seat, logits in out.items()}


def test_the_self_test_notices_a_small_difference() -> None:
    leaky = Leaky(FakeEngine(EngineSettings(path="fake", context_tokens=1024, seats=SEATS)))
    assert not is_exact(leaky)  # type: ignore[arg-type]


def _model(folder: Path) -> EngineSettings:
    """A file with a model's header, which is enough to plan its load."""
    path = folder / "model.gguf"
    write(path)
    return EngineSettings(path=str(path), seats=SEATS, cache_dir=str(folder / "cache"))


def _keep(settings: EngineSettings, **verdicts: bool) -> None:
    """Keep verdicts for rungs by number: ``r0=False``."""
    for name, exact in verdicts.items():
        rung = RUNGS[int(name[1:])]
        known = verdict(settings.cache_dir, subject_of(settings), rung)
        known.keep(Verdict(exact, rung.name))


@pytest.mark.parametrize(
    ("known", "rung", "exact", "untested"),
    [
        ({}, SAFE, True, len(RUNGS)),
        ({"r0": True}, RUNGS[0], True, 0),
        ({"r0": False}, SAFE, True, len(RUNGS) - 1),
        ({"r0": False, "r1": True}, RUNGS[1], True, 0),
        ({"r2": True}, RUNGS[2], True, 2),
        ({f"r{n}": False for n in range(len(RUNGS))}, SAFE, False, 0),
    ],
)
def test_a_model_is_loaded_with_the_fastest_rung_that_is_known_to_be_exact(
    known: dict[str, bool], rung: Rung, exact: bool, untested: int, tmp_path: Path
) -> None:
    settings = _model(tmp_path)
    _keep(settings, **known)
    chosen = plan(settings)
    assert (chosen.rung, chosen.exact, chosen.untested) == (rung, exact, untested)
    assert any("not exact" in note for note in chosen.notes) == (not exact)


def test_nothing_is_known_without_a_cache(tmp_path: Path) -> None:
    chosen = plan(msgspec.structs.replace(_model(tmp_path), cache_dir=None))
    assert (chosen.rung, chosen.exact, chosen.untested) == (SAFE, True, 0)


def test_a_core_that_replaces_another_keeps_its_rung(tmp_path: Path) -> None:
    settings = _model(tmp_path)
    before = FakeEngine(EngineSettings(path="fake", seats=SEATS)).info
    before = msgspec.structs.replace(
        before, rung=RUNGS[3], untested=3, model_hash=subject_of(settings).model_hash
    )
    _keep(settings, r0=True)
    chosen = plan(msgspec.structs.replace(settings, predecessor=before))
    assert (chosen.rung, chosen.exact, chosen.untested) == (RUNGS[3], True, 3)
    other = msgspec.structs.replace(before, model_hash="of another file")
    assert plan(msgspec.structs.replace(settings, predecessor=other)).rung == RUNGS[0]


@pytest.mark.parametrize("best", UNTESTED, ids=lambda rung: rung.name)
def test_without_exactness_the_fastest_that_was_measured_is_used(
    best: Rung, tmp_path: Path
) -> None:
    settings = msgspec.structs.replace(_model(tmp_path), exact=False)
    chosen = plan(settings)
    assert (chosen.rung, chosen.exact, chosen.untested) == (UNTESTED[0], False, len(UNTESTED))
    scores = {rung.name: 20.0 if rung == best else 10.0 for rung in UNTESTED}
    fastest(settings, chosen.subject).keep(scores)
    chosen = plan(settings)
    assert (chosen.rung, chosen.exact, chosen.untested) == (best, False, 0)


@pytest.mark.parametrize("rung", RUNGS, ids=lambda rung: rung.name)
def test_the_self_test_supports_every_rung(rung: Rung) -> None:
    engine = FakeEngine(EngineSettings(path="fake", seats=SEATS))
    engine.declare(msgspec.structs.replace(engine.info, rung=rung))
    assert is_exact(engine)


@pytest.mark.real
@pytest.mark.parametrize("kind", ["missing", "empty", "text", "truncated", "version", "window"])
def test_an_unloadable_model_is_an_error_with_the_reason(kind: str, tmp_path: Path) -> None:
    source = Path(names.resolve("default", tmp_path))
    path, context = tmp_path / "m.gguf", 512
    if kind == "window":
        path, context = source, 1 << 20
    elif kind != "missing":
        data = source.read_bytes()[: 1 << 20] if kind in ("truncated", "version") else b""
        if kind == "version":
            data = data[:4] + (99).to_bytes(4, "little") + data[8:]
        path.write_bytes(b"not a model, just words" * 10 if kind == "text" else data)
    reasons = {
        "missing": "No such file", "empty": "is empty", "text": "not b'GGUF'",
        "truncated": "is cut short", "version": "version 99", "window": "exceeds",
    }  # fmt: skip
    with pytest.raises(LoadError, match=reasons[kind]):
        open_engine(EngineSettings(path=str(path), context_tokens=context, seats=1, exact=False))

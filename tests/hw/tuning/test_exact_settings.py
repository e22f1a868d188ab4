"""The self-test, and the choice of settings when a model is loaded."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from aios.hw.engine.engine import Engine, EngineSettings, LoadError, Logits, Row, Rung
from aios.hw.engine.fake import FakeEngine
from aios.hw.models import names
from aios.hw.tuning import exact_settings
from aios.hw.tuning.candidate import Result
from aios.hw.tuning.exact_settings import RUNGS, UNTESTED, open_engine
from aios.hw.tuning.self_test import is_exact

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


@pytest.mark.parametrize("fine", [*range(len(RUNGS)), None])
def test_the_first_rung_that_passes_is_kept(
    fine: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tested: list[Rung] = []

    def opened(settings: EngineSettings, rung: Rung) -> FakeEngine:
        engine = FakeEngine(settings)
        engine.declare(msgspec.structs.replace(engine.info, rung=rung, exact=False))
        return engine

    def tried(engine: Engine) -> bool:
        tested.append(engine.info.rung)
        return fine is not None and engine.info.rung == RUNGS[fine]

    monkeypatch.setattr("aios.hw.engine.llama.LlamaEngine", opened)
    monkeypatch.setattr(exact_settings, "is_exact", tried)
    settings = EngineSettings(path="fake", seats=SEATS, cache_dir=str(tmp_path))
    for _ in range(2):  # the second time from the cache
        info = exact_settings._climb(settings, RUNGS).info
        assert info.exact == (fine is not None)
        assert info.rung == RUNGS[-1 if fine is None else fine]
        assert ("not exact" in info.description) == (fine is None)
    assert tested == list(RUNGS if fine is None else RUNGS[: fine + 1])


@pytest.mark.parametrize("fastest", UNTESTED, ids=lambda rung: rung.name)
def test_without_exactness_the_fastest_is_measured_once(
    fastest: Rung, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[Rung] = []

    def opened(settings: EngineSettings, rung: Rung) -> FakeEngine:
        engine = FakeEngine(settings)
        engine.declare(msgspec.structs.replace(engine.info, rung=rung, exact=False))
        return engine

    def measured_speed(engine: Engine) -> Result:
        measured.append(engine.info.rung)
        return Result(prefill=100.0, together=20.0 if engine.info.rung == fastest else 10.0)

    monkeypatch.setattr("aios.hw.engine.llama.LlamaEngine", opened)
    monkeypatch.setattr(exact_settings, "measure_speed", measured_speed)
    settings = EngineSettings(path="fake", seats=SEATS, cache_dir=str(tmp_path), exact=False)
    for _ in range(2):  # the second time from the cache
        info = exact_settings._fastest(settings).info
        assert info.rung == fastest and not info.exact
    assert measured == list(UNTESTED)


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

"""LoRA adapters on the real model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from aios.hw.engine.engine import EngineSettings, LoadError, Logits, Row
from aios.hw.models.aliases import Adapter
from aios.hw.models.names import resolve
from aios.hw.tuning.exact_settings import RUNGS
from tests.hw.models.test_aliases import write_adapter

pytestmark = pytest.mark.real


def _first_logits(*lora: Adapter) -> tuple[Logits, str]:
    from aios.hw.engine.llama import LlamaEngine

    settings = EngineSettings(
        path=resolve("default", Path()), lora=lora, seats=1, context_tokens=256, threads=1
    )
    engine = LlamaEngine(settings, RUNGS[0])
    try:
        tokens = engine.tokenize_text("The capital of France is")
        return engine.decode([Row(0, 0, tokens, True)])[0].copy(), engine.info.model_hash
    finally:
        engine.close()


def test_an_adapter_changes_the_model_by_its_scale_and_its_identity(tmp_path: Path) -> None:
    adapter = str(write_adapter(tmp_path / "a", {"blk.3.attn_q.weight": (576, 576)}))
    plain, plain_hash = _first_logits()
    none, none_hash = _first_logits(Adapter(adapter, 0.0))
    full, full_hash = _first_logits(Adapter(adapter))
    twice, _ = _first_logits(Adapter(adapter, 0.5), Adapter(adapter, 0.5))
    assert np.array_equal(plain, none) and not np.allclose(plain, full, atol=1e-3)
    assert np.allclose(full, twice, atol=0.5)
    assert len({plain_hash, none_hash, full_hash}) == 3


def test_an_adapter_of_another_model_is_refused_before_loading(tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "a", {"blk.3.attn_q.weight": (4096, 4096)})
    with pytest.raises(LoadError, match="in that size"):
        _first_logits(Adapter(str(adapter)))

"""Embedding models in GGUF files, on a tiny one with random weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from aios.hw.engine.engine import LoadError
from tests.hw.models.bert_maker import WIDTH, write_bert
from tests.hw.models.gguf_maker import write

pytestmark = pytest.mark.real


def test_texts_become_vectors_of_their_own(tmp_path: Path) -> None:
    from aios.hw.embed.gguf_model import GgufModel

    model = GgufModel(str(write_bert(tmp_path / "bert.gguf")))
    texts = ["the cat sat", "the dog ran", "the cat sat", "", "cat " * 100]
    rows = model.embed(texts, "passage")
    assert rows.shape == (5, WIDTH) and np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    assert np.array_equal(rows[0], rows[2]) and not np.allclose(rows[0], rows[1], atol=1e-2)
    assert model.too_long(texts) == [4]
    alone = model.embed([texts[1]], "query")
    assert np.array_equal(alone[0], rows[1])


def test_other_files_are_refused(tmp_path: Path) -> None:
    from aios.hw.embed.gguf_model import GgufModel

    with pytest.raises(LoadError, match="no embedding model"):
        GgufModel(str(write(tmp_path / "m.gguf")))
    with pytest.raises(LoadError, match="cannot load"):
        GgufModel(str(write(tmp_path / "broken.gguf", arch="bert")))

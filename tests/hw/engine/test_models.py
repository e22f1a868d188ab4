"""Where a model's name leads."""

from __future__ import annotations

from pathlib import Path

import pytest

from aios.hw.engine import models


def test_names_and_paths(tmp_path: Path) -> None:
    (tmp_path / "tiny.gguf").write_bytes(b"GGUF")
    path = str(tmp_path / "tiny.gguf")
    assert models.resolve("tiny", tmp_path) == path
    assert models.resolve("tiny.gguf", tmp_path) == path
    assert models.resolve(path, Path("/nowhere")) == path
    assert models.resolve("fake:ctx=9", tmp_path) == "fake:ctx=9"
    assert models.list_models(tmp_path / "none") == []


def test_an_unknown_name_lists_what_there_is(tmp_path: Path) -> None:
    (tmp_path / "tiny.gguf").touch()
    with pytest.raises(LookupError, match="default, tiny"):
        models.resolve("huge", tmp_path)


def test_the_hash_tells_models_apart(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    a.write_bytes(b"x" * 3_000_000)
    b.write_bytes(b"x" * 2_999_999 + b"y")
    assert models.model_hash(a) != models.model_hash(b)
    assert models.model_hash(a) == models.model_hash(a)

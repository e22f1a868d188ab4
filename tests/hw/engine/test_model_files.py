"""Model files: names, and the hash."""

from __future__ import annotations

from pathlib import Path

import pytest

from aios.hw.engine import model_files


def test_names_and_paths_are_resolved(tmp_path: Path) -> None:
    (tmp_path / "tiny.gguf").write_bytes(b"GGUF")
    path = str(tmp_path / "tiny.gguf")
    assert model_files.resolve("tiny", tmp_path) == path
    assert model_files.resolve("tiny.gguf", tmp_path) == path
    assert model_files.resolve(path, Path("/nowhere")) == path
    assert model_files.resolve("fake:ctx=9", tmp_path) == "fake:ctx=9"
    assert model_files.list_models(tmp_path / "none") == []


def test_an_unknown_name_is_an_error_that_lists_the_known_ones(tmp_path: Path) -> None:
    (tmp_path / "tiny.gguf").touch()
    with pytest.raises(LookupError, match="default, tiny"):
        model_files.resolve("huge", tmp_path)


def test_the_hash_distinguishes_models(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    a.write_bytes(b"x" * 3_000_000)
    b.write_bytes(b"x" * 2_999_999 + b"y")
    assert model_files.model_hash(a) != model_files.model_hash(b)
    assert model_files.model_hash(a) == model_files.model_hash(a)

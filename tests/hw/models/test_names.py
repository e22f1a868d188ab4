"""Names of models: what each means, and which there are."""

from __future__ import annotations

from pathlib import Path

import pytest

from aios.hw.models import names
from tests.hw.models.gguf_maker import write_split


def test_names_and_paths_are_resolved(tmp_path: Path) -> None:
    (tmp_path / "tiny.gguf").write_bytes(b"GGUF")
    path = str(tmp_path / "tiny.gguf")
    assert names.resolve("tiny", tmp_path) == path
    assert names.resolve("tiny.gguf", tmp_path) == path
    assert names.resolve(path, Path("/nowhere")) == path
    assert names.resolve("fake:ctx=9", tmp_path) == "fake:ctx=9"
    assert names.list_models(tmp_path / "none") == []


def test_an_unknown_name_is_an_error_that_lists_the_known_ones(tmp_path: Path) -> None:
    (tmp_path / "tiny.gguf").touch()
    with pytest.raises(LookupError, match="default, tiny"):
        names.resolve("huge", tmp_path)


def test_any_part_and_the_name_of_all_parts_mean_the_first(tmp_path: Path) -> None:
    first, second = write_split(tmp_path, "m", [1, 1])
    listed = ["m", "m.gguf", first.name, second.name]
    for name in [*listed, str(first), str(second), str(tmp_path / "m")]:
        assert names.resolve(name, tmp_path) == str(first)
    assert names.list_models(tmp_path) == [first]
    assert names.resolve(str(tmp_path / "m.gguf"), Path("/nowhere")) == str(first)
    second.unlink()
    assert names.resolve(str(second), tmp_path) == str(first), "the check names what is missing"
    first.unlink()
    second.touch()
    assert names.resolve(str(second), tmp_path) == str(first)


def test_models_are_found_in_folders_of_the_models_folder(tmp_path: Path) -> None:
    for repo in ("you/chat", "me/chat", "me/only"):
        (tmp_path / repo).mkdir(parents=True)
        (tmp_path / repo / f"{repo[-4:]}.gguf").touch()
    assert dict(names.own(tmp_path)) == {
        "only": tmp_path / "me/only/only.gguf",
        "me/chat/chat": tmp_path / "me/chat/chat.gguf",
        "you/chat/chat": tmp_path / "you/chat/chat.gguf",
    }
    assert names.resolve("me/chat/chat", tmp_path) == str(tmp_path / "me/chat/chat.gguf")
    with pytest.raises(LookupError, match="2 models; name one of them: me/chat/chat, you/"):
        names.resolve("chat", tmp_path)


def test_hidden_folders_and_other_files_are_no_models(tmp_path: Path) -> None:
    (tmp_path / ".pull").mkdir()
    for path in (".pull/a.gguf", "notes.txt", "b.GGUF"):
        (tmp_path / path).touch()
    assert [path.name for path in names.list_models(tmp_path)] == ["b.GGUF"]

"""Model files: whole, cut, split, of another kind, and their hash."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import gguf
import pytest

from aios.hw.models import model_files
from aios.hw.models.gguf_header import read_header
from tests.hw.models.gguf_maker import write, write_split


def test_the_header_tells_what_is_in_a_file(tmp_path: Path) -> None:
    header = model_files.check(write(tmp_path / "m.gguf", tensors=2))
    assert header.architecture == "llama" and header.text("tokenizer.chat_template")
    assert header.lengths["tokenizer.ggml.tokens"] == 300
    assert "tokenizer.ggml.scores" not in header.values, "too long to be kept"
    assert header.number("llama.context_length") == 4096
    assert [tensor.elements for tensor in header.tensors] == [2048, 2048]
    assert header.needed_bytes == header.file_bytes
    assert model_files.kind(header) == "chat"


@pytest.mark.parametrize("kept", [0.1, 0.3, 0.6, 0.999])
def test_a_cut_file_is_called_that(tmp_path: Path, kept: float) -> None:
    path = write(tmp_path / "m.gguf")
    size = path.stat().st_size
    os.truncate(path, int(size * kept))
    problem = model_files.problem(path) or ""
    assert "is cut short" in problem and f"{path.stat().st_size:,}" in problem
    assert kept < 0.9 or f"{size:,}" in problem


def test_a_big_endian_file_is_called_that(tmp_path: Path) -> None:
    path = write(tmp_path / "m.gguf", endian=gguf.GGUFEndian.BIG)
    assert "big-endian" in (model_files.problem(path) or "")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"GGUF", "only 4 bytes"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "Git LFS"),
        (b"\n <!DOCTYPE HTML><html>sign in</html>" + b" " * 99, "web page"),
        (b"PK\x03\x04" + b"\0" * 99, "PyTorch"),
        (b"\x80\x02}q\0" + b"\0" * 99, "PyTorch"),
        (struct.pack("<Q", 40) + b'{"__metadata__":{}}' + b" " * 99, "safetensors"),
        (b"tjgg" + b"\0" * 99, "GGJT"),
        (b"\x1f\x8b\x08" + b"\0" * 99, "gunzip"),
        (b'{"error": "Invalid username or password."}', "JSON"),
        (b"\0" * 4096, "zeros"),
        (b"GGUF" + struct.pack("<IQQ", 1, 3, 3) + b"\0" * 99, "version 1"),
        (b"GGUF" + struct.pack("<IQQ", 9, 3, 3) + b"\0" * 99, "version 9"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 3) + b"\0" * 99, "damaged"),
        (b"hello, world, this is some text", "begins with b'hell'"),
    ],
)  # fmt: skip
def test_other_files_are_called_what_they_are(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(content)
    assert said in (model_files.problem(path) or "")


def test_what_is_no_file_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.gguf")
    assert "no regular file" in (model_files.problem(tmp_path / "pipe.gguf") or "")
    assert "folder" in (model_files.problem(tmp_path) or "")
    assert "No such file" in (model_files.problem(tmp_path / "none.gguf") or "")


@pytest.mark.parametrize(
    ("texts", "said"),
    [({"general.type": "adapter"}, "LoRA adapter"), ({"general.type": "mmproj"}, "images")],
)
def test_gguf_files_that_are_no_models(tmp_path: Path, texts: dict[str, str], said: str) -> None:
    assert said in (model_files.problem(write(tmp_path / "m.gguf", texts=texts)) or "")
    assert "only a vocabulary" in (model_files.problem(write(tmp_path / "v", tensors=0)) or "")


def test_models_that_do_not_chat(tmp_path: Path) -> None:
    bert = write(tmp_path / "bert.gguf", arch="bert")
    assert "aios.embed" in (model_files.chat_problem(bert) or "")
    last = write(tmp_path / "e.gguf", arch="qwen3", numbers={"qwen3.pooling_type": 3})
    assert model_files.kind(read_header(last)) == "embedding"
    rank = write(tmp_path / "r.gguf", arch="bert", numbers={"bert.pooling_type": 4})
    assert "reranker" in (model_files.chat_problem(rank) or "")
    assert model_files.chat_problem(write(tmp_path / "m.gguf")) is None


def test_a_split_model_is_checked_whole(tmp_path: Path) -> None:
    paths = write_split(tmp_path, "m", [0, 2, 3])
    os.truncate(paths[0], paths[0].stat().st_size - 3)  # padding before no tensors
    assert model_files.problem(paths[0]) is None
    assert model_files.size_bytes(paths[0]) == sum(path.stat().st_size for path in paths)
    os.truncate(paths[2], paths[2].stat().st_size - 8)
    assert f"{paths[2]} is cut short" in (model_files.problem(paths[0]) or "")
    paths[2].unlink()
    paths[1].rename(tmp_path / "elsewhere.gguf")
    problem = model_files.problem(paths[0]) or ""
    assert f"2 are missing: {paths[1].name}, {paths[2].name}" in problem


def test_parts_of_different_models_are_refused(tmp_path: Path) -> None:
    paths = write_split(tmp_path, "m", [1, 2])
    other = write_split(tmp_path, "other", [1, 3])
    other[1].replace(paths[1])
    assert "different models" in (model_files.problem(paths[0]) or "")
    paths[0].replace(paths[1])
    write_split(tmp_path, "m", [1, 2])
    paths[0].replace(paths[1])
    assert "No such file" in (model_files.problem(paths[0]) or "")
    swapped = write_split(tmp_path, "s", [1, 1])
    swapped[0].rename(tmp_path / "x")
    swapped[1].rename(swapped[0])
    (tmp_path / "x").rename(swapped[1])
    assert "is part 2 of 2, not 1 of 2" in (model_files.problem(swapped[0]) or "")


def test_a_part_under_another_name_says_which_name_it_needs(tmp_path: Path) -> None:
    first, _ = write_split(tmp_path, "m", [1, 1])
    renamed = first.rename(tmp_path / "mine.gguf")
    assert "NAME-00001-of-00002.gguf" in (model_files.problem(renamed) or "")


def test_a_whole_model_may_be_named_like_a_part(tmp_path: Path) -> None:
    path = write(tmp_path / "m-00001-of-00002.gguf")
    assert model_files.problem(path) is None and len(model_files.model_hash(path)) == 16


def test_the_hash_distinguishes_models(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    a.write_bytes(b"x" * 3_000_000)
    b.write_bytes(b"x" * 2_999_999 + b"y")
    assert model_files.model_hash(a) != model_files.model_hash(b)
    assert model_files.model_hash(a) == model_files.model_hash(a)


def test_the_hash_covers_every_part(tmp_path: Path) -> None:
    one, two = (tmp_path / name for name in ("one", "two"))
    for folder, seed in ((one, 1), (two, 2)):
        folder.mkdir()
        paths = write_split(folder, "m", [0, 1], seed)
        hashed = model_files.model_hash(paths[0])
        assert hashed == model_files.model_hash(paths[0])
    assert model_files.model_hash(one / paths[0].name) != hashed

"""Model files: their parts, whether they can be served, what for, their size and hash.

A model is one GGUF file, or several named ``NAME-00001-of-00003.gguf`` and so on; it goes by the
path of the first. Never loads a model and never imports llama.cpp, so the kernel may use it.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePath
from typing import Literal

import xxhash

from .gguf_header import Header, ModelFileError, read_header

_SAMPLE_BYTES = 1 << 20
_SAMPLES = 16
_PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf", re.IGNORECASE)
_MAX_PARTS = 1000
_ENCODERS = frozenset({
    "bert", "nomic-bert", "nomic-bert-moe", "modern-bert", "neo-bert", "jina-bert-v2",
    "jina-bert-v3", "eurobert", "t5encoder", "gemma-embedding",
})  # fmt: skip
"""Architectures that only embed."""
_RANK = 4
"""llama.cpp's pooling type of rerankers."""
_NO_MODELS = {
    "adapter": "is a LoRA adapter, no model; use it with one: aios model alias NAME MODEL --lora "
    "FILE",
    "mmproj": "is the part of a model that reads images; name the model's own file",
    "clip": "is the part of a model that reads images; name the model's own file",
    "imatrix": "is an importance matrix for quantising, no model; name the model's own file",
}
"""By ``general.type`` or architecture."""

Kind = Literal["chat", "embedding", "reranker"]


def parts(path: Path) -> list[Path]:
    """Return the files of a model in order: those that exist, by their names; else the path."""
    named = _PART.fullmatch(path.name)
    if not named or int(named[3]) > _MAX_PARTS:
        return [path]
    there = [each for n in range(1, int(named[3]) + 1) if (each := _part(path, n)).is_file()]
    return there or [path]


def first_part(path: Path) -> Path:
    """Return the path that a model goes by: the first part's, if the name is a part's."""
    return _part(path, 1) if _PART.fullmatch(path.name) else path


def stem(path: PurePath) -> str:
    """Return a model's short name: the file's, without ``.gguf`` and the number of the part."""
    named = _PART.fullmatch(path.name)
    if named:
        return named[1]
    return path.name[:-5] if path.name.lower().endswith(".gguf") else path.name


def part_count(path: PurePath) -> int:
    """Return the number of parts that a name speaks of; 0 if it is no part's."""
    named = _PART.fullmatch(path.name)
    return int(named[3]) if named else 0


def is_later_part(path: Path) -> bool:
    """Return True for a part of a split model that is not its first."""
    named = _PART.fullmatch(path.name)
    return named is not None and int(named[2]) != 1


def check(path: Path) -> Header:
    """Check that a model's files are there, whole, and fit together; return the first one's header.

    Raises ModelFileError.
    """
    first = read_header(path)
    refused = _NO_MODELS.get(first.text("general.type")) or _NO_MODELS.get(first.architecture)
    if refused:
        raise ModelFileError(f"{path} {refused}")
    all_parts = headers(first)
    for number, header in enumerate(all_parts):
        _check_part(header, number, len(all_parts))
    held = sum(len(header.tensors) for header in all_parts)
    promised = first.number("split.tensors.count", held)
    if held != promised:
        raise ModelFileError(
            f"{path}: its {len(all_parts)} parts hold {held} tensors; the model has {promised}, so "
            "the parts are of different models; download them again"
        )
    if not held:
        raise ModelFileError(f"{path} has no tensors, only a vocabulary; download the whole model")
    return first


def headers(first: Header) -> list[Header]:
    """Return the headers of all parts of a model, the first included. Raises ModelFileError."""
    return [first, *(read_header(each) for each in _later_parts(first))]


def problem(path: Path) -> str | None:
    """Return why a model's files cannot be served, or None if they look right."""
    try:
        check(path)
    except ModelFileError as error:
        return str(error)
    return None


def chat_problem(path: Path) -> str | None:
    """Return why a model cannot generate text, as far as its files show, or None."""
    try:
        header = check(path)
    except ModelFileError as error:
        return str(error)
    use = kind(header)
    if use == "embedding":
        return (
            f"{path} is an embedding model ({header.architecture}), which generates no text; use "
            "aios.embed(texts, model=...), and for chats name another: aios model ls"
        )
    if use == "reranker":
        return f"{path} is a reranker ({header.architecture}), which generates no text"
    return None


def kind(header: Header) -> Kind:
    """Return what a model is for."""
    pooling = header.number(f"{header.architecture}.pooling_type")
    if pooling == _RANK:
        return "reranker"
    return "embedding" if pooling or header.architecture in _ENCODERS else "chat"


def size_bytes(path: Path) -> int:
    """Return the size of a model's files. Raises OSError."""
    return sum(each.stat().st_size for each in parts(path))


def weights_bytes(path: str) -> int:
    """Return the size of a model's files; 0 if they cannot be read, and for the fake model."""
    try:
        return size_bytes(Path(path))
    except OSError:
        return 0


def model_hash(path: Path) -> str:
    """Hash a model: each file's size, and 16 samples of 1 MiB from its start to its end.

    Large files take no longer than small ones. Raises OSError.
    """
    digest = xxhash.xxh3_64()
    for part in parts(path):
        size = part.stat().st_size
        digest.update(str(size).encode())
        with part.open("rb") as file:
            for index in range(_SAMPLES):
                file.seek(max(0, (size - _SAMPLE_BYTES) * index // (_SAMPLES - 1)))
                digest.update(file.read(_SAMPLE_BYTES))
    return str(digest.hexdigest())


def _part(path: Path, number: int) -> Path:
    """Return the path of another part of the model that a part belongs to."""
    named = _PART.fullmatch(path.name)
    assert named
    return path.with_name(f"{named[1]}-{number:05d}-of-{named[3]}{path.name[-5:]}")


def _later_parts(first: Header) -> list[Path]:
    """Return the parts after the first, by the header's word. Raises ModelFileError."""
    path, count = first.path, first.number("split.count")
    if count <= 1:
        return []
    named = _PART.fullmatch(path.name)
    if not named or int(named[3]) != count:
        raise ModelFileError(
            f"{path} is part {first.number('split.no') + 1} of a model in {count} files; give them "
            f"their names again: NAME-00001-of-{count:05d}.gguf and so on"
        )
    missing = [n for n in range(2, count + 1) if not _part(path, n).is_file()]
    if missing:
        raise ModelFileError(
            f"{path.parent / stem(path)} is in {count} parts, of which {len(missing)} are missing: "
            f"{', '.join(_part(path, n).name for n in missing[:8])}"
            f"{' …' if missing[8:] else ''}; download them to the same folder"
        )
    return [_part(path, n) for n in range(2, count + 1)]


def _check_part(header: Header, number: int, count: int) -> None:
    if header.needed_bytes > header.file_bytes:
        raise ModelFileError(
            f"{header.path} is cut short: it has {header.file_bytes:,} of {header.needed_bytes:,} "
            "bytes; download it again (aios model pull continues where it stopped)"
        )
    told = header.number("split.no"), max(1, header.number("split.count"))
    if told != (number, count):
        raise ModelFileError(
            f"{header.path} says that it is part {told[0] + 1} of {told[1]}, not {number + 1} of "
            f"{count}; download the parts again"
        )

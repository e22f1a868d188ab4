"""Small GGUF files for tests, made with the package gguf."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np


def write(
    path: Path,
    *,
    arch: str = "llama",
    tensors: int = 3,
    split: tuple[int, int, int] | None = None,
    texts: dict[str, str] | None = None,
    numbers: dict[str, int] | None = None,
    endian: gguf.GGUFEndian = gguf.GGUFEndian.LITTLE,
    seed: int = 0,
) -> Path:
    """Write a file that has a header and some tensors but is no real model.

    ``split``: split.no, split.count, split.tensors.count.
    """
    writer = gguf.GGUFWriter(path, arch, endianess=endian)
    writer.add_name(path.name)
    writer.add_context_length(4096)
    writer.add_token_list([f"token{n}" for n in range(300)])
    writer.add_token_scores([0.5] * 5000)
    writer.add_chat_template("{{ messages }}")
    if split:
        writer.add_uint16("split.no", split[0])
        writer.add_uint16("split.count", split[1])
        writer.add_int32("split.tensors.count", split[2])
    for key, text in (texts or {}).items():
        writer.add_string(key, text)
    for key, number in (numbers or {}).items():
        writer.add_uint32(key, number)
    random = np.random.default_rng(seed)
    for n in range(tensors):
        writer.add_tensor(f"blk.{n}.weight", random.standard_normal((32, 64), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_split(folder: Path, name: str, counts: list[int], seed: int = 0) -> list[Path]:
    """Write a model in parts with these numbers of tensors."""
    total = len(counts)
    paths = [folder / f"{name}-{n:05d}-of-{total:05d}.gguf" for n in range(1, total + 1)]
    for n, (path, count) in enumerate(zip(paths, counts, strict=True)):
        write(path, tensors=count, split=(n, total, sum(counts)), seed=seed + n)
    return paths

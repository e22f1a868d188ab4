"""The models on this disk, described from their files alone; no kernel is needed.

``python -m aios.hw.models.catalog ls|show …`` prints JSON for the command line.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec

from . import model_files, names
from .gguf_header import FORMATS, Header, ModelFileError


class Described(msgspec.Struct, frozen=True):
    """One model. ``problem``: why it cannot be served; the fields that need its header are then
    empty. ``where``: ``built in``, ``own`` (the models folder), or the program whose store it is
    in. ``parameters``: number of weights. ``context_tokens``: the length it was trained for."""

    name: str
    path: str
    where: str
    size_bytes: int = 0
    kind: str = ""
    architecture: str = ""
    title: str = ""
    parameters: int = 0
    format: str = ""
    context_tokens: int = 0
    template: bool = False
    parts: int = 1
    problem: str = ""


def describe(name: str, path: Path, where: str) -> Described:
    """Describe a model from its files."""
    files = model_files.parts(path)
    try:
        size = model_files.size_bytes(path)
        header = model_files.check(path)
    except ModelFileError as error:
        return Described(name, str(path), where, size, problem=str(error), parts=len(files))
    except OSError as error:
        problem = f"cannot read {path}: {error.strerror}"
        return Described(name, str(path), where, problem=problem)
    arch = header.architecture
    tensors = [tensor for each in model_files.headers(header) for tensor in each.tensors]
    return Described(
        name=name, path=str(path), where=where, size_bytes=size, kind=model_files.kind(header),
        architecture=arch, title=header.text("general.name"), parts=len(files),
        parameters=sum(tensor.elements for tensor in tensors), format=weight_format(header),
        context_tokens=header.number(f"{arch}.context_length"),
        template="tokenizer.chat_template" in header.values,
    )  # fmt: skip


def weight_format(header: Header) -> str:
    """Return the name of the format of a model's weights, as files are named for it: Q4_K_M."""
    known = _FILE_TYPES.get(header.number("general.file_type", -1))
    if known:
        return known
    sizes: Counter[str] = Counter()
    for tensor in header.tensors:
        sizes[FORMATS.get(tensor.kind, ("?", 1, 0))[0]] += tensor.size_bytes
    return sizes.most_common(1)[0][0] if sizes else ""


_FILE_TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K",
    11: "Q3_K_S", 12: "Q3_K_M", 13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S",
    17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS", 20: "IQ2_XS", 21: "Q2_K_S", 22: "IQ3_XS",
    23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S", 29: "IQ2_M",
    30: "IQ4_XS", 31: "IQ1_M", 32: "BF16", 36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4", 39: "NVFP4",
    40: "Q1_0",
}  # fmt: skip
"""llama.cpp's file types."""


def listed(folder: Path) -> Iterator[Described]:
    """Describe the built-in model and those in the models folder."""
    try:
        yield describe("default", Path(names.resolve("default", folder)), "built in")
    except LookupError as error:
        yield Described("default", "", "built in", problem=str(error.args[0]))
    for name, path in names.own(folder):
        yield describe(name, path, "own")


def main() -> int:
    """Print what the command line asks for."""
    parser = argparse.ArgumentParser(prog="aios-models")
    parser.add_argument("action", choices=("ls",))
    parser.add_argument("--models", type=Path, required=True)
    options = parser.parse_args()
    json.dump(msgspec.to_builtins(list(listed(options.models))), sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())

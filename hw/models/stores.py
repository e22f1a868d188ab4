"""Models that other programs keep on this disk: Ollama, LM Studio, llama.cpp, Hugging Face.

They are used in place and never changed. What a store holds is read from it each time; what is
damaged there, or too much, is left out.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path

from . import model_files

MAX_FILES = 10_000
"""Limit on what is looked at in one store."""
_MAX_MANIFEST_BYTES = 1 << 20
_MODEL_LAYER = "application/vnd.ollama.image.model"
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")

Found = Iterator[tuple[str, Path]]
"""Names, without the store's, and paths."""


def walk(folder: Path, depth: int) -> Iterator[Path]:
    """Yield the GGUF files in a folder and ``depth`` levels of folders in it, not hidden ones;
    of a split model the first part. In order."""
    return islice(_walk(folder, depth), MAX_FILES)


def _walk(folder: Path, depth: int) -> Iterator[Path]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        path = folder / entry.name
        if entry.name.startswith("."):
            continue
        if entry.name.lower().endswith(".gguf") and entry.is_file():
            if not model_files.is_later_part(path):
                yield path
        elif depth and entry.is_dir():
            yield from _walk(path, depth - 1)


def ollama() -> Found:
    """Yield Ollama's models as it names them: ``qwen2.5:0.5b``, ``user/model:tag``."""
    for root in _ollama_folders():
        manifests = root / "manifests"
        for path in islice(sorted(manifests.rglob("*")), MAX_FILES):
            steps = path.relative_to(manifests).parts
            blob = _model_blob(path, root) if len(steps) >= 3 and path.is_file() else None
            if blob:
                host, *middle, tag = steps
                if host == "registry.ollama.ai":
                    middle = middle[1:] if middle[0] == "library" else middle
                else:
                    middle = [host, *middle]
                yield f"{'/'.join(middle)}:{tag}", blob


def _ollama_folders() -> list[Path]:
    named = os.environ.get("OLLAMA_MODELS")
    if named:
        return [Path(named)]
    return [Path.home() / ".ollama/models", Path("/usr/share/ollama/.ollama/models")]


def _model_blob(manifest: Path, root: Path) -> Path | None:
    """Return the file of weights that a manifest names."""
    try:
        if manifest.stat().st_size > _MAX_MANIFEST_BYTES:
            return None
        layers = json.loads(manifest.read_bytes())["layers"]
        digests = [each["digest"] for each in layers if each["mediaType"] == _MODEL_LAYER]
        found = _DIGEST.fullmatch(digests[0]) if len(digests) == 1 else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    blob = root / "blobs" / f"sha256-{found[1]}" if found else None
    return blob if blob and blob.is_file() else None


def lm_studio() -> Found:
    """Yield LM Studio's models: ``PUBLISHER/REPO/NAME``."""
    for folder in (".lmstudio/models", ".cache/lm-studio/models"):
        root = Path.home() / folder
        for path in walk(root, 2):
            yield str(path.relative_to(root).parent / model_files.stem(path)), path


def llama_cpp() -> Found:
    """Yield what llama.cpp's programs have downloaded, by the files' names."""
    named = os.environ.get("LLAMA_CACHE")
    for path in walk(Path(named) if named else _cache() / "llama.cpp", 0):
        yield model_files.stem(path), path


def hugging_face() -> Found:
    """Yield the GGUF files in the Hugging Face cache: ``OWNER/REPO/FILE.gguf``, of the newest
    commit that it has of each."""
    for repo in sorted(_hub_cache().glob("models--*--*")):
        owner, _, name = repo.name.removeprefix("models--").partition("--")
        found: dict[str, Path] = {}
        for snapshot in _snapshots(repo):
            for path in walk(snapshot, 2):
                found.setdefault(str(path.relative_to(snapshot)), path)
        yield from ((f"{owner}/{name}/{file}", path) for file, path in sorted(found.items()))


def _snapshots(repo: Path) -> list[Path]:
    """Return a repository's snapshots, that of the branch ``main`` first, then the newest."""
    try:
        main = (repo / "refs/main").read_text("ascii")[:100]
    except (OSError, UnicodeDecodeError):
        main = ""
    there = [each for each in repo.glob("snapshots/*") if each.is_dir()]
    return sorted(there, key=lambda each: (each.name != main, -each.stat().st_mtime))


def _hub_cache() -> Path:
    if named := os.environ.get("HF_HUB_CACHE"):
        return Path(named)
    home = os.environ.get("HF_HOME")
    return (Path(home) if home else _cache() / "huggingface") / "hub"


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME", "")
    return Path(base) if base.startswith("/") else Path.home() / ".cache"


STORES: Mapping[str, tuple[str, Callable[[], Found]]] = {
    "ollama": ("Ollama", ollama),
    "lmstudio": ("LM Studio", lm_studio),
    "llamacpp": ("llama.cpp", llama_cpp),
    "hf": ("Hugging Face cache", hugging_face),
}
"""By the beginning of its models' names: what people call the store, and what is in it."""

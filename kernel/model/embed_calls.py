"""The call ``llm.embed``: texts to vectors, by the kernel's embedder or by a model that is named.

A named model runs in an embedder process of its own, which is started when it is needed and ended
when it is idle. Files are looked at in a worker.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from aios.hw.models import model_files, names
from aios.hw.models.gguf_header import ModelFileError
from aios.kernel.access.manager import AccessManager
from aios.kernel.loop.worker import Worker
from aios.kernel.retrieval.embedder import Embedder
from aios.kernel.trap.pending import Handler, Pending
from aios.syscalls.errors import InvalidArgument, ModelUnavailable, ResourceExhausted
from aios.syscalls.types.chat import EmbedReply, EmbedRequest

MAX_EMBEDDERS = 8
"""Limit on embedding models in use at one time."""
_CURE = "leave out model=, or name an embedding model: aios model ls"


class EmbedCalls:
    """The handler, and the embedders of named models."""

    def __init__(
        self,
        access: AccessManager,
        embedder: Embedder,
        folder: Path,
        worker: Worker,
        make: Callable[[str], Embedder],
        memory_bytes: int | None,
    ) -> None:
        """``embedder`` is the kernel's own; ``make`` makes the one of a file."""
        self._access, self._own, self._folder, self._worker = access, embedder, folder, worker
        self._make, self._memory_bytes = make, memory_bytes
        self._by_path: dict[str, Embedder] = {}
        self.handlers: dict[str, Handler] = {"llm.embed": self._embed}

    def embedders(self) -> Iterable[Embedder]:
        """Return the embedders of named models."""
        return self._by_path.values()

    def close(self) -> None:
        """End their processes."""
        for each in self._by_path.values():
            each.close()

    async def _embed(self, call: Pending, body: EmbedRequest) -> EmbedReply:
        name = body.model
        path = await self._worker.run(lambda: self._path(name)) if name is not None else ""
        asked = model_files.stem(Path(path)) if path else "embedder"
        self._access.check(call.asker, "model", "use", asked)
        embedder = self._find(path) if path else self._own
        cut: list[int] = []
        vectors = await embedder.embed(body.texts, body.kind, cut)
        return EmbedReply(vectors, len(vectors[0]) // 4, name or embedder.model, sorted(cut))

    def _path(self, name: str) -> str:
        """Return the file of an embedding model; in the worker. Raises AiosError."""
        try:
            path, lora = names.find(name, self._folder)
        except LookupError as error:
            raise ModelUnavailable(str(error.args[0]), "models: aios model ls") from None
        if path.startswith("fake") or lora:
            raise InvalidArgument(f"{name} is a chat model, which embeds no texts", _CURE)
        try:
            kind = model_files.kind(model_files.check(Path(path)))
        except ModelFileError as error:
            raise ModelUnavailable(str(error), _CURE) from None
        if kind != "embedding":
            raise InvalidArgument(f"{name} is a {kind} model, which embeds no texts", _CURE)
        size = model_files.weights_bytes(path)
        if self._memory_bytes is not None and size > self._memory_bytes:
            raise ModelUnavailable(
                f"model {name} needs {size:,} bytes; the budget for models is "
                f"{self._memory_bytes:,}", "raise it: aios daemon restart --memory N",
            )  # fmt: skip
        return path

    def _find(self, path: str) -> Embedder:
        """Return the embedder of a file. Raises ResourceExhausted."""
        if path not in self._by_path:
            if len(self._by_path) >= MAX_EMBEDDERS:
                idle = [each for each, embedder in self._by_path.items() if not embedder.os_pid]
                for each in idle:
                    self._by_path.pop(each).close()
            if len(self._by_path) >= MAX_EMBEDDERS:
                raise ResourceExhausted(
                    f"{MAX_EMBEDDERS} embedding models are in use, which is the limit",
                    "try again when one has been idle for a minute",
                )
            self._by_path[path] = self._make(path)
        return self._by_path[path]

"""``aios.embed``: vectors of the meaning of texts."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Sequence
from typing import Literal

from aios.syscalls.errors import InvalidArgument
from aios.syscalls.types.chat import EmbedReply, EmbedRequest

from . import session


def embed(
    texts: Sequence[str],
    *,
    model: str | None = None,
    kind: Literal["passage", "query"] = "passage",
    timeout: float | None = None,
) -> list[list[float]]:
    """Return a vector for each of up to 1,024 texts. All have length 1: the product of two is the
    cosine of their angle.

    ``model``: an embedding model (``aios model ls`` shows which are); None: the kernel's own.
    ``kind``: ``query`` for a text to search with; only the kernel's own model tells them apart. Of
    a text that is too long for the model its beginning counts. ``timeout`` in seconds, 300 by
    default. Raises InvalidArgument for a model that is no embedding model, ModelUnavailable,
    ResourceExhausted, DeadlineExceeded, KernelUnavailable.
    """
    if isinstance(texts, str):
        raise InvalidArgument("texts is a single text", "give a list: aios.embed([text])")
    body = EmbedRequest(list(texts), model, kind)
    reply = session.call("llm.embed", body, EmbedReply, timeout)
    return [_floats(data) for data in reply.vectors]


def _floats(data: bytes) -> list[float]:
    values = array("f", data)
    if sys.byteorder == "big":
        values.byteswap()
    return values.tolist()

"""Request and reply types of ``trace.read``: what ran when, and for whom."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from .chat import Timing


class TraceRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Records of the newest slices and requests, as many as one message carries. ``seen``: what the
    reply before said, to go on from there; ``clear`` forgets what was told."""

    seen: dict[str, tuple[Annotated[int, Meta(ge=0)], Annotated[int, Meta(ge=0)]]] = {}
    clear: bool = False


class OpRecord(msgspec.Struct, frozen=True, array_like=True):
    """A context was moved: ``save``, ``load``, ``copy`` or ``spill``, for a request (0: a cache).

    ``size_bytes`` and ``seconds`` as the core measured them.
    """

    kind: str
    pid: int
    request_id: int
    tokens: int
    size_bytes: int
    seconds: float
    ok: bool


class SliceRecord(msgspec.Struct, frozen=True):
    """One slice: ``rows`` are (kernel pid, request id, tokens generated, prompt tokens computed);
    ``ops`` were done at its beginning."""

    model: str
    start_s: float
    end_s: float
    steps: int
    rows: list[tuple[int, int, int, int]]
    ops: list[OpRecord] = []


class RequestRecord(msgspec.Struct, frozen=True):
    """One finished request. ``outcome``: ``done`` or an error code; ``digest``: of its tokens."""

    request_id: int
    pid: int
    name: str
    model: str
    outcome: str
    prompt_tokens: int
    completion_tokens: int
    digest: str
    timing: Timing
    cached_tokens: int = 0


class TraceReply(msgspec.Struct, frozen=True):
    """Of each model the oldest first; ``dropped`` older slices are forgotten. ``more``: ask for
    those that follow. ``seen``: numbers of the slice and the request that do, by model."""

    requests: list[RequestRecord]
    slices: list[SliceRecord]
    dropped: int
    more: bool = False
    seen: dict[str, tuple[int, int]] = {}

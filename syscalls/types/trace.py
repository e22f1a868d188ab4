"""Request and reply types of ``trace.read``: records of slices and requests."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from .chat import Timing


class TraceRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Read records of the newest slices and requests, as many as fit one message. ``seen``: from
    the previous reply, to continue there. ``clear`` forgets the records that are returned."""

    seen: dict[str, tuple[Annotated[int, Meta(ge=0)], Annotated[int, Meta(ge=0)]]] = {}
    clear: bool = False


class OpRecord(msgspec.Struct, frozen=True, array_like=True):
    """A move of a context: ``save``, ``load``, ``copy`` or ``spill``, for a request (0: a cache).
    The core measures ``size_bytes`` and ``seconds``."""

    kind: str
    pid: int
    request_id: int
    tokens: int
    size_bytes: int
    seconds: float
    ok: bool


class SliceRecord(msgspec.Struct, frozen=True):
    """One slice. ``rows``: (kernel pid, request id, tokens generated, prompt tokens computed).
    ``ops``: moves at its beginning."""

    model: str
    start_s: float
    end_s: float
    steps: int
    rows: list[tuple[int, int, int, int]]
    ops: list[OpRecord] = []


class RequestRecord(msgspec.Struct, frozen=True):
    """One finished request. ``outcome``: ``done`` or an error code. ``digest``: hash of its
    tokens."""

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
    """Records of each model, oldest first. ``dropped``: number of older slices forgotten. ``more``:
    others follow; ask for them with ``seen`` (by model, the numbers of the next slice and
    request)."""

    requests: list[RequestRecord]
    slices: list[SliceRecord]
    dropped: int
    more: bool = False
    seen: dict[str, tuple[int, int]] = {}

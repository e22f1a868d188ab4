"""Request and reply types of the storage calls: ``fs.*``, ``kv.*`` and ``storage.*``.

A path is of the caller's own tree: ``/`` is its home, ``/shared/OWNER/…`` what others share with
it, ``/mnt/NAME/…`` a folder of the host that the operator has mounted for it. The operator's tree
has every agent's home: ``/AGENT/…``. Sizes are bytes, times seconds since the epoch.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from .common import Name

MAX_PART_BYTES = 4 << 20
"""Most content in one call; larger files go in several."""
MAX_LISTED = 1000
MAX_VALUE_BYTES = 64 << 10
"""Largest value of ``kv``, packed."""

FilePath = Annotated[str, Meta(min_length=1, max_length=4096)]
HostPath = Annotated[str, Meta(min_length=1, max_length=4096, pattern="^/")]
Part = Annotated[bytes, Meta(max_length=MAX_PART_BYTES)]
Version = Annotated[int, Meta(ge=0, le=1 << 62)]
Offset = Annotated[int, Meta(ge=0, le=1 << 62)]
Limit = Annotated[int, Meta(ge=1, le=MAX_LISTED)]
Key = Annotated[str, Meta(min_length=1, max_length=512)]
Grantee = Annotated[
    str, Meta(min_length=1, max_length=64, pattern=r"^(\*|[A-Za-z0-9][A-Za-z0-9_.-]*)\Z")
]
Rights = Literal["read", "write"]


class FileInfo(msgspec.Struct, frozen=True):
    """A file or folder. ``version`` is 0 for folders and on mounts, which keep no versions.
    ``by``: the agent that wrote it last. ``damaged``: what is recorded of it is not what was
    written, so none of this is certain; only lists show it."""

    path: str
    kind: Literal["file", "folder"]
    size_bytes: int
    version: int
    changed_unix: float
    by: str
    damaged: bool = False


class FsWrite(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Replace a file's content, or append to it; folders above it are made.

    ``expect``: the version that the file must have now, 0 for none; otherwise VERSION_CONFLICT.
    Without it the last writer wins, and the other's content is the version before.
    """

    path: FilePath
    data: Part
    append: bool = False
    expect: Version | None = None


class FsRead(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A piece of a file's content; ``version`` None: the newest."""

    path: FilePath
    offset: Offset = 0
    length: Annotated[int, Meta(ge=0, le=MAX_PART_BYTES)] = MAX_PART_BYTES
    version: Version | None = None


class FsData(msgspec.Struct, frozen=True):
    """``data`` is shorter than asked for only at the end of the file."""

    info: FileInfo
    data: bytes


class FsPath(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One path."""

    path: FilePath


class FsList(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A folder's entries in order of name, those after the name ``after``."""

    path: FilePath = "/"
    after: Annotated[str, Meta(max_length=4096)] = ""
    limit: Limit = MAX_LISTED


class FsEntries(msgspec.Struct, frozen=True):
    """``more``: there are further ones, to be asked for with ``after``."""

    entries: list[FileInfo]
    more: bool


class FsMove(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Rename within one tree: a home, or a mount. The target must not exist."""

    source: FilePath
    target: FilePath


class FsDelete(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Delete. The versions stay, and bring it back, until they are pruned; mounts have none.
    ``recursive``: a folder with all that is in it."""

    path: FilePath
    recursive: bool = False


class VersionInfo(msgspec.Struct, frozen=True):
    """One kept version. ``how``: write, append, rollback, move or delete. ``damaged``: this record
    of it is not what was written."""

    version: int
    size_bytes: int
    written_unix: float
    by: str
    how: str
    damaged: bool = False


class FsVersions(msgspec.Struct, frozen=True):
    """Newest first."""

    path: str
    versions: list[VersionInfo]


class FsRollback(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Make a new version with the content of an old one; brings a deleted file back, too."""

    path: FilePath
    version: Annotated[int, Meta(ge=1, le=1 << 62)]


class FsPrune(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Forget old versions under a path for good; each file keeps its newest ``keep``.
    A deleted file is forgotten when only its deletion would be kept."""

    path: FilePath = "/"
    keep: Annotated[int, Meta(ge=1, le=1 << 20)] = 1


class FsPruned(msgspec.Struct, frozen=True):
    """What was forgotten."""

    versions: int
    freed_bytes: int


class FsBegin(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Begin to write a file in parts. Nothing shows before ``fs.end``."""

    path: FilePath
    expect: Version | None = None


class FsUpload(msgspec.Struct, frozen=True):
    """A file being written; it is the caller's and ends with it."""

    upload: int


class FsPart(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The next part."""

    upload: int
    data: Part


class FsEnd(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file becomes what the parts make (``fs.end``), or they are dropped (``fs.drop``)."""

    upload: int


class FsShare(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Let an agent (``*``: every one) see a file or folder, and with ``write`` change it too.

    The grant is of the path: it holds for whatever is there later. ``rights`` None takes it back.
    """

    path: FilePath
    with_: Grantee
    rights: Rights | None = "read"


class FsShared(msgspec.Struct, frozen=True):
    """``unused``: nobody has used the agent's name yet, so whoever's agent uses it first has the
    grant. False when a grant is taken back, and for ``*``."""

    unused: bool


class ShareInfo(msgspec.Struct, frozen=True):
    """One grant. ``path`` in the owner's home; others find it under ``/shared/OWNER``."""

    owner: str
    path: str
    with_: str
    rights: Rights


class FsShares(msgspec.Struct, frozen=True):
    """What the caller shares, then what is shared with it."""

    given: list[ShareInfo]
    received: list[ShareInfo]


class FsSearch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Find passages in text files under a path of the caller's home or of what it was given.

    ``/``: its home and its mounts; ``/mnt``: all mounts; ``/mnt/NAME``: one of them.
    ``mode``: ``keyword`` (BM25), ``semantic`` (by meaning) or ``auto``: both where semantic search
    is available, keyword otherwise.
    """

    query: Annotated[str, Meta(min_length=1, max_length=4096)]
    path: FilePath = "/"
    limit: Annotated[int, Meta(ge=1, le=100)] = 10
    mode: Literal["auto", "keyword", "semantic"] = "auto"


class SearchHit(msgspec.Struct, frozen=True):
    """A passage, best first. ``version``: 0 on a mount. ``offset`` in characters of the file's
    text. Scores of one reply compare with each other only: higher is better."""

    path: str
    version: int
    offset: int
    text: str
    score: float


class FsFound(msgspec.Struct, frozen=True):
    """``mode``: how it was found; ``note`` says why it was not as asked, and what was not searched:
    what is not indexed yet, or of mounts is beyond a bound."""

    hits: list[SearchHit]
    mode: Literal["keyword", "semantic", "mixed"]
    note: str = ""


class FsUsage(msgspec.Struct, frozen=True):
    """What an agent's home takes. ``old_bytes`` of ``used_bytes`` are in old versions and deleted
    files, and can be freed by pruning."""

    owner: str
    files: int
    used_bytes: int
    old_bytes: int
    quota_bytes: int


# ------------------------------------------------------------------------------ small values


class KvKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One key."""

    key: Key


class KvSet(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Any value that msgpack can carry. ``expect``: as for files."""

    key: Key
    value: Any
    expect: Version | None = None


class KvEntry(msgspec.Struct, frozen=True):
    """``version`` counts the writes of this key; a deleted key begins anew."""

    key: str
    version: int
    changed_unix: float
    value: Any = None


class KvDelete(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Forget a value."""

    key: Key
    expect: Version | None = None


class KvList(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Keys that begin with ``prefix``, after ``after``, in order."""

    prefix: Annotated[str, Meta(max_length=512)] = ""
    after: Annotated[str, Meta(max_length=512)] = ""
    limit: Limit = MAX_LISTED


class KvKeys(msgspec.Struct, frozen=True):
    """``more``: there are further ones."""

    keys: list[str]
    more: bool


# ------------------------------------------------------------------------------ the operator's


class MountRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Show a folder of the host to an agent as ``/mnt/NAME``. ``folder`` None takes it away."""

    agent: Name
    name: Name
    folder: HostPath | None
    writable: bool = False


class MountInfo(msgspec.Struct, frozen=True):
    """One mount."""

    agent: str
    name: str
    folder: str
    writable: bool


class MountList(msgspec.Struct, frozen=True):
    """In order of agent and name."""

    mounts: list[MountInfo]


class QuotaRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``quota_bytes`` None: the kernel's setting again."""

    agent: Name
    quota_bytes: Annotated[int, Meta(ge=0, le=1 << 60)] | None


class StorageStatus(msgspec.Struct, frozen=True):
    """``state``: opening, ready, damaged (in part: the rest goes on), failed. ``reason``: of the
    last two. ``damage``: what is known of it. ``store``: where large content goes.
    ``pending_garbage``: blobs that nothing needs and that are about to be deleted."""

    state: Literal["opening", "ready", "damaged", "failed"]
    reason: str
    folder: str
    store: str
    semantic: bool
    pending_garbage: int
    homes: list[FsUsage]
    damage: list[str] = []


class StorageCheck(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``content``: read every blob and the index of search, too. ``repair``: mend what can be
    mended."""

    content: bool = True
    repair: bool = False


class StorageReport(msgspec.Struct, frozen=True):
    """``problems`` name what is wrong; ``mended`` what repair did about it."""

    files: int
    versions: int
    blobs: int
    problems: list[str]
    mended: list[str] = []


class StorageBackup(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Copy everything, as it is at one moment, into a new folder of the host."""

    folder: HostPath


class BackupReply(msgspec.Struct, frozen=True):
    """What the backup holds."""

    folder: str
    files: int
    size_bytes: int

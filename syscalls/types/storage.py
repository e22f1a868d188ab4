"""Request and reply types of ``fs.*``, ``kv.*`` and ``storage.*``.

A path is in the caller's own tree: ``/`` is its home, ``/shared/OWNER/…`` what others share with
it, ``/mnt/NAME/…`` a folder of the host that the operator has mounted. The operator's tree has the
homes of all agents: ``/AGENT/…``. Sizes are in bytes, times in seconds since the epoch.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from .common import Name

MAX_PART_BYTES = 4 << 20
"""Limit on content in one call; a larger file takes several calls."""
MAX_LISTED = 1000
"""Limit on the entries of one page."""
MAX_VALUE_BYTES = 64 << 10
"""Limit on one value of ``kv``, packed."""

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
    """A file or folder. ``version``: 0 for folders and on mounts, which keep no versions. ``by``:
    the agent that wrote it last. ``damaged``: its record has a wrong checksum, so no field is
    certain; only lists show such entries."""

    path: str
    kind: Literal["file", "folder"]
    size_bytes: int
    version: int
    changed_unix: float
    by: str
    damaged: bool = False


class FsWrite(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Replace a file's content, or append to it. Missing folders are created.

    ``expect``: the version that the file must have now, 0 for none; otherwise the call fails with
    VERSION_CONFLICT. Without it the last writer wins, and the other's content is the version
    before.
    """

    path: FilePath
    data: Part
    append: bool = False
    expect: Version | None = None


class FsRead(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Read a part of a file's content; ``version`` None: the newest."""

    path: FilePath
    offset: Offset = 0
    length: Annotated[int, Meta(ge=0, le=MAX_PART_BYTES)] = MAX_PART_BYTES
    version: Version | None = None


class FsData(msgspec.Struct, frozen=True):
    """Content of a file. ``data`` is shorter than requested only at the end of the file."""

    info: FileInfo
    data: bytes


class FsPath(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One path."""

    path: FilePath


class FsList(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """List a folder's entries in order of name, from the first after ``after``."""

    path: FilePath = "/"
    after: Annotated[str, Meta(max_length=4096)] = ""
    limit: Limit = MAX_LISTED


class FsEntries(msgspec.Struct, frozen=True):
    """A page of entries. ``more``: others follow; ask for them with ``after``."""

    entries: list[FileInfo]
    more: bool


class FsMove(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Rename within one tree: a home or a mount. The target must not exist."""

    source: FilePath
    target: FilePath


class FsDelete(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Delete a file; its versions stay, and can bring it back, until they are pruned (none on
    mounts). ``recursive``: a folder and all in it."""

    path: FilePath
    recursive: bool = False


class VersionInfo(msgspec.Struct, frozen=True):
    """One version of a file. ``how``: write, append, rollback, move or delete. ``damaged``: its
    record has a wrong checksum."""

    version: int
    size_bytes: int
    written_unix: float
    by: str
    how: str
    damaged: bool = False


class FsVersions(msgspec.Struct, frozen=True):
    """Versions of a file, newest first."""

    path: str
    versions: list[VersionInfo]


class FsRollback(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Make a new version with the content of an old one. Also brings a deleted file back."""

    path: FilePath
    version: Annotated[int, Meta(ge=1, le=1 << 62)]


class FsPrune(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Forget old versions below a path for good; each file keeps its newest ``keep``. A deleted
    file is forgotten when only its deletion would be kept."""

    path: FilePath = "/"
    keep: Annotated[int, Meta(ge=1, le=1 << 20)] = 1


class FsPruned(msgspec.Struct, frozen=True):
    """The versions that were removed."""

    versions: int
    freed_bytes: int


class FsBegin(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Begin to write a file in parts. Nothing is visible before ``fs.end``."""

    path: FilePath
    expect: Version | None = None


class FsUpload(msgspec.Struct, frozen=True):
    """A file being written. It belongs to the caller and is dropped when the caller ends."""

    upload: int


class FsPart(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The next part of an upload."""

    upload: int
    data: Part


class FsEnd(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Make the parts the file's content (``fs.end``), or drop them (``fs.drop``)."""

    upload: int


class FsShare(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Let an agent (``*``: all) read a file or folder, and with ``write`` change it.

    The grant is for the path, and holds for anything there later. ``rights`` None revokes it.
    """

    path: FilePath
    with_: Grantee
    rights: Rights | None = "read"


class FsShared(msgspec.Struct, frozen=True):
    """``unused``: no agent has used the name yet, so the grant goes to the first one that does.
    False when a grant is revoked, and for ``*``."""

    unused: bool


class ShareInfo(msgspec.Struct, frozen=True):
    """One grant. ``path`` is in the owner's home; others find it below ``/shared/OWNER``."""

    owner: str
    path: str
    with_: str
    rights: Rights


class FsShares(msgspec.Struct, frozen=True):
    """Grants by the caller, and grants to the caller."""

    given: list[ShareInfo]
    received: list[ShareInfo]


class FsSearch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Find passages in text files below a path of the caller's tree.

    ``/``: its home and its mounts; ``/mnt``: all mounts; ``/mnt/NAME``: one mount. ``mode``:
    ``keyword`` (BM25), ``semantic`` (by meaning), or ``auto``: both if semantic search is
    available, else keyword.
    """

    query: Annotated[str, Meta(min_length=1, max_length=4096)]
    path: FilePath = "/"
    limit: Annotated[int, Meta(ge=1, le=100)] = 10
    mode: Literal["auto", "keyword", "semantic"] = "auto"


class SearchHit(msgspec.Struct, frozen=True):
    """A passage. ``version``: 0 on a mount. ``offset``: in characters of the file's text.
    ``score``: higher is better; comparable within one reply only."""

    path: str
    version: int
    offset: int
    text: str
    score: float


class FsFound(msgspec.Struct, frozen=True):
    """Passages, best first. ``mode``: how they were found. ``note``: why that is not the requested
    mode, and what was not searched: files not indexed yet, or beyond a limit for mounts."""

    hits: list[SearchHit]
    mode: Literal["keyword", "semantic", "mixed"]
    note: str = ""


class FsUsage(msgspec.Struct, frozen=True):
    """The size of an agent's home. ``old_bytes``: the part of ``used_bytes`` in old versions and
    deleted files, which pruning frees."""

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
    """Set a key to any value that msgpack can encode. ``expect``: as for files."""

    key: Key
    value: Any
    expect: Version | None = None


class KvEntry(msgspec.Struct, frozen=True):
    """A value. ``version`` counts the writes of the key; it restarts when the key is deleted."""

    key: str
    version: int
    changed_unix: float
    value: Any = None


class KvDelete(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Delete a key."""

    key: Key
    expect: Version | None = None


class KvList(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """List keys that begin with ``prefix``, in order, from the first after ``after``."""

    prefix: Annotated[str, Meta(max_length=512)] = ""
    after: Annotated[str, Meta(max_length=512)] = ""
    limit: Limit = MAX_LISTED


class KvKeys(msgspec.Struct, frozen=True):
    """A page of keys. ``more``: others follow."""

    keys: list[str]
    more: bool


# ------------------------------------------------------------------------------ the operator's


class MountRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Mount a folder of the host for an agent as ``/mnt/NAME``. ``folder`` None unmounts it."""

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
    """Mounts in order of agent and name."""

    mounts: list[MountInfo]


class QuotaRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Set the quota of an agent's home; None: the kernel's setting."""

    agent: Name
    quota_bytes: Annotated[int, Meta(ge=0, le=1 << 60)] | None


class StorageStatus(msgspec.Struct, frozen=True):
    """``state``: opening, ready, damaged (in part; the rest works) or failed. ``reason``: why it is
    damaged or failed. ``damage``: what is known of it. ``store``: where large content is kept.
    ``pending_garbage``: unused blobs to be deleted."""

    state: Literal["opening", "ready", "damaged", "failed"]
    reason: str
    folder: str
    store: str
    semantic: bool
    pending_garbage: int
    homes: list[FsUsage]
    damage: list[str] = []


class StorageCheck(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Check storage. ``content``: also read every blob and the search index. ``repair``: repair
    what can be repaired."""

    content: bool = True
    repair: bool = False


class StorageReport(msgspec.Struct, frozen=True):
    """The result of a check. ``problems``: what is wrong; ``mended``: what was repaired."""

    files: int
    versions: int
    blobs: int
    problems: list[str]
    mended: list[str] = []


class StorageBackup(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Copy all storage, as it is at one moment, into a new folder of the host."""

    folder: HostPath


class BackupReply(msgspec.Struct, frozen=True):
    """The content of a backup."""

    folder: str
    files: int
    size_bytes: int

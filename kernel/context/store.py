"""The KV store: images of contexts that are in no seat, in shared memory and in files.

    seat → image in the arena → image in a file → tokens alone (recomputed when they run again)

One store for all models. Promises that the image of a parked request is never dropped in favour of
a cache, that both budgets hold, and that every byte is accounted for (see ``check``). Cached
images leave when room is needed, the least recently used and the cheapest to compute first: to a
file when there is room, else for good.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import shutil
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

from aios.hw.machine.arena import Arena, Extent

from .image_eviction import Shelf
from .sequence import Image

log = logging.getLogger("aios.kvstore")

_CACHED_FILE_TOKENS = 128
"""Shortest cached image, in tokens, that is written to a file rather than dropped."""
_MAX_KEPT = 256
"""Limit on files of saved contexts that are known; the least recently used are forgotten."""


Spill = Callable[[Image, Extent, str], None]
"""Plan the operation that copies an image's extent to a file."""


def _unlink(path: str) -> None:
    with contextlib.suppress(OSError):
        Path(path).unlink()


class KvStore:
    """Both tiers and their budgets. ``folder`` is the store's own and is emptied."""

    def __init__(
        self,
        arena: Arena,
        folder: Path | None,
        disk_bytes: int,
        delete: Callable[[str], None] = _unlink,
    ) -> None:
        """``delete`` removes a file that is no longer needed, perhaps later."""
        self.arena = arena
        self.disk_bytes = disk_bytes if folder else 0
        self.disk_used_bytes = 0
        self.images: set[Image] = set()
        self._leaving: set[Image] = set()
        """Removed images whose place a planned operation still uses."""
        self._kept: OrderedDict[str, Image] = OrderedDict()
        self._folder, self._delete = folder, delete
        self._names = itertools.count(1)
        self._in_memory, self._on_disk = Shelf(), Shelf()
        if folder:
            shutil.rmtree(folder, ignore_errors=True)
            if disk_bytes:
                self._make_folder(folder)

    def add(self, image: Image, room_bytes: int, spill: Spill) -> bool:
        """Find a place for an image of at most ``room_bytes``; return False when there is none.

        A parked image may push cached ones out of both tiers, a cached one only out of memory.
        """
        extent = self._allocate(room_bytes, spill)
        if extent:
            image.extent, image.size_bytes = extent, extent.size_bytes
        elif image.owner and self._make_disk_room(room_bytes):
            image.path, image.size_bytes = self._new_path(), room_bytes
            self.disk_used_bytes += room_bytes
        else:
            return False
        self.images.add(image)
        if not image.owner:
            self._in_memory.put(image)
        return True

    def adopt(self, image: Image) -> bool:
        """Add the image of a saved context's file; return False when it is known already."""
        if image.path in self._kept:
            self._kept.move_to_end(image.path)
            return False
        image.kept = True
        self.images.add(image)
        self._kept[image.path] = image
        while len(self._kept) > _MAX_KEPT:
            self.remove(next(iter(self._kept.values())))
        return True

    def written(self, image: Image, size_bytes: int) -> None:
        """Note the size of an image that has been written."""
        if image.path and not image.kept:
            self.disk_used_bytes += size_bytes - image.size_bytes
        image.size_bytes = size_bytes

    def used(self, image: Image) -> None:
        """Note that a cached image was used."""
        if image.kept:
            self._kept.move_to_end(image.path)
        elif image.use:
            (self._on_disk if image.path else self._in_memory).put(image)

    def remove(self, image: Image) -> None:
        """Free the image's place, after the operations that use it (see ``unpin``). Idempotent."""
        image.use = 0
        if image not in self.images:
            return
        self.images.remove(image)
        if image.kept:
            del self._kept[image.path]
        image.home.forget(image)
        if image.pins:
            self._leaving.add(image)
        else:
            self._free(image)

    def pin(self, image: Image) -> None:
        """Note that an operation that uses the image's place has been planned."""
        image.pins += 1

    def unpin(self, image: Image) -> None:
        """Note that such an operation is over."""
        image.pins -= 1
        if not image.pins and image in self._leaving:
            self._leaving.remove(image)
            self._free(image)

    def close(self) -> None:
        """Free both tiers."""
        self.arena.close()
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)

    def check(self) -> list[str]:
        """Return what is wrong with the accounts."""
        problems = self.arena.check()
        known = self.images | self._leaving
        extents = sum(image.extent.size_bytes for image in known if image.extent)
        if extents != self.arena.used_bytes:
            problems.append(f"kv: images have {extents} of {self.arena.used_bytes} bytes in use")
        files = sum(i.size_bytes for i in known if i.path and not i.kept)
        if files != self.disk_used_bytes:
            problems.append(f"kv: files of {files} bytes, {self.disk_used_bytes} are accounted for")
        if any(not image.pins for image in self._leaving):
            problems.append("kv: a removed image was not freed")
        if self.disk_used_bytes > self.disk_bytes:
            problems.append(f"kv: {self.disk_used_bytes} bytes on disk exceed {self.disk_bytes}")
        return problems

    def _allocate(self, room_bytes: int, spill: Spill) -> Extent | None:
        if room_bytes > self.arena.size_bytes:
            return None
        while not (extent := self.arena.allocate(room_bytes)):
            victim = self._in_memory.take()
            if victim is None:
                return None
            if not self._to_disk(victim, spill):
                self.remove(victim)
        return extent

    def _to_disk(self, image: Image, spill: Spill) -> bool:
        if image.length < _CACHED_FILE_TOKENS or not self._make_disk_room(image.size_bytes):
            return False
        extent = image.extent
        assert extent
        image.extent, image.path = None, self._new_path()
        self.disk_used_bytes += image.size_bytes
        spill(image, extent, image.path)
        self.arena.free(extent)  # its next user is served after the spill, in the same slice
        self._on_disk.put(image)
        return True

    def _make_disk_room(self, size_bytes: int) -> bool:
        while self.disk_used_bytes + size_bytes > self.disk_bytes:
            victim = self._on_disk.take() if size_bytes <= self.disk_bytes else None
            if victim is None:
                return False
            self.remove(victim)
        return True

    def _make_folder(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, mode=0o700)
        except OSError as error:
            log.warning("contexts stay in memory: cannot make %s: %s", folder, error.strerror)
            self.disk_bytes = 0

    def _new_path(self) -> str:
        assert self._folder
        return str(self._folder / f"{next(self._names)}.kv")

    def _free(self, image: Image) -> None:
        extent, image.extent = image.extent, None
        if extent:
            self.arena.free(extent)
        if image.path and not image.kept:
            self.disk_used_bytes -= image.size_bytes
            self._delete(image.path)
        image.path = ""

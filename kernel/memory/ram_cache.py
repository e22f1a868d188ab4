"""Notes in RAM, within one quota per account and one for all; what does not fit is evicted.

Every note here is also in a store, or on its way there (``unsaved``). Unsaved notes are never
evicted, so that a note is always found in one of the two places. Owns no file and never waits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from aios.syscalls.types.memory import Note

from .lru_k import LruK

OVERHEAD_BYTES = 512
"""RAM of a note in addition to its text."""


@dataclass
class _Account:
    order: LruK[str] = field(default_factory=LruK)
    notes: dict[str, Note] = field(default_factory=dict)
    used_bytes: int = 0
    unsaved_bytes: int = 0


def size_of(note: Note) -> int:
    """Return the bytes that a note is charged with."""
    return OVERHEAD_BYTES + len(note.text.encode())


class NotesInRam:
    """Notes by id. An account is an agent's name or a shared scope."""

    def __init__(self, most_bytes: int, most_account_bytes: int) -> None:
        self.most_bytes, self.most_account_bytes = most_bytes, most_account_bytes
        self.used_bytes = self.evicted = self.returned = 0
        self._accounts: dict[str, _Account] = {}
        self._account_of: dict[str, str] = {}
        self._unsaved: set[str] = set()
        self._order: LruK[str] = LruK()

    def __len__(self) -> int:
        return len(self._account_of)

    def get(self, id_: str) -> Note | None:
        """Return a note that is in RAM, and count this as a use."""
        name = self._account_of.get(id_)
        if name is None:
            return None
        account = self._accounts[name]
        if id_ not in self._unsaved:
            account.order.use(id_)
            self._order.use(id_)
        return account.notes[id_]

    def has_room(self, account: str, size_bytes: int) -> bool:
        """Return True if an unsaved note fits: these may use half of an account's quota."""
        known = self._accounts.get(account)
        unsaved = known.unsaved_bytes if known else 0
        return unsaved + size_bytes <= self.most_account_bytes // 2

    def put(self, note: Note, account: str, *, unsaved: bool = False) -> None:
        """Keep a note, or its new text; evict others if it does not fit."""
        self.drop(note.id, returning=True)
        known = self._accounts.setdefault(account, _Account())
        size = size_of(note)
        known.notes[note.id] = note
        known.used_bytes += size
        self.used_bytes += size
        self._account_of[note.id] = account
        if unsaved:
            self._unsaved.add(note.id)
            known.unsaved_bytes += size
        else:
            known.order.use(note.id)
            self._order.use(note.id)
        self._make_room(known)

    def saved(self, id_: str) -> None:
        """Note that an unsaved note is in its store now."""
        if id_ in self._unsaved:
            self._unsaved.remove(id_)
            account = self._accounts[self._account_of[id_]]
            account.unsaved_bytes -= size_of(account.notes[id_])
            account.order.use(id_)
            self._order.use(id_)
            self._make_room(account)

    def drop(self, id_: str, *, returning: bool = False) -> None:
        """Remove a note, if it is here. ``returning``: remember its uses."""
        name = self._account_of.pop(id_, None)
        if name is None:
            return
        account = self._accounts[name]
        size = size_of(account.notes.pop(id_))
        account.used_bytes -= size
        self.used_bytes -= size
        if id_ in self._unsaved:
            self._unsaved.remove(id_)
            account.unsaved_bytes -= size
        account.order.drop(id_, remember=returning)
        self._order.drop(id_, remember=returning)
        if not account.notes and not returning:
            del self._accounts[name]

    def drop_account(self, account: str) -> None:
        """Remove all notes of an account."""
        known = self._accounts.get(account)
        for id_ in list(known.notes) if known else ():
            self.drop(id_)
        self._accounts.pop(account, None)

    def drop_scope(self, account: str, scope: str) -> None:
        """Remove all notes of one scope."""
        known = self._accounts.get(account)
        for note in list(known.notes.values()) if known else ():
            if note.scope == scope:
                self.drop(note.id)

    def account(self, name: str) -> tuple[int, int]:
        """Return the number of an account's notes and their bytes."""
        known = self._accounts.get(name)
        return (len(known.notes), known.used_bytes) if known else (0, 0)

    def accounts(self) -> Iterator[str]:
        """Return the accounts that have notes here."""
        return iter(list(self._accounts))

    def scope_bytes(self, account: str, scope: str) -> int:
        """Return the bytes of a scope's notes."""
        known = self._accounts.get(account)
        notes = known.notes.values() if known else ()
        return sum(size_of(note) for note in notes if note.scope == scope)

    def _make_room(self, account: _Account) -> None:
        while account.used_bytes > self.most_account_bytes:
            if not self._evict(account.order.victim()):
                break
        while self.used_bytes > self.most_bytes:
            if not self._evict(self._order.victim()):
                break

    def _evict(self, id_: str | None) -> bool:
        if id_ is None:
            return False  # all that is left is unsaved
        self.drop(id_, returning=True)
        self.evicted += 1
        return True

    def check(self) -> list[str]:
        """Return what is wrong with the accounts; empty when all is well."""
        problems = []
        for name, account in self._accounts.items():
            used = sum(size_of(note) for note in account.notes.values())
            unsaved = sum(size_of(n) for n in account.notes.values() if n.id in self._unsaved)
            if (used, unsaved) != (account.used_bytes, account.unsaved_bytes):
                problems.append(
                    f"notes of {name}: {account.used_bytes:,} bytes booked, not {used:,}"
                )
            if used > self.most_account_bytes + unsaved:
                problems.append(f"notes of {name}: {used:,} bytes exceed the quota")
        if self.used_bytes != sum(account.used_bytes for account in self._accounts.values()):
            problems.append(f"notes: {self.used_bytes:,} bytes booked for all accounts")
        if len(self._order) + len(self._unsaved) != len(self._account_of):
            problems.append(f"notes: {len(self._order)} of {len(self._account_of)} can be evicted")
        return problems

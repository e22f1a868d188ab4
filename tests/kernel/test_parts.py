"""The kernel's smaller parts, each alone: settings, process table, mailboxes, codec, loop."""

from __future__ import annotations

import itertools
import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import msgpack
import psutil
import pytest

from aios.kernel import calls, config, daemon
from aios.kernel.calls import trace_page
from aios.kernel.loop.loop import Loop
from aios.kernel.model.model import Model
from aios.kernel.process.mail import MOST_MESSAGES, Letter, Mailbox, Receiver
from aios.kernel.process.supervisor import Supervisor
from aios.kernel.process.table import OPERATOR, Process, ProcessTable
from aios.kernel.scheduler import scheduler
from aios.syscalls import codec, paths
from aios.syscalls.errors import BY_CODE, InvalidArgument, NotFound, ResourceExhausted, from_body
from aios.syscalls.types.chat import ChatRequest
from aios.syscalls.types.common import Empty
from aios.syscalls.types.mail import SendRequest
from aios.syscalls.types.process import SpawnRequest
from aios.syscalls.types.trace import SliceRecord, TraceRequest

from .rig import open_rig

# ---------------------------------------------------------------------------- settings


def test_later_sources_win(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text('seats = 3\nquantum = 5\npolicy = "fifo"\n')
    got = config.load(file, {"quantum": "7", "kv-ram": "64M"}, {"AIOS_SEATS": "4"})
    assert (got.seats, got.quantum, got.policy, got.kv_ram) == (4, 7, "fifo", 64 << 20)
    assert config.load(tmp_path / "none", {}, {}) == config.Config()
    assert config.load(file, {"exact": "off"}, {}).exact is False


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"seets": "3"}, "did you mean 'seats'"),
        ({"seats": "0"}, "seats = '0'"),
        ({"seats": "many"}, "seats = 'many'"),
        ({"ctx": "-5"}, "ctx"),
        ({"kv-ram": "12Q"}, "kv_ram"),
        ({"exact": "perhaps"}, "exact"),
        ({"log-level": "loud"}, "log_level"),
    ],
)
def test_wrong_settings_name_themselves(flags: dict[str, str], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        config.load(Path("/nowhere"), flags, {})


def test_settings_that_fit_alone_but_not_together_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(config, "memory_bytes", lambda: 4 << 30)
    config.load(Path("/nowhere"), {"kv-ram": "3G"}, {})
    with pytest.raises(InvalidArgument, match=r"kv_ram 3,.* \+ memory 2,.* exceed .* 4,294"):
        config.load(Path("/nowhere"), {"kv-ram": "3G", "memory": "2G"}, {})


def test_defaults_suit_a_small_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "memory_bytes", lambda: 400 << 20)
    got = config.load(Path("/nowhere"), {}, {})
    assert (got.kv_ram, got.notes_ram, got.notes_vectors) == (100 << 20, 64 << 20, 100 << 20)
    assert got.memory is None


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    for text in ("seats = ", "\xff\xfe"):
        (tmp_path / "c.toml").write_bytes(text.encode("latin-1"))
        with pytest.raises(InvalidArgument, match=r"c\.toml"):
            config.load(tmp_path / "c.toml", {}, {})


def test_settings_are_shown_as_they_are_written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AIOS_SEATS", "1")
    monkeypatch.setenv("AIOS_KV_DISK", "0")
    monkeypatch.setenv("AIOS_CONFIG", "/nowhere/config.toml")
    for key, shown in (("seats", "1"), ("kv-disk", "0"), ("exact", "on"), ("ctx", "auto")):
        assert daemon.main(["config", "get", key]) == 0
        assert capsys.readouterr().out == f"{shown}\n"


def test_every_setting_is_explained() -> None:
    assert set(config.HELP) == set(config.Config.__struct_fields__)


# ---------------------------------------------------------------------------- processes


def _create(table: ProcessTable, stem: str, parent: int = OPERATOR, **spec: str) -> Process:
    given = SpawnRequest(path=f"/x/{stem}.py", **spec) if spec else None
    return table.create(parent=parent, stem=stem, command=stem, spec=given, guest=False)


def test_references_find_the_living_first() -> None:
    table = ProcessTable(10)
    old = _create(table, "math")
    table.buried(old, 3, "gone")
    new = _create(table, "math")
    _create(table, "mole")
    assert table.resolve("math") is new and table.resolve(str(old.pid)) is old
    assert table.resolve("mat") is new
    with pytest.raises(InvalidArgument, match="math, mole"):
        table.resolve("m")
    with pytest.raises(NotFound, match="aios ps -a"):
        table.resolve("zeta")
    table.buried(new, 0, "")
    assert table.resolve("math") is new, "the latest of the dead"
    assert table.check() == []


def test_names_are_unique_among_the_living() -> None:
    table = ProcessTable(4)
    assert [_create(table, s).name for s in ("a b", "a b", "7")] == ["a-b", "a-b-2", "7-2"]
    with pytest.raises(InvalidArgument, match="a-b"):
        _create(table, "x", name="a-b")
    _create(table, "last")
    with pytest.raises(ResourceExhausted, match="limit is 4"):
        _create(table, "more")


def test_descent() -> None:
    table = ProcessTable(10)
    a = _create(table, "a")
    b = _create(table, "b", a.pid)
    c = _create(table, "c", b.pid)
    assert table.descends(c, a.pid) and table.descends(c, OPERATOR) and table.descends(a, a.pid)
    assert not table.descends(a, c.pid)
    table.buried(b, 0, "")
    assert table.descends(c, a.pid), "also through the dead"


def test_the_dead_are_remembered_within_bounds() -> None:
    table = ProcessTable(5)
    for _ in range(1100):
        table.buried(_create(table, "x"), 0, "")
    assert len(list(table.all())) == 1000 and len(table) == 0


# ---------------------------------------------------------------------------- messages


def _letter(sender: int, body: object = None, size: int = 1) -> Letter:
    return Letter(sender, "s", body, size)


def test_a_stray_that_does_not_die_does_not_end_the_kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a process in an uninterruptible wait of its host's does not."""

    class Host:
        pid, killed = 1, 0

        def children(self) -> list[Host]:
            return [self]

        def kill(self) -> None:
            Host.killed += 1

        def wait(self, timeout: float) -> None:
            raise psutil.TimeoutExpired(timeout, self.pid)

    monkeypatch.setattr(psutil, "Process", Host)
    loop = Loop()
    Supervisor(loop, ProcessTable(1), tmp_path, tmp_path).reap_strays()
    assert Host.killed == 1
    loop.close()


def test_mail_goes_to_who_waits_for_it() -> None:
    box, got = Mailbox(), []
    picky = Receiver(7, got.append)
    assert not box.take(picky)
    box.put(_letter(1, "kept"))
    box.put(_letter(7, "delivered"))
    assert [letter.body for letter in got] == ["delivered"]
    assert box.take(Receiver(None, got.append)) and got[-1].body == "kept"
    left = Receiver(None, got.append)
    box.take(left)
    box.leave(left)
    box.put(_letter(1, "stays"))
    assert got[-1].body == "kept"


def test_a_full_mailbox_refuses() -> None:
    box = Mailbox()
    for _ in range(MOST_MESSAGES):
        box.put(_letter(1))
    with pytest.raises(ResourceExhausted, match="1000 messages"):
        box.put(_letter(1))
    with pytest.raises(ResourceExhausted, match="bytes"):
        Mailbox().put(_letter(1, size=9 << 20))


# ---------------------------------------------------------------------------- codec


def test_a_request_comes_back() -> None:
    body = ChatRequest(prompt="hé", stop=["x"], seed=3)
    request = codec.decode_call(codec.encode_call(10, 7, 2.5, body))
    assert request[:3] == (10, 7, 2.5)
    assert codec.convert(request.body, ChatRequest) == body


def test_random_bytes_and_mutants_never_raise_anything_else() -> None:
    """100,000 frames, seed 11."""
    rng = random.Random(11)
    good = codec.encode_call(10, 7, 2.5, ChatRequest(prompt="hello", stop=["a", "b"]))
    for round_ in range(100_000):
        frame = bytearray(good) if round_ % 2 else bytearray(rng.randbytes(rng.randint(0, 60)))
        for _ in range(rng.randint(1, 4)):
            if frame:
                frame[rng.randrange(len(frame))] = rng.randrange(256)
        try:
            codec.convert(codec.decode_call(bytes(frame)).body, ChatRequest)
        except InvalidArgument:
            assert codec.peek_call_id(bytes(frame)) >= 0


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\xc1",
        msgpack.packb([1, 2, 3]),
        msgpack.packb([1, -1, 0, {}]),
        msgpack.packb([1, True, 0, {}]),
        msgpack.packb([1, 2, 1 << 60, {}]),
        msgpack.packb([1, 2, 3, []]),
        msgpack.packb({1: 2}),
        b"\x91" * 100_000,
        b"\xdd\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xff",
        msgpack.packb([1, 2, 0, {"a": b"\xff"}]) + b"more",
        msgpack.packb([1, 2, 0, msgpack.ExtType(4, b"x" * 9)]),
    ],
)
def test_malformed_frames_are_typed_errors(frame: bytes) -> None:
    with pytest.raises(InvalidArgument):
        codec.decode_call(frame)


def test_limits_name_field_limit_and_value() -> None:
    with pytest.raises(InvalidArgument, match=r"max_tokens.*>= 1.*got -5"):
        codec.convert({"prompt": "x", "max_tokens": -5}, ChatRequest)
    with pytest.raises(InvalidArgument, match="unknown field `temprature`"):
        codec.convert({"prompt": "x", "temprature": 1}, ChatRequest)
    deep: list[object] = []
    for _ in range(5000):
        deep = [deep]
    with pytest.raises(InvalidArgument):
        codec.encode_call(30, 1, None, SendRequest("1", deep))
    with pytest.raises(ResourceExhausted, match="exceeds the limit"):
        codec.encode_call(30, 1, None, SendRequest("1", b"x" * (9 << 20)))


def test_errors_cross_the_wire_as_their_types() -> None:
    for code, kind in BY_CODE.items():
        back = from_body(kind("words", "hint").body())
        assert type(back) is kind and back.code == code and back.hint == "hint"


# ---------------------------------------------------------------------------- loop, paths


def test_the_loop_runs_timers_in_order_and_wakes_for_descriptors() -> None:
    loop, seen = Loop(), []
    now = time.monotonic()
    loop.at(now + 0.02, lambda: seen.append("second"))
    loop.at(now + 0.01, lambda: seen.append("first"))
    loop.at(now, lambda: seen.append("never")).cancel()
    reader, writer = os.pipe()
    loop.watch(reader, lambda events: (os.read(reader, 9), seen.append("read")))
    os.write(writer, b"x")
    loop.at(now + 0.03, loop.stop)
    loop.run()
    assert seen == ["read", "first", "second"]
    loop.unwatch(reader)
    for fd in (reader, writer):
        os.close(fd)
    for _ in range(10_000):
        loop.at(now + 999, lambda: None).cancel()
    assert len(loop._timers) < 200, "cancelled timers do not pile up"
    loop.close()


def test_a_runtime_folder_must_be_ours_and_short(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="too long"):
        paths.prepare_runtime_dir(tmp_path / ("x" * 120))
    (tmp_path / "file").touch()
    with pytest.raises(OSError):
        paths.prepare_runtime_dir(tmp_path / "file")
    paths.prepare_runtime_dir(tmp_path / "run")
    assert (tmp_path / "run").stat().st_mode & 0o777 == 0o700
    assert paths.kernel_os_pid(tmp_path / "run") is None


def test_empty_bodies_take_no_fields() -> None:
    with pytest.raises(InvalidArgument):
        codec.convert({"x": 1}, Empty)


# ---------------------------------------------------------------------------- the trace


def _reads_all(models: list[Model], between: Callable[[], None], clear: bool) -> list[int]:
    """Steps of all slices, as a reader gets them page by page; they are told in their order."""
    told: list[int] = []
    seen: dict[str, tuple[int, int]] = {}
    for _ in range(1000):
        page = trace_page(models, TraceRequest(seen, clear))
        told += [one.steps for one in page.slices]
        if not page.more:
            return told
        seen = page.seen
        between()
    raise AssertionError("it never ends")


@pytest.mark.parametrize("clear", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_a_trace_that_grows_while_it_is_read_is_told_once_and_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, clear: bool
) -> None:
    draw = random.Random(seed)
    monkeypatch.setattr(calls, "_PAGE_UNITS", 100)
    monkeypatch.setattr(scheduler, "_MOST_RECORDS", 60)
    numbers = itertools.count()
    with open_rig(tmp_path) as rig:
        models = [rig.models.find("fake:end=0"), rig.models.find("fake:end=1")]

        def grow(least: int = 0) -> None:
            for _ in range(draw.randint(least, 6)):
                record = SliceRecord("m", 0.0, 0.0, next(numbers), [(1, 1, 1, 0)])
                draw.choice(models).scheduler.records.append(record)

        for _ in range(15):
            grow(5)
        told = _reads_all(models, grow, clear)
        lost = sum(model.scheduler.records.dropped for model in models)
        assert len(told) == len(set(told)), "nothing twice"
        assert len(told) >= next(numbers) - lost
        if clear:
            assert _reads_all(models, grow, clear) == []

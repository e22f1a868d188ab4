"""Settings: where they come from, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from aios.kernel import config, daemon
from aios.syscalls.errors import InvalidArgument


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

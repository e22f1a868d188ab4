"""The choice of the Python that runs an agent, and PEP 723 environments with a stub of uv."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from aios.cli import pythons, script
from aios.syscalls.errors import InvalidArgument
from tests import environments

BLOCK = '# /// script\n# dependencies = ["x"]\n# ///\n'


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An agent's file. No environment is active, and the PATH has no Python."""
    monkeypatch.delenv("VIRTUAL_ENV", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path / "programs"))
    (tmp_path / "programs").mkdir()
    path = tmp_path / "agent.py"
    path.write_text("pass\n")
    return path


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the client."""
    return environments.make(tmp_path_factory.mktemp("client")).parent.parent


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with nothing."""
    return environments.make(tmp_path_factory.mktemp("bare"), client=False).parent.parent


def _program(agent: Path, name: str, text: str) -> None:
    """Put a program on the PATH."""
    path = agent.parent / "programs" / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o700)


def _known_as(environment: Path) -> str:
    return f"{environment}/bin/python{sys.version_info[0]}.{sys.version_info[1]}"


def _chosen(agent: Path, wanted: str | None = None) -> str | None:
    found = pythons.choose(agent, wanted)
    return found.path if found else None


def test_option_block_active_environment_and_path_apply_in_this_order(
    agent: Path, client: Path, bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _chosen(agent) is None, "the kernel's own"
    link = agent.parent / "programs" / "python3"
    link.symlink_to(client / "bin" / "python")  # no environment of its own: it is the base's
    assert _chosen(agent) is None
    link.unlink()
    monkeypatch.setenv("PATH", f"{bare}/bin")
    assert _chosen(agent) is None, "this one cannot import aios"
    monkeypatch.setenv("PATH", f"{client}/bin")
    assert _chosen(agent) == _known_as(client)
    monkeypatch.setenv("VIRTUAL_ENV", sys.prefix)
    assert _chosen(agent) == _known_as(Path(sys.prefix))
    agent.write_text(BLOCK)
    with pytest.raises(InvalidArgument, match="needs uv"):
        _chosen(agent)
    for wanted in (str(client), f"{client}/bin/python", "python3"):
        assert _chosen(agent, wanted) == _known_as(client)


def test_a_requested_environment_without_aios_is_refused(
    agent: Path, bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIRTUAL_ENV", str(bare))
    for wanted in (None, str(bare)):
        with pytest.raises(InvalidArgument, match="cannot import aios: ModuleNotFound") as refused:
            pythons.choose(agent, wanted)
        assert refused.value.hint.endswith(f"{_known_as(bare)} -m pip install aiosd")


@pytest.mark.parametrize(
    ("wanted", "words"),
    [("/nowhere/python", "no such program"), ("/bin/true", "is no Python"),
     ("/bin/false", "does not run"), ("/bin/echo", "is no Python")],
)  # fmt: skip
def test_a_program_that_is_not_python_is_refused(agent: Path, wanted: str, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        pythons.choose(agent, wanted)


def test_a_missing_environment_is_refused(agent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIRTUAL_ENV", "/nowhere")
    with pytest.raises(InvalidArgument, match="does not run") as refused:
        pythons.choose(agent, None)
    assert "deactivate" in refused.value.hint


def test_an_old_python_and_another_release_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def problem(**changes: object) -> str:
        shown = {"path": "/x/python", "version": [3, 12], "release": "1.0", "error": "",
                 "folders": []}  # fmt: skip
        found = pythons._judge("/x/python", json.dumps({**shown, **changes}))
        return f"{found.problem}; {found.hint}"

    monkeypatch.setattr(pythons, "_release", lambda: "1.0")
    assert problem() == "; "
    assert problem(release="") == "; "
    assert problem(version=[3, 9], error="old").startswith("is Python 3.9; an agent needs 3.11")
    told = problem(release="2.0")
    assert told.startswith("has aiosd 2.0; this is aiosd 1.0") and told.endswith("aiosd==1.0")


def test_an_interpreter_is_examined_again_only_when_something_has_changed(
    agent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, run = [], pythons._run

    def counted(path: str, code: str, folder: str | None) -> str:
        runs.append(path)
        return run(path, code, folder)

    monkeypatch.setattr(pythons, "_run", counted)
    assert _chosen(agent, sys.executable) == _known_as(Path(sys.prefix))
    assert not runs, "the Python of the command itself needs no check"
    environment = tmp_path / "environment"
    environments.make(environment, client=False)
    for _ in range(2):
        with pytest.raises(InvalidArgument):
            _chosen(agent, str(environment))
    assert len(runs) == 1
    environments.add_client(environment)
    for _ in range(2):
        assert _chosen(agent, str(environment)) == _known_as(environment)
    assert len(runs) == 2
    (tmp_path / "cache" / "aios" / "pythons.json").write_text("{")
    assert _chosen(agent, str(environment)) == _known_as(environment)
    assert len(runs) == 3


def test_a_shim_is_followed_each_time(agent: Path, client: Path, bare: Path) -> None:
    for environment, expected in ((bare, None), (client, _known_as(client))):
        _program(agent, "python", f'exec {environment}/bin/python "$@"')
        assert _chosen(agent) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("import aios\n", False),
        (BLOCK, True),
        (f"#!/usr/bin/env python\n\n{BLOCK}import aios\n", True),
        ('# /// script\n# requires-python = ">=3.11"\n#\n# ///\n', True),
        ("# /// script\n# [tool.x]\n# a = 1\n# ///\n", False),
        ('# /// other\n# dependencies = ["x"]\n# ///\n', False),
        ('# /// script\n# dependencies = ["x"]\n', False),
        (f"if True:\n    {BLOCK}", False),
    ],
)
def test_a_script_block_with_requirements_is_recognised(
    agent: Path, text: str, expected: bool
) -> None:
    agent.write_text(text)
    assert script.demands(agent) is expected


def test_an_invalid_script_block_is_refused(agent: Path) -> None:
    for text, words in ((BLOCK + "\n" + BLOCK, "2 script blocks"),
                        ("# /// script\n# a = [\n# ///\n", "is not TOML")):  # fmt: skip
        agent.write_text(text)
        with pytest.raises(InvalidArgument, match=words):
            pythons.choose(agent, None)


def test_uv_makes_the_environment_of_a_script_block(agent: Path, client: Path, bare: Path) -> None:
    agent.write_text(BLOCK)
    with pytest.raises(InvalidArgument, match="needs uv") as refused:
        pythons.choose(agent, None)
    assert "pip install uv" in refused.value.hint
    calls = agent.parent / "calls"
    stub = f'echo "$@" >> {calls}\n[ $1 = sync ] || echo '
    _program(agent, "uv", f"{stub} {client}/bin/python")
    assert _chosen(agent) == _known_as(client)
    words = f"--script {agent}"
    assert calls.read_text() == f"sync --quiet {words}\npython find {words}\n"
    _program(agent, "uv", f"{stub} {bare}/bin/python")
    with pytest.raises(InvalidArgument, match="cannot import aios") as refused:
        pythons.choose(agent, None)
    assert refused.value.hint == script.ADD_AIOSD
    _program(agent, "uv", "echo 'no such package' >&2; exit 1")
    with pytest.raises(InvalidArgument, match="no such package"):
        pythons.choose(agent, None)


def test_a_slow_uv_is_announced(
    agent: Path, client: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    agent.write_text(BLOCK)
    monkeypatch.setattr(script, "_SAY_AFTER_S", 0.01)
    fifo = agent.parent / "fifo"
    os.mkfifo(fifo)
    _program(agent, "uv", f"[ $1 = sync ] && read line < {fifo}; echo {client}/bin/python")

    def say(text: str, **where: Any) -> None:
        print(text, **where)
        fifo.write_text("go\n")

    monkeypatch.setattr(script, "print", say, raising=False)
    assert _chosen(agent) == _known_as(client)
    assert "uv prepares the environment" in capsys.readouterr().err

"""The command line explains errors of the user and of the machine, without a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import TIMEOUT_S, Machine

DIGITS = "9" * 5000
DEEP = "[" * 60_000
CALCULATE = ("tool", "call", "calculate", '{"expression": "1"}')


def _shell(machine: Machine, line: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run ``aios WORDS`` as ``"$@"`` in a shell line, which can redirect its streams."""
    aios = [sys.executable, "-P", "-m", "aios.cli", *words]
    return subprocess.run(
        ["/bin/sh", "-c", line, "sh", *aios], env=machine.env, cwd=machine.folder,
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TIMEOUT_S,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("wait", "x", "--timeout", "nan"), 1, "timeout is nan; expected 0 to 604800 seconds"),
        (("wait", "x", "--timeout", "1e999"), 1, "timeout is inf; expected"),
        ((*CALCULATE, "--timeout", "nan"), 1, "timeout is nan; expected"),
        (("call", "getpid", DEEP), 1, "the body is not JSON: maximum recursion depth"),
        (("storage", "quota", "x", DIGITS), 1, "is not a number of bytes"),
        (("storage", "quota", "x", "99999999T"), 1, "quota_bytes: Expected `int` <= 11529"),
        (("storage", "mount", "x", ""), 1, "'' is not a path"),
        (("storage", "mount", "x", "/"), 1, "give it one: --name NAME"),
        (("storage", "ls", "nobody/x"), 1, "or: aios storage ls"),
        (("storage", "search", "words"), 2, "arguments are required: WORDS"),
        (("perm", "revoke", DIGITS), 1, "name a grant by its number"),
        (("memory", "ls", "agent:x", "--limit", "0"), 2, "0 is less than 1"),
        (("memory", "add", "bogus", "x"), 1, "Expected session, session:PID, agent"),
        (("memory", "backup", "/proc/none/x"), 1, "/proc/none/x cannot be made: No such file"),
        (("tool", "add", "x", "."), 1, "is not a regular file"),
        (("mcp", "add", "x", "--from", "."), 1, ". cannot be used: Is a directory"),
        (("mcp", "add"), 2, "arguments are required: NAME\n"),
        (("run", ""), 127, "'': no such file"),
        (("run", "."), 126, ". cannot be run: it is a folder"),
        (("run", "/dev/zero"), 126, "/dev/zero cannot be run: it is no ordinary file"),
        (("config", "get", "nosuch"), 2, "unknown key 'nosuch' (valid keys"),
    ],
)
def test_bad_arguments_are_refused_with_the_reason(
    machine: Machine, words: tuple[str, ...], code: int, said: str
) -> None:
    got = machine.aios(*words)
    assert said in got.stderr and "Traceback" not in got.stderr
    assert (got.returncode, got.stdout) == (code, "")
    assert len(got.stderr) < 1500


def test_code_nested_too_deeply_is_refused(machine: Machine) -> None:
    path = machine.agent("deep", "x = " + "-" * 200_000 + "1")
    got = machine.aios("run", path)
    assert got.returncode == 126 and "it is nested too deeply" in got.stderr
    child = machine.agent("p", f"import aios\nprint(aios.spawn({path!r}).wait().exit_code)")
    assert machine.aios("run", child).stdout == "126\n"


def test_a_pipe_cannot_be_run(machine: Machine) -> None:
    os.mkfifo(machine.folder / "pipe")
    got = machine.aios("run", "pipe")
    assert got.returncode == 126 and "it is no ordinary file" in got.stderr
    os.unlink(machine.folder / "pipe")


def test_a_syntax_warning_is_shown_once(machine: Machine) -> None:
    got = machine.aios("run", machine.agent("w", "print(1 is 1)"))
    assert got.stdout == "True\n" and got.stderr.count("SyntaxWarning") == 1


def test_a_variable_that_is_not_utf8_is_dropped_with_a_warning(machine: Machine) -> None:
    path = machine.agent("a", "import os; print(os.environ.get('ODD'), os.environ['EVEN'])")
    got = _shell(machine, 'ODD=$(printf "\\377") EVEN=é "$@"', "run", path)
    assert (got.returncode, got.stdout) == (0, "None é\n")
    assert got.stderr == "aios: not passed on, as they are no UTF-8: ODD\n"


def test_a_numeric_name_is_refused(machine: Machine) -> None:
    got = machine.aios("run", "--name", "77", machine.agent("a", ""))
    assert got.returncode == 125 and "'77' could be mistaken for a pid" in got.stderr


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("ps",), 1), (("ps", "--json"), 1), (("version",), 1), (("daemon", "status"), 1),
        (("config", "get"), 1), (("audit",), 1), (("run", "a.py"), 125),
        (("run", "--json", "a.py"), 125),
    ],
)  # fmt: skip
def test_output_on_a_full_disk_is_an_error(
    machine: Machine, words: tuple[str, ...], code: int
) -> None:
    machine.agent("a", "print('out')")
    got = _shell(machine, '"$@" > /dev/full', *words)
    assert "cannot write the output: No space left on device" in got.stderr
    assert got.returncode == code and "Traceback" not in got.stderr


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_standard_streams_do_no_harm(machine: Machine, closed: str) -> None:
    path = machine.agent("a", "import sys; print('out'); print('err', file=sys.stderr)")
    got = _shell(machine, f'"$@" {closed}', "run", path)
    assert got.returncode == 0 and "Traceback" not in got.stderr
    assert got.stdout == ("" if " >&-" in f" {closed}" else "out\n")
    assert got.stderr == ("" if "2>&-" in closed else "err\n")
    assert _shell(machine, f'"$@" {closed}', "ps").returncode == 0


def test_a_removed_current_folder_is_an_error(machine: Machine) -> None:
    path = machine.agent("a", "print('ran')")
    line = 'mkdir gone && cd gone && rmdir ../gone && "$@"'
    got = _shell(machine, line, "run", path)
    assert got.returncode == 125 and "the current folder was removed" in got.stderr
    assert _shell(machine, line, "ps").returncode == 0


def test_settings_for_a_running_kernel_are_refused(machine: Machine) -> None:
    assert machine.aios("daemon", "up").returncode == 0
    got = machine.aios("daemon", "up", "--seats", "2")
    assert got.returncode == 1 and "aios daemon restart --seats 2" in got.stderr


def test_a_missing_model_is_a_warning_at_the_start(stopped: Machine) -> None:
    got = stopped.aios("daemon", "up", "--model", "/none.gguf")
    assert got.stdout.startswith("serving")
    assert "no model '/none.gguf'" in got.stderr and "aios daemon restart --model" in got.stderr
    assert "warning: no model '/none.gguf'" in stopped.aios("daemon", "status").stdout


def test_a_model_file_that_can_never_be_served_is_refused_at_the_start(stopped: Machine) -> None:
    bad = stopped.folder / "bad.gguf"
    bad.write_text("<!doctype html> log in")
    got = stopped.aios("daemon", "up", "--model", str(bad))
    assert got.returncode == 1 and "it is a web page" in got.stderr, got.stderr
    assert stopped.aios("daemon", "up", "--model", "fake").returncode == 0
    got = stopped.aios("daemon", "restart", "--model", str(bad))
    assert got.returncode == 1 and "it is a web page" in got.stderr
    assert stopped.aios("daemon", "status").returncode == 0


def test_an_unwritable_audit_log_is_a_warning_at_the_start(stopped: Machine) -> None:
    data = Path(stopped.env["XDG_DATA_HOME"]) / "aios"
    data.mkdir(parents=True)
    (data / "audit").write_text("in the way")
    got = stopped.aios("daemon", "up", "--model", "fake")
    assert f"the audit log cannot be written ({data}/audit" in got.stderr
    assert "warning: the audit log" in stopped.aios("daemon", "status").stdout


def test_a_runtime_folder_that_is_not_utf8_is_refused(stopped: Machine) -> None:
    got = _shell(stopped, 'AIOS_RUNTIME_DIR=$(printf "/tmp/\\377") "$@"', "daemon", "up")
    assert got.returncode == 1 and "its path is not UTF-8" in got.stderr
    assert "Traceback" not in got.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("memory", "restore", "/dev/zero"), "/dev/zero is no ordinary file"),
        (("memory", "restore", "."), "is no ordinary file"),
        (("storage", "restore", "n" * 300), "is not a backup: it has no meta.db"),
    ],
)
def test_only_a_backup_can_be_restored(stopped: Machine, words: tuple[str, ...], said: str) -> None:
    got = stopped.aios(*words)
    assert got.returncode == 1 and said in got.stderr and "Traceback" not in got.stderr


def test_a_failed_backup_leaves_nothing_behind(stopped: Machine) -> None:
    stopped.start("--model", "fake")
    code = "import aios; aios.fs.write('big', 'x' * 200_000)"
    assert stopped.aios("run", stopped.agent("a", code)).returncode == 0
    assert stopped.aios("storage", "backup", "whole").returncode == 0
    got = stopped.aios("storage", "backup", "n" * 300)
    assert got.returncode == 1 and "File name too long" in got.stderr
    stopped.aios("daemon", "down")
    store = Path(stopped.env["XDG_DATA_HOME"]) / "aios" / "storage"
    (stopped.folder / "whole" / "meta.db").write_bytes(b"no database")
    got = stopped.aios("storage", "restore", "whole")
    assert got.returncode == 1 and f"the backup {stopped.folder}/whole is damaged" in got.stderr
    assert not (store / "restoring").exists() and (store / "meta.db").exists()
    for blob in (store / "blobs").rglob("*"):
        if blob.is_file():
            blob.unlink()
    got = stopped.aios("storage", "backup", "partial")
    assert got.returncode == 1 and "a backup would not be complete" in got.stderr
    assert not list(stopped.folder.glob("partial*"))

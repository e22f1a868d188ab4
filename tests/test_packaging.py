"""pyproject.toml installs every package; a folder named aios does not hide them.

The client (the SDK, the boot of agents and the command line) needs no library of the kernel.
"""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

import aios
from aios.cli import main, parts

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def setuptools() -> dict[str, Any]:
    """The settings of setuptools in pyproject.toml."""
    found: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    part: dict[str, Any] = found["setuptools"]
    return part


def test_every_folder_with_modules_is_a_package_that_is_installed(
    setuptools: dict[str, Any],
) -> None:
    folders = {path.parent for top in _tops(setuptools) for path in top.rglob("*.py")}
    assert folders == {_folder(setuptools, name) for name in setuptools["packages"]}
    assert all((folder / "__init__.py").is_file() for folder in folders)


def test_every_other_file_is_package_data(setuptools: dict[str, Any]) -> None:
    data = {
        _folder(setuptools, package) / name
        for package, names in setuptools["package-data"].items()
        for name in names
    }
    found = {path for top in _tops(setuptools) for path in top.rglob("*") if path.is_file()}
    assert data == {path for path in found if path.suffix not in (".py", ".pyc")}


def test_a_folder_named_aios_does_not_hide_the_package(tmp_path: Path) -> None:
    """A clone named aios next to a script or in the current folder is not imported."""
    (tmp_path / "aios" / "kernel").mkdir(parents=True)
    script = tmp_path / "script.py"
    script.write_text("import aios, aios.kernel; print(aios.__file__, aios.kernel.__file__)")
    for words in ([str(script)], ["-c", script.read_text()]):
        shown = subprocess.run(
            [sys.executable, *words], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        package = Path(aios.__path__[0])
        assert shown.stdout.split() == [
            str(package / "__init__.py"), str(package / "kernel" / "__init__.py")
        ]  # fmt: skip


def test_the_client_imports_only_what_it_depends_on() -> None:
    parts = ("*.py", "boot/*.py", "cli/*.py")
    modules = [
        ".".join(["aios", *path.relative_to(ROOT / "agentproc").with_suffix("").parts])
        for part in parts
        for path in (ROOT / "agentproc").glob(part)
        if path.name not in ("__init__.py", "__main__.py")
    ]
    code = (
        f"import sys, importlib\nfor name in {modules}: importlib.import_module(name)\n"
        "print(*{name.partition('.')[0] for name, module in sys.modules.items()"
        " if getattr(module, '__file__', None)} - sys.stdlib_module_names)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found = set(shown.stdout.split())
    found -= {"typing_extensions"}  # msgspec uses it if it is there
    found -= {"_distutils_hack"}  # a .pth file of setuptools imports it
    assert found == {"aios", "zmq", "msgpack", "msgspec"}


def test_without_the_kernels_libraries_its_commands_say_how_to_install_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    required = [
        "msgspec>=0.20",
        'numpy>=2; extra == "kernel"',
        "nothing-there>=1; extra == 'kernel'",
    ]
    monkeypatch.setattr("importlib.metadata.requires", lambda name: required)
    for words in (["daemon", "up"], ["config", "path"], ["bench"], ["audit"], ["model", "tune"]):
        assert main.main(words) == 1
        _, told = capsys.readouterr()
        assert told.startswith(
            "aios: the kernel's libraries are not installed here: nothing-there\n"
        )
        assert told.endswith(f"{sys.executable} -m pip install 'aiosd[kernel]'\n")
    assert parts.aiosd() == 1
    monkeypatch.setattr("importlib.metadata.requires", lambda name: required[:2])
    assert parts.command("aios.x", "y") == [sys.executable, "-P", "-m", "aios.x", "y"]


def _tops(setuptools: dict[str, Any]) -> set[Path]:
    return {ROOT / Path(folder).parts[0] for folder in setuptools["package-dir"].values()}


def _folder(setuptools: dict[str, Any], package: str) -> Path:
    """Return the source folder of a package."""
    given = setuptools["package-dir"]
    if package in given:
        return ROOT / str(given[package])
    parent, _, name = package.rpartition(".")
    return _folder(setuptools, parent) / name

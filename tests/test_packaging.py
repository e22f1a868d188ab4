"""What pyproject.toml installs: every package, in a form that a folder named aios cannot hide."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

import aios

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def setuptools() -> dict[str, Any]:
    """pyproject.toml's part for setuptools."""
    found: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return found["tool"]["setuptools"]


def test_every_folder_with_modules_is_a_package_that_is_installed(
    setuptools: dict[str, Any],
) -> None:
    folders = {path.parent for top in _tops(setuptools) for path in top.rglob("*.py")}
    assert folders == {_folder(setuptools, name) for name in setuptools["packages"]}
    assert all((folder / "__init__.py").is_file() for folder in folders)


def test_every_file_that_is_no_module_is_package_data(setuptools: dict[str, Any]) -> None:
    data = {
        _folder(setuptools, package) / name
        for package, names in setuptools["package-data"].items()
        for name in names
    }
    found = {path for top in _tops(setuptools) for path in top.rglob("*") if path.is_file()}
    assert data == {path for path in found if path.suffix not in (".py", ".pyc")}


def test_a_folder_named_aios_hides_nothing(tmp_path: Path) -> None:
    """A clone named aios beside a script, or in the current folder, is no package of this name."""
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


def _tops(setuptools: dict[str, Any]) -> set[Path]:
    return {ROOT / Path(folder).parts[0] for folder in setuptools["package-dir"].values()}


def _folder(setuptools: dict[str, Any], package: str) -> Path:
    """The folder that a package is made of."""
    given = setuptools["package-dir"]
    if package in given:
        return ROOT / str(given[package])
    parent, _, name = package.rpartition(".")
    return _folder(setuptools, parent) / name

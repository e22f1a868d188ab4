"""The arrows between folders, and what importing costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {
    "syscalls": "aios.syscalls",
    "hw": "aios.hw",
    "kernel": "aios.kernel",
    "agentproc": "aios",
    "bench": "aios.bench",
    "examples": "aios.examples",
}
MAY_IMPORT = {
    "syscalls": {"syscalls"},
    "hw": {"hw"},
    "kernel": {"kernel", "syscalls", "hw"},
    "agentproc": {"agentproc", "syscalls"},
    "bench": set(PACKAGES),
    "examples": {"agentproc"},
}
ENGINES = {
    "aios.hw.engine.llama",
    "aios.hw.engine.llama_lib",
    "aios.hw.engine.llama_grammar",
    "aios.hw.engine.fake",
    "aios.hw.core.core",
    "aios.hw.tuning.ladder",
}
FILES = [path for folder in PACKAGES for path in sorted((ROOT / folder).rglob("*.py"))]


def _imports(path: Path) -> Iterator[str]:
    """Full names of what a file imports."""
    folder, *below = path.relative_to(ROOT).parent.parts
    package = ".".join([PACKAGES[folder], *below])
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            up = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join(up) if node.level else ""
            name = ".".join(part for part in (base, node.module or "") if part)
            yield name
            yield from (f"{name}.{alias.name}" for alias in node.names)


def _folder(name: str) -> str | None:
    for folder, package in sorted(PACKAGES.items(), key=lambda item: -len(item[1])):
        if name == package or name.startswith(package + "."):
            return folder
    return None


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down(path: Path) -> None:
    names = set(_imports(path))
    folders = {folder for name in names if (folder := _folder(name))}
    home = path.relative_to(ROOT).parts[0]
    assert folders <= MAY_IMPORT[home]
    if home == "kernel" and path.name != "boot.py":
        assert not names & ENGINES
    if path != ROOT / "hw" / "engine" / "llama_lib.py":
        assert not any(name.split(".")[0] == "llama_cpp" for name in names)
    if "toolhost" not in path.parts:
        foreign = {"mcp", "jsonschema", "referencing", "httpx2", "yaml", "aios.toolhost"}
        assert not {name.split(".")[0] for name in names} & foreign


def test_no_imports_in_a_circle() -> None:
    """Not for types either."""
    modules = {}
    for path in FILES:
        if path.name != "__init__.py":
            folder, *below = path.relative_to(ROOT).with_suffix("").parts
            modules[".".join([PACKAGES[folder], *below])] = path
    graph = {name: set(_imports(path)) & modules.keys() for name, path in modules.items()}
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_file_says_what_it_is(path: Path) -> None:
    assert path.name not in {"utils.py", "base.py"}
    assert ast.get_docstring(ast.parse(path.read_text()))


def test_importing_the_sdk_is_light() -> None:
    heavy = [
        "llama_cpp",
        "numpy",
        "rich",
        "requests",
        "httpx",
        "urllib3",
        "jinja2",
        "psutil",
        "mcp",
        "jsonschema",
        "pydantic",
        "asyncio",
        "http.client",
    ]
    code = f"import sys, aios; print([m for m in {heavy} if m in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"

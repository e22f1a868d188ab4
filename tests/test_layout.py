"""Limits on source files and on what importing the SDK imports."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ["syscalls", "hw", "kernel", "agentproc", "bench", "examples"]
FILES = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
MAX_LINES = 400


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_file_is_short_and_has_a_docstring(path: Path) -> None:
    assert path.name not in {"utils.py", "base.py"}
    assert len(path.read_text().splitlines()) <= MAX_LINES
    assert ast.get_docstring(ast.parse(path.read_text()))


def test_importing_the_sdk_imports_no_heavy_module() -> None:
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

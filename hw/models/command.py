"""The program behind ``aios model ls | show | rm | alias``: ``python -m aios.hw.models.command``.

Prints JSON; an error is a line on stderr, and what to do the next. Removes only what lies in the
models folder.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import msgspec

from . import adapter_files, aliases, model_files, names
from .catalog import listed, owner, shown


def remove(name: str, folder: Path, cache: Path) -> dict[str, Any]:
    """Remove a model of the models folder with all its parts and tuned copies, or a given name.

    Raises LookupError if it is neither, OSError.
    """
    if name in aliases.read(folder):
        aliases.remove(folder, name)
        return {"removed": [name]}
    path = Path(names.resolve(name, folder))
    where = owner(name, path, folder)
    if where != "own":
        raise LookupError(
            f"{name} is not in the models folder {folder}, but belongs to {where}: {path}; remove "
            "it with the program that it belongs to"
        )
    files = model_files.parts(path)
    copies = cache / "tune" / model_files.model_hash(path)
    for each in files:  # the first one first: a rest is no model
        each.unlink()
    shutil.rmtree(copies, ignore_errors=True)
    for above in path.parents:
        if above == folder or any(above.iterdir()):
            break
        above.rmdir()
    return {"removed": [str(each) for each in files]}


def give_name(name: str, target: str, lora: list[str], folder: Path) -> dict[str, Any]:
    """Give a model a name, with adapters ``FILE`` or ``FILE:SCALE``.

    Raises LookupError, OSError.
    """
    if name in {known for known, _ in names.own(folder)}:
        raise LookupError(f"{name!r} is the name of a file in {folder}; give another name")
    source = names.find(target, folder)
    problem = None if source.path.startswith("fake") else model_files.problem(Path(source.path))
    if problem:
        raise LookupError(problem)
    adapters = adapter_files.parse(lora)
    adapter_files.check(source.path, (*source.lora, *adapters))
    aliases.give(folder, name, aliases.Alias(target, adapters))
    return {"name": name, "target": target, "lora": msgspec.to_builtins(adapters)}


def _do(options: argparse.Namespace) -> Any:
    folder: Path = options.models
    match options.action:
        case "ls":
            return list(listed(folder))
        case "show":
            return shown(options.name, folder)
        case "rm":
            return remove(options.name, folder, options.cache)
        case _:
            return give_name(options.name, options.target, options.lora, folder)


def main() -> int:
    """Print what the command line asks for; an error is one line, and what to do another."""
    parser = argparse.ArgumentParser(prog="aios-models")
    parser.add_argument("action", choices=("ls", "show", "rm", "alias"))
    parser.add_argument("name", nargs="?", default="")
    parser.add_argument("target", nargs="?", default="")
    parser.add_argument("--lora", action="append", default=[])
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--cache", type=Path, default=Path())
    options = parser.parse_args()
    try:
        json.dump(msgspec.to_builtins(_do(options)), sys.stdout)
    except LookupError as error:
        sys.stderr.write(f"{error.args[0]}\nmodels: aios model ls\n")
        return 1
    except OSError as error:
        sys.stderr.write(f"{error.filename or options.models}: {error.strerror}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""``aios``: the command line. Parses a command and calls the function that carries it out.

Imports only the module of the command that is given, so ``aios --help`` imports none.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from aios.syscalls.errors import AiosError

from . import out, parts
from .command import declare

EPILOG = """exit codes:
  aios run (attached)   the agent's own; 125 aios failed, 126 the file cannot be run,
                        127 no such file, 128+n killed by signal n;
                        of several agents the first that is not 0
  aios wait             the agent's own
  aios perm explain     0 allowed, 1 not
  aios audit verify     0 unchanged, 1 not
  aios daemon status    0 running, 1 dead but its sockets are left, 3 not running
  others                0 done, 1 failed, 2 wrong usage

folders: AIOS_RUNTIME_DIR or XDG_RUNTIME_DIR/aios (sockets), XDG_STATE_HOME/aios (logs, audit),
  XDG_CONFIG_HOME/aios/config.toml and policy.toml, XDG_DATA_HOME/aios (models, grants),
  XDG_CACHE_HOME/aios
"""
COMMANDS = {
    "run": ("run", "run Python files as agents"),
    "ps": ("ps", "list agents"),
    "logs": ("ps", "show an agent's output"),
    "kill": ("ps", "kill agents and all they started"),
    "stop": ("ps", "ask agents to end; kill them after --grace"),
    "pause": ("ps", "freeze agents, even during a generation"),
    "resume": ("ps", "thaw paused agents"),
    "renice": ("ps", "change priority, weight or quotas"),
    "wait": ("ps", "wait for agents to end"),
    "memory": ("memory", "notes of agents: list, search, add, remove, check"),
    "daemon": ("daemon", "start, stop and inspect the kernel"),
    "model": ("model", "models: list, load, unload, tune"),
    "trace": ("trace", "export the schedule as a Chrome or Perfetto trace"),
    "sched": ("daemon", "show or set the scheduler"),
    "call": ("daemon", "make any system call as the operator"),
    "storage": ("storage", "agents' files, mounts, quotas, backups"),
    "perm": ("access", "rights: groups, grants, and why something is allowed"),
    "approvals": ("access", "questions of agents to the operator"),
    "tool": ("tool", "tools: list, call, add, remove, keys"),
    "mcp": ("mcp", "MCP servers: add, list, remove, call, approve"),
    "version": ("daemon", "show the version"),
}
"""Module and help of each command."""
PROGRAMS = {
    "config": ("aios.kernel.daemon", "show the kernel's settings: get [KEY], path"),
    "bench": ("aios.bench", "measure: aios bench SUITE [--json]"),
    "audit": ("aios.kernel.access.audit.view", "show and verify the log of decisions on rights"),
}
"""Module and help of commands that are programs of their own."""


def parser(only: str | None = None) -> argparse.ArgumentParser:
    """Return the parser with the arguments of one command, or of all."""
    top = argparse.ArgumentParser(
        prog="aios", description="An operating system for LLM agents.", epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (module, text) in COMMANDS.items():
        command = commands.add_parser(name, help=text)
        if only in (None, name):
            declare(command, importlib.import_module(f".{module}", __package__).COMMANDS[name])
    for name, (_, text) in PROGRAMS.items():
        commands.add_parser(name, help=text, add_help=False)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: the console script ``aios``."""
    _open_standard()
    words = list(sys.argv[1:] if argv is None else argv)
    options = argparse.Namespace(command=None)
    try:
        if words and words[0] in PROGRAMS:
            given = words if words[0] == "config" else words[1:]
            parts.become(PROGRAMS[words[0]][0], *given)
        options = _parse(words)
        code = int(options.do(options))
        sys.stdout.flush()
        return code
    except AiosError as error:
        out.complain(error)
        return 1
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 141
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        if error.filename is None:
            out.complain(f"cannot write the output: {error.strerror}", "write it elsewhere")
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python flushes again at exit
        else:
            out.complain(f"{error.filename}: {error.strerror}")
        return 125 if options.command == "run" else 1


def _open_standard() -> None:
    """Open closed standard streams on /dev/null, so that no other file gets their descriptors."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(fd, True)
    os.close(fd)
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115  until the end
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115  until the end


def _parse(words: list[str]) -> argparse.Namespace:
    """Parse a command. ``daemon up`` passes unknown flags to the kernel; elsewhere they are errors.

    The words after ``--`` of ``run`` and ``mcp add`` are another program's, in ``args``.
    """
    extra: list[str] = []
    if (words[:1] == ["run"] or words[:2] == ["mcp", "add"]) and "--" in words:
        cut = words.index("--")
        words, extra = words[:cut], words[cut + 1 :]
    parsing = parser(words[0] if words else "")
    options, flags = parsing.parse_known_args(words)
    if flags and not (options.command == "daemon" and options.action in ("up", "restart")):
        parsing.error(f"unrecognized arguments: {' '.join(flags)}")
    options.args, options.flags = extra, flags
    return options

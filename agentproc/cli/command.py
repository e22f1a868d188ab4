"""A command of ``aios`` as data: its help, its arguments, and the function that carries it out.

Each module of ``cli`` lists its commands in ``COMMANDS``; ``main`` imports only the module of the
command that is given.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

REF = "pid, name, or unique prefix of a name"
CLASSES = ("interactive", "normal", "batch")


class Argument(NamedTuple):
    """The parameters of ``ArgumentParser.add_argument``."""

    flags: tuple[str, ...]
    options: dict[str, Any]


def arg(*flags: str, **options: Any) -> Argument:
    """Return an argument."""
    return Argument(flags, options)


def flag(*flags: str, help: str | None = None) -> Argument:
    """Return an option without a value."""
    return Argument(flags, {"action": "store_true", "help": help})


class Command(NamedTuple):
    """A command or one of its ``actions``. ``do`` returns the exit code.

    ``json``: the help of --json; None if there is no such option. ``shape``: attributes of its
    parser, for example ``epilog``.
    """

    help: str = ""
    do: Callable[[argparse.Namespace], int] | None = None
    arguments: tuple[Argument, ...] = ()
    actions: Mapping[str, Command] = {}
    json: str | None = "print JSON"
    shape: Mapping[str, Any] = {}


def declare(parser: argparse.ArgumentParser, command: Command) -> None:
    """Give the command's arguments and actions to its parser."""
    for name, value in command.shape.items():
        setattr(parser, name, value)
    for each in command.arguments:
        parser.add_argument(*each.flags, **each.options)
    if command.actions:
        below = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
        for name, action in command.actions.items():
            declare(below.add_parser(name, help=action.help), action)
        return
    if command.json:
        parser.add_argument("--json", action="store_true", help=command.json)
    parser.set_defaults(do=command.do)

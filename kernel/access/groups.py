"""Privilege groups: the built-in groups, and the policy file that replaces and adds groups.

The file is TOML. It is read and checked as a whole before any of it is used:

    default = "agent"          # group of agents that are started without --group
    guest = "agent"            # group of programs started by hand
    approval_s = 3600          # seconds until a question to the operator, or its answer, expires

    [group.researcher]
    about = "Reads notes, searches the web"
    from = ["restricted"]      # inherits their rules
    allow = ["tool.call:web_*", "network:*.example.org"]
    ask = ["path.write:/notes/**"]
    trust = []
    deny = ["agent.spawn:*"]

A group with the name of a built-in group replaces it.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar

import msgspec
from msgspec import Meta

from aios.syscalls.errors import InvalidArgument
from aios.syscalls.suggest import did_you_mean
from aios.syscalls.table import CALLS

from .rules import VERBS, Rule, parse

DEFAULT_APPROVAL_S = 3600.0
MAX_FILE_BYTES = 1 << 20
"""Limit on the size of the policy file."""

S = TypeVar("S", bound=msgspec.Struct)
_Rules = Annotated[list[str], Meta(max_length=1000)]


class _Group(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    about: Annotated[str, Meta(max_length=200)] = ""
    parents: Annotated[list[str], Meta(max_length=32)] = msgspec.field(name="from", default=[])
    allow: _Rules = []
    ask: _Rules = []
    trust: _Rules = []
    deny: _Rules = []


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    default: str = "agent"
    guest: str = "agent"
    approval_s: Annotated[float, Meta(ge=1, le=30 * 86400)] = DEFAULT_APPROVAL_S
    group: Annotated[dict[str, _Group], Meta(max_length=1000)] = {}


def _restricted_calls() -> list[str]:
    """Return rules for the calls that change nothing or that every agent needs."""
    areas = ("llm.", "ipc.", "memory.", "context.")
    return [
        f"call:{call.name}"
        for call in CALLS
        if call.effect == "read" or call.name == "cancel" or call.name.startswith(areas)
    ]


BUILTIN: Mapping[str, _Group] = {
    "restricted": _Group(
        about="Uses the model, reads its own files and keeps private notes; starts nothing",
        allow=["model:*", "path.read:/**"],
        trust=[*_restricted_calls(), "memory:session", "context:own/*",
               "agent.send:kin/*", "agent:self/*"],
    ),
    "agent": _Group(
        about="The default: its own files, memory and children; tools, asking if irreversible",
        allow=["path:/**", "tool:*", "model:*"],
        trust=["call:*", "path:/.kv/**", "memory:session", "memory:agent", "context:own/*",
               "agent.spawn:*", "agent:self/*", "agent:own/*", "agent.send:kin/*"],
        ask=["agent.send:other/*"],
    ),
    "trusted": _Group(
        about="Everything that agent allows, without asking; any host, shared memory and agent",
        trust=["call:*", "path:*", "tool:*", "memory:*", "model:*", "context:own/*", "network:*",
               "agent.spawn:*", "agent.send:*", "agent:self/*", "agent:own/*"],
    ),
    "operator": _Group(
        about="Everything, on every agent, except the operator's own calls",
        trust=["*:*"],
    ),
}  # fmt: skip


class Group(NamedTuple):
    """A group with all its rules, including inherited ones."""

    name: str
    about: str
    rules: tuple[Rule, ...]
    builtin: bool


class GroupPolicy(NamedTuple):
    """The contents of the policy file with the built-in groups. Immutable."""

    groups: Mapping[str, Group]
    default: str
    guest: str
    approval_s: float

    def find(self, name: str) -> Group:
        """Return a group by name. Raises InvalidArgument with the closest name."""
        return self.groups[_known(name, self.groups, "group")]


def load(path: Path) -> GroupPolicy:
    """Load the policy file. Raises InvalidArgument with line, key and limit."""
    text = _read(path)
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidArgument(f"policy {path}: {error}", _fix(path)) from None
    try:
        file = _converted(tree)
        merged = {**BUILTIN, **file.group}
        groups = {
            name: Group(name, group.about, tuple(_rules(name, merged)), name not in file.group)
            for name, group in merged.items()
        }
        for key in ("default", "guest"):
            _known(getattr(file, key), groups, f"group in {key}")
    except InvalidArgument as error:
        raise InvalidArgument(f"policy {path}, {_line(text, error.message)}: {error.message}",
                              _fix(path)) from None  # fmt: skip
    return GroupPolicy(groups, file.default, file.guest, file.approval_s)


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
        text = data.decode("utf-8")
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"cannot read the policy {path}: {error}", _fix(path)) from None
    if len(data) > MAX_FILE_BYTES:
        raise InvalidArgument(f"the policy {path} exceeds {MAX_FILE_BYTES:,} bytes", _fix(path))
    return text


def _fix(path: Path) -> str:
    return f"fix it ($EDITOR {path}), then: aios perm reload"


def _converted(tree: dict[str, Any]) -> _File:
    """Check the file's structure. Raises InvalidArgument."""
    groups = tree.get("group", {})
    if not isinstance(groups, dict):
        raise InvalidArgument("group: expected tables [group.NAME]")
    _check_keys(tree, _File, "key")
    for name, group in groups.items():
        if isinstance(group, dict):
            _check_keys(group, _Group, f"key of group.{name}")
        _checked(group, _Group, f"group.{name}")
    return _checked(tree, _File, "")


def _checked(tree: Any, shape: type[S], where: str) -> S:
    try:
        return msgspec.convert(tree, shape)
    except msgspec.ValidationError as error:
        reason, _, at = str(error).partition(" - at `$")
        key = f"{where}{at.rstrip('`')}".lstrip(".")
        raise InvalidArgument(f"{key or 'the file'}: {reason}") from None


def _check_keys(tree: dict[str, Any], shape: type[msgspec.Struct], what: str) -> None:
    valid = [field.encode_name for field in msgspec.structs.fields(shape)]
    for key in tree:
        _known(key, valid, what)


def _known(name: str, valid: Mapping[str, object] | Sequence[str], what: str) -> str:
    if name in valid:
        return name
    raise InvalidArgument(
        f"unknown {what} {name!r}{did_you_mean(name, valid)} (valid: {', '.join(valid)})",
        "see: aios perm ls",
    )


def _rules(name: str, groups: Mapping[str, _Group]) -> Iterator[Rule]:
    """Yield a group's own and inherited rules. Raises InvalidArgument."""
    for member in _with_parents(name, groups, ()):
        for verb in VERBS:
            for text in getattr(groups[member], verb):
                where = f"group.{member}.{verb}"
                try:
                    rule = parse(text, verb, f"group {member}")
                except InvalidArgument as error:
                    raise InvalidArgument(f"{where}: {error.message}") from None
                if rule.verb != verb:
                    raise InvalidArgument(f"{where}: rule {text!r} has the verb {rule.verb!r}")
                yield rule


def _with_parents(
    name: str, groups: Mapping[str, _Group], below: tuple[str, ...]
) -> dict[str, None]:
    """Return a group and all groups it inherits from, each once. Raises InvalidArgument."""
    if name in below:
        raise InvalidArgument(f"group.{name}.from: {' → '.join([*below, name])} is a cycle")
    found = {name: None}
    for parent in dict.fromkeys(groups[name].parents):
        _known(parent, groups, f"group in group.{name}.from")
        if parent not in found:
            found |= _with_parents(parent, groups, (*below, name))
    return found


def _line(text: str, message: str) -> str:
    """Find the line of the first word that the message quotes, else of the key it names."""
    quoted = [word for word in message.split("'")[1::2] if word]
    lines = text.splitlines()
    for word in quoted:
        for number, line in enumerate(lines, 1):
            if word in line:
                return f"line {number}"
    key = message.split(":")[0].split(".")[-1].split("[")[0]
    found = (number for number, line in enumerate(lines, 1) if key in line)
    return f"line {next(found, 1)}"

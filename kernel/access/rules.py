"""Rules, and the pure function from (principals' rules, operation) to a decision.

A rule is written ``[VERB] KIND[.ACTION]:NAME``, e.g. ``allow path.read:/notes/**``. Verbs:

    deny    never; takes precedence over every other verb
    trust   yes, without asking, even if it cannot be undone
    ask     the operator is asked each time
    allow   yes, but the operator is asked if it cannot be undone

An operation that no rule matches is denied. In a name, ``*`` matches any text without ``/``, and
the segment ``**`` any number of whole segments, including none; a name of ``*`` alone matches every
name. Nothing here reads a clock, a file or the process table.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple, get_args

from aios.syscalls.errors import InvalidArgument
from aios.syscalls.suggest import did_you_mean
from aios.syscalls.types.common import Effect
from aios.syscalls.types.process import SpawnRequest

Verb = Literal["deny", "trust", "ask", "allow"]
Verdict = Literal["deny", "ask", "allow"]

VERBS: tuple[Verb, ...] = get_args(Verb)
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
"""The strictest first."""
KINDS: Mapping[str, tuple[str, ...]] = {
    "call": ("make",),
    "path": ("read", "write", "delete", "share", "mount"),
    "tool": ("call", "offer"),
    "memory": ("read", "write", "delete"),
    "model": ("use",),
    "context": ("read", "write", "delete"),
    "agent": ("spawn", "name", "send", "signal", "renice", "log"),
    "network": ("connect",),
}
"""Kinds of objects and the actions on them. The name is a system call; a path in an agent's tree;
a tool; session, agent or shared:NAME; a model; own/NAME or other/AGENT/NAME of a saved context;
RELATION/NAME of an agent (for spawn, the program's path); a host. ``agent.name`` is the right to
give a child a name that belongs to the operator or another program, and so access to its data."""
RELATIONS = ("self", "own", "kin", "other")
"""An agent's relation to the caller: the same, a descendant, of the same program, none of these."""
MAX_RULE_LENGTH = 512
MAX_WILDCARDS = 16
_HOST = re.compile(r"[a-z0-9._:*-]+(?<!\.)")


class Rule(NamedTuple):
    """One rule; ``source`` tells where it is from (``group agent``, ``grant 3``, …)."""

    verb: Verb
    kind: str
    action: str
    """``*`` for any."""
    name: str
    source: str = ""

    def __str__(self) -> str:
        action = "" if self.action == "*" else f".{self.action}"
        return f"{self.verb} {self.kind}{action}:{self.name}"


class Operation(NamedTuple):
    """An action on an object, as a principal wants to perform it."""

    kind: str
    action: str
    name: str
    effect: Effect


class Decision(NamedTuple):
    """A verdict by ``rule`` of principal number ``of``; None if none of its rules matched."""

    verdict: Verdict
    rule: Rule | None
    of: int = 0


# ------------------------------------------------------------------------------ rules as text


def parse(text: str, verb: Verb, source: str = "") -> Rule:
    """Parse a rule; ``verb`` is the default verb. Raises InvalidArgument."""
    if len(text) > MAX_RULE_LENGTH:
        raise InvalidArgument(
            f"a rule of {len(text)} characters exceeds the limit of {MAX_RULE_LENGTH}"
        )
    if not text.isprintable():
        raise InvalidArgument(f"rule {text[:80]!r} has unprintable characters",
                              "match them with *")  # fmt: skip
    first, space, rest = text.strip().partition(" ")
    if space:
        verb, text = _one_of(first, VERBS, "verb", text), rest.strip()  # type: ignore[assignment]
    head, colon, name = text.strip().partition(":")
    if not colon or not name:
        raise InvalidArgument(
            f"rule {text!r} is not KIND[.ACTION]:NAME", "for example: allow path.read:/notes/**"
        )
    kind, dot, action = head.partition(".")
    if kind != "*":
        _one_of(kind, tuple(KINDS), "kind", text)
        if dot and action != "*":
            _one_of(action, KINDS[kind], f"action of {kind}", text)
    elif dot:
        raise InvalidArgument(f"rule {text!r}: an action needs a kind: {', '.join(KINDS)}")
    rule = Rule(verb, kind, action if dot else "*", name, source)
    _check_name(rule)
    return rule


def _one_of(word: str, valid: Sequence[str], what: str, text: str) -> str:
    if word in valid:
        return word
    raise InvalidArgument(f"rule {text!r}: unknown {what} {word!r}{did_you_mean(word, valid)} "
                          f"(valid: {', '.join(valid)})")  # fmt: skip


def _check_name(rule: Rule) -> None:
    """Reject a name that could never match. Raises InvalidArgument."""
    name = rule.name
    reason = ""
    if name == "*":
        return
    if name.count("*") > MAX_WILDCARDS:
        reason = f"more than {MAX_WILDCARDS} wildcards"
    elif any("**" in segment and segment != "**" for segment in name.split("/")):
        reason = "** stands for whole segments: /notes/**"
    elif rule.kind == "path" and not name.startswith(("/", "**/")):
        reason = "a path begins with /"
    elif rule.kind == "path" and ".." in name.split("/"):
        reason = "a path has no .."
    elif rule.kind == "agent" and rule.action != "spawn" and "/" not in name:
        reason = f"an agent is named with its relation ({', '.join(RELATIONS)}): */{name}"
    elif rule.kind == "context" and name.partition("/")[0] not in ("own", "other", "*", "**"):
        reason = f"a context is own/{name} or other/AGENT/{name}"
    elif rule.kind == "network" and (not _HOST.fullmatch(name) or name.count(":") == 1):
        reason = "a host is in lower case, without a port, and in xn--… form if it is not ASCII"
    if reason:
        raise InvalidArgument(f"rule {str(rule)!r}: {reason}")


# ------------------------------------------------------------------------------ rules, compiled


def compile_name(name: str) -> str:
    """Return the regular expression for a rule's name; it matches names with a / appended.

    Matching takes linear time: between two wildcards of a kind the leftmost match is as good as
    any other, so atomic groups rule out backtracking.
    """
    chunks: list[str] = [""]
    for segment in name.split("/"):
        if segment == "**":
            chunks.append("")
        else:
            chunks[-1] += _compile_segment(segment) + "/"
    first, *rest = chunks
    if not rest:
        return first
    middle = "".join(f"(?>(?:[^/]*/)*?{chunk})" for chunk in rest[:-1] if chunk)
    return f"{first}{middle}(?:[^/]*/)*{rest[-1]}"


def _compile_segment(segment: str) -> str:
    first, *rest = (re.escape(piece) for piece in segment.split("*"))
    if not rest:
        return first
    return first + "".join(f"(?>[^/]*?{piece})" for piece in rest[:-1]) + f"[^/]*{rest[-1]}"


class _Matcher:
    """The rules with one verb that apply to one kind and action."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._always = next((rule for rule in rules if rule.name == "*"), None)
        self._literal = {rule.name: rule for rule in reversed(rules) if "*" not in rule.name}
        self._globs = [rule for rule in rules if "*" in rule.name and rule.name != "*"]
        self._regex = re.compile("|".join(f"({compile_name(r.name)})" for r in self._globs))

    def find(self, name: str) -> Rule | None:
        rule = self._always or self._literal.get(name)
        if rule is None and self._globs:
            found = self._regex.fullmatch(name + "/")
            if found and found.lastindex:
                rule = self._globs[found.lastindex - 1]
        return rule


class RuleSet:
    """The rules of one principal. If several rules of a verb match, any of them is reported."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        self.rules = tuple(rules)
        self._matchers: dict[tuple[str, str], tuple[_Matcher, ...]] = {}

    def judge(self, operation: Operation) -> tuple[Verdict, Rule | None]:
        """Return the verdict of these rules alone, and the rule that decided."""
        kind, action, name, effect = operation
        matchers = self._matchers.get((kind, action)) or self._compile(kind, action)
        deny, trust, ask, allow = matchers
        if rule := deny.find(name):
            return "deny", rule
        if rule := trust.find(name):
            return "allow", rule
        if rule := ask.find(name):
            return "ask", rule
        if rule := allow.find(name):
            return ("ask" if effect == "irreversible" else "allow"), rule
        return "deny", None

    def _compile(self, kind: str, action: str) -> tuple[_Matcher, ...]:
        chosen = [r for r in self.rules if r.kind in ("*", kind) and r.action in ("*", action)]
        matchers = tuple(_Matcher([r for r in chosen if r.verb == verb]) for verb in VERBS)
        self._matchers[kind, action] = matchers
        return matchers


def stricter(one: Decision, other: Decision) -> bool:
    """Tell whether one decision is stricter than the other."""
    return _severity(one) < _severity(other)


def _severity(decision: Decision) -> int:
    return VERDICTS.index(decision.verdict)


def decide(principals: Sequence[RuleSet], operation: Operation) -> Decision:
    """Return the strictest verdict of the principals' rules; among equals, the first.

    The principals are the caller, its ancestors, and those for whom it acts, so that an agent
    cannot do through another what it may not do itself.
    """
    decisions = [Decision(*each.judge(operation), number) for number, each in enumerate(principals)]
    return min(decisions, key=_severity, default=Decision("deny", None))


def of_spawn(spec: SpawnRequest) -> tuple[tuple[Rule, ...] | None, tuple[Rule, ...]]:
    """Return the rules of a spawn: those that replace its group's, and those in addition.

    ``rights`` without a rule on calls imply all calls. Raises InvalidArgument.
    """
    instead: tuple[Rule, ...] | None = None
    if spec.rights is not None:
        instead = tuple(parse(text, "trust", "spawn rights") for text in spec.rights)
        if not any(rule.kind in ("*", "call") for rule in instead):
            instead = (*instead, Rule("trust", "call", "*", "*", "spawn rights"))
    further = [parse(text, "allow", "spawn allow") for text in spec.allow]
    for text in spec.deny:
        rule = parse(text, "deny", "spawn deny")
        if rule.verb != "deny":
            raise InvalidArgument(f"deny: rule {text!r} has the verb {rule.verb!r}")
        further.append(rule)
    return instead, tuple(further)

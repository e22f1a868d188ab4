"""Rules: the pure decision against a naive reference, rules as text, and policy files."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from aios.kernel.access import groups
from aios.kernel.access.rules import KINDS, VERBS, Decision, Operation, Rule, RuleSet, decide, parse
from aios.syscalls.errors import InvalidArgument
from aios.syscalls.table import CALLS
from aios.syscalls.types.common import Effect

EFFECTS: tuple[Effect, ...] = ("read", "reversible", "irreversible")

# ---------------------------------------------------------------------------- the reference


def _matches(pattern: Sequence[str], name: Sequence[str]) -> bool:
    """Match segments against segments by exhaustive search."""
    if not pattern:
        return not name
    if pattern[0] == "**":
        return any(_matches(pattern[1:], name[cut:]) for cut in range(len(name) + 1))
    return bool(name) and _text(pattern[0], name[0]) and _matches(pattern[1:], name[1:])


def _text(pattern: str, text: str) -> bool:
    if not pattern:
        return not text
    if pattern[0] == "*":
        return any(_text(pattern[1:], text[cut:]) for cut in range(len(text) + 1))
    return bool(text) and pattern[0] == text[0] and _text(pattern[1:], text[1:])


def _applies(rule: Rule, operation: Operation) -> bool:
    return (
        rule.kind in ("*", operation.kind)
        and rule.action in ("*", operation.action)
        and (rule.name == "*" or _matches(rule.name.split("/"), operation.name.split("/")))
    )


def _naive(principals: Sequence[Sequence[Rule]], operation: Operation) -> str:
    """The documented semantics of rules, word for word."""
    verdicts = []
    for rules in principals:
        verbs = {rule.verb for rule in rules if _applies(rule, operation)}
        if "deny" in verbs or not verbs:
            verdicts.append("deny")
        elif "trust" in verbs:
            verdicts.append("allow")
        elif "ask" in verbs or operation.effect == "irreversible":
            verdicts.append("ask")
        else:
            verdicts.append("allow")
    return min(verdicts, key=("deny", "ask", "allow").index, default="deny")


def _name(rng: random.Random, wild: bool) -> str:
    if wild and rng.random() < 0.1:
        return "*"
    letters = "ab*" if wild else "ab"
    segments = []
    for _ in range(rng.randint(1, 4)):
        if wild and rng.random() < 0.25:
            segments.append("**")
        else:
            text = "".join(rng.choice(letters) for _ in range(rng.randint(0, 4)))
            segments.append(text.replace("**", "*").replace("**", "*"))
    return "/".join(segments)


def _rule(rng: random.Random) -> Rule:
    kind = rng.choice(["path", "tool", "*"])
    action = rng.choice(["*", *KINDS[kind]]) if kind != "*" else "*"
    return Rule(rng.choice(VERBS), kind, action, _name(rng, True))


def _operation(rng: random.Random) -> Operation:
    kind = rng.choice(["path", "tool"])
    return Operation(kind, rng.choice(KINDS[kind]), _name(rng, False), rng.choice(EFFECTS))


def test_twelve_thousand_random_policies_decide_as_the_reference_does() -> None:
    """12,000 policies of one to three principals, ten requests each; seed 1."""
    rng = random.Random(1)
    seen = {"deny": 0, "ask": 0, "allow": 0}
    for number in range(12_000):
        principals = [
            [_rule(rng) for _ in range(rng.randint(0, 6))] for _ in range(rng.randint(1, 3))
        ]
        compiled = [RuleSet(rules) for rules in principals]
        for _ in range(10):
            operation = _operation(rng)
            got = decide(compiled, operation)
            assert got.verdict == _naive(principals, operation), (number, principals, operation)
            if got.rule is not None:
                assert got.rule in principals[got.of] and _applies(got.rule, operation)
            seen[got.verdict] += 1
    assert min(seen.values()) > 1000, seen


def test_a_child_never_has_more_and_a_deny_never_gives_more() -> None:
    """An added principal or deny rule never makes a verdict milder; seed 2."""
    rng, severity = random.Random(2), ("deny", "ask", "allow").index
    for _ in range(2000):
        parent = [_rule(rng) for _ in range(5)]
        child = [_rule(rng) for _ in range(5)]
        operation = _operation(rng)
        above = severity(decide([RuleSet(parent)], operation).verdict)
        assert severity(decide([RuleSet(child), RuleSet(parent)], operation).verdict) <= above
        deny = _rule(rng)._replace(verb="deny")
        assert severity(decide([RuleSet([*parent, deny])], operation).verdict) <= above


@pytest.mark.parametrize("kind", ["path", "tool"])
@pytest.mark.parametrize("name", ["/{}b", "/aaa{}b", "{}"])
def test_matching_takes_linear_time(kind: str, name: str) -> None:
    """A name 8 times as long takes about 8 times the CPU time, not 64 times."""
    pattern = "/" + "/".join(["**/a*a*a"] * 4) if kind == "path" else "a*" * 15 + "b"
    rules = RuleSet([parse(f"{kind}:{pattern}", "allow")])
    action = {"path": "read", "tool": "call"}[kind]

    def cpu_s(repeats: int) -> float:
        operation = Operation(kind, action, name.format("a/aaaa" * repeats), "read")
        times = []
        for _ in range(5):
            begun = time.thread_time()
            rules.judge(operation)
            times.append(time.thread_time() - begun)
        return min(times)

    cpu_s(1)  # compile the rules
    assert cpu_s(160_000) < 3 * 8 * max(cpu_s(20_000), 1e-4)


def test_without_principals_everything_is_denied() -> None:
    assert decide([], Operation("tool", "call", "x", "read")) == Decision("deny", None)


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("/notes/**", ["/notes", "/notes/a", "/notes/a/b"], ["/note", "/notesx", "/x/notes"]),
        ("/**/key", ["/key", "/a/key", "/a/b/key"], ["/a/keys", "/key/a"]),
        ("/a*/b", ["/a/b", "/axx/b"], ["/a/x/b", "/a/b/c"]),
        ("/**", ["/", "/a", "/a/b"], ["a"]),
        ("/", ["/"], ["/a", ""]),
        ("/a.c", ["/a.c"], ["/abc"]),
    ],
)
def test_names_match(pattern: str, yes: list[str], no: list[str]) -> None:
    rules = RuleSet([parse(f"path.read:{pattern}", "allow")])
    for name in yes + no:
        verdict, _ = rules.judge(Operation("path", "read", name, "read"))
        assert (verdict == "allow") == (name in yes), name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tol.call:x", "did you mean 'tool'"),
        ("path.raed:/x", "did you mean 'read'"),
        ("alow path:/x", "did you mean 'allow'"),
        ("path.read", "KIND"),
        ("path.read:", "KIND"),
        ("", "KIND"),
        ("path:notes", "begins with /"),
        ("path:/a/../b", "no .."),
        ("path:/a**", "whole segments"),
        ("tool:" + "*a" * 17, "16 wildcards"),
        ("tool:" + "x" * 600, "512"),
        ("agent.send:critic", r"\*/critic"),
        ("*.read:/x", "an action needs a kind"),
        ("path:/\x1b[2J", "unprintable"),
        ("network:Example.org", "lower case"),
        ("network:example.org:80", "without a port"),
        ("context.read:plan", "own/plan or other/AGENT/plan"),
    ],
)
def test_invalid_rules_are_rejected(text: str, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        parse(text, "allow")


def test_rules_print_as_their_text() -> None:
    for text in ("allow path.read:/notes/**", "deny network:*", "ask *:*", "trust call:llm.*"):
        assert str(parse(text, "deny")) == text
    assert str(parse("memory:shared:team", "allow")) == "allow memory:shared:team"


# ---------------------------------------------------------------------------- policy files


def test_the_built_in_groups() -> None:
    policy = groups.load(Path("/nowhere/policy.toml"))
    assert policy.default == policy.guest == "agent"
    sets = {name: RuleSet(group.rules) for name, group in policy.groups.items()}

    def says(group: str, operation: str, effect: str = "read") -> str:
        rule = parse(operation, "allow")
        verdict, _ = sets[group].judge(Operation(rule.kind, rule.action, rule.name, effect))  # type: ignore[arg-type]
        return verdict

    assert says("agent", "tool.call:x") == "allow"
    assert says("agent", "tool.call:x", "irreversible") == "ask"
    assert says("agent", "network.connect:example.org") == "deny"
    assert says("agent", "memory.read:shared:team") == "deny"
    assert says("agent", "agent.send:other/x", "irreversible") == "ask"
    assert says("agent", "agent.send:kin/x", "irreversible") == "allow"
    assert says("agent", "agent.signal:other/x", "irreversible") == "deny"
    assert says("trusted", "agent.signal:other/x", "irreversible") == "deny"
    assert says("restricted", "path.read:/x") == "allow"
    assert says("restricted", "path.write:/x", "reversible") == "deny"
    assert says("restricted", "agent.spawn:/x.py", "irreversible") == "deny"
    assert says("operator", "agent.signal:other/x", "irreversible") == "allow"
    for call in CALLS:
        assert sets["agent"].judge(Operation("call", "make", call.name, call.effect))[0] == "allow"


def test_a_file_replaces_and_adds_groups(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(
        'default = "lab"\napproval_s = 5\n'
        '[group.lab]\nfrom = ["restricted"]\nallow = ["tool.call:calc"]\ndeny = ["model:big"]\n'
        '[group.trusted]\nabout = "fewer rights"\n'
    )
    policy = groups.load(path)
    assert (policy.default, policy.guest, policy.approval_s) == ("lab", "agent", 5)
    lab = RuleSet(policy.groups["lab"].rules)
    assert lab.judge(Operation("model", "use", "big", "read"))[0] == "deny"
    assert lab.judge(Operation("path", "read", "/x", "read"))[0] == "allow"
    verdict, rule = lab.judge(Operation("tool", "call", "calc", "read"))
    assert verdict == "allow" and rule and rule.source == "group lab"
    assert policy.groups["trusted"].rules == () and not policy.groups["trusted"].builtin


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = ", "Invalid value"),
        ('\ndefualt = "agent"', "line 2: unknown key 'defualt'; did you mean 'default'"),
        ("[group.a]\n\nalow = []", "line 3: unknown key of group.a 'alow'; did you mean 'allow'"),
        ('[group.a]\nallow = ["tol.call:x"]', "line 2: .*did you mean 'tool'"),
        ('[group.a]\nallow = ["deny tool:x"]', "has the verb 'deny'"),
        ("[group.a]\n\n\nallow = [3]", r"line 4: group.a.allow\[0\]: Expected `str`"),
        ('[group.a]\nfrom = ["agnt"]', "line 2: .*did you mean 'agent'"),
        ('[group.a]\nfrom = ["b"]\n[group.b]\nfrom = ["a"]', "a → b → a is a cycle"),
        ('default = "trustd"', "did you mean 'trusted'"),
        ("approval_s = -1", "line 1: approval_s"),
        ("group = 3", "expected tables"),
        ("\xff", "cannot read"),
    ],
)
def test_errors_in_a_policy_name_line_and_key(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "policy.toml"
    path.write_bytes(text.encode("latin-1") if text == "\xff" else text.encode())
    with pytest.raises(InvalidArgument, match=message) as caught:
        groups.load(path)
    assert str(path) in caught.value.message and "aios perm reload" in caught.value.hint


def test_a_file_that_is_too_large_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text("#" * (groups.MAX_FILE_BYTES + 1))
    with pytest.raises(InvalidArgument, match="exceeds"):
        groups.load(path)

"""``aios perm | approvals``: rights, grants and questions."""

from __future__ import annotations

import argparse
import sys

from aios.syscalls import codec
from aios.syscalls.client import Connection
from aios.syscalls.errors import AiosError, InvalidArgument, NotFound
from aios.syscalls.types.access import (
    Approval,
    ApprovalAnswer,
    ExplainReply,
    ExplainRequest,
    GrantInfo,
    GrantRequest,
    PolicyReply,
    RevokeRequest,
)
from aios.syscalls.types.common import Empty

from . import daemonctl, out
from .command import REF, Command, arg
from .daemonctl import system_call
from .out import plain

_CALLS_SHOWN = 3
_LONGEST_NUMBER = 19


def perm_ls(options: argparse.Namespace) -> int:
    """List groups with their rules, and grants."""
    policy: PolicyReply = system_call("access.policy", Empty())
    return _show_policy(policy, options.json)


def perm_reload(options: argparse.Namespace) -> int:
    """Read the policy file and the grants again."""
    policy: PolicyReply = system_call("access.reload", Empty())
    return _show_policy(policy, options.json)


def _show_policy(policy: PolicyReply, as_json: bool) -> int:
    if as_json:
        out.as_json(policy)
        return 0
    print(f"policy file {policy.path}; default group {policy.default}, "
          f"for programs started by hand {policy.guest}\n")  # fmt: skip
    for group in policy.groups:
        source = "built in" if group.builtin else "from the policy file"
        print(f"{group.name} ({source}){': ' + group.about if group.about else ''}")
        calls = [rule for rule in group.rules if rule.startswith("trust call:")]
        hidden = calls[_CALLS_SHOWN:]
        for rule in group.rules:
            if rule not in hidden:
                print(f"  {rule}")
        if hidden:
            print(f"  … and {len(hidden)} more calls (--json shows all)")
    print()
    out.table(
        ["grant>", "to", "rule"],
        [[str(g.id), g.subject + " (name not used yet)" * g.unused, g.rule]
         for g in policy.grants],
    )  # fmt: skip
    return 0


def perm_grant(options: argparse.Namespace) -> int:
    """Grant a right, durably."""
    request = codec.convert({"subject": options.subject, "rule": options.rule}, GrantRequest)
    grant: GrantInfo = system_call("access.grant", request)
    _say(options, grant, f"grant {grant.id}: {grant.subject} {grant.rule}")
    if grant.unused and not options.json:
        print(
            f"  no agent has used the name {grant.subject} yet: the grant goes to the first that "
            f"does; run yours, or revoke it: aios perm revoke {grant.id}",
            file=sys.stderr,
        )
    return 0


def perm_revoke(options: argparse.Namespace) -> int:
    """Revoke a grant, by its number or by subject and rule."""
    with daemonctl.operator() as connection:
        number = _grant_number(connection, options.grant)
        grant: GrantInfo = connection.call("access.revoke", RevokeRequest(number))
    _say(options, grant, f"revoked grant {grant.id}: {grant.subject} {grant.rule}")
    return 0


def _grant_number(connection: Connection, words: list[str]) -> int:
    if len(words) == 1 and words[0].isdecimal() and len(words[0]) < _LONGEST_NUMBER:
        return codec.convert({"id": int(words[0])}, RevokeRequest).id
    if len(words) != 2:
        raise InvalidArgument("name a grant by its number, or by subject and rule",
                              "list them with: aios perm ls")  # fmt: skip
    policy: PolicyReply = connection.call("access.policy", Empty())
    subject, rule = words
    for grant in policy.grants:
        if grant.subject == subject and grant.rule in (rule, f"allow {rule}"):
            return grant.id
    raise NotFound(f"there is no grant of {rule!r} to {subject}", "list them with: aios perm ls")


def perm_explain(options: argparse.Namespace) -> int:
    """Show which rule decides. The exit code is 0 if the operation is allowed, else 1."""
    request = codec.convert(
        {"subject": options.subject, "operation": options.operation, "effect": options.effect},
        ExplainRequest,
    )
    reply: ExplainReply = system_call("access.explain", request)
    if options.json:
        out.as_json(reply)
    else:
        words = {"allow": "allowed", "ask": "asked for", "deny": "denied"}
        step = reply.steps[reply.decided_by]
        by = f"{step.rule} ({step.source})" if step.rule else "no rule allows it"
        print(f"{words[reply.verdict]}: {step.who}, {by}\n")
        out.table(
            ["who", "group", "says", "rule", "from"],
            [[s.who, s.group, s.verdict, s.rule, s.source] for s in reply.steps],
        )
    return 0 if reply.verdict == "allow" else 1


def approvals_ls(options: argparse.Namespace) -> int:
    """List the questions that have not expired."""
    found: list[Approval] = system_call("access.approvals", Empty()).approvals
    if options.json:
        out.as_json(found)
    else:
        out.table(
            ["id", "state", "agent", "pid>", "what", "effect", "with", "expires>"],
            [[q.id, q.state, who(q), str(q.pid or "-"), f"{q.kind}.{q.action}:{q.name}",
              q.effect, plain(q.arguments)[:60], out.duration(q.expires_in_s)] for q in found],
        )  # fmt: skip
    return 0


def approvals_answer(options: argparse.Namespace) -> int:
    """Approve or deny: try every ID; return 1 if one failed."""
    failed, answered = 0, []
    with daemonctl.operator() as connection:
        for number in options.ids:
            try:
                request = codec.convert(
                    {"id": number, "approve": options.action == "approve"}, ApprovalAnswer
                )
                answered.append(connection.call("access.answer", request))
            except AiosError as error:
                out.complain(error)
                failed = 1
    if options.json:
        out.as_json(answered)
    else:
        for q in answered:
            print(f"{q.id} {q.state}: {who(q)}, {plain(f'{q.kind}.{q.action}:{q.name}')}")
    return failed


def who(question: Approval) -> str:
    """Return the agent that asks, and for whom."""
    agent = plain(question.agent)
    return f"{agent} for {plain(question.behalf)}" if question.behalf else agent


def _say(options: argparse.Namespace, value: object, text: str) -> None:
    out.as_json(value) if options.json else print(text)


_RULES = """a rule is [VERB] KIND[.ACTION]:NAME
  VERB    deny (overrides all), trust (never ask), ask (always ask), allow (ask before what
          cannot be undone); the default is allow
  KIND    call, path, tool, memory, model, context, agent, network
  NAME    * matches any text without /, the segment ** any segments, * alone everything
examples: allow tool.call:web_*    trust memory:shared:team    deny path.write:/mnt/**
          ask agent.send:other/*   allow network:*.example.org"""
_SHAPE = {"epilog": _RULES, "formatter_class": argparse.RawDescriptionHelpFormatter}
_IDS = arg("ids", nargs="+", metavar="ID")

COMMANDS = {
    "perm": Command(shape=_SHAPE, actions={
        "ls": Command("list groups with their rules, and grants", perm_ls, shape=_SHAPE),
        "grant": Command("grant a right, durably", perm_grant, (
            arg("subject", metavar="AGENT|@GROUP", help="a name; * is a wildcard"),
            arg("rule", metavar="RULE"),
        ), shape=_SHAPE),
        "revoke": Command("revoke a grant", perm_revoke, (
            arg("grant", nargs="+", metavar="ID | AGENT RULE"),
        ), shape=_SHAPE),
        "explain": Command("show which rule decides about an operation", perm_explain, (
            arg("subject", metavar="REF|@GROUP", help=REF),
            arg("operation", metavar="KIND.ACTION:NAME"),
            arg("--effect", choices=("read", "reversible", "irreversible"), default="read"),
        ), shape=_SHAPE),
        "reload": Command("read the policy file again", perm_reload, shape=_SHAPE),
    }),
    "approvals": Command(actions={
        "ls": Command("list the questions", approvals_ls),
        "approve": Command("allow an operation once", approvals_answer, (_IDS,)),
        "deny": Command("deny an operation", approvals_answer, (_IDS,)),
    }),
}  # fmt: skip

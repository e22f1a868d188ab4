"""The access manager: asked before anything is done, by every call and every other manager.

Joins the pure decision (rules.py) with who is who: the caller's group, grants and ancestors, and
what the operator has approved. Promises that each decision is in the audit log, that no mutation is
allowed which the log has no room for, and that nobody has more rights than those who started it or
for whom it acts. It does nothing itself.

An agent that serves a call of a tool which it offers acts on behalf of whoever called it, and so
does what it starts meanwhile; both need the right. Names are the server's own: ``/notes/a`` is in
its home, ``session`` its session; the other's rules are asked about the same name, but for agents,
who are to each what they are to it. A question to the operator names both, and so is the answer
bound to both.

A check comes before anything is done: a call that must ask the operator is begun again from the
start when the operator has answered.
"""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from aios.kernel.access.audit.log import AuditLog, line
from aios.kernel.access.audit.records import Entry
from aios.kernel.loop.clock import Clock
from aios.kernel.trap.asker import Asker
from aios.syscalls.errors import (
    AuditUnavailable,
    IllegalState,
    InvalidArgument,
    NotFound,
    PermissionDenied,
)
from aios.syscalls.table import BY_NAME, Call
from aios.syscalls.types.common import Effect
from aios.syscalls.types.process import SpawnRequest

from . import approvals, rules
from .approvals import Approvals, Key
from .grants import Grant
from .groups import Policy
from .names import OPERATORS
from .principals import OPERATOR, Principal, Principals
from .rules import Decision, Request, Rule, RuleSet, Verdict
from .standing import Standing, decide

MOST_SETS = 1000
"""Compiled sets of rules that are kept."""
OPERATORS_ONLY = "law: the operator's, by the operator's socket"
ACCOUNTS = "weight and quotas are of a whole program, and the operator's to give"


ANY_HOST = Rule("trust", "network", "*", "*", "setting web_allow")
BOUND = "the setting web_allow"


class Step(NamedTuple):
    """What one principal's rules say."""

    who: str
    group: str
    verdict: Verdict
    rule: Rule | None


class AccessManager:
    """Rights of processes. ``policy`` and ``grants`` are replaced whole."""

    def __init__(
        self,
        table: Principals,
        policy: Policy,
        grants: Sequence[Grant],
        audit: AuditLog,
        questions: Approvals,
        hosts: Sequence[Rule] = (ANY_HOST,),
        clock: Clock | None = None,
    ) -> None:
        """``hosts``: what anybody may reach at most, whatever groups and grants say."""
        self._table, self.audit, self.approvals = table, audit, questions
        self._clock = clock or Clock()
        self._bounds = _bounds(hosts)
        self._standings: dict[int, Standing] = {}
        self._sets: dict[tuple[Rule, ...], RuleSet] = {}
        self.use(policy, grants)

    # ------------------------------------------------------------------ what is asked

    def check_call(self, asker: Asker, call: Call) -> None:
        """Whether a caller may make a system call at all. Raises as ``check`` does."""
        standing = self._standings.get(asker.pid) or self._stand(asker.pid)
        known = standing.allowed_calls.get(call.number)
        if known and not asker.behalf:
            self.audit.append(known)
            return
        request = Request("call", "make", call.name, call.effect)
        if call.privilege == "operator" and asker.pid != OPERATOR:
            self.audit.append(standing.line(request, "denied", OPERATORS_ONLY))
            raise PermissionDenied(
                f"{call.name} is the operator's; pid {asker.pid} is an agent",
                "use the aios command from a shell that no agent has started",
            )
        self._settle(asker, request, [request] * len(asker.behalf))
        if not asker.behalf:
            decided = standing.decide(request)
            if decided.decision.verdict == "allow":
                standing.allowed_calls[call.number] = decided.line

    def check(
        self,
        asker: Asker,
        kind: str,
        action: str,
        name: str,
        effect: Effect | None = "read",
        *,
        arguments: Any = None,
    ) -> None:
        """Whether a caller may do something to a named thing that a manager keeps.

        ``kind`` and ``action`` are of ``rights.KINDS``; ``name`` is in the manager's own terms and
        the whole of it (a path has no ``..``). ``effect`` None means undeclared: irreversible.
        ``arguments``: what an approval is bound to beside these (without: the whole body of the
        call).

        Raises PermissionDenied, ConfirmationRequired when the operator has to approve it first,
        AuditUnavailable when a mutation cannot be recorded, NotFound when the caller, or one for
        whom it acts, has ended.
        """
        request = Request(kind, action, name, effect or "irreversible")
        self._settle(asker, request, [request] * len(asker.behalf), arguments)

    def readable(self, asker: Asker) -> Callable[[str], bool]:
        """Which paths a caller may read unasked, by the rules as they are now. What is returned
        runs in any thread and records nothing: ``check`` each path that is shown."""
        sets = [(self._standings.get(pid) or self._stand(pid)).principals
                for pid in (asker.pid, *asker.behalf)]  # fmt: skip

        def may(path: str) -> bool:
            request = Request("path", "read", path, "read")
            return all(rules.decide(each, request).verdict == "allow" for each in sets)

        return may

    def check_agent(
        self, asker: Asker, action: str, target: Principal, effect: Effect, arguments: Any = None
    ) -> None:
        """Whether a caller may act on a process. Raises as ``check`` does."""
        requests = [
            Request("agent", action, f"{self.relation(pid, target)}/{target.name}", effect)
            for pid in (asker.pid, *asker.behalf)
        ]
        refusal = f"{action}: pid {asker.pid} may act on itself and what it has started; " \
                  f"pid {target.pid} ({target.name}) is neither"  # fmt: skip
        stranger = action != "send" and self.relation(asker.pid, target) in ("kin", "other")
        self._settle(asker, requests[0], requests[1:], arguments, refusal if stranger else "")

    def check_spawn(self, asker: Asker, spec: SpawnRequest) -> None:
        """Whether a caller may start this, with what it gives it. Raises as ``check`` does."""
        if spec.group is not None:
            self.policy.find(spec.group)
        rules.of_spawn(spec)
        whole = spec.path[:1] == "/" != spec.path[1:2] and spec.path == os.path.normpath(spec.path)
        if not whole or "\0" in spec.path:
            raise InvalidArgument(
                f"path {spec.path[:200]!r} is not a program's whole path, without . and ..",
                "give what os.path.abspath makes of it",
            )
        accounts = (spec.weight, spec.quota_tokens, spec.quota_cells) != (1.0, None, None)
        self.check_operator(asker.pid, accounts, ACCOUNTS, "use: aios run --weight")
        stdio = spec.stdin or spec.stdout or spec.stderr or spec.asks
        self.check_operator(asker.pid, stdio, "where output goes, and who is asked, is the "
                            "operator's to say", "use: aios run")  # fmt: skip
        self.check_operator(asker.pid, spec.python, "which Python runs a child is its parent's, or "
                            "the operator's to say", "use: aios run --python")  # fmt: skip
        if spec.name:
            self._check_name(asker, spec.name)
        self.check(asker, "agent", "spawn", spec.path, "irreversible", arguments=spec.args)

    def _check_name(self, asker: Asker, name: str) -> None:
        """Whether a caller may start an agent of a name, which may be another program's."""
        whose = self._table.names.root(name)
        if whose in (None, self._table.root(asker.pid)):
            return
        request = Request("agent", "name", f"other/{name}", "reversible")
        theirs = "agents that the operator has run" if whose == OPERATORS else \
                 "children of another program"  # fmt: skip
        refusal = f"pid {asker.pid} may not name a child {name!r}: it is a name of {theirs}"
        self._settle(asker, request, [request] * len(asker.behalf), None, refusal,
                     "give it another name; or ")  # fmt: skip

    def check_operator(self, caller_pid: int, wanted: object, why: str, hint: str = "") -> None:
        """Raises PermissionDenied when an agent wants what only the operator gives."""
        if caller_pid != OPERATOR and wanted:
            raise PermissionDenied(why, hint)

    def relation(self, caller_pid: int, target: Principal) -> str:
        """What a process is to a caller: one of ``rights.RELATIONS``."""
        if caller_pid == target.pid:
            return "self"
        if self._table.started(caller_pid, target.pid):
            return "own"
        caller = self._table.get(caller_pid)
        return "kin" if caller and caller.top is target.top else "other"

    def asked_at_terminal(self, caller_pid: int) -> bool:
        """Whether somebody sits at a terminal to be asked for this caller."""
        process = self._table.get(caller_pid)
        return process is not None and process.top.asker_os_pid != 0

    def ask_operator(
        self, asker: Asker, question: str, answered: Callable[[], None]
    ) -> Callable[[], None] | None:
        """Let a call wait for the answer to a question. Return a function that calls it off; None
        when no operator sits at the caller's terminal."""
        self.approvals.give_back(asker.used or [])
        if not self.asked_at_terminal(asker.pid):
            return None
        return self.approvals.when_answered(question, answered)

    def call_ended(self, asker: Asker) -> None:
        """The approvals that the call has used are gone."""
        self.approvals.forget(asker.used or [])

    # ------------------------------------------------------------------ what is changed

    def use(self, policy: Policy, grants: Sequence[Grant]) -> None:
        """Go by these from now on, or change nothing and raise: IllegalState when a living
        agent's group is gone, InvalidArgument when a grant is no rule."""
        for process in self._table.living():
            if process.group and process.group not in policy.groups:
                raise IllegalState(
                    f"the policy has no group {process.group!r}, in which pid {process.pid} "
                    f"({process.name}) runs",
                    f"leave the group in the policy, or end the agent: aios kill {process.pid}",
                )
        granted = [
            (grant.subject, rules.parse(grant.rule, "allow", f"grant {grant.id}"))
            for grant in grants
        ]
        self.policy, self.grants, self._granted = policy, tuple(grants), granted
        self.approvals.expire_s = policy.approval_s
        self._standings.clear()
        self._sets.clear()

    def forget(self, process: Principal) -> None:
        """It has ended."""
        self._standings.pop(process.pid, None)

    def note(self, action: str, name: str, outcome: str) -> None:
        """An event of the access manager's own in the log: a grant, a reload, an answer."""
        entry = Entry(OPERATOR, "operator", "access", action, name, "reversible", outcome, "")
        self.audit.append(line(entry, mutates=True))

    def explain(self, subject: str, request: Request) -> tuple[Decision, list[Step]]:
        """What would be decided, and what each principal's rules say. Raises NotFound."""
        if subject.startswith("@"):
            group = self.policy.find(subject[1:])
            rules = RuleSet([*group.rules, *self._granted_to(subject)])
            principals = [(subject, group.name, rules)]
        else:
            try:
                process = self._table.resolve(subject, dead=False)
            except NotFound:
                raise NotFound(
                    f"no agent {subject!r} is alive", "run it, or ask for a group: @agent"
                ) from None
            request = self._named(process, request)
            principals = [(f"{p.name} (pid {p.pid})", self.group_of(p), self._rules_of(p))
                          for p in _chain(process)]  # fmt: skip
        principals += [(BOUND, "", rules) for rules in self._bounds]
        call = BY_NAME.get(request.name) if request.kind == "call" else None
        if call and call.privilege == "operator":
            law = RuleSet([Rule("deny", "call", "make", call.name, OPERATORS_ONLY)])
            principals.append(("the kernel", "", law))
        sets = [rules for _, _, rules in principals]
        decision, _ = decide(sets, [who for who, _, _ in principals], request)
        return decision, [Step(who, group, *rules.judge(request))
                          for who, group, rules in principals]  # fmt: skip

    def _named(self, process: Principal, request: Request) -> Request:
        """An agent that is named alone gets its relation to the process that would act on it."""
        if request.kind != "agent" or request.action == "spawn" or "/" in request.name:
            return request
        target = self._table.resolve(request.name, dead=False)
        return request._replace(name=f"{self.relation(process.pid, target)}/{target.name}")

    def unused(self, subject: str) -> bool:
        """Whether what is given to a subject is for one name, and nobody has used that yet."""
        return subject[:1] != "@" and "*" not in subject and self._table.names.root(subject) is None

    def group_of(self, process: Principal) -> str:
        """The privilege group that a process is in."""
        return process.group or (self.policy.guest if process.guest else self.policy.default)

    # ------------------------------------------------------------------ within

    def _settle(
        self, asker: Asker, request: Request, theirs: Sequence[Request], arguments: Any = None,
        refusal: str = "", instead: str = "",
    ) -> None:  # fmt: skip
        """Decide and record, and raise unless it is allowed. ``theirs``: the request as it is to
        each of those for whom it is made; ``instead``: what the caller itself can do."""
        standing = self._standings.get(asker.pid) or self._stand(asker.pid)
        if asker.behalf:
            others = [self._standings.get(pid) or self._stand(pid) for pid in asker.behalf]
            decided = standing.decide_for(list(zip(others, theirs, strict=True)), request)
        else:
            decided = standing.decide(request)
        verdict = decided.decision.verdict
        if verdict == "allow":
            self.audit.append(decided.line)
            return
        behalf = decided.line.entry.behalf
        if verdict == "ask":
            self._confirm(asker, request, decided.rule, arguments, behalf)
            return
        self.audit.append(standing.line(request, "denied", decided.rule, behalf))
        raise PermissionDenied(
            refusal or _refusal(standing.pid, standing.name, request, decided.rule),
            "the operator's configuration bounds what tools reach"
            if decided.who == BOUND
            else f"{instead}the operator can allow it: {_grant(decided.who, request)}",
        )

    def _confirm(
        self, asker: Asker, request: Request, rule: str, arguments: Any, behalf: str
    ) -> None:
        standing = self._standings[asker.pid]
        now, process = self._clock.now(), self._table.caller(asker.pid)
        if arguments is None:
            arguments = asker.body
        key = Key(f"{self._line_of(asker.pid)} {process.program}",
                  " ".join(self._line_of(pid) for pid in asker.behalf), request.kind,
                  request.action, request.name, approvals.digest(arguments))  # fmt: skip
        try:
            question = self.approvals.use(key, now, asker.used)
        except PermissionDenied:
            self.audit.append(standing.line(request, "denied by the operator", rule, behalf))
            raise
        if question:
            try:
                self.audit.append(standing.line(request, f"approved ({question.id})", rule, behalf))
            except AuditUnavailable:
                self.approvals.give_back(asker.used or [])
                raise
            return
        error = self.approvals.ask(
            key, request, pid=asker.pid, agent=standing.name, rule=rule,
            preview=approvals.preview(arguments), owner=process.top.asker_os_pid, now=now,
            unix=self._clock.unix(),
        )  # fmt: skip
        self.audit.append(standing.line(request, f"asked ({error.approval})", rule, behalf))
        raise error

    def _line_of(self, pid: int) -> str:
        """A process's name after the names of those who started it."""
        process, names = self._table.get(pid), list[str]()
        while process is not None:
            names.append(process.name)
            process = process.above
        return "/".join(reversed(names)) or "operator"

    def _stand(self, pid: int) -> Standing:
        if pid == OPERATOR:
            rules = RuleSet([Rule("trust", "*", "*", "*", "the operator")])
            principals, names = [rules], ["operator"]
        else:
            chain = list(_chain(self._table.caller(pid)))
            principals, names = [self._rules_of(p) for p in chain], [p.name for p in chain]
        standing = self._standings[pid] = Standing(
            pid, names[0], (*principals, *self._bounds), (*names, BOUND)
        )
        return standing

    def _rules_of(self, process: Principal) -> RuleSet:
        """One process's own rules; those of equal rules are shared."""
        group = self.group_of(process)
        base = process.rights
        if base is None:
            known = self.policy.groups.get(group)
            base = (*(known.rules if known else ()), *self._granted_to(f"@{group}"))
        rules = (*base, *process.added, *self._granted_to(process.name))
        found = self._sets.get(rules)
        if found is None:
            if len(self._sets) >= MOST_SETS:
                self._sets.clear()
            found = self._sets[rules] = RuleSet(rules)
        return found

    def _granted_to(self, subject: str) -> Iterable[Rule]:
        return (rule for to, rule in self._granted
                if to == subject or ("*" in to and fnmatch.fnmatchcase(subject, to)))  # fmt: skip


def _bounds(hosts: Sequence[Rule]) -> tuple[RuleSet, ...]:
    """Rules that bound hosts and nothing else; none when they bound nothing."""
    if any(rule.name == "*" for rule in hosts):
        return ()
    others = [Rule("trust", kind, "*", "*", BOUND) for kind in rules.KINDS if kind != "network"]
    return (RuleSet([*hosts, *others]),)


def _chain(process: Principal) -> Iterable[Principal]:
    """The process, those who started it, and those on whose behalf they did; each once."""
    found: dict[int, Principal] = {}
    todo = [process]
    while todo:
        at = todo.pop()
        if at.pid not in found:
            found[at.pid] = at
            todo += [*at.behalf, *([at.above] if at.above else [])]
    return found.values()


def _refusal(pid: int, agent: str, request: Request, rule: str) -> str:
    kind, action, name, _ = request
    what = f"{name!r}" if len(name) <= 120 else f"{name[:117]!r}…"
    return f"pid {pid} ({agent}) may not {action} {kind} {what}: {rule}"


def _grant(agent: str, request: Request) -> str:
    """The command that lets an agent do it, as unasked as the built-in groups have it."""
    unasked = request.kind == "call" or request.name.startswith("kin/")
    verb = "trust" if unasked else "allow"
    rule = f"{verb} {request.kind}.{request.action}:{request.name}"
    return f"aios perm grant {agent} {rule[:200]!r}"

"""The access manager: checks every call, and every action of the other managers, beforehand.

Combines the pure decision (rules.py) with the caller's standing (its own rules and its ancestors',
standing.py) and with what the operator has approved. Promises that every decision is in the audit
log, that no mutation is allowed for which the log has no space, and that no process has more rights
than those that started it or for which it acts. It carries out nothing itself.

An agent that serves a call to a tool it offers acts on behalf of the caller, and so does any
process it starts meanwhile: both need the right. Names are relative to the server: ``/notes/a`` is
in its home, ``session`` is its session. The caller's rules are checked for the same name, except
that an agent is named by its relation to each principal. A question to the operator names both
parties, and the answer is bound to both.

Checks come before any effect: a call that has to ask the operator starts again from the beginning
after the answer.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from aios.kernel.access.audit.log import AuditLog, line
from aios.kernel.access.audit.records import Entry
from aios.kernel.loop.clock import Clock
from aios.kernel.trap.asker import Asker
from aios.syscalls.errors import AuditUnavailable, InvalidArgument, PermissionDenied
from aios.syscalls.table import Call
from aios.syscalls.types.common import Effect
from aios.syscalls.types.process import SpawnRequest

from . import approvals, rules
from .approvals import Approvals, Key
from .explain import OPERATOR_CALL, Step, explain
from .grant_file import Grant
from .groups import GroupPolicy
from .names import OPERATORS
from .principals import OPERATOR, Principal, Principals, relation
from .rules import Decision, Operation, Rule
from .standing import HOST_LIMIT, Standings

ACCOUNTS = "weight and quotas apply to a whole program; only the operator sets them"
ANY_HOST = Rule("trust", "network", "*", "*", HOST_LIMIT)


class AccessManager:
    """The rights of processes."""

    def __init__(
        self, table: Principals, policy: GroupPolicy, grants: Sequence[Grant], audit: AuditLog,
        questions: Approvals, hosts: Sequence[Rule] = (ANY_HOST,), clock: Clock | None = None,
    ) -> None:  # fmt: skip
        """``hosts``: rules for the hosts that agents can be allowed to reach at all."""
        self._table, self.audit, self.approvals = table, audit, questions
        self._clock = clock or Clock()
        self.standings = Standings(table, policy, grants, hosts)
        self.approvals.expire_s = policy.approval_s

    # ------------------------------------------------------------------ checks

    def check_call(self, asker: Asker, call: Call) -> None:
        """Check that a caller may make a system call at all. Raises as ``check`` does."""
        standing = self.standings[asker.pid]
        known = standing.allowed_calls.get(call.number)
        if known and not asker.behalf:
            self.audit.append(known)
            return
        operation = Operation("call", "make", call.name, call.effect)
        if call.privilege == "operator" and asker.pid != OPERATOR:
            self.audit.append(standing.line(operation, "denied", OPERATOR_CALL))
            raise PermissionDenied(
                f"{call.name} is the operator's; pid {asker.pid} is an agent",
                "use the aios command from a shell that was not started by an agent",
            )
        self._settle(asker, operation)
        if not asker.behalf:
            decided = standing.decide(operation)
            if decided.decision.verdict == "allow":
                standing.allowed_calls[call.number] = decided.line

    def check(
        self, asker: Asker, kind: str, action: str, name: str, effect: Effect | None = "read", *,
        arguments: Any = None,
    ) -> None:  # fmt: skip
        """Check that a caller may perform an action on a named object of a manager.

        ``kind`` and ``action`` are from ``rules.KINDS``; ``name`` is complete and in the manager's
        own terms (a path has no ``..``). ``effect`` None means undeclared, hence irreversible. An
        approval is also bound to ``arguments``, by default the whole body of the call.

        Raises PermissionDenied, ConfirmationRequired when the operator has to approve first,
        AuditUnavailable when a mutation cannot be recorded, NotFound when the caller, or a process
        for which it acts, has ended.
        """
        operation = Operation(kind, action, name, effect or "irreversible")
        self._settle(asker, operation, arguments)

    def readable(self, asker: Asker) -> Callable[[str], bool]:
        """Return a function that tells whether the caller may read a path without being asked.

        It uses the rules in force now, runs in any thread and records nothing: call ``check`` for
        each path that is shown.
        """
        sets = [self.standings[pid].principals for pid in (asker.pid, *asker.behalf)]

        def may(path: str) -> bool:
            operation = Operation("path", "read", path, "read")
            return all(rules.decide(each, operation).verdict == "allow" for each in sets)

        return may

    def check_agent(
        self, asker: Asker, action: str, target: Principal, effect: Effect, arguments: Any = None
    ) -> None:
        """Check that a caller may act on a process. Raises as ``check`` does."""
        relations = [relation(self._table, pid, target) for pid in (asker.pid, *asker.behalf)]
        mine, *theirs = (
            Operation("agent", action, f"{each}/{target.name}", effect) for each in relations
        )
        refusal = ""
        if action != "send" and relations[0] in ("kin", "other"):
            refusal = f"{action}: pid {asker.pid} may act on itself and its descendants; " \
                      f"pid {target.pid} ({target.name}) is neither"  # fmt: skip
        self._settle(asker, mine, arguments, theirs=theirs, refusal=refusal)

    def check_spawn(self, asker: Asker, spec: SpawnRequest) -> None:
        """Check that a caller may start a child with these attributes. Raises as ``check`` does."""
        if spec.group is not None:
            self.standings.policy.find(spec.group)
        rules.of_spawn(spec)
        whole = spec.path[:1] == "/" != spec.path[1:2] and spec.path == os.path.normpath(spec.path)
        if not whole or "\0" in spec.path:
            raise InvalidArgument(
                f"path {spec.path[:200]!r} is not an absolute path without . and ..",
                "pass the result of os.path.abspath",
            )
        accounts = (spec.weight, spec.quota_tokens, spec.quota_cells) != (1.0, None, None)
        stdio = spec.stdin or spec.stdout or spec.stderr or spec.asks
        self.check_operator(asker.pid, accounts, ACCOUNTS, "use: aios run --weight")
        self.check_operator(asker.pid, stdio, "only the operator chooses where output goes and who "
                            "is asked", "use: aios run")  # fmt: skip
        self.check_operator(asker.pid, spec.python, "only the operator chooses a Python other than "
                            "the parent's", "use: aios run --python")  # fmt: skip
        if spec.name:
            self._check_name(asker, spec.name)
        self.check(asker, "agent", "spawn", spec.path, "irreversible", arguments=spec.args)

    def _check_name(self, asker: Asker, name: str) -> None:
        """Check that a caller may give a child this name, which may belong to another program."""
        owner = self._table.names.root(name)
        if owner in (None, self._table.root(asker.pid)):
            return
        operation = Operation("agent", "name", f"other/{name}", "reversible")
        theirs = "agents that the operator has run" if owner == OPERATORS else \
                 "children of another program"  # fmt: skip
        refusal = f"pid {asker.pid} may not name a child {name!r}: it is a name of {theirs}"
        self._settle(asker, operation, refusal=refusal, instead="give it another name; or ")

    def check_operator(self, caller_pid: int, wanted: object, why: str, hint: str = "") -> None:
        """Raise PermissionDenied if an agent wants an attribute that only the operator may set."""
        if caller_pid != OPERATOR and wanted:
            raise PermissionDenied(why, hint)

    def ask_operator(
        self, asker: Asker, question: str, answered: Callable[[], None]
    ) -> Callable[[], None] | None:
        """Let a call wait for the answer to a question. Return a function that cancels the wait,
        or None when no operator sits at the caller's terminal."""
        self.approvals.give_back(asker.used or [])
        process = self._table.get(asker.pid)
        if process is None or not process.top.asker_os_pid:
            return None
        return self.approvals.when_answered(question, answered)

    def call_ended(self, asker: Asker) -> None:
        """Discard the approvals that the call has used."""
        self.approvals.forget(asker.used or [])

    # ------------------------------------------------------------------ rules

    def use(self, policy: GroupPolicy, grants: Sequence[Grant]) -> None:
        """Put a policy and grants in force. Raises as ``Standings.use`` does."""
        self.standings.use(policy, grants)
        self.approvals.expire_s = policy.approval_s

    def forget(self, process: Principal) -> None:
        """Drop the standing of a process that has ended."""
        self.standings.pop(process.pid, None)

    def note(self, action: str, name: str, outcome: str) -> None:
        """Record an event of the access manager itself: a grant, a reload, an answer."""
        entry = Entry(OPERATOR, "operator", "access", action, name, "reversible", outcome, "")
        self.audit.append(line(entry, mutates=True))

    def explain(self, subject: str, operation: Operation) -> tuple[Decision, list[Step]]:
        """Return the decision and the verdict of each principal. Raises as ``explain`` does."""
        return explain(self._table, self.standings, subject, operation)

    def unused(self, subject: str) -> bool:
        """Tell whether a grant's subject is one agent's name that was never used."""
        return subject[:1] != "@" and "*" not in subject and self._table.names.root(subject) is None

    # ------------------------------------------------------------------ decisions

    def _settle(
        self, asker: Asker, operation: Operation, arguments: Any = None, *,
        theirs: Sequence[Operation] = (), refusal: str = "", instead: str = "",
    ) -> None:  # fmt: skip
        """Decide and record; raise unless it is allowed.

        ``theirs``: the operation as each process for which the caller acts sees it, if that
        differs; ``instead``: a hint at what the caller itself can do.
        """
        standing = self.standings[asker.pid]
        if asker.behalf:
            others = [self.standings[pid] for pid in asker.behalf]
            pairs = list(zip(others, theirs or [operation] * len(others), strict=True))
            decided = standing.decide_for(pairs, operation)
        else:
            decided = standing.decide(operation)
        verdict = decided.decision.verdict
        if verdict == "allow":
            self.audit.append(decided.line)
            return
        behalf = decided.line.entry.behalf
        if verdict == "ask":
            self._confirm(asker, operation, decided.rule, arguments, behalf)
            return
        self.audit.append(standing.line(operation, "denied", decided.rule, behalf))
        raise PermissionDenied(
            refusal or _refusal(standing.pid, standing.name, operation, decided.rule),
            "the operator's configuration limits the hosts that tools can reach"
            if decided.who == HOST_LIMIT
            else f"{instead}the operator can allow it: {_grant_command(decided.who, operation)}",
        )

    def _confirm(
        self, asker: Asker, operation: Operation, rule: str, arguments: Any, behalf: str
    ) -> None:
        """Use the operator's approval, or raise ConfirmationRequired with a question."""
        standing = self.standings[asker.pid]
        now, process = self._clock.now(), self._table.caller(asker.pid)
        if arguments is None:
            arguments = asker.body
        key = Key(f"{self._lineage(asker.pid)} {process.program}",
                  " ".join(self._lineage(pid) for pid in asker.behalf), operation.kind,
                  operation.action, operation.name, approvals.digest(arguments))  # fmt: skip

        def record(outcome: str) -> None:
            self.audit.append(standing.line(operation, outcome, rule, behalf))

        try:
            question = self.approvals.use(key, now, asker.used)
        except PermissionDenied:
            record("denied by the operator")
            raise
        if question:
            try:
                record(f"approved ({question.id})")
            except AuditUnavailable:
                self.approvals.give_back(asker.used or [])
                raise
            return
        error = self.approvals.ask(
            key, operation, pid=asker.pid, agent=standing.name, rule=rule,
            preview=approvals.preview(arguments), owner=process.top.asker_os_pid, now=now,
            unix=self._clock.unix(),
        )  # fmt: skip
        record(f"asked ({error.approval})")
        raise error

    def _lineage(self, pid: int) -> str:
        """Return the names of a process's ancestors and its own, from the top, joined by ``/``."""
        process = self._table.get(pid)
        names = [each.name for each in process.ancestry()] if process else ["operator"]
        return "/".join(reversed(names))


def _refusal(pid: int, agent: str, operation: Operation, rule: str) -> str:
    kind, action, name, _ = operation
    return f"pid {pid} ({agent}) may not {action} {kind} {approvals.shown(name)}: {rule}"


def _grant_command(agent: str, operation: Operation) -> str:
    """Return the command that allows it, with the verb that the built-in groups would use."""
    trusted = operation.kind == "call" or operation.name.startswith("kin/")
    verb = "trust" if trusted else "allow"
    rule = f"{verb} {operation.kind}.{operation.action}:{operation.name}"
    return f"aios perm grant {agent} {rule[:200]!r}"

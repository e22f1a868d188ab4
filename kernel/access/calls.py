"""Calls on rights: ``access.*``. All are the operator's.

Files are read and written by a worker; what they hold is put in force in the kernel's thread, whole
or not at all.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from aios.kernel.loop.task import Outcome
from aios.kernel.loop.worker import Worker
from aios.kernel.trap.pending import Handler, Pending
from aios.syscalls.errors import AiosError, InvalidArgument, ResourceExhausted
from aios.syscalls.types import access as a
from aios.syscalls.types.common import Empty

from . import groups, rules
from .approvals import Question
from .grants import Grant, GrantFile
from .manager import AccessManager

T = TypeVar("T")


class AccessCalls:
    """The policy, grants, explanations and approvals."""

    def __init__(
        self, access: AccessManager, worker: Worker, grants: GrantFile, policy: Path
    ) -> None:
        self._access, self._worker, self._grants, self._path = access, worker, grants, policy
        self.handlers: dict[str, Handler] = {
            "access.policy": lambda call, body: self._policy(),
            "access.reload": self._reload,
            "access.grant": self._grant,
            "access.revoke": self._revoke,
            "access.explain": self._explain,
            "access.approvals": self._approvals,
            "access.answer": self._answer,
            "access.next": self._next,
        }

    def _policy(self) -> a.PolicyReply:
        policy = self._access.policy
        return a.PolicyReply(
            path=str(self._path), default=policy.default, guest=policy.guest,
            approval_s=policy.approval_s,
            groups=[
                a.GroupInfo(group.name, group.about, group.builtin, [str(r) for r in group.rules])
                for group in policy.groups.values()
            ],
            grants=[self._info(grant) for grant in self._access.grants],
        )  # fmt: skip

    def _reload(self, call: Pending, _: Empty) -> None:
        def read() -> tuple[groups.Policy, tuple[Grant, ...]]:
            return groups.load(self._path), self._grants.load()

        def done(loaded: tuple[groups.Policy, tuple[Grant, ...]]) -> a.PolicyReply:
            self._access.use(*loaded)
            return self._policy()

        self._access.note("reload", str(self._path), "ok")
        self._work(call, read, done)

    def _grant(self, call: Pending, body: a.GrantRequest) -> None:
        rule = str(rules.parse(body.rule, "allow"))
        if body.subject.startswith("@"):
            self._access.policy.find(body.subject[1:])
        elif "@" in body.subject:
            raise InvalidArgument(f"{body.subject!r}: a grant is to an agent's name or to @GROUP")
        self._access.note("grant", f"{body.subject}: {rule}", "ok")
        self._work(call, lambda: self._grants.add(body.subject, rule), self._changed)

    def _revoke(self, call: Pending, body: a.RevokeRequest) -> None:
        found = next((g for g in self._access.grants if g.id == body.id), None)
        named = f"{found.subject}: {found.rule}" if found else "unknown"
        self._access.note("revoke", f"{body.id} ({named})", "ok")
        self._work(call, lambda: self._grants.remove(body.id), self._changed)

    def _changed(self, changed: tuple[Grant, tuple[Grant, ...]]) -> a.GrantInfo:
        grant, grants = changed
        self._access.use(self._access.policy, grants)
        return self._info(grant)

    def _info(self, grant: Grant) -> a.GrantInfo:
        unused = self._access.unused(grant.subject)
        return a.GrantInfo(grant.id, grant.subject, grant.rule, grant.unix, unused)

    def _work(self, call: Pending, job: Callable[[], T], done: Callable[[T], object]) -> None:
        """Do what blocks in the worker, and answer with what ``done`` makes of it."""

        def finish(outcome: Outcome[T]) -> None:
            try:
                reply = done(outcome.result())
            except AiosError as error:
                call.fail(error)
            except OSError as error:
                call.fail(ResourceExhausted(f"cannot write the grants: {error.strerror}",
                                            "make room, or mend the folder's rights"))  # fmt: skip
            else:
                call.reply(reply)  # type: ignore[arg-type]

        call.defer(lambda error: None)
        self._worker.submit(job, finish)

    def _explain(self, _: Pending, body: a.ExplainRequest) -> a.ExplainReply:
        rule = rules.parse(body.operation, "allow")
        if rule.action == "*" or rule.kind == "*" or "*" in rule.name:
            raise InvalidArgument(
                f"{body.operation!r} is not one operation: KIND.ACTION:NAME, without *",
                "for example: aios perm explain mailer path.write:/notes/a.txt",
            )
        request = rules.Request(rule.kind, rule.action, rule.name, body.effect)
        decision, steps = self._access.explain(body.subject, request)
        return a.ExplainReply(decision.verdict, decision.of, [
            a.ExplainStep(step.who, step.group, step.verdict,
                          str(step.rule or ""), step.rule.source if step.rule else "")
            for step in steps
        ])  # fmt: skip

    def _approvals(self, _: Pending, __: Empty) -> a.ApprovalList:
        now = time.monotonic()
        return a.ApprovalList([_approval(q, now) for q in self._access.approvals.open(now)])

    def _answer(self, call: Pending, body: a.ApprovalAnswer) -> None:
        now = time.monotonic()
        self._access.approvals.find(body.id, now)
        self._access.note("answer", body.id, "approved" if body.approve else "denied")

        def done(result: Question | Exception) -> None:
            if isinstance(result, Exception):
                call.fail(ResourceExhausted(
                    f"the answer cannot be kept, so it does not count: {result}",
                    "make room, and answer again",
                ))  # fmt: skip
                return
            call.reply(_approval(result, now))
            self._access.approvals.tell(result)

        call.defer(lambda error: None)
        self._access.approvals.answer(body.id, body.approve, now, time.time(), done)

    def _next(self, call: Pending, _: Empty) -> None:
        owner = call.caller.os_pid
        call.defer(lambda error: self._access.approvals.leave(owner))
        self._access.approvals.next(
            owner, lambda question: call.reply(_approval(question, time.monotonic()))
        )


def _approval(q: Question, now: float) -> a.Approval:
    who, _, program = q.key.who.partition(" ")
    return a.Approval(
        id=q.id, pid=q.pid, agent=who, program=program, behalf=q.key.behalf, kind=q.key.kind,
        action=q.key.action, name=q.key.name, effect=q.effect, rule=q.rule,
        arguments=q.preview, digest=q.key.digest, state=q.state,
        asked_unix=q.asked_unix, expires_in_s=q.expires_s - now,
    )  # fmt: skip

"""Names of children: which ones a parent may give, and the rights of a child with a name."""

from __future__ import annotations

import pytest

from aios.kernel.trap.asker import Asker
from aios.syscalls.errors import (
    PermissionDenied,
)
from aios.syscalls.types.process import SpawnRequest

from .rig import World


def test_children_have_names_of_their_own_program(world: World) -> None:
    a, b = world.start("a"), world.start("b")
    child = world.start("worker", a)
    world.table.buried(world.start("deep", child), 0, "")
    world.table.buried(child, 0, "")
    for parent in (a, world.start("middle", a)):
        world.table.buried(world.start("worker", parent), 0, "")
    world.start("other", b)
    with pytest.raises(PermissionDenied, match="'worker': it is a name of children of") as caught:
        world.start("worker", world.table.resolve("other"))
    assert "another name; or the operator can allow it" in caught.value.hint
    assert "grant other 'allow agent.name:other/worker'" in caught.value.hint
    assert "'a'" not in str(caught.value), "the caller does not learn the owner"
    assert world.audit.entries[-1].outcome == "denied"
    world.grant(("other", "allow agent.name:other/worker"))
    with pytest.raises(PermissionDenied, match="'worker'"):
        world.start("worker", world.table.resolve("other"))
    world.grant(("b", "allow agent.name:*/worker"), ("other", "allow agent.name:*/worker"))
    world.table.buried(world.start("worker", world.table.resolve("other")), 0, "")
    world.grant()
    with pytest.raises(PermissionDenied, match="'worker'"):
        world.start("worker", b)
    world.table.buried(world.start("worker", a), 0, "")
    count = len(world.audit.entries)
    world.table.buried(world.start("worker"), 0, "")
    assert world.audit.entries[count].name == "other/worker", "the log records that it was taken"
    with pytest.raises(PermissionDenied, match="the operator has run"):
        world.start("worker", a)


def test_a_grant_to_a_name_gives_a_child_that_takes_it_no_more_than_its_parent_has(
    world: World,
) -> None:
    world.grant(("mailer", "trust network:*"), ("mailer", "trust context.read:other/a/*"))
    child = world.start("mailer", world.start("b"))
    assert world.may(child, "network.connect:example.org") == "deny"
    assert world.may(child, "context.read:other/a/plan") == "deny"
    world.table.buried(child, 0, "")
    assert world.may(world.start("mailer"), "network.connect:example.org") == "allow"


def test_a_server_gives_names_of_its_own_program(world: World) -> None:
    server, caller = world.start("server"), world.start("caller")
    world.table.buried(world.start("of-server", server), 0, "")
    world.table.buried(world.start("of-caller", caller), 0, "")
    asker = Asker(server.pid, (caller.pid,))
    world.access.check_spawn(asker, SpawnRequest(path="/bin/x.py", name="of-server"))
    with pytest.raises(PermissionDenied, match="'of-caller'"):
        world.access.check_spawn(asker, SpawnRequest(path="/bin/x.py", name="of-caller"))

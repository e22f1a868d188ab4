"""``aios.tool``: schemas from type hints, checks of arguments, and results as JSON."""

from __future__ import annotations

import json
from typing import Any, Literal

import pytest

import aios
from aios import tools
from aios.syscalls.errors import AiosError, InvalidArgument, ResourceExhausted, ToolFailed


@aios.tool(effect="read", idempotent=True, concurrency=2, exclusive="disk", timeout=5)
def search(query: str, kinds: list[Literal["a", "b"]] | None = None, limit: int = 3) -> list[Any]:
    """Search for something.

    Args:
        query: what to look for
        limit (int): how many
    """
    return [query, kinds, limit]


def test_hints_and_docstring_make_the_declaration() -> None:
    spec = search.spec
    assert (spec.name, spec.description) == ("search", "Search for something.")
    assert (spec.effect, spec.idempotent, spec.concurrency) == ("read", True, 2)
    assert (spec.exclusive, spec.timeout_s) == ("disk", 5)
    schema = json.loads(spec.parameters)
    assert schema["required"] == ["query"] and schema["additionalProperties"] is False
    assert schema["properties"]["query"] == {"type": "string", "description": "what to look for"}
    assert schema["properties"]["limit"]["default"] == 3


def test_undeclared_properties_default_to_the_worst_case() -> None:
    spec = tools.as_tool(_bare).spec
    assert (spec.effect, spec.idempotent, spec.exclusive) == ("irreversible", False, "")
    assert aios.tool(exclusive=True)(_bare).spec.exclusive == "_bare"


def _bare(x):  # type: ignore[no-untyped-def]
    return x


def test_a_tool_is_still_callable_and_runs_on_json() -> None:
    assert search("x") == ["x", None, 3]
    assert json.loads(search.run('{"query": "x", "kinds": ["b"]}')) == ["x", ["b"], 3]


@pytest.mark.parametrize("arguments", [
    "{}", "[]", "null", "", "{", '{"query": 1}', '{"query": "x", "limit": "3"}',
    '{"query": "x", "more": 1}', '{"query": "x", "kinds": ["c"]}', '{"query": "x", "limit": 1.5}',
    '{"query": "x", "que\\u0000ry": 1}', '{"query": "x", "limit": 1e999}', "[" * 100_000,
    '{"query": "\\ud800"}',
])  # fmt: skip
def test_arguments_that_do_not_fit_never_reach_the_function(arguments: str) -> None:
    with pytest.raises(InvalidArgument, match="search"):
        search.run(arguments)


def _raises() -> None:
    raise KeyError("no")


def _exits() -> None:
    raise InvalidArgument("own words")


@pytest.mark.parametrize(("function", "error"), [
    (_raises, ToolFailed), (_exits, InvalidArgument), (lambda: object(), ToolFailed),
    (lambda: "x" * (1 << 21), ResourceExhausted), (lambda: {(1, 2): 3}, ToolFailed),
    (lambda: "\ud800", ToolFailed),
])  # fmt: skip
def test_failures_are_typed(function: Any, error: type[AiosError]) -> None:
    with pytest.raises(error):
        aios.tool(name="f")(function).run("{}")


def test_results_of_many_types_become_json_and_coroutines_are_awaited() -> None:
    async def later() -> int:
        return 3

    assert aios.tool(later).run("{}") == "3"
    assert json.loads(aios.tool(name="f")(lambda: 2**70).run("{}")) == 2**70
    assert json.loads(aios.tool(name="f")(lambda: {"a": (1, None)}).run("{}")) == {"a": [1, None]}


def test_a_function_that_cannot_be_a_tool_is_refused_when_declared() -> None:
    def starred(*args: int) -> None: ...

    def odd(x: type[int]) -> None: ...

    for function in (starred, odd):
        with pytest.raises(InvalidArgument):
            aios.tool(function)
    for name in ("", "a b", "a\0", "x" * 4096, "-a"):
        with pytest.raises(InvalidArgument):
            aios.tool(name=name or "\n")(_bare)

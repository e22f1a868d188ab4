"""``@aios.tool``: a Python function as a tool, with a schema made from type hints and docstring.

    @aios.tool(effect="read", idempotent=True)
    def weather(city: str, days: int = 1) -> str:
        \"\"\"Tell the weather.

        city: a city's name
        days: how many days ahead
        \"\"\"

The function stays callable. Called as a tool it gets JSON arguments, which are checked against the
hints before it runs. By default a tool is assumed to have an irreversible effect and is not
retried.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import re
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Generic, ParamSpec, TypeVar, get_type_hints, overload

import msgspec
from msgspec import Meta

from aios.syscalls import codec
from aios.syscalls.errors import AiosError, InvalidArgument, ResourceExhausted, ToolFailed
from aios.syscalls.types.common import Effect
from aios.syscalls.types.tool import MAX_JSON_BYTES, ToolSpec

P = ParamSpec("P")
R = TypeVar("R")

_NAMED = re.compile(r"^\s*(?::param\s+(?:\S+\s+)?)?(\w+)\s*(?:\([^)]*\))?\s*:\s*(\S.*)$")
_SECTION = re.compile(r"^\s*(Args|Arguments|Parameters|Returns|Raises|Yields|Examples?):?\s*$")


class Tool(Generic[P, R]):
    """A function and its declaration. ``spec`` is the part that others see."""

    def __init__(self, function: Callable[P, R], spec: ToolSpec, takes: type[msgspec.Struct]):
        self.function, self.spec = function, spec
        self._decoder: msgspec.json.Decoder[msgspec.Struct] = msgspec.json.Decoder(takes)
        self.__doc__, self.__name__ = function.__doc__, spec.name

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<aios.Tool {self.spec.name}>"

    def bind(self, arguments: str) -> dict[str, Any]:
        """Return JSON text as keyword arguments of the hinted types. Raises InvalidArgument."""
        try:
            taken = self._decoder.decode(arguments)
        except (msgspec.MsgspecError, ValueError, RecursionError, OverflowError) as error:
            raise InvalidArgument(
                f"{self.spec.name}: {error or type(error).__name__}",
                f"see its parameters with: aios tool show {self.spec.name}",
            ) from None
        return {name: getattr(taken, name) for name in taken.__struct_fields__}

    def run(self, arguments: str) -> str:
        """Check the arguments, call the function, and return its result as JSON text.

        Raises InvalidArgument; ToolFailed if the function raises or its result cannot be JSON;
        ResourceExhausted if the result is too long.
        """
        keywords = self.bind(arguments)
        with _failing(self.spec.name):
            result: Any = self.function(**keywords)  # type: ignore[call-arg]
            if inspect.iscoroutine(result):
                import asyncio  # half of what `import aios` costs, and rarely needed

                result = asyncio.run(result)
        return as_json(self.spec.name, result)

    async def arun(self, arguments: str) -> str:
        """``run`` for asyncio: a coroutine function runs in this loop, any other in a thread."""
        keywords = self.bind(arguments)
        with _failing(self.spec.name):
            if inspect.iscoroutinefunction(self.function):
                result = await self.function(**keywords)  # type: ignore[call-arg]
            else:
                import asyncio

                return await asyncio.to_thread(self.run, arguments)
        return as_json(self.spec.name, result)


@contextlib.contextmanager
def _failing(name: str) -> Iterator[None]:
    """Turn what the tool's function raises into a typed error."""
    try:
        yield
    except AiosError:
        raise
    except MemoryError:
        raise ToolFailed(f"{name} ran out of memory") from None
    except Exception as error:
        raise ToolFailed(f"{name} raised {type(error).__name__}: {error}") from error


def as_json(name: str, result: object) -> str:
    """Return a result as JSON text. Raises ToolFailed, ResourceExhausted."""
    try:
        try:
            text = msgspec.json.encode(result)
        except OverflowError:  # whole numbers of more than 64 bits
            text = json.dumps(msgspec.to_builtins(result)).encode()
    except (TypeError, ValueError, RecursionError, msgspec.MsgspecError) as error:
        reason = str(error) or type(error).__name__
        raise ToolFailed(f"the result of {name} is not JSON: {reason}") from None
    if len(text) > MAX_JSON_BYTES:
        raise ResourceExhausted(
            f"{name} returned {len(text):,} bytes; the limit is {MAX_JSON_BYTES:,}",
            "ask it for less, or in parts",
        )
    return text.decode()


@overload
def tool(function: Callable[P, R], /) -> Tool[P, R]: ...


@overload
def tool(
    *,
    name: str | None = None,
    effect: Effect = "irreversible",
    idempotent: bool = False,
    concurrency: int = 4,
    exclusive: bool | str = False,
    timeout: float = 30.0,
) -> Callable[[Callable[P, R]], Tool[P, R]]: ...


def tool(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    effect: Effect = "irreversible",
    idempotent: bool = False,
    concurrency: int = 4,
    exclusive: bool | str = False,
    timeout: float = 30.0,
) -> Any:
    """Declare a function as a tool.

    ``effect``: ``read``, ``reversible`` or ``irreversible``. ``idempotent``: calling it twice has
    the same effect as once, so it is retried if its process dies. ``concurrency``: limit on
    simultaneous calls. ``exclusive``: one call at a time; a text names a lock that several tools
    share. ``timeout`` in seconds. Raises InvalidArgument if a hint has no JSON schema.
    """

    def declare(function: Callable[..., Any]) -> Tool[..., Any]:
        named = name or function.__name__
        takes, parameters = _arguments(function, named)
        about, _ = _documented(function)
        declared = {
            "name": named, "description": about[:8192], "parameters": parameters,
            "effect": effect, "idempotent": idempotent, "concurrency": concurrency,
            "exclusive": named if exclusive is True else (exclusive or ""), "timeout_s": timeout,
        }  # fmt: skip
        return Tool(function, codec.convert(declared, ToolSpec), takes)

    return declare if function is None else declare(function)


def _arguments(function: Callable[..., Any], named: str) -> tuple[type[msgspec.Struct], str]:
    """Return a struct with a field for each parameter, and its JSON schema. Raises
    InvalidArgument."""
    _, about = _documented(function)
    try:
        hints = get_type_hints(function, include_extras=True)
    except NameError as error:
        raise InvalidArgument(f"tool {named}: a type hint is not defined: {error}") from None
    fields: list[Any] = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise InvalidArgument(
                f"tool {named}: parameter {parameter} cannot be given by name",
                "give a tool named parameters only",
            )
        hint = hints.get(parameter.name, Any)
        if parameter.name in about:
            hint = Annotated[hint, Meta(description=about[parameter.name])]
        if parameter.default is parameter.empty:
            fields.append((parameter.name, hint))
        else:
            fields.append((parameter.name, hint, _default(parameter.default)))
    try:
        takes = msgspec.defstruct("arguments", fields, kw_only=True, forbid_unknown_fields=True)
        msgspec.json.Decoder(takes)
        schema = _schema(takes)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidArgument(f"tool {named}: its hints have no JSON schema: {error}") from None
    return takes, schema


def _default(value: Any) -> Any:
    """Return a default for msgspec, which wants a factory for mutable values."""
    return msgspec.field(default_factory=lambda: value) if value.__hash__ is None else value


def _schema(takes: type[msgspec.Struct]) -> str:
    """Return the JSON schema of a struct as text, with the types that it refers to in ``$defs``."""
    _, parts = msgspec.json.schema_components([takes], ref_template="#/$defs/{name}")
    schema = parts.pop("arguments")
    schema.pop("title", None)
    schema.setdefault("required", [])
    if parts:
        schema["$defs"] = parts
    return json.dumps(schema)


def _documented(function: Callable[..., Any]) -> tuple[str, dict[str, str]]:
    """Return the docstring without its descriptions of parameters, and these."""
    named, kept = {}, []
    parameters = inspect.signature(function).parameters
    for line in inspect.getdoc(function).splitlines() if function.__doc__ else []:  # type: ignore[union-attr]
        found = _NAMED.match(line)
        if found and found[1] in parameters:
            named[found[1]] = found[2].strip()
        elif not _SECTION.match(line):
            kept.append(line)
    return "\n".join(kept).strip(), named

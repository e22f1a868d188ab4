"""Values from a model: ``aios.chat(output=T)`` holds the text to T's JSON schema and returns a T.

T is a pydantic model, or a type that msgspec knows: a dataclass, TypedDict, NamedTuple, Struct,
Enum, Literal, list, dict, union, number, text. A type that only pydantic knows needs pydantic.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from aios.syscalls.errors import InvalidArgument, OutputIncomplete
from aios.syscalls.types.chat import ChatReply, ChatRequest

_SOURCES = ("schema", "grammar", "regex", "lark", "choice")


class Output:
    """A type of values, with its schema and its decoder."""

    def __init__(self, wanted: Any) -> None:
        """Raises InvalidArgument for a type without a JSON schema."""
        self._name = getattr(wanted, "__name__", str(wanted))
        self.schema, self._decode = _adapter(wanted, self._name)

    def options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return the options of a generation with the schema. Raises InvalidArgument."""
        given = [name for name in _SOURCES if options.get(name) is not None]
        if given:
            raise InvalidArgument(f"give output or {given[0]}, not both")
        return {**options, "schema": self.schema}

    def value(self, reply: ChatReply, options: Mapping[str, Any]) -> Any:
        """Return the value that a reply holds. Raises OutputIncomplete, InvalidArgument."""
        if reply.finish == "length":
            raise _cut(reply, options.get("max_tokens", _MAX_TOKENS))
        try:
            return self._decode(reply.text)
        except ValueError as error:
            reason = " ".join(str(error).split())[:300]
            raise InvalidArgument(
                f"the reply is no {self._name}: {reason}",
                "its schema cannot say this; check it in your program, or ask with another seed",
            ) from error


_MAX_TOKENS = msgspec.structs.fields(ChatRequest)[
    ChatRequest.__struct_fields__.index("max_tokens")
].default


def _cut(reply: ChatReply, limit: int) -> OutputIncomplete:
    count = reply.usage.completion_tokens
    if count >= limit:
        return OutputIncomplete(
            f"the value is incomplete after max_tokens={limit}", "give a larger max_tokens"
        )
    return OutputIncomplete(
        f"the value is incomplete after {count} tokens: the context window is full, or the "
        "agent's token budget is used up",
        "shorten the conversation, or raise the limit: aios run --max-tokens",
    )


def _adapter(wanted: Any, name: str) -> tuple[str, Callable[[str], Any]]:
    """Return a type's schema, and the function that decodes its values."""
    if hasattr(wanted, "model_json_schema"):
        return json.dumps(wanted.model_json_schema()), wanted.model_validate_json
    try:
        decoder = msgspec.json.Decoder(wanted)
        return json.dumps(msgspec.json.schema(wanted)), decoder.decode
    except (TypeError, ValueError, msgspec.MsgspecError) as error:
        try:
            from pydantic import TypeAdapter

            adapter: Any = TypeAdapter(wanted)
            return json.dumps(adapter.json_schema()), adapter.validate_json
        except (ImportError, TypeError, ValueError, AttributeError, RuntimeError):
            reason = " ".join(str(error).split())[:300]
            raise InvalidArgument(f"output={name} has no JSON schema: {reason}") from None

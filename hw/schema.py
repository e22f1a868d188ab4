"""JSON schema → GBNF, by llama-cpp-python's converter, with its sharp edges covered.

Never fetches anything: a ``$ref`` must point into the schema itself.
"""

from __future__ import annotations

import importlib
import json
from typing import Any

from .engine import InvalidInput

_MOST_NODES = 5000
_MOST_DEPTH = 40
_CHAR = r'char ::= [^"\\] | "\\" (["\\/bfnrt] | "u"' + " [0-9a-fA-F]" * 4 + ")"
"""The converter's rule for a character of a string. It lets through line ends and other control
characters, and halves of surrogate pairs: none of them may stand in JSON."""
_CHAR_OF_JSON = (
    r'char ::= [^"\\\x00-\x1F\x7F] | "\\" (["\\/bfnrt] | "u" char-code--)'
    "\nchar-code-- ::= (char-first-- char-hex-- | [dD] [0-7]) char-hex-- char-hex--"
    "\nchar-hex-- ::= [0-9a-fA-F]\nchar-first-- ::= [0-9abcefABCEF]"
)


def schema_to_gbnf(schema: str) -> str:
    """The grammar of all JSON texts that the schema allows. Raises InvalidInput."""
    try:
        parsed = json.loads(schema)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"the JSON schema is no JSON: {error}") from None
    if not isinstance(parsed, dict):
        raise InvalidInput(f"a JSON schema is an object, not {type(parsed).__name__}")
    _check(parsed)
    converter: Any = importlib.import_module("llama_cpp.llama_grammar")
    try:
        grammar = str(converter.json_schema_to_gbnf(schema))
    except Exception as error:  # third-party code on foreign input: it raises whatever it meets
        reason = f"{type(error).__name__}: {error}"
        raise InvalidInput(f"the JSON schema cannot be used: {reason}") from None
    return grammar.replace(_CHAR, _CHAR_OF_JSON)


def _check(schema: dict[str, Any]) -> None:
    stack: list[tuple[Any, int]] = [(schema, 0)]
    nodes = 0
    while stack:
        node, depth = stack.pop()
        nodes += 1
        if depth > _MOST_DEPTH or nodes > _MOST_NODES:
            raise InvalidInput(
                f"the JSON schema is too large; limits: {_MOST_NODES} nodes, depth {_MOST_DEPTH}"
            )
        if isinstance(node, dict):
            ref = node.get("$ref")
            if isinstance(ref, str) and not ref.startswith("#/"):
                raise InvalidInput(f"$ref {ref!r} must point into the schema itself (#/…)")
            stack += [(value, depth + 1) for value in node.values()]
        elif isinstance(node, list):
            stack += [(value, depth + 1) for value in node]

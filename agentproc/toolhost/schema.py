"""Check arguments against an untrusted JSON schema, which is compiled once for each tool.

Runs only in the worker of the schema's source, so that a schema that is slow to check delays no
other source. Never fetches anything.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import jsonschema
import referencing
from jsonschema.validators import validator_for

from aios.syscalls.errors import InvalidArgument

Check = Callable[[str], dict[str, Any]]


def compile_check(tool: str, schema: dict[str, Any]) -> Check:
    """Return a function that parses and checks arguments, given as JSON text.

    Both raise InvalidArgument: this one if the schema is invalid.
    """
    kind = validator_for(schema, default=jsonschema.Draft202012Validator)
    try:
        kind.check_schema(schema)
        validator = kind(schema, registry=referencing.Registry())
    except (jsonschema.SchemaError, RecursionError) as error:
        reason = error.message if isinstance(error, jsonschema.SchemaError) else "nested too deeply"
        raise InvalidArgument(f"{tool}: its schema is invalid: {reason}") from None

    def check(arguments: str) -> dict[str, Any]:
        try:
            value = json.loads(arguments, parse_constant=_refuse)
        except (ValueError, RecursionError) as error:
            raise InvalidArgument(f"{tool}: the arguments are not JSON: {error}") from None
        if not isinstance(value, dict):
            raise InvalidArgument(f"{tool}: the arguments are not a JSON object")
        try:
            found = jsonschema.exceptions.best_match(validator.iter_errors(value))
        except (referencing.exceptions.Unresolvable, RecursionError) as error:
            raise InvalidArgument(f"{tool}: its schema cannot be used: {error}") from None
        if found is not None:
            place = found.json_path.removeprefix("$").lstrip(".")
            text = found.message if len(found.message) <= 300 else f"{found.message[:299]}…"
            raise InvalidArgument(
                f"{tool}: {f'{place}: ' if place else ''}{text}",
                f"see its parameters with: aios tool show {tool}",
            )
        return value

    return check


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")

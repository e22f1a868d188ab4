"""A JSON schema as it comes from outside: parsed, checked, and its references resolved.

The document is checked against the meta-schema of its draft by the library jsonschema. References
are resolved inside the document and to the meta-schemas; nothing is ever fetched. A ``Place`` is a
schema in the document, with what is needed to resolve references there.
"""

from __future__ import annotations

import json
import math
from collections.abc import Hashable
from typing import Any, NamedTuple

import jsonschema
import jsonschema_specifications
import referencing.exceptions
import referencing.jsonschema
from jsonschema.validators import validator_for

MAX_DEPTH = 64
"""Limit on the nesting of the document."""
MAX_PARTS = 50_000
"""Limit on the values in the document: schemas, names, and members of lists."""
MAX_SCHEMAS = 3000
"""Limit on the objects in the document, each of which may be a schema."""
_NEWEST = jsonschema.Draft202012Validator
_UNNAMED = (_NEWEST, jsonschema.Draft7Validator, jsonschema.Draft4Validator)
_DYNAMIC = ("$dynamicRef", "$recursiveRef")

Resolver = referencing._core.Resolver[Any]


class UnsupportedSchema(ValueError):
    """The schema cannot be used: where, because of which keyword, and why."""

    def __init__(self, pointer: str, keyword: str, reason: str) -> None:
        super().__init__(f"at {pointer or '#'}: {keyword} {reason}")
        self.pointer, self.keyword, self.reason = pointer, keyword, reason


class EmptySchema(UnsupportedSchema):
    """The schema allows no value, or none that has an end."""

    def __init__(self) -> None:
        super().__init__("#", "the schema", "allows no value that has an end")


class Place(NamedTuple):
    """A schema in a document."""

    schema: Any
    pointer: str
    resolver: Resolver
    key: Hashable
    """Equal for places that mean the same schema."""


class Document:
    """A checked document. ``root`` is its outermost schema."""

    def __init__(self, text: str) -> None:
        """Parse and check it. Raises UnsupportedSchema."""
        schema = _parsed(text)
        self._dynamic = any(word in text for word in _DYNAMIC)
        validator, uri = _draft(schema)
        self.contains_evaluates = validator is _NEWEST
        """In the newest draft, items that ``contains`` matches count as evaluated."""
        self._validator = validator
        self._specification = referencing.jsonschema.specification_with(uri)
        resource = self._specification.create_resource(schema)
        base = resource.id() or ""
        registry = jsonschema_specifications.REGISTRY.with_resource(base, resource)
        self._registry = registry.crawl()
        self.root = self._place(schema, "#", self._registry.resolver(base))

    def below(self, place: Place, *path: str | int) -> Place:
        """Return the schema at a path below a place."""
        schema, pointer = place.schema, place.pointer
        for each in path:
            schema, pointer = schema[each], f"{pointer}/{_escaped(str(each))}"
        return self._place(schema, pointer, self._inside(schema, place.resolver))

    def target(self, place: Place, keyword: str) -> Place:
        """Return the schema that a reference leads to. Raises UnsupportedSchema."""
        reference = place.schema[keyword]
        try:
            if keyword == "$recursiveRef":
                found = referencing.jsonschema.lookup_recursive_ref(place.resolver)
            else:
                found = place.resolver.lookup(reference)
        except (referencing.exceptions.Unresolvable, ValueError, LookupError, TypeError):
            raise UnsupportedSchema(place.pointer, keyword, _unresolved(reference)) from None
        if not isinstance(found.contents, dict | bool):
            raise UnsupportedSchema(place.pointer, keyword, f"{reference!r} leads to no schema")
        return self._place(found.contents, reference, found.resolver)

    def accepts(self, place: Place, value: Any) -> bool:
        """Return True if a value is valid in a schema, formats aside. Raises UnsupportedSchema."""
        validator = self._validator(True, registry=self._registry)
        try:
            return bool(
                validator.evolve(schema=place.schema, _resolver=place.resolver).is_valid(value)
            )
        except (referencing.exceptions.Unresolvable, RecursionError, ValueError) as error:
            raise UnsupportedSchema(place.pointer, "$ref", f"cannot be followed: {error}") from None

    def _inside(self, schema: Any, resolver: Resolver) -> Resolver:
        if not isinstance(schema, dict):
            return resolver
        return resolver.in_subresource(self._specification.create_resource(schema))

    def _place(self, schema: Any, pointer: str, resolver: Resolver) -> Place:
        uris = [uri for uri, _ in resolver.dynamic_scope()] if self._dynamic else []
        scope = tuple(dict.fromkeys(reversed(uris)))  # the outermost counts
        return Place(schema, pointer, resolver, (id(schema), scope))


def _parsed(text: str) -> Any:
    try:
        schema = json.loads(text, parse_constant=_no_number, parse_float=_finite)
    except RecursionError:
        raise UnsupportedSchema("#", "the schema", f"nests more than {MAX_DEPTH} levels") from None
    except ValueError as error:
        raise UnsupportedSchema("#", "the schema", f"is not valid JSON: {error}") from None
    if not isinstance(schema, dict | bool):
        kind = type(schema).__name__
        raise UnsupportedSchema("#", "the schema", f"must be an object or a boolean, not {kind}")
    level, parts, schemas = [schema], 0, 0
    for _ in range(MAX_DEPTH):
        parts, schemas = parts + len(level), schemas + sum(isinstance(s, dict) for s in level)
        level = [below for each in level for below in _members(each)]
    for limit, count, what in ((MAX_PARTS, parts, "values"), (MAX_SCHEMAS, schemas, "objects")):
        if count > limit:
            raise UnsupportedSchema("#", "the schema", f"has {count:,} {what}; at most {limit:,}")
    if level:
        raise UnsupportedSchema("#", "the schema", f"nests more than {MAX_DEPTH} levels")
    try:
        json.dumps(schema, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        reason = "has half of a surrogate pair, which is not valid Unicode"
        raise UnsupportedSchema("#", "the schema", reason) from None
    return schema


def _members(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def _draft(schema: Any) -> tuple[Any, str]:
    """Return the validator of the schema's draft and the address of its meta-schema.

    A schema that names no draft is of the newest one in which it is valid.
    """
    uri = schema.get("$schema", "") if isinstance(schema, dict) else ""
    drafts: tuple[Any, ...] = _UNNAMED
    if uri:
        drafts = (validator_for(schema, default=None) if isinstance(uri, str) else None,)
        if drafts[0] is None:
            raise UnsupportedSchema("#", "$schema", f"{str(uri)[:80]!r} is no known draft")
    errors = []
    for validator in drafts:
        try:
            validator.check_schema(schema, format_checker=None)
        except jsonschema.SchemaError as error:
            errors.append(error)
        else:
            meta = validator.META_SCHEMA
            return validator, str(meta.get("$schema", ""))
    path = "/".join(_escaped(str(each)) for each in errors[0].path)
    keyword = str(errors[0].path[-1]) if errors[0].path else "the schema"
    reason = f"is not valid in JSON schema: {errors[0].message[:200]}"
    raise UnsupportedSchema(f"#/{path}", keyword, reason)


def _unresolved(reference: str) -> str:
    if reference.startswith("#"):
        return f"{reference[:200]!r} leads nowhere"
    return f"{reference[:200]!r} is outside the schema; nothing is fetched, so copy it into $defs"


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is not a number in JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:40]} is too large")
    return value

"""A JSON schema for llguidance: the same values, said in the few words that it enforces exactly.

Every keyword is enforced, or the schema is refused with the place and the keyword. A schema that
allows no value, or only values without an end, is refused. A value has one spelling, with fixed
separators; members come in the order of ``properties``.

Three things are narrower than a validator reads them, unless ``literal`` is given, since a model
may write without end. An object that lists its properties and says nothing of others has no others.
An integer has at most 18 digits. The formats that can be enforced are.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterable
from typing import Any

from . import values
from .branch import ALL, KINDS, Term, Terms
from .document import Document, EmptySchema, Place, UnsupportedSchema
from .expansion import Expander
from .shape import ArrayShape, ObjectShape, Plain, Shape, Values, joined
from .shapes import Shaper

MAX_NODES = 5000
"""Limit on the schemas of parts of a value."""
MAX_MEMBERS = 1000
"""Limit on the properties of one object."""
MAX_OPTIONAL = 400
"""Limit on the optional ones among them."""
MAX_FINITE = 24
"""Limit on the values that an integer is listed with."""
_ROUGH_DEPTH = 3
"""How deep into values it is looked whether two choices have a value in common."""
_SPACED = {"item_separator": ", ", "key_separator": ": ", "whitespace_flexible": False}
_ANY_ESCAPE = {"json_allow_general_unicode_escapes": True}
_NO_CODES = {"json_allowed_escapes": 'nrbtf\\"'}
"""Without \\u a name has one spelling, so undeclared names are told from declared ones."""


def guided_schema(text: str, *, literal: bool = False) -> str:
    """Return the schema for llguidance. Raises UnsupportedSchema."""
    document = Document(text)
    graph = _Graph(document, literal=literal)
    try:
        root = graph.emitted(joined((Term(document.root),)))
    except RecursionError:
        reason = "refers to itself in a way that cannot be followed"
        raise UnsupportedSchema("#", "the schema", reason) from None
    if root is False:
        raise EmptySchema
    options = dict(_SPACED)
    if graph.names_tell_apart:
        if any(_needs_code(text) for text in _texts([graph.definitions, root])):
            reason = "cannot be told from names with control characters"
            raise UnsupportedSchema("#", "additionalProperties", reason)
        options |= _NO_CODES
    else:
        options |= _ANY_ESCAPE
    schema = {"x-guidance": options, "$defs": graph.definitions, "allOf": [root]}
    return json.dumps(schema, ensure_ascii=False)


def _needs_code(text: str) -> bool:
    return any((char < " " and char not in "\b\f\n\r\t") or char == "\x7f" for char in text)


def _texts(value: Any) -> Iterable[str]:
    """Yield the texts in a value, names of members among them."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, each in value.items():
            yield name
            yield from _texts(each)
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each)


class _Graph:
    """The schemas of all parts of a value, each expanded once."""

    def __init__(self, document: Document, *, literal: bool) -> None:
        self._rough = Expander(document, lambda _a, _b: frozenset(), formats=not literal)
        self._expander = Expander(document, self._overlap, formats=not literal)
        self._shaper = Shaper(document, self._finite, self._shapes, narrow=not literal)
        self._known: dict[Hashable, list[Shape]] = {}
        self._numbers: dict[Hashable, int] = {}
        self._productive: set[Hashable] = set()
        self._listing: set[Hashable] = set()
        """The schemas whose values are being listed; one in itself has no end."""
        self.definitions: Plain = {}
        self.names_tell_apart = False

    def emitted(self, root: Terms | None) -> Plain | bool:
        """Return the schema of the root; the others are ``definitions``."""
        if root is None:
            return False
        self._explore(root)
        self._find_productive()
        return self._said(root)

    def _shapes(self, terms: Terms) -> list[Shape]:
        key = _key(terms)
        if key not in self._known:
            made = [shape for branch in self._expander.branches(terms)
                    for shape in self._shaper.shapes(terms, branch)]  # fmt: skip
            self._known[key] = made
            if len(self._known) > MAX_NODES:
                reason = f"has more than {MAX_NODES:,} parts, references followed"
                raise UnsupportedSchema("#", "the schema", reason)
        return self._known[key]

    def _explore(self, root: Terms) -> None:
        waiting = [root]
        while waiting:
            terms = waiting.pop()
            if terms and _key(terms) not in self._numbers:
                self._numbers[_key(terms)] = len(self._numbers)
                waiting += [part for shape in self._shapes(terms) for part in _parts(shape)]

    # ------------------------------------------------------------------ which have values

    def _find_productive(self) -> None:
        """Find the schemas that have a value with an end."""
        waiting = list(reversed(self._numbers))
        found = True
        while found:
            found = False
            for key in waiting:
                if key not in self._productive and any(map(self._ends, self._known[key])):
                    self._productive.add(key)
                    found = True

    def _ends(self, shape: Shape) -> bool:
        return _possible(shape, lambda terms: not terms or _key(terms) in self._productive)

    def _overlap(self, one: Place, other: Place) -> frozenset[str]:
        """Return the types of values that may be valid in both, as far as is seen quickly."""
        terms = joined((Term(one), Term(other)))
        try:
            return frozenset() if terms is None else self._types(terms, _ROUGH_DEPTH)
        except UnsupportedSchema:
            return ALL

    def _types(self, terms: Terms, depth: int) -> frozenset[str]:
        """Return the types of the values that terms may have, looking so deep into values."""
        if not terms or not depth:
            return ALL
        found = [
            _types_of(shape)
            for branch in self._rough.branches(terms)
            for shape in self._shaper.shapes(terms, branch)
            if _possible(shape, lambda part: bool(self._types(part, depth - 1)))
        ]
        return frozenset().union(*found)

    def _finite(self, terms: Terms) -> list[Any] | None:
        """Return all values of terms if they are few."""
        if not terms or _key(terms) in self._listing:
            return None
        self._listing.add(_key(terms))
        listed = [_listed(shape) for shape in self._shapes(terms)]
        self._listing.discard(_key(terms))
        if any(each is None for each in listed):
            return None
        return values.distinct(value for each in listed for value in each or ())

    # ------------------------------------------------------------------------- as JSON

    def _said(self, terms: Terms | None) -> Plain | bool:
        """Return a schema for a part: itself if it is short, or a reference."""
        if terms is None or (terms and _key(terms) not in self._productive):
            return False
        if not terms:
            return True
        key = _key(terms)
        name = str(self._numbers[key])
        shapes = self._known[key]
        if all(isinstance(shape, Values | dict) for shape in shapes):
            return self._choice(shapes)
        if name not in self.definitions:
            self.definitions[name] = True  # a reference to itself ends here
            self.definitions[name] = self._choice(shapes)
        return {"$ref": f"#/$defs/{name}"}

    def _choice(self, shapes: list[Shape]) -> Plain:
        listed = values.distinct(v for each in shapes if isinstance(each, Values)
                                 for v in each.listed)  # fmt: skip
        made: list[Plain] = [{"enum": listed}] if listed else []
        for shape in shapes:
            said: Plain | None = None
            if isinstance(shape, ArrayShape) and self._ends(shape):
                said = self._array(shape)
            elif isinstance(shape, ObjectShape) and self._ends(shape):
                said = self._object(shape)
            elif isinstance(shape, dict):
                said = shape
            if said is not None and said not in made:
                made.append(said)
        return made[0] if len(made) == 1 else {"anyOf": made}

    def _array(self, shape: ArrayShape) -> Plain:
        said: Plain = {"type": "array"}
        if shape.prefix:
            said["prefixItems"] = [self._said(each) for each in shape.prefix]
        said["items"] = self._said(shape.rest)
        if shape.least:
            said["minItems"] = shape.least
        if shape.most is not None:
            said["maxItems"] = shape.most
        return said

    def _object(self, shape: ObjectShape) -> Plain:
        _check_size(shape)
        rest = self._said(shape.rest)
        by_pattern = {regex: self._said(each) for regex, each in shape.patterns.items()}
        free = rest is not False or any(each is not False for each in by_pattern.values())
        named = {name: self._said(each) for name, each in shape.named.items()}
        kept = {name: each for name, each in named.items() if each is not False or free}
        said: Plain = {"type": "object", "properties": kept, "required": list(shape.required)}
        if by_pattern:
            said["patternProperties"] = by_pattern
        said["additionalProperties"] = rest
        if shape.least > len(shape.required):
            said["minProperties"] = shape.least
        if shape.most is not None:
            said["maxProperties"] = shape.most
        self.names_tell_apart |= rest is not False and bool(kept or by_pattern)
        return said


def _types_of(shape: Shape) -> frozenset[str]:
    if isinstance(shape, Values):
        return frozenset(map(values.kind, shape.listed))
    if isinstance(shape, dict):
        return KINDS[shape["type"]]
    return KINDS["array" if isinstance(shape, ArrayShape) else "object"]


def _key(terms: Terms) -> Hashable:
    return frozenset(term.key for term in terms)


def _parts(shape: Shape) -> list[Terms]:
    if isinstance(shape, ArrayShape):
        parts = [*shape.prefix, shape.rest]
    elif isinstance(shape, ObjectShape):
        parts = [*shape.named.values(), *shape.patterns.values(), shape.rest]
    else:
        parts = []
    return [part for part in parts if part]


def _possible(shape: Shape, has_value: Any) -> bool:
    """Return True if a shape has a value, given which of its parts have one."""
    if isinstance(shape, ArrayShape):
        if shape.most is not None and shape.least > shape.most:
            return False
        needed = [*shape.prefix[: shape.least], *[shape.rest] * (shape.least > len(shape.prefix))]
        return all(part is not None and has_value(part) for part in needed)
    if isinstance(shape, ObjectShape):
        parts = [shape.named.get(name) for name in shape.required]
        return all(part is not None and has_value(part) for part in parts)
    return True


def _listed(shape: Shape) -> list[Any] | None:
    """Return the values of a shape if they are few."""
    if isinstance(shape, Values):
        return list(shape.listed)
    if isinstance(shape, dict):
        if shape == {"type": "null"}:
            return [None]
        if shape == {"type": "boolean"}:
            return [True, False]
        first, last = shape.get("minimum", 0.0), shape.get("maximum", 0.0)
        whole = isinstance(first, int) and isinstance(last, int)
        if whole and shape == {"type": "integer", "minimum": first, "maximum": last}:
            return list(range(first, last + 1)) if last - first < MAX_FINITE else None
    return None


def _check_size(shape: ObjectShape) -> None:
    optional = len(shape.named) - len(shape.required)
    for limit, count, what in ((MAX_MEMBERS, len(shape.named), "properties"),
                               (MAX_OPTIONAL, optional, "optional properties")):  # fmt: skip
        if count > limit:
            reason = f"has {count:,} {what}; the limit is {limit:,}"
            raise UnsupportedSchema("#", "properties", reason)

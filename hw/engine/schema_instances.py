"""Instances of a JSON schema, for the fake engine: a few JSON texts that match the schema.

They are drawn at random with the schema as the seed, so the same schema gives the same texts.
Supports the keywords that a grammar can enforce; in a ``pattern`` only a repeated character class.
"""

from __future__ import annotations

import json
import random
import re
from typing import Any

from .schema_grammar import bounds

_WORDS = ["sea", "sun", "tin", "oak", "ash", "elm", "ice", "map", "pen", "urn"]
_FORMATS = {"date": "2025-03-01", "time": "12:00:00Z", "date-time": "2025-03-01T12:00:00Z",
            "uuid": "0f8fad5b-d9cb-469f-a165-70867728950e"}  # fmt: skip


def instances(schema: str, count: int) -> list[str]:
    """Return ``count`` texts, perhaps with duplicates. Raises ValueError for an invalid schema."""
    parsed = json.loads(schema)
    if not isinstance(parsed, dict):
        raise ValueError("a JSON schema must be an object")
    rng = random.Random(schema)
    return [json.dumps(_draw(parsed, rng)) for _ in range(count)]


def _draw(schema: dict[str, Any], rng: random.Random) -> Any:
    for word in ("anyOf", "oneOf"):
        if word in schema:
            return _draw(rng.choice(schema[word]), rng)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return rng.choice(schema["enum"])
    match schema.get("type"):
        case "object":
            required = schema.get("required", [])
            return {
                name: _draw(each, rng)
                for name, each in schema.get("properties", {}).items()
                if name in required or rng.random() < 0.5
            }
        case "array":
            least = schema.get("minItems", 0)
            most = min(schema.get("maxItems", 3), least + 2)
            return [_draw(schema.get("items", {}), rng) for _ in range(rng.randint(least, most))]
        case "string":
            return _string(schema, rng)
        case "integer":
            low, high = bounds(schema)
            if low is None:
                low = -99 if high is None else high - 99
            return rng.randint(low, low + 99 if high is None else high)
        case "number":
            return rng.choice([rng.randint(-9, 9), 0.5])
        case "boolean":
            return rng.random() < 0.5
        case None:
            return rng.choice(_WORDS)
    return None


def _string(schema: dict[str, Any], rng: random.Random) -> str:
    if schema.get("format") in _FORMATS:
        return _FORMATS[schema["format"]]
    counted = re.search(r"\{(\d+),(\d+)\}\$$", schema.get("pattern", ""))
    least = int(counted[1]) if counted else schema.get("minLength", 0)
    most = int(counted[2]) if counted else schema.get("maxLength", 12)
    text = " ".join(rng.choice(_WORDS) for _ in range(rng.randint(1, 4)))[:most]
    return text + "x" * (least - len(text))

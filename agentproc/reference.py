"""Local references of JSON documents: the ``$ref`` of JSON Schema and OpenAPI."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote


def target(reference: Any, document: dict[str, Any]) -> Any:
    """Return what ``#/a/b`` points to in the document. Raises ValueError."""
    named = f"$ref {str(reference)[:80]!r}"
    if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")):
        raise ValueError(f"{named} must point into the document (#/…)")
    node: Any = document
    for step in unquote(reference).split("/")[1:]:
        step = step.replace("~1", "/").replace("~0", "~")
        if not isinstance(node, dict) or step not in node:
            raise ValueError(f"{named} leads nowhere")
        node = node[step]
    return node

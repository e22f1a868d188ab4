"""A document in JSON or YAML that others wrote: of bounded size, its aliases written out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

MAX_BYTES = 8 << 20
MAX_NODES = 200_000


def load(path: Path) -> Any:
    """What a file holds. Raises OSError, and ValueError with the reason."""
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ValueError(f"it is longer than {MAX_BYTES:,} bytes")
    text = data.decode("utf-8-sig")
    if path.suffix.lower() in (".yaml", ".yml"):
        return _yaml(text)
    return json.loads(text)


def _yaml(text: str) -> Any:
    import yaml  # in the one worker that needs it

    class Loader(yaml.SafeLoader):  # type: ignore[misc]  # it has no types
        """Dates stay texts, as in JSON."""

    Loader.yaml_implicit_resolvers = {
        first: [each for each in resolvers if not each[0].endswith(":timestamp")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    try:
        document = yaml.load(text, Loader)
    except yaml.YAMLError as error:
        raise ValueError(f"it is no YAML: {str(error)[:500]}") from None
    _count(document)
    return document


def _count(document: Any) -> None:
    """Aliases are cheap to read and dear to write out: each use counts."""
    left, stack = MAX_NODES, [document]
    while stack:
        node = stack.pop()
        left -= 1
        if left < 0:
            raise ValueError(f"it has more than {MAX_NODES:,} nodes, aliases written out")
        if isinstance(node, dict):
            stack += node.values()
        elif isinstance(node, list):
            stack += node

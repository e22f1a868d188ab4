"""Read an untrusted JSON or YAML document of bounded size, with YAML aliases expanded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

MAX_BYTES = 8 << 20
MAX_NODES = 200_000
"""Limit on the nodes of a YAML document; an alias counts as all the nodes it stands for."""


def load(path: Path) -> Any:
    """Return the content of a file. Raises OSError, and ValueError with the reason."""
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ValueError(f"it is longer than {MAX_BYTES:,} bytes")
    text = data.decode("utf-8-sig")
    if path.suffix.lower() in (".yaml", ".yml"):
        return _yaml(text)
    return json.loads(text)


def _yaml(text: str) -> Any:
    import yaml  # only in the worker that needs it

    class Loader(yaml.SafeLoader):  # type: ignore[misc]  # it has no types
        """Keeps dates as strings, as JSON does."""

    Loader.yaml_implicit_resolvers = {
        first: [each for each in resolvers if not each[0].endswith(":timestamp")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    try:
        document = yaml.load(text, Loader)
    except yaml.YAMLError as error:
        raise ValueError(f"it is not YAML: {str(error)[:500]}") from None
    _check_size(document)
    return document


def _check_size(document: Any) -> None:
    """Count every use of an alias: aliases are cheap to read and expensive to expand."""
    left, stack = MAX_NODES, [document]
    while stack:
        node = stack.pop()
        left -= 1
        if left < 0:
            raise ValueError(f"it has more than {MAX_NODES:,} nodes, counting each use of an alias")
        if isinstance(node, dict):
            stack += node.values()
        elif isinstance(node, list):
            stack += node

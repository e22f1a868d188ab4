"""Reading the calls of a reply out of its text, in the format of the model's family.

A reply that was held to the grammar is read exactly. Spaces and the order of members may differ, so
replies are read that were not. Text that holds no call of a known tool is no call.
"""

from __future__ import annotations

import hashlib
import json
import re
import string
from collections.abc import Container, Iterator
from typing import Any

from .call_format import ARGUMENTS, NAME, CallFormat
from .conversation import Call

_LETTERS = string.ascii_letters + string.digits
_DECODER = json.JSONDecoder()
_MAX_CALLS = 64


def parsed_calls(text: str, form: CallFormat, tools: Container[str], key: str) -> list[Call]:
    """Return the calls in a text, up to the first that cannot be read. ``key``: what their ids are
    made from."""
    in_object = str(form.call[0]).endswith('": "')
    calls: list[Call] = []
    for name, arguments in _objects(text, form) if in_object else _named(text, form):
        if name not in tools or not isinstance(arguments, dict) or len(calls) >= _MAX_CALLS:
            break
        said = json.dumps(arguments, ensure_ascii=False)
        calls.append(Call(short_id(f"{key}:{len(calls)}"), name, said))
    return calls


def _objects(text: str, form: CallFormat) -> Iterator[tuple[Any, Any]]:
    """Yield name and arguments of the JSON objects in a text."""
    keys = [re.findall(r'"(\w+)": ?"?$', str(part))[-1:] for part in form.call]
    name_key, arguments_key = (keys[form.call.index(hole) - 1][0] for hole in (NAME, ARGUMENTS))
    at = text.find("{")
    while at >= 0:
        value, at = _value(text, at)
        if not isinstance(value, dict):
            return
        yield value.get(name_key), value.get(arguments_key)
        at = text.find("{", at)


def _named(text: str, form: CallFormat) -> Iterator[tuple[Any, Any]]:
    """Yield the names that stand before arguments, and these."""
    before = form.call[: form.call.index(ARGUMENTS)]
    pattern = re.compile(r"\s*".join(
        re.escape(part.strip()) if isinstance(part, str)
        else r"(?P<name>[\w.-]+)" if part == NAME else f"(?:{part.regex})"
        for part in before
    ))  # fmt: skip
    at = 0
    while found := pattern.search(text, at):
        value, at = _value(text, found.end())
        yield found["name"], value


def _value(text: str, at: int) -> tuple[Any, int]:
    """Return the JSON value at a place, after white space, and the place after it; None if there
    is none."""
    at += len(text[at:]) - len(text[at:].lstrip())
    try:
        return _DECODER.raw_decode(text, at)
    except (ValueError, RecursionError):
        return None, len(text)


def short_id(key: str) -> str:
    """Return an id of nine letters and digits, the same for the same key."""
    number = int.from_bytes(hashlib.sha256(key.encode()).digest())
    return "".join(_LETTERS[number // len(_LETTERS) ** n % len(_LETTERS)] for n in range(9))

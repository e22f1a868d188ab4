"""Text of files: decoding it, and cutting it into passages. Pure."""

from __future__ import annotations

from collections.abc import Iterator

MAX_TEXT_BYTES = 1 << 20
"""Limit on what is searched of one file, from its beginning."""
PASSAGE_CHARS = 1200
"""Limit on one passage: about a paragraph or a few, so that a prompt has room for several."""


def cut(text: str) -> Iterator[tuple[int, str]]:
    """Cut text at ends of paragraphs, lines or words; give the offset and text of each passage."""
    start = 0
    while start < len(text):
        end = start + PASSAGE_CHARS
        if end < len(text):
            for mark in ("\n\n", "\n", ". ", " "):
                found = text.rfind(mark, start + PASSAGE_CHARS // 2, end)
                if found > 0:
                    end = found + len(mark)
                    break
        if text[start:end].strip():
            yield start, text[start:end]
        start = end


def decode(data: bytes) -> str:
    """Return the text of data, '' when it is no text. A character cut off at the end of
    MAX_TEXT_BYTES is left out."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(data) - 4 or len(data) < MAX_TEXT_BYTES:
            return ""
        text = data[: error.start].decode("utf-8")
    return "" if "\0" in text else text

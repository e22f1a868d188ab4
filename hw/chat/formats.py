"""Formats for models without a chat template: ChatML, and plain names before each turn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .conversation import Turn

Write = Callable[[list[Turn], str], str]
"""Writes a conversation, up to the assistant's turn, after the model's beginning-of-text token."""

CHATML_TOKENS = ("<|im_start|>", "<|im_end|>")
PLAIN_STOP = ("\nUser:", "\nSystem:", "\nTool:")
"""Strings that show the model continuing the conversation by itself."""


def chatml(turns: list[Turn], begin: str) -> str:
    """Write ChatML."""
    said = [f"<|im_start|>{turn['role']}\n{turn['content']}<|im_end|>\n" for turn in turns]
    return "".join([*said, "<|im_start|>assistant\n"])


def plain(turns: list[Turn], begin: str) -> str:
    """Write ``User: …`` and ``Assistant: …``, for models that know no control tokens for turns."""
    return begin + "".join([*map(_plain_turn, turns), "Assistant:"])


def _plain_turn(turn: dict[str, Any]) -> str:
    return f"{str(turn['role']).capitalize()}: {turn['content']}\n\n"

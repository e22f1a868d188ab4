"""Constrained texts over a vocabulary of bytes: what a constraint allows, and random texts."""

from __future__ import annotations

import json
import random
from typing import Any

import numpy as np

from aios.hw.engine.engine import Constraint, ConstraintKind
from aios.hw.engine.fake_guide import FakeGuide
from aios.hw.engine.guidance import Guide
from aios.hw.schema.vocabulary import byte_tokenizer

END = 256


def schema(value: Any) -> Constraint:
    """Return the constraint of a JSON schema."""
    return Constraint("json_schema", json.dumps(value))


def allows(constraint: Constraint, text: str) -> bool:
    """Return True if a text is allowed, from its start to its end."""
    guide = Guide(byte_tokenizer(), constraint)
    for token in text.encode():
        if not guide.allows(token):
            return False
        guide.accept(token)
    return guide.allows(END)


def source(kind: ConstraintKind, text: str) -> Constraint:
    """Return a constraint."""
    return Constraint(kind, text)


def texts(constraint: Constraint, count: int, seed: int = 0) -> list[str]:
    """Draw texts at random; the same seed gives the same texts."""
    rng = random.Random(seed)
    return [_text(constraint, rng) for _ in range(count)]


def _text(constraint: Constraint, rng: random.Random) -> str:
    guide = FakeGuide((END,), constraint)
    made = bytearray()
    while not guide.complete:
        options = np.flatnonzero(guide.allowed()).tolist()
        plain = [token for token in options if 32 <= token < 127 and token != ord("\\")]
        token = rng.choice(plain if plain and rng.random() < 0.9 else options)
        if token == END:
            break
        guide.accept(token)
        made.append(token)
    return made.decode()

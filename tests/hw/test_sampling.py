"""Sampling against a slow and obvious reference."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aios.hw.fake import LiteralGrammar
from aios.hw.messages import SamplingParams
from aios.hw.sampling import Sampler, uniform

NONE = np.zeros(0, np.int32)


def _reference(logits: np.ndarray, params: SamplingParams) -> dict[int, float]:
    """Token → probability, one step after another on all tokens."""
    order = sorted(range(len(logits)), key=lambda t: (-float(logits[t]), t))
    if params.top_k:
        order = order[: params.top_k]
    top = float(logits[order[0]])
    weights = [np.exp(float(logits[t]) - top) for t in order]
    total, kept, mass = sum(weights), [], 0.0
    for token, weight in zip(order, weights, strict=True):
        kept.append(token)
        mass += weight / total
        if mass >= params.top_p and params.top_p < 1.0:
            break
    kept = [t for t in kept if np.exp(float(logits[t]) - top) >= params.min_p] or kept[:1]
    scaled = [np.exp((float(logits[t]) - top) / params.temperature) for t in kept]
    return {t: s / sum(scaled) for t, s in zip(kept, scaled, strict=True)}


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 1000),
    temperature=st.floats(0.2, 2.0),
    top_k=st.sampled_from([0, 1, 3, 20]),
    top_p=st.sampled_from([0.5, 0.9, 1.0]),
    min_p=st.sampled_from([0.0, 0.05, 0.3]),
)
def test_frequencies_follow_the_reference(
    seed: int, temperature: float, top_k: int, top_p: float, min_p: float
) -> None:
    logits = np.random.default_rng(seed).normal(0, 2, 40).astype(np.float32)
    params = SamplingParams(
        max_tokens=1, seed=seed, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p
    )
    sampler = Sampler(params, None)
    drawn = [sampler.sample(logits, position, NONE) for position in range(800)]
    expected = _reference(logits, params)
    assert set(drawn) <= set(expected)
    for token, probability in expected.items():
        assert drawn.count(token) / 800 == pytest.approx(probability, abs=0.08)


def test_a_draw_depends_on_seed_and_position_alone() -> None:
    logits = np.random.default_rng(1).normal(0, 2, 500).astype(np.float32)
    params = SamplingParams(max_tokens=1, seed=7, temperature=1.0)
    first = [Sampler(params, None).sample(logits, p, NONE) for p in range(50)]
    again = [Sampler(params, None).sample(logits, p, NONE) for p in reversed(range(50))]
    assert first == again[::-1]
    assert len(set(first)) > 10


def test_greedy_takes_the_first_of_equals() -> None:
    logits = np.zeros(10, np.float32)
    assert Sampler(SamplingParams(max_tokens=1, seed=0), None).sample(logits, 0, NONE) == 0


def test_penalties_push_down_what_was_said() -> None:
    logits = np.array([1.0, 0.9, -1.0], np.float32)
    history = np.array([0, 0, 2], np.int32)
    for extra in ({"repeat_penalty": 1.5}, {"presence_penalty": 0.5}, {"frequency_penalty": 0.5}):
        sampler = Sampler(SamplingParams(max_tokens=1, seed=0, **extra), None)
        assert sampler.sample(logits, 3, history) == 1
    assert logits[0] == 1.0, "the engine's logits are not changed"


def test_numbers_that_are_none_are_an_error() -> None:
    sampler = Sampler(SamplingParams(max_tokens=1, seed=0), None)
    with pytest.raises(ArithmeticError, match="position 5"):
        sampler.sample(np.full(4, np.nan, np.float32), 5, NONE)


def test_a_grammar_decides_when_the_draw_is_refused() -> None:
    grammar = LiteralGrammar([b"no"])
    logits = np.zeros(260, np.float32)
    logits[ord("y")] = 9.0
    sampler = Sampler(SamplingParams(max_tokens=1, seed=0), grammar)
    assert sampler.sample(logits, 0, NONE) == ord("n")


@settings(max_examples=200, derandomize=True)
@given(st.integers(0, 2**63 - 1), st.integers(0, 2**31))
def test_uniform_is_in_the_unit_interval(seed: int, position: int) -> None:
    assert 0.0 <= uniform(seed, position) < 1.0

"""Sampling, compared with slow and simple references."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aios.hw.engine.engine import Constraint
from aios.hw.engine.fake_guide import FakeGuide
from aios.hw.engine.sampling import Sampler, SamplingParams, uniform

NONE = np.zeros(0, np.int32)


def _reference(logits: np.ndarray, params: SamplingParams) -> dict[int, float]:
    """Return token → probability, applying one step after another to all tokens."""
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
def test_frequencies_match_the_reference(
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


def _by_sorting_all(logits: np.ndarray, params: SamplingParams, position: int) -> int:
    """Draw by the definition, without shortcuts."""
    order = np.argsort(-logits.astype(np.float64), kind="stable")
    values = logits[order].astype(np.float64) - logits.max()
    keep = min(params.top_k or len(values), len(values))
    share = np.cumsum(np.exp(values[:keep]))
    nucleus = int(np.searchsorted(share / share[-1], params.top_p)) + 1
    keep = min(keep, nucleus if params.top_p < 1 else keep)
    keep = min(keep, int((np.exp(values[:keep]) >= params.min_p).sum()))
    weights = np.cumsum(np.exp(values[:keep] / params.temperature))
    point = uniform(params.seed, position) * weights[-1]
    return int(order[min(np.searchsorted(weights, point, side="right"), keep - 1)])


@pytest.mark.parametrize("seed", range(120))
def test_shortcuts_draw_the_same_as_sorting_all_tokens(seed: int) -> None:
    random = np.random.default_rng(seed)
    logits = random.normal(0, random.uniform(0.5, 6), 3000).astype(np.float32)
    logits[random.integers(0, 3000, 300)] = np.float32(2.5)  # ties
    params = SamplingParams(
        max_tokens=1, seed=seed, temperature=float(random.uniform(0.3, 2)),
        top_k=int(random.choice([0, 1, 5, 40, 3000])), top_p=float(random.choice([1.0, 0.9, 0.3])),
        min_p=float(random.choice([0.0, 0.05, 0.5])),
    )  # fmt: skip
    for position in range(20):
        assert Sampler(params, None).sample(logits, position, NONE) == (
            int(logits.argmax()) if params.top_k == 1 else _by_sorting_all(logits, params, position)
        )


def test_a_draw_depends_only_on_seed_and_position() -> None:
    logits = np.random.default_rng(1).normal(0, 2, 500).astype(np.float32)
    params = SamplingParams(max_tokens=1, seed=7, temperature=1.0)
    first = [Sampler(params, None).sample(logits, p, NONE) for p in range(50)]
    again = [Sampler(params, None).sample(logits, p, NONE) for p in reversed(range(50))]
    assert first == again[::-1]
    assert len(set(first)) > 10


def test_greedy_sampling_takes_the_first_of_equal_tokens() -> None:
    logits = np.zeros(10, np.float32)
    assert Sampler(SamplingParams(max_tokens=1, seed=0), None).sample(logits, 0, NONE) == 0


def test_penalties_lower_the_logits_of_recent_tokens() -> None:
    logits = np.array([1.0, 0.9, -1.0], np.float32)
    history = np.array([0, 0, 2], np.int32)
    for params in (
        SamplingParams(max_tokens=1, seed=0, repeat_penalty=1.5),
        SamplingParams(max_tokens=1, seed=0, presence_penalty=0.5),
        SamplingParams(max_tokens=1, seed=0, frequency_penalty=0.5),
    ):
        sampler = Sampler(params, None)
        assert sampler.sample(logits, 3, history) == 1
    assert logits[0] == 1.0, "the engine's own logits stay unchanged"


def test_nan_logits_are_an_error() -> None:
    sampler = Sampler(SamplingParams(max_tokens=1, seed=0), None)
    with pytest.raises(ArithmeticError, match="position 5"):
        sampler.sample(np.full(4, np.nan, np.float32), 5, NONE)


def test_a_forbidden_token_is_replaced_by_an_allowed_one() -> None:
    grammar = FakeGuide((257, 259), Constraint("choice", '["no"]'))
    logits = np.zeros(260, np.float32)
    logits[ord("y")] = 9.0
    sampler = Sampler(SamplingParams(max_tokens=1, seed=0), grammar)
    assert sampler.sample(logits, 0, NONE) == ord("n")


@settings(max_examples=200, derandomize=True)
@given(st.integers(0, 2**63 - 1), st.integers(0, 2**31))
def test_uniform_is_in_the_unit_interval(seed: int, position: int) -> None:
    assert 0.0 <= uniform(seed, position) < 1.0

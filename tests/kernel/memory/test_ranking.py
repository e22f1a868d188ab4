"""The nearest vectors, and the fusion of two rankings."""

from __future__ import annotations

import numpy as np

from aios.kernel.memory.search import fuse
from aios.kernel.memory.vectors import ScopeVectors, pack


def test_nearest_is_what_all_products_say() -> None:
    """Seed 3: adds and removals, against float32 products."""
    rng = np.random.default_rng(3)
    rows = rng.standard_normal((3000, 384)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    vectors = ScopeVectors(384)
    for number, row in enumerate(rows):
        vectors.add(number, number % 2, pack(row.tobytes()))
    for number in range(0, 3000, 3):
        vectors.remove(number)
    for query in rows[1:60:9]:
        exact = rows @ query
        exact[::3] = -1
        got = [row for row, _ in vectors.nearest(query, 10, True)]
        assert len(set(got) & set(np.argsort(-exact)[:10].tolist())) >= 9
        assert all(row % 2 == 0 for row, _ in vectors.nearest(query, 10, False))
    assert vectors.count == 2000


def test_fusion_prefers_what_both_rank_high() -> None:
    a, b, c = (True, 1), (True, 2), (False, 1)
    assert fuse([[a, b], [c, b]])[0][0] == b
    assert fuse([[], []]) == []

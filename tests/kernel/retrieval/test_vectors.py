"""Vectors in RAM: the nearest ones, steps with the table, and the bound."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt

from aios.kernel.retrieval.vectors import Item, VectorCache, pack, unpack

Rows = npt.NDArray[np.float32]


def _rows(count: int, dimensions: int = 384) -> Rows:
    rows = np.random.default_rng(3).standard_normal((count, dimensions)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


class Table:
    """Groups of vectors, and a cache of them; ``reads`` counts the groups that were read."""

    def __init__(self, max_bytes: int = 1 << 30) -> None:
        self.groups: dict[str, dict[int, Item]] = {}
        self.reads: list[str] = []
        self.cache = VectorCache(max_bytes, lambda group: len(self.groups[group]), self._read)

    def _read(self, group: str) -> list[Item]:
        self.reads.append(group)
        return list(self.groups[group].values())

    def put(self, group: str, *items: Item) -> None:
        self.groups.setdefault(group, {}).update({item[0]: item for item in items})
        self.cache.put(group, items)

    def remove(self, group: str, rows: range) -> None:
        for row in rows:
            self.groups[group].pop(row, None)
        self.cache.remove(group, rows)

    def nearest(self, query: Rows, *groups: str, tags: tuple[int, ...] | None = None) -> list[int]:
        found = self.cache.search(groups, query.tobytes(), 10, tags)
        return [row for row, _, _ in itertools.islice(found, 10)]


def test_nearest_is_what_all_products_say() -> None:
    """Seed 3: adds and removals, against float32 products."""
    rows, table = _rows(3000), Table()
    table.put("g", (-1, 0, pack(rows[0].tobytes())))
    assert table.nearest(rows[0], "g") == [-1]
    table.remove("g", range(-1, 0))
    for number, row in enumerate(rows):
        table.put("g", (number, number % 2, pack(row.tobytes())))
    for number in range(0, 3000, 3):
        table.remove("g", range(number, number + 1))
    for query in rows[1:60:9]:
        exact = rows @ query
        exact[::3] = -1
        got = table.nearest(query, "g")
        assert len(set(got) & set(np.argsort(-exact)[:10].tolist())) >= 9
        assert all(row % 2 == 0 for row in table.nearest(query, "g", tags=(0,)))
    assert table.reads == ["g"], "all that came later was kept in step"
    table.cache.clear()
    assert table.nearest(rows[1], "g")[0] == 1 and table.reads == ["g", "g"]


def test_all_are_ranked_as_far_as_the_caller_goes() -> None:
    rows, table = _rows(50), Table()
    table.put("g", *((number, 0, pack(row.tobytes())) for number, row in enumerate(rows)))
    found = list(table.cache.search(["g"], rows[7].tobytes(), 5))
    assert found[0].row == 7 and sorted(near.row for near in found) == list(range(50))
    cosines = [near.cosine for near in found]
    assert cosines == sorted(cosines, reverse=True) and abs(cosines[0] - 1) < 0.01


def test_a_row_that_is_put_again_has_its_new_vector() -> None:
    one, other = _rows(2)
    table = Table()
    table.put("g", (1, 0, pack(one.tobytes())), (2, 0, pack(other.tobytes())))
    table.nearest(one, "g")
    table.put("g", (1, 0, pack(other.tobytes())), (2, 0, pack(one.tobytes())))
    assert table.nearest(one, "g") == [2, 1] and table.reads == ["g"]


def test_the_group_that_was_not_searched_for_longest_is_dropped() -> None:
    rows = _rows(100)
    table = Table(max_bytes=2 * 100 * 404)
    for name in "abc":
        table.put(name, *((number, 0, pack(row.tobytes())) for number, row in enumerate(rows)))
    for name in "abacac":
        assert table.nearest(rows[5], name)[0] == 5
    assert "".join(table.reads) == "abc" and table.cache.size_bytes <= 2 * 100 * 404
    table.nearest(rows[5], "b")
    assert "".join(table.reads) == "abcb"


def test_a_group_that_is_larger_than_the_bound_is_read_in_each_search() -> None:
    rows = _rows(2500)
    table = Table(max_bytes=1 << 19)
    table.put("huge", *((number, 0, pack(row.tobytes())) for number, row in enumerate(rows)))
    table.put("small", (9999, 0, pack(rows[0].tobytes())))
    for query in (3, 2400):
        assert table.nearest(rows[query], "huge", "small")[0] == query
    assert table.reads == ["huge", "small", "huge"] and table.cache.size_bytes < 1 << 12


def test_a_group_that_grows_above_the_bound_is_dropped() -> None:
    rows = _rows(200)
    table = Table(max_bytes=100 * 404)
    table.put("g", (0, 0, pack(rows[0].tobytes())))
    for number, row in enumerate(rows):
        table.nearest(row, "g")
        table.put("g", (number, 0, pack(row.tobytes())))
        assert table.cache.size_bytes <= 100 * 404
        assert table.nearest(row, "g")[0] == number


def test_vectors_of_another_model_are_left_out() -> None:
    table = Table()
    table.put("g", (1, 0, pack(_rows(1, 8).tobytes())), (2, 0, pack(_rows(1, 16).tobytes())))
    assert table.nearest(_rows(1, 8)[0], "g") == [1]
    assert table.nearest(_rows(1, 16)[0], "g") == [2]


def test_packing_keeps_direction_and_makes_length_1() -> None:
    for row in _rows(10):
        assert abs(float(unpack(pack((3 * row).tobytes())) @ row) - 1) < 0.01
    assert not unpack(pack(np.zeros(8, np.float32).tobytes())).any()

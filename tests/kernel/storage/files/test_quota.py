"""Quotas of homes, and the accounts behind them."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from aios.syscalls.errors import (
    AiosError,
    QuotaExceeded,
)
from tests.kernel.storage.rig import BIG, rig


def test_the_error_of_a_full_home_has_both_numbers_and_what_to_prune(tmp_path: Path) -> None:
    with rig(tmp_path, quota=100_000) as store:
        store.write("bob", "a", bytes(40_000))
        store.write("bob", "a", BIG[:40_000])
        with pytest.raises(QuotaExceeded, match="120,768 bytes; its quota is 100,000") as error:
            store.write("bob", "a", BIG[:40_000])
        assert "40,256 bytes are in old versions" in error.value.hint
        assert store.read("bob", "a") == BIG[:40_000]
        store.write("eve", "a", bytes(90_000))
        assert store.prune("bob").freed_bytes == 40_256
        store.write("bob", "b", BIG[:40_000])
        with pytest.raises(QuotaExceeded):
            store.write("bob", "large", BIG)
        assert store.check().problems == []
        assert list((tmp_path / "blobs").rglob("*-*")) != [], "eve's"


def test_usage_equals_what_the_rows_add_up_to(tmp_path: Path) -> None:
    """2,000 random operations (seed printed); check recounts everything."""
    seed = 11
    print(f"seed {seed}")
    rng = random.Random(seed)
    with rig(tmp_path, quota=3_000_000, keep=4) as store:
        names = ["a", "b", "d/a", "d/e/a", "d/e", "d"]
        done = 0
        for number in range(2000):
            path, other = rng.choice(names), rng.choice(names)
            data = rng.randbytes(rng.choice((0, 100, 5000, 100_000)))
            actions: list[Callable[[], object]] = [
                lambda p=path, d=data: store.write("bob", p, d),  # type: ignore[misc]
                lambda p=path, d=data: store.write("bob", p, d, append=True),  # type: ignore[misc]
                lambda p=path: store.delete("bob", p, recursive=rng.random() < 0.5),  # type: ignore[misc]
                lambda p=path, o=other: store.move("bob", p, o),  # type: ignore[misc]
                lambda p=path: store.rollback("bob", p, rng.randint(1, 30)),  # type: ignore[misc]
                lambda p=path: store.prune("bob", p, rng.randint(1, 3)),  # type: ignore[misc]
                lambda p=path: store.mkdir("bob", p),  # type: ignore[misc]
            ]
            try:
                rng.choices(actions, weights=(6, 6, 2, 2, 2, 1, 1))[0]()
                done += 1
            except AiosError:
                continue
            if number % 200 == 0:
                assert store.check().problems == []
        assert done > 500
        assert store.check().problems == []

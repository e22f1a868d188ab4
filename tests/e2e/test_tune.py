"""``aios model tune`` in the cases that need no model."""

from __future__ import annotations

import json

import pytest

from tests.conftest import Machine
from tests.hw.models.gguf_maker import write


@pytest.fixture
def folder(stopped: Machine) -> Machine:
    """Folders with a cache of their own; no kernel runs."""
    stopped.env["XDG_CACHE_HOME"] = str(stopped.folder / "cache")
    return stopped


def test_the_fake_model_has_nothing_to_tune(folder: Machine) -> None:
    got = folder.aios("model", "tune", "fake:step_ms=1")
    assert got.returncode == 0 and "nothing to tune" in got.stdout
    got = folder.aios("model", "tune", "fake", "--json")
    assert "nothing to tune" in json.loads(got.stdout)["nothing"]


def test_a_model_that_cannot_be_tuned_is_explained(folder: Machine) -> None:
    got = folder.aios("model", "tune", "nope")
    assert got.returncode == 1 and "no model 'nope'" in got.stderr and "model ls" in got.stderr
    text = folder.folder / "text.gguf"
    text.write_text("this is a text and no model at all")
    got = folder.aios("model", "tune", str(text))
    assert got.returncode == 1 and "no GGUF model" in got.stderr
    write(text)  # a file of random weights, without what an architecture needs
    got = folder.aios("model", "tune", str(text))
    assert got.returncode == 1 and "cannot tune" in got.stderr and "Traceback" not in got.stderr


@pytest.mark.parametrize(
    "words", [("--seats", "0"), ("--seats", "257"), ("--perplexity", "-1"), ("--perplexity", "nan")]
)
def test_limits_out_of_range_are_refused(folder: Machine, words: tuple[str, str]) -> None:
    got = folder.aios("model", "tune", "fake", *words)
    assert got.returncode == 2 and "is not between" in got.stderr


def test_an_unwritable_cache_is_an_error(folder: Machine) -> None:
    (folder.folder / "cache").write_text("a file, not a folder")
    model = write(folder.folder / "model.gguf")
    got = folder.aios("model", "tune", str(model))
    assert got.returncode == 1 and "cannot write" in got.stderr and "XDG_CACHE_HOME" in got.stderr


def test_reset_of_an_untuned_model_changes_nothing(folder: Machine) -> None:
    model = write(folder.folder / "model.gguf")
    got = folder.aios("model", "tune", str(model), "--reset")
    assert got.returncode == 0 and got.stdout == "was not tuned\n"

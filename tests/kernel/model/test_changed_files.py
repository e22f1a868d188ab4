"""A model's file that is changed or replaced while the model is served."""

from __future__ import annotations

from pathlib import Path

import pytest

from aios.syscalls.errors import ModelUnavailable
from tests.kernel.rig import Rig, open_rig


def _replace(path: Path, content: str) -> None:
    new = path.with_suffix(".new")
    new.write_text(content)
    new.replace(path)


def _file(rig: Rig, folder: Path) -> Path:
    path = folder / "m.gguf"
    path.write_text("weights")
    rig.files.append(path)
    return path


def test_a_changed_file_gives_no_more_tokens(tmp_path: Path) -> None:
    with open_rig(tmp_path, quantum=4) as rig:
        path = _file(rig, tmp_path)
        begun = rig.ask("x", tokens=50)
        rig.run(lambda: len(begun.tokens) > begun.prompt_tokens)
        path.write_text("weighty")
        rig.run()
        error = rig.outcomes[begun.id]
        assert isinstance(error, ModelUnavailable) and f"{path} was changed" in error.message
        assert rig.model.state == "failed"
        rig.clock.advance(10)
        later = rig.ask("x", tokens=3)
        rig.run()
        assert rig.reply(later).tokens and rig.model.info
        assert rig.model.info.model_hash == "weighty"


def test_a_replaced_file_is_loaded_when_nothing_is_under_way(tmp_path: Path) -> None:
    with open_rig(tmp_path, quantum=4) as rig:
        path = _file(rig, tmp_path)
        begun = rig.ask("x", tokens=50)
        rig.run(lambda: len(begun.tokens) > begun.prompt_tokens)
        _replace(path, "others")
        beside = rig.ask("y", tokens=3)
        rig.run()
        assert len(rig.reply(begun).tokens) == 50 and rig.reply(beside).tokens
        assert rig.model.info and rig.model.info.model_hash == "weights", "both were served by it"
        later = rig.ask("z", tokens=3)
        rig.run()
        assert rig.reply(later).tokens and rig.model.info.model_hash == "others"
        rig.check()


def test_requests_do_not_continue_with_other_weights(tmp_path: Path) -> None:
    with open_rig(tmp_path, quantum=4) as rig:
        path = _file(rig, tmp_path)
        begun = rig.ask("x", tokens=50)
        rig.run(lambda: len(begun.tokens) > begun.prompt_tokens)
        _replace(path, "others")
        rig.core.kill()
        rig.run()
        error = rig.outcomes[begun.id]
        assert isinstance(error, ModelUnavailable) and "was replaced" in error.message
        later = rig.ask("x", tokens=3)
        rig.run()
        assert rig.reply(later).tokens


def test_a_core_that_dies_is_followed_by_the_same_weights(tmp_path: Path) -> None:
    with open_rig(tmp_path, quantum=4) as rig:
        _file(rig, tmp_path)
        begun = rig.ask("x", tokens=50)
        rig.run(lambda: len(begun.tokens) > begun.prompt_tokens)
        rig.core.kill()
        rig.run()
        assert rig.reply(begun).tokens == rig.alone(begun)


@pytest.mark.parametrize("rest", [True, False])
def test_a_removed_file_serves_on(tmp_path: Path, rest: bool) -> None:
    with open_rig(tmp_path, quantum=4) as rig:
        path = _file(rig, tmp_path)
        rig.ask("x", tokens=3)
        if rest:
            rig.run()
        path.unlink()
        later = rig.ask("x", tokens=3)
        rig.run()
        assert rig.reply(later).tokens

"""A model that was never seen before, on the real engine: served at once, faster later."""

from __future__ import annotations

import shutil

import pytest

from aios.hw.tuning.exact_settings import SAFE
from aios.syscalls import paths
from aios.syscalls.types.common import Empty
from aios.syscalls.types.kernel import ModelInfo, ModelRequest
from tests.conftest import Machine, operator
from tests.waiting import wait_until

pytestmark = pytest.mark.real


def _model(machine: Machine) -> ModelInfo:
    with operator(machine) as connection:
        models: list[ModelInfo] = connection.call("model.list", Empty()).models
    return models[0]


def test_a_new_model_answers_at_once_and_takes_the_faster_rung_when_idle(stopped: Machine) -> None:
    cache = stopped.folder / "cache"
    stopped.env |= {"XDG_CACHE_HOME": str(cache), "AIOS_TUNE": "test"}
    stopped.start("--seats", "2", "--ctx", "512", "--embedder", "off", "--tuned", "off")
    with operator(stopped) as connection:
        before: ModelInfo = connection.call("model.load", ModelRequest("default"))
    for folder in ("exact", "steps"):  # what was found out before, so that the job is short
        if (paths.cache_dir() / folder).exists():
            shutil.copytree(paths.cache_dir() / folder, cache / "aios" / folder, dirs_exist_ok=True)
    assert before.exact == SAFE.name and before.background == "self-test when idle"
    agent = stopped.agent("one", "import aios\nprint(len(aios.chat('hi', max_tokens=3).tokens))")
    assert stopped.aios("run", agent).stdout == "3\n"
    wait_until(lambda: _model(stopped).exact not in (SAFE.name, "off"), "the faster rung")
    assert stopped.aios("run", agent).stdout == "3\n"
    after = _model(stopped)
    assert after.core_restarts == 0 and after.core_os_pid != before.core_os_pid
    assert "loaded again with faster settings" in stopped.log()
    assert after.path == before.path

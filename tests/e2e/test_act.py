"""``aios.act``: every turn can be read and carried out, whatever the model writes."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.conftest import Machine, shared_kernel

AGENT = """
import aios, json, sys
@aios.tool(effect="read")
def note(text: str, level: int = 1) -> str:
    "Write a note."
    return text.upper()
out = []
options = json.loads(sys.argv[1])
for seed in range(options.pop("runs")):
    done = aios.act(options.get("task", "What is 17 * 23?"), tools=["calculate", note], seed=seed,
                    **{k: v for k, v in options.items() if k != "task"})
    steps = [{"text": s.text, "cached": s.usage.cached_tokens, "tries": s.tries,
              "uses": [[u.tool, u.arguments, u.result, u.error] for u in s.uses]}
             for s in done.steps]
    out.append({"finish": done.finish, "text": done.text, "tokens": done.tokens, "steps": steps})
print(json.dumps(out))
"""


def _act(machine: Machine, **options: object) -> list[dict]:  # type: ignore[type-arg]
    got = machine.aios("run", machine.agent("actor", AGENT), "--", json.dumps(options))
    assert got.returncode == 0, got.stderr
    runs = json.loads(got.stdout)
    for run in runs:
        for step in run["steps"]:
            said = json.loads(step["text"])
            calls = [[c["tool"], c["arguments"]] for c in said.get("calls", [])]
            assert calls == [use[:2] for use in step["uses"]] and len(calls) <= 4
            for tool, arguments, _, _ in step["uses"]:
                kinds = {"calculate": {"expression": str}, "note": {"text": str, "level": int}}[
                    tool
                ]
                assert all(isinstance(v, kinds[k]) for k, v in arguments.items())
    return runs


def test_turns_are_carried_out_and_told(machine: Machine) -> None:
    runs = _act(machine, runs=12, temperature=0.9, max_steps=4)
    steps = [step for run in runs for step in run["steps"]]
    uses = [use for step in steps for use in step["uses"]]
    assert {use[0] for use in uses} == {"calculate", "note"}
    assert any(use[2] for use in uses) and any("arithmetic" in use[3] for use in uses)
    assert all(run["finish"] == "answer" and len(run["steps"]) <= 4 for run in runs)
    assert any(len(step["uses"]) > 1 for step in steps), "several calls in one turn"


def test_the_context_is_still_there_after_a_call(machine: Machine) -> None:
    runs = _act(machine, runs=6, temperature=0.9, max_steps=4)
    later = [step for run in runs for step in run["steps"][1:]]
    assert later and all(step["cached"] > 100 for step in later)


def test_tokens_are_bounded_and_cut_turns_are_asked_for_again(machine: Machine) -> None:
    runs = _act(machine, runs=4, budget_tokens=600, step_tokens=40, temperature=0.9, max_steps=3)
    assert all(run["tokens"] <= 600 for run in runs)
    assert any(step["tries"] == 2 for run in runs for step in run["steps"])
    (run,) = _act(machine, runs=1, budget_tokens=5)
    assert (run["finish"], run["steps"]) == ("tokens", [])


def test_a_tool_there_is_not_is_told_before_anything_is_generated(machine: Machine) -> None:
    code = "import aios\ntry: aios.act('x', tools=['nosuch'])\nexcept aios.NotFound as e: print(e)"
    assert "aios tool ls" in machine.aios("run", machine.agent("a", code)).stdout


@pytest.fixture(scope="module")
def _real() -> Iterator[Machine]:
    with shared_kernel() as machine:
        machine.start("--seats", "2", "--ctx", "2048")
        yield machine


@pytest.mark.real
def test_the_default_model_writes_only_what_can_be_read(_real: Machine) -> None:
    task = "What is 17 * 23? Use the tool calculate."
    runs = _act(_real, runs=4, task=task, temperature=0.8, max_steps=3, step_tokens=160,
                budget_tokens=700)  # fmt: skip
    later = [step for run in runs for step in run["steps"][1:]]
    assert all(step["cached"] > 0 for step in later)

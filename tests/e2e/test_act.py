"""``aios.act``: every turn that a model writes parses and can be carried out."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Machine, shared_kernel
from tests.odd_schemas import ODD

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

KINDS: dict[str, dict[str, type]] = {
    "calculate": {"expression": str},
    "note": {"text": str, "level": int},
}


def _act(machine: Machine, **options: object) -> list[dict[str, Any]]:
    got = machine.aios("run", machine.agent("actor", AGENT), "--", json.dumps(options))
    assert got.returncode == 0, got.stderr
    runs: list[dict[str, Any]] = json.loads(got.stdout)
    for run in runs:
        for step in run["steps"]:
            said = json.loads(step["text"])
            calls = [[c["tool"], c["arguments"]] for c in said.get("calls", [])]
            assert calls == [use[:2] for use in step["uses"]] and len(calls) <= 4
            for tool, arguments, _, _ in step["uses"]:
                assert all(isinstance(v, KINDS[tool][k]) for k, v in arguments.items())
    return runs


def test_each_turn_runs_its_calls_and_keeps_the_context_cached(machine: Machine) -> None:
    runs = _act(machine, runs=12, temperature=0.9, max_steps=4)
    steps = [step for run in runs for step in run["steps"]]
    uses = [use for step in steps for use in step["uses"]]
    assert {use[0] for use in uses} == {"calculate", "note"}
    assert any(use[2] for use in uses) and any("arithmetic" in use[3] for use in uses)
    assert all(run["finish"] == "answer" and len(run["steps"]) <= 4 for run in runs)
    assert any(len(step["uses"]) > 1 for step in steps), "several calls in one turn"
    later = [step for run in runs for step in run["steps"][1:]]
    assert later and all(step["cached"] > 100 for step in later)


def test_a_token_budget_holds_and_truncated_turns_are_retried(machine: Machine) -> None:
    runs = _act(machine, runs=4, budget_tokens=600, step_tokens=40, temperature=0.9, max_steps=3)
    assert all(run["tokens"] <= 600 for run in runs)
    assert any(step["tries"] == 2 for run in runs for step in run["steps"])
    (run,) = _act(machine, runs=1, budget_tokens=5)
    assert (run["finish"], run["steps"]) == ("tokens", [])


def test_an_unknown_tool_is_refused_before_generation(machine: Machine) -> None:
    code = "import aios\ntry: aios.act('x', tools=['nosuch'])\nexcept aios.NotFound as e: print(e)"
    assert "aios tool ls" in machine.aios("run", machine.agent("a", code)).stdout


ODD_AGENT = """
import aios, json, sys
import jsonschema, msgspec

class Checked(aios.Tool):
    def run(self, arguments):
        jsonschema.validate(json.loads(arguments), json.loads(self.spec.parameters))
        used.add(self.spec.name)
        return '"done"'

def tool(name, schema):
    made = aios.tool(name=name)(lambda: None)
    spec = msgspec.structs.replace(made.spec, parameters=json.dumps({"type": "object", **schema}))
    return Checked(made.function, spec, msgspec.defstruct("none", []))

odd, options = json.loads(sys.argv[1])
used, runs, mixed, texts = set(), options.pop("runs"), options.pop("mixed"), []
for name, schema in odd.items():
    for seed in range(runs):
        done = aios.act(f"Use {name}.", tools=[tool(name, schema)], seed=seed, **options)
        texts += [step.text for step in done.steps]
for seed in range(mixed):
    done = aios.act("Use some.", tools=[tool(*each) for each in odd.items()], seed=seed, **options)
    texts += [step.text for step in done.steps]
assert all(isinstance(json.loads(text), dict) for text in texts)
print(json.dumps(sorted(used)))
"""


def _odd(machine: Machine, *names: str, **options: object) -> list[str]:
    """Return the tools that were called; their arguments always match the schema."""
    arguments = json.dumps([{name: ODD[name] for name in names or ODD}, options])
    got = machine.aios("run", machine.agent("odd", ODD_AGENT), "--", arguments)
    assert got.returncode == 0, got.stderr
    used: list[str] = json.loads(got.stdout)
    return used


def test_calls_match_odd_schemas(machine: Machine) -> None:
    assert len(_odd(machine, runs=1, mixed=4, max_steps=2, temperature=0.9)) >= 6


REFUSED = [
    {"type": "string", "pattern": "^a+$"}, {"$ref": "http://x/y"}, {"not": {"type": "null"}},
    {"type": "array", "items": False, "minItems": 1}, {"type": "thing"}, {"$ref": "#/nowhere"},
    {"$ref": "#"}, {"type": "string", "minLength": 5000}, {"type": "integer", "multipleOf": 0.3},
]  # fmt: skip
REFUSING = """
import aios, json, sys, msgspec
for schema in json.loads(sys.argv[1]):
    tool = aios.tool(name="odd")(lambda: None)
    parameters = {"type": "object", "properties": {"must": schema}, "required": ["must"]}
    tool.spec = msgspec.structs.replace(tool.spec, parameters=json.dumps(parameters))
    try:
        aios.act("x", tools=[tool])
    except aios.InvalidArgument as error:
        print(error.message)
"""


def test_a_schema_that_no_grammar_expresses_is_refused_before_generation(machine: Machine) -> None:
    got = machine.aios("run", machine.agent("refused", REFUSING), "--", json.dumps(REFUSED))
    said = got.stdout.splitlines()
    assert len(said) == len(REFUSED) and all("schema of odd: must" in line for line in said), said


REPEATING = """
import aios, json
made = []
@aios.tool(effect="read")
def look() -> str:
    made.append("look")
    return "nothing new"
@aios.tool(effect="read")
def fail() -> str:
    made.append("fail")
    raise OSError("no network")
for tool in (look, fail):
    for seed in range(12):
        before = len(made)
        done = aios.act("Look.", tools=[tool], seed=seed, temperature=1.0, max_steps=6)
        uses = [use for step in done.steps for use in step.uses]
        told = sum("just made this call" in (m.content or "") for m in done.messages)
        print(json.dumps([tool.spec.name, len(made) - before, [u.repeated for u in uses], told,
                          done.finish, done.text.strip() != ""]))
"""


@pytest.mark.parametrize("model", ["fake:end=0", "fake:end=0,tools=1"])
def test_a_call_that_was_just_made_is_not_made_again(stopped: Machine, model: str) -> None:
    stopped.start("--model", model)
    got = stopped.aios("run", stopped.agent("again", REPEATING))
    assert got.returncode == 0, got.stderr
    runs = [json.loads(line) for line in got.stdout.splitlines()]
    for name, made, repeated, told, finish, says in runs:
        assert made == repeated.count(False) <= (1 if name == "look" else 2), runs
        assert told >= (True in repeated) and (finish != "answer" or says)
        assert not repeated or finish != "answer" or not all(repeated[-1:]) or says
    assert any(True in repeated for _, _, repeated, *_ in runs), "some calls were repeated"


OWN = """
import aios, json, sys
@aios.tool(effect="read")
def note(text: str, level: int = 1) -> str:
    "Write a note."
    return text.upper()
out = []
for seed in range(30):
    done = aios.act("Note it.", tools=["calculate", note], seed=seed, temperature=1.0, max_steps=4,
                    step_tokens=300, system="Be brief.")
    roles = [m.role for m in done.messages]
    uses = [u for s in done.steps for u in s.uses]
    for use in uses:
        kinds = {"note": {"text": str, "level": int}, "calculate": {"expression": str}}[use.tool]
        assert all(isinstance(v, kinds[k]) for k, v in use.arguments.items()), use
    assert roles[:2] == ["system", "user"] and roles.count("tool") == len(uses)
    ids = [m.tool_call_id for m in done.messages if m.tool_call_id]
    assert ids == [c.id for m in done.messages for c in m.tool_calls]
    out.append([len(uses), done.finish, done.tokens])
print(json.dumps(out))
"""


def test_a_model_with_a_format_of_its_own_uses_it(stopped: Machine) -> None:
    stopped.start("--model", "fake:end=40,tools=1")
    got = stopped.aios("run", stopped.agent("own", OWN))
    assert got.returncode == 0, got.stderr
    runs = json.loads(got.stdout)
    assert any(uses for uses, _, _ in runs) and {finish for _, finish, _ in runs} <= {
        "answer", "tokens"
    }  # fmt: skip


ASYNC = """
import aios, asyncio, json, sys
@aios.tool(effect="read")
async def note(text: str) -> str:
    await asyncio.sleep(0)
    return text.upper()
@aios.tool
def plain(text: str) -> str:
    return text
async def main():
    for seed in range(6):
        both = [dict(tools=tools, seed=seed, temperature=0.9, max_steps=3)
                for tools in (["calculate", plain], ["calculate", note])]
        one, two = await asyncio.gather(*(aios.aact("x", **each) for each in both))
        same = await asyncio.to_thread(aios.act, "x", **both[0])
        assert (one.messages, one.finish) == (same.messages, same.finish)
    slow = asyncio.create_task(aios.aact("x", step_tokens=100000, budget_tokens=100000))
    while not any(row.requests for row in aios.ps()):
        await asyncio.sleep(0.01)
    slow.cancel()
    call = asyncio.create_task(aios.tools.acall("wait_here", {}))
    while not any(row.waits for row in aios.ps()):
        await asyncio.sleep(0.01)
    call.cancel()
    print([each.__class__.__name__ for each in await asyncio.gather(slow, call,
                                                                    return_exceptions=True)])
    while any(row.requests or row.waits for row in aios.ps()):
        await asyncio.sleep(0.01)
started = __import__("threading").Event()
aios.tools.offer(aios.tool(name="wait_here", effect="read", timeout=60)(lambda: started.wait(60)))
asyncio.run(main())
started.set()
print("done")
"""


def test_aact_equals_act_and_cancelling_ends_its_calls(machine: Machine) -> None:
    got = machine.aios("run", machine.agent("async", ASYNC))
    assert got.stdout == "['CancelledError', 'CancelledError']\ndone\n", got.stderr


@pytest.fixture(scope="module")
def _real() -> Iterator[Machine]:
    with shared_kernel() as machine:
        machine.start("--seats", "2", "--ctx", "2048")
        yield machine


@pytest.mark.real
def test_the_default_model_writes_only_turns_that_parse(_real: Machine) -> None:
    task = "What is 17 * 23? Use the tool calculate."
    runs = _act(_real, runs=2, task=task, temperature=0.8, max_steps=3, step_tokens=160,
                budget_tokens=700)  # fmt: skip
    later = [step for run in runs for step in run["steps"][1:]]
    assert later and all(step["cached"] > 0 for step in later)


@pytest.mark.real
def test_the_default_model_matches_odd_schemas(_real: Machine) -> None:
    assert _odd(
        _real, "enums", "unicode", "bounds", runs=1, mixed=1, max_steps=2,
        temperature=0.9, step_tokens=96, budget_tokens=500,
    )  # fmt: skip


@pytest.mark.real
def test_the_example_in_the_documents_uses_its_tool(_real: Machine) -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "tools.md").read_text()
    code = textwrap.dedent(text.partition("    # weather.py\n")[2].partition("    aios run")[0])
    agent = _real.folder / "weather.py"
    agent.write_text(code)
    got = _real.aios("run", str(agent))
    assert "ToolUse(tool='weather', arguments={'city': 'Oslo'" in got.stdout, (
        got.stdout + got.stderr
    )

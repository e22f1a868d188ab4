"""Chats that may call tools, and messages of all kinds, through a kernel on the fake model."""

from __future__ import annotations

import json

from tests.conftest import Machine

TOOLS = '''
import json
import aios

@aios.tool(effect="read")
def weather(city: str, days: int = 1) -> str:
    """Tell the weather.

    city: a city's name
    """
    return f"rain in {city}"

DECLARED = {"type": "function", "function": {"name": "pay", "description": "Pay.", "parameters": {
    "type": "object", "properties": {"euros": {"type": "integer"}}, "required": ["euros"]}}}

def attempt(**options):
    try:
        return aios.chat("go", **options)
    except aios.AiosError as error:
        return str(error)
'''


def _run(machine: Machine, name: str, code: str) -> list[object]:
    got = machine.aios("run", machine.agent(name, TOOLS + code))
    assert got.returncode == 0, got.stderr
    return [json.loads(line) for line in got.stdout.splitlines()]


def test_required_calls_are_typed_and_the_same_each_time(machine: Machine) -> None:
    (first, again, other) = _run(machine, "caller", '''
for seed in (1, 1, 2):
    r = aios.chat("go", tools=[weather, "calculate", DECLARED], tool_choice="required", seed=seed,
                  max_tokens=900)
    assert r.finish == "tool_calls" and not r.text, r
    print(json.dumps([[c.id, c.name, c.arguments] for c in r.tool_calls]))
''')  # fmt: skip
    assert first == again != other
    fields = {"weather": {"city", "days"}, "calculate": {"expression"}, "pay": {"euros"}}
    assert isinstance(first, list) and first
    for call_id, name, arguments in first:
        assert len(call_id) == 9 and set(arguments) <= fields[name]


def test_one_tool_can_be_demanded_and_its_result_told(machine: Machine) -> None:
    (told,) = _run(machine, "demander", '''
r = aios.chat("go", tools=[weather, DECLARED], tool_choice={"name": "pay"}, max_tokens=300)
call, = r.tool_calls
assert call.name == "pay" and isinstance(call.arguments["euros"], int), call
talk = [aios.Message("user", "go"), aios.Message("assistant", r.text, tool_calls=r.tool_calls),
        {"role": "tool", "content": [{"type": "text", "text": "paid"}], "tool_call_id": call.id}]
r = aios.chat(talk, tools=[DECLARED], tool_choice="none", max_tokens=8)
assert r.text and not r.tool_calls
print(json.dumps(r.adapted))
''')  # fmt: skip
    assert told == ["tool calls and results written as text"]


def test_streams_end_with_the_calls(machine: Machine) -> None:
    (streamed,) = _run(machine, "streamer", '''
with aios.stream("go", tools=[weather], tool_choice="required", max_tokens=600) as stream:
    assert "".join(stream) == "", "a call is no text"
    print(json.dumps([call.name for call in stream.reply.tool_calls]))
''')  # fmt: skip
    assert streamed and set(streamed) == {"weather"}  # type: ignore[call-overload]


def test_wrong_requests_are_refused_by_name(machine: Machine) -> None:
    (said,) = _run(machine, "wrong", '''
bad = {"name": "odd", "parameters": {"type": "object", "properties": {"x": {"$ref": "http://a/b"}},
                                     "required": ["x"]}}
print(json.dumps([
    attempt(tools=["no.such.tool"]),
    attempt(tools=[weather], tool_choice={"name": "pay"}),
    attempt(tools=[weather, weather]),
    attempt(tool_choice="required"),
    attempt(tools=[weather], schema={"type": "integer"}),
    attempt(tools=[bad]),
    attempt(tools=[{"name": "bad", "parameters": "[1]"}]),
    attempt(tools=[3]),
    attempt(date="2026-02-30"),
]))
''')  # fmt: skip
    expected = ["no.such.tool", "pay, which is not in tools", "weather twice", "there are no tools",
                "cannot call tools", "the schema of the tool odd", "not a JSON object",
                "got 3", "2026-02-30"]  # fmt: skip
    assert isinstance(said, list)
    for text, part in zip(said, expected, strict=True):
        assert part in text


def test_content_other_than_text_is_refused_by_name(machine: Machine) -> None:
    (said,) = _run(machine, "looker", '''
talk = [{"role": "user", "content": [{"type": "text", "text": "see"},
                                     {"type": "image_url", "image_url": {"url": "x"}}]}]
try:
    aios.chat(talk)
except aios.InvalidArgument as error:
    print(json.dumps(str(error)))
''')  # fmt: skip
    assert "messages[0] has content of the type 'image_url'" in str(said)

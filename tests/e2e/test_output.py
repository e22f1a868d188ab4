"""Texts with a form: the sources of ``aios.chat``, and values of a type with ``output=``."""

from __future__ import annotations

from tests.conftest import Machine

FORMS = """
import aios, asyncio, json, re
ask = "Say something."
assert re.fullmatch("[0-9]{3}-[a-c]+", aios.chat(ask, regex="[0-9]{3}-[a-c]+").text)
assert aios.chat(ask, choice=("yes", "no")).text in ("yes", "no")
assert aios.chat(ask, grammar='root ::= "a" | "b"').text in "ab"
assert aios.chat(ask, lark='start: "x" /[0-9]/').text[0] == "x"
nulls = aios.chat(ask, schema={"type": "array", "items": {"type": "null"}})
assert set(json.loads(nulls.text)) <= {None}
with aios.stream(ask, choice=["streamed"]) as stream:
    assert "".join(stream) == "streamed" and stream.reply.finish == "stop"
assert aios.context.chat(ask, regex="ok").text == "ok"
async def main():
    assert (await aios.achat(ask, choice=["async"])).text == "async"
    assert "".join([piece async for piece in await aios.astream(ask, regex="[x]{4}")]) == "xxxx"
asyncio.run(main())
reply = aios.chat(ask, regex="exact", max_tokens=5)
assert (reply.finish, reply.text, reply.usage.completion_tokens) == ("stop", "exact", 5)
def refused(**options):
    try:
        aios.chat(ask, **options)
    except aios.InvalidArgument as error:
        return error.message
print(refused(regex="a", choice=["b"]))
print(refused(regex="("))
print(refused(choice=[]))
print(refused(schema={"items": {"uniqueItems": True}}))
"""


def test_each_source_holds_the_text(machine: Machine) -> None:
    got = machine.aios("run", machine.agent("forms", FORMS))
    assert got.returncode == 0, got.stderr
    both, regex, choice, schema = got.stdout.splitlines()
    assert "at most one" in both and "regex, choice" in both
    assert "regular expression cannot be used" in regex and "choice" in choice
    assert "at #/items: uniqueItems" in schema


VALUES = """
import aios, asyncio, datetime, enum
from dataclasses import dataclass, field
from typing import Annotated, Literal, TypedDict
import msgspec, pydantic

class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"

@dataclass
class City:
    name: Annotated[str, msgspec.Meta(max_length=12)]
    people: Annotated[int, msgspec.Meta(ge=0, lt=1000)]
    colour: Colour
    twin: "City | None" = None

class Pair(TypedDict):
    a: int
    b: list[bool]

class Item(pydantic.BaseModel):
    title: str = pydantic.Field(min_length=2, max_length=9)
    price: float = pydantic.Field(gt=0, le=5)
    when: datetime.date
    tags: list[Literal["x", "y"]] = []

class Odd(pydantic.BaseModel):
    n: int
    @pydantic.field_validator("n")
    @classmethod
    def never(cls, n: int) -> int:
        raise ValueError("never right")

for seed in range(6):
    ask = dict(prompt="Give me one.", seed=seed, temperature=0.9, max_tokens=600)
    city = aios.chat(output=City, **ask)
    assert type(city) is City and type(city.colour) is Colour and 0 <= city.people < 1000
    pair = aios.chat(output=Pair, **ask)
    assert type(pair["a"]) is int and all(type(each) is bool for each in pair["b"])
    item = aios.chat(output=Item, **ask)
    assert type(item) is Item and 0 < item.price <= 5 and type(item.when) is datetime.date
    assert aios.chat(output=Literal["up", "down"], **ask) in ("up", "down")
    assert all(type(each) is int for each in aios.chat(output=list[int], **ask))
    assert aios.chat(output=int | None, **ask) is None or True
    assert type(asyncio.run(aios.achat(output=City, **ask))) is City
    talk, options = aios.Context(), {k: v for k, v in ask.items() if k != "prompt"}
    assert type(talk.chat("Give me one.", output=City, **options)) is City
    assert type(asyncio.run(talk.achat("Another.", output=City, **options))) is City
    assert [m.role for m in talk.messages] == ["user", "assistant"] * 2 and talk.last.text
def fails(kind, **options):
    try:
        aios.chat("x", **options)
    except kind as error:
        return f"{type(error).__name__}: {error.message}"
print(fails(aios.OutputIncomplete, output=Item, max_tokens=9))
print(fails(aios.InvalidArgument, output=Odd))
print(fails(aios.InvalidArgument, output=City, regex="a"))
print(fails(aios.InvalidArgument, output=type("Strange", (), {})))
"""


def test_output_returns_a_value_of_the_type(machine: Machine) -> None:
    got = machine.aios("run", machine.agent("values", VALUES))
    assert got.returncode == 0, got.stderr
    cut, odd, both, strange = got.stdout.splitlines()
    assert cut == "OutputIncomplete: the value is incomplete after max_tokens=9"
    assert "the reply is no Odd" in odd and "never right" in odd
    assert "output or regex" in both and "output=Strange has no JSON schema" in strange

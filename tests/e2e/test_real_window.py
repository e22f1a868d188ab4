"""Conversations on the real model that fill the window and outgrow it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import pytest

from tests.conftest import TIMEOUT_S, Machine, shared_kernel

pytestmark = pytest.mark.real
WINDOW = 256


@pytest.fixture(scope="module")
def small() -> Iterator[Machine]:
    """A kernel with a window of WINDOW tokens."""
    with shared_kernel() as machine:
        machine.start("--seats", "2", "--ctx", str(WINDOW), "--embedder", "off")
        yield machine


GROWING = """
import aios, sys
for n in range(4):
    reply = aios.context.chat(f"Turn {n}: tell me one more thing about rivers.", max_tokens=8)
    with open(sys.argv[1], "w") as told:
        told.write(f"{reply.usage.prompt_tokens} {len(reply.tokens)}")
    open(sys.argv[2]).read()
"""


def test_ps_shows_the_context_growing_with_the_conversation(small: Machine) -> None:
    told, go_on = small.folder / "told", small.folder / "go-on"
    os.mkfifo(told)
    os.mkfifo(go_on)
    agent = small.agent("grower", GROWING)
    running = small.popen("run", "--name", "grower", agent, "--", str(told), str(go_on))
    held = [0]
    for _ in range(4):
        prompt, reply = map(int, told.read_text().split())  # waits for the turn's end
        rows = json.loads(small.aios("ps", "--json").stdout)
        (row,) = (row for row in rows if row["name"] == "grower")
        held.append(row["context_tokens"])
        assert prompt <= held[-1] <= prompt + reply and row["window_tokens"] == WINDOW
        head, *table = small.aios("ps").stdout.splitlines()
        (line,) = (line for line in table if " grower " in line)
        assert "CTX" in head and f" {held[-1]}/{WINDOW} " in line
        go_on.write_text("on")
    assert held == sorted(set(held)) and held[-1] - held[1] > 50
    _, said = running.communicate(timeout=TIMEOUT_S)
    assert running.returncode == 0, said


OUTGROWING = """
import aios, json
context = aios.Context([aios.Message("system", "You are brief.")])
for n in range(6):
    asked = f"Note {n}: the parcel with number {n}{n}{n} goes to the town of Arles on day {n}."
    reply = context.chat(asked, max_tokens=12, window="summarise")
    window = reply.window
    print(json.dumps({
        "text": reply.text, "tokens": len(reply.tokens), "prompt": reply.usage.prompt_tokens,
        "finish": reply.finish,
        "system": [m.content for m in context.messages if m.role == "system"],
        "kept": [m.content for m in context.messages if m.role != "system"], "asked": asked,
        "window": None if window is None else {
            "policy": window.policy, "dropped": window.dropped_turns, "summary": window.summary,
            "summary_tokens": window.summary_tokens}}))
try:
    aios.Context(context.messages).chat("And now " * 400, max_tokens=8, window="summarise")
except aios.ContextOverflow as error:
    print(json.dumps(str(error)))
"""


def test_a_conversation_that_outgrows_the_window_is_summarised(small: Machine) -> None:
    got = small.aios("run", small.agent("outgrower", OUTGROWING))
    assert got.returncode == 0, got.stderr
    *replies, refused = map(json.loads, got.stdout.splitlines())
    dropped, shown = 0, list[str]()
    for each in replies:
        assert each["text"] and 0 < each["tokens"] <= 12 and each["finish"] in ("stop", "length")
        assert each["prompt"] + each["tokens"] <= WINDOW
        shown += [each["asked"], each["text"]]
        if window := each["window"]:
            dropped += window["dropped"]
            assert window["policy"] == "summarise" and window["dropped"] >= 1
            assert window["summary"] and window["summary_tokens"] > 0
            assert each["system"][1].endswith(window["summary"])
        assert each["kept"] == shown[dropped:], "only the turns that the reply reports are dropped"
        assert each["system"][0] == "You are brief." and len(each["system"]) == 1 + (dropped > 0)
    assert not replies[0]["window"] and dropped, "the first turn fits, a later one does not"
    assert f"holds {WINDOW}" in refused

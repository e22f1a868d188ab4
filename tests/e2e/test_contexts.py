"""Saved contexts, limits and settings, as agents and the operator use them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from aios.syscalls.types.common import Empty
from tests.conftest import Machine, operator

FLAGS = ("--model", "fake:end=0", "--seats", "2", "--quantum", "4", "--ctx", "512")
SYSTEM = "a common beginning that is long enough to be worth keeping around. " * 3

SAVE = f"""
import aios
aios.context.messages.append(aios.Message("system", {SYSTEM!r}))
reply = aios.context.chat("first", max_tokens=40)
branches = aios.context.fork(2)
said = [branch.chat(f"branch {{n}}", max_tokens=5) for n, branch in enumerate(branches)]
print([each.usage.cached_tokens >= reply.usage.prompt_tokens for each in said])
saved = aios.context.save("trip")
print(saved.name, saved.tokens > 100, saved.size_bytes > 10_000)
"""
GO_ON = """
import aios
aios.context.restore("trip")
reply = aios.context.chat("go on", max_tokens=12)
print(reply.tokens, reply.usage.cached_tokens)
"""


def _files(machine: Machine) -> list[Path]:
    return sorted((machine.folder / "data/aios/contexts/keeper").iterdir())


def _go_on(machine: Machine) -> tuple[str, int]:
    got = machine.aios("run", "--name", "keeper", machine.agent("go_on", GO_ON))
    assert got.returncode == 0, got.stderr
    tokens, _, cached = got.stdout.rpartition("] ")
    return tokens, int(cached)


def test_a_saved_context_outlives_its_agent_and_the_kernel(stopped: Machine) -> None:
    stopped.start(*FLAGS)
    save = stopped.agent("save", SAVE)
    got = stopped.aios("run", "--name", "keeper", save)
    assert got.stdout == "[True, True]\ntrip True True\n", got.stderr
    tokens, cached = _go_on(stopped)
    assert cached > 100
    assert stopped.aios("daemon", "restart", *FLAGS).returncode == 0
    assert _go_on(stopped) == (tokens, cached), "the KV cache came from the file"
    image, record = _files(stopped)
    assert (record.suffix, image.suffix) == (".ctx", ".kv")
    for how in ("damaged", "truncated", "missing"):
        data = bytearray(image.read_bytes())
        if how == "damaged":
            data[len(data) // 2] ^= 255
        image.unlink()
        if how != "missing":
            image.write_bytes(data if how == "damaged" else data[: len(data) // 2])
        stopped.aios("daemon", "restart", *FLAGS)
        again, cached = _go_on(stopped)
        assert again == tokens and cached < 100, how
    record.write_bytes(b"\xff" * 100)
    code = """
import aios
for call in (lambda: aios.context.restore("trip"), lambda: aios.context.remove("none"),
             lambda: aios.context.save("../x"), lambda: aios.context.save("y" * 65)):
    try: call()
    except aios.AiosError as error: print(type(error).__name__)
aios.context.save("empty")
print([c.name for c in aios.context.saved()])
aios.context.remove("empty")
print(aios.context.saved())
"""
    got = stopped.aios("run", "--name", "keeper", stopped.agent("errors", code))
    assert got.stdout.split() == ["NotFound", "NotFound", "InvalidArgument", "InvalidArgument",
                                  "['empty']", "[]"], got.stderr  # fmt: skip
    with operator(stopped) as connection:
        assert connection.call("kernel.check", Empty()).problems == []
    assert "Traceback" not in stopped.log()


def test_a_context_of_other_weights_is_recomputed_and_says_so(stopped: Machine) -> None:
    stopped.start(*FLAGS)
    assert stopped.aios("run", "--name", "keeper", stopped.agent("save", SAVE)).returncode == 0
    other = ("--model", "fake:end=90", *FLAGS[2:])
    assert stopped.aios("daemon", "restart", *other).returncode == 0
    code = """
import aios
aios.chat("so that the model is loaded", max_tokens=1)
(saved,) = aios.context.saved()
print(saved.weights)
aios.context.restore("trip")
print(aios.context.recomputed)
print(aios.context.chat("go on", max_tokens=4).usage.cached_tokens < 50, len(aios.context.messages))
"""
    got = stopped.aios("run", "--name", "keeper", stopped.agent("other", code))
    weights, recomputed, last = got.stdout.splitlines()
    assert weights == "original (ke:end=0), fake", got.stderr
    assert recomputed == (
        f"saved with {weights}; the model now runs with original (e:end=90), fake"
    )
    assert last == "True 5"


def test_saving_again_replaces_and_the_limit_holds(machine: Machine) -> None:
    code = """
import aios
aios.context.chat("x" * 100, max_tokens=4)
for _ in range(3): aios.context.save("one")
for n in range(255): aios.context.save(f"n{n}")
try: aios.context.save("too-many")
except aios.ResourceExhausted as error: print(error)
aios.context.save("one")
for each in aios.context.saved(): aios.context.remove(each.name)
"""
    got = machine.aios("run", "--name", "keeper", machine.agent("many", code))
    assert "256 saved contexts; the limit is 256" in got.stdout and not got.stderr
    assert _files(machine) == []


def test_the_reply_shows_the_window_policy_and_ps_the_context(machine: Machine) -> None:
    code = """
import aios
for n in range(6): aios.context.messages.append(aios.Message("user", f"{n} " + "w" * 1000))
for window in ("truncate", "summarise"):
    reply = aios.Context(aios.context.messages).chat("go", max_tokens=8, window=window)
    print(reply.window.policy, reply.window.dropped_turns, bool(reply.window.summary))
try: aios.context.chat("go", max_tokens=8)
except aios.ContextOverflow as error: print(error)
row = aios.ps()[-1]
print(row.context_tokens, row.window_tokens)
"""
    got = machine.aios("run", machine.agent("window", code)).stdout.splitlines()
    assert got[0].startswith("truncate ") and got[0].endswith("False")
    assert got[1].startswith("summarise ") and got[1].endswith("True")
    assert "4,096" in got[2] and "truncate" in got[3]
    held, window = map(int, got[4].split())
    assert 0 < held <= window == 4096


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["run", "--weight", "0", "FILE"], 125, "weight"),
        (["run", "--weight=-1", "FILE"], 125, "weight"),
        (["run", "--weight", "nan", "FILE"], 125, "weight"),
        (["run", "--weight", "inf", "FILE"], 125, "weight"),
        (["run", "--quota-tokens", "0", "FILE"], 125, "quota_tokens"),
        (["run", "--quota-tokens", "3", "FILE"], 125, "less than one quantum of 4"),
        (["run", "--quota-cells", "3", "FILE"], 125, "aios sched set --quantum"),
        (["run", "--max-tokens", "0", "FILE"], 125, "max_tokens"),
        (["run", "--timeout", "nan", "FILE"], 125, "timeout"),
        (["renice", "SELF"], 1, "changes nothing"),
        (["renice", "--weight", "nan", "SELF"], 1, "weight"),
        (["renice", "--quota-cells", "2", "SELF"], 1, "less than one quantum"),
        (["sched", "set"], 1, "changes nothing"),
        (["sched", "set", "fiar"], 1, "did you mean 'fair'"),
        (["sched", "set", "--quantum=-1"], 1, "quantum_tokens"),
        (["sched", "set", "--width", "0"], 1, "width"),
        (["sched", "set", "--chunk", "9999"], 1, "chunk_tokens"),
        (["model", "load", "nowhere"], 1, "aios model ls"),
        (["model", "unload", "nowhere"], 1, "aios model ls"),
        (["trace", "export", "--output", "/dev/null/x"], 1, "--output FILE"),
        (["trace", "export", "--output", "/nowhere/x"], 1, "cannot write /nowhere/x"),
    ],
)
def test_bad_input_names_the_value_the_limit_and_the_fix(
    machine: Machine, words: list[str], code: int, message: str
) -> None:
    path = machine.agent("self", "import time; time.sleep(1000)")
    if "SELF" in words:
        machine.aios("run", "-d", "--name", "self", path)
    names = {"SELF": "self", "FILE": path}
    got = machine.aios(*(names.get(word, word) for word in words))
    assert got.returncode == code and message in got.stderr, got
    assert "Traceback" not in got.stderr and got.stderr.startswith("aios: ")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--kv-ram", "900T"], "kv_ram"),
        (["--kv-ram", "15T"], "exceed this machine's memory"),
        (["--kv-ram", "0"], "kv_ram"),
        (["--kv-disk=-1"], "kv_disk"),
        (["--memory", "15T"], "--memory"),
        (["--policy", "fiar"], "did you mean 'fair'"),
    ],
)
def test_bad_settings_keep_the_kernel_from_starting(
    stopped: Machine, flags: list[str], message: str
) -> None:
    got = stopped.aios("daemon", "up", "--model", "fake", *flags)
    assert got.returncode == 1 and message in got.stderr


def test_a_model_that_cannot_be_parked_is_loaded_and_unloaded(machine: Machine) -> None:
    frozen = "fake:end=0,frozen=1"
    got = machine.aios("model", "load", frozen)
    assert got.returncode == 0 and "cannot be parked: recomputed" in got.stdout
    rows = json.loads(machine.aios("model", "ls", "--json").stdout)["served"]
    assert next(row for row in rows if row["name"] == frozen)["restorable"] is False
    forever = "import aios\nwhile True: aios.chat('x', max_tokens=2000)"
    machine.aios("run", "-d", "--name", "user", "--model", frozen, machine.agent("user", forever))
    ask = machine.agent("ask", "import aios; print(len(aios.chat('x', max_tokens=3).tokens))")
    assert machine.aios("run", "--model", frozen, ask).stdout == "3\n"
    refused = machine.aios("model", "unload", frozen)
    assert refused.returncode == 1 and "aios ps" in refused.stderr
    machine.aios("kill", "user")
    machine.aios("wait", "user")
    assert machine.aios("model", "unload", frozen).returncode == 0
    assert machine.aios("run", "--model", frozen, ask).stdout == "3\n", "loaded again"
    machine.aios("model", "unload", frozen)
    assert machine.aios("model", "load", "fake:what=1").returncode == 1


def test_parked_contexts_survive_a_killed_core(stopped: Machine) -> None:
    """The agent kills the core as soon as all four of its streams have begun."""
    stopped.start("--model", "fake:step_ms=2,end=0", "--seats", "1", "--quantum", "4")
    code = """
import asyncio, os, signal, sys, aios

async def ask(begun):
    stream = await aios.astream("x" * 400, max_tokens=150, temperature=1.0)
    async for piece in stream:
        begun.set()
    return stream.reply

async def main():
    alone = await ask(asyncio.Event())
    events = [asyncio.Event() for _ in range(4)]
    asking = [asyncio.create_task(ask(begun)) for begun in events]
    for begun in events:
        await begun.wait()
    os.kill(int(sys.argv[1]), signal.SIGKILL)
    replies = await asyncio.gather(*asking)
    print([reply.tokens == alone.tokens for reply in replies])
    print(sum(reply.timing.recomputes for reply in replies))

asyncio.run(main())
"""
    with operator(stopped) as connection:
        (model,) = connection.call("model.list", Empty()).models
        path = stopped.agent("killer", code)
        got = stopped.aios("run", path, "--", str(model.core_os_pid))
        (model,) = connection.call("model.list", Empty()).models
    same, _, recomputed = got.stdout.strip().rpartition("\n")
    assert same == "[True, True, True, True]", got.stderr
    assert int(recomputed) <= 2, "at most the running one and the one evicted for it"
    assert model.core_restarts == 1

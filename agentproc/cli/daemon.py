"""``aios daemon | model | sched | call``: the kernel as its operator sees it."""

from __future__ import annotations

import argparse
import json
import shlex
from pathlib import Path

from aios.syscalls import codec, paths
from aios.syscalls.errors import IllegalState, InvalidArgument
from aios.syscalls.table import BY_NAME, CALLS
from aios.syscalls.types.common import Empty
from aios.syscalls.types.kernel import (
    KernelStatus,
    ModelInfo,
    ModelRequest,
    SchedReply,
    SchedRequest,
)

from . import daemonctl, out, parts

RUNNING, DEAD_WITH_REMAINS, NOT_RUNNING = 0, 1, 3


def daemon(options: argparse.Namespace) -> int:
    """up, down, restart and status; exit codes of status follow the LSB."""
    runtime = paths.runtime_dir()
    if options.action == "status":
        return _status(options, runtime)
    if options.action == "restart":
        daemonctl.check(options.flags)
    if options.action in ("down", "restart"):
        ended = daemonctl.stop(runtime)
        if options.action == "down":
            _say(options, "ended" if ended else "no kernel was running", None)
            return 0
    running = paths.kernel_os_pid(runtime)
    if running is not None and options.flags:
        raise IllegalState(
            f"a kernel is running already (pid {running}), with its own settings",
            f"aios daemon restart {shlex.join(options.flags)}",
        )
    if running is not None:
        _say(options, "a kernel is running already", running)
        return 0
    _say(options, "serving", daemonctl.start(options.flags))
    with daemonctl.operator(runtime) as connection:
        status: KernelStatus = connection.call("kernel.status", Empty())
    for warning in status.warnings:
        out.complain(warning)
    return 0


def _say(options: argparse.Namespace, text: str, os_pid: int | None) -> None:
    runtime = str(paths.runtime_dir())
    if options.json:
        out.as_json({"status": text, "os_pid": os_pid, "runtime_dir": runtime})
    else:
        print(f"{text} (pid {os_pid}, {runtime})" if os_pid else f"{text} ({runtime})")


def _status(options: argparse.Namespace, runtime: Path) -> int:
    if paths.kernel_os_pid(runtime) is None:
        remains = any((runtime / name).exists() for name in ("agents.sock", "operator.sock"))
        text = "dead; it left its sockets behind" if remains else "not running"
        _say(options, text, None)
        if not options.json:
            print(f"  {paths.START_HINT}")
        return DEAD_WITH_REMAINS if remains else NOT_RUNNING
    with daemonctl.operator(runtime) as connection:
        status: KernelStatus = connection.call("kernel.status", Empty())
    if options.json:
        out.as_json(status)
        return RUNNING
    print(
        f"aiosd {status.version}, pid {status.os_pid}, up {out.duration(status.uptime_s)}, "
        f"in {status.runtime_dir}\n"
        f"policy {status.policy}, quantum {status.quantum_tokens or 'auto'} tokens, "
        f"{status.processes} agents, {status.calls} calls ({status.calls_refused} refused)\n"
    )
    _models(status.models)
    for warning in status.warnings:
        print(f"\nwarning: {warning}")
    return RUNNING


def model_ls(options: argparse.Namespace) -> int:
    """Models that the kernel serves or has served, and the files it could serve."""
    with daemonctl.operator() as connection:
        models: list[ModelInfo] = connection.call("model.list", Empty()).models
    if options.json:
        out.as_json(models)
        return 0
    _models(models)
    known = {model.path for model in models}
    folder = paths.data_dir() / "models"
    others = [path for path in sorted(folder.glob("*.gguf")) if str(path.resolve()) not in known]
    if others:
        print("\nnot asked for yet:", ", ".join(path.stem for path in others))
    return 0


def model_load(options: argparse.Namespace) -> int:
    """Load a model and wait until it is ready."""
    with daemonctl.operator() as connection:
        model: ModelInfo = connection.call("model.load", ModelRequest(_model_name(options.name)))
    if options.json:
        out.as_json(model)
    else:
        _models([model])
    return 0


def model_unload(options: argparse.Namespace) -> int:
    """End a model's core; the next request loads it again."""
    with daemonctl.operator() as connection:
        connection.call("model.unload", ModelRequest(_model_name(options.name)))
    if options.json:
        out.as_json({"unloaded": options.name})
    return 0


def _model_name(name: str) -> str:
    """The kernel runs in another folder, so it gets whole paths."""
    is_path = name.endswith(".gguf") or "/" in name
    return out.whole(name) if is_path and not name.startswith("fake") else name


def model_tune(options: argparse.Namespace) -> int:
    """Runs in a process of its own, which loads the model again and again."""
    words = [options.name if options.name == "default" else _model_name(options.name),
             "--perplexity", str(options.perplexity), "--seats", str(options.seats)]  # fmt: skip
    words += ["--cache", str(paths.cache_dir()), "--models", str(paths.data_dir() / "models")]
    words += ["--reset"] * options.reset + ["--json"] * options.json
    parts.become("aios.hw.tuning.tune", *words)


def _models(models: list[ModelInfo]) -> None:
    out.table(
        ["model", "state", "window>", "seats>", "??running>", "??ready>", "??kv", "??parked>",
         "??threads>", "??device", "?exact", "?memory>", "??restarts>", "what"],
        [[m.name, m.state, str(m.context_tokens), f"{m.seats_used}/{m.seats}", str(m.running),
          str(m.ready), m.kv_type, out.size(m.arena_used_bytes), str(m.threads), m.device,
          m.exact, out.size(m.memory_bytes), str(m.core_restarts),
          m.reason or m.description + ("" if m.restorable else " (cannot be parked: recomputed)")]
         for m in models],
    )  # fmt: skip


def sched(options: argparse.Namespace) -> int:
    """The scheduler's settings, changed or not."""
    request = SchedRequest()
    wanted = {"policy": options.policy, "quantum_tokens": options.quantum,
              "width": options.width, "chunk_tokens": options.chunk}  # fmt: skip
    if options.action == "set":
        if all(value is None for value in wanted.values()):
            raise InvalidArgument(
                "sched set changes nothing",
                "give a policy, --quantum, --chunk or --width; in force is: aios sched show",
            )
        request = codec.convert(wanted, SchedRequest)
    elif any(value is not None for value in wanted.values()):
        raise InvalidArgument("sched show changes nothing", "use: aios sched set")
    with daemonctl.operator() as connection:
        reply: SchedReply = connection.call("sched.set", request)
    if options.json:
        out.as_json(reply)
    else:
        quantum, chunk = reply.quantum_tokens or "auto", reply.chunk_tokens or "auto"
        print(
            f"policy {reply.policy}, quantum {quantum} tokens, width {reply.width}, "
            f"chunk {chunk} tokens\n"
        )
        out.table(["policy", "promise"], [list(item) for item in reply.policies.items()])
    return 0


def call(options: argparse.Namespace) -> int:
    """Any system call by its name, for looking into things."""
    if options.list or options.name is None:
        if options.json:
            out.as_json(
                [{"number": c.number, "call": c.name, "who": c.privilege, "effect": c.effect,
                  "deadline_s": c.timeout_s} for c in CALLS]
            )  # fmt: skip
            return 0
        out.table(
            ["number>", "call", "who", "effect", "deadline>"],
            [[str(c.number), c.name, c.privilege, c.effect, f"{c.timeout_s:g}s"] for c in CALLS],
        )
        return 0
    row = BY_NAME.get(options.name)
    if row is None:
        raise InvalidArgument(f"no system call {options.name!r}", "list them: aios call --list")
    try:
        body = codec.convert(json.loads(options.body), row.request)
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(
            f"the body is no JSON: {error}", "example: aios call getpid {}"
        ) from None
    with daemonctl.operator() as connection:
        out.as_json(connection.call(row.name, body))
    return 0

"""``aios daemon | model | sched | call``: the kernel as its operator sees it."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from . import cli_out, daemonctl
from .syscalls import codec, paths
from .syscalls.errors import InvalidArgument
from .syscalls.table import BY_NAME, CALLS
from .syscalls.types import Empty, KernelStatus, ModelInfo, SchedReply, SchedRequest

RUNNING, DEAD_WITH_REMAINS, NOT_RUNNING = 0, 1, 3


def daemon(options: argparse.Namespace) -> int:
    """up, down, restart and status; exit codes of status follow the LSB."""
    runtime = paths.runtime_dir()
    if options.action == "status":
        return _status(options, runtime)
    if options.action in ("down", "restart"):
        ended = daemonctl.stop(runtime)
        if options.action == "down":
            _say(options, "ended" if ended else "no kernel was running", None)
            return 0
    running = paths.kernel_os_pid(runtime)
    if running is not None:
        _say(options, "a kernel is running already", running)
        return 0
    _say(options, "serving", daemonctl.start(options.flags))
    return 0


def _say(options: argparse.Namespace, text: str, os_pid: int | None) -> None:
    runtime = str(paths.runtime_dir())
    if options.json:
        cli_out.as_json({"status": text, "os_pid": os_pid, "runtime_dir": runtime})
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
        cli_out.as_json(status)
        return RUNNING
    print(
        f"aiosd {status.version}, pid {status.os_pid}, up {cli_out.duration(status.uptime_s)}, "
        f"in {status.runtime_dir}\n"
        f"policy {status.policy}, quantum {status.quantum_tokens} tokens, "
        f"{status.processes} agents, {status.calls} calls ({status.calls_refused} refused)\n"
    )
    _models(status.models)
    return RUNNING


def model_ls(options: argparse.Namespace) -> int:
    """Models that the kernel serves."""
    with daemonctl.operator() as connection:
        models: list[ModelInfo] = connection.call("model.list", Empty()).models
    if options.json:
        cli_out.as_json(models)
    else:
        _models(models)
    return 0


def _models(models: list[ModelInfo]) -> None:
    cli_out.table(
        ["model", "state", "window>", "seats>", "running>", "ready>", "kv", "parked>", "threads>",
         "device", "exact", "restarts>", "what"],
        [[m.name, m.state, str(m.context_tokens), f"{m.seats_used}/{m.seats}", str(m.running),
          str(m.ready), m.kv_type, cli_out.size(m.arena_used_bytes), str(m.threads), m.device,
          m.exact, str(m.core_restarts), m.reason or m.description] for m in models],
    )  # fmt: skip


def sched(options: argparse.Namespace) -> int:
    """The scheduler's settings, changed or not."""
    request = SchedRequest()
    if options.action == "set":
        request = codec.convert(
            {"policy": options.policy, "quantum_tokens": options.quantum, "width": options.width},
            SchedRequest,
        )
    with daemonctl.operator() as connection:
        reply: SchedReply = connection.call("sched.set", request)
    if options.json:
        cli_out.as_json(reply)
    else:
        print(
            f"policy {reply.policy} (of {', '.join(reply.policies)}), "
            f"quantum {reply.quantum_tokens} tokens, width {reply.width}"
        )
    return 0


def call(options: argparse.Namespace) -> int:
    """Any system call by its name, for looking into things."""
    if options.list or options.name is None:
        cli_out.table(
            ["number>", "call", "who", "effect", "deadline>"],
            [[str(c.number), c.name, c.privilege, c.effect, f"{c.timeout_s:g}s"] for c in CALLS],
        )
        return 0
    row = BY_NAME.get(options.name)
    if row is None:
        raise InvalidArgument(f"no system call {options.name!r}", "list them: aios call --list")
    try:
        body = codec.convert(json.loads(options.body), row.request)
    except ValueError as error:
        raise InvalidArgument(
            f"the body is no JSON: {error}", "example: aios call getpid {}"
        ) from None
    with daemonctl.operator() as connection:
        cli_out.as_json(connection.call(row.name, body))
    return 0

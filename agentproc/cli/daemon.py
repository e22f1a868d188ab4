"""``aios daemon | sched | call | version``: the kernel as its operator sees it."""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from aios.syscalls import codec, paths
from aios.syscalls.errors import IllegalState, InvalidArgument
from aios.syscalls.table import BY_NAME, CALLS
from aios.syscalls.types.common import Empty
from aios.syscalls.types.kernel import (
    KernelStatus,
    SchedReply,
    SchedRequest,
)

from . import daemonctl, out
from .command import Command, arg, flag
from .daemonctl import system_call
from .model import show_models

RUNNING, DEAD_WITH_REMAINS, NOT_RUNNING = 0, 1, 3


def daemon(options: argparse.Namespace) -> int:
    """Start, stop, restart or inspect the kernel. The exit codes of ``status`` follow the LSB."""
    runtime = paths.runtime_dir()
    if options.action == "status":
        return _status(options, runtime)
    flags = daemonctl.absolute(options.flags)
    kept = daemonctl.kept(runtime, flags) if options.action == "restart" else []
    if options.action == "restart":
        daemonctl.check([*kept, *flags])
    if options.action in ("down", "restart"):
        ended = daemonctl.stop(runtime)
        if options.action == "down":
            _say(options, "stopped" if ended else "no kernel was running", None)
            return 0
    running = paths.kernel_os_pid(runtime)
    if running is not None and options.flags:
        raise IllegalState(
            f"a kernel is already running (pid {running}), with its own settings",
            f"aios daemon restart {shlex.join(options.flags)}",
        )
    if running is not None:
        _say(options, "a kernel is already running", running)
        return 0
    _say(options, "serving", daemonctl.start([*kept, *flags]), kept)
    status: KernelStatus = system_call("kernel.status", Empty())
    for warning in status.warnings:
        out.complain(warning)
    return 0


def _say(
    options: argparse.Namespace, text: str, os_pid: int | None, kept: Sequence[str] = ()
) -> None:
    runtime = str(paths.runtime_dir())
    if options.json:
        out.as_json({"status": text, "os_pid": os_pid, "runtime_dir": runtime, "kept": list(kept)})
        return
    print(f"{text} (pid {os_pid}, {runtime})" if os_pid else f"{text} ({runtime})")
    if kept:
        print(f"  as before, with {shlex.join(kept)}")


def _status(options: argparse.Namespace, runtime: Path) -> int:
    if paths.kernel_os_pid(runtime) is None:
        remains = any((runtime / name).exists() for name in ("agents.sock", "operator.sock"))
        text = "dead; it left its sockets behind" if remains else "not running"
        _say(options, text, None)
        if not options.json:
            print(f"  {paths.START_HINT}")
        return DEAD_WITH_REMAINS if remains else NOT_RUNNING
    status: KernelStatus = system_call("kernel.status", Empty())
    if options.json:
        out.as_json(status)
        return RUNNING
    print(
        f"aiosd {status.version}, pid {status.os_pid}, up {out.duration(status.uptime_s)}, "
        f"in {status.runtime_dir}\n"
        f"policy {status.policy}, quantum {status.quantum_tokens or 'auto'} tokens, "
        f"{status.processes} agents, {status.calls} calls ({status.calls_refused} refused)\n"
    )
    show_models(status.models)
    for warning in status.warnings:
        print(f"\nwarning: {warning}")
    return RUNNING


def sched(options: argparse.Namespace) -> int:
    """Show the scheduler's settings, or change them first."""
    request = SchedRequest()
    wanted = {"policy": options.policy, "quantum_tokens": options.quantum,
              "width": options.width, "chunk_tokens": options.chunk}  # fmt: skip
    if options.action == "set":
        if all(value is None for value in wanted.values()):
            raise InvalidArgument(
                "sched set changes nothing",
                "give a policy, --quantum, --chunk or --width; see: aios sched show",
            )
        request = codec.convert(wanted, SchedRequest)
    elif any(value is not None for value in wanted.values()):
        raise InvalidArgument("sched show changes nothing", "use: aios sched set")
    reply: SchedReply = system_call("sched.set", request)
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
    """Make any system call by its name."""
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
            f"the body is not JSON: {error}", "for example: aios call getpid {}"
        ) from None
    out.as_json(system_call(row.name, body))
    return 0


def version(options: argparse.Namespace) -> int:
    """Show the installed version."""
    number = metadata.version("aiosd")
    out.as_json({"version": number}) if options.json else print(f"aios {number}")
    return 0


COMMANDS = {
    "daemon": Command(do=daemon, arguments=(
        arg("action", choices=("up", "down", "restart", "status")),
    ), shape={"epilog": "up and restart pass other options to the kernel; see: aiosd --help. "
        "restart keeps those that the kernel was started with, unless it is given others; down "
        "and up drop them."}),
    "sched": Command(do=sched, arguments=(
        arg("action", choices=("show", "set")),
        arg("policy", nargs="?"),
        arg("--quantum", type=int, metavar="TOKENS", help="length of a slice; 0: as measured"),
        arg("--chunk", type=int, metavar="TOKENS", help="prompt tokens per step; 0: as measured"),
        arg("--width", type=int, metavar="REQUESTS", help="limit on requests in one batch"),
    )),
    "call": Command(do=call, json="print JSON also with --list", arguments=(
        flag("--list", help="list all calls"),
        arg("name", nargs="?"),
        arg("body", nargs="?", default="{}", metavar="JSON"),
    )),
    "version": Command(do=version),
}  # fmt: skip

"""``aios``: the command line. Parses, then hands over; what is not needed is not imported."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from aios.syscalls.errors import AiosError

from . import out, parts, storage

EPILOG = """exit codes:
  aios run (attached)   the agent's own; 125 aios failed, 126 the file cannot be run,
                        127 no such file, 128+n ended by signal n;
                        of several agents the first that is not 0
  aios wait             the agent's own
  aios perm explain     0 allowed, 1 not
  aios audit verify     0 as written, 1 not
  aios daemon status    0 running, 1 dead but its sockets are left, 3 not running
  others                0 done, 1 failed, 2 wrong usage

folders: AIOS_RUNTIME_DIR or XDG_RUNTIME_DIR/aios (sockets), XDG_STATE_HOME/aios (logs, audit),
  XDG_CONFIG_HOME/aios/config.toml and policy.toml, XDG_DATA_HOME/aios (models, grants),
  XDG_CACHE_HOME/aios
"""
RULES = """a rule is [VERB] KIND[.ACTION]:NAME
  VERB    deny (beats all), trust (never ask), ask (always ask), allow (ask for what cannot be
          undone); allow when left out
  KIND    call, path, tool, memory, model, context, agent, network
  NAME    * stands for any text without /, the segment ** for any segments, * alone for all
examples: allow tool.call:web_*    trust memory:shared:team    deny path.write:/mnt/**
          ask agent.send:other/*   allow network:*.example.org"""
EFFECTS = ("read", "reversible", "irreversible")
REF = "pid, name, or unique prefix of a name"
CLASSES = ("interactive", "normal", "batch")
ALWAYS_JSON = "what is written is JSON without it, too"


def parser() -> argparse.ArgumentParser:
    """All commands and options."""
    top = argparse.ArgumentParser(
        prog="aios", description="An operating system for LLM agents.", epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    _add_run(commands)
    _add_ps(commands)
    _add_memory(commands)
    _add_kernel(commands)
    storage.add_parser(commands)
    _add_access(commands)
    _add_tools(commands)
    for name, text in (("config", "show the kernel's settings: get [KEY], path"),
                       ("bench", "measure: aios bench SUITE [--json]"),
                       ("audit", "show and verify the log of decisions on rights")):  # fmt: skip
        command = commands.add_parser(name, help=text, add_help=False)
        command.add_argument("rest", nargs=argparse.REMAINDER)
    command = commands.add_parser("version", help="show the version")
    command.add_argument("--json", action="store_true")
    command.set_defaults(do="cli.main:version")
    return top


def _add_run(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    run = commands.add_parser("run", help="run Python files as agents", epilog=EPILOG,
                              formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    run.add_argument("files", nargs="+", metavar="FILE")
    run.add_argument("-d", "--detach", action="store_true", help="print the pid and return")
    run.add_argument("--name", help="name of the agent (default: the file's)")
    run.add_argument("--nice", type=int, default=0, help="-20 (most share) to 19")
    run.add_argument("--class", dest="klass", choices=CLASSES, default="normal")
    run.add_argument("--max-tokens", type=int, help="tokens it and its children may generate")
    run.add_argument("--weight", type=float, default=1.0, help="share of the model (fair)")
    run.add_argument("--quota-tokens", type=int, help="tokens it may compute in a minute")
    run.add_argument("--quota-cells", type=int, help="KV cells it may hold at once")
    run.add_argument("--timeout", type=float, help="seconds after which it is ended")
    run.add_argument("--group", help="privilege group (see: aios perm ls)")
    run.add_argument("--allow", action="append", default=[], metavar="RULE",
                     help="a right beside the group's, e.g. 'tool.call:web_*'")  # fmt: skip
    run.add_argument("--deny", action="append", default=[], metavar="RULE",
                     help="what it may not do, e.g. 'agent.spawn:*'")  # fmt: skip
    run.add_argument("--env", action="append", default=[], metavar="NAME=VALUE")
    run.add_argument("--model", help="model for its calls: a name or a GGUF file")
    run.add_argument("--json", action="store_true", help="print pids or exit states as JSON")
    run.set_defaults(do="cli.run:run", args=[])


def _add_ps(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    ps = commands.add_parser("ps", help="list agents")
    ps.add_argument("-a", "--all", action="store_true", help="the dead, too")
    ps.add_argument("-q", "--quiet", action="store_true", help="pids only")
    ps.add_argument("--json", action="store_true")
    ps.set_defaults(do="cli.ps:ps")
    logs = commands.add_parser("logs", help="show an agent's output")
    logs.add_argument("-f", "--follow", action="store_true", help="until it ends")
    logs.add_argument("ref", metavar="REF", help=REF)
    logs.add_argument("--json", action="store_true", help="one JSON object a line")
    logs.set_defaults(do="cli.ps:logs")
    for action, text in (("kill", "end agents and all they started, now"),
                         ("stop", "ask agents to end, kill them after --grace"),
                         ("pause", "freeze agents, mid-generation too"),
                         ("resume", "let paused agents go on")):  # fmt: skip
        command = commands.add_parser(action, help=text)
        command.add_argument("refs", nargs="+", metavar="REF", help=REF)
        command.add_argument("--json", action="store_true")
        command.set_defaults(do="cli.ps:signal", action=action, grace=10.0)
        if action == "stop":
            command.add_argument("--grace", type=float, default=10.0, metavar="SECONDS")
    renice = commands.add_parser("renice", help="change priority, weight or quotas")
    renice.add_argument("--weight", type=float)
    renice.add_argument("--quota-tokens", type=int, help="0: none")
    renice.add_argument("--quota-cells", type=int, help="0: none")
    renice.add_argument("--nice", type=int)
    renice.add_argument("--class", dest="klass", choices=CLASSES)
    renice.add_argument("refs", nargs="+", metavar="REF", help=REF)
    renice.add_argument("--json", action="store_true")
    renice.set_defaults(do="cli.ps:renice")
    wait = commands.add_parser("wait", help="wait for agents to end")
    wait.add_argument("refs", nargs="+", metavar="REF", help=REF)
    wait.add_argument("--timeout", type=float, metavar="SECONDS")
    wait.add_argument("--json", action="store_true")
    wait.set_defaults(do="cli.ps:wait")


def _add_kernel(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    daemon = commands.add_parser("daemon", help="start, end and look at the kernel")
    daemon.add_argument("action", choices=("up", "down", "restart", "status"))
    daemon.add_argument("--json", action="store_true")
    daemon.set_defaults(do="cli.daemon:daemon", flags=[])
    model = commands.add_parser("model", help="models: what is served, load, unload, tune")
    actions = model.add_subparsers(dest="action", metavar="ACTION", required=True)
    for name, text in (("ls", "list the models that the kernel serves, and those it could"),
                       ("load", "load a model now"),
                       ("unload", "give its memory back")):  # fmt: skip
        action = actions.add_parser(name, help=text)
        if name != "ls":
            action.add_argument("name", metavar="MODEL", help="a name or a GGUF file")
        action.add_argument("--json", action="store_true")
        action.set_defaults(do=f"cli.daemon:model_{name}")
    tune = actions.add_parser(
        "tune",
        help="find the fastest settings for a model on this machine",
        description="Measure thread counts, KV types, batch sizes and weight formats; keep the "
        "fastest that are exact and predict text as well. An interrupted run continues where it "
        "was. See docs/tuning.md.",
    )
    tune.add_argument("name", nargs="?", default="default", metavar="MODEL")
    tune.add_argument("--reset", action="store_true", help="remove all results")
    tune.add_argument(
        "--perplexity",
        type=float,
        default=1.0,
        metavar="PERCENT",
        help="limit on the perplexity in excess of the original's (1)",
    )
    tune.add_argument("--seats", type=int, default=8)
    tune.add_argument("--json", action="store_true")
    tune.set_defaults(do="cli.daemon:model_tune")
    trace = commands.add_parser("trace", help="what ran when: a Chrome or Perfetto trace")
    trace.add_argument("action", choices=("export",))
    trace.add_argument("--output", metavar="FILE", help="instead of standard output")
    trace.add_argument("--json", action="store_true", help=ALWAYS_JSON)
    trace.set_defaults(do="cli.trace:export")
    sched = commands.add_parser("sched", help="show or set the scheduler")
    sched.add_argument("action", choices=("show", "set"))
    sched.add_argument("policy", nargs="?")
    sched.add_argument("--quantum", type=int, metavar="TOKENS", help="0: as measured")
    sched.add_argument("--chunk", type=int, metavar="TOKENS", help="of prompt; 0: as measured")
    sched.add_argument("--width", type=int, metavar="REQUESTS", help="per batch")
    sched.add_argument("--json", action="store_true")
    sched.set_defaults(do="cli.daemon:sched")
    call = commands.add_parser("call", help="make any system call as the operator")
    call.add_argument("--list", action="store_true", help="list all calls")
    call.add_argument("name", nargs="?")
    call.add_argument("body", nargs="?", default="{}", metavar="JSON")
    call.add_argument("--json", action="store_true", help=f"{ALWAYS_JSON}, but with --list")
    call.set_defaults(do="cli.daemon:call")


def _add_memory(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    memory = commands.add_parser("memory", help="notes of agents: list, search, add, remove, check")
    actions = memory.add_subparsers(dest="action", metavar="ACTION", required=True)
    scope = "session:PID, agent:NAME or shared:NAME"

    def action(name: str, text: str) -> argparse.ArgumentParser:
        made = actions.add_parser(name, help=text)
        made.add_argument("--json", action="store_true")
        made.set_defaults(do=f"cli.memory:{name}")
        return made

    ls = action("ls", "list scopes, or the notes of one")
    ls.add_argument("scope", nargs="?", metavar="SCOPE", help=scope)
    ls.add_argument("--log", action="store_true", help="the interaction log instead")
    ls.add_argument("--limit", type=_at_least_one, default=100, metavar="N", help="how many (100)")
    search = action("search", "find notes by words and meaning")
    search.add_argument("query", metavar="TEXT")
    search.add_argument("--scope", action="append", required=True, help=f"{scope}; repeatable")
    search.add_argument("-k", type=int, default=5, metavar="N", help="how many (5)")
    search.add_argument("--mode", choices=("auto", "keyword", "semantic", "mixed"), default="auto")
    search.add_argument("--log", action="store_true", help="the interaction log, too")
    action("get", "show a note").add_argument("id", metavar="ID")
    add = action("add", "add a note")
    add.add_argument("scope", metavar="SCOPE", help=scope)
    add.add_argument("text", metavar="TEXT")
    rm = action("rm", "remove notes")
    rm.add_argument("ids", nargs="*", metavar="ID")
    rm.add_argument("--scope", help=f"all notes of {scope}")
    action("check", "read all lasting notes and say what is damaged")
    backup = action("backup", "copy all lasting notes to a new file")
    backup.add_argument("file", metavar="FILE")
    restore = action("restore", "put such a copy in the place of all lasting notes (kernel down)")
    restore.add_argument("file", metavar="FILE")


def _at_least_one(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


def _add_access(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    raw = argparse.RawDescriptionHelpFormatter
    text = "rights: groups, grants, and why something is allowed"
    perm = commands.add_parser("perm", help=text, epilog=RULES, formatter_class=raw)
    actions = perm.add_subparsers(dest="action", metavar="ACTION", required=True)
    for name, text in (("ls", "groups with their rules, and grants"),
                       ("grant", "give a right, durably"),
                       ("revoke", "take a grant back"),
                       ("explain", "which rule decides about an operation"),
                       ("reload", "read the policy file again")):  # fmt: skip
        action = actions.add_parser(name, help=text, epilog=RULES, formatter_class=raw)
        if name == "grant":
            action.add_argument("subject", metavar="AGENT|@GROUP", help="a name, perhaps with *")
            action.add_argument("rule", metavar="RULE")
        elif name == "revoke":
            action.add_argument("grant", nargs="+", metavar="ID | AGENT RULE")
        elif name == "explain":
            action.add_argument("subject", metavar="REF|@GROUP", help=REF)
            action.add_argument("operation", metavar="KIND.ACTION:NAME")
            action.add_argument("--effect", choices=EFFECTS, default="read")
        action.add_argument("--json", action="store_true")
        action.set_defaults(do=f"cli.access:perm_{name}")
    asked = commands.add_parser("approvals", help="what agents have asked leave for")
    actions = asked.add_subparsers(dest="action", metavar="ACTION", required=True)
    for name, text in (("ls", "list the questions"),
                       ("approve", "allow an operation once"),
                       ("deny", "do not allow it")):  # fmt: skip
        action = actions.add_parser(name, help=text)
        action.set_defaults(do="cli.access:approvals_ls")
        if name != "ls":
            action.add_argument("ids", nargs="+", metavar="ID")
            action.set_defaults(do="cli.access:approvals_answer")
        action.add_argument("--json", action="store_true")


def _add_tools(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    tool = commands.add_parser("tool", help="tools: what there is, call, add, remove, keys")
    actions = tool.add_subparsers(dest="action", metavar="ACTION", required=True)
    for name, text in (("ls", "list the tools"),
                       ("show", "a tool's description, schema and limits"),
                       ("call", "call a tool as the operator"),
                       ("add", "add a Python file's @aios.tool functions, or an OpenAPI document"),
                       ("rm", "remove a file or an API"),
                       ("secret", "keep a key from standard input; --forget it")):  # fmt: skip
        action = actions.add_parser(name, help=text)
        if name != "ls":
            action.add_argument("name", metavar="NAME")
        if name == "call":
            action.add_argument("arguments", nargs="?", default="{}", metavar="JSON",
                                help="for example '{\"expression\": \"6*7\"}'")  # fmt: skip
            action.add_argument("--timeout", type=float, metavar="SECONDS")
        if name == "add":
            action.add_argument("path", metavar="FILE",
                                help="a .py, or an OpenAPI document in JSON or YAML")  # fmt: skip
            action.add_argument(
                "--url", default="", help="the API's address, if not the document's"
            )
            action.add_argument("--secret", default="", metavar="NAME", help="the key it is sent")
            action.add_argument("--trust-hints", action="store_true",
                                help="believe that GET changes nothing")  # fmt: skip
        if name == "secret":
            action.add_argument("--forget", action="store_true")
        action.add_argument("--json", action="store_true")
        action.set_defaults(do=f"cli.tool:{name}")
    _add_mcp(commands)


def _add_mcp(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    mcp = commands.add_parser("mcp", help="MCP servers: add, ls, rm, call, approve")
    actions = mcp.add_subparsers(dest="action", metavar="ACTION", required=True)
    for name, text in (("add", "add a server, and approve its tools as they are"),
                       ("ls", "list the servers, their state and tools"),
                       ("rm", "remove a server"),
                       ("call", "call a server's tool as the operator"),
                       ("approve", "allow a server's tools as they are now")):  # fmt: skip
        action = actions.add_parser(name, help=text)
        if name != "ls":
            action.add_argument("name", metavar="NAME")
        if name == "add":
            action.usage = "aios mcp add NAME [OPTIONS] [-- COMMAND ARGUMENT ...]"
            action.add_argument("words", nargs="*", default=[], help=argparse.SUPPRESS)
            action.add_argument("--url", help="of a streamable HTTP server")
            action.add_argument("--env", action="append", default=[], metavar="NAME=VALUE",
                                help="VALUE may be ${secret:NAME}")  # fmt: skip
            action.add_argument("--header", action="append", default=[], metavar="NAME=VALUE")
            action.add_argument("--from", dest="file", metavar="FILE",
                                help="take NAME from a file of mcpServers JSON")  # fmt: skip
            action.add_argument("--trust-hints", action="store_true",
                                help="believe what it says of its tools' effects")  # fmt: skip
        if name == "call":
            action.add_argument("tool", metavar="TOOL")
            action.add_argument("arguments", nargs="?", default="{}", metavar="JSON")
            action.add_argument("--timeout", type=float, metavar="SECONDS")
        action.add_argument("--json", action="store_true")
        action.set_defaults(do=f"cli.mcp:{name}")


def version(options: argparse.Namespace) -> int:
    """The installed version."""
    from importlib.metadata import version as installed

    number = installed("aiosd")
    out.as_json({"version": number}) if options.json else print(f"aios {number}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """The console script ``aios``."""
    _open_standard()
    words = list(sys.argv[1:] if argv is None else argv)
    options = argparse.Namespace(command=None)
    try:
        if words[:1] == ["config"]:
            parts.become("aios.kernel.daemon", *words)
        if words[:1] == ["bench"]:
            parts.become("aios.bench", *words[1:])
        if words[:1] == ["audit"]:
            parts.become("aios.kernel.access.audit.view", *words[1:])
        options = _parse(words)
        module, _, function = options.do.partition(":")
        code = int(getattr(importlib.import_module(f"aios.{module}"), function)(options))
        sys.stdout.flush()
        return code
    except AiosError as error:
        out.complain(error)
        return 1
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 141
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        if error.filename is None:
            out.complain(f"cannot write the output: {error.strerror}", "write it elsewhere")
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # nor is it tried again at the end
        else:
            out.complain(f"{error.filename}: {error.strerror}")
        return 125 if options.command == "run" else 1


def _open_standard() -> None:
    """A standard stream that was closed goes nowhere, instead of into what is opened next."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(fd, True)
    os.close(fd)
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115  until the end
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115  until the end


def _parse(words: list[str]) -> argparse.Namespace:
    """Parse a command. ``daemon up`` passes unknown flags to the kernel; elsewhere they are errors.

    What follows ``--`` of ``run`` and ``mcp add`` is another program's, in ``args``.
    """
    extra: list[str] = []
    if (words[:1] == ["run"] or words[:2] == ["mcp", "add"]) and "--" in words:
        cut = words.index("--")
        words, extra = words[:cut], words[cut + 1 :]
    if words[:1] != ["daemon"]:
        options = parser().parse_args(words)
        options.args = extra
        return options
    options, flags = parser().parse_known_args(words)
    if flags and options.action not in ("up", "restart"):
        parser().error(f"unrecognized arguments: {' '.join(flags)}")
    options.flags = flags
    return options

